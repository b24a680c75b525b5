"""Weights of a model's stages on one device [1], and the microbatch that its devices see."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats, occurring
from perfmodel.estimate.training.target import TrainingTarget
from perfmodel.layers.base import Shard, Tensor
from perfmodel.layers.training_recipe import TrainingRecipe
from perfmodel.layers.training_work import LayerWork, MicroBatch
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.training_grid import TrainingGrid


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights on one device before data parallelism divides them.

    Parameters
    ----------
    dense : float or array
        Weights that every data-parallel rank holds.
    experts : float or array
        Weights of routed experts, which expert groups hold.
    learned : float or array
        What has gradients and optimizer states of the former; more than nothing of the latter in full training only.
    learned_experts : float or array
        What has gradients and optimizer states of the experts.
    """

    dense: Floats = 0.0
    experts: Floats = 0.0
    learned: Floats = 0.0
    learned_experts: Floats = 0.0

    def __add__(self, other: "Weights") -> "Weights":
        return Weights(
            as_floats(self.dense) + other.dense,
            as_floats(self.experts) + other.experts,
            as_floats(self.learned) + other.learned,
            as_floats(self.learned_experts) + other.learned_experts,
        )

    def times(self, count: float) -> "Weights":
        """Weights of several equal blocks.

        Parameters
        ----------
        count : float
            Blocks.

        Returns
        -------
        Weights
            The product.
        """
        return Weights(
            count * as_floats(self.dense),
            count * as_floats(self.experts),
            count * as_floats(self.learned),
            count * as_floats(self.learned_experts),
        )


def weights_of(tensors: Iterable[Tensor], grid: TrainingGrid) -> Weights:
    """Weights of some tensors on one device.

    Parameters
    ----------
    tensors : iterable of Tensor
        Weight tensors.
    grid : TrainingGrid
        Plans.

    Returns
    -------
    Weights
        Elements, those of routed experts apart.
    """
    shard = Shard(grid.tp, grid.dp, grid.cp, grid.ep, 1.0)
    dense: Floats = 0.0
    experts: Floats = 0.0
    for tensor in tensors:
        size = as_floats(tensor.per_device(shard))
        if tensor.split == "expert":
            experts = experts + size
        else:
            dense = dense + size
    return Weights(dense, experts, dense, experts)


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """Weights of a model's parts on one device.

    Parameters
    ----------
    blocks : tuple of Weights
        Every distinct block.
    table, head : Weights
        Embedding, and head.
    tied : bool
        Whether the head uses the embedding's table.
    """

    blocks: tuple[Weights, ...]
    table: Weights
    head: Weights
    tied: bool

    def of(self, kind: "StageKind") -> Weights:
        """Weights of a stage.

        Parameters
        ----------
        kind : StageKind
            Which blocks, and whether embedding and head are in it.

        Returns
        -------
        Weights
            The sum.
        """
        held = Weights()
        for count, size in zip(kind.blocks, self.blocks, strict=True):
            held = held + size.times(count)
        held = held + (self.table if kind.first else Weights()) + (self.head if kind.last else Weights())
        return held + self.table if kind.last and not kind.first and self.tied else held


def model_weights(
    model: ModelSpec, grid: TrainingGrid, recipe: TrainingRecipe, works: tuple[LayerWork, ...]
) -> ModelWeights:
    """Weights of every part of a model, and what of them is learned.

    Parameters
    ----------
    model : ModelSpec
        Model.
    grid : TrainingGrid
        Plans.
    recipe : TrainingRecipe
        Says what is learned.
    works : tuple of LayerWork
        What every distinct block does, adapters included.

    Returns
    -------
    ModelWeights
        Elements on one device.
    """
    blocks = tuple(weights_of(block.tensors(), grid) for block, _ in model.blocks)
    ends = [weights_of(part.tensors(), grid) for part in (model.embedding, model.head)]
    if recipe.method != "full":
        frozen = []
        for size, work in zip(blocks, works, strict=True):
            added: Floats = 0.0
            for product in work.products:
                if product.adapter:
                    added = added + as_floats(product.in_features) * product.out_features * product.groups
            frozen.append(Weights(as_floats(size.dense) + added, size.experts, added, 0.0))
        blocks = tuple(frozen)
        ends = [Weights(size.dense, size.experts) for size in ends]
    return ModelWeights(blocks, ends[0], ends[1], model.head.tied)


def micro_batch(grid: TrainingGrid, seq: float, recipe: TrainingRecipe, target: TrainingTarget) -> MicroBatch:
    """Microbatch of every plan.

    Parameters
    ----------
    grid : TrainingGrid
        Plans.
    seq : float
        Tokens of a sequence.
    recipe : TrainingRecipe
        Number formats.
    target : TrainingTarget
        Its stack says how layers are executed.

    Returns
    -------
    MicroBatch
        Sizes as one device sees them.
    """
    stack = target.stack
    return MicroBatch(
        batch=grid.micro_batch,
        seq=seq,
        tp=grid.tp,
        cp=grid.cp,
        ep=grid.ep,
        sequence_parallel=grid.sequence_parallel,
        recipe=recipe,
        dropout=stack.dropout,
        unfused=stack.unfused,
        fused_loss=stack.fused_loss,
    )


@dataclass(frozen=True, slots=True)
class StageKind:
    """Pipeline stages that are alike, under one number of stages.

    Parameters
    ----------
    stages : int
        Stages of the pipeline.
    position : int
        The first of these stages.
    count : int
        How many are alike.
    blocks : tuple of int
        How often each block of the model occurs.
    first, last : bool
        Whether it holds the embedding, and the head.
    """

    stages: int
    position: int
    count: int
    blocks: tuple[int, ...]
    first: bool
    last: bool


def stage_kinds(model: ModelSpec, grid: TrainingGrid) -> Iterator[tuple[npt.NDArray[np.bool_], tuple[StageKind, ...]]]:
    """Yield for every way in a grid to divide the layers over stages the kinds of stages that there are.

    Parameters
    ----------
    model : ModelSpec
        Model.
    grid : TrainingGrid
        Plans; those with more stages than layers, which rules refuse, are given the model undivided.

    Yields
    ------
    tuple
        Mask of the plans that it is for, and its kinds from first to last.
    """
    codes = grid.pp + grid.edge_layers / 16.0  # fewer than 16 of the latter: one number for both
    for code in occurring(codes):
        mine, stages = np.equal(codes, code), int(code)
        layout = model.stages(stages, round(16.0 * (code - stages))) if stages <= model.layers else model.stages(1)
        kinds: list[StageKind] = []
        for i, blocks in enumerate(layout):
            first, last = i == 0, i == len(layout) - 1
            same = next((k for k in kinds if k.blocks == blocks and not (first or last or k.first or k.last)), None)
            if same is None:
                kinds.append(StageKind(stages, i, 1, blocks, first, last))
            else:
                kinds[kinds.index(same)] = StageKind(stages, same.position, same.count + 1, blocks, False, False)
        yield mine, tuple(kinds)
