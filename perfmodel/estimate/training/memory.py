"""Bytes on the fullest device of a training step: weights, gradients, optimizer, activations by operator, buffers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.training_schedules import SCHEDULES, microbatches_in_flight
from perfmodel.estimate.training.shape import ModelWeights, StageKind, stage_kinds
from perfmodel.estimate.training.streams import STREAMED_LAYERS
from perfmodel.estimate.training.target import TrainingTarget
from perfmodel.layers.training_recipe import TrainingRecipe
from perfmodel.layers.training_work import Kept, LayerWork
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.training_grid import TrainingGrid
from perfmodel.parallel.training_groups import training_group

MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")
"""What the memory of the fullest stage is made of; the sum is the allocator's peak."""


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Memory of the fullest stage and its parts.

    Parameters
    ----------
    parts : dict
        One of `MEMORY_PARTS` -> bytes on the fullest stage [B].
    activations : callable
        Returns operator -> bytes of the activations kept for it, on the fullest stage; worked out when asked for [B].
    host : float or array
        What the stage keeps in the host's memory for one device [B].
    """

    parts: dict[str, Floats]
    activations: Callable[[], dict[str, Floats]]
    host: Floats = 0.0

    @property
    def peak(self) -> Floats:
        """Peak of the framework's allocator: the sum of the parts [B]."""
        return total_bytes(self.parts)


def total_bytes(parts: Mapping[str, Floats]) -> Floats:
    """Sum the parts of a memory.

    Parameters
    ----------
    parts : mapping
        Part -> bytes [B].

    Returns
    -------
    float or array
        Their sum [B].
    """
    nbytes: Floats = 0.0
    for value in parts.values():
        nbytes = nbytes + as_floats(value)
    return nbytes


def _kept(items: tuple[Kept, ...], recompute: Floats, share: Floats) -> dict[str, Floats]:
    """Bytes that stay between forward and backward of a block, by operator; nothing of it where all is recomputed."""
    out: dict[str, Floats] = {}
    for item in items:
        plain = np.equal(recompute, 0) | (np.equal(recompute, 1) & (not item.core))
        plain = plain | (np.equal(recompute, 3) & (not item.light))
        plain = plain | (np.equal(recompute, 4) & (not (item.light or item.lifted)))
        stays = np.where(plain, 1.0, np.where(np.equal(recompute, 2), 1.0 - as_floats(share), 0.0))
        out[item.name] = out.get(item.name, 0.0) + stays * as_floats(item.nbytes)
    return out


def _sum(items: tuple[Kept, ...]) -> Floats:
    nbytes: Floats = 0.0
    for item in items:
        nbytes = nbytes + as_floats(item.nbytes)
    return nbytes


def kept_bytes(work: LayerWork, grid: TrainingGrid, layer_input: Floats) -> Floats:
    """Activations that a block keeps for its backward pass in one microbatch, as far as it is not computed again.

    Parameters
    ----------
    work : LayerWork
        What the block does.
    grid : TrainingGrid
        Plans.
    layer_input : float or array
        Bytes of one microbatch's residual stream on one device [B].

    Returns
    -------
    float or array
        Bytes, the inputs of recomputed layers included [B].
    """
    inputs = np.where(np.equal(grid.recompute, 2), grid.recompute_share * as_floats(layer_input), 0.0)
    for nbytes in _kept(work.kept, grid.recompute, grid.recompute_share).values():
        inputs = inputs + as_floats(nbytes)
    return inputs


def training_memory(
    model: ModelSpec,
    target: TrainingTarget,
    grid: TrainingGrid,
    recipe: TrainingRecipe,
    works: tuple[LayerWork, ...],
    edges: tuple[LayerWork, LayerWork],
    weights: ModelWeights,
    layer_input: Floats,
    microbatches: Floats,
    retained: tuple[Floats, Floats] = (0.0, 0.0),
) -> TrainingMemory:
    """Memory of the fullest device of every plan.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : TrainingTarget
        System and stack.
    grid : TrainingGrid
        Plans.
    recipe : TrainingRecipe
        Number formats.
    works : tuple of LayerWork
        What every distinct block does.
    edges : tuple of LayerWork
        What embedding and head do.
    weights : ModelWeights
        Weights of the model's parts.
    layer_input : float or array
        Bytes of one microbatch's residual stream on one device [B].
    microbatches : float or array
        Microbatches of a step.
    retained : tuple of float or array
        Microbatches that are kept beyond those on their way through the pipeline, and bytes for every layer that
        later ones need of earlier ones [B].

    Returns
    -------
    TrainingMemory
        Bytes of the fullest stage by part and by operator.
    """
    best: TrainingMemory | None = None
    for mine, kinds in stage_kinds(model, grid):
        fullest: TrainingMemory | None = None
        for kind in kinds:
            stage = _stage(kind, weights, works, edges, layer_input, microbatches, retained, grid, recipe, target)
            fullest = _larger(fullest, stage)
        best = fullest if best is None else _where(mine, fullest, best)
    if best is None:
        return TrainingMemory(dict.fromkeys(MEMORY_PARTS, as_floats(0.0)), dict)
    return best


def _stage(
    kind: StageKind,
    weights: ModelWeights,
    works: tuple[LayerWork, ...],
    edges: tuple[LayerWork, LayerWork],
    layer_input: Floats,
    microbatches: Floats,
    retained: tuple[Floats, Floats],
    grid: TrainingGrid,
    recipe: TrainingRecipe,
    target: TrainingTarget,
) -> TrainingMemory:
    stack, held = target.stack, weights.of(kind)
    sharing, expert_sharing = (training_group(grid, name).ranks for name in ("dp_shards", "edp_shards"))

    def stored(bytes_each: float, from_stage: int, dense: Floats, experts: Floats) -> Floats:
        """Bytes of a state that data parallelism divides from a ZeRO stage on."""
        cut = grid.zero >= from_stage
        shared = as_floats(dense) / np.where(cut, sharing, 1.0)
        return bytes_each * (shared + as_floats(experts) / np.where(cut, expert_sharing, 1.0))

    flight = microbatches_in_flight(grid.pp, float(kind.position), microbatches, grid.vp, schedule=grid.schedule)
    flight = flight + retained[0]
    full = np.equal(grid.recompute, 2) & (grid.recompute_share > 0)
    forward, offloaded = recipe.method == "forward", bool(np.any(grid.offload_activations > 0))
    activations: dict[str, Floats] = {}
    working: Floats = 0.0
    largest: Floats = 0.0
    moving: Floats = 0.0
    for count, work, size in zip(kind.blocks, works, weights.blocks, strict=True):
        if not count:
            continue
        if forward:  # nothing waits for a backward pass: one layer's activations are there at a time
            working = np.maximum(working, _sum(work.kept))
            continue
        for name, nbytes in _kept(work.kept, grid.recompute, grid.recompute_share).items():
            activations[name] = as_floats(activations.get(name, 0.0)) + count * flight * nbytes
        inputs = np.where(full, grid.recompute_share * count * flight * as_floats(layer_input), 0.0)
        activations["layer inputs"] = as_floats(activations.get("layer inputs", 0.0)) + inputs
        # The layer's input is its first norm's input: it is there once.
        rest = np.maximum(_sum(work.kept) - as_floats(layer_input), 0.0)
        # A backward pass in pieces of the sequence needs a piece of it at a time, but all keys and values.
        if np.any(grid.sequence_chunks > 1):
            whole = _sum(tuple(item for item in work.kept if item.name == "queries, keys and values"))
            rest = np.where(rest > whole, whole + (rest - whole) / grid.sequence_chunks, rest)
        # Of a layer computed in part, no more comes back than was given up.
        again = np.where(
            full,
            rest * np.minimum(1.0, grid.recompute_share * count * flight),
            np.where(
                np.equal(grid.recompute, 1),
                _core(work.kept),
                np.where(grid.recompute > 2, _sum(tuple(item for item in work.kept if item.light)), 0.0)
                + np.where(np.equal(grid.recompute, 4), _sum(tuple(item for item in work.kept if item.lifted)), 0.0),
            ),
        )
        working = np.maximum(working, again)
        if offloaded:  # two layers are on their way, or what there is
            once = as_floats(kept_bytes(work, grid, layer_input))
            moving = np.maximum(moving, once * np.minimum(2.0, count * flight))
        largest = np.maximum(largest, as_floats(size.dense) + np.where(grid.zero >= 3, size.experts, 0.0))
    host: Floats = 0.0
    if offloaded:
        host = grid.offload_activations * total_bytes(activations)
        activations = {name: (1.0 - grid.offload_activations) * as_floats(v) for name, v in activations.items()}
        activations["on the way to the host"] = grid.offload_activations * moving
    if np.any(as_floats(retained[1]) > 0):
        activations["keys and values of earlier chunks"] = sum(kind.blocks) * as_floats(retained[1])
    activations["current layer" if forward else "recomputed layer"] = working
    logits: Floats = 0.0
    if kind.first:
        activations["embedding"] = (0.0 if forward else flight) * _sum(edges[0].kept)
    if kind.last:
        logits = _sum(tuple(item for item in edges[1].kept if item.name == "logits")) / grid.sequence_chunks
        activations["final norm"] = _sum(tuple(item for item in edges[1].kept if item.name != "logits"))
    # Products that add into 32-bit gradients leave a 16-bit stand-in behind, a layer's worth at a time; with fully
    # sharded weights two layers are gathered at once.
    gathered = np.where(grid.zero >= 3, 2.0 * recipe.weight_bytes, recipe.weight_bytes)
    # DualPipe feeds the pipeline from both ends: a device holds two stages' weights (arXiv:2412.19437, table 2).
    doubled = np.where(np.equal(grid.schedule, SCHEDULES.index("dualpipe")), 2.0, 1.0)
    parts: dict[str, Floats] = {
        "weights": doubled * stored(recipe.weight_bytes, 3, held.dense, held.experts),
        "gradients": doubled * stored(stack.gradient_bytes, 2, held.learned, held.learned_experts),
        "optimizer": stored(recipe.optimizer_bytes, 1, held.learned, held.learned_experts),
        "activations": total_bytes(activations),
        "logits": logits,
        "buffers": gathered * as_floats(largest),
    }
    if np.any(grid.offload_weights > 0) or np.any(grid.offload_optimizer > 0):
        # Adapters, and their gradients, stay on the device.
        gradient_bytes = stack.gradient_bytes if recipe.method == "full" else 0.0
        each: list[tuple[float, Floats, Floats, Floats]] = [
            (
                float(count),
                doubled * stored(recipe.weight_bytes, 3, size.dense, size.experts),
                doubled * stored(gradient_bytes, 2, size.learned, size.learned_experts),
                stored(recipe.optimizer_bytes, 1, size.learned, size.learned_experts),
            )
            for count, size in zip(kind.blocks, weights.blocks, strict=True)
            if count
        ]
        host = host + _streamed(parts, each, grid)
    return TrainingMemory(parts, lambda: activations, host)


def _streamed(parts: dict[str, Floats], each: list[tuple[float, Floats, Floats, Floats]], grid: TrainingGrid) -> Floats:
    """Move the streamed part of weights, gradients and states to the host, all but the layers on their way."""
    layers = sum(count for count, *_ in each)
    weights, gradients = (sum((as_floats(row[0] * row[i]) for row in each), as_floats(0.0)) for i in (1, 2))
    moved = {
        "weights": grid.offload_weights * weights,
        "gradients": grid.offload_weights * gradients,
        "optimizer": grid.offload_optimizer * as_floats(parts["optimizer"]),
    }
    layer, states = as_floats(0.0), as_floats(0.0)
    for _, weight, gradient, state in each:
        layer, states = np.maximum(layer, as_floats(weight) + gradient), np.maximum(states, state)
    for name, nbytes in moved.items():
        parts[name] = as_floats(parts[name]) - nbytes
    coming = grid.offload_weights * min(STREAMED_LAYERS, layers) * layer
    parts["buffers"] = as_floats(parts["buffers"]) + coming + grid.offload_optimizer * min(2.0, layers) * states
    return total_bytes(moved)


def _core(items: tuple[Kept, ...]) -> Floats:
    return _sum(tuple(item for item in items if item.core))


def _where(mask: object, first: TrainingMemory | None, second: TrainingMemory | None) -> TrainingMemory:
    if first is None or second is None:  # every pipeline has at least one stage
        return first or second or TrainingMemory({}, dict)

    def activations() -> dict[str, Floats]:
        ours, theirs = first.activations(), second.activations()
        names = dict.fromkeys((*ours, *theirs))
        return {n: np.where(mask, ours.get(n, 0.0), theirs.get(n, 0.0)) for n in names}  # type: ignore[call-overload]

    return TrainingMemory(
        {n: np.where(mask, first.parts[n], second.parts[n]) for n in MEMORY_PARTS},  # type: ignore[call-overload]
        activations,
        np.where(mask, first.host, second.host),  # type: ignore[call-overload]
    )


def _larger(first: TrainingMemory | None, second: TrainingMemory) -> TrainingMemory:
    if first is None:
        return second
    return _where(as_floats(second.peak) > first.peak, second, first)
