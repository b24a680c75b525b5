"""Seconds of training's collectives: the groups of its plans on the links that serving's run on too."""

from dataclasses import dataclass, field

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.training_schedules import visited_stages
from perfmodel.estimate.algorithms import candidates
from perfmodel.estimate.communication import fused_exchange, hop_time
from perfmodel.estimate.links import NETWORK_EFFICIENCY, Links, links_of_group
from perfmodel.estimate.training.target import TrainingTarget
from perfmodel.layers.operators import Exchange
from perfmodel.parallel.groups import RankGroup
from perfmodel.parallel.training_grid import TrainingGrid
from perfmodel.parallel.training_groups import training_group


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Groups of a grid of plans on the fabric of a target: each is placed once, and does the same in the same time.

    Parameters
    ----------
    target : TrainingTarget
        System, calibrations and stack.
    grid : TrainingGrid
        Plans.
    """

    target: TrainingTarget
    grid: TrainingGrid
    _links: dict[str, Links] = field(default_factory=dict, init=False, repr=False)
    _times: dict[tuple[object, ...], Floats] = field(default_factory=dict, init=False, repr=False)

    def links(self, group: str) -> Links:
        """Place a group on the fabric.

        Parameters
        ----------
        group : str
            One of those of `perfmodel.parallel.training_groups.training_group`.

        Returns
        -------
        Links
            What the tiers give it.
        """
        if group not in self._links:
            self._links[group] = links_of_group(self.target.system, training_group(self.grid, group))
        return self._links[group]

    def collective(self, kind: str, payload: Floats, group: str, tokens: Exchange | None = None) -> Floats:
        """Time of one collective.

        Parameters
        ----------
        kind : str
            all_reduce, all_gather, reduce_scatter, all_to_all, dispatch or combine.
        payload : float or array
            Total buffer; for all-to-all, dispatch and combine what one rank holds [B].
        group : str
            Who takes part, as in `links`.
        tokens : Exchange, optional
            What a dispatch or combine moves.

        Returns
        -------
        float or array
            Time, zero for a group of one or nothing to send [s].
        """
        size = as_floats(payload)
        if tokens:
            return self._exchange(kind, size, group, tokens)
        # Most layers have the same activations to sum up, scatter and gather.
        key = (kind, group, size.shape, size.tobytes())
        if key not in self._times:
            self._times[key] = self._library(kind, size, group)
        return self._times[key]

    def _library(self, kind: str, size: Floats, group: str) -> Floats:
        links = self.links(group)
        needed = (as_floats(links.placement.ranks) > 1.0) & (as_floats(size) > 0.0)
        if not np.any(needed):
            return as_floats(0.0)
        seconds: Floats = as_floats(np.inf)
        for candidate in candidates(kind, size, links, self.target):
            seconds = np.minimum(seconds, candidate.seconds)
        return np.where(needed, seconds, 0.0)

    def _exchange(self, kind: str, size: Floats, group: str, tokens: Exchange) -> Floats:
        seconds, links = as_floats(self._library("all_to_all", size, group)), self.links(group)
        if not self.target.stack.fused_exchange or not np.any(seconds > 0.0):
            return seconds
        fused = fused_exchange(kind, tokens, links, self.target)
        several = (as_floats(links.domains) > 1.0) & (seconds > 0.0)
        return seconds if fused is None else np.where(several, fused.seconds, seconds)

    def hops(self, payload: Floats) -> tuple[Floats, Floats]:
        """Time of messages between neighbouring pipeline stages: the slowest, and all on a microbatch's way together.

        Parameters
        ----------
        payload : float or array
            Bytes that one device sends [B].

        Returns
        -------
        tuple of float or array
            Two times, zero without a pipeline [s].
        """
        size, links, grid = as_floats(payload), self.links("pp"), self.grid
        slowest = hop_time(size, links)[0]
        # Stages of one scale-up domain are nearer to each other than those on both sides of its edge.
        near = hop_time(size, links_of_group(self.target.system, RankGroup(links.domain_ranks, grid.stage)))[0]
        hops, edges = grid.pp - 1.0, as_floats(links.domains) - 1.0
        walked = (visited_stages(grid.pp, grid.skipped_stages) - 1.0) / np.maximum(hops, 1.0)
        return slowest, walked * (edges * slowest + (hops - edges) * near)

    def shared(self, group: str) -> Floats:
        """Part of its links that a group's exchange leaves no room on for the exchange of shards.

        Parameters
        ----------
        group : str
            Name of the group, as in `links`.

        Returns
        -------
        float or array
            1 where both stay inside a scale-up domain or both leave it; else how much of the domain's links the ring
            that leaves it needs.
        """
        system = self.target.system
        leaves, rates = [], []
        for links in (self.links(group), self.links("dp_shards")):
            leaves.append(as_floats(links.domains) > 1.0)
            # What a ring that stays inside could get from the network is not asked for, and would be infinite.
            rate = np.where(leaves[-1], links.network(links.exact(), ring=True)[0], 0.0)
            rates.append(NETWORK_EFFICIENCY * rate * links.placement.carriers[system.domain])
        used = np.where(leaves[0], rates[0], rates[1]) / system.scale_up.bandwidth
        return np.where(leaves[0] == leaves[1], 1.0, np.minimum(used, 1.0))
