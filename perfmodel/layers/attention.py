"""Work, weights and cache of grouped-query softmax attention (elements, FLOP, bytes)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.formats import get_format
from perfmodel.layers.base import Layer, Shard, Step, Tensor, activation_bytes, share
from perfmodel.layers.operators import Attention, Collective, Gemm, Operator, Pass
from perfmodel.layers.precision import Precision


@dataclass(frozen=True, slots=True)
class GroupedQueryAttention(Layer):
    """Softmax attention with any number of query heads per key-value head (multi-head and multi-query included).

    Query heads are divided over tensor-parallel ranks; key-value heads too, and copied once there are fewer of them
    than ranks. The query, key and value projections run as one product; rotary embedding and the write to the cache as
    one pass, the norms of queries and keys as another.

    Parameters
    ----------
    hidden : int
        Width of the model.
    heads, kv_heads : int
        Query heads and key-value heads.
    qk_head_dim, v_head_dim : int
        Width of a query or key, and of a value.
    window : int
        Sliding window in tokens; 0 for full attention.
    chunked : bool
        Whether the window is a chunk that starts anew (each query sees half a chunk on average).
    qk_norm : bool
        Whether queries and keys are normalised per head.
    wide_norm : bool
        Whether that norm is over all heads together, so that tensor-parallel ranks add up their sums of squares.
    qkv_bias, output_bias : bool
        Whether the projections have biases.
    output_gate : bool
        Whether the query projection also makes a gate for the outputs.
    shared_kv : bool
        Whether values are the keys before their norm: one projection; both are cached.
    sinks : bool
        Whether each head has a learned sink logit.
    """

    hidden: int
    heads: int
    kv_heads: int
    qk_head_dim: int
    v_head_dim: int
    window: int = 0
    chunked: bool = False
    qk_norm: bool = False
    wide_norm: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    output_gate: bool = False
    shared_kv: bool = False
    sinks: bool = False

    def tensors(self) -> tuple[Tensor, ...]:
        """List the projections, biases included, and the head norms.

        Returns
        -------
        tuple of Tensor
            Query, key-value and output projections.
        """
        rows = float(self.hidden + self.qkv_bias)
        gate = self.v_head_dim if self.output_gate else 0
        query = self.heads * (self.qk_head_dim + gate) * rows
        keys = self.kv_heads * (self.qk_head_dim + (0 if self.shared_kv else self.v_head_dim)) * rows
        output = float(self.heads) * self.v_head_dim * self.hidden
        normed = float(self.heads + self.kv_heads if self.wide_norm else 2) * self.qk_head_dim * self.qk_norm
        small = normed + self.heads * self.sinks + self.hidden * self.output_bias
        out: tuple[Tensor, ...] = (
            Tensor("query projection", query, "attention_linear", "tp", query),
            Tensor("key-value projection", keys, "attention_linear", "kv", keys, limit=float(self.kv_heads)),
            Tensor("attention output projection", output, "attention_linear", "tp", output),
        )
        return (*out, Tensor("attention vectors", small, "norm", "none", small)) if small else out

    def _local(self, shard: Shard) -> tuple[Floats, Floats]:
        return share(self.heads, shard.tp), share(self.kv_heads, np.minimum(shard.tp, self.kv_heads))

    def _operators(self, step: Step, shard: Shard, precision: Precision) -> tuple[Operator, ...]:
        rows, a = step.rows(shard), activation_bytes(precision)
        heads, kv_heads = self._local(shard)
        dk, dv = float(self.qk_head_dim), float(self.v_head_dim)
        kv_bytes = get_format(precision.kv).activation_bytes
        gate = dv if self.output_gate else 0.0
        projected = heads * (dk + gate) + kv_heads * (dk if self.shared_kv else dk + dv)
        split = as_floats(shard.tp) > 1
        # Prefill under context parallelism shares the query-key pairs evenly (ring order): a fraction of the
        # sequences stands for it. Decode divides the cached keys.
        batch = as_floats(step.batch) if step.decode else as_floats(step.batch) / shard.cp
        context = as_floats(step.context) / shard.cp if step.decode else as_floats(step.context)
        window = self._effective_window()
        out: list[Operator] = [
            Gemm("qkv projection", rows, projected, float(self.hidden), precision.attention_linear),
            *self._norms(step, shard, precision),
            Pass(
                "rotary and cache write",
                rows * ((2.0 * heads * dk + kv_heads * (dk + dv)) * a + kv_heads * (dk + dv) * kv_bytes),
                rows * (heads + kv_heads) * (4.0 * dk),
            ),
            *context_parallel(step, shard, kv_heads * (dk + dv) * kv_bytes, heads * dv * a, window),
            Attention(
                "attention" if not self.window else "sliding attention",
                batch,
                step.tokens,
                context,
                heads,
                kv_heads,
                dk,
                dv,
                window,
                precision.attention,
                precision.kv,
                step.decode,
            ),
        ]
        if self.output_gate:
            out.append(Pass("attention output gate", rows * heads * (3.0 * dv * a), rows * heads * (4.0 * dv)))
        payload = np.where(split, rows * self.hidden * a, 0.0)
        out += [
            Gemm("attention output projection", rows, float(self.hidden), heads * dv, precision.attention_linear),
            Collective("attention all-reduce", "all_reduce", payload, "tp"),
        ]
        return tuple(out)

    def _norms(self, step: Step, shard: Shard, precision: Precision) -> tuple[Operator, ...]:
        if not self.qk_norm:
            return ()
        rows, (heads, kv_heads) = step.rows(shard), self._local(shard)
        width = (heads + kv_heads) * float(self.qk_head_dim)
        norm = Pass("head norms", rows * width * (2.0 * activation_bytes(precision)), rows * width * 4.0)
        if not self.wide_norm:
            return (norm,)
        # The sums of squares of a token's queries and of its keys, in 32 bits.
        sums = np.where(as_floats(shard.tp) > 1, rows * 8.0, 0.0)
        return (norm, Collective("head norms all-reduce", "all_reduce", sums, "tp"))

    def _effective_window(self) -> float:
        # A chunk of W tokens leaves (W + 1) / 2 keys per query in the mean, half of what a window of W leaves.
        return (self.window + 1) / 2.0 if self.chunked and self.window else float(self.window)

    def _cache_bytes(self, context: Floats, shard: Shard, precision: Precision) -> Floats:
        _, kv_heads = self._local(shard)
        tokens = np.minimum(context, self.window) if self.window else as_floats(context)
        per_token = kv_heads * float(self.qk_head_dim + self.v_head_dim) * get_format(precision.kv).activation_bytes
        return tokens * per_token / shard.cp

    def divisors(self) -> Mapping[str, int]:
        """Sizes that a parallel plan has to divide.

        Returns
        -------
        mapping
            Query heads and key-value heads.
        """
        return {"heads": self.heads, "kv_heads": self.kv_heads}


def context_parallel(
    step: Step, shard: Shard, key_bytes: Floats, output_bytes: Floats, window: float = 0.0
) -> tuple[Operator, ...]:
    """List the communication of context parallelism: keys in a prefill, partial outputs in decode.

    Parameters
    ----------
    step : Step
        Sequences and lengths.
    shard : Shard
        The parallel sizes; the payload is zero without context parallelism.
    key_bytes : float or array
        Keys and values of one token on one device [B].
    output_bytes : float or array
        Attention outputs of one token on one device [B].
    window : float
        Sliding window in tokens; 0 for none.

    Returns
    -------
    tuple of Operator
        One collective over the context-parallel group.
    """
    split = as_floats(shard.cp) > 1
    if step.decode:
        payload = as_floats(step.batch) * step.tokens * output_bytes
        return (Collective("partial outputs", "all_reduce", np.where(split, payload, 0.0), "cp"),)
    context = as_floats(step.context)
    if window:
        context = np.minimum(context, as_floats(step.tokens) + window)
    payload = as_floats(step.batch) * context * key_bytes
    return (Collective("key-value all-gather", "all_gather", np.where(split, payload, 0.0), "cp"),)
