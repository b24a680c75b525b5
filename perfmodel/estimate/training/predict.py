"""Training: seconds and peak bytes of one optimizer step for every plan, with their parts and with reasons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats, in_rows
from perfmodel.costs.training_schedules import visited_stages
from perfmodel.errors import PlanError
from perfmodel.estimate.compiled import Same
from perfmodel.estimate.result import Column, Columns, Predictions, join_columns
from perfmodel.estimate.training.kernels import Kernels
from perfmodel.estimate.training.memory import MEMORY_PARTS, TrainingMemory, training_memory
from perfmodel.estimate.training.mixture import mixture
from perfmodel.estimate.training.network import Network
from perfmodel.estimate.training.pipeline import STEP_PARTS, step_of, step_seconds
from perfmodel.estimate.training.rules import training_rules
from perfmodel.estimate.training.target import TrainingTarget
from perfmodel.estimate.training.workload import TrainingWorkload
from perfmodel.layers.training_recipe import TrainingRecipe
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.mesh import mesh_parts, pick, take_part
from perfmodel.parallel.rules import Verdicts, joined, judge
from perfmodel.parallel.training_grid import TrainingGrid
from perfmodel.programs import Programs, repeated
from perfmodel.recording import FEW

MOST_AT_ONCE = 65536
"""Plans that are predicted at once: a column of them is half a megabyte and stays in the processor's cache."""


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
        parts = [_predict(model, target, grid, workload, batch, recipe)]
    else:
        parts = [
            _predict(model, target, grid.part(part), workload, take_part(batch, part), recipe)
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
    workload: TrainingWorkload,
    batch: npt.NDArray[np.float64],
    recipe: TrainingRecipe,
) -> tuple[Columns, Verdicts, tuple[tuple[int, ...], TrainingMemory]]:
    """Predict so many plans as fit into the processor's cache."""
    shape = grid.shape
    step = (_of_few if grid.size <= FEW and not workload.mixed else _calculated)(
        model, target, grid, workload, batch, recipe
    )
    seconds, memory = as_floats(step_seconds(step.parts)), step.memory
    peak = as_floats(memory.peak)
    peak_flops = Kernels(target, recipe).peak_flops()
    used = grid.devices * peak_flops * seconds
    need = peak + target.stack.framework_bytes
    tokens = batch * workload.mean_tokens
    named: dict[str, Column] = {
        "step_s": seconds,
        "peak_bytes": peak,
        **{f"{name}_s": step.parts[name] for name in STEP_PARTS},
        **{f"{name}_bytes": memory.parts[name] for name in MEMORY_PARTS},
        "device_bytes": need,
        "host_bytes": memory.host,
        "microbatches": step.microbatches,
        "mfu": lambda: step.own_flops / used,
        "hfu": lambda: step.done_flops / used,
        "tokens_per_s": lambda: tokens / seconds,
        "tokens_per_s_per_gpu": lambda: tokens / (seconds * grid.devices),
    }
    verdicts = judge(shape, training_rules(model, target, grid, need, batch, workload))
    return Columns([shape], [named]), verdicts, (shape, memory)


@dataclass(frozen=True, slots=True)
class _Step:
    """Parts of a step [s], memory [B], microbatches and operations of the model and done [FLOP]."""

    parts: dict[str, Floats]
    memory: TrainingMemory
    microbatches: Floats
    own_flops: Floats
    done_flops: Floats


def _calculated(
    model: ModelSpec,
    target: TrainingTarget,
    grid: TrainingGrid,
    workload: TrainingWorkload,
    batch: npt.NDArray[np.float64],
    recipe: TrainingRecipe,
) -> _Step:
    network = Network(target, grid)
    mix = mixture(model, network, workload, batch, recipe)
    blocks, microbatches = mix.blocks, mix.microbatches
    width = recipe.activation_bytes * model.hidden / grid.cp
    sent = width * mix.tokens / grid.tp
    step = step_of(model, network, recipe, blocks.weights, blocks.times, blocks.ends, sent, microbatches)
    kept = width * mix.held_tokens / np.where(grid.sequence_parallel > 0, grid.tp, 1.0)
    memory = training_memory(
        model, target, grid, recipe, blocks.works, blocks.edges, blocks.weights, kept, microbatches, mix.retained
    )
    passed = visited_stages(grid.pp, grid.skipped_stages) / grid.pp
    own, done = mix.flops(model, batch, grid, recipe.method, passed)
    return _Step(mix.waited(step.parts), memory, microbatches, own, done)


def _of_few(
    model: ModelSpec,
    target: TrainingTarget,
    grid: TrainingGrid,
    workload: TrainingWorkload,
    batch: npt.NDArray[np.float64],
    recipe: TrainingRecipe,
) -> _Step:
    """Repeat what was recorded of other plans."""
    names, shape, size = [name for name, _ in grid.knobs()], grid.shape, grid.size

    def calculate(inputs: Sequence[Any]) -> list[Mapping[str, Any]]:
        *knobs, sequences = inputs
        split = TrainingGrid(**dict(zip(names, knobs, strict=True)))
        step = _calculated(model, target, split, workload, sequences, recipe)
        others = {"microbatches": step.microbatches, "own_flops": step.own_flops, "done_flops": step.done_flops}
        return [step.parts, step.memory.parts, others | {"host": step.memory.host}]

    inputs = [np.broadcast_to(value, shape).reshape(-1) for value in (*(knob for _, knob in grid.knobs()), batch)]
    programs = _programs(Same(model), Same(target), recipe)
    found: list[dict[str, Any]] = [
        {name: in_rows(value, size).reshape(shape) for name, value in result.items()}
        for result in repeated(programs, workload.seq, calculate, inputs)
    ]
    parts, stored, others = found

    def activations() -> dict[str, Floats]:
        return _calculated(model, target, grid, workload, batch, recipe).memory.activations()

    return _Step(parts, TrainingMemory(stored, activations, others.pop("host")), **others)


@lru_cache(maxsize=64)
def _programs(_model: Same, _target: Same, _recipe: TrainingRecipe) -> Programs:
    return {}
