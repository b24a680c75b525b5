"""How uneven expert-parallel ranks are: the busiest one's load after balancing [1], and waits for the last one [s]."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula
from perfmodel.costs.routing import normal_quantile


@formula(
    name="busiest_rank",
    quantity="fraction",
    equation=r"\gamma = 1 + z_n\, s \sqrt{\frac{n}{S}}, \quad z_n = \Phi^{-1}\left(\frac{8 n - 3}{8 n + 2}\right)",
    source="derived: largest of n normal loads, Blom 1958, each the mean of S/n places",
)
def busiest_rank(ranks: Floats, slots: Floats, *, slot_spread: Floats) -> Floats:
    r"""Rows of the busiest rank over the mean, where places for experts keep a spread of their loads.

    .. math::
       \gamma = 1 + z_n\, s \sqrt{\frac{n}{S}}, \qquad z_n = \Phi^{-1}\left(\frac{8 n - 3}{8 n + 2}\right)

    Parameters
    ----------
    ranks : float or array
        Expert-parallel ranks n.
    slots : float or array
        Places S for experts on all ranks, copies included.
    slot_spread : float or array
        Standard deviation s of a place's load over its mean [1].

    Returns
    -------
    float or array
        Factor, 1 for one rank [1].

    References
    ----------
    Blom 1958, Statistical Estimates and Transformed Beta Variables: expected largest of n normal variables.
    TensorRT-LLM, examples/ep_load_balancer: DeepSeek-R1 on 36 ranks with 288 places has a standard deviation of 54 in
    1024 tokens per rank, and a busiest rank 11.5 % above the mean.

    Examples
    --------
    >>> spread = 53.976 / 1024 * 8**0.5
    >>> [round(float(busiest_rank(ranks, 288, slot_spread=spread)), 2) for ranks in (36, 288)]
    [1.11, 1.42]
    """
    n = np.maximum(as_floats(ranks), 1.0)
    highest = normal_quantile((n - 0.375) / (n + 0.25))
    spread = as_floats(slot_spread) * np.sqrt(n / np.maximum(as_floats(slots), n))
    return np.where(n > 1.0, 1.0 + highest * spread, 1.0)[()]


@formula(
    name="rank_wait",
    quantity="time",
    equation=r"t = \begin{cases} t_w & n > 1 \\ 0 & n = 1 \end{cases}",
    source="measured by whoever serves so: the engine's profile names the trace or the figure",
)
def rank_wait(ranks: Floats, *, wait_s: Floats) -> Floats:
    r"""Time that the ranks of an exchange wait for the last of them, which no size of the exchange decides.

    .. math:: t = \begin{cases} t_w & n > 1 \\ 0 & n = 1 \end{cases}

    Parameters
    ----------
    ranks : float or array
        Members n of the group.
    wait_s : float or array
        Wait t_w that was measured [s].

    Returns
    -------
    float or array
        Time [s].

    References
    ----------
    Zuo et al. 2025, arXiv:2506.12708, figure 21b: gating in prefill takes 3.6 ms for all tokens of a step, and 3.7 to
    4.0 ms for half of them. DeepSeek 2025, profile-data: kernels that only wait for the counts of other ranks.

    Examples
    --------
    >>> [float(rank_wait(ranks, wait_s=2e-3)) for ranks in (1, 32)]
    [0.0, 0.002]
    """
    return np.where(as_floats(ranks) > 1.0, as_floats(wait_s), 0.0)[()]
