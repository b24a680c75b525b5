"""Time of collectives over several tiers of a fabric [s]: tier after tier, or around all tiers at once."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.collectives import in_switch_all_reduce, ring_all_gather
from perfmodel.costs.registry import formula

Array = npt.NDArray[np.float64]

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


@formula(
    name="flat_ring",
    quantity="time",
    equation=(
        r"t = c\left[\sum_i (g_i - 1)\prod_{j>i} g_j\, \alpha_i + \frac{n-1}{n} S \max_i \frac{1}{c_{i-1} B_i}\right]"
    ),
    source=(
        "Patarasuk, Yuan 2009, Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations; one ring per link"
        " that leaves a unit, as NCCL's channels"
    ),
)
def flat_ring(
    nbytes: Floats,
    ranks_per_tier: Sequence[Floats],
    rounds: Floats = 1.0,
    *,
    bandwidths: Sequence[Floats],
    latencies: Sequence[Floats],
    carriers: Sequence[Floats] | None = None,
) -> Floats:
    r"""Time of rings through all members that pass every unit once, as many rings as links leave a unit.

    .. math::
       t = c\left[\sum_i (g_i - 1)\prod_{j>i} g_j\, \alpha_i
       + \frac{n-1}{n} S \max_i \frac{1}{c_{i-1} B_i}\right]

    Parameters
    ----------
    nbytes : float or array
        Whole buffer S [B].
    ranks_per_tier : sequence of float or array
        Members g inside a tier-0 unit, groups of those in a tier-1 unit, and so on.
    rounds : float or array
        Passes c around the ring: 2 for all-reduce, 1 for all-gather and reduce-scatter.
    bandwidths : sequence of float or array
        One-way bandwidth per device of every tier [B/s].
    latencies : sequence of float or array
        Time of an empty step of every tier [s].
    carriers : sequence of float or array, optional
        Members in the emptiest unit of every tier; by default units are full.

    Returns
    -------
    float or array
        Time, all tiers at work at once; zero for one rank [s].

    Notes
    -----
    Beats the hierarchy for large buffers, because it keeps all tiers busy, and loses to it for small ones, because
    its steps are as many as its members.

    References
    ----------
    Patarasuk, Yuan 2009; NVIDIA NCCL.

    Examples
    --------
    The measurement of `hierarchical_all_reduce` again, 22 ms:

    >>> t = flat_ring(2**32, [8, 4], 2, bandwidths=[740e9, 50e9], latencies=[0.0, 0.0])
    >>> round(float(t) * 1e3, 1)
    20.8
    """
    ranks: Array = as_floats(1.0)
    wait: Array = as_floats(0.0)
    for members, latency in zip(reversed(ranks_per_tier), reversed(latencies), strict=True):
        wait = wait + (as_floats(members) - 1.0) * ranks * as_floats(latency)
        ranks = ranks * as_floats(members)
    busy: Array = as_floats(0.0)
    for members, link, bandwidth in zip(ranks_per_tier, links_of(ranks_per_tier, carriers), bandwidths, strict=True):
        busy = np.maximum(busy, np.where(as_floats(members) > 1.0, 1.0 / (link * as_floats(bandwidth)), 0.0))
    passed = as_floats(rounds) * (ranks - 1.0) / ranks * as_floats(nbytes)
    return (as_floats(rounds) * wait + passed * busy)[()]


@formula(
    name="flat_tree",
    quantity="time",
    equation=(
        r"t = 2\left[(g_0 - 1)\alpha_0 + \sum_{i>0} \lceil\log_2 g_i\rceil \alpha_i"
        r" + S \max_i \frac{1}{c_{i-1} B_i}\right]"
    ),
    source=(
        "Sanders, Speck, Traeff 2009, Two-tree algorithms for full bandwidth broadcast, reduction and scan; chains"
        " inside a unit and double trees between units as in NCCL"
    ),
)
def flat_tree(
    nbytes: Floats,
    ranks_per_tier: Sequence[Floats],
    *,
    bandwidths: Sequence[Floats],
    latencies: Sequence[Floats],
    carriers: Sequence[Floats] | None = None,
) -> Floats:
    r"""Time of an all-reduce along chains inside a unit and double binary trees between units.

    .. math::
       t = 2\left[(g_0 - 1)\alpha_0 + \sum_{i>0} \lceil\log_2 g_i\rceil \alpha_i
       + S \max_i \frac{1}{c_{i-1} B_i}\right]

    Parameters
    ----------
    nbytes : float or array
        Reduced vector S [B].
    ranks_per_tier : sequence of float or array
        Members g inside a tier-0 unit, groups of those in a tier-1 unit, and so on.
    bandwidths : sequence of float or array
        One-way bandwidth per device of every tier [B/s].
    latencies : sequence of float or array
        Time of an empty step of every tier [s].
    carriers : sequence of float or array, optional
        Members in the emptiest unit of every tier; by default units are full.

    Returns
    -------
    float or array
        Time, all tiers at work at once; zero for one rank [s].

    References
    ----------
    Sanders, Speck, Traeff 2009; NVIDIA NCCL.

    Examples
    --------
    >>> t = flat_tree(1e6, [8, 128], bandwidths=[360e9, 47e9], latencies=[1e-6, 5e-6])
    >>> round(float(t) * 1e6, 1)
    89.6
    """
    wait: Array = as_floats(0.0)
    busy: Array = as_floats(0.0)
    tiers = zip(ranks_per_tier, links_of(ranks_per_tier, carriers), bandwidths, latencies, strict=True)
    for tier, (members, link, bandwidth, latency) in enumerate(tiers):
        group = as_floats(members)
        steps = group - 1.0 if tier == 0 else np.ceil(np.log2(np.maximum(group, 1.0)))
        wait = wait + steps * as_floats(latency)
        busy = np.maximum(busy, np.where(group > 1.0, 1.0 / (link * as_floats(bandwidth)), 0.0))
    return (2.0 * wait + 2.0 * as_floats(nbytes) * busy)[()]
