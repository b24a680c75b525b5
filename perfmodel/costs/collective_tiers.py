"""Time of collectives over several tiers of a fabric [s]: inside the scale-up domain, then across it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.collectives import pairwise_all_to_all, ring_all_gather
from perfmodel.costs.registry import formula

Array = npt.NDArray[np.float64]

_SCATTER_EQUATION = r"t = \sum_i \left[(g_i-1)\alpha_i + \frac{g_i-1}{g_i}\frac{S}{B_i \prod_{j<i} g_j}\right]"
_SOURCE = "Cho, Finkler, Kung, Hunter 2019, BlueConnect: Decomposing All-Reduce for Deep Learning"


@formula(
    name="hierarchical_reduce_scatter", quantity="time", equation=_SCATTER_EQUATION, source=f"{_SOURCE} (first half)"
)
def hierarchical_reduce_scatter(
    nbytes: Floats,
    ranks_per_tier: Sequence[Floats],
    *,
    bandwidths: Sequence[Floats],
    latencies: Sequence[Floats],
) -> Floats:
    r"""Time of a reduce-scatter, tier after tier from the inside: every tier leaves less for the next.

    .. math:: t = \sum_i \left[(g_i-1)\alpha_i + \frac{g_i-1}{g_i}\frac{S}{B_i \prod_{j<i} g_j}\right]

    Parameters
    ----------
    nbytes : float or array
        Input vector of every rank [B].
    ranks_per_tier : sequence of float or array
        Members g inside a tier-0 unit, groups of those in a tier-1 unit, and so on; the group has their product.
    bandwidths : sequence of float or array
        One-way bandwidth per device of every tier [B/s].
    latencies : sequence of float or array
        Time of an empty step of every tier [s].

    Returns
    -------
    float or array
        Time with nothing overlapped between tiers [s].

    Notes
    -----
    The largest of the terms is the bound when all tiers work on different chunks at once.

    References
    ----------
    Cho, Finkler, Kung, Hunter 2019.

    Examples
    --------
    >>> t = hierarchical_reduce_scatter(8e9, [8, 4], bandwidths=[400e9, 50e9], latencies=[0.0, 0.0])
    >>> round(float(t), 6)
    0.0325
    """
    size, total = as_floats(nbytes), as_floats(0.0)
    for members, bandwidth, latency in zip(ranks_per_tier, bandwidths, latencies, strict=True):
        total = total + ring_all_gather(size, members, bandwidth=bandwidth, latency=latency)
        size = size / as_floats(members)
    return total[()]


@formula(name="hierarchical_all_gather", quantity="time", equation=_SCATTER_EQUATION, source=f"{_SOURCE} (second half)")
def hierarchical_all_gather(
    nbytes: Floats,
    ranks_per_tier: Sequence[Floats],
    *,
    bandwidths: Sequence[Floats],
    latencies: Sequence[Floats],
) -> Floats:
    r"""Time of an all-gather, tier after tier from the outside: the mirror of the reduce-scatter.

    .. math:: t = \sum_i \left[(g_i-1)\alpha_i + \frac{g_i-1}{g_i}\frac{S}{B_i \prod_{j<i} g_j}\right]

    Parameters
    ----------
    nbytes : float or array
        Gathered result [B].
    ranks_per_tier : sequence of float or array
        Members g inside a tier-0 unit, groups of those in a tier-1 unit, and so on.
    bandwidths : sequence of float or array
        One-way bandwidth per device of every tier [B/s].
    latencies : sequence of float or array
        Time of an empty step of every tier [s].

    Returns
    -------
    float or array
        Time with nothing overlapped between tiers [s].

    References
    ----------
    Cho, Finkler, Kung, Hunter 2019.

    Examples
    --------
    >>> t = hierarchical_all_gather(8e9, [8, 4], bandwidths=[400e9, 50e9], latencies=[0.0, 0.0])
    >>> round(float(t), 6)
    0.0325
    """
    return hierarchical_reduce_scatter(nbytes, ranks_per_tier, bandwidths=bandwidths, latencies=latencies)


@formula(
    name="hierarchical_all_reduce",
    quantity="time",
    equation=r"t = t_{\rm reduce-scatter} + t_{\rm all-gather}",
    source=_SOURCE,
)
def hierarchical_all_reduce(
    nbytes: Floats,
    ranks_per_tier: Sequence[Floats],
    *,
    bandwidths: Sequence[Floats],
    latencies: Sequence[Floats],
) -> Floats:
    r"""Time of an all-reduce over tiers: reduce-scatter outwards, all-gather back.

    .. math:: t = 2\sum_i \left[(g_i-1)\alpha_i + \frac{g_i-1}{g_i}\frac{S}{B_i \prod_{j<i} g_j}\right]

    Parameters
    ----------
    nbytes : float or array
        Reduced vector [B].
    ranks_per_tier : sequence of float or array
        Members g inside a tier-0 unit, groups of those in a tier-1 unit, and so on.
    bandwidths : sequence of float or array
        One-way bandwidth per device of every tier [B/s].
    latencies : sequence of float or array
        Time of an empty step of every tier [s].

    Returns
    -------
    float or array
        Time with nothing overlapped between tiers [s].

    Notes
    -----
    Libraries pipeline the tiers: for 32 B200 over 8 x 50 GB/s and 4 GiB, the sum is 26 ms, the
    slowest tier alone 16 ms and the measurement 22 ms.

    References
    ----------
    Cho, Finkler, Kung, Hunter 2019.

    Examples
    --------
    >>> t = hierarchical_all_reduce(8e9, [8, 4], bandwidths=[400e9, 50e9], latencies=[0.0, 0.0])
    >>> round(float(t), 6)
    0.065
    """
    scatter = hierarchical_reduce_scatter(nbytes, ranks_per_tier, bandwidths=bandwidths, latencies=latencies)
    gather = hierarchical_all_gather(nbytes, ranks_per_tier, bandwidths=bandwidths, latencies=latencies)
    return (as_floats(scatter) + gather)[()]


@formula(
    name="hierarchical_all_to_all",
    quantity="time",
    equation=(
        r"t = \sum_i (g_i-1)\alpha_i + \max_i \frac{V_i}{B_i},"
        r" \quad V_0 = \frac{g_0-1}{n} S, \quad V_{i>0} = \frac{n-P_{i-1}}{n} S"
    ),
    source="derived from the bytes that cross every tier; DeepSeek-V3 technical report 2024",
)
def hierarchical_all_to_all(
    nbytes: Floats,
    ranks_per_tier: Sequence[Floats],
    *,
    bandwidths: Sequence[Floats],
    latencies: Sequence[Floats],
) -> Floats:
    r"""Time of an all-to-all over tiers: the tier that its bytes keep busy longest decides.

    .. math::
       t = \sum_i (g_i-1)\alpha_i + \max_i \frac{V_i}{B_i}, \qquad V_0 = \frac{g_0-1}{n} S,
       \quad V_{i>0} = \frac{n - P_{i-1}}{n} S, \quad P_i = \prod_{j \le i} g_j

    Parameters
    ----------
    nbytes : float or array
        Bytes that one rank holds; a part of n stays [B].
    ranks_per_tier : sequence of float or array
        Members g inside a tier-0 unit, groups of those in a tier-1 unit, and so on.
    bandwidths : sequence of float or array
        One-way bandwidth per device of every tier [B/s].
    latencies : sequence of float or array
        Time of an empty step of every tier [s].

    Returns
    -------
    float or array
        Time with all tiers at work at once [s].

    Notes
    -----
    Bytes for another unit leave through the outer tier and do not load tier 0; everything that goes further
    out crosses all tiers in between. Messages for a unit travel together, so a tier costs g-1 latencies.

    References
    ----------
    Derived; compare DeepSeek-V3 technical report 2024.

    Examples
    --------
    >>> t = hierarchical_all_to_all(8e9, [8, 4], bandwidths=[400e9, 50e9], latencies=[0.0, 0.0])
    >>> round(float(t), 6)
    0.12
    """
    size, members = as_floats(nbytes), [as_floats(g) for g in ranks_per_tier]
    ranks: Array = as_floats(1.0)
    for group in members:
        ranks = ranks * group
    inside: Array = as_floats(1.0)
    wait: Array = as_floats(0.0)
    busy: Array = as_floats(0.0)
    for tier, (group, bandwidth, latency) in enumerate(zip(members, bandwidths, latencies, strict=True)):
        leaving = (group - 1.0) / ranks if tier == 0 else (ranks - inside) / ranks
        busy = np.maximum(busy, leaving * size / as_floats(bandwidth))
        wait = wait + pairwise_all_to_all(0.0, group, bandwidth=bandwidth, latency=latency)
        inside = inside * group
    return (wait + busy)[()]
