"""Balance of experts over ranks: copies of the busy ones, and which rank holds which (counts)."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Array, as_floats
from perfmodel.errors import PlanError

Positions: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ExpertPlacement:
    """Which experts every rank of a layer holds.

    Parameters
    ----------
    experts : numpy.ndarray
        Expert in every place, one row per rank.
    loads : numpy.ndarray
        Load of every rank, copies of an expert sharing its load evenly.
    """

    experts: Positions
    loads: Array

    @property
    def imbalance(self) -> float:
        """Load of the busiest rank over the mean."""
        return float(self.loads.max() / self.loads.mean())


def copy_experts(loads: npt.ArrayLike, places: int) -> Positions:
    """Give every place beyond the first of each expert to the expert whose copies are busiest.

    Parameters
    ----------
    loads : array_like
        Load of every expert.
    places : int
        Places for experts, at least as many as experts.

    Returns
    -------
    numpy.ndarray
        Copies of every expert, at least one; they add up to the places.

    Raises
    ------
    PlanError
        If there are fewer places than experts.

    References
    ----------
    EPLB, github.com/deepseek-ai/EPLB (DeepSeek 2025): redundant experts go to the largest load per copy.

    Examples
    --------
    >>> copy_experts([90, 132, 40, 61], 6).tolist()
    [2, 2, 1, 1]
    """
    load = as_floats(loads).reshape(-1)
    if places < load.size:
        raise PlanError(f"{places} places cannot hold {load.size} experts")
    copies = np.ones(load.size, dtype=np.int64)
    for _ in range(places - load.size):
        copies[np.argmax(load / copies)] += 1
    return copies


def balanced_experts(
    loads: npt.ArrayLike, ranks: int, redundant: int = 0, *, nodes: int = 1, groups: int = 0
) -> ExpertPlacement:
    """Place experts, the busiest first, each on the least loaded rank that has room and no copy of it yet.

    With several nodes, groups of experts are dealt to nodes first in the same way, and copies stay on the node of their
    group: what a router that picks few groups per token needs, so that a token crosses the network to few nodes.

    Parameters
    ----------
    loads : array_like
        Load of every expert, for instance picks in a measurement.
    ranks : int
        Expert-parallel ranks; they must divide the places.
    redundant : int
        Places beyond one per expert.
    nodes : int
        Nodes that divide the ranks, the groups and the places.
    groups : int
        Groups of the router, each of neighbouring experts; 0 where it has none.

    Returns
    -------
    ExpertPlacement
        Experts and load of every rank, node after node.

    Raises
    ------
    PlanError
        If the places do not divide among the ranks, or there is no load.

    References
    ----------
    EPLB, github.com/deepseek-ai/EPLB (DeepSeek 2025), global and hierarchical policy; Graham 1969, Bounds on
    multiprocessing timing anomalies, for longest-first packing.

    Examples
    --------
    Twelve experts on four ranks, and on eight of two places each with four copies:

    >>> loads = [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86]
    >>> round(balanced_experts(loads, 4).imbalance, 2), round(balanced_experts(loads, 8, 4).imbalance, 2)
    (1.07, 1.08)
    """
    load = as_floats(loads).reshape(-1)
    places = load.size + redundant
    if ranks < 1 or redundant < 0 or places % ranks:
        raise PlanError(f"{load.size} experts and {redundant} copies do not divide among {ranks} ranks")
    if not load.sum() > 0.0 or load.min() < 0.0:
        raise PlanError("loads must not be negative and not all zero; give the picks of every expert")
    if nodes <= 1:
        return _spread(load, np.arange(load.size), ranks, places)
    if groups < 1 or ranks % nodes or groups % nodes or load.size % groups or redundant % nodes:
        raise PlanError(f"{nodes} nodes do not divide {ranks} ranks, {groups} groups of experts and {redundant} copies")
    members = np.arange(load.size).reshape(groups, -1)
    dealt = _packed(load[members].sum(axis=1), np.arange(groups), nodes)[0]
    parts = [
        _spread(load[own], own, ranks // nodes, places // nodes) for own in (members[row].ravel() for row in dealt)
    ]
    return ExpertPlacement(np.concatenate([p.experts for p in parts]), np.concatenate([p.loads for p in parts]))


def _spread(load: Array, names: Positions, ranks: int, places: int) -> ExpertPlacement:
    """Copies of some experts and their places on some ranks."""
    copies = copy_experts(load, places)
    owner = np.repeat(np.arange(load.size), copies)
    held, sums = _packed(load[owner] / copies[owner], owner, ranks)
    return ExpertPlacement(names[held], sums)


def _packed(weight: Array, owner: Positions, packs: int) -> tuple[Positions, Array]:
    """Deal things out, equally many to a pack, the heaviest first, each to the lightest pack that has none like it."""
    each = weight.size // packs
    held = np.full((packs, each), -1, dtype=np.int64)
    filled = np.zeros(packs, dtype=np.int64)
    sums = np.zeros(packs)
    for item in np.argsort(-weight, kind="stable"):
        free = filled < each
        fresh = free & ~(held == owner[item]).any(axis=1)
        pack = int(np.argmin(np.where(fresh if fresh.any() else free, sums, np.inf)))
        held[pack, filled[pack]] = owner[item]
        filled[pack] += 1
        sums[pack] += weight[item]
    return held, sums
