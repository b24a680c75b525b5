"""Time lost to failures of large jobs: mean time between them [s], checkpoint interval [s] and useful share."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula

DEVICE_MTBF_S = 50_700.0 * 3600.0
"""Mean time between job interruptions that one device causes [s].

Grattafiori et al. 2024, The Llama 3 Herd of Models (arXiv:2407.21783), section 3.3.4: 419 unexpected interruptions in
54 days on 16,384 H100.
"""


@formula(
    name="job_mtbf",
    quantity="time",
    equation=r"M = M_1 / N",
    source="Daly 2006 (doi:10.1016/j.future.2004.11.016), section 2: independent failures with a constant rate",
)
def job_mtbf(gpus: Floats, *, device_mtbf_s: Floats = DEVICE_MTBF_S) -> Floats:
    r"""Mean time between interruptions of a job that stops whenever one device does.

    .. math:: M = M_1 / N

    Parameters
    ----------
    gpus : float or array
        Devices N of the job.
    device_mtbf_s : float or array
        Mean time M_1 between interruptions that one device causes [s].

    Returns
    -------
    float or array
        Mean time between interruptions of the job [s].

    References
    ----------
    Daly 2006, Future Generation Computer Systems 22, doi:10.1016/j.future.2004.11.016.

    Examples
    --------
    >>> round(float(job_mtbf(16384)) / 3600, 2)
    3.09
    """
    return as_floats(device_mtbf_s) / gpus


@formula(
    name="checkpoint_interval",
    quantity="time",
    equation=r"\tau = \sqrt{2 \delta M}\left[1 + \tfrac{1}{3}\sqrt{\tfrac{\delta}{2M}}"
    r" + \tfrac{1}{9}\tfrac{\delta}{2M}\right] - \delta",
    source="Daly 2006 (doi:10.1016/j.future.2004.11.016), equation 37; Young 1974 (doi:10.1145/361147.361115)",
)
def checkpoint_interval(checkpoint_s: Floats, mtbf_s: Floats) -> Floats:
    r"""Time between two checkpoints that loses least.

    .. math:: \tau = \sqrt{2 \delta M}\left[1 + \tfrac{1}{3}\sqrt{\tfrac{\delta}{2M}}
              + \tfrac{1}{9}\tfrac{\delta}{2M}\right] - \delta, \qquad \tau = M \text{ for } \delta \ge 2M

    Parameters
    ----------
    checkpoint_s : float or array
        Time delta for which the job stands still to write a checkpoint [s].
    mtbf_s : float or array
        Mean time M between interruptions of the job [s].

    Returns
    -------
    float or array
        Useful time between the end of one checkpoint and the start of the next [s].

    Notes
    -----
    Young's first order is the square root alone.

    References
    ----------
    Daly 2006, doi:10.1016/j.future.2004.11.016, equation 37. Young 1974, doi:10.1145/361147.361115.

    Examples
    --------
    >>> round(float(checkpoint_interval(60.0, 10800.0)) / 60, 1)
    18.3
    """
    cost, mean = as_floats(checkpoint_s), as_floats(mtbf_s)
    ratio = np.minimum(cost / (2.0 * mean), 1.0)
    best = np.sqrt(2.0 * cost * mean) * (1.0 + np.sqrt(ratio) / 3.0 + ratio / 9.0) - cost
    return np.where(cost < 2.0 * mean, best, mean)


@formula(
    name="goodput",
    quantity="fraction",
    equation=r"g = \frac{\tau}{M\,e^{R/M}\left(e^{(\tau + \delta)/M} - 1\right)}",
    source="Daly 2006 (doi:10.1016/j.future.2004.11.016), equation 20",
)
def goodput(interval_s: Floats, checkpoint_s: Floats, restart_s: Floats, mtbf_s: Floats) -> Floats:
    r"""Share of a job's time that advances it, when checkpoints, lost work and restarts are paid.

    .. math:: g = \frac{\tau}{M\,e^{R/M}\left(e^{(\tau + \delta)/M} - 1\right)}

    Parameters
    ----------
    interval_s : float or array
        Useful time tau between checkpoints [s].
    checkpoint_s : float or array
        Time delta of one checkpoint [s].
    restart_s : float or array
        Time R from an interruption until the job computes again [s].
    mtbf_s : float or array
        Mean time M between interruptions of the job [s].

    Returns
    -------
    float or array
        Useful over elapsed time, between 0 and 1 [1].

    References
    ----------
    Daly 2006, doi:10.1016/j.future.2004.11.016, equation 20, inverted.

    Examples
    --------
    >>> round(float(goodput(1098.0, 60.0, 300.0, 10800.0)), 3)
    0.874
    """
    useful, mean = as_floats(interval_s), as_floats(mtbf_s)
    elapsed = mean * np.exp(as_floats(restart_s) / mean) * np.expm1((useful + checkpoint_s) / mean)
    # Checkpoints that cost nothing are written all the time: only restarts are lost.
    return np.where(elapsed > 0.0, useful / np.where(elapsed > 0.0, elapsed, 1.0), np.exp(-as_floats(restart_s) / mean))


@formula(
    name="elastic_goodput",
    quantity="fraction",
    equation=r"g = \max\left(0,\, 1 - \frac{R_p}{M}\,\sigma\right)\,e^{-(R + t/2)/M}",
    source="Kang et al. 2025, ElasWave (arXiv:2510.00606), for what is done; Little's law for the nodes that are away",
)
def elastic_goodput(step_s: Floats, recovery_s: Floats, repair_s: Floats, mtbf_s: Floats, lost: Floats) -> Floats:
    r"""Share of a job's time that advances it when it goes on without the nodes that failed.

    .. math:: g = \max\left(0,\, 1 - \frac{R_p}{M}\,\sigma\right)\,e^{-(R + t/2)/M}

    Parameters
    ----------
    step_s : float or array
        Step t: snapshots in memory are taken once per step, so that half a step is lost on average [s].
    recovery_s : float or array
        Time R from a failure until the job computes again on what is left [s].
    repair_s : float or array
        Time R_p until a failed node is back: :math:`R_p / M` of them are away on average [s].
    mtbf_s : float or array
        Mean time M between interruptions of the job [s].
    lost : float or array
        Part sigma of the job's speed that one failure takes away: a node of all nodes where its work is shared out
        among the others, a replica of all replicas where what it worked with stops.

    Returns
    -------
    float or array
        Useful over elapsed time, between 0 and 1 [1].

    References
    ----------
    Kang et al. 2025, ElasWave (arXiv:2510.00606).

    Examples
    --------
    >>> round(float(elastic_goodput(10.0, 30.0, 4 * 3600.0, 10800.0, 1 / 128)), 4)
    0.9864
    """
    mean = as_floats(mtbf_s)
    speed = np.maximum(1.0 - as_floats(repair_s) / mean * lost, 0.0)
    return speed * np.exp(-(as_floats(recovery_s) + as_floats(step_s) / 2.0) / mean)
