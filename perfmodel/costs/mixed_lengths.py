"""Time that unequal pieces of work cost a step [s]: the largest that is drawn, and the slowest of some replicas."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula
from perfmodel.costs.routing import largest_of

Array = npt.NDArray[np.float64]

_MOST_OF_A_KIND = 8
"""Terms of the expected largest count: of a kind that comes less than once, no replica has more than so many."""


def _stacked(values: Sequence[Floats], shares: Sequence[Floats]) -> tuple[Array, Array]:
    """Values of every kind along a first axis, and their shares beside them."""
    stacked = np.stack(np.broadcast_arrays(*(as_floats(value) for value in values)))
    parts = np.stack(np.broadcast_arrays(*(as_floats(share) for share in shares)))
    return stacked, parts.reshape(len(values), *(1,) * (stacked.ndim - parts.ndim), *parts.shape[1:])


@formula(
    name="expected_largest",
    quantity="time",
    equation=r"t = \sum_k v_k \left(F_k^M - F_{k-1}^M\right), \quad F_k = \sum_{i \le k} p_i, \quad v_k \le v_{k+1}",
    source="exact: the largest of M independent draws is at most v_k if all of them are",
)
def expected_largest(values: Sequence[Floats], shares: Sequence[Floats], draws: Floats) -> Floats:
    r"""Expected largest of some independent draws from a few kinds.

    .. math:: t = \sum_k v_k \left(F_k^M - F_{k-1}^M\right), \quad F_k = \sum_{i \le k} p_i

    with the kinds in ascending order of their values.

    Parameters
    ----------
    values : sequence of float or array
        Value v of every kind [s].
    shares : sequence of float or array
        Probability p of every kind; they sum to one.
    draws : float or array
        Draws M, above zero.

    Returns
    -------
    float or array
        Expectation [s].

    References
    ----------
    Exact; David, Nagaraja 2003, Order Statistics, section 2.1.

    Examples
    --------
    Nine in ten sequences are short: of twenty-four that are drawn, one is long nearly always.

    >>> round(float(expected_largest([1.0, 100.0], [0.9, 0.1], 24)), 1)
    92.1
    """
    stacked, parts = _stacked(values, shares)
    order = np.argsort(stacked, axis=0)
    ascending = np.take_along_axis(stacked, order, axis=0)
    until = np.cumsum(np.take_along_axis(np.broadcast_to(parts, stacked.shape), order, axis=0), axis=0)
    below = np.concatenate([np.zeros_like(until[:1]), until[:-1]])
    count = as_floats(draws)
    chance = np.power(np.minimum(until, 1.0), count) - np.power(np.minimum(below, 1.0), count)
    return np.asarray((ascending * chance).sum(axis=0))[()]


@formula(
    name="slowest_replica",
    quantity="time",
    equation=(
        r"t = m \sum_k p_k v_k + \sqrt{z_n^2\, m\,\mathrm{Var}_{m p_k \ge 1}[v]"
        r" + \sum_{m p_k < 1} v_k^2 \left(\sum_{j \ge 1} (1 - P_j^n) - m p_k\right)^2}, \quad m = M / n"
    ),
    source="derived: frequent kinds add up to normal sums, Blom 1958; rare ones come in Poisson counts",
)
def slowest_replica(values: Sequence[Floats], shares: Sequence[Floats], draws: Floats, replicas: Floats) -> Floats:
    r"""Time of the slowest of some replicas, among which draws are shared out at random, as many to each.

    .. math::
       t = m \sum_k p_k v_k + \sqrt{z_n^2\, m\,\mathrm{Var}_{m p_k \ge 1}[v]
       + \sum_{m p_k < 1} v_k^2 \left(\sum_{j \ge 1} (1 - P_j^n) - m p_k\right)^2}, \quad m = M / n

    with the probability P that a replica has fewer than j of a kind.

    Parameters
    ----------
    values : sequence of float or array
        Value v of every kind [s].
    shares : sequence of float or array
        Probability p of every kind; they sum to one.
    draws : float or array
        Draws M of all replicas.
    replicas : float or array
        Replicas n.

    Returns
    -------
    float or array
        Expected time, m times the mean for one replica [s].

    Notes
    -----
    Kinds of which a replica has less than one are rare: their counts are Poisson's. What different kinds add falls on
    different replicas, so that squares add up. Within a seventh of drawn samples for tails of up to 500 times.

    References
    ----------
    Blom 1958, Statistical Estimates and Transformed Beta Variables: expected largest of n normal variables.

    Examples
    --------
    >>> [round(float(slowest_replica([1.0, 100.0], [0.99, 0.01], 64, n)), 1) for n in (1, 8)]
    [127.4, 57.7]
    """
    stacked, parts = _stacked(values, shares)
    count, n = as_floats(draws), as_floats(replicas)
    each = count / n
    rare = each * parts < 1.0
    often = np.where(rare, 0.0, parts)
    mean = (parts * stacked).sum(axis=0)
    spread = (often * stacked**2).sum(axis=0) - (often * stacked).sum(axis=0) ** 2
    normal = as_floats(largest_of(np.maximum(n, 1.0))) * np.sqrt(np.maximum(each * spread, 0.0))
    expected = np.where(rare, each * parts, 0.0)
    term = np.exp(-expected)
    fewer, most = term, 1.0 - np.power(term, n)
    for j in range(1, _MOST_OF_A_KIND):
        term = term * expected / j
        fewer = fewer + term
        most = most + 1.0 - np.power(np.minimum(fewer, 1.0), n)
    heavy = np.where(rare, stacked * np.maximum(most - expected, 0.0), 0.0)
    longer = np.sqrt(normal**2 + (heavy**2).sum(axis=0))
    return np.asarray(each * mean + np.where(n > 1.0, longer, 0.0))[()]
