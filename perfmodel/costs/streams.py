"""Time of layers whose two microbatches alternate: one computes while the other one's tokens travel [s]."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula

SCHEDULES = (
    "derived; the schedules of Zuo et al. 2025, arXiv:2506.12708, sections 4.2.3 and 4.3.2, and of DeepSeek-V3,"
    " arXiv:2412.19437, sections 3.4.1 and 3.4.2"
)


@formula(
    name="alternating_streams",
    quantity="time",
    equation=r"t = \min\left(2 L \max\left(a, b, x\right) + \min(a, b),\; 2 L (a + b)\right)",
    source=SCHEDULES,
)
def alternating_streams(first_s: Floats, second_s: Floats, layers: Floats, *, shared_s: Floats = 0.0) -> Floats:
    r"""Time of layers whose first part runs on one stream and whose second part on another, for two microbatches.

    .. math:: t = \min\left(2 L \max\left(a, b, x\right) + \min(a, b),\; 2 L (a + b)\right)

    While one microbatch is in the second part of a layer, the other is in the first part of it. The busier stream never
    waits once both run; the other one's time shows once, at the end.

    Parameters
    ----------
    first_s, second_s : float or array
        Times a and b of one microbatch in the two parts of a layer [s].
    layers : float or array
        Layers L in a row.
    shared_s : float or array
        Time x of both parts together on units that they share, 0 where each has its own [s].

    Returns
    -------
    float or array
        Time of all layers of both microbatches: at least that of the busier stream, at most that of nothing hidden [s].

    References
    ----------
    Zuo et al. 2025, arXiv:2506.12708, section 4.2.3; DeepSeek-V3, arXiv:2412.19437, section 3.4.2: attention of one
    microbatch beside dispatch, experts and combine of the other.

    Examples
    --------
    Two streams of 600 us each over 58 layers:

    >>> round(float(alternating_streams(600e-6, 600e-6, 58.0)) * 1e3, 1)
    70.2
    """
    a, b = as_floats(first_s), as_floats(second_s)
    slowest = np.maximum(np.maximum(a, b), as_floats(shared_s))
    steps = 2.0 * as_floats(layers)
    return np.minimum(steps * slowest + np.minimum(a, b), steps * (a + b))


@formula(
    name="paired_phases",
    quantity="time",
    equation=r"t = L\left[\max(a, c) + \max(a, d) + \max(e, d) + \max(e, c)\right]",
    source=SCHEDULES,
)
def paired_phases(
    attention_s: Floats, dispatch_s: Floats, experts_s: Floats, combine_s: Floats, layers: Floats
) -> Floats:
    r"""Time of layers in which one microbatch computes while the tokens of the other travel, in four phases.

    .. math:: t = L\left[\max(a, c) + \max(a, d) + \max(e, d) + \max(e, c)\right]

    Attention of the first microbatch runs beside the combine of the second, attention of the second beside the dispatch
    of the first, experts of the first beside the dispatch of the second, and experts of the second beside the combine
    of the first.

    Parameters
    ----------
    attention_s : float or array
        Time a of one microbatch's computation before its tokens travel [s].
    dispatch_s : float or array
        Time d of its dispatch [s].
    experts_s : float or array
        Time e of its experts [s].
    combine_s : float or array
        Time c of its combine [s].
    layers : float or array
        Layers L in a row.

    Returns
    -------
    float or array
        Time of all layers of both microbatches: at least all of the computation or all of the exchange [s].

    References
    ----------
    DeepSeek-V3, arXiv:2412.19437, section 3.4.1; Zuo et al. 2025, arXiv:2506.12708, section 4.3.2.

    Examples
    --------
    >>> float(paired_phases(3.0, 1.0, 2.0, 2.5, 1.0))
    10.5
    """
    a, d, e, c = (as_floats(x) for x in (attention_s, dispatch_s, experts_s, combine_s))
    phases: Floats = np.maximum(a, c) + np.maximum(a, d) + np.maximum(e, d) + np.maximum(e, c)
    return as_floats(layers) * phases
