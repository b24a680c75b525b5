"""Ranking of training plans: every split, microbatch and recomputation that fits, fastest step first."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.costs.reliability import DEVICE_MTBF_S, checkpoint_interval, elastic_goodput, goodput, job_mtbf
from perfmodel.errors import NothingFeasibleError, PlanError, UnknownNameError
from perfmodel.estimate.training.predict import MOST_AT_ONCE, TrainingEstimate, predict_training
from perfmodel.estimate.training.target import TrainingTarget
from perfmodel.estimate.training.workload import TrainingWorkload
from perfmodel.layers.latent import LatentAttention
from perfmodel.layers.training_recipe import TrainingRecipe
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.training_grid import TRAINING_KNOBS, TrainingGrid
from perfmodel.parallel.training_splits import listed, training_meshes
from perfmodel.ranking.ties import plan_at
from perfmodel.ranking.training_search import Search, order_of, rounded_s, search_training
from perfmodel.units import format_size

DAY_S = 86400.0
"""Seconds of a day."""

ELASTIC = ("shrink", "reshard")
"""How a job goes on without a failed node: without the data-parallel replica that it was in, or with its layers and
sequences shared out among all others."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """How often a job stops and what that costs.

    Parameters
    ----------
    device_mtbf_s : float
        Mean time between interruptions that one device causes [s].
    checkpoint_s : float
        Time for which the job stands still to write a checkpoint [s].
    restart_s : float
        Time from an interruption until the job computes again [s].
    elastic : str
        One of `ELASTIC` where the job goes on without what failed, instead of going back to a checkpoint.
    repair_s : float
        Time until a failed node is back, where it goes on without [s].
    recovery_s : float
        Time from a failure until it does [s].
    """

    device_mtbf_s: float = DEVICE_MTBF_S
    checkpoint_s: float = 60.0
    restart_s: float = 600.0
    elastic: str = ""
    repair_s: float = 4 * 3600.0
    recovery_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("device_mtbf_s", "checkpoint_s", "restart_s", "repair_s", "recovery_s"):
            value = getattr(self, name)
            if not np.isfinite(value) or value < 0 or (name == "device_mtbf_s" and value == 0):
                raise PlanError(f"{name} must be a time, not {value:g}")
        if self.elastic not in ("", *ELASTIC):
            raise UnknownNameError("elasticity", self.elastic, ELASTIC)

    def columns(self, row: Mapping[str, Any], gpus: int, node: int) -> dict[str, float]:
        """What it means for a job.

        Parameters
        ----------
        row : mapping
            Plan, with its step_s.
        gpus : int
            Devices of the job.
        node : int
            Devices that a failure takes away together.

        Returns
        -------
        dict
            goodput (useful share of the time) and job_mtbf_s; checkpoint_interval_s where checkpoints are what a
            failed job goes back to.
        """
        mean = job_mtbf(gpus, device_mtbf_s=self.device_mtbf_s)
        if self.elastic:
            # A replica that lost a device stands still as a whole; a node's work is shared out among all.
            lost = max(node / gpus, 1.0 / row["dp"]) if self.elastic == "shrink" else min(node / gpus, 1.0)
            share = elastic_goodput(row["step_s"], self.recovery_s, self.repair_s, mean, lost)
            return {"goodput": float(share), "job_mtbf_s": float(mean)}
        interval = checkpoint_interval(self.checkpoint_s, mean)
        share = goodput(interval, self.checkpoint_s, self.restart_s, mean)
        return {"goodput": float(share), "checkpoint_interval_s": float(interval), "job_mtbf_s": float(mean)}


@dataclass(frozen=True, slots=True)
class TrainingRanking:
    """Ranked training plans and why the rest is not among them.

    Parameters
    ----------
    estimate : TrainingEstimate
        Every plan that was searched, or the fastest of very many.
    order : numpy.ndarray
        Positions of the feasible plans, fastest first.
    gpus : int
        Devices of every plan.
    tokens : float
        Tokens to train on; 0 where no budget was given.
    seconds : float
        Time the search took [s].
    infeasible : mapping
        Reason -> number of plans.
    reliability : Reliability, optional
        Interruptions that the days of the token budget have to pay for.
    searched : int
        Plans evaluated; of a very large space `estimate` holds the fastest alone.
    node : int
        Devices of a node.
    """

    estimate: TrainingEstimate
    order: npt.NDArray[np.int64]
    gpus: int
    tokens: float
    seconds: float
    infeasible: Mapping[str, int] = field(default_factory=dict)
    reliability: Reliability | None = None
    searched: int = 0
    node: int = 1

    def __len__(self) -> int:
        return len(self.order)

    def row(self, rank: int) -> dict[str, Any]:
        """One ranked plan.

        Parameters
        ----------
        rank : int
            1 for the fastest.

        Returns
        -------
        dict
            The estimate's row with rank and gpus, and with days where a token budget was given.
        """
        row = {"rank": rank, "gpus": self.gpus} | self.estimate.row(plan_at(self.order, rank))
        if self.reliability:
            row |= self.reliability.columns(row, self.gpus, self.node)
        if self.tokens:
            row["days"] = self.tokens / row["tokens_per_s"] / DAY_S / row.get("goodput", 1.0)
        return row


def rank_training(
    model: ModelSpec,
    target: TrainingTarget,
    gpus: int,
    workload: TrainingWorkload,
    recipe: TrainingRecipe,
    *,
    tokens: float = 0.0,
    chosen: Mapping[str, Any] | None = None,
    reliability: Reliability | None = None,
) -> TrainingRanking:
    """Rank every training plan of a number of devices by the time of its step.

    Ties go to the smaller knobs in the order of `TRAINING_KNOBS`, so the order does not depend on how plans were
    enumerated. Fully sharded weights are tried without a pipeline only.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : TrainingTarget
        System, kernels and stack.
    gpus : int
        Devices to use.
    workload : TrainingWorkload
        Sequence length and sequences per step.
    recipe : TrainingRecipe
        Number formats.
    tokens : float
        Tokens to train on; 0 for no budget.
    chosen : mapping, optional
        Knobs held at one value, or a list of values to try.
    reliability : Reliability, optional
        Interruptions to be paid for.

    Returns
    -------
    TrainingRanking
        Ranked plans, never empty.

    Raises
    ------
    NothingFeasibleError
        If no plan fits; the message names the nearest miss.
    PlanError
        If the request itself makes no sense.
    """
    start = time.perf_counter()
    if tokens < 0 or not np.isfinite(tokens):
        raise PlanError(f"tokens must not be negative, not {tokens:g}")
    if gpus > target.system.max_devices:
        raise PlanError(
            f"{target.system.id} connects at most {target.system.max_devices} devices, and {gpus} are wanted"
        )
    sizes = model.divisors()
    held = chosen or {}
    parts = [part for block, _ in model.blocks for part in block.parts]
    latent = ["latent"] if any(isinstance(part, LatentAttention) for part in parts) else []
    modes = ["none", "selective", "full"] if target.stack.unfused else ["none", "pointwise", *latent, "full"]
    meshes = training_meshes(
        gpus,
        global_batch=int(np.max(workload.global_batch)),
        tensor_limit=sizes.get("heads", gpus),
        layers=model.layers,
        experts=sizes.get("experts", 0),
        seq=int(workload.seq),
        recompute=modes if held.get("sequence_chunks", 1) == 1 else ["full"],
        zero=(1, 2, 3),
        # Pipelines share out gradients, but keep their weights from one microbatch to the next, as Llama 3 did
        # (arXiv:2407.21783, section 3.3.2).
        piped_zero=(1, 2),
        chosen=chosen,
    )
    searched = sum(mesh.size for mesh in meshes)
    if searched <= MOST_AT_ONCE:
        estimate = predict_training(model, target, listed(meshes), workload, recipe)
        order, infeasible = _order(estimate), estimate.verdicts.counts()
        crowded = Search()
        crowded.add(estimate)
    else:
        crowded = search_training(model, target, meshes, workload, recipe)
        infeasible = crowded.infeasible
        kept = TrainingGrid(**crowded.knobs) if crowded.feasible else meshes[0]
        estimate = predict_training(model, target, kept, workload, recipe)
        order = np.arange(len(crowded.seconds))
    if not len(order):
        raise NothingFeasibleError(_nearest_miss(model, target, gpus, estimate, crowded))
    seconds = time.perf_counter() - start
    node = target.system.scale_up_devices
    return TrainingRanking(estimate, order, gpus, tokens, seconds, infeasible, reliability, searched, node)


def _order(estimate: TrainingEstimate) -> npt.NDArray[np.int64]:
    """Feasible plans by step time, then by their knobs."""
    found = np.flatnonzero(estimate.feasible)
    knobs = {name: estimate.grid.column(name)[found] for name in TRAINING_KNOBS}
    return np.asarray(found[order_of(rounded_s(estimate["step_s"][found]), knobs)], dtype=np.int64)


def _nearest_miss(
    model: ModelSpec, target: TrainingTarget, gpus: int, estimate: TrainingEstimate, search: Search
) -> str:
    """Say by how much the plan that nearly fits does not."""
    capacity = target.device.memory_bytes
    if search.nearest is None:
        return f"no plan of {gpus} x {target.device.id} trains {model.id}: {estimate.verdicts.reason(0)}"
    plan, need = search.nearest
    return (
        f"{model.id} does not fit {gpus} x {target.device.id}: nearest is {training_plan_name(plan.row(0))}, which"
        f" needs {format_size(need, binary=True)} of {format_size(capacity, binary=True)} per device;"
        " use more devices, or a smaller microbatch, and see --stack for what software adds"
    )


def training_plan_name(row: Mapping[str, Any]) -> str:
    """Name a plan by the knobs that are not at their default.

    Parameters
    ----------
    row : mapping
        Knobs of a plan.

    Returns
    -------
    str
        For instance "tp8 pp4 dp32 vp2 mb1 full recompute".

    Examples
    --------
    >>> training_plan_name({"tp": 8, "pp": 1, "dp": 4, "micro_batch": 2, "recompute": "full", "zero": 3})
    'tp8 dp4 mb2 ZeRO-3 full recompute'
    """
    words = [f"{name}{row[name]}" for name in ("tp", "pp", "dp", "cp", "ep", "vp") if row.get(name, 1) > 1]
    words.append(f"mb{row.get('micro_batch', 1)}")
    if row.get("zero", 0) >= 2:
        words.append(f"ZeRO-{row['zero']}")
    if row.get("shard_copies", 1) > 1:
        words.append(f"{row['shard_copies']} shard copies")
    if row.get("tp_overlap"):
        words.append("TP overlap")
    if row.get("edge_layers"):
        words.append(f"edges count {row['edge_layers']}")
    if row.get("skipped_stages"):
        words.append(f"{100 * row['skipped_stages']:g}% of stages skipped")
    if row.get("schedule", "1f1b") != "1f1b":
        words.append(str(row["schedule"]))
    if row.get("recompute", "none") != "none":
        words.append(f"{row['recompute']} recompute")
    if row.get("sequence_chunks", 1) > 1:
        words.append(f"in {row['sequence_chunks']} pieces")
    places = ("activations", "optimizer", "weights")
    words += [f"{100 * row[f'offload_{n}']:g}% of {n} on the host" for n in places if row.get(f"offload_{n}")]
    return " ".join(words)
