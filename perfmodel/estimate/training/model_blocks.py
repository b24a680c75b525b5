"""Work, weights and seconds of every distinct block of a model, and of its embedding and head."""

from dataclasses import dataclass

from perfmodel.arrays import as_floats
from perfmodel.estimate.training.block import BlockTime, block_time, with_offloaded_activations
from perfmodel.estimate.training.kernels import Kernels
from perfmodel.estimate.training.memory import kept_bytes
from perfmodel.estimate.training.network import Network
from perfmodel.estimate.training.shape import ModelWeights, micro_batch, model_weights
from perfmodel.estimate.training.sharding import with_sharded_weights
from perfmodel.estimate.training.streams import with_both_directions, with_streamed_weights
from perfmodel.layers.training import embedding_work, head_work, layer_work
from perfmodel.layers.training_recipe import TrainingRecipe
from perfmodel.layers.training_work import LayerWork, MicroBatch
from perfmodel.models.block import Block
from perfmodel.models.spec import ModelSpec


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


@dataclass(frozen=True, slots=True)
class ModelBlocks:
    """What a model does in one microbatch.

    Parameters
    ----------
    works : tuple of LayerWork
        Work of every distinct block.
    edges : tuple of LayerWork
        Work of embedding and head.
    weights : ModelWeights
        Weights of all.
    times : tuple of BlockTime
        Time of every distinct block.
    ends : tuple of BlockTime
        Time of embedding and head.
    """

    works: tuple[LayerWork, ...]
    edges: tuple[LayerWork, LayerWork]
    weights: ModelWeights
    times: tuple[BlockTime, ...]
    ends: tuple[BlockTime, BlockTime]


def training_blocks(model: ModelSpec, network: Network, seq: float, recipe: TrainingRecipe) -> ModelBlocks:
    """Work out what a model does in one microbatch of equal sequences.

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
    ModelBlocks
        Work, weights and time of every distinct block, and of embedding and head.
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
    return ModelBlocks(works, edges, weights, tuple(times), (ends[0], ends[1]))
