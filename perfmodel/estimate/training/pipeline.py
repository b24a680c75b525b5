"""Seconds of one optimizer step: blocks make stages, stages a pipeline; gradients are exchanged, weights updated."""

from dataclasses import dataclass

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.overlap import beside_exchange, host_stream
from perfmodel.costs.training import optimizer_bytes
from perfmodel.costs.training_schedules import SCHEDULES, schedule_bubble, visited_stages
from perfmodel.estimate.training.block import BLOCK_PARTS, BlockTime, Parts, total
from perfmodel.estimate.training.network import Network
from perfmodel.estimate.training.shape import ModelWeights, StageKind, Weights, stage_kinds
from perfmodel.estimate.training.sharding import shard_copies
from perfmodel.estimate.training.target import TrainingTarget
from perfmodel.layers.training_recipe import TrainingRecipe
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.training_grid import TrainingGrid
from perfmodel.parallel.training_groups import training_group

STEP_PARTS = ("compute", "pointwise", "tp", "cp", "ep", "pp", "bubble", "dp", "optimizer", "offload", "host")
"""What a step's time is made of, in the order in which reports show it."""

STREAM_EFFICIENCY = 0.85
"""Achieved part of the memory bandwidth in the optimizer's fused passes over long arrays."""


PERTURBATIONS = 4.0
"""Passes over all weights of a zeroth-order step: forward, back twice as far, home, and the update.

Malladi et al. 2023, Fine-Tuning Language Models with Just Forward Passes (arXiv:2305.17333), algorithm 1.
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """Time and weights of one kind of stage.

    Parameters
    ----------
    parts : dict
        Part of `BLOCK_PARTS` -> seconds per microbatch [s].
    forward_s, backward_s, weight_s : float or array
        Times of one microbatch: forward, backward, and the weight gradients in it [s].
    weights : Weights
        Elements on one device.
    layers : float
        Blocks of the stage.
    """

    parts: Parts
    forward_s: Floats
    backward_s: Floats
    weight_s: Floats
    weights: Weights
    layers: float

    @property
    def seconds(self) -> Floats:
        """Forward and backward time of one microbatch [s]."""
        return as_floats(self.forward_s) + self.backward_s


def stage_of(
    kind: StageKind,
    blocks: tuple[BlockTime, ...],
    edges: tuple[BlockTime, BlockTime],
    weights: ModelWeights,
) -> Stage:
    """Sum blocks and edges to a stage.

    Parameters
    ----------
    kind : StageKind
        Which blocks, and whether embedding and head are in it.
    blocks : tuple of BlockTime
        Time of every distinct block.
    edges : tuple of BlockTime
        Time of embedding and head.
    weights : ModelWeights
        Weights of the model's parts.

    Returns
    -------
    Stage
        Times of one microbatch.
    """
    chosen = [(float(count), time) for count, time in zip(kind.blocks, blocks, strict=True) if count]
    chosen += [(1.0, edges[0])] if kind.first else []
    chosen += [(1.0, edges[1])] if kind.last else []
    parts: Parts = dict.fromkeys(BLOCK_PARTS, as_floats(0.0))
    forward: Floats = 0.0
    backward: Floats = 0.0
    weight: Floats = 0.0
    first: Floats = as_floats(0.0)
    last: Floats = as_floats(0.0)
    for count, time in chosen:
        for name in BLOCK_PARTS:
            parts[name] = parts[name] + count * (as_floats(time.forward[name]) + time.backward[name])
        forward = forward + count * as_floats(time.forward_s)
        backward = backward + count * as_floats(time.backward_s)
        weight = weight + count * as_floats(time.weight_s)
        first, last = np.maximum(first, time.first_s), np.maximum(last, time.last_s)
    parts["dp"] = parts["dp"] + first + last
    forward, backward = forward + first, backward + last
    return Stage(parts, forward, backward, weight, weights.of(kind), float(sum(kind.blocks)))


@dataclass(frozen=True, slots=True)
class Pipelined:
    """One optimizer step.

    Parameters
    ----------
    parts : dict
        Part of `STEP_PARTS` -> seconds; their sum is the step [s].
    forward_s, backward_s : float or array
        One microbatch in the slowest stage [s].
    """

    parts: Parts
    forward_s: Floats
    backward_s: Floats


def step_of(
    model: ModelSpec,
    network: Network,
    recipe: TrainingRecipe,
    weights: ModelWeights,
    blocks: tuple[BlockTime, ...],
    edges: tuple[BlockTime, BlockTime],
    hop_bytes: Floats,
    microbatches: Floats,
) -> Pipelined:
    r"""Compose one optimizer step from the times of blocks.

    .. math:: t = m\,\max_i t_i + \frac{\sum_i t_i - \max_i t_i}{v}\,\beta + t_{dp} + t_{opt}

    with the schedule's idle time relative to plain 1F1B as :math:`\beta`.

    Parameters
    ----------
    model : ModelSpec
        Model.
    network : Network
        Plans on the fabric of what they run on.
    recipe : TrainingRecipe
        Number formats.
    weights : ModelWeights
        Weights of the model's parts.
    blocks : tuple of BlockTime
        Time of every distinct block.
    edges : tuple of BlockTime
        Time of embedding and head.
    hop_bytes : float or array
        Activations that one device sends to the next stage [B].
    microbatches : float or array
        Microbatches of the step.

    Returns
    -------
    Pipelined
        Seconds of the step by part.
    """
    grid, target = network.grid, network.target
    result: dict[str, Floats] = {}
    for mine, kinds in stage_kinds(model, grid):
        found = [(kind, stage_of(kind, blocks, edges, weights)) for kind in kinds]
        chosen = _compose(found, network, recipe, microbatches)
        for name, value in chosen.items():
            result[name] = np.where(mine, value, result.get(name, 0.0))
    piped = grid.pp > 1
    hop, every_hop = network.hops(hop_bytes)
    visited = visited_stages(grid.pp, grid.skipped_stages)
    microbatches = as_floats(microbatches) * visited / grid.pp
    both_ways = np.equal(grid.schedule, SCHEDULES.index("dualpipe"))
    hidden = piped & ((grid.vp > 1) | both_ways) & target.stack.hidden_hops
    plain = 2.0 * hop * np.where(target.stack.hidden_hops, 1.0, grid.vp)
    # A hop hides behind the next chunk, if it does not take longer.
    chunks = (as_floats(result["forward_s"]) / grid.vp, as_floats(result["backward_s"]) / grid.vp)
    beyond = grid.vp * (np.maximum(hop - chunks[0], 0.0) + np.maximum(hop - chunks[1], 0.0))
    result["pp"] = microbatches * np.where(hidden, beyond, plain)
    result["bubble"] = as_floats(result["bubble"]) + 2.0 * every_hop
    if weights.tied:
        gradient = target.stack.gradient_bytes * as_floats(weights.table.learned)
        once = network.collective("all_reduce", gradient, "ends")
        result["dp"] = as_floats(result["dp"]) + once
    parts = {name: result[name] for name in STEP_PARTS}
    return Pipelined(parts, result["forward_s"], result["backward_s"])


def _compose(
    found: list[tuple[StageKind, Stage]],
    network: Network,
    recipe: TrainingRecipe,
    microbatches: Floats,
) -> dict[str, Floats]:
    """Step of a pipeline with one number of stages, without the hops between them."""
    grid, target = network.grid, network.target
    everything: Floats = 0.0
    slowest = found[0][1]
    seconds: Floats = slowest.seconds
    forward: Floats = slowest.forward_s
    backward: Floats = slowest.backward_s
    weight: Floats = slowest.weight_s
    parts: Parts = dict(slowest.parts)
    exchange: Floats = 0.0
    update: Floats = 0.0
    states: Floats = 0.0
    for kind, stage in found:
        everything = everything + kind.count * as_floats(stage.seconds)
        slower = as_floats(stage.seconds) > seconds
        parts = {name: np.where(slower, stage.parts[name], parts[name]) for name in BLOCK_PARTS}
        forward = np.where(slower, stage.forward_s, forward)
        backward = np.where(slower, stage.backward_s, backward)
        weight = np.where(slower, stage.weight_s, weight)
        seconds = np.maximum(seconds, stage.seconds)
        exchange = np.maximum(exchange, _exchange(stage, network, recipe))
        once = as_floats(_update(stage.weights, target, grid, recipe))
        states = np.maximum(states, _streamed_states(stage.weights, once, target, grid, recipe))
        update = np.maximum(update, once)
    idle = as_floats(everything) - seconds
    plain = as_floats(schedule_bubble(grid.pp, forward, backward, weight))
    wanted = as_floats(schedule_bubble(grid.pp, forward, backward, weight, grid.vp, schedule=grid.schedule))
    ratio = np.where(plain > 0.0, wanted / np.where(plain > 0.0, plain, 1.0), 0.0)
    # A stage sees the microbatches that do not skip it, and the pipeline is as deep as their way through it.
    visited = visited_stages(grid.pp, grid.skipped_stages)
    passing = as_floats(microbatches) * visited / grid.pp
    ratio = ratio * (visited - 1.0) / np.maximum(grid.pp - 1.0, 1.0)
    out: dict[str, Floats] = {name: passing * value for name, value in parts.items()}
    out["bubble"] = idle * ratio
    out["dp"] = out["dp"] + exchange
    out["optimizer"] = update
    out["offload"] = out["offload"] + states
    return out | {"forward_s": forward, "backward_s": backward}


def _exchange(stage: Stage, network: Network, recipe: TrainingRecipe) -> Floats:
    """Exposed exchange of gradients (and of updated weights, where the optimizer is sharded) of one stage."""
    grid, target, stack = network.grid, network.target, network.target.stack
    reduce: Floats = 0.0
    scatter: Floats = 0.0
    gather: Floats = 0.0
    across: Floats = 0.0  # copies of a shard reduce its gradients once per step, under every stage of ZeRO
    for amount, name in ((stage.weights.learned, "dp"), (stage.weights.learned_experts, "edp")):
        gradients = stack.gradient_bytes * as_floats(amount)
        if np.any(grid.zero < 1):
            reduce = reduce + as_floats(network.collective("all_reduce", gradients, name))
        if not np.any(grid.zero >= 1):
            continue
        scatter = scatter + as_floats(network.collective("reduce_scatter", gradients, f"{name}_shards"))
        shard = gradients / training_group(grid, f"{name}_shards").ranks
        across = across + as_floats(network.collective("all_reduce", shard, f"{name}_copies"))
        updated = recipe.weight_bytes * as_floats(amount)
        gather = gather + as_floats(network.collective("all_gather", updated, f"{name}_shards"))
    # Only the last microbatch's backward and the next step's first forward hide anything, all but one layer of each.
    hides = grid.grad_overlap * (stage.layers - 1.0) / max(stage.layers, 1.0)
    products = as_floats(stage.parts["compute"]) / np.maximum(stage.seconds, np.finfo(float).tiny)
    share = np.where(hides > 0.0, target.cores_taken * products, 0.0)

    def left(exchange_s: Floats, window_s: Floats) -> Floats:
        window = hides * as_floats(window_s)
        return as_floats(beside_exchange(window, exchange_s, taken_share=share)) - window

    # From ZeRO 2 on gradients are scattered, and under ZeRO 3 weights gathered, with every microbatch.
    scattered = across + np.where(grid.zero >= 2, 0.0, scatter)
    sharded = left(scattered, stage.backward_s) + np.where(grid.zero >= 3, 0.0, left(gather, stage.forward_s))
    if stack.shard_rebuilds:
        rebuilt = stage.layers * stack.shard_rebuilds * shard_copies(network, "dp_shards")
        sharded = sharded + np.where(grid.zero >= 3, rebuilt, 0.0)
    return np.where(grid.zero >= 1, sharded, left(reduce, stage.backward_s))


def _update(weights: Weights, target: TrainingTarget, grid: TrainingGrid, recipe: TrainingRecipe) -> Floats:
    """Optimizer step of one stage."""
    rate = STREAM_EFFICIENCY * target.device.memory_bandwidth
    if recipe.method == "forward":
        held = as_floats(weights.dense) + weights.experts
        return PERTURBATIONS * 2.0 * recipe.weight_bytes * held / rate
    dense, experts = _state_ranks(grid)
    moved = as_floats(optimizer_bytes(weights.learned, dense)) + optimizer_bytes(weights.learned_experts, experts)
    return moved / rate


def _state_ranks(grid: TrainingGrid) -> tuple[Floats, Floats]:
    """Devices that share the optimizer's states, of dense weights and of experts."""
    groups = (training_group(grid, name) for name in ("dp_shards", "edp_shards"))
    dense, experts = (np.where(grid.zero >= 1, group.ranks, 1.0) for group in groups)
    return dense, experts


def _streamed_states(
    weights: Weights, update_s: Floats, target: TrainingTarget, grid: TrainingGrid, recipe: TrainingRecipe
) -> Floats:
    """What states from the host's memory add to the update, in which they come to the device and go back.

    Of weights that lie there too, gradients come with the states and new weights leave with them.
    """
    if recipe.method == "forward" or not (np.any(grid.offload_optimizer > 0) or np.any(grid.offload_weights > 0)):
        return 0.0
    dense, experts = _state_ranks(grid)
    held = as_floats(weights.learned) / dense + as_floats(weights.learned_experts) / experts
    states = grid.offload_optimizer * recipe.optimizer_bytes * held
    also = grid.offload_weights * held if recipe.method == "full" else 0.0
    return host_stream(
        states + target.stack.gradient_bytes * also,
        states + recipe.weight_bytes * also,
        update_s,
        bandwidth=target.device.host_bandwidth or np.inf,
    )


def step_seconds(parts: Parts) -> Floats:
    """Sum of a step's parts.

    Parameters
    ----------
    parts : dict
        Part of `STEP_PARTS` -> seconds [s].

    Returns
    -------
    float or array
        The step [s].
    """
    return total(parts)
