"""Placement of experts by affinity: experts that follow each other from layer to layer share a rank (counts)."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Array, as_floats
from perfmodel.errors import PlanError

Positions: TypeAlias = npt.NDArray[np.int64]

MOST_VARIABLES = 400
"""Largest program over all layers at once; beyond, layers are placed in sweeps."""


@dataclass(frozen=True, slots=True, eq=False)
class AffinityPlacement:
    """Ranks of the experts of every layer.

    Parameters
    ----------
    ranks : numpy.ndarray
        Rank of every expert, one row per layer.
    local_share : float
        Tokens that stay on their rank from one layer to the next, over all [1].
    exact : bool
        Whether no placement keeps more tokens, as the program over all layers proved.
    """

    ranks: Positions
    local_share: float
    exact: bool


def local_share(routing: npt.ArrayLike, ranks: npt.ArrayLike) -> float:
    """Tokens that stay on their rank from one layer to the next, over all tokens that move.

    Parameters
    ----------
    routing : array_like
        Tokens that visit expert j of layer i + 1 after expert e of layer i, indexed by i, e and j.
    ranks : array_like
        Rank of every expert, one row per layer.

    Returns
    -------
    float
        Share [1].

    Examples
    --------
    >>> local_share([[[8, 2], [2, 8]]], [[0, 1], [0, 1]])
    0.8
    """
    counts, where = _checked(routing), np.asarray(ranks)
    same = where[:-1, :, None] == where[1:, None, :]
    return float((counts * same).sum() / counts.sum())


def affinity_placement(routing: npt.ArrayLike, ranks: int, *, exact: bool | None = None) -> AffinityPlacement:
    r"""Place the experts of all layers so that as many tokens as possible stay on their rank.

    .. math::
       \max \sum_{i,e,j,r} w_{iej}\, z_{iejr}, \quad z_{iejr} \le x_{ier},\; z_{iejr} \le x_{i+1,j,r}, \quad
       \sum_r x_{ier} = 1, \quad \sum_e x_{ier} = E / R

    Every rank holds equally many experts of every layer. One layer between two fixed ones is an assignment that is
    solved exactly; sweeps over the layers repeat it until nothing is gained. All layers at once are an integer program.

    Parameters
    ----------
    routing : array_like
        Tokens that visit expert j of layer i + 1 after expert e of layer i, indexed by i, e and j.
    ranks : int
        Expert-parallel ranks; must divide the experts.
    exact : bool, optional
        Solve for all layers at once; by default where the program is small.

    Returns
    -------
    AffinityPlacement
        Rank of every expert of every layer, and the share of tokens that stay.

    Raises
    ------
    PlanError
        If the routing is no stack of square tables of counts, or the ranks do not divide the experts.

    References
    ----------
    Yao et al. 2024, ExFlow (arXiv:2401.08383): placement by inter-layer affinity as an integer program.

    Examples
    --------
    Experts 0, 2 and 1, 3 follow each other:

    >>> table = [[[9, 0, 1, 0], [0, 1, 0, 9], [9, 0, 1, 0], [0, 9, 0, 1]]]
    >>> found = affinity_placement(table, 2)
    >>> found.local_share, found.ranks.tolist()
    (1.0, [[0, 1, 0, 1], [0, 1, 0, 1]])
    """
    counts = _checked(routing)
    layers, experts = counts.shape[0] + 1, counts.shape[1]
    if ranks < 1 or experts % ranks:
        raise PlanError(f"{ranks} ranks do not divide {experts} experts")
    size = layers * experts * ranks + counts.shape[0] * experts * experts * ranks
    whole = size <= MOST_VARIABLES if exact is None else exact
    swept = _swept(counts, ranks)
    # On one rank nothing can be placed otherwise.
    found, proved = _program(counts, ranks, swept) if whole and ranks > 1 else (swept, ranks == 1)
    return AffinityPlacement(found, local_share(counts, found), proved)


def _checked(routing: npt.ArrayLike) -> Array:
    counts = as_floats(routing)
    if counts.ndim != 3 or counts.shape[1] != counts.shape[2] or not counts.size:
        raise PlanError("routing must be counts indexed [layer, expert, expert of the next layer]")
    if not np.isfinite(counts).all() or counts.min() < 0.0 or not counts.sum() > 0.0:
        raise PlanError("routing must hold counts of tokens that are not negative and not all zero")
    return counts


def _swept(counts: Array, ranks: int) -> Positions:
    """One layer after the other, each an exact assignment to places between its neighbours, until nothing is gained."""
    from scipy.optimize import linear_sum_assignment

    layers, experts = counts.shape[0] + 1, counts.shape[1]
    owner = np.repeat(np.arange(ranks), experts // ranks)
    where = np.tile(owner, (layers, 1))
    best = -1.0
    while (now := local_share(counts, where)) > best + 1e-12:
        best = now
        for layer in (*range(layers), *range(layers - 2, 0, -1)):
            gain = np.zeros((experts, ranks))
            for rank in range(ranks):
                if layer:
                    gain[:, rank] += counts[layer - 1][where[layer - 1] == rank].sum(axis=0)
                if layer < layers - 1:
                    gain[:, rank] += counts[layer][:, where[layer + 1] == rank].sum(axis=1)
            where[layer] = owner[linear_sum_assignment(-gain[:, owner])[1]]
    return where.astype(np.int64)


def _program(counts: Array, ranks: int, start: Positions) -> tuple[Positions, bool]:
    """All layers at once, by scipy's mixed-integer solver, and whether it came to an end in time."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    steps, experts, _ = counts.shape
    layers = steps + 1
    i, e, j = (index.ravel() for index in np.nonzero(counts))
    place = np.arange(layers * experts * ranks).reshape(layers, experts, ranks)
    pairs = place.size + np.arange(i.size * ranks).reshape(i.size, ranks)
    total = place.size + pairs.size
    gain = np.zeros(total)
    gain[pairs] = -counts[i, e, j][:, None]
    # One rank per expert; equally many experts per rank and layer; a pair counts where both are on the rank.
    one = _rows(place.reshape(-1, ranks), total)
    full = _rows(np.swapaxes(place, 1, 2).reshape(-1, experts), total)
    before = place[i, e].ravel()
    after = place[i + 1, j].ravel()
    linked = np.arange(pairs.size)
    sign = np.repeat([1.0, -1.0], pairs.size)
    ties = [
        csr_array((sign, (np.tile(linked, 2), np.concatenate([pairs.ravel(), side]))), shape=(pairs.size, total))
        for side in (before, after)
    ]
    low = np.zeros(total)
    low[place[0, 0, 0]] = 1.0  # ranks have no names, so the first expert may have the first one
    solved = milp(
        gain,
        integrality=(np.arange(total) < place.size).astype(int),
        bounds=Bounds(low, np.ones(total)),
        constraints=[
            LinearConstraint(one, 1.0, 1.0),
            LinearConstraint(full, experts // ranks, experts // ranks),
            *(LinearConstraint(tie, -np.inf, 0.0) for tie in ties),
        ],
        options={"time_limit": 30.0},
    )
    if solved.x is None:
        return start, False
    found = solved.x[: place.size].reshape(layers, experts, ranks).argmax(axis=2).astype(np.int64)
    return (found if local_share(counts, found) >= local_share(counts, start) else start), solved.status == 0


def _rows(members: Positions, total: int) -> Any:
    from scipy.sparse import csr_array

    rows = np.repeat(np.arange(members.shape[0]), members.shape[1])
    return csr_array((np.ones(members.size), (rows, members.ravel())), shape=(members.shape[0], total))
