"""Work, weights and cache of compressed attention: a window plus keys pooled over tokens (elements, FLOP, bytes)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.formats import get_format
from perfmodel.costs.work import causal_keys
from perfmodel.layers.attention import context_parallel
from perfmodel.layers.base import Layer, Shard, Step, Tensor, activation_bytes, share
from perfmodel.layers.latent import Indexer
from perfmodel.layers.operators import Attention, Collective, Gemm, Operator, Pass
from perfmodel.layers.precision import Precision


@dataclass(frozen=True, slots=True)
class CompressedAttention(Layer):
    """Multi-query attention whose one key is its value, over a window and over keys pooled from `stride` tokens.

    The pooled keys are all attended to, or the `topk` that an indexer chooses. Queries and outputs go through
    low-rank projections, the output's in groups of heads. Every tensor-parallel rank holds all keys.

    Parameters
    ----------
    hidden : int
        Width of the model.
    heads : int
        Query heads.
    head_dim : int
        Width of a query, key and value.
    query_rank, output_rank : int
        Inner width of the query projection, and of the output projection per group.
    output_groups : int
        Groups of heads in the output projection.
    window : int
        Tokens attended to uncompressed.
    stride : int
        Tokens per pooled key; 0 for the window alone.
    overlap : bool
        Whether pooling windows overlap by half, which doubles the projections.
    indexer : Indexer, optional
        Chooses among the pooled keys.
    """

    hidden: int
    heads: int
    head_dim: int
    query_rank: int
    output_rank: int
    output_groups: int
    window: int
    stride: int = 0
    overlap: bool = False
    indexer: Indexer | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """List the projections, the pooling weights and the indexer.

        Returns
        -------
        tuple of Tensor
            Down projections, key and pooling are copied to every rank.
        """
        width = self.heads * self.head_dim
        down = float(self.hidden * (self.query_rank + self.head_dim))
        query = float(self.query_rank * width)
        inner = self.output_groups * self.output_rank
        first = float(width * self.output_rank)
        second = float(inner * self.hidden)
        out = [
            Tensor("query and key down projection", down, "attention_linear", "none", down),
            Tensor("query up projection", query, "attention_linear", "tp", query),
            Tensor("output group projection", first, "attention_linear", "tp", first),
            Tensor("attention output projection", second, "attention_linear", "tp", second),
        ]
        small = float(self.query_rank + self.head_dim + self.heads)
        out.append(Tensor("attention vectors", small, "norm", "none", small))
        pool = self._pool_width()
        if pool:
            size = pool * (self.hidden + self.stride) + self.head_dim
            out.append(Tensor("key pooling", size, "norm", "none", size))
        if self.indexer:
            out += self.indexer.tensors(self.hidden, self.query_rank)
        return tuple(out)

    def _pool_width(self) -> float:
        # A projection and a gate, each twice as wide where windows overlap.
        return 2.0 * self.head_dim * (1.0 + self.overlap) if self.stride else 0.0

    def _operators(self, step: Step, shard: Shard, precision: Precision) -> tuple[Operator, ...]:
        rows, a = step.rows(shard), activation_bytes(precision)
        linear = precision.attention_linear
        heads, dim = share(self.heads, shard.tp), float(self.head_dim)
        kv_bytes = get_format(precision.kv).activation_bytes
        groups = share(self.output_groups, np.minimum(shard.tp, self.output_groups))
        down, inner = self.query_rank + dim, groups * float(self.output_rank)
        out: list[Operator] = [
            Gemm("query and key down projection", rows, down, float(self.hidden), linear),
            Pass("latent norms", rows * (2.0 * down * a)),
            Gemm("query up projection", rows, heads * dim, float(self.query_rank), linear),
            Pass("rotary and cache write", rows * (2.0 * heads * dim * a + dim * kv_bytes), rows * heads * (4.0 * dim)),
        ]
        if self.stride:
            pool = self._pool_width()
            out.append(Gemm("key pooling", rows, pool, float(self.hidden), "bf16"))
            out.append(
                Pass("pooled keys", rows * (pool * a) + rows * (dim * kv_bytes / self.stride), rows * pool * 4.0)
            )
        if self.indexer:
            out += self.indexer.operators(step, shard, self.hidden, self.query_rank, linear)
        out += context_parallel(step, shard, dim * kv_bytes, heads * dim * a, float(self.window))
        out += self._attend(step, shard, precision, heads)
        payload = np.where(as_floats(shard.tp) > 1, rows * self.hidden * a, 0.0)
        group_width = dim * self.heads / self.output_groups
        return (
            *out,
            # One batched product over groups: `inner` outputs, each of one group's heads.
            Gemm("output group projection", rows, inner, group_width, linear),
            Gemm("attention output projection", rows, float(self.hidden), inner, linear),
            Collective("attention all-reduce", "all_reduce", payload, "tp"),
        )

    def _attend(self, step: Step, shard: Shard, precision: Precision, heads: Floats) -> tuple[Operator, ...]:
        dim = float(self.head_dim)
        batch, context = as_floats(step.batch), as_floats(step.context)
        pooled: Floats = context / self.stride if self.stride else 0.0 * context
        if self.indexer:
            pooled = np.minimum(pooled, self.indexer.topk)
        if step.decode:
            keys = (np.minimum(context, self.window) + pooled) / shard.cp
            return (self._attention(step, batch, keys, heads, 0.0, precision),)
        batch = batch / shard.cp
        if self.indexer:
            # A query sees the window and at most topk pooled keys: as many as a wider window holds.
            wide = float(self.window + self.indexer.topk)
            return (self._attention(step, batch, context, heads, wide, precision),)
        near = self._attention(step, batch, context, heads, float(self.window), precision)
        if not self.stride:
            return (near,)
        pairs = batch * causal_keys(step.tokens, context) / self.stride
        kv_bytes = get_format(precision.kv).activation_bytes
        moved = batch * pooled * (dim * kv_bytes)
        return (near, Pass("attention to pooled keys", moved, pairs * heads * (4.0 * dim), precision.attention))

    def _attention(
        self, step: Step, batch: Floats, keys: Floats, heads: Floats, window: float, precision: Precision
    ) -> Attention:
        dim = float(self.head_dim)
        return Attention(
            "compressed attention" if self.stride else "sliding attention",
            batch,
            step.tokens,
            keys,
            heads,
            1.0,
            dim,
            dim,
            window,
            precision.attention,
            precision.kv,
            step.decode,
            latent=True,
        )

    def _cache_bytes(self, context: Floats, shard: Shard, precision: Precision) -> Floats:
        key = self.head_dim * get_format(precision.kv).activation_bytes
        near = np.minimum(context, self.window) * key
        if not self.stride:
            return near / shard.cp
        pooled = key + (self.indexer.key_bytes() if self.indexer else 0.0)
        return (near + as_floats(context) * (pooled / self.stride)) / shard.cp

    def divisors(self) -> Mapping[str, int]:
        """Sizes that a parallel plan has to divide.

        Returns
        -------
        mapping
            Query heads; the keys are copied to every rank.
        """
        return {"heads": self.heads}
