"""Time of collectives over several tiers of a fabric [s]: tier after tier."""

from collections.abc import Sequence

import numpy as np

from perfmodel.arrays import Array, Floats, as_floats
from perfmodel.costs.collectives import in_switch_all_reduce, ring_all_gather
from perfmodel.costs.registry import formula

_SCATTER_EQUATION = (
    r"t = \sum_i \left[(g_i-1)\alpha_i + \frac{g_i-1}{g_i}\frac{S}{B_i c_{i-1}}\right], \quad c_{-1} = 1"
)
_SOURCE = "Cho, Finkler, Kung, Hunter 2019, BlueConnect: Decomposing All-Reduce for Deep Learning"


def links_of(ranks_per_tier: Sequence[Floats], carriers: Sequence[Floats] | None) -> list[Array]:
    """Members that carry what enters a tier from inside: one, then those of the emptiest unit of the tier before.

    Parameters
    ----------
    ranks_per_tier : sequence of float or array
        Members inside a tier-0 unit, groups of those in a tier-1 unit, and so on.
    carriers : sequence of float or array, optional
        Members in the emptiest unit of every tier; by default all units are equally full.

    Returns
    -------
    list of array
        One for every tier.
    """
    inside: Array = as_floats(1.0)
    links = [inside]
    for tier, parts in enumerate(ranks_per_tier[:-1]):
        inside = inside * as_floats(parts) if carriers is None else as_floats(carriers[tier])
        links.append(inside)
    return links


@formula(
    name="hierarchical_reduce_scatter", quantity="time", equation=_SCATTER_EQUATION, source=f"{_SOURCE} (first half)"
)
def hierarchical_reduce_scatter(
    nbytes: Floats,
    ranks_per_tier: Sequence[Floats],
    *,
    bandwidths: Sequence[Floats],
    latencies: Sequence[Floats],
    carriers: Sequence[Floats] | None = None,
) -> Floats:
    r"""Time of a reduce-scatter, tier after tier from the inside: every tier leaves less for the next.

    .. math:: t = \sum_i \left[(g_i-1)\alpha_i + \frac{g_i-1}{g_i}\frac{S}{B_i c_{i-1}}\right]

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
    carriers : sequence of float or array, optional
        Members c in the emptiest unit of every tier, over whose links its part leaves; by default units are full.

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
    total = as_floats(0.0)
    links = links_of(ranks_per_tier, carriers)
    for members, link, bandwidth, latency in zip(ranks_per_tier, links, bandwidths, latencies, strict=True):
        total = total + ring_all_gather(as_floats(nbytes) / link, members, bandwidth=bandwidth, latency=latency)
    return total[()]


@formula(name="hierarchical_all_gather", quantity="time", equation=_SCATTER_EQUATION, source=f"{_SOURCE} (second half)")
def hierarchical_all_gather(
    nbytes: Floats,
    ranks_per_tier: Sequence[Floats],
    *,
    bandwidths: Sequence[Floats],
    latencies: Sequence[Floats],
    carriers: Sequence[Floats] | None = None,
) -> Floats:
    r"""Time of an all-gather, tier after tier from the outside: the mirror of the reduce-scatter.

    .. math:: t = \sum_i \left[(g_i-1)\alpha_i + \frac{g_i-1}{g_i}\frac{S}{B_i c_{i-1}}\right]

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
    carriers : sequence of float or array, optional
        Members c in the emptiest unit of every tier; by default units are full.

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
    return hierarchical_reduce_scatter(
        nbytes, ranks_per_tier, bandwidths=bandwidths, latencies=latencies, carriers=carriers
    )


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
    carriers: Sequence[Floats] | None = None,
    reducing: Sequence[bool] = (),
) -> Floats:
    r"""Time of an all-reduce over tiers: reduce-scatter outwards, all-gather back.

    .. math:: t = 2\sum_i \left[(g_i-1)\alpha_i + \frac{g_i-1}{g_i}\frac{S}{B_i c_{i-1}}\right]

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
    carriers : sequence of float or array, optional
        Members c in the emptiest unit of every tier; by default units are full.
    reducing : sequence of bool, optional
        Whether the switches of a tier can add; the outermost tier that the group spans uses them where that is faster.

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
    adding = reducing or [False] * len(ranks_per_tier)
    total, further = as_floats(0.0), as_floats(1.0)
    tiers = zip(ranks_per_tier, links_of(ranks_per_tier, carriers), bandwidths, latencies, adding, strict=True)
    for members, link, bandwidth, latency, adds in reversed(list(tiers)):
        part = as_floats(nbytes) / link
        phase = 2.0 * as_floats(ring_all_gather(part, members, bandwidth=bandwidth, latency=latency))
        if adds:
            switched = in_switch_all_reduce(part, members, bandwidth=bandwidth, latency=latency)
            phase = np.where(further <= 1.0, np.minimum(phase, switched), phase)
        further = further * as_floats(members)
        total = total + phase
    return total[()]
