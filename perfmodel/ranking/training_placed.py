"""Training plans on nodes that are not connected alike: stages on nodes, layers per stage, and the step [s]."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.errors import NothingFeasibleError, PlanError
from perfmodel.estimate.training.network import Network
from perfmodel.estimate.training.pipeline import STEP_PARTS
from perfmodel.estimate.training.predict import TrainingEstimate, predict_training
from perfmodel.estimate.training.target import TrainingTarget
from perfmodel.estimate.training.workload import TrainingWorkload
from perfmodel.hardware.cluster import Cluster
from perfmodel.layers.training_recipe import TrainingRecipe
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.training_grid import TRAINING_KNOBS, TrainingGrid
from perfmodel.ranking.node_placement import Order, Placement, links, place
from perfmodel.ranking.training import rank_training

MOST = 200
"""Plans that are placed, at most."""


@dataclass(frozen=True, slots=True)
class PlacedPlan:
    """One plan on chosen nodes.

    Parameters
    ----------
    row : mapping
        Knobs and columns, with step_s and its parts as placed, and given_step_s, the step on the nodes in their order.
    stages : tuple of tuple of str
        Nodes of every group of stages along the pipeline; one stage each, or several in one node.
    layers : tuple of int
        Layers of every group of stages.
    """

    row: Mapping[str, Any]
    stages: tuple[tuple[str, ...], ...]
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlacedRanking:
    """Plans ranked by their step on the nodes that suit each best.

    Parameters
    ----------
    plans : tuple of PlacedPlan
        Fastest first.
    searched, placed : int
        Plans that were estimated, and those of them that were placed: the rest is slower on the best links already.
    infeasible : mapping
        Reason -> number of plans.
    seconds : float
        Time the search took [s].
    context : mapping
        What all plans share.
    """

    plans: tuple[PlacedPlan, ...]
    searched: int
    placed: int
    infeasible: Mapping[str, int]
    seconds: float
    context: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Job:
    model: ModelSpec
    target: TrainingTarget
    workload: TrainingWorkload
    recipe: TrainingRecipe

    def on(self, bandwidth: float) -> TrainingTarget:
        """The same machine with another network, of one tier, between its nodes."""
        system = self.target.system
        around = system.domain + 1
        outer = replace(system.tiers[around], devices=system.max_devices, bandwidth=bandwidth, oversubscription=1.0)
        return replace(self.target, system=replace(system, tiers=(*system.tiers[:around], outer)))


class _Plan:
    """One plan whose step is asked for under many bandwidths."""

    def __init__(self, job: _Job, grid: TrainingGrid, cluster: Cluster) -> None:
        self.job, self.grid, self.cluster = job, grid, cluster
        self.node = job.target.system.scale_up_devices
        self.stage = int(grid.stage[0])
        self.stages = int(grid.pp[0])
        # A stage has whole nodes, or a node whole stages.
        self.groups = self.stages * self.stage // max(self.stage, self.node)
        self._known: dict[float, tuple[dict[str, float], float]] = {}
        self._layers: dict[bytes, tuple[int, ...]] = {}

    @property
    def fits(self) -> bool:
        """Whether stages and nodes divide each other."""
        small, large = sorted((self.stage, self.node))
        return large % small == 0 and self.stages * self.stage == len(self.cluster) * self.node

    def parts(self, bandwidth: float) -> tuple[dict[str, float], float]:
        """Parts of the step with one bandwidth between all nodes, and one hop over it."""
        key = float(f"{bandwidth:.1e}") if np.isfinite(bandwidth) else np.inf  # measured ones differ in every digit
        if key not in self._known:
            target = self.job.on(key if np.isfinite(key) else self.job.target.system.scale_up.bandwidth)
            found = predict_training(self.job.model, target, self.grid, self.job.workload, self.job.recipe)
            plan = self.grid.row(0)
            elements = plan["micro_batch"] * self.job.workload.seq / plan["cp"] * self.job.model.hidden / plan["tp"]
            slowest, _ = Network(target, self.grid).hops(self.job.recipe.activation_bytes * elements)
            hop = float(np.ravel(slowest)[0])
            self._known[key] = {name: float(found[f"{name}_s"][0]) for name in STEP_PARTS}, hop
        return self._known[key]

    def layers(self, order: Order) -> tuple[int, ...]:
        """Layers of every group, so that groups of slower nodes have fewer."""
        total = self.job.model.layers
        if np.ptp(self.cluster.speed) == 0:
            whole = self.job.model.stages(self.stages, int(self.grid.edge_layers[0]))
            each = [sum(stage) for stage in whole]
            size = self.stages // self.groups
            return tuple(sum(each[i * size : (i + 1) * size]) for i in range(self.groups))
        speed = self.cluster.speed[order].min(axis=1)
        key = speed.tobytes()  # the search exchanges nodes, most of them for others as fast
        if key not in self._layers:
            counts = np.full(self.groups, self.stages // self.groups)
            for _ in range(total - int(counts.sum())):
                counts[int(np.argmin((counts + 1) / speed))] += 1
            self._layers[key] = tuple(int(count) for count in counts)
        return self._layers[key]

    def step(self, ring: float, hops: npt.NDArray[np.float64], order: Order) -> dict[str, float]:
        """Parts of the step with the slowest ring and the slowest link of every hop between nodes."""
        parts, own = self.parts(ring)
        out = dict(parts)
        if self.stages > 1:
            over = [self.parts(float(rate))[1] for rate in hops]
            # The estimate takes all hops between nodes to be alike.
            visited = 1.0 + (self.stages - 1.0) * (1.0 - float(self.grid.skipped_stages[0]))
            out["bubble"] += 2.0 * (visited - 1.0) / (self.stages - 1.0) * (sum(over) - len(over) * own)
            if len(hops):
                out["pp"] = self.parts(float(hops.min()))[0]["pp"]
        if np.ptp(self.cluster.speed) or self.cluster.speed[0] != 1.0:
            speed = self.cluster.speed[order].min(axis=1)
            relative = np.array(self.layers(order)) / (self.job.model.layers / self.groups) / speed
            busy = float(relative.max())
            work = ("compute", "pointwise", "host")
            gained = (busy - 1.0) * sum(parts[name] for name in work)
            out |= {name: busy * parts[name] for name in work}
            # What a stage waits for others that have more to do is in the slowest one's work, not in the bubble.
            out["bubble"] = max(out["bubble"] * float(relative.mean()), 0.0) if gained else out["bubble"]
        return out

    def cost(self, ring: float, hops: npt.NDArray[np.float64], order: Order) -> float:
        """Step [s]."""
        return sum(self.step(ring, hops, order).values())


def _row(plan: _Plan, estimate: TrainingEstimate, index: int, placement: Placement) -> PlacedPlan:
    table = plan.cluster.both_ways
    given = np.arange(len(plan.cluster)).reshape(plan.groups, -1)
    parts = plan.step(placement.ring, placement.hops, placement.order)
    row = estimate.row(index)
    seconds = sum(parts.values())
    faster = row["step_s"] / seconds
    row |= {f"{name}_s": value for name, value in parts.items()} | {"step_s": seconds}
    row |= {name: row[name] * faster for name in ("mfu", "hfu", "tokens_per_s", "tokens_per_s_per_gpu")}
    row["given_step_s"] = plan.cost(*links(given, table), given)
    names = tuple(tuple(plan.cluster.names[node] for node in group) for group in placement.order)
    return PlacedPlan(row, names, plan.layers(placement.order))


def rank_placed_training(
    model: ModelSpec,
    target: TrainingTarget,
    cluster: Cluster,
    workload: TrainingWorkload,
    recipe: TrainingRecipe,
    *,
    top: int = 10,
    chosen: Mapping[str, Any] | None = None,
) -> PlacedRanking:
    """Rank training plans on a cluster, each on the nodes that suit it best.

    Every plan is estimated on the cluster's fastest links first, which it cannot beat. From the fastest on plans are
    placed, until no other can be among the wanted ones.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : TrainingTarget
        Device, scale-up domain and software; its network counts for latency alone.
    cluster : Cluster
        Nodes and the bandwidth between them; all are used.
    workload : TrainingWorkload
        Sequence length and sequences per step.
    recipe : TrainingRecipe
        Number formats.
    top : int
        Plans wanted.
    chosen : mapping, optional
        Knobs held at one value, or a list of values to try.

    Returns
    -------
    PlacedRanking
        Ranked plans, never empty.

    Raises
    ------
    NothingFeasibleError
        If no plan fits devices and nodes.
    PlanError
        If the request itself makes no sense.
    """
    start = time.perf_counter()
    if target.system.scale_up is target.system.tiers[-1]:
        raise PlanError(f"{target.system.id} has no network between nodes, so a cluster cannot be made of it")
    job = _Job(model, target, workload, recipe)
    table = cluster.both_ways
    fastest = float(table[np.isfinite(table)].max())
    gpus = len(cluster) * target.system.scale_up_devices
    ranking = rank_training(model, job.on(fastest), gpus, workload, recipe, chosen=chosen)
    infeasible = dict(ranking.infeasible)
    found: list[PlacedPlan] = []
    count = 0
    # Slower devices only make it longer.
    bound = 1.0 / max(1.0, float(cluster.speed.max()))
    for index in ranking.order:
        lower = bound * float(ranking.estimate["step_s"][index])
        if count >= MOST or (len(found) >= top and lower >= found[top - 1].row["step_s"]):
            break
        plan = _Plan(job, ranking.estimate.grid.take([index]), cluster)
        if not plan.fits:
            reason = "neither whole nodes per stage nor whole stages per node"
            infeasible[reason] = infeasible.get(reason, 0) + 1
            continue
        count += 1
        found.append(_row(plan, ranking.estimate, int(index), place(table, plan.groups, plan.cost)))
        found.sort(key=lambda one: (round(one.row["step_s"], 9), *(str(one.row[name]) for name in TRAINING_KNOBS)))
    if not found:
        raise NothingFeasibleError(
            f"no plan of {gpus} x {target.device.id} has whole nodes of {target.system.scale_up_devices} per stage or"
            " whole stages per node"
        )
    seconds = time.perf_counter() - start
    context = dict(ranking.estimate.context) | {"nodes": len(cluster)}
    return PlacedRanking(tuple(found[:top]), ranking.searched, count, infeasible, seconds, context)
