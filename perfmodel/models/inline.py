"""Models described by a row of sizes instead of a config.json (sizes only)."""

from collections.abc import Mapping

from perfmodel.errors import ModelConfigError
from perfmodel.layers.attention import GroupedQueryAttention
from perfmodel.layers.base import Layer
from perfmodel.layers.embedding import Embedding, Head
from perfmodel.layers.latent import LatentAttention
from perfmodel.layers.mlp import Mlp
from perfmodel.layers.moe import MixtureOfExperts
from perfmodel.layers.norm import Norm
from perfmodel.models.block import Block, assemble
from perfmodel.models.spec import ModelSpec

INLINE_FIELDS = (
    "hidden", "layers", "dense_layers", "heads", "kv_heads", "head_dim", "ffn", "vocab", "gated", "experts", "topk",
    "expert_ffn", "shared_expert_ffn", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
    "v_head_dim", "positions",
)  # fmt: skip
"""Sizes that may describe a model; hidden, layers, heads, vocab and one of ffn and experts must be there."""

_REQUIRED = ("hidden", "layers", "heads", "vocab")


def inline_model(sizes: Mapping[str, float], name: str = "inline") -> ModelSpec:
    """Build a decoder from its sizes.

    Without a gate it is a GPT: layer norms, biases, a learned position table and a tied output projection; with a gate
    it is a Llama: RMS norms, rotary positions, projection of its own. `kv_lora_rank` makes attention latent, `experts`
    makes all but the first `dense_layers` layers mixtures of experts.

    Parameters
    ----------
    sizes : mapping
        Some of `INLINE_FIELDS`; what is missing or zero is left to its default.
    name : str
        Id of the model, and the place that errors name.

    Returns
    -------
    ModelSpec
        The model.

    Raises
    ------
    ModelConfigError
        If a size that is needed is missing, or no whole number above zero.

    Examples
    --------
    >>> sizes = {"hidden": 12288, "layers": 96, "heads": 96, "ffn": 49152, "vocab": 51200, "positions": 2048}
    >>> gpt = inline_model(sizes)
    >>> round(gpt.parameters() / 1e9, 1)
    174.6
    """
    unknown = set(sizes) - set(INLINE_FIELDS)
    if unknown:
        raise ModelConfigError(
            f"{name}: {sorted(unknown)[0]!r} is no size of a model; known: {', '.join(INLINE_FIELDS)}"
        )
    given = {key: value for key, value in sizes.items() if value == value and value != 0}
    for key in (*_REQUIRED, *(() if given.get("experts") else ("ffn",))):
        if key not in given:
            raise ModelConfigError(f"{name}: size {key!r} is missing; give it, or name a model of the catalogue")
    for key, value in given.items():
        if not 0 < value < 1e12 or value != int(value):
            raise ModelConfigError(f"{name}: {key} is {value:g}, and must be a whole number above zero")
    whole = {key: int(value) for key, value in given.items()}
    gated, hidden, heads = bool(whole.get("gated")), whole["hidden"], whole["heads"]
    attention = _attention(whole, gated)
    dense = whole.get("dense_layers", 0) if whole.get("experts") else whole["layers"]
    blocks = [_block(index < dense, whole, gated, attention, name) for index in range(whole["layers"])]
    counted, layout = assemble(blocks)
    vectors = 1 if gated else 2
    return ModelSpec(
        id=name,
        hidden=hidden,
        vocab=whole["vocab"],
        blocks=counted,
        layout=layout,
        embedding=Embedding(whole["vocab"], hidden, 0 if gated else whole.get("positions", 0)),
        head=Head(whole["vocab"], hidden, tied=not gated, norm_vectors=vectors),
        max_context=whole.get("positions", 0),
        family="inline",
        source=f"{heads} heads, {whole['layers']} layers of width {hidden}",
    )


def _attention(whole: Mapping[str, int], gated: bool) -> Layer:
    hidden, heads = whole["hidden"], whole["heads"]
    if "kv_lora_rank" in whole:
        return LatentAttention(
            hidden,
            heads,
            whole.get("q_lora_rank", 0),
            whole["kv_lora_rank"],
            whole.get("qk_nope_head_dim", 128),
            whole.get("qk_rope_head_dim", 64),
            whole.get("v_head_dim", 128),
        )
    width = whole.get("head_dim", hidden // heads)
    return GroupedQueryAttention(
        hidden, heads, whole.get("kv_heads", heads), width, width, qkv_bias=not gated, output_bias=not gated
    )


def _block(dense: bool, whole: Mapping[str, int], gated: bool, attention: Layer, name: str) -> Block:
    hidden, vectors = whole["hidden"], 1 if gated else 2
    if dense:
        if "ffn" not in whole:
            raise ModelConfigError(f"{name}: size 'ffn' is missing for {whole.get('dense_layers', 0)} dense layers")
        feed: Layer = Mlp(hidden, whole["ffn"], gated, bias=not gated)
    else:
        feed = MixtureOfExperts(
            hidden,
            whole["experts"],
            whole.get("topk", 1),
            whole.get("expert_ffn", whole.get("ffn", 0)),
            gated,
            shared_intermediate=whole.get("shared_expert_ffn", 0),
        )
    norms = Norm("attention norm", hidden, vectors), Norm("mlp norm", hidden, vectors)
    return Block("dense" if dense else "moe", (norms[0], attention, norms[1], feed))
