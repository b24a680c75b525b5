"""Placement of pipeline stages on nodes that are not connected alike, chosen by local search (bandwidths in B/s)."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

Order = npt.NDArray[np.int64]

EVALUATIONS = 20_000
"""Orders that one search looks at, at most: all exchanges of 100 nodes, four times."""


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Nodes of every stage.

    Parameters
    ----------
    order : numpy.ndarray
        Of shape (groups, nodes of a group): nodes along the ring of a group, group after group along the pipeline.
    ring : float
        Slowest link of any group's ring; infinite where a group is one node [B/s].
    hops : numpy.ndarray
        Slowest link between every two neighbouring groups [B/s].
    cost : float
        What the search made small [s].
    """

    order: Order
    ring: float
    hops: npt.NDArray[np.float64]
    cost: float


def links(order: Order, bandwidth: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
    """Slowest link of the rings, and of every hop, of one order of nodes.

    Parameters
    ----------
    order : numpy.ndarray
        Of shape (groups, nodes of a group).
    bandwidth : numpy.ndarray
        Between every two nodes, the same both ways [B/s].

    Returns
    -------
    tuple
        Bandwidth of the slowest ring and of every hop [B/s].

    Examples
    --------
    >>> table = np.array([[np.inf, 9.0, 1.0], [9.0, np.inf, 4.0], [1.0, 4.0, np.inf]])
    >>> ring, hops = links(np.array([[0], [1], [2]]), table)
    >>> ring, hops.tolist()
    (inf, [9.0, 4.0])
    """
    ring = float(bandwidth[order, np.roll(order, -1, axis=1)].min()) if order.shape[1] > 1 else np.inf
    return ring, bandwidth[order[:-1], order[1:]].min(axis=1)


def _grown(bandwidth: npt.NDArray[np.float64]) -> Order:
    """Nodes in the order in which a chain grows along the fastest link to what it has."""
    left = set(range(1, len(bandwidth)))
    chain = [0]
    while left:
        following = max(sorted(left), key=lambda node: float(bandwidth[chain[-1], node]))
        left.remove(following)
        chain.append(following)
    return np.array(chain, dtype=np.int64)


def place(
    bandwidth: npt.NDArray[np.float64],
    groups: int,
    cost: Callable[[float, npt.NDArray[np.float64], Order], float],
    *,
    seed: int = 0,
) -> Placement:
    """Choose which nodes make which group, and in which order.

    Starts from the nodes as they are given, from a chain along the fastest links and from two random orders, and
    exchanges two nodes or two groups as long as that helps. Never worse than the order given.

    Parameters
    ----------
    bandwidth : numpy.ndarray
        Between every two nodes, the same both ways, infinite on the diagonal [B/s].
    groups : int
        Groups of nodes along the pipeline; divides the nodes.
    cost : callable
        Slowest ring, slowest links of the hops, and order -> what is to be small.
    seed : int
        Of the random orders.

    Returns
    -------
    Placement
        The best order that was found.

    Examples
    --------
    >>> fast, slow = 25e9, 3e9
    >>> island = np.array([0, 1, 0, 1])
    >>> table = np.where(island[:, None] == island, fast, slow)
    >>> np.fill_diagonal(table, np.inf)
    >>> found = place(table, 2, lambda ring, hops, order: 1.0 / ring)
    >>> sorted(sorted(row) for row in found.order.tolist())
    [[0, 2], [1, 3]]
    """
    nodes = len(bandwidth)
    size = nodes // groups
    rng = np.random.default_rng(seed)
    starts = [np.arange(nodes), _grown(bandwidth), rng.permutation(nodes), rng.permutation(nodes)]
    finite = bandwidth[np.isfinite(bandwidth)]
    scale = float(finite.max()) if len(finite) else 1.0

    def judged(flat: Order) -> tuple[float, float]:
        # Among equal costs, the order whose links are faster in all: it leads out of plateaus.
        order = flat.reshape(groups, size)
        ring, hops = links(order, bandwidth)
        used = bandwidth[order, np.roll(order, -1, axis=1)]
        slack = float(np.sum(scale / used) + np.sum(scale / hops))
        return cost(ring, hops, order), slack

    best, value = starts[0], judged(starts[0])
    for start in starts:
        flat, found = _improved(start, judged, _moves(nodes, groups), EVALUATIONS // len(starts))
        if found < value:
            best, value = flat, found
    order = best.reshape(groups, size)
    return Placement(order, *links(order, bandwidth), value[0])


def _moves(nodes: int, groups: int) -> list[Order]:
    """Orders of the positions that exchange two nodes, or two groups."""
    size = nodes // groups
    moves = []
    for i, j in combinations(range(nodes), 2):
        move = np.arange(nodes)
        move[[i, j]] = move[[j, i]]
        moves.append(move)
    if size > 1:
        for a, b in combinations(range(groups), 2):
            rows = np.arange(nodes).reshape(groups, size)
            rows[[a, b]] = rows[[b, a]]
            moves.append(rows.ravel())
    return moves


def _improved(
    flat: Order, judged: Callable[[Order], tuple[float, float]], moves: list[Order], evaluations: int
) -> tuple[Order, tuple[float, float]]:
    """Make moves as long as one of them helps and there are evaluations left."""
    value, better = judged(flat), True
    while better:
        better = False
        for move in moves:
            if evaluations <= 0:
                return flat, value
            evaluations -= 1
            found = judged(flat[move])
            if found < value:
                flat, value, better = flat[move], found, True
    return flat, value
