"""What each kind of layer does in a training step on one device, forward and backward (sizes, no seconds)."""

from dataclasses import replace

import numpy as np

from perfmodel.arrays import as_floats
from perfmodel.layers.attention import GroupedQueryAttention
from perfmodel.layers.base import Layer
from perfmodel.layers.embedding import Embedding, Head
from perfmodel.layers.latent import LIFTING, LatentAttention
from perfmodel.layers.mlp import Mlp
from perfmodel.layers.moe import MixtureOfExperts
from perfmodel.layers.norm import Norm
from perfmodel.layers.operators import Exchange as TokenExchange
from perfmodel.layers.operators import Gemm
from perfmodel.layers.training_recipe import TrainingRecipe
from perfmodel.layers.training_work import Exchange, Kept, LayerWork, MicroBatch, Product, TrainingPass


def _products(gemms: list[Gemm], recipe: TrainingRecipe) -> tuple[Product, ...]:
    """Linear layers, each with its adapter where adapters are learned."""
    frozen, rank = recipe.method == "lora", recipe.adapter_rank
    out = [Product(g.name, g.tokens, g.out_features, g.in_features, g.format, frozen=frozen) for g in gemms]
    many = recipe.adapters
    for g in gemms if frozen else ():
        own = as_floats(g.tokens) / many
        out.append(Product(f"{g.name} adapter down", own, rank, g.in_features, recipe.head, many, adapter=True))
        out.append(Product(f"{g.name} adapter up", own, g.out_features, rank, recipe.head, many, adapter=True))
    return tuple(out)


def _tensor_exchanges(name: str, hidden: float, micro: MicroBatch) -> tuple[Exchange, ...]:
    """Around a divided layer: an all-reduce each way, or gather, scatter and one more gather of the kept input."""
    payload = as_floats(micro.rows) * hidden * micro.recipe.activation_bytes
    split = as_floats(micro.tp) > 1
    sharded = as_floats(micro.sequence_parallel) > 0
    whole = np.where(split & ~sharded, payload, 0.0)
    parts = np.where(split & sharded, payload, 0.0)
    return (
        Exchange(f"{name} all-reduce", "all_reduce", whole, "tp"),
        Exchange(f"{name} all-gather", "all_gather", parts, "tp", 1.0, 2.0),
        Exchange(f"{name} reduce-scatter", "reduce_scatter", parts, "tp"),
    )


def _head_exchanges(hidden: float, micro: MicroBatch) -> tuple[Exchange, ...]:
    """Around the output projection, whose logits stay divided over the vocabulary."""
    whole, gathered, scattered = _tensor_exchanges("head", hidden, micro)
    return (replace(whole, forward=0.0), gathered, replace(scattered, forward=0.0, backward=1.0))


def _softmax_attention(part: GroupedQueryAttention | LatentAttention, micro: MicroBatch) -> LayerWork:
    gemms, attentions, _ = micro.operators(part)
    a = micro.recipe.activation_bytes
    core = attentions[0]
    rows = as_floats(micro.rows)
    queries = rows * core.heads * core.qk_head_dim
    keys = rows * core.kv_heads * core.qk_head_dim
    values = rows * core.kv_heads * core.v_head_dim
    outputs = rows * core.heads * core.v_head_dim
    moved = a * (queries + keys + values)
    lifted = isinstance(part, LatentAttention)
    passes = [TrainingPass("rotary and layout", 2.0 * moved, 2.0 * moved, lifted=lifted)]
    kept = [Kept("queries, keys and values", moved, lifted=lifted), Kept("attention output", a * outputs)]
    if micro.recipe.cast_bytes:  # the projection keeps its own, narrower copy
        kept.append(Kept("attention output, quantised", micro.recipe.operand_bytes * outputs))
    if isinstance(part, LatentAttention):
        latent = rows * (part.query_rank + part.kv_rank + part.qk_rope_dim)
        narrow = rows * (part.query_rank + part.kv_rank)
        passes.append(TrainingPass("latent norms", 2.0 * a * narrow, 3.0 * a * narrow))
        kept.append(Kept("latent vectors", 2.0 * a * latent))
    if micro.unfused:
        scores = as_floats(core.batch) * core.heads * core.tokens * core.context
        mask = 1.0 if micro.dropout else 0.0
        passes.append(TrainingPass("softmax", 2.0 * a * scores, 2.5 * a * scores, core=True))
        if micro.dropout:
            passes.append(TrainingPass("attention dropout", 2.5 * a * scores, 3.0 * a * scores, core=True))
        kept.append(Kept("attention scores", (a * (1.0 + mask) + mask) * scores, core=True))
    split = np.where(as_floats(micro.cp) > 1, a * (queries + keys + values + outputs), 0.0)
    exchanges = (
        *_tensor_exchanges("attention", float(part.hidden), micro),
        Exchange("context all-to-all", "all_to_all", split, "cp"),
    )
    products = tuple(replace(p, lifts=lifted and p.name in LIFTING) for p in _products(gemms, micro.recipe))
    return LayerWork(products, tuple(attentions), tuple(passes), exchanges, tuple(kept))


def _mlp(part: Mlp, micro: MicroBatch) -> LayerWork:
    gemms, _, _ = micro.operators(part)
    a, gate = micro.recipe.activation_bytes, float(part.gated)
    inner = as_floats(micro.rows) * gemms[-1].in_features
    return LayerWork(
        products=_products(gemms, micro.recipe),
        passes=(
            TrainingPass(
                f"{part.name} activation", a * inner * (2.0 + gate), a * inner * (3.0 + 2.0 * gate), light=True
            ),
        ),
        exchanges=_tensor_exchanges(part.name, float(part.hidden), micro),
        kept=(
            Kept(f"{part.name} activation input", a * inner * (1.0 + gate)),
            Kept(f"{part.name} activation output", micro.recipe.operand_bytes * inner, light=True),
        ),
    )


def _experts(part: MixtureOfExperts, micro: MicroBatch) -> LayerWork:
    a, gate, ep = micro.recipe.activation_bytes, float(part.gated), as_floats(micro.ep)
    rows = as_floats(micro.outer_rows)
    routed = rows * part.topk
    local = part.experts / ep
    each = routed * ep / part.experts
    width, inner = float(part.width), float(part.intermediate)
    linear, operand = micro.recipe.linear, micro.recipe.operand_bytes
    frozen = micro.recipe.method == "lora"
    sent = np.where(ep > 1, a * routed * width, 0.0)
    tokens = TokenExchange(rows, width, float(part.experts), float(part.topk), False, part.groups, part.group_limit, a)
    work = LayerWork(
        products=(
            Product("router", rows, float(part.experts), float(part.hidden), micro.recipe.head, frozen=frozen),
            Product("experts up projection", each, (1.0 + gate) * inner, width, linear, local, True, frozen),
            Product("experts down projection", each, width, inner, linear, local, True, frozen),
        ),
        passes=(
            TrainingPass("routing", rows * part.experts * 8.0, rows * part.experts * 8.0, 4.0, 4.0),
            TrainingPass("permutation", 4.0 * a * routed * width, 4.0 * a * routed * width, 4.0, 4.0),
            TrainingPass(
                "expert activation",
                a * routed * inner * (2.0 + gate),
                a * routed * inner * (3.0 + 2.0 * gate),
                light=True,
            ),
        ),
        exchanges=(
            Exchange("dispatch", "dispatch", sent, "ep", tokens=tokens),
            Exchange("combine", "combine", sent, "ep", tokens=tokens),
        ),
        kept=(
            Kept("permuted tokens", (a + operand) * routed * width),
            Kept("expert activation input", a * routed * inner * (1.0 + gate)),
            Kept("expert activation output", operand * routed * inner, light=True),
        ),
    )
    if part.shared_intermediate:
        work = work + _mlp(Mlp(part.hidden, part.shared_intermediate, part.gated, name="shared expert"), micro)
    return work


def _norm(part: Norm, micro: MicroBatch) -> LayerWork:
    a = micro.recipe.activation_bytes
    elements = as_floats(micro.outer_rows) * part.hidden
    passes = [TrainingPass(part.name, 2.0 * a * elements, 3.0 * a * elements, light=True)]
    kept = [
        Kept(f"{part.name} input", a * elements),
        Kept(f"{part.name} output", micro.recipe.operand_bytes * elements, light=True),
    ]
    if part.residual:
        if micro.dropout:
            moved = 3.0 * a + 1.0
            passes.append(TrainingPass("dropout and residual", moved * elements, (5.0 * a + 1.0) * elements, 1.0, 2.0))
            kept.append(Kept("dropout mask", elements))
        else:
            passes.append(TrainingPass("residual", 3.0 * a * elements, 3.0 * a * elements))
    return LayerWork(passes=tuple(passes), kept=tuple(kept))


def _other(part: Layer, micro: MicroBatch) -> LayerWork:
    """Any other layer: its serving operators, passes twice as long backward, every product's result kept."""
    gemms, attentions, passes = micro.operators(part)
    a = micro.recipe.activation_bytes
    kept = [Kept(g.name, a * as_floats(g.tokens) * g.out_features * g.count) for g in gemms[:-1]]
    kept += [Kept(f"{g.name} input", a * as_floats(g.tokens) * g.in_features * g.count) for g in gemms[-1:]]
    hidden = float(getattr(part, "hidden", 0.0))
    return LayerWork(
        _products(gemms, micro.recipe),
        tuple(attentions),
        tuple(TrainingPass(p.name, p.nbytes(), 2.0 * as_floats(p.nbytes())) for p in passes),
        _tensor_exchanges("layer", hidden, micro) if gemms else (),
        tuple(kept),
    )


def layer_work(part: Layer, micro: MicroBatch) -> LayerWork:
    """List what one part of a block does in one microbatch, forward and backward.

    Parameters
    ----------
    part : Layer
        Attention, MLP, experts, norm or any other layer.
    micro : MicroBatch
        Sizes and manner of execution; arrays over plans.

    Returns
    -------
    LayerWork
        Sizes on one device.
    """
    match part:
        case GroupedQueryAttention() | LatentAttention():
            return _softmax_attention(part, micro)
        case MixtureOfExperts():
            return _experts(part, micro)
        case Mlp():
            return _mlp(part, micro)
        case Norm():
            return _norm(part, micro)
        case _:
            return _other(part, micro)


def embedding_work(part: Embedding, micro: MicroBatch) -> LayerWork:
    """List the token look-up of the first stage and its gradient, which is as large as the table.

    Parameters
    ----------
    part : Embedding
        Token table.
    micro : MicroBatch
        Sizes and manner of execution.

    Returns
    -------
    LayerWork
        Sizes on one device.
    """
    a = micro.recipe.activation_bytes
    elements = as_floats(micro.rows) * part.hidden
    table = as_floats(part.vocab) * part.hidden / micro.tp
    kept = (Kept("embedding dropout mask", as_floats(micro.outer_rows) * part.hidden),) if micro.dropout else ()
    return LayerWork(
        passes=(TrainingPass("embedding", 4.0 * a * elements, 3.0 * a * elements + 2.0 * a * table, 3.0, 3.0),),
        kept=kept,
    )


def head_work(part: Head, micro: MicroBatch) -> LayerWork:
    """List final norm, projection and loss of the last stage.

    Parameters
    ----------
    part : Head
        Final norm and projection.
    micro : MicroBatch
        Sizes and manner of execution.

    Returns
    -------
    LayerWork
        Sizes on one device; the logits are kept in 16 bits and once more in 32 bits.
    """
    a = micro.recipe.activation_bytes
    rows = as_floats(micro.rows)
    vocab = as_floats(part.vocab) / micro.tp
    logits = rows * vocab
    forward, backward, kernels = (8.0, 6.0, 2.0) if micro.fused_loss else (26.0, 18.0, 6.0)
    frozen = micro.recipe.method == "lora"
    norm = _norm(Norm("final norm", part.hidden, residual=False), micro)
    return norm + LayerWork(
        products=(Product("output projection", rows, vocab, float(part.hidden), micro.recipe.head, frozen=frozen),),
        passes=(TrainingPass("loss", forward * logits, backward * logits, kernels, kernels),),
        exchanges=_head_exchanges(float(part.hidden), micro),
        kept=(Kept("logits", (a + 4.0) * logits),),
    )
