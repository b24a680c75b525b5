"""How uneven expert-parallel ranks are: the busiest one's load after balancing [1], and waits for the last one [s]."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula
from perfmodel.costs.routing import largest_of


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
    spread = as_floats(slot_spread) * np.sqrt(n / np.maximum(as_floats(slots), n))
    return 1.0 + as_floats(largest_of(n)) * spread


@formula(
    name="rank_wait",
    quantity="time",
    equation=r"t = t_w\, \frac{z_n}{z_m}, \quad z_n = \Phi^{-1}\left(\frac{8 n - 3}{8 n + 2}\right)",
    source="derived: last of n normal arrivals, Blom 1958; the wait as measured by whom the engine's profile names",
)
def rank_wait(ranks: Floats, *, wait_s: Floats, measured_ranks: Floats) -> Floats:
    r"""Time that the ranks of an exchange wait for the last of them, which no size of the exchange decides.

    .. math:: t = t_w\, \frac{z_n}{z_m}, \qquad z_n = \Phi^{-1}\left(\frac{8 n - 3}{8 n + 2}\right)

    Parameters
    ----------
    ranks : float or array
        Members n of the group.
    wait_s : float or array
        Wait t_w that was measured [s].
    measured_ranks : float or array
        Ranks m among which it was measured, at least 2.

    Returns
    -------
    float or array
        Time, zero for one rank [s].

    References
    ----------
    Blom 1958, Statistical Estimates and Transformed Beta Variables: expected largest of n normal variables.
    Zuo et al. 2025, arXiv:2506.12708, figure 21b: gating in prefill takes 3.6 ms for all tokens of a step, and 3.7 to
    4.0 ms for half of them. DeepSeek 2025, profile-data: kernels that only wait for the counts of other ranks.

    Examples
    --------
    >>> [round(1e3 * float(rank_wait(ranks, wait_s=2e-3, measured_ranks=64)), 2) for ranks in (1, 32, 64)]
    [0.0, 1.77, 2.0]
    """
    n, m = (np.maximum(as_floats(each), 1.0) for each in (ranks, measured_ranks))
    return as_floats(wait_s) * as_floats(largest_of(n) / largest_of(m))
