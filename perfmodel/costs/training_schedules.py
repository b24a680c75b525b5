"""Pipeline schedules of training: the time a stage waits [s] and the microbatches whose activations it keeps."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula

SCHEDULES = ("1f1b", "gpipe", "zb-h1", "zb-h2", "dualpipe")
"""Order of microbatches in a pipeline; "1f1b" with several chunks per stage is the interleaved schedule."""

_SOURCES = (
    "Narayanan et al. 2021 (arXiv:2104.04473), section 2.2 (GPipe, 1F1B, interleaved); Qi et al. 2023"
    " (arXiv:2401.10241), table 2 (zero bubble); DeepSeek-V3 technical report 2024 (arXiv:2412.19437), table 2"
)


@formula(
    name="schedule_bubble",
    quantity="time",
    equation=r"t_b = \frac{p-1}{v}(F+B), \quad (p-1)(F+B-2W), \quad (p-1)(F+B-3W), \quad"
    r" \left(\tfrac{p}{2}-1\right)(F + 2B - 3W)",
    source=_SOURCES,
)
def schedule_bubble(
    stages: Floats,
    forward_s: Floats,
    backward_s: Floats,
    weight_s: Floats,
    chunks: Floats = 1.0,
    *,
    schedule: Floats = 0,
) -> Floats:
    r"""Time that a stage of a pipeline of equal stages waits in one step.

    .. math::
       t_b = \frac{p-1}{v}(F+B) \text{ (GPipe, 1F1B, interleaved)}, \quad (p-1)(F+B-2W) \text{ (ZB-H1)}, \quad
       (p-1)(F+B-3W) \text{ (ZB-H2)}, \quad \left(\tfrac{p}{2}-1\right)(F + 2B - 3W) \text{ (DualPipe)}

    Parameters
    ----------
    stages : float or array
        Pipeline stages p.
    forward_s, backward_s : float or array
        Times F and B of one microbatch in one stage, B with its weight gradients [s].
    weight_s : float or array
        Part W of the backward time that computes weight gradients [s].
    chunks : float or array
        Model chunks v per stage; 1 without interleaving.
    schedule : int or array
        Position in `SCHEDULES`.

    Returns
    -------
    float or array
        Idle time, never below zero [s].

    Notes
    -----
    The zero-bubble source counts B without the weight gradients; DualPipe's overlapped forward and backward pass is
    taken to last as long as both.

    References
    ----------
    Narayanan et al. 2021, section 2.2; Qi et al. 2023 (arXiv:2401.10241), table 2; DeepSeek-V3 (arXiv:2412.19437),
    table 2.

    Examples
    --------
    >>> float(schedule_bubble(8, 1.0, 2.0, 1.0)), float(schedule_bubble(8, 1.0, 2.0, 1.0, schedule=2))
    (21.0, 7.0)
    """
    p, f, b, w = as_floats(stages), as_floats(forward_s), as_floats(backward_s), as_floats(weight_s)
    code = as_floats(schedule)
    plain = (p - 1.0) * (f + b) / as_floats(chunks)
    dual = np.maximum(p / 2.0 - 1.0, 0.0) * (f + 2.0 * b - 3.0 * w)
    idle = np.where(code == 3, (p - 1.0) * (f + b - 3.0 * w), dual)
    idle = np.where(code == 2, (p - 1.0) * (f + b - 2.0 * w), idle)
    return np.maximum(np.where(code <= 1, plain, idle), 0.0)


@formula(
    name="visited_stages",
    quantity="count",
    equation=r"p' = p - k\,(p - 1)",
    source="Blagoev, Chen, Ersoy 2025, SkipPipe (arXiv:2502.19913): partial pipelines, the first stage never left out",
)
def visited_stages(stages: Floats, skipped: Floats = 0.0) -> Floats:
    r"""Count the stages that a microbatch passes when it leaves out part of them.

    .. math:: p' = p - k\,(p - 1)

    Parameters
    ----------
    stages : float or array
        Pipeline stages p.
    skipped : float or array
        Part k of the stages behind the first, which holds the embedding, that a microbatch leaves out.

    Returns
    -------
    float or array
        Stages, at least one.

    Notes
    -----
    Paths are taken to be such that every stage gets the same share of the microbatches and none waits for another
    (collision-free): the source's scheduler comes near it by exchanging neighbouring stages.

    References
    ----------
    Blagoev, Chen, Ersoy 2025, SkipPipe: Partial and Reordered Pipelining Framework for Training LLMs in Heterogeneous
    Networks (arXiv:2502.19913).

    Examples
    --------
    >>> float(visited_stages(9, 0.5))
    5.0
    """
    p = as_floats(stages)
    return p - as_floats(skipped) * (p - 1.0)


@formula(
    name="microbatches_in_flight",
    quantity="count",
    equation=r"n_i = \min(m, p - i), \quad \frac{2(p-1-i) + (v-1)p + 1}{v}, \quad m, \quad 2(p-i)-1, \quad p+1",
    source=_SOURCES,
)
def microbatches_in_flight(
    stages: Floats, stage: Floats, microbatches: Floats, chunks: Floats = 1.0, *, schedule: Floats = 0
) -> Floats:
    r"""Count the microbatches whose activations a stage keeps at its peak, in units of a whole stage.

    .. math:: n_i = \min\left(m,\; p - i\right) \text{ (1F1B)}, \quad
              \min\left(m, \tfrac{2(p-1-i) + (v-1)p + 1}{v}\right) \text{ (interleaved)}, \quad m \text{ (GPipe)}

    Parameters
    ----------
    stages : float or array
        Pipeline stages p.
    stage : float or array
        Position i of the stage, 0 for the first.
    microbatches : float or array
        Microbatches m of the step.
    chunks : float or array
        Model chunks v per stage.
    schedule : int or array
        Position in `SCHEDULES`.

    Returns
    -------
    float or array
        Microbatches; a fraction where chunks of a stage are counted.

    Notes
    -----
    For the first stage the interleaved count is :math:`p (1 + (p-1)/(pv))`. ZB-H2 keeps up to 2p - 1, DualPipe p + 1.

    References
    ----------
    Korthikanti et al. 2022 (arXiv:2205.05198), section 4.2.3; Qi et al. 2023, table 2; DeepSeek-V3, table 2.

    Examples
    --------
    >>> float(microbatches_in_flight(8, 0, 64)), float(microbatches_in_flight(8, 0, 64, 3))
    (8.0, 10.333333333333334)
    """
    p, i, m, v = as_floats(stages), as_floats(stage), as_floats(microbatches), as_floats(chunks)
    code = as_floats(schedule)
    left = p - i
    interleaved = (2.0 * (left - 1.0) + (v - 1.0) * p + 1.0) / v
    kept = np.where(code == 4, p + 1.0, np.where(v > 1.0, interleaved, left))
    kept = np.where(code == 3, 2.0 * left - 1.0, kept)
    return np.minimum(np.where(code == 1, m, kept), m)
