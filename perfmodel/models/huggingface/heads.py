"""Grouped-query attention of a description, and which layers slide (sizes only)."""

from perfmodel.errors import ModelConfigError
from perfmodel.layers.attention import GroupedQueryAttention
from perfmodel.models.huggingface.fields import Fields
from perfmodel.models.huggingface.parts import Style, hidden_size


def attention(fields: Fields, style: Style, window: int = 0, chunked: bool = False) -> GroupedQueryAttention:
    """Read grouped-query attention.

    Parameters
    ----------
    fields : Fields
        The description.
    style : Style
        What the family does by itself.
    window : int
        Sliding window of the layer; 0 for none.
    chunked : bool
        Whether the window is a chunk.

    Returns
    -------
    GroupedQueryAttention
        The layer.

    Raises
    ------
    ModelConfigError
        If key-value heads do not divide query heads.
    """
    hidden, heads = hidden_size(fields), fields.integer("num_attention_heads", "n_head", "n_heads")
    kv_heads = fields.integer("num_key_value_heads", "num_kv_heads", "num_attention_groups", default=heads)
    if heads % kv_heads:
        raise ModelConfigError(
            f"{fields.place}: field 'num_key_value_heads' is {kv_heads}; it needs to divide the {heads} query heads"
        )
    if not fields.has("head_dim") and not fields.has("attention_head_dim") and hidden % heads:
        raise ModelConfigError(
            f"{fields.place}: field 'head_dim' is missing and num_attention_heads = {heads} does not divide "
            f"hidden_size = {hidden}; add head_dim or correct one of them"
        )
    width = fields.integer("head_dim", "attention_head_dim", default=hidden // heads)
    bias = fields.flag("attention_bias", "qkv_bias", default=style.qkv_bias)
    return GroupedQueryAttention(
        hidden,
        heads,
        kv_heads,
        width,
        fields.integer("v_head_dim", default=width),
        window=window,
        chunked=chunked,
        qk_norm=fields.flag("use_qk_norm", default=style.qk_norm),
        wide_norm=style.wide_norm,
        qkv_bias=bias,
        output_bias=(bias and style.output_bias) or style.biases,
        output_gate=fields.flag("attn_output_gate"),
        sinks=style.sinks,
    )


def windows(fields: Fields, style: Style, layers: int) -> list[int]:
    """Read the sliding window of every layer.

    Parameters
    ----------
    fields : Fields
        The description.
    style : Style
        What the family does by itself.
    layers : int
        Layers of the model.

    Returns
    -------
    list of int
        Window in tokens, 0 for full attention.

    Raises
    ------
    ModelConfigError
        If a kind of layer is not known.
    """
    kinds = fields.items("layer_types", layers, str)
    window = fields.integer("sliding_window", default=0)
    used = fields.flag("use_sliding_window", default=True)
    pattern = fields.integer("sliding_window_pattern", "_sliding_window_pattern", default=0)
    late = fields.integer("max_window_layers", default=layers, minimum=0)
    if kinds:
        sizes = {"sliding_attention": window, "full_attention": 0, "attention": 0}
        unknown = {str(kind) for kind in kinds} - set(sizes) - {"linear_attention", "chunked_attention"}
        if unknown:
            raise ModelConfigError(
                f"{fields.place}: field 'layer_types' holds {sorted(unknown)}; known are full_attention, "
                "sliding_attention, chunked_attention and linear_attention"
            )
        if "sliding_attention" in kinds and not window:
            raise ModelConfigError(f"{fields.place}: field 'sliding_window' is missing; layer_types has sliding layers")
        return [sizes.get(kind, 0) for kind in kinds]
    if not window or not used:
        return [0] * layers
    if pattern:
        return [0 if (i + 1) % pattern == 0 else window for i in range(layers)]
    rules = {
        "all": range(layers),
        "late": range(min(late, layers), layers),
        "even": range(0, layers, 2),
        "none": range(0),
    }
    return [window if i in rules[style.windows] else 0 for i in range(layers)]
