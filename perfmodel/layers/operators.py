"""Operators: what one device does in one layer, as sizes (arrays over plans); no times and no hardware."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from perfmodel.arrays import Floats
from perfmodel.costs import work
from perfmodel.costs.formats import get_format

Group: TypeAlias = Literal["tp", "cp", "dp", "pp", "ep", "moe_tp", "moe", "world"]
"""Which ranks take part in a collective; `moe` is the union of ep and moe_tp (all ranks of a MoE layer)."""

CollectiveKind: TypeAlias = Literal[
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "point_to_point", "dispatch", "combine"
]


@dataclass(frozen=True, slots=True)
class Gemm:
    """Matrix product of `tokens` x `in_features` activations with `in_features` x `out_features` weights.

    Parameters
    ----------
    name : str
        What the product is in the model, for instance "qkv projection".
    tokens, out_features, in_features : float or array
        Rows, columns and depth on one device.
    format : str
        Number format of the operands.
    count : float or array
        How often it happens in the layer.
    """

    name: str
    tokens: Floats
    out_features: Floats
    in_features: Floats
    format: str
    count: Floats = 1.0

    def flops(self) -> Floats:
        """Floating-point operations of all `count` products [FLOP]."""
        return self.count * work.gemm_flops(self.tokens, self.out_features, self.in_features)

    def nbytes(self) -> Floats:
        """Compulsory memory traffic of all `count` products [B]."""
        f = get_format(self.format)
        return self.count * work.gemm_bytes(
            self.tokens,
            self.out_features,
            self.in_features,
            weight_bytes=f.weight_bytes,
            activation_bytes=f.activation_bytes,
        )


@dataclass(frozen=True, slots=True)
class Attention:
    """Softmax attention of `batch` sequences with `tokens` new queries each against `context` keys.

    Parameters
    ----------
    name : str
        What it is in the model.
    batch : float or array
        Sequences on one device.
    tokens : float or array
        New queries per sequence (1 in a decode step).
    context : float or array
        Keys per sequence after these queries were appended.
    heads, kv_heads : float or array
        Query and key-value heads on one device; the latent form has one key-value head.
    qk_head_dim, v_head_dim : float
        Width of a key and of a value.
    window : float
        Sliding window in tokens; 0 for none.
    format, kv_format : str
        Number formats of the queries and of the cache.
    decode : bool
        Whether it runs in a decode step (other kernels).
    latent : bool
        Multi-head latent attention: prefill on expanded heads, decode in absorbed form (keys and values are one
        vector, read once).
    count : float or array
        How often it happens in the layer.
    """

    name: str
    batch: Floats
    tokens: Floats
    context: Floats
    heads: Floats
    kv_heads: Floats
    qk_head_dim: float
    v_head_dim: float
    window: float
    format: str
    kv_format: str
    decode: bool
    latent: bool = False
    count: Floats = 1.0

    def flops(self) -> Floats:
        """Floating-point operations, causal mask taken into account [FLOP]."""
        return self.count * work.attention_flops(
            self.batch, self.tokens, self.context, self.heads, self.qk_head_dim, self.v_head_dim, self.window
        )

    def nbytes(self) -> Floats:
        """Compulsory memory traffic: queries, keys, values and outputs once [B]."""
        return self.count * work.attention_bytes(
            self.batch,
            self.tokens,
            self.context,
            self.heads,
            self.kv_heads,
            self.qk_head_dim,
            self.v_head_dim,
            self.window,
            query_bytes=get_format(self.format).activation_bytes,
            kv_bytes=get_format(self.kv_format).activation_bytes,
            shared_kv=self.latent and self.decode,
        )


@dataclass(frozen=True, slots=True)
class Experts:
    """Routed experts of one MoE layer on its busiest device: routing, two grouped products, activation, permutation.

    Parameters
    ----------
    name : str
        What it is in the model.
    tokens : float or array
        Tokens before top-k on all devices of the layer together.
    hidden, intermediate : float
        Width of the model, and of one expert before it is split.
    experts, topk : float or array
        Routed experts of the layer, and experts per token.
    ep, moe_tp : float or array
        Devices that share the experts, and devices that share one expert.
    format : str
        Number format of the operands.
    gated : bool
        Whether the up projection has a gate beside it.
    count : float or array
        How often it happens in the layer.
    """

    name: str
    tokens: Floats
    hidden: float
    intermediate: float
    experts: Floats
    topk: Floats
    ep: Floats
    moe_tp: Floats
    format: str
    gated: bool = True
    count: Floats = 1.0

    def flops(self) -> Floats:
        """Floating-point operations of a device with an even share of the tokens [FLOP]."""
        return self.count * work.experts_flops(
            self.tokens, self.hidden, self.intermediate, self.topk, self.ep, self.moe_tp, matrices=2.0 + self.gated
        )

    def nbytes(self) -> Floats:
        """Compulsory memory traffic of a device: the weights of active experts, and activations [B]."""
        f = get_format(self.format)
        return self.count * work.experts_bytes(
            self.tokens,
            self.hidden,
            self.intermediate,
            self.experts,
            self.topk,
            self.ep,
            self.moe_tp,
            matrices=2.0 + self.gated,
            weight_bytes=f.weight_bytes,
            activation_bytes=f.activation_bytes,
        )


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass over memory with some arithmetic: norms, activations, rotary embedding, table look-ups, recurrences.

    Parameters
    ----------
    name : str
        What it is in the model.
    moved : float or array
        Bytes read and written [B].
    operations : float or array
        Floating-point operations [FLOP].
    format : str
        Format whose matrix rate bounds the arithmetic.
    count : float or array
        How often it happens in the layer, each with its own launch.
    """

    name: str
    moved: Floats
    operations: Floats = 0.0
    format: str = "bf16"
    count: Floats = 1.0

    def flops(self) -> Floats:
        """Floating-point operations of all `count` passes [FLOP]."""
        return self.count * self.operations

    def nbytes(self) -> Floats:
        """Bytes moved by all `count` passes [B]."""
        return self.count * self.moved


@dataclass(frozen=True, slots=True)
class Wait:
    """Time in which a device has nothing to do, because other ranks or the host are not there yet.

    Parameters
    ----------
    name : str
        What is waited for.
    seconds : float or array
        Duration, 0 where nobody is waited for [s].
    during : str
        Part of the layer that it lengthens: gate, dispatch or combine.
    count : float or array
        How often it happens in the layer.
    """

    name: str
    seconds: Floats
    during: str
    count: Floats = 1.0

    def flops(self) -> Floats:
        """Zero: nothing is computed [FLOP]."""
        return 0.0 * self.seconds

    def nbytes(self) -> Floats:
        """Zero: nothing is moved [B]."""
        return 0.0 * self.seconds


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a dispatch or combine moves, for kernels whose time depends on more than the payload.

    Parameters
    ----------
    tokens : float or array
        Tokens of one rank.
    hidden : float
        Elements of a token.
    experts, topk : float or array
        Routed experts of the layer, and experts per token.
    decode : bool
        Whether it belongs to a decode step (low-latency kernels).
    groups, group_limit : int
        Groups of experts, and how many of them the router may pick for a token; 0 where it may pick all.
    element_bytes : float
        Bytes per element of its messages, scales included; 0 for what the kernel was measured with [B].
    imbalance : float or array
        Copies that the busiest rank receives over the mean.
    """

    tokens: Floats
    hidden: float
    experts: Floats
    topk: Floats
    decode: bool
    groups: int = 0
    group_limit: int = 0
    element_bytes: float = 0.0
    imbalance: Floats = 1.0


@dataclass(frozen=True, slots=True)
class Collective:
    """Communication among the ranks of one group.

    Parameters
    ----------
    name : str
        What it carries.
    kind : str
        all_reduce, all_gather, reduce_scatter, all_to_all, point_to_point, dispatch or combine.
    payload : float or array
        The total buffer: all-gather's result, reduce-scatter's input, what one rank holds for an all-to-all [B].
    group : str
        Which ranks take part.
    count : float or array
        How often it happens in the layer.
    exchange : Exchange, optional
        Tokens and experts of a dispatch or combine.
    """

    name: str
    kind: CollectiveKind
    payload: Floats
    group: Group
    count: Floats = 1.0
    exchange: Exchange | None = None

    def flops(self) -> Floats:
        """Zero: the additions of a reduction are not counted as model work [FLOP]."""
        return 0.0 * self.payload

    def nbytes(self) -> Floats:
        """Zero: link traffic is timed apart from memory traffic [B]."""
        return 0.0 * self.payload


Operator: TypeAlias = Gemm | Attention | Experts | Pass | Wait | Collective
"""Anything a layer can ask a device to do."""
