"""Families that mix softmax attention with linear attention or Mamba (sizes only)."""

from perfmodel.errors import ModelConfigError
from perfmodel.layers.base import Layer
from perfmodel.layers.linear_attention import LinearAttention
from perfmodel.layers.norm import Norm
from perfmodel.models.block import Block
from perfmodel.models.huggingface.feed_forward import dense_mlp, expert_layers, experts
from perfmodel.models.huggingface.fields import Fields
from perfmodel.models.huggingface.heads import attention
from perfmodel.models.huggingface.parts import Draft, Style, block, ends, hidden_size, layer_count, prediction_block


def qwen_next(fields: Fields) -> Draft:
    """Read Qwen3-Next and Qwen3.5: gated delta net in three layers of four, gated softmax attention in the fourth.

    Parameters
    ----------
    fields : Fields
        The description.

    Returns
    -------
    Draft
        One block per layer.
    """
    layers, style = layer_count(fields), Style(qk_norm=True, shared_gate=True)
    interval = fields.integer("full_attention_interval", default=4)
    kinds = fields.items("layer_types", layers, str) or [
        "full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(layers)
    ]
    gated = fields.overlaid(attn_output_gate=fields.flag("attn_output_gate", default=True))
    full = attention(gated, style)
    linear = _delta_net(fields)
    is_moe = expert_layers(fields, layers) if fields.has("num_experts") else [False] * layers
    blocks = []
    for kind, moe in zip(kinds, is_moe, strict=True):
        mixer: Layer = full if kind == "full_attention" else linear
        feed: Layer = experts(fields, style) if moe else dense_mlp(fields, style)
        name = "full attention" if kind == "full_attention" else "linear attention"
        blocks.append(block(f"{name}, moe" if moe else name, style, mixer, feed))
    draft = Draft(blocks, *ends(fields, style))
    fields.use("intermediate_size", "mlp_only_layers")
    last = next((b for b, kind in zip(blocks[::-1], kinds[::-1], strict=True) if kind == "full_attention"), blocks[-1])
    count = fields.integer("mtp_num_hidden_layers", "num_nextn_predict_layers", default=0, minimum=0)
    draft.mtp = [prediction_block(hidden_size(fields), last)] * count
    return draft


def _delta_net(fields: Fields) -> LinearAttention:
    value_heads, value_dim = fields.integer("linear_num_value_heads"), fields.integer("linear_value_head_dim")
    return LinearAttention(
        hidden_size(fields),
        fields.integer("linear_num_key_heads"),
        fields.integer("linear_key_head_dim"),
        value_heads,
        value_dim,
        fields.integer("linear_conv_kernel_dim", default=4),
        vectors=2 * value_heads + value_dim,
    )


def nemotron_h(fields: Fields) -> Draft:
    """Read Nemotron-H and Nemotron 3: a string says which layer is Mamba-2, attention, MLP or experts.

    Every layer is one mixer with one norm.

    Parameters
    ----------
    fields : Fields
        The description.

    Returns
    -------
    Draft
        One block per layer.

    Raises
    ------
    ModelConfigError
        If the pattern does not fit the number of layers or holds an unknown letter.
    """
    pattern = fields.text("hybrid_override_pattern")
    layers = fields.integer("num_hidden_layers", default=len(pattern))
    style = Style(gated=False)
    if len(pattern) != layers:
        raise ModelConfigError(
            f"{fields.place}: field 'hybrid_override_pattern' has {len(pattern)} letters; it needs one for each of the "
            f"{layers} layers"
        )
    unknown = set(pattern) - set("M*-E")
    if unknown:
        raise ModelConfigError(
            f"{fields.place}: field 'hybrid_override_pattern' holds {sorted(unknown)}; known are M (Mamba-2), * "
            "(attention), - (MLP) and E (experts)"
        )
    names = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
    hidden = hidden_size(fields)
    made = {kind: _mixer(kind, fields, style) for kind in sorted(set(pattern))}
    blocks = [Block(names[kind], (Norm(f"{names[kind]} norm", hidden), made[kind])) for kind in pattern]
    fields.use("intermediate_size", "mlp_bias", "sliding_window", "mamba_proj_bias", "use_bias", "use_conv_bias")
    return Draft(blocks, *ends(fields, style))


def _mixer(kind: str, fields: Fields, style: Style) -> Layer:
    match kind:
        case "M":
            return _mamba(fields)
        case "*":
            return attention(fields, style)
        case "-":
            return dense_mlp(fields, style)
        case _:
            return experts(fields, Style(gated=False, router_bias=True))


def _mamba(fields: Fields) -> LinearAttention:
    heads, head_dim = fields.integer("mamba_num_heads"), fields.integer("mamba_head_dim")
    groups, state = fields.integer("n_groups"), fields.integer("ssm_state_size")
    bias = (heads * head_dim + 2 * groups * state) if fields.flag("use_conv_bias", default=True) else 0
    text = str(fields.values.get("mamba_ssm_cache_dtype") or "float32")
    fields.use("mamba_ssm_cache_dtype")
    return LinearAttention(
        hidden_size(fields),
        groups,
        state,
        heads,
        head_dim,
        fields.integer("conv_kernel", default=4),
        scalars=1,
        products=2,
        vectors=3 * heads + heads * head_dim + bias,
        state_bytes=4.0 if text == "float32" else 2.0,
        name="Mamba-2 scan",
    )


def minimax_text(fields: Fields) -> Draft:
    """Read MiniMax-Text-01 and M1: lightning attention with softmax attention in every eighth layer.

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
    kinds = fields.items("attn_type_list", layers) or [int((i + 1) % 8 == 0) for i in range(layers)]
    full = attention(fields, style)
    heads, width = full.heads, full.qk_head_dim
    linear = LinearAttention(
        full.hidden, heads, width, heads, width, 0, 0, 2, vectors=heads * width, name="lightning attention"
    )
    blocks = []
    for kind in kinds:
        mixer: Layer = full if kind else linear
        name = "full attention, moe" if kind else "linear attention, moe"
        blocks.append(block(name, style, mixer, experts(fields, style)))
    fields.use("shared_moe_mode", "postnorm")
    return Draft(blocks, *ends(fields, style))


FAMILIES = {
    **dict.fromkeys(("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"), qwen_next),
    "nemotron_h": nemotron_h,
    "minimax_text_01": minimax_text,
    "minimax_m1": minimax_text,
    "minimax": minimax_text,
}
