"""A model as blocks times repeat: its parameters, weights and cache [B], and the operators of one step."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from perfmodel.arrays import Floats
from perfmodel.errors import ModelConfigError
from perfmodel.layers.base import Shard, Step, Tensor
from perfmodel.layers.embedding import Embedding, Head
from perfmodel.layers.operators import Operator
from perfmodel.layers.precision import Precision
from perfmodel.models.block import Block, tensor_bytes


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder-only model.

    Parameters
    ----------
    id : str
        Hugging Face id, or the path it was read from.
    hidden, vocab : int
        Width of the residual stream, and tokens of the vocabulary.
    blocks : tuple of (Block, int)
        Distinct blocks, each with how often it occurs.
    layout : tuple of int
        For every layer from first to last, the index of its block.
    embedding : Embedding
        The token table.
    head : Head
        Final norm and output projection.
    max_context : int
        Tokens that positions were trained or extended to; 0 where the description does not say.
    mtp : tuple of (Block, int)
        Blocks that predict further tokens; not part of an ordinary step.
    weights : Precision
        Number formats that the checkpoint comes in.
    family : str
        The architecture that the description was read as.
    source : str
        Where the description comes from.
    aliases : tuple of str
        Other names of the same architecture.
    notes : tuple of str
        What was left out or assumed.
    """

    id: str
    hidden: int
    vocab: int
    blocks: tuple[tuple[Block, int], ...]
    layout: tuple[int, ...]
    embedding: Embedding
    head: Head
    max_context: int
    mtp: tuple[tuple[Block, int], ...] = ()
    weights: Precision = field(default_factory=Precision)
    family: str = ""
    source: str = ""
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        """Number of blocks from first to last."""
        return len(self.layout)

    def parameters(self, mtp: bool = False) -> float:
        """Count the weights of the model.

        Parameters
        ----------
        mtp : bool
            Whether to count the blocks that predict further tokens.

        Returns
        -------
        float
            Elements, a tied table once.
        """
        total = _elements(self.embedding.tensors()) + _elements(self.head.tensors())
        total += sum(count * block.parameters() for block, count in self.blocks)
        return total + (sum(count * block.parameters() for block, count in self.mtp) if mtp else 0.0)

    def active_parameters(self, embedding: bool = False) -> float:
        """Count the weights that one token is multiplied with, the output projection included.

        Parameters
        ----------
        embedding : bool
            Whether to count the embedding table too, as some publishers do although a look-up multiplies nothing.

        Returns
        -------
        float
            Elements; a tied table counts once.
        """
        total = sum(count * block.active_parameters() for block, count in self.blocks)
        total += sum(tensor.active for tensor in self.head.tensors())
        return total + (_elements(self.embedding.tensors()) if embedding and not self.head.tied else 0.0)

    def weight_bytes(self, shard: Shard, precision: Precision, mtp: bool = False) -> Floats:
        """Weights of the whole model on one device of a plan without pipeline stages.

        Parameters
        ----------
        shard : Shard
            The parallel sizes.
        precision : Precision
            Number formats of the deployment.
        mtp : bool
            Whether the blocks that predict further tokens are loaded.

        Returns
        -------
        float or array
            Bytes, block scales included [B].
        """
        total = self.embedding_bytes(shard, precision) + self.head_bytes(shard, precision)
        for block, count in self.blocks + (self.mtp if mtp else ()):
            total = total + count * block.weight_bytes(shard, precision)
        return total

    def embedding_bytes(self, shard: Shard, precision: Precision) -> Floats:
        """Embedding table on one device of the first pipeline stage.

        Parameters
        ----------
        shard : Shard
            The parallel sizes.
        precision : Precision
            Number formats of the deployment.

        Returns
        -------
        float or array
            Bytes [B].
        """
        return tensor_bytes(self.embedding.tensors(), shard, precision)

    def head_bytes(self, shard: Shard, precision: Precision, separate: bool = False) -> Floats:
        """Final norm and output projection on one device of the last pipeline stage.

        Parameters
        ----------
        shard : Shard
            The parallel sizes.
        precision : Precision
            Number formats of the deployment.
        separate : bool
            Whether the last stage is not the first one too: a tied table is then stored once more.

        Returns
        -------
        float or array
            Bytes [B].
        """
        own = tensor_bytes(self.head.tensors(), shard, precision)
        return own + self.embedding_bytes(shard, precision) if separate and self.head.tied else own

    def cache_bytes(self, context: Floats, shard: Shard, precision: Precision) -> Floats:
        """Bytes that one sequence keeps on one device of a plan without pipeline stages.

        Parameters
        ----------
        context : float or array
            Tokens of the sequence so far.
        shard : Shard
            The parallel sizes.
        precision : Precision
            Number formats of the deployment.

        Returns
        -------
        float or array
            Key-value cache and recurrent state of all layers [B].
        """
        total: Floats = 0.0
        for block, count in self.blocks:
            total = total + count * block.cache_bytes(context, shard, precision)
        return total

    def operators(
        self, step: Step, shard: Shard, precision: Precision
    ) -> tuple[tuple[str, float, tuple[Operator, ...]], ...]:
        """List what one device does in a step, block by block.

        Parameters
        ----------
        step : Step
            Sequences and lengths.
        shard : Shard
            The parallel sizes.
        precision : Precision
            Number formats of the deployment.

        Returns
        -------
        tuple of (str, float, tuple of Operator)
            Name, repeat and operators of the embedding, of every distinct block and of the head.
        """
        blocks = tuple((b.name, float(count), b.operators(step, shard, precision)) for b, count in self.blocks)
        return (
            ("embedding", 1.0, self.embedding.operators(step, shard, precision)),
            *blocks,
            ("head", 1.0, self.head.operators(step, shard, precision)),
        )

    def stages(self, pp: int, edge_layers: int = 0) -> tuple[tuple[int, ...], ...]:
        """Divide the layers over pipeline stages as evenly as they go.

        Layers that are left over go to the last stages but the very last, which holds the head, as vLLM does.

        Parameters
        ----------
        pp : int
            Pipeline stages.
        edge_layers : int
            Layers that embedding and head count for, each: the first and the last stage get fewer, but one at least.

        Returns
        -------
        tuple of tuple of int
            For every stage, how often each of `blocks` occurs in it.

        Raises
        ------
        ModelConfigError
            If there are fewer layers than stages.

        Examples
        --------
        >>> from perfmodel.models.catalog import load_model
        >>> load_model("deepseek-v3").stages(4)
        ((3, 12), (0, 15), (0, 16), (0, 15))
        >>> load_model("llama-3.1-8b").stages(4, 1)
        ((7,), (9,), (9,), (7,))
        """
        if not 1 <= pp <= self.layers:
            raise ModelConfigError(f"{self.id}: {self.layers} layers cannot be divided into {pp} pipeline stages")
        total = self.layers + 2 * edge_layers
        sizes = [total // pp] * pp
        for extra in range(total % pp):
            sizes[pp - 2 - extra] += 1
        for edge in (0, -1):
            sizes[edge] -= edge_layers
            while sizes[edge] < 1:  # a stage without a layer takes one from the fullest
                sizes[sizes.index(max(sizes))] -= 1
                sizes[edge] += 1
        out, start = [], 0
        for size in sizes:
            part = self.layout[start : start + size]
            out.append(tuple(part.count(index) for index in range(len(self.blocks))))
            start += size
        return tuple(out)

    def divisors(self) -> Mapping[str, int]:
        """Sizes that a parallel plan has to divide, over all layers.

        Returns
        -------
        mapping
            heads, kv_heads, intermediate, experts and expert_intermediate (those that the model has) -> greatest
            common divisor, and layers.
        """
        sizes: dict[str, int] = {}
        for block, _ in self.blocks:
            for part in block.parts:
                for name, size in part.divisors().items():
                    sizes[name] = math.gcd(sizes.get(name, 0), size)
        return sizes | {"layers": self.layers}

    @property
    def is_moe(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return any("experts" in part.divisors() for block, _ in self.blocks for part in block.parts)


def _elements(tensors: Iterable[Tensor]) -> float:
    return sum(tensor.elements for tensor in tensors)
