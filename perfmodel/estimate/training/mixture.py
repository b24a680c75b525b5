"""Microbatches of sequences of many lengths: what one does on average, and what waits for the longest of them [s]."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.mixed_lengths import expected_largest, slowest_replica
from perfmodel.estimate.training.block import BLOCK_PARTS, BlockTime, Parts, total
from perfmodel.estimate.training.flops import step_flops
from perfmodel.estimate.training.model_blocks import ModelBlocks, training_blocks
from perfmodel.estimate.training.network import Network
from perfmodel.estimate.training.workload import TrainingWorkload
from perfmodel.layers.base import Shard
from perfmodel.layers.training_recipe import TrainingRecipe
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.training_grid import TrainingGrid

_WAITING = (*(name for name in BLOCK_PARTS if name != "dp"), "pp")
"""Parts of a step that a replica with more to do spends more time on."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Microbatches that hold sequences of one length.

    Parameters
    ----------
    tokens : float
        Tokens of a sequence.
    sequences : float
        Sequences in one of these microbatches; below 1 for a part of one. 0 leaves it to the plan.
    share : float
        Part of the microbatches [1].
    drawn : float
        Part of the sequences [1].
    again : float
        Part of these microbatches whose forward pass is computed twice [1].
    """

    tokens: float
    sequences: float
    share: float
    drawn: float
    again: float = 0.0


def kinds_of(workload: TrainingWorkload, method: str) -> tuple[Kind, ...]:
    """List the kinds of microbatches of a workload.

    Chunks are filled with short sequences of one length here: products take the same time whoever the tokens belong to,
    and the time of attention is a sum over sequences, so that the mean over such chunks is that of mixed ones. Of a
    sequence in more chunks than are retained, the forward passes of all but the last ones come twice.

    Parameters
    ----------
    workload : TrainingWorkload
        Lengths and chunks.
    method : str
        What is learned; forward-only steps keep nothing and repeat nothing.

    Returns
    -------
    tuple of Kind
        From the shortest to the longest sequences.

    References
    ----------
    Yuan et al. 2025, Efficient Long Context Fine-tuning with Chunk Flow (arXiv:2503.02356).

    Examples
    --------
    >>> from perfmodel.models.lengths import read_lengths
    >>> long = TrainingWorkload(32768, 8, read_lengths("3:1Ki, 1:32Ki"), chunk=8192, retained=1)
    >>> [(kind.sequences, round(kind.share, 3), kind.again) for kind in kinds_of(long, "full")]
    [(8.0, 0.086, 0.0), (0.25, 0.914, 0.75)]
    """
    lengths, chunk = workload.drawn, float(workload.chunk)
    pairs = tuple(zip(lengths.tokens, lengths.shares, strict=True))
    if not chunk:
        return tuple(Kind(tokens, 0.0, share, share) for tokens, share in pairs)
    kept = chunk * workload.retained
    return tuple(
        Kind(
            tokens,
            chunk / tokens,
            share * tokens / lengths.mean,
            share,
            0.0 if method == "forward" else max(0.0, 1.0 - kept / tokens),
        )
        for tokens, share in pairs
    )


@dataclass(frozen=True, slots=True)
class Mixture:
    """One microbatch on average, and what the longest add to a step.

    Parameters
    ----------
    kinds : tuple of Kind
        Kinds of microbatches.
    blocks : ModelBlocks
        Mean time of every distinct block; the work is that of the microbatch which memory has to hold.
    microbatches : float or array
        Microbatches of a step on one replica.
    tokens : float or array
        Mean tokens of a microbatch.
    held_tokens : float or array
        Tokens of the microbatch which memory has to hold.
    retained : tuple of float or array
        Microbatches that are kept beyond those on their way through the pipeline, and bytes of keys and values of a
        layer's earlier chunks with their gradients [B].
    uneven : float or array
        Time of the longest microbatch that is drawn over the mean [1].
    slower : float or array
        Time of the slowest replica over the mean [1].
    """

    kinds: tuple[Kind, ...]
    blocks: ModelBlocks
    microbatches: Floats
    tokens: Floats
    held_tokens: Floats
    retained: tuple[Floats, Floats] = (0.0, 0.0)
    uneven: Floats = 1.0
    slower: Floats = 1.0

    def waited(self, parts: Parts) -> Parts:
        r"""Add to a step what waits for the longest microbatch, and for the slowest replica.

        .. math:: t = \sum_i t_i + (p - 1) \max_i t_i

        is the time of a pipeline whose stages all take as long for the same microbatch.

        Parameters
        ----------
        parts : dict
            Part -> seconds of a step of equal microbatches [s].

        Returns
        -------
        dict
            The same parts; a replica waits for another in "dp" [s].
        """
        if len(self.kinds) == 1:
            return parts
        busy = as_floats(total({name: parts[name] for name in _WAITING}))
        return parts | {
            "bubble": as_floats(self.uneven) * parts["bubble"],
            "dp": as_floats(parts["dp"]) + (as_floats(self.slower) - 1.0) * busy,
        }

    def flops(
        self, model: ModelSpec, batch: Floats, grid: TrainingGrid, method: str, passed: Floats
    ) -> tuple[Floats, Floats]:
        """Operations of a step for MFU and HFU.

        Parameters
        ----------
        model : ModelSpec
            Model.
        batch : float or array
            Sequences of a step.
        grid : TrainingGrid
            Plans.
        method : str
            What is learned.
        passed : float or array
            Part of the layers that a sequence passes.

        Returns
        -------
        tuple of float or array
            The model's own, and those done [FLOP].
        """
        own: Floats = 0.0
        done: Floats = 0.0
        for kind in self.kinds:
            count = kind.drawn * as_floats(batch)
            share = grid.recompute_share
            mine, with_again = step_flops(model, kind.tokens, count, grid.recompute, share, method, passed)
            own, done = own + as_floats(mine), done + as_floats(with_again)
            if kind.again:
                twice = step_flops(model, kind.tokens, count, grid.recompute, share, "forward", passed)[0]
                done = done + kind.again * as_floats(twice) / 2.0
        return own, done


def mixture(
    model: ModelSpec,
    network: Network,
    workload: TrainingWorkload,
    batch: npt.NDArray[np.float64],
    recipe: TrainingRecipe,
) -> Mixture:
    """Mix the microbatches of a workload.

    Parameters
    ----------
    model : ModelSpec
        Model.
    network : Network
        Plans on the fabric of what they run on.
    workload : TrainingWorkload
        Lengths and chunks.
    batch : numpy.ndarray
        Sequences of a step.
    recipe : TrainingRecipe
        Number formats.

    Returns
    -------
    Mixture
        The mean microbatch, and what the longest add.
    """
    grid, kinds, mean_tokens = network.grid, kinds_of(workload, recipe.method), workload.mean_tokens
    if not workload.mixed:
        tokens = grid.micro_batch * mean_tokens
        count = batch / (grid.dp * grid.micro_batch)
        return Mixture(kinds, training_blocks(model, network, mean_tokens, recipe), count, tokens, tokens)
    found = [_blocks(model, network, kind.tokens, kind.sequences, recipe) for kind in kinds]
    again = [_with_repeated(blocks, kind.again) for blocks, kind in zip(found, kinds, strict=True)]
    held = _blocks(model, network, float(workload.chunk), 1.0, recipe) if workload.chunk else found[-1]
    shares = [kind.share for kind in kinds]
    mixed = replace(
        held,
        times=tuple(_mean([b.times[i] for b in again], shares) for i in range(len(held.times))),
        ends=(_mean([b.ends[0] for b in again], shares), _mean([b.ends[1] for b in again], shares)),
    )
    once, spent = [_whole(model, b) for b in found], [_whole(model, b) for b in again]
    mean = _whole(model, mixed)
    drawn = [kind.drawn for kind in kinds]
    if not workload.chunk:
        uneven = as_floats(expected_largest(once, drawn, batch)) / mean
        slower = as_floats(slowest_replica(spent, drawn, batch, grid.dp)) / (batch / grid.dp * mean)
        slower = np.maximum(slower, 1.0)  # but for rounding it is no less
        longest = as_floats(workload.drawn.longest)
        return Mixture(kinds, mixed, batch / grid.dp, as_floats(mean_tokens), longest, uneven=uneven, slower=slower)
    alone, chunk = _whole(model, held), as_floats(workload.chunk)
    # Of the chunks of a sequence the last one attends to twice as many tokens more than the mean one does.
    ends = [alone + (2.0 if k.sequences < 1.0 else 1.0) * (time - alone) for k, time in zip(kinds, once, strict=True)]
    uneven = as_floats(expected_largest(ends, drawn, batch)) / mean
    count = np.maximum(batch * mean_tokens / (grid.dp * chunk), 1.0)
    # Chunks are shared out evenly, as far as the longest sequence, whose chunks stay together, allows it.
    whole = [time / kind.sequences for kind, time in zip(kinds, spent, strict=True)]
    slower = np.maximum(as_floats(expected_largest(whole, drawn, batch)) / (count * mean), 1.0)
    slower = np.where(grid.dp > 1, slower, 1.0)
    return Mixture(kinds, mixed, count, chunk, chunk, _kept(model, grid, workload, recipe), uneven, slower)


def _blocks(model: ModelSpec, network: Network, tokens: float, sequences: float, recipe: TrainingRecipe) -> ModelBlocks:
    if not sequences:
        return training_blocks(model, network, tokens, recipe)
    filled = replace(network.grid, micro_batch=as_floats(sequences))
    return training_blocks(model, Network(network.target, filled), tokens, recipe)


def _whole(model: ModelSpec, blocks: ModelBlocks) -> npt.NDArray[np.float64]:
    """Time of a microbatch in the whole model."""
    seconds = as_floats(0.0)
    for (_, count), time in zip(model.blocks, blocks.times, strict=True):
        seconds = seconds + count * (as_floats(time.forward_s) + time.backward_s)
    for time in blocks.ends:
        seconds = seconds + as_floats(time.forward_s) + time.backward_s
    return seconds


def _with_repeated(blocks: ModelBlocks, again: float) -> ModelBlocks:
    """Put a part of the forward passes before the backward pass once more."""
    if not again:
        return blocks

    def repeated(time: BlockTime) -> BlockTime:
        return replace(time, backward={n: as_floats(time.backward[n]) + again * time.forward[n] for n in BLOCK_PARTS})

    first, last = blocks.ends
    return replace(blocks, times=tuple(repeated(t) for t in blocks.times), ends=(repeated(first), repeated(last)))


def _mean(times: Sequence[BlockTime], shares: Sequence[float]) -> BlockTime:
    """Mean of one block's times."""

    def mean(values: Sequence[Floats]) -> Floats:
        return sum((share * as_floats(value) for share, value in zip(shares, values, strict=True)), as_floats(0.0))

    return BlockTime(
        {name: mean([time.forward[name] for time in times]) for name in BLOCK_PARTS},
        {name: mean([time.backward[name] for time in times]) for name in BLOCK_PARTS},
        mean([time.weight_s for time in times]),
        mean([time.first_s for time in times]),
        mean([time.last_s for time in times]),
    )


def _kept(
    model: ModelSpec, grid: TrainingGrid, workload: TrainingWorkload, recipe: TrainingRecipe
) -> tuple[Floats, Floats]:
    """Chunks that wait for their backward pass besides, and keys and values that later chunks attend to."""
    longest = workload.drawn.longest
    chunks = np.ceil(longest / workload.chunk)
    if chunks <= 1 or recipe.method == "forward":
        return 0.0, 0.0
    shard = Shard(grid.tp, 1.0, grid.cp, 1.0, 1.0)
    stored = as_floats(model.cache_bytes(longest, shard, recipe.precision()))
    return min(workload.retained, chunks) - 1.0, 2.0 * stored / model.layers
