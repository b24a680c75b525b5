"""Families with softmax attention in every layer, dense or with experts (sizes only)."""

from perfmodel.layers.attention import GroupedQueryAttention
from perfmodel.layers.base import Layer
from perfmodel.models.block import Block
from perfmodel.models.huggingface.feed_forward import dense_mlp, expert_layers, experts
from perfmodel.models.huggingface.fields import Fields
from perfmodel.models.huggingface.heads import attention, windows
from perfmodel.models.huggingface.parts import Draft, Style, block, ends, hidden_size, layer_count, prediction_block

STYLES: dict[str, Style] = {
    "llama": Style(),
    "mistral": Style(windows="all"),
    "ministral3": Style(windows="all"),
    "qwen2": Style(qkv_bias=True, output_bias=False, windows="late"),
    "qwen3": Style(qk_norm=True, windows="late"),
    "phi3": Style(windows="all"),
    "glm4": Style(qkv_bias=True, output_bias=False, norms=4),
    "granite": Style(),
    "smollm3": Style(tied=True),
    "exaone4": Style(qk_norm=True),
    "deepseek": Style(),
    "olmoe": Style(qk_norm=True, wide_norm=True),
    "seed_oss": Style(qkv_bias=True, output_bias=False),
    "olmo2": Style(qk_norm=True, wide_norm=True),
    "olmo3": Style(qk_norm=True, wide_norm=True),
    "gemma": Style(tied=True),
    "gemma2": Style(norms=4, tied=True, windows="even"),
    "gemma3": Style(qk_norm=True, norms=4, tied=True),
    "nemotron": Style(gated=False, norm_vectors=2),
    "gpt2": Style(gated=False, norm_vectors=2, biases=True, qkv_bias=True, tied=True, positions=True),
    "opt": Style(gated=False, norm_vectors=2, biases=True, qkv_bias=True, tied=True, positions=True),
    "gpt_neox": Style(gated=False, norm_vectors=2, biases=True, qkv_bias=True),
    "bloom": Style(gated=False, norm_vectors=2, biases=True, qkv_bias=True, tied=True),
    "mpt": Style(gated=False, tied=True),
    "mixtral": Style(windows="all"),
    "qwen2_moe": Style(qkv_bias=True, output_bias=False, shared_gate=True, windows="late"),
    "qwen3_moe": Style(qk_norm=True, windows="late"),
    "minimax_m2": Style(qk_norm=True, wide_norm=True),
    "glm4_moe": Style(output_bias=False),
    "gpt_oss": Style(expert_bias=True, router_bias=True, sinks=True, qkv_bias=True, windows="even"),
    "grok-1": Style(norms=4, tied=True),
    "dots1": Style(qk_norm=True),
}
STYLES |= {
    "gemma3_text": STYLES["gemma3"],
    "megatron_gpt": STYLES["gpt2"],
    "qwen2_vl": STYLES["qwen2"],
    "qwen2_5_vl": STYLES["qwen2"],
    "qwen2_5_vl_text": STYLES["qwen2"],
    "qwen3_vl_text": STYLES["qwen3"],
    "qwen3_vl_moe_text": STYLES["qwen3_moe"],
}

# What a family leaves out of its description where it has the usual value.
_USUAL: dict[str, dict[str, int]] = {
    "gemma3_text": {
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "max_position_embeddings": 131_072,
    },
}
_USUAL["gemma3"] = _USUAL["gemma3_text"]

_MOE_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts")


def transformer(fields: Fields) -> Draft:
    """Read a model whose layers all attend with softmax: the common case.

    Parameters
    ----------
    fields : Fields
        The description.

    Returns
    -------
    Draft
        One block per layer.
    """
    family = fields.text("model_type")
    style = STYLES[family]
    fields = fields.overlaid(**{k: v for k, v in _USUAL.get(family, {}).items() if not fields.has(k)})
    layers = layer_count(fields)
    routed = any(fields.has(name) for name in _MOE_FIELDS)
    is_moe = expert_layers(fields, layers) if routed else [False] * layers
    blocks: list[Block] = []
    for window, moe in zip(windows(fields, style, layers), is_moe, strict=True):
        mixer = attention(fields, style, window)
        blocks.append(_block(fields, style, mixer, moe))
    fields.use("intermediate_size")
    draft = Draft(blocks, *ends(fields, style))
    mtp = fields.integer("num_nextn_predict_layers", "num_mtp_modules", default=0, minimum=0)
    draft.mtp = [prediction_block(hidden_size(fields), blocks[-1])] * mtp
    return draft


def _block(fields: Fields, style: Style, mixer: GroupedQueryAttention, moe: bool) -> Block:
    feed: Layer = experts(fields, style) if moe else dense_mlp(fields, style)
    name = "moe" if moe else "dense"
    return block(f"{name}, sliding" if mixer.window else name, style, mixer, feed)


def falcon(fields: Fields) -> Draft:
    """Read Falcon: attention and MLP side by side, multi-query or grouped-query, no biases.

    Parameters
    ----------
    fields : Fields
        The description.

    Returns
    -------
    Draft
        One block per layer.
    """
    grouped = fields.flag("new_decoder_architecture")
    one = fields.flag("multi_query", default=True) and not grouped
    fields.flag("parallel_attn", default=True)
    fields.flag("bias")
    style = Style(gated=False, norm_vectors=2, norms=2 if grouped else 1, tied=True)
    if one:
        fields = fields.overlaid(num_key_value_heads=1)
    layers = layer_count(fields)
    blocks = [_block(fields, style, attention(fields, style), moe=False)] * layers
    return Draft(blocks, *ends(fields, style))


def llama4(fields: Fields) -> Draft:
    """Read Llama 4: chunked attention in three layers of four, experts in every layer or every second one.

    Parameters
    ----------
    fields : Fields
        The description.

    Returns
    -------
    Draft
        One block per layer.
    """
    layers, style = layer_count(fields), Style()
    chunk = fields.integer("attention_chunk_size", default=8192)
    full = fields.items("no_rope_layers", layers) or [(i + 1) % 4 != 0 for i in range(layers)]
    inner = fields.integer("intermediate_size")
    shared = fields.overlaid(shared_expert_intermediate_size=inner)
    wide = fields.integer("intermediate_size_mlp", default=inner)
    blocks = []
    for chunked, moe in zip(full, expert_layers(fields, layers), strict=True):
        mixer = attention(fields, style, chunk if chunked else 0, chunked=bool(chunked))
        feed: Layer = experts(shared, style) if moe else dense_mlp(fields, style, wide)
        name = "moe" if moe else "dense"
        blocks.append(block(f"{name}, chunked" if chunked else name, style, mixer, feed))
    fields.use("num_experts", "num_local_experts", "num_experts_per_tok", "use_qk_norm")
    return Draft(blocks, *ends(fields, style))


def gemma4(fields: Fields) -> Draft:
    """Read Gemma 4: global layers with wider heads whose values are their keys, dense MLP beside the experts.

    Parameters
    ----------
    fields : Fields
        The description.

    Returns
    -------
    Draft
        One block per layer.
    """
    layers, style = layer_count(fields), Style(qk_norm=True, norms=4, tied=True)
    same = fields.flag("attention_k_eq_v")
    moe = fields.flag("enable_moe_block")
    fields.use("num_kv_shared_layers", "use_double_wide_mlp")
    local = attention(fields, style)
    wide = fields.integer("global_head_dim", default=local.qk_head_dim)
    kv_heads = fields.integer("num_global_key_value_heads", default=local.kv_heads)
    blocks = []
    for window in windows(fields, style, layers):
        if window:
            mixer = GroupedQueryAttention(
                local.hidden, local.heads, local.kv_heads, local.qk_head_dim, local.v_head_dim, window, qk_norm=True
            )
        else:
            mixer = GroupedQueryAttention(local.hidden, local.heads, kv_heads, wide, wide, qk_norm=True, shared_kv=same)
        feed: list[Layer] = [dense_mlp(fields, style)]
        if moe:
            feed.append(experts(fields, style))
        name = "dense and moe" if moe else "dense"
        blocks.append(block(f"{name}, sliding" if window else name, style, mixer, *feed))
    return Draft(blocks, *ends(fields, style))


def mimo(fields: Fields) -> Draft:
    """Read MiMo-V2: sliding layers with their own heads, a value narrower than its key, a dense first layer.

    Parameters
    ----------
    fields : Fields
        The description.

    Returns
    -------
    Draft
        One block per layer.
    """
    layers, style = layer_count(fields), Style()
    pattern = fields.items("hybrid_layer_pattern", layers) or [0] * layers
    window = fields.integer("sliding_window")
    near = {
        "num_attention_heads": fields.integer("swa_num_attention_heads", "num_attention_heads"),
        "num_key_value_heads": fields.integer("swa_num_key_value_heads", "num_key_value_heads"),
        "head_dim": fields.integer("swa_head_dim", "head_dim"),
        "v_head_dim": fields.integer("swa_v_head_dim", "v_head_dim"),
    }
    sliding = fields.overlaid(**near)
    blocks = []
    for slides, moe in zip(pattern, expert_layers(fields, layers), strict=True):
        mixer = attention(sliding, style, window) if slides else attention(fields, style)
        blocks.append(_block(fields, style, mixer, moe))
    return Draft(blocks, *ends(fields, style))


def step(fields: Fields) -> Draft:
    """Read Step 3.5 and 3.7 Flash: sliding layers that may have their own number of heads, dense first layers.

    Parameters
    ----------
    fields : Fields
        The description.

    Returns
    -------
    Draft
        One block per layer.
    """
    layers, style = layer_count(fields), Style(qk_norm=True)
    kinds = fields.items("layer_types", kind=str)
    if len(kinds) > layers:  # those of the blocks that predict further tokens stand behind
        fields = fields.overlaid(layer_types=kinds[:layers])
    listed = fields.values.get("moe_layers_enum")
    fields.use("moe_layers_enum", "attention_other_setting", "use_head_wise_attn_gate", "moe_router_activation")
    if isinstance(listed, str):
        routed = {entry.strip() for entry in listed.split(",")}
        fields = fields.overlaid(moe_layer_freq=[int(str(i) in routed) for i in range(layers)])
    other = fields.values.get("attention_other_setting")
    near = fields
    if isinstance(other, dict):
        near = fields.overlaid(**{str(k): v for k, v in other.items() if v is not None})
    blocks = []
    for window, moe in zip(windows(fields, style, layers), expert_layers(fields, layers), strict=True):
        blocks.append(_block(fields, style, attention(near if window else fields, style, window), moe))
    draft = Draft(blocks, *ends(fields, style))
    count = fields.integer("num_nextn_predict_layers", default=0, minimum=0)
    dense = [b for b, moe in zip(blocks, expert_layers(fields, layers), strict=True) if not moe] or blocks
    draft.mtp = [prediction_block(hidden_size(fields), dense[-1])] * count
    return draft


FAMILIES = {
    **dict.fromkeys(STYLES, transformer),
    "falcon": falcon,
    "llama4": llama4,
    "llama4_text": llama4,
    "gemma4": gemma4,
    "gemma4_text": gemma4,
    "mimo_v2_flash": mimo,
    "step3p5": step,
    "step3p7": step,
}
