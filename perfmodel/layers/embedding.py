"""Work and weights of the token embedding and of the output head (elements, bytes)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perfmodel.arrays import as_floats
from perfmodel.layers.base import Layer, Shard, Step, Tensor, activation_bytes, share
from perfmodel.layers.operators import Collective, Gemm, Operator, Pass
from perfmodel.layers.precision import Precision


@dataclass(frozen=True, slots=True)
class Embedding(Layer):
    """Look-up of token vectors in a table whose rows are divided over tensor-parallel ranks.

    Parameters
    ----------
    vocab : int
        Rows of the table.
    hidden : int
        Width of the model.
    positions : int
        Rows of a learned position table; 0 with rotary or no position embedding.
    """

    vocab: int
    hidden: int
    positions: int = 0

    def tensors(self) -> tuple[Tensor, ...]:
        """List the tables; by convention a look-up uses no active parameters.

        Returns
        -------
        tuple of Tensor
            Token table, and position table where there is one.
        """
        token = Tensor("token embedding", float(self.vocab) * self.hidden, "embedding", "vocab", 0.0)
        if not self.positions:
            return (token,)
        return (token, Tensor("position embedding", float(self.positions) * self.hidden, "embedding", "none", 0.0))

    def _operators(self, step: Step, shard: Shard, precision: Precision) -> tuple[Operator, ...]:
        payload = step.rows(shard) * self.hidden * activation_bytes(precision)
        return (
            Pass("embedding look-up", 2.0 * payload),
            # Rows outside a rank's part of the table are zero there: a sum rebuilds the vectors.
            Collective("embedding all-reduce", "all_reduce", np.where(as_floats(shard.tp) > 1, payload, 0.0), "tp"),
        )

    def divisors(self) -> Mapping[str, int]:
        """Sizes that a parallel plan has to divide; tables are padded, so the vocabulary is no constraint.

        Returns
        -------
        mapping
            Empty.
        """
        return {}


@dataclass(frozen=True, slots=True)
class Head(Layer):
    """Final norm, projection to logits (divided over the vocabulary) and sampling.

    A prefill step computes logits for the last token of each sequence only.

    Parameters
    ----------
    vocab : int
        Tokens of the vocabulary.
    hidden : int
        Width of the model.
    tied : bool
        Whether the projection is the embedding table: it is read and multiplied, and stored once.
    norm_vectors : int
        Weight vectors of the final norm; 0 for none.
    bias : bool
        Whether the projection has a bias.
    """

    vocab: int
    hidden: int
    tied: bool = False
    norm_vectors: int = 1
    bias: bool = False

    def tensors(self) -> tuple[Tensor, ...]:
        """List the final norm and the projection.

        Returns
        -------
        tuple of Tensor
            A tied projection has no elements of its own, and all of them active.
        """
        size = float(self.vocab) * (self.hidden + self.bias)
        norm = float(self.hidden * self.norm_vectors)
        return (
            Tensor("final norm", norm, "norm", "none", norm),
            Tensor("output projection", 0.0 if self.tied else size, "head", "vocab", size),
        )

    def _operators(self, step: Step, shard: Shard, precision: Precision) -> tuple[Operator, ...]:
        rows = as_floats(step.batch) * (step.tokens if step.decode else 1.0)
        a = activation_bytes(precision)
        logits = rows * self.vocab * a
        return (
            Pass("final norm", step.rows(shard) * self.hidden * (3.0 * a)),
            Gemm("output projection", rows, share(self.vocab, shard.tp), float(self.hidden), precision.head),
            Collective("logits all-gather", "all_gather", np.where(as_floats(shard.tp) > 1, logits, 0.0), "tp"),
            Pass("sampling", logits),
        )
