"""Seconds of training collectives: groups placed on the fabric by size and stride."""

from dataclasses import dataclass

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.collectives import point_to_point
from perfmodel.costs.data_parallel import ring_over_nodes
from perfmodel.estimate.links import NETWORK_EFFICIENCY
from perfmodel.estimate.timing import call_form
from perfmodel.estimate.training.target import TrainingTarget
from perfmodel.parallel.training_grid import TrainingGrid

START_S = 1e-5
"""Start of a ring in a scale-up domain where no collective was measured: an assumption, of NCCL's order [s]."""

RING_LATENCY_S, RING_NETWORK_LATENCY_S = 3.4e-6, 14e-6
"""Latency of a ring's steps inside a node and between nodes, in synchronised blocks [s].

NVIDIA NCCL at 5067397, src/graph/tuning.cc. Gathers and scatters over nodes have no tree to go by there: a ring of all
ranks is what they wait for, while sums may take either.
"""

EXCHANGE_START_S = 3e-5
"""Start of a token exchange over several nodes: an assumption, not fitted [s]."""

EXCHANGE_EFFICIENCY = 0.75
"""Part of the scale-up bandwidth that the exchange of tokens reaches: an assumption, not fitted."""

_ROUNDS = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}


def _held(devices: float, ranks: Floats, stride: Floats) -> Floats:
    """Members of a group in one unit of so many devices, at least 1."""
    return np.minimum(ranks, np.maximum(1.0, np.floor(devices / as_floats(stride))))


@dataclass(frozen=True, slots=True)
class Network:
    """Times collectives of one target.

    Parameters
    ----------
    target : TrainingTarget
        System and calibrations.
    """

    target: TrainingTarget

    @property
    def node(self) -> float:
        """Devices of one scale-up domain."""
        return float(self.target.system.scale_up.devices)

    def _outer(self, ranks: Floats, stride: Floats, *, ring: bool = False) -> Floats:
        """Bandwidth per device of the slowest tier around the scale-up domain that a group reaches into.

        A ring leaves a unit once, over the links of all members in it; of those in a wider unit there are more.
        """
        system = self.target.system
        outer = system.tiers[system.domain + 1 :]
        rates = [tier.bandwidth / tier.oversubscription for tier in outer]
        slowest = as_floats(rates[0] if rates else system.scale_up.bandwidth)
        inside = self.members(ranks, stride)
        for unit, rate in zip(outer, rates[1:], strict=False):
            links = _held(unit.devices, ranks, stride) / inside if ring else 1.0
            slowest = np.where(as_floats(ranks) * stride > unit.devices, np.minimum(slowest, rate * links), slowest)
        return slowest

    def members(self, ranks: Floats, stride: Floats) -> Floats:
        """Members of a group inside one scale-up domain.

        Parameters
        ----------
        ranks, stride : float or array
            Size of the group, and distance of neighbouring members.

        Returns
        -------
        float or array
            At least 1.
        """
        return _held(self.node, ranks, stride)

    def collective(
        self, kind: str, payload: Floats, ranks: Floats, stride: Floats = 1.0, copies: float = 1.0
    ) -> Floats:
        """Time of one collective.

        Parameters
        ----------
        kind : str
            all_reduce, all_gather, reduce_scatter or all_to_all.
        payload : float or array
            Total buffer; for all-to-all, what one rank holds [B].
        ranks, stride : float or array
            Size of the group, and distance of neighbouring members.
        copies : float
            Members that each element of an all-to-all goes to.

        Returns
        -------
        float or array
            Time, zero for a group of one or nothing to send [s].
        """
        size, n = as_floats(payload), as_floats(ranks)
        inside = self.members(n, stride)
        near = self._inside(kind, size, inside)
        if kind == "all_to_all":
            far = self._scattered(size, n, inside, self._outer(n, stride), copies)
        else:
            far = ring_over_nodes(
                size,
                n,
                inside,
                _ROUNDS[kind],
                bandwidth=self._outer(n, stride, ring=True),
                inner_bandwidth=self.target.system.scale_up.bandwidth,
                network_efficiency=NETWORK_EFFICIENCY,
                latency=0.0 if kind == "all_reduce" else RING_LATENCY_S,
                network_latency=0.0 if kind == "all_reduce" else RING_NETWORK_LATENCY_S,
            )
        seconds = np.where(inside >= n, near, far)
        return np.where((n > 1.0) & (size > 0.0), seconds, 0.0)

    def _inside(self, kind: str, payload: Floats, ranks: Floats) -> Floats:
        bandwidth = self.target.system.scale_up.bandwidth
        measured = self.target.kernels.find(kind, "bf16", engine="nccl")
        if measured is None:
            rounds = _ROUNDS.get(kind, 1.0)
            return ring_over_nodes(
                payload, ranks, ranks, rounds, bandwidth=np.inf, inner_bandwidth=bandwidth, start_s=START_S
            )
        sizes = {"nbytes": np.maximum(payload, 1.0), "ranks": np.maximum(ranks, 2.0)}
        return call_form(measured, sizes, {"bandwidth": bandwidth, "op": kind})

    def _scattered(self, payload: Floats, ranks: Floats, inside: Floats, bandwidth: Floats, copies: float) -> Floats:
        """All-to-all over several nodes: a token crosses the network once per node that wants it, links do the rest."""
        nodes = as_floats(ranks) / inside
        # Distinct other nodes among so many random ones; with one copy the share of ranks elsewhere.
        wanted = (nodes - 1.0) * (1.0 - np.power(1.0 - 1.0 / nodes, copies))
        leaving = wanted / copies * as_floats(payload)
        near = as_floats(payload) / (EXCHANGE_EFFICIENCY * self.target.system.scale_up.bandwidth)
        return EXCHANGE_START_S + np.maximum(leaving / (NETWORK_EFFICIENCY * bandwidth), near)

    def hop(self, payload: Floats, stage: Floats) -> Floats:
        """Time of one message to the neighbouring pipeline stage.

        Parameters
        ----------
        payload : float or array
            Bytes that one device sends [B].
        stage : float or array
            Devices of a stage: the distance of the neighbour.

        Returns
        -------
        float or array
            Time [s].
        """
        domain, network = self.target.system.scale_up, self.target.system.tiers[-1]
        near = point_to_point(payload, bandwidth=0.75 * domain.bandwidth, latency=domain.latency_s)
        # A neighbour is as far away as a stage is wide.
        rate = NETWORK_EFFICIENCY * self._outer(as_floats(stage) + 1.0, 1.0)
        far = point_to_point(payload, bandwidth=rate, latency=network.latency_s)
        return np.where(as_floats(stage) < self.node, near, far)

    def of(self, network: str, grid: TrainingGrid) -> tuple[Floats, Floats]:
        """Size and stride of one of a grid's groups.

        Ranks are numbered with tensor parallelism fastest, then context, data and pipeline parallelism; expert groups
        are neighbouring ranks of a stage.

        Parameters
        ----------
        network : str
            tp, cp, ep, dp (with context parallelism: those who hold the same weights) or edp (the same experts).
        grid : TrainingGrid
            Plans.

        Returns
        -------
        tuple of float or array
            Ranks and stride.
        """
        groups: dict[str, tuple[Floats, Floats]] = {
            "tp": (grid.tp, 1.0),
            "cp": (grid.cp, grid.tp),
            "dp": (grid.dp * grid.cp, grid.tp),
            "ep": (grid.ep, 1.0),
            "edp": (np.maximum(grid.stage / grid.ep, 1.0), grid.ep),
        }
        return groups[network]

    def shared(self, network: str, grid: TrainingGrid) -> Floats:
        """Part of its links that a group's exchange leaves no room on for the exchange of shards.

        Parameters
        ----------
        network : str
            Name of the group, as in `of`.
        grid : TrainingGrid
            Plans.

        Returns
        -------
        float or array
            1 where both stay inside a scale-up domain or both leave it; else how much of the domain's links the ring
            that leaves it needs.
        """
        own, shards = self.of(network, grid), self.shards("dp", grid)[:2]
        leaves, rates = [], []
        for group in (own, shards):
            inside = self.members(*group)
            leaves.append(as_floats(group[0]) > inside)
            rates.append(NETWORK_EFFICIENCY * self._outer(*group, ring=True) * inside)
        used = np.where(leaves[0], rates[0], rates[1]) / self.target.system.scale_up.bandwidth
        return np.where(leaves[0] == leaves[1], 1.0, np.minimum(used, 1.0))

    def shards(self, network: str, grid: TrainingGrid) -> tuple[Floats, Floats, Floats, Floats]:
        """Groups that share a state, and groups that hold the same shard of it (hybrid sharding).

        Neighbours share: with as many copies as there are nodes, shards stay inside a node.

        Parameters
        ----------
        network : str
            dp or edp.
        grid : TrainingGrid
            Plans.

        Returns
        -------
        tuple of float or array
            Ranks and stride of a group that shares; ranks and stride of a group of copies.
        """
        ranks, stride = self.of(network, grid)
        copies = np.minimum(grid.shard_copies, ranks)
        sharing = as_floats(ranks) / copies
        return sharing, stride, copies, sharing * stride
