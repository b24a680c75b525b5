"""Training: seconds and peak bytes of one optimizer step for every plan, with their parts and with reasons."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.training_schedules import visited_stages
from perfmodel.errors import PlanError
from perfmodel.estimate.result import Column, Columns, Predictions, join_columns
from perfmodel.estimate.training.block import BlockTime, block_time, with_offloaded_activations
from perfmodel.estimate.training.flops import step_flops
from perfmodel.estimate.training.kernels import Kernels
from perfmodel.estimate.training.memory import MEMORY_PARTS, TrainingMemory, kept_bytes, training_memory
from perfmodel.estimate.training.network import Network
from perfmodel.estimate.training.pipeline import STEP_PARTS, step_of, step_seconds
from perfmodel.estimate.training.rules import training_rules
from perfmodel.estimate.training.shape import ModelWeights, micro_batch, model_weights
from perfmodel.estimate.training.sharding import with_sharded_weights
from perfmodel.estimate.training.streams import with_both_directions, with_streamed_weights
from perfmodel.estimate.training.target import TrainingTarget
from perfmodel.layers.training import embedding_work, head_work, layer_work
from perfmodel.layers.training_recipe import TrainingRecipe
from perfmodel.layers.training_work import LayerWork, MicroBatch
from perfmodel.models.block import Block
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.mesh import mesh_parts, pick, take_part
from perfmodel.parallel.rules import Verdicts, joined, judge
from perfmodel.parallel.training_grid import TrainingGrid

MOST_AT_ONCE = 65536
"""Plans that are predicted at once: a column of them is half a megabyte and stays in the processor's cache."""


@dataclass(frozen=True, slots=True)
class TrainingWorkload:
    """What one optimizer step trains on.

    Parameters
    ----------
    seq : float
        Tokens of a sequence.
    global_batch : float or array
        Sequences of a step; an array broadcasts against the plans.
    """

    seq: float
    global_batch: Floats

    def __post_init__(self) -> None:
        for name in ("seq", "global_batch"):
            values = as_floats(getattr(self, name))
            if not np.all(np.isfinite(values)) or np.any(values < 1) or np.any(values != np.floor(values)):
                raise PlanError(f"{name} must be a whole number of at least 1, not {float(values.ravel()[0]):g}")


@dataclass(frozen=True, slots=True, eq=False)
class TrainingEstimate(Predictions):
    """Predictions for a grid of training plans.

    Parameters
    ----------
    grid : TrainingGrid
        The plans.
    columns : Columns
        Column name -> one float64 per plan, flattened; SI units.
    verdicts : Verdicts
        Feasibility and reasons.
    memory : tuple of (tuple of int, TrainingMemory)
        Shape and memory, by part and by operator, of the blocks of plans that were predicted at once.
    context : mapping
        What all plans share.
    """

    grid: TrainingGrid
    columns: Columns
    verdicts: Verdicts
    memory: tuple[tuple[tuple[int, ...], TrainingMemory], ...]
    context: Mapping[str, Any] = field(default_factory=dict)

    def row(self, index: int) -> dict[str, Any]:
        """Everything known about one plan.

        Parameters
        ----------
        index : int
            Flat position in the grid.

        Returns
        -------
        dict
            Knobs, columns, feasible and reason.
        """
        columns = {name: self.columns.at(name, index) for name in self.columns}
        return self.grid.row(index) | columns | self.verdict(index)

    def activations(self, index: int) -> dict[str, float]:
        """Activations of one plan's fullest device by operator.

        Parameters
        ----------
        index : int
            Flat position in the grid.

        Returns
        -------
        dict
            Operator -> bytes, largest first, nothing that is zero [B].
        """
        blocks = iter(self.memory)
        shape, memory = next(blocks)
        while index >= np.prod(shape):
            index -= int(np.prod(shape))
            shape, memory = next(blocks)
        sizes = {name: pick(value, shape, index) for name, value in memory.activations().items()}
        return dict(sorted(((n, v) for n, v in sizes.items() if v > 0), key=lambda pair: -pair[1]))


def block_work(block: Block, micro: MicroBatch) -> LayerWork:
    """List what a whole block does in one microbatch.

    Parameters
    ----------
    block : Block
        Block of the model.
    micro : MicroBatch
        Sizes and manner of execution.

    Returns
    -------
    LayerWork
        Work of all its parts.
    """
    work = LayerWork()
    for part in block.parts:
        work = work + layer_work(part, micro)
    return work


def training_blocks(
    model: ModelSpec, network: Network, seq: float, recipe: TrainingRecipe
) -> tuple[
    tuple[LayerWork, ...],
    tuple[LayerWork, LayerWork],
    ModelWeights,
    tuple[BlockTime, ...],
    tuple[BlockTime, BlockTime],
]:
    """Work, weights and time of every distinct block, and of embedding and head.

    Parameters
    ----------
    model : ModelSpec
        Model.
    network : Network
        Plans on the fabric of what they run on.
    seq : float
        Tokens of a sequence.
    recipe : TrainingRecipe
        Number formats.

    Returns
    -------
    tuple
        Works of blocks, works of embedding and head, weights of all, times of blocks, times of embedding and head.
    """
    grid, target = network.grid, network.target
    micro = micro_batch(grid, seq, recipe, target)
    layer_input = recipe.activation_bytes * as_floats(micro.outer_rows) * model.hidden
    kernels = Kernels(target, recipe)
    works = tuple(block_work(block, micro) for block, _ in model.blocks)
    edges = (embedding_work(model.embedding, micro), head_work(model.head, micro))
    weights = model_weights(model, grid, recipe, works)
    times = []
    for size, work in zip(weights.blocks, works, strict=True):
        time = with_sharded_weights(block_time(work, kernels, network), size, kernels, network)
        time = with_offloaded_activations(time, kept_bytes(work, grid, layer_input), target, grid)
        times.append(with_streamed_weights(with_both_directions(time, kernels, grid), size, kernels, grid))
    ends = []
    for size, work in zip((weights.table, weights.head), edges, strict=True):
        time = block_time(work, kernels, network, repeats=False, launches=False)
        ends.append(with_sharded_weights(time, size, kernels, network, repeats=False))
    return works, edges, weights, tuple(times), (ends[0], ends[1])


def predict_training(
    model: ModelSpec,
    target: TrainingTarget,
    grid: TrainingGrid,
    workload: TrainingWorkload,
    recipe: TrainingRecipe,
) -> TrainingEstimate:
    """Predict step time and peak memory of every plan.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : TrainingTarget
        System, kernels and stack.
    grid : TrainingGrid
        Plans.
    workload : TrainingWorkload
        Sequence length and sequences per step.
    recipe : TrainingRecipe
        Number formats.

    Returns
    -------
    TrainingEstimate
        step_s and its parts, peak_bytes and its parts, mfu, hfu, tokens per second; one value per plan.
    """
    batch = as_floats(workload.global_batch)
    if np.broadcast_shapes(grid.shape, batch.shape) != grid.shape:
        raise PlanError(f"global_batch of shape {batch.shape} does not broadcast to the plans' shape {grid.shape}")
    if grid.size <= MOST_AT_ONCE:
        parts = [_predict(model, target, grid, workload.seq, batch, recipe)]
    else:
        parts = [
            _predict(model, target, grid.part(part), workload.seq, take_part(batch, part), recipe)
            for part in mesh_parts(grid.shape, MOST_AT_ONCE)
        ]
    context = {
        "model": model.id,
        "system": target.system.id,
        "device": target.device.id,
        "stack": target.stack.id,
        "recipe": recipe.name,
        "method": recipe.method,
        "workload": workload,
        "peak_flops": Kernels(target, recipe).peak_flops(),
    }
    columns, verdicts, memory = zip(*parts, strict=True)
    return TrainingEstimate(grid, join_columns(columns), joined(verdicts), memory, context)


def _predict(
    model: ModelSpec,
    target: TrainingTarget,
    grid: TrainingGrid,
    seq: float,
    batch: npt.NDArray[np.float64],
    recipe: TrainingRecipe,
) -> tuple[Columns, Verdicts, tuple[tuple[int, ...], TrainingMemory]]:
    """Predict so many plans as fit into the processor's cache."""
    network = Network(target, grid)
    microbatches = batch / (grid.dp * grid.micro_batch)
    works, edges, weights, times, ends = training_blocks(model, network, seq, recipe)
    stream = recipe.activation_bytes * grid.micro_batch * seq / grid.cp * model.hidden
    step = step_of(model, network, recipe, weights, times, ends, stream / grid.tp, microbatches)
    kept = stream / np.where(grid.sequence_parallel > 0, grid.tp, 1.0)
    memory = training_memory(model, target, grid, recipe, works, edges, weights, kept, microbatches)
    seconds = as_floats(step_seconds(step.parts))
    peak = as_floats(memory.peak)
    passed = visited_stages(grid.pp, grid.skipped_stages) / grid.pp
    own, done = step_flops(model, seq, batch, grid.recompute, grid.recompute_share, recipe.method, passed)
    peak_flops = Kernels(target, recipe).peak_flops()
    used = grid.devices * peak_flops * seconds
    need = peak + target.stack.framework_bytes
    named: dict[str, Column] = {
        "step_s": seconds,
        "peak_bytes": peak,
        **{f"{name}_s": step.parts[name] for name in STEP_PARTS},
        **{f"{name}_bytes": memory.parts[name] for name in MEMORY_PARTS},
        "device_bytes": need,
        "host_bytes": memory.host,
        "microbatches": microbatches,
        "mfu": lambda: own / used,
        "hfu": lambda: done / used,
        "tokens_per_s": lambda: batch * seq / seconds,
        "tokens_per_s_per_gpu": lambda: batch * seq / (seconds * grid.devices),
    }
    shape = grid.shape
    verdicts = judge(shape, training_rules(model, target, grid, need, batch))
    return Columns([shape], [named]), verdicts, (shape, memory)
