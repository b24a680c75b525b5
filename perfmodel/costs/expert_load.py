"""Rows of each expert on the busiest rank of a layer: groups of equal experts from a routing distribution."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.arrays import Array, Floats, as_floats, clipped, common_shape, summed
from perfmodel.costs.routing import imbalance_of, normal_quantile, power_law_of

EDGES = np.array([0.0, 0.2, 0.4, 0.6, 0.77, 0.89, 0.965, 1.0])
"""Edges of the quantile bins in which experts are counted, finer where the heavy experts are."""

_SHARES = np.diff(EDGES)
_MIDDLES = 0.5 * (EDGES[1:] + EDGES[:-1])


@dataclass(frozen=True, slots=True)
class ExpertLoad:
    """How the rows of one rank fall on its experts: groups of experts with equal rows.

    Parameters
    ----------
    rows : array
        Token-expert pairs on the rank.
    active : array
        Experts of the rank that have any.
    tokens : array
        Tokens on the rank: those with at least one expert there.
    group_rows, group_experts : array
        Rows of each expert of a group and number of such experts; groups are the first axis.
    """

    rows: Array
    active: Array
    tokens: Array
    group_rows: Array
    group_experts: Array

    def tiles(self, height: Floats) -> Array:
        """Count row tiles: every expert's rows are padded to whole tiles.

        Parameters
        ----------
        height : float or array
            Rows of one tile; several lie along a first axis.

        Returns
        -------
        numpy.ndarray
            Tiles.
        """
        inverse = 1.0 / as_floats(height)
        # An expert counts as whole rows; 1e-9 keeps an exact multiple from spilling over.
        whole = np.ceil(self.group_rows * (inverse[:, None] if inverse.ndim else inverse) - 1e-9)
        return summed(self.group_experts * np.maximum(whole, 1.0), axis=1 if inverse.ndim else 0)


def expert_load(
    tokens: Floats,
    experts: Floats,
    topk: Floats,
    expert_ranks: Floats = 1.0,
    skew: Floats = 0.0,
    *,
    random: Any = False,
) -> ExpertLoad:
    """Spread the rows of the busiest rank over its experts.

    An even spread gives ``min(E, T k)`` experts the same rows. A skewed one follows `power_law_tokens` in quantile
    bins; the surplus of the busiest rank sits on one expert, as heavy loads do, and rows that an expert cannot take
    (it has at most T) go to all others. Loads below half a row are rounded away and their rows given out one by one.

    Parameters
    ----------
    tokens, experts, topk : float or array
        Tokens before top-k on all ranks, routed experts, experts per token.
    expert_ranks : float or array
        Ranks over which the experts are split.
    skew : float or array
        Exponent of the power law of the loads; 0 is an even spread [1].
    random : bool or array
        Tokens pick independently and uniformly instead.

    Returns
    -------
    ExpertLoad
        Rows, active experts and groups of the busiest rank.

    References
    ----------
    Derived, see `imbalance_factor` and `power_law_tokens`.

    Examples
    --------
    >>> load = expert_load(64, 128, 8, 4)
    >>> float(load.rows), float(load.active), float(load.tiles(16))
    (128.0, 32.0, 32.0)
    """
    given = [as_floats(x) for x in (tokens, experts, topk, expert_ranks, skew)]
    shape = common_shape(*(x.shape for x in given))
    t, e, k, ranks, a = (x if x.shape == shape else np.broadcast_to(x, shape) for x in given)
    chance = np.asarray(random, dtype=bool)
    powered = (a > 0.0) & ~chance
    local, mean, picks = e / ranks, t * k / e, t * k
    row = (-1, *(1,) * t.ndim)
    shares = _SHARES.reshape(row)
    # Mean rows of an expert in every quantile bin, exactly integrated so that the total is right.
    law = power_law_of(t, e, k, a)
    first, last = law.smallest * law.low, law.largest * law.high
    inner = ((law.high - law.low) * EDGES[1:-1].reshape(row) + law.low) ** (1.0 / law.exponent + 1.0)
    edges = np.concatenate([first[None], inner, last[None]])
    bins = (edges[1:] - edges[:-1]) / shares
    bins *= mean / (last - first)
    if chance.any():  # a rare branch that costs time, not a different formula
        spread = np.sqrt(mean * np.maximum(1.0 - k / e, 0.0))
        normal = np.maximum(mean + spread * normal_quantile(_MIDDLES.reshape(row)), 0.0)
        bins = np.where(chance, normal, bins)
    bins = np.where(a + chance > 0.0, bins, mean)
    surplus = summed(np.maximum(bins - t, 0.0) * shares)
    bins = np.minimum(bins + surplus, t)
    # The busiest rank: one expert takes the surplus as far as it can, the others share the rest.
    rows = np.minimum(mean * local * imbalance_of(t, e, k, ranks, a, chance, law), t * np.minimum(k, local))
    rows = np.maximum(rows, np.minimum(1.0, picks))
    single = (ranks > 1.0) & powered
    others = np.where(single, local - 1.0, local)
    top = np.where(single, clipped(rows - others * mean, 0.0, t), 0.0)
    heavy = np.where(top >= 0.5, 1.0, 0.0)
    # An even spread touches as many experts as it has rows; a random one as many as chance says.
    missed = np.maximum(1.0 - k / e, 0.0) ** np.where(chance, t, 1.0)
    touched = np.where(chance, local * (1.0 - missed), np.minimum(local, np.ceil(rows - 1e-9)))
    touched = np.maximum(touched, np.minimum(1.0, rows))
    members = np.where(powered, others, touched)
    bins = np.minimum(bins * ((rows - top) / np.maximum(members * mean, 1e-300)), t)
    # Half a row and more is a row; what is left of a power law's rest is dealt out in single rows.
    bins_experts = members * shares * ((bins >= 0.5) | ~powered)
    bins = np.maximum(bins, 1.0)
    used = summed(bins_experts) + heavy
    left = rows - top - summed(bins_experts * bins)
    ones = np.where(powered, clipped(left, 0.0, np.maximum(local - used, 0.0)), 0.0)
    active = np.maximum(np.minimum(used + ones, local), np.minimum(1.0, rows))
    # Tokens on the rank: a pick lands there with the rank's share of all picks.
    share = np.minimum(rows / np.maximum(picks, 1e-300), 1.0)
    scattered = np.minimum(np.maximum(t * (1.0 - (1.0 - share) ** k), top), t)
    return ExpertLoad(
        rows,
        np.minimum(active, rows),
        np.where(a + chance > 0.0, scattered, np.minimum(t, rows)),
        np.concatenate([bins, np.maximum(top, 1.0)[None], np.ones_like(top)[None]]),
        np.concatenate([bins_experts, heavy[None], np.maximum(active - used, 0.0)[None]]),
    )
