"""Work, weights and state of linear attention: gated delta net, Mamba-2, lightning (elements, FLOP, bytes)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.layers.base import Layer, Shard, Step, Tensor, activation_bytes, share
from perfmodel.layers.operators import Collective, Gemm, Operator, Pass
from perfmodel.layers.precision import Precision

CHUNK = 64.0
"""Tokens that the chunked prefill kernels of this family process as one matrix product."""


@dataclass(frozen=True, slots=True)
class LinearAttention(Layer):
    r"""Recurrence with a state of fixed size per value head, of `key_dim` x `value_dim` numbers.

    One shape fits the family: queries and keys of `key_heads` heads (Mamba-2 calls them C and B and their heads
    groups), values of `value_heads` heads (its x), a gate as wide as the values (its z), and a few scalars per head.
    The work of the recurrence, per token and value head, is :math:`2 p\,d_k d_v` with p products of the state (3 for
    the delta rule, 2 otherwise), to which a chunked prefill adds :math:`C (d_k + d_v)` within chunks of C tokens.

    Parameters
    ----------
    hidden : int
        Width of the model.
    key_heads, key_dim : int
        Heads of queries and keys, and their width (for Mamba-2 groups and state size).
    value_heads, value_dim : int
        Heads of values, and their width.
    conv_kernel : int
        Width of the short convolution over queries, keys and values; 0 for none.
    scalars : int
        Projected scalars per value head (2 for gated delta net, 1 for Mamba-2, 0 for lightning attention).
    products : int
        Products of the state per token.
    gate : bool
        Whether a gate is projected.
    vectors : int
        Small weights of the layer: decays, biases and norms.
    state_bytes : float
        Bytes per element of the recurrent state [B].
    name : str
        Name of the recurrence in reports.
    """

    hidden: int
    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int
    conv_kernel: int = 4
    scalars: int = 2
    products: int = 3
    gate: bool = True
    vectors: int = 0
    state_bytes: float = 4.0
    name: str = "gated delta rule"

    def tensors(self) -> tuple[Tensor, ...]:
        """List projections, convolution and small vectors.

        Returns
        -------
        tuple of Tensor
            Values and outputs are divided over tp, queries and keys over at most `key_heads` ranks.
        """
        keys, values = 2.0 * self.key_heads * self.key_dim, float(self.value_heads * self.value_dim)
        key = self.hidden * keys
        value = self.hidden * (values * (1.0 + self.gate) + self.scalars * self.value_heads)
        output = values * self.hidden
        small = (keys + values) * self.conv_kernel + self.vectors
        return (
            Tensor("query-key projection", key, "attention_linear", "kv", key, limit=float(self.key_heads)),
            Tensor("value and gate projection", value, "attention_linear", "tp", value),
            Tensor("attention output projection", output, "attention_linear", "tp", output),
            Tensor("convolution and vectors", small, "norm", "tp", small),
        )

    def _local(self, shard: Shard) -> tuple[Floats, Floats]:
        keys = share(self.key_heads, np.minimum(shard.tp, self.key_heads)) * (2.0 * self.key_dim)
        return keys, share(self.value_heads, shard.tp)

    def _operators(self, step: Step, shard: Shard, precision: Precision) -> tuple[Operator, ...]:
        rows, a = step.rows(shard), activation_bytes(precision)
        keys, heads = self._local(shard)
        values = heads * float(self.value_dim)
        projected = keys + values * (1.0 + self.gate) + heads * float(self.scalars)
        state = heads * float(self.key_dim * self.value_dim)
        within = 0.0 if step.decode else CHUNK * (self.key_dim + self.value_dim)
        flops = rows * heads * (2.0 * self.products * self.key_dim * self.value_dim + within)
        moved = as_floats(step.batch) * state * (2.0 * self.state_bytes) + rows * (keys + 2.0 * values) * a
        out: list[Operator] = [
            Gemm("linear attention projection", rows, projected, float(self.hidden), precision.attention_linear)
        ]
        if self.conv_kernel:
            channels = keys + values
            taps = as_floats(step.batch) * (2.0 * self.conv_kernel)
            out.append(
                Pass("short convolution", (2.0 * rows + taps) * channels * a, rows * channels * 2.0 * self.conv_kernel)
            )
        out.append(Pass(self.name, moved, flops))
        if self.gate:
            out.append(Pass("gated norm", rows * values * (3.0 * a), rows * values * 8.0))
        payload = np.where(as_floats(shard.tp) > 1, rows * self.hidden * a, 0.0)
        return (
            *out,
            Gemm("attention output projection", rows, float(self.hidden), values, precision.attention_linear),
            Collective("attention all-reduce", "all_reduce", payload, "tp"),
        )

    def _cache_bytes(self, context: Floats, shard: Shard, precision: Precision) -> Floats:
        keys, heads = self._local(shard)
        state = heads * (self.key_dim * self.value_dim * self.state_bytes)
        taps = (keys + heads * float(self.value_dim)) * (max(self.conv_kernel - 1, 0) * activation_bytes(precision))
        return (state + taps) + 0.0 * as_floats(context)

    def divisors(self) -> Mapping[str, int]:
        """Sizes that a parallel plan has to divide.

        Returns
        -------
        mapping
            Value heads, and query and key heads.
        """
        return {"heads": self.value_heads, "kv_heads": self.key_heads}
