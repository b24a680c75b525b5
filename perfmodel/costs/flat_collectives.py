"""Time of collectives around all tiers of a fabric at once [s]: rings and trees that pass every unit."""

from collections.abc import Sequence

import numpy as np

from perfmodel.arrays import Array, Floats, as_floats
from perfmodel.costs.collective_tiers import links_of
from perfmodel.costs.registry import formula


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
