"""Experts at scale: load, exchange and time of one layer of experts against the ranks that share it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.arrays import Array, as_floats
from perfmodel.costs.expert_pipelining import DEGREES, cached_picks, offloaded_experts, pipelined_experts
from perfmodel.costs.expert_traffic import ranks_reached, units_reached
from perfmodel.costs.formats import get_format
from perfmodel.costs.overlap import HOST_LINK_EFFICIENCY
from perfmodel.costs.routing import power_law_tokens
from perfmodel.costs.work import active_experts
from perfmodel.errors import PlanError
from perfmodel.estimate.arrangement import arranged
from perfmodel.estimate.communication import EXCHANGE_CORES, time_collective
from perfmodel.estimate.links import links_of_group
from perfmodel.estimate.target import Target
from perfmodel.estimate.timing import ROUTING_SKEW, time_operator
from perfmodel.layers.base import Shard, Step
from perfmodel.layers.moe import MixtureOfExperts
from perfmodel.layers.operators import Collective, Experts, Wait
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import plans
from perfmodel.parallel.groups import rank_group
from perfmodel.ranking.expert_balance import balanced_experts


@dataclass(frozen=True, slots=True)
class ExpertLayer:
    """What is asked about a layer of experts.

    Parameters
    ----------
    model : ModelSpec
        Model with experts.
    target : Target
        System, kernels and engine.
    precision : Precision
        Number formats.
    tokens : float
        Tokens on one rank in a step.
    decode : bool
        Whether they are of a decode step, each of another sequence.
    skew : float
        Exponent of the power law of the experts' loads; 0 for an even spread [1].
    redundant : int
        Copies of busy experts at least; as many more are made as divide the places among the ranks.
    loads : array, optional
        Picks of every expert in a measurement, instead of the power law.
    """

    model: ModelSpec
    target: Target
    precision: Precision
    tokens: float
    decode: bool
    skew: float = ROUTING_SKEW
    redundant: int = 0
    loads: Array | None = None

    @property
    def layer(self) -> MixtureOfExperts:
        """The first layer of the model that has experts."""
        found = next((p for b, _ in self.model.blocks for p in b.parts if isinstance(p, MixtureOfExperts)), None)
        if found is None:
            raise PlanError(f"{self.model.id} has no experts")
        return found

    def picks(self) -> Array:
        """Load of every expert, the measured one or that of the power law."""
        experts = self.layer.experts
        if self.loads is None:
            middle = (np.arange(experts) + 0.5) / experts
            if not self.skew:
                return np.ones(experts)
            return as_floats(power_law_tokens(middle, 4096.0, experts, self.layer.topk, self.skew))
        if self.loads.size != experts:
            raise PlanError(f"there are {self.loads.size} loads, and {self.model.id} has {experts} experts")
        return self.loads


def expert_sweep(asked: ExpertLayer, ranks: Sequence[int]) -> list[dict[str, Any]]:
    """Describe a layer of experts for several numbers of ranks.

    Parameters
    ----------
    asked : ExpertLayer
        Model, target, tokens and loads.
    ranks : sequence of int
        Expert-parallel ranks, each of which holds other tokens.

    Returns
    -------
    list of dict
        One per number of ranks: places, ranks and domains that a token reaches, busiest over mean rank as the experts
        come and with copies, seconds of dispatch, experts and combine, the degree of pipelining and the layer's time.

    Raises
    ------
    PlanError
        If the ranks do not divide the experts, exceed the system, or the model has none.
    """
    layer, system = asked.layer, asked.target.system
    for n in ranks:
        if n < 1 or (layer.experts % n and not asked.redundant):
            raise PlanError(f"{n} ranks do not divide {layer.experts} experts; copies of some may make them divide")
        if n > system.max_devices:
            raise PlanError(f"{system.id} connects at most {system.max_devices} devices, and {n} are wanted")
    sizes = as_floats(ranks)
    times = _times(asked, sizes)
    links = links_of_group(system, rank_group(plans(tp=1, dp=sizes, ep=sizes), "moe"))
    domains = np.broadcast_to(as_floats(links.domains), sizes.shape)
    limit = layer.group_limit * np.maximum(domains / layer.groups, 1.0) if layer.group_limit else domains
    allowed = np.minimum(limit, domains) / domains
    reached = as_floats(ranks_reached(layer.topk, layer.experts * allowed, sizes * allowed))
    visited = as_floats(units_reached(layer.topk, layer.experts, domains, limit))
    # A power law does not say which expert is the busy one.
    picks = asked.picks() if asked.loads is not None else np.random.default_rng(0).permutation(asked.picks())
    rows = []
    for i, count in enumerate(ranks):
        copies = asked.redundant + (-(layer.experts + asked.redundant)) % count if asked.redundant else 0
        # Without copies there is an even number of experts per rank, or no such deployment.
        by_rank = picks.reshape(count, -1).sum(axis=1) if layer.experts % count == 0 else np.array([np.nan])
        # As EPLB does: within nodes where they divide the router's groups, over all ranks where they do not.
        nodes = int(domains[i]) if layer.group_limit and layer.groups % domains[i] == 0 else 1
        levelled = balanced_experts(
            picks, count, copies, nodes=nodes if copies % nodes == 0 else 1, groups=layer.groups
        )
        rows.append(
            {
                "ranks": count,
                "domains": int(domains[i]),
                "places_per_rank": (layer.experts + copies) // count,
                "ranks_per_token": float(reached[i]),
                "domains_per_token": float(visited[i]),
                "imbalance": float(by_rank.max() / by_rank.mean()),
                "copies": copies,
                "levelled_imbalance": levelled.imbalance,
                **{name: values[i] if isinstance(values, list) else float(values[i]) for name, values in times.items()},
            }
        )
    return rows


def _times(asked: ExpertLayer, ranks: Array) -> dict[str, Any]:
    """Seconds of the layer's parts, whole and cut into parts, over numbers of ranks."""
    parts = np.asarray(DEGREES)[:, None]
    each = as_floats(asked.tokens) / parts
    one = as_floats(1.0)
    step = Step(each, one, one, True) if asked.decode else Step(one, each, each, False)
    shard = Shard(dp=ranks, ep=ranks)
    grid = plans(tp=1, dp=ranks, ep=ranks)
    target = asked.target
    operators = asked.layer.operators(step, shard, asked.precision)
    found: dict[str, Array] = {}
    waits = {"dispatch": as_floats(0.0), "combine": as_floats(0.0)}
    algorithms: list[str] = [""] * ranks.size
    shape = (len(DEGREES), ranks.size)
    for op in arranged(asked.layer, operators, target.engine, step, shard):
        if isinstance(op, Experts):
            found["experts"] = np.broadcast_to(
                time_operator(op, target.device, target.kernels, target.engine.kernels).seconds, shape
            )
        elif isinstance(op, Wait) and op.during in waits:
            waits[op.during] = as_floats(op.seconds)
        elif isinstance(op, Collective) and op.kind in ("dispatch", "combine"):
            time = time_collective(op, target, grid)
            found[op.kind] = np.broadcast_to(waits[op.kind] + time.seconds, shape)
            if op.kind == "dispatch":
                chosen = np.broadcast_to(time.choice, shape)[0].astype(int)
                algorithms = [time.algorithms[k] for k in chosen]
    exchange = parts * (found["dispatch"] + found["combine"])
    taken = 0.0 if asked.decode else EXCHANGE_CORES / target.device.cores
    layers = pipelined_experts(parts * found["experts"], exchange, parts, taken_share=taken)
    best = np.asarray(layers).argmin(axis=0)
    return {
        "dispatch_s": found["dispatch"][0],
        "experts_s": found["experts"][0],
        "combine_s": found["combine"][0],
        "serial_s": np.asarray(layers)[0],
        "degree": np.asarray(DEGREES)[best],
        "layer_s": np.asarray(layers)[best, np.arange(ranks.size)],
        "algorithm": algorithms,
    }


def offload(asked: ExpertLayer, resident: int, ranks: int = 1, hit_rate: float | None = None) -> dict[str, float]:
    """Describe a layer of which the device holds only some of its experts, the rest in host memory.

    Parameters
    ----------
    asked : ExpertLayer
        Model, target, tokens and loads.
    resident : int
        Experts that the device holds, at most its share of the layer.
    ranks : int
        Expert-parallel ranks.
    hit_rate : float, optional
        Share of the active experts' weights found on the device, where a predictor's is known; by default that of the
        busiest experts in a fixed cache [1].

    Returns
    -------
    dict
        Hit rate, memory saved and its share, and the seconds of the layer's experts with and without it.

    Raises
    ------
    PlanError
        If the device has no link to its host, or the cache does not fit the layer.
    """
    layer, device = asked.layer, asked.target.device
    own = layer.experts // ranks
    if not 1 <= resident <= own:
        raise PlanError(f"a rank holds 1 to {own} experts of a layer, not {resident}")
    if device.host_bandwidth is None:
        raise PlanError(f"the profile of {device.id} has no host_bandwidth")
    hit = float(cached_picks(resident, own, topk=layer.topk, skew=asked.skew)) if hit_rate is None else hit_rate
    if not 0.0 <= hit <= 1.0:
        raise PlanError(f"a hit rate lies between 0 and 1, not {hit:g}")
    one = layer.width * layer.intermediate * (2.0 + layer.gated) * get_format(asked.precision.experts).weight_bytes
    active = float(active_experts(asked.tokens * ranks, layer.experts, layer.topk)) / ranks
    experts_s = float(_times(asked, as_floats([ranks]))["experts_s"][0])
    seconds = float(
        offloaded_experts(experts_s, active * one, hit, host_bandwidth=HOST_LINK_EFFICIENCY * device.host_bandwidth)
    )
    layers = sum(count for block, count in asked.model.blocks if any(p == layer for p in block.parts))
    return {
        "resident": float(resident),
        "hit_rate": hit,
        "saved_bytes": (own - resident) * one * layers,
        "saved_share": 1.0 - resident / own,
        "experts_s": experts_s,
        "offloaded_s": seconds,
    }
