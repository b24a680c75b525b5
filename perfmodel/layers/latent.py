"""Work, weights and cache of multi-head latent attention, dense or with a sparse indexer (elements, FLOP, bytes)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.formats import get_format
from perfmodel.costs.work import causal_keys
from perfmodel.layers.attention import context_parallel
from perfmodel.layers.base import Layer, Shard, Step, Tensor, activation_bytes, share
from perfmodel.layers.operators import Attention, Collective, Gemm, Operator, Pass
from perfmodel.layers.precision import Precision


@dataclass(frozen=True, slots=True)
class Indexer:
    """The light scorer of sparse attention: every query picks `topk` keys, whose attention alone is computed.

    Its keys are cached in 8 bits with one 32-bit scale per 128 elements, and every tensor-parallel rank scores all
    keys. As its result is the same on every rank, nothing is communicated.

    Parameters
    ----------
    heads : int
        Scoring heads.
    head_dim : int
        Width of a scoring key.
    topk : int
        Keys that a query keeps.
    stride : int
        Tokens per scored key (more than one where keys are pooled first).
    pooling : int
        Projections per scored key (more than one where keys are pooled: a gate, and overlapping windows).
    """

    heads: int
    head_dim: int
    topk: int
    stride: int = 1
    pooling: int = 1

    def tensors(self, hidden: int, query_rank: int) -> tuple[Tensor, ...]:
        """List the weights, copied to every rank.

        Parameters
        ----------
        hidden : int
            Width of the model.
        query_rank : int
            Width of the compressed queries that the scoring queries are made from.

        Returns
        -------
        tuple of Tensor
            Query projection, key projection, head weights and key norm.
        """
        size = float(query_rank * self.heads * self.head_dim + hidden * (self.head_dim * self.pooling + self.heads))
        size += 2.0 * self.head_dim  # norm of the keys
        return (Tensor("indexer projections", size, "attention_linear", "none", size),)

    def key_bytes(self) -> float:
        """Bytes per scored key.

        Returns
        -------
        float
            8-bit elements and their scales [B].
        """
        return self.head_dim * (1.0 + 4.0 / 128.0)

    def operators(self, step: Step, shard: Shard, hidden: int, query_rank: int, fmt: str) -> tuple[Operator, ...]:
        """List what one device does to choose the keys.

        Parameters
        ----------
        step : Step
            Sequences and lengths.
        shard : Shard
            The parallel sizes.
        hidden : int
            Width of the model.
        query_rank : int
            Width of the compressed queries.
        fmt : str
            Number format of the projections.

        Returns
        -------
        tuple of Operator
            Projections, scores and selection.
        """
        rows = step.rows(shard)
        width = float(self.heads * self.head_dim)
        batch, context = as_floats(step.batch), as_floats(step.context) / self.stride
        pairs = batch * causal_keys(step.tokens, step.context) / self.stride / shard.cp
        keys = batch * context * self.key_bytes() / (shard.cp if step.decode else 1.0)
        return (
            Gemm("indexer query projection", rows, width, float(query_rank), fmt),
            Gemm("indexer key projection", rows, float(self.head_dim * self.pooling + self.heads), float(hidden), fmt),
            # Scores are summed over heads on chip: one 32-bit number per pair leaves the kernel.
            Pass("indexer scores", keys + rows * width + pairs * 4.0, pairs * (2.0 * width), "fp8"),
            Pass("indexer top-k", pairs * 4.0 + rows * (4.0 * self.topk)),
        )


LIFTING = ("query up projection", "latent expansion")
"""Products, and their weights, that widen latent vectors to queries, keys and values."""


@dataclass(frozen=True, slots=True)
class LatentAttention(Layer):
    """Multi-head latent attention: keys and values of all heads come from one cached latent vector per token.

    Prefill expands the latent into heads of `qk_nope_dim` + `qk_rope_dim`; decode absorbs the expansion into the
    queries and outputs and attends to the latent itself (one key-value head). The latent is on every
    tensor-parallel rank. With an indexer both run absorbed, as kernels that gather chosen keys do.

    Parameters
    ----------
    hidden : int
        Width of the model.
    heads : int
        Query heads.
    query_rank : int
        Width of the compressed queries; 0 where queries are projected directly.
    kv_rank : int
        Width of the latent.
    qk_nope_dim, qk_rope_dim : int
        Width of a head's key without and with position.
    v_head_dim : int
        Width of a value.
    indexer : Indexer, optional
        Sparse attention over chosen keys.
    """

    hidden: int
    heads: int
    query_rank: int
    kv_rank: int
    qk_nope_dim: int
    qk_rope_dim: int
    v_head_dim: int
    indexer: Indexer | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """List the projections and the norms of the compressed vectors.

        Returns
        -------
        tuple of Tensor
            Down projections are copied to every rank, the others divided by heads.
        """
        h, q = float(self.hidden), self.heads * (self.qk_nope_dim + self.qk_rope_dim)
        down = h * (self.query_rank + self.kv_rank + self.qk_rope_dim)
        query = float(q) * (self.query_rank or self.hidden)
        expand = float(self.kv_rank) * self.heads * (self.qk_nope_dim + self.v_head_dim)
        output = h * self.heads * self.v_head_dim
        norms = float(self.query_rank + self.kv_rank)
        out = (
            Tensor("query and latent down projection", down, "attention_linear", "none", down),
            Tensor("query up projection", query, "attention_linear", "tp", query),
            Tensor("latent expansion", expand, "attention_linear", "tp", expand),
            Tensor("attention output projection", output, "attention_linear", "tp", output),
            Tensor("latent norms", norms, "norm", "none", norms),
        )
        return out + (self.indexer.tensors(self.hidden, self.query_rank or self.hidden) if self.indexer else ())

    def _operators(self, step: Step, shard: Shard, precision: Precision) -> tuple[Operator, ...]:
        rows, a = step.rows(shard), activation_bytes(precision)
        linear = precision.attention_linear
        heads = share(self.heads, shard.tp)
        dk, dv = float(self.qk_nope_dim + self.qk_rope_dim), float(self.v_head_dim)
        latent = float(self.kv_rank + self.qk_rope_dim)
        kv_bytes = get_format(precision.kv).activation_bytes
        absorbed = step.decode or self.indexer is not None
        out: list[Operator] = [
            Gemm("query and latent down projection", rows, self.query_rank + latent, float(self.hidden), linear),
            Pass("latent norms", rows * (2.0 * (self.query_rank + latent) * a)),
        ]
        in_features = float(self.query_rank or self.hidden)
        out.append(Gemm("query up projection", rows, heads * dk, in_features, linear))
        rotary = 2.0 * heads * self.qk_rope_dim + latent
        out.append(Pass("rotary and cache write", rows * (rotary * a + latent * kv_bytes), rows * rotary * 4.0))
        out += context_parallel(step, shard, latent * kv_bytes, heads * (self.kv_rank * a))
        if self.indexer:
            query_rank = self.query_rank or self.hidden
            out += self.indexer.operators(step, shard, self.hidden, query_rank, linear)
        out += self._absorbed(step, shard, precision, heads) if absorbed else self._expanded(step, shard, precision)
        payload = np.where(as_floats(shard.tp) > 1, rows * self.hidden * a, 0.0)
        return (
            *out,
            Gemm("attention output projection", rows, float(self.hidden), heads * dv, linear),
            Collective("attention all-reduce", "all_reduce", payload, "tp"),
        )

    def _expanded(self, step: Step, shard: Shard, precision: Precision) -> tuple[Operator, ...]:
        heads = share(self.heads, shard.tp)
        dk, dv = float(self.qk_nope_dim + self.qk_rope_dim), float(self.v_head_dim)
        batch = as_floats(step.batch) / shard.cp
        # Keys cached by earlier chunks are expanded again.
        keys = batch * step.context
        width = heads * (self.qk_nope_dim + dv)
        return (
            Gemm("latent expansion", keys, width, float(self.kv_rank), precision.attention_linear),
            Attention(
                "latent attention",
                batch,
                step.tokens,
                step.context,
                heads,
                heads,
                dk,
                dv,
                0.0,
                precision.attention,
                precision.kv,
                decode=False,
                latent=True,
            ),
        )

    def _absorbed(self, step: Step, shard: Shard, precision: Precision, heads: Floats) -> tuple[Operator, ...]:
        rows, rank = step.rows(shard), float(self.kv_rank)
        batch, context = as_floats(step.batch), as_floats(step.context)
        window = 0.0
        if self.indexer:
            window = float(self.indexer.topk)  # as many keys per query as a window, though not adjacent ones
        if step.decode:
            context = (np.minimum(context, window) if window else context) / shard.cp
            window = 0.0
        else:
            batch = batch / shard.cp
        return (
            # One batched product over heads; the expansion's weights are kept in 16 bits for it.
            Gemm("query absorption", rows, heads * rank, float(self.qk_nope_dim), "bf16"),
            Attention(
                "latent attention" if self.indexer is None else "sparse latent attention",
                batch,
                step.tokens,
                context,
                heads,
                1.0,
                rank + self.qk_rope_dim,
                rank,
                window,
                precision.attention,
                precision.kv,
                step.decode,
                latent=True,
            ),
            Gemm("value expansion", rows, heads * float(self.v_head_dim), rank, "bf16"),
        )

    def _cache_bytes(self, context: Floats, shard: Shard, precision: Precision) -> Floats:
        per_token = float(self.kv_rank + self.qk_rope_dim) * get_format(precision.kv).activation_bytes
        if self.indexer:
            per_token += self.indexer.key_bytes()
        return as_floats(context) * per_token / shard.cp

    def divisors(self) -> Mapping[str, int]:
        """Sizes that a parallel plan has to divide.

        Returns
        -------
        mapping
            Query heads; the latent is copied to every rank.
        """
        return {"heads": self.heads}
