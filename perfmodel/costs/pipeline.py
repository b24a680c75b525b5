"""Pipeline bubbles: the share of a pipelined step in which a stage waits."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula


@formula(
    name="bubble_ratio",
    quantity="fraction",
    equation=r"\beta = \frac{p - 1}{v\,m}",
    source="Narayanan et al. 2021 (arXiv:2104.04473), section 2.2; GPipe (arXiv:1811.06965) counts against the total",
)
def bubble_ratio(stages: Floats, microbatches: Floats, chunks: Floats = 1.0) -> Floats:
    r"""Idle time of a pipeline stage over its busy time.

    .. math:: \beta = \frac{p - 1}{v\,m}

    Parameters
    ----------
    stages : float or array
        Pipeline stages p.
    microbatches : float or array
        Microbatches m per step.
    chunks : float or array
        Model chunks v per stage (interleaved schedule); 1 without interleaving.

    Returns
    -------
    float or array
        Idle over busy time; 0 for one stage [1].

    References
    ----------
    Narayanan et al. 2021 (arXiv:2104.04473), section 2.2. GPipe (arXiv:1811.06965) reports the same idle time
    over the total, (p - 1) / (m + p - 1).

    Examples
    --------
    >>> float(bubble_ratio(8, 64)), float(bubble_ratio(8, 64, 4))
    (0.109375, 0.02734375)
    """
    return (as_floats(stages) - 1.0) / (as_floats(chunks) * microbatches)


@formula(
    name="pipelined_time",
    quantity="time",
    equation=r"t = \frac{m + p - 1}{p}\,t_1",
    source="Narayanan et al. 2021 (arXiv:2104.04473), equation 1, forward pass only",
)
def pipelined_time(serial_s: Floats, stages: Floats, microbatches: Floats) -> Floats:
    r"""Time of a forward pass of several microbatches through equal pipeline stages.

    .. math:: t = \frac{m + p - 1}{p}\,t_1

    Parameters
    ----------
    serial_s : float or array
        Time t_1 of one microbatch through all stages [s].
    stages : float or array
        Pipeline stages p.
    microbatches : float or array
        Microbatches m.

    Returns
    -------
    float or array
        Time until the last microbatch leaves the last stage [s].

    References
    ----------
    Narayanan et al. 2021 (arXiv:2104.04473), equation 1, without the backward pass.

    Examples
    --------
    >>> float(pipelined_time(8.0, 4, 1)), float(pipelined_time(8.0, 4, 5))
    (8.0, 16.0)
    """
    p = as_floats(stages)
    return as_floats(serial_s) * (np.asarray(microbatches) + p - 1.0) / p
