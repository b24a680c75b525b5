"""Time of all-to-all over several tiers of a fabric [s]: every pair by itself, or gathered inside a unit first."""

from collections.abc import Sequence

import numpy as np

from perfmodel.arrays import Array, Floats, as_floats
from perfmodel.costs.collective_tiers import links_of
from perfmodel.costs.registry import formula


def _members(ranks_per_tier: Sequence[Floats], ranks: "Floats | None") -> Array:
    total: Array = as_floats(1.0)
    for parts in ranks_per_tier:
        total = total * as_floats(parts)
    return total if ranks is None else as_floats(ranks)


@formula(
    name="flat_all_to_all",
    quantity="time",
    equation=(
        r"t = \sum_i (P_i - P_{i-1})\alpha_i + \max_i \frac{V_i}{B_i},"
        r" \quad V_0 = \frac{g_0-1}{n} S, \quad V_{i>0} = \frac{n-c_{i-1}}{n} S, \quad P_i = \prod_{j \le i} g_j"
    ),
    source="derived from the bytes that cross every tier; pairwise exchange of Thakur, Rabenseifner, Gropp 2005",
)
def flat_all_to_all(
    nbytes: Floats,
    ranks_per_tier: Sequence[Floats],
    *,
    bandwidths: Sequence[Floats],
    latencies: Sequence[Floats],
    carriers: Sequence[Floats] | None = None,
    ranks: "Floats | None" = None,
) -> Floats:
    r"""Time of an all-to-all in which every rank sends every other one its part: the busiest tier decides.

    .. math::
       t = \sum_i (P_i - P_{i-1})\alpha_i + \max_i \frac{V_i}{B_i}, \qquad V_0 = \frac{g_0-1}{n} S,
       \quad V_{i>0} = \frac{n - c_{i-1}}{n} S, \quad P_i = \prod_{j \le i} g_j

    Parameters
    ----------
    nbytes : float or array
        Bytes that one rank holds; a part of n stays [B].
    ranks_per_tier : sequence of float or array
        Members g inside a tier-0 unit, groups of those in a tier-1 unit, and so on.
    bandwidths : sequence of float or array
        One-way bandwidth per device of every tier [B/s].
    latencies : sequence of float or array
        Time of an empty message on every tier [s].
    carriers : sequence of float or array, optional
        Members c in the emptiest unit of every tier; by default units are full.
    ranks : float or array, optional
        Members n where units are not full.

    Returns
    -------
    float or array
        Time with all tiers at work at once [s].

    Notes
    -----
    Bytes for another unit leave through the outer tier and do not load tier 0; everything that goes further
    out crosses all tiers in between.

    References
    ----------
    Derived; Thakur, Rabenseifner, Gropp 2005 for one tier.

    Examples
    --------
    >>> t = flat_all_to_all(8e9, [8, 4], bandwidths=[400e9, 50e9], latencies=[0.0, 0.0])
    >>> round(float(t), 6)
    0.12
    """
    size, total = as_floats(nbytes), _members(ranks_per_tier, ranks)
    reached: Array = as_floats(1.0)
    wait: Array = as_floats(0.0)
    busy: Array = as_floats(0.0)
    tiers = zip(ranks_per_tier, links_of(ranks_per_tier, carriers), bandwidths, latencies, strict=True)
    for tier, (parts, link, bandwidth, latency) in enumerate(tiers):
        group = as_floats(parts)
        leaving = group - 1.0 if tier == 0 else np.where(group > 1.0, total - link, 0.0)
        busy = np.maximum(busy, leaving / total * size / as_floats(bandwidth))
        wait = wait + (group - 1.0) * reached * as_floats(latency)
        reached = reached * group
    return (wait + busy)[()]


@formula(
    name="two_level_all_to_all",
    quantity="time",
    equation=(
        r"t = \sum_i \left[(g_i - 1)\alpha_i + \frac{V_i}{B_i}\right] + \frac{4 S}{\beta},"
        r" \quad V_0 = \frac{g_0-1}{g_0} S, \quad V_{i>0} = \frac{n-c_{i-1}}{n} S"
    ),
    source="Hwang et al. 2022, Tutel: Adaptive Mixture-of-Experts at Scale (arXiv:2206.03382), section 3",
)
def two_level_all_to_all(
    nbytes: Floats,
    ranks_per_tier: Sequence[Floats],
    *,
    bandwidths: Sequence[Floats],
    latencies: Sequence[Floats],
    memory_bandwidth: Floats = np.inf,
    carriers: Sequence[Floats] | None = None,
    ranks: "Floats | None" = None,
) -> Floats:
    r"""Time of an all-to-all that first gathers, inside a unit, all that goes to one other unit (2DH of Tutel).

    .. math::
       t = \sum_i \left[(g_i - 1)\alpha_i + \frac{V_i}{B_i}\right] + \frac{4 S}{\beta}, \qquad
       V_0 = \frac{g_0-1}{g_0} S, \quad V_{i>0} = \frac{n - c_{i-1}}{n} S

    Parameters
    ----------
    nbytes : float or array
        Bytes that one rank holds; a part of n stays [B].
    ranks_per_tier : sequence of float or array
        Members g inside a tier-0 unit, groups of those in a tier-1 unit, and so on.
    bandwidths : sequence of float or array
        One-way bandwidth per device of every tier [B/s].
    latencies : sequence of float or array
        Time of an empty message on every tier [s].
    memory_bandwidth : float or array
        Device memory, through which the buffer is sorted twice, read and written each time [B/s].
    carriers : sequence of float or array, optional
        Members c in the emptiest unit of every tier; by default units are full.
    ranks : float or array, optional
        Members n where units are not full.

    Returns
    -------
    float or array
        Time, one phase after the other [s].

    Notes
    -----
    A rank sends g_0 - 1 + g_1 - 1 messages of S / g_0 and S g_0 / n instead of n - 1 of S / n. Inside one unit there is
    nothing to sort, and the form is that of a pairwise exchange.

    References
    ----------
    Hwang et al. 2022, arXiv:2206.03382, section 3.

    Examples
    --------
    256 nodes of eight, 1 MiB per rank: 280 small messages instead of 2047.

    >>> far = {"bandwidths": [240e9, 25e9], "latencies": [3e-6, 14e-6]}
    >>> t = two_level_all_to_all(2**20, [8, 256], memory_bandwidth=2e12, **far)
    >>> round(float(t) * 1e3, 2), round(float(flat_all_to_all(2**20, [8, 256], **far)) * 1e3, 2)
    (3.64, 28.62)
    """
    size, total = as_floats(nbytes), _members(ranks_per_tier, ranks)
    spent: Array = as_floats(0.0)
    outside: Array = as_floats(0.0)
    tiers = zip(ranks_per_tier, links_of(ranks_per_tier, carriers), bandwidths, latencies, strict=True)
    for tier, (parts, link, bandwidth, latency) in enumerate(tiers):
        group = as_floats(parts)
        moved = (group - 1.0) / group if tier == 0 else np.where(group > 1.0, (total - link) / total, 0.0)
        spent = spent + (group - 1.0) * as_floats(latency) + moved * size / as_floats(bandwidth)
        outside = np.maximum(outside, np.where(group > 1.0, 1.0, 0.0)) if tier else outside
    return (spent + outside * 4.0 * size / as_floats(memory_bandwidth))[()]
