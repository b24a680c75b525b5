"""Families with multi-head latent attention: DeepSeek V2 to V4, Kimi K2, GLM-5 (sizes only)."""

from dataclasses import replace

from perfmodel.errors import ModelConfigError
from perfmodel.layers.base import Layer
from perfmodel.layers.compressed import CompressedAttention
from perfmodel.layers.latent import Indexer, LatentAttention
from perfmodel.layers.norm import HyperConnections
from perfmodel.models.block import Block
from perfmodel.models.huggingface.feed_forward import dense_mlp, expert_layers, experts
from perfmodel.models.huggingface.fields import Fields
from perfmodel.models.huggingface.parts import Draft, Style, block, ends, hidden_size, layer_count, prediction_block


def latent_attention(fields: Fields) -> LatentAttention:
    """Read latent attention, with its indexer where there is one.

    Parameters
    ----------
    fields : Fields
        The description.

    Returns
    -------
    LatentAttention
        The layer.
    """
    fields.use("num_key_value_heads", "head_dim", "qk_head_dim", "attention_bias")
    indexer = None
    if fields.has("index_topk"):
        indexer = Indexer(
            fields.integer("index_n_heads"), fields.integer("index_head_dim"), fields.integer("index_topk")
        )
    return LatentAttention(
        hidden_size(fields),
        fields.integer("num_attention_heads"),
        fields.integer("q_lora_rank", default=0),
        fields.integer("kv_lora_rank"),
        fields.integer("qk_nope_head_dim"),
        fields.integer("qk_rope_head_dim"),
        fields.integer("v_head_dim"),
        indexer,
    )


def deepseek(fields: Fields) -> Draft:
    """Read a latent-attention model with dense first layers and experts after them.

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
    mixer = latent_attention(fields)
    blocks = []
    for moe in expert_layers(fields, layers):
        feed: Layer = experts(fields, style) if moe else dense_mlp(fields, style)
        blocks.append(block("moe" if moe else "dense", style, mixer, feed))
    draft = Draft(blocks, *ends(fields, style))
    count = fields.integer("num_nextn_predict_layers", default=0, minimum=0)
    draft.mtp = [prediction_block(hidden_size(fields), blocks[-1])] * count
    return draft


def deepseek_v4(fields: Fields) -> Draft:
    """Read DeepSeek-V4: window and pooled keys, low-rank outputs, several residual streams, experts in every layer.

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
    mtp = fields.integer("num_nextn_predict_layers", default=0, minimum=0)
    ratios = [int(ratio) for ratio in fields.items("compress_ratios")]
    if len(ratios) < layers:
        raise ModelConfigError(
            f"{fields.place}: field 'compress_ratios' has {len(ratios)} entries; it needs one for each of the {layers} "
            "layers"
        )
    hashed = fields.integer("num_hash_layers", default=0, minimum=0)
    streams = fields.integer("hc_mult", default=1)
    fields.use("num_key_value_heads")
    routed = experts(fields, style)
    by_table = replace(routed, router_bias=False)  # the table replaces the score correction; scores remain
    blocks = []
    for index in range(layers + mtp):
        mixer = _compressed(fields, ratios[index] if index < len(ratios) else 0)
        feed = by_table if index < hashed else routed
        kind = {0: "window", 4: "sparse"}.get(mixer.stride, "pooled")
        name = f"{kind}, table-routed" if index < hashed else kind
        hidden = mixer.hidden
        parts = (
            HyperConnections("attention streams", hidden, streams),
            mixer,
            HyperConnections("mlp streams", hidden, streams),
            feed,
        )
        blocks.append(Block(name, parts))
    draft = Draft(blocks[:layers], *ends(fields, style))
    draft.mtp = [prediction_block(hidden_size(fields), inner) for inner in blocks[layers:]]
    draft.notes.append("compressed attention is modelled from its published description; no kernel was measured")
    return draft


def _compressed(fields: Fields, ratio: int) -> CompressedAttention:
    topk, heads = fields.integer("index_topk"), fields.integer("index_n_heads")
    indexer = Indexer(heads, fields.integer("index_head_dim"), topk, ratio, pooling=4) if ratio == 4 else None
    fields.use("qk_rope_head_dim")
    return CompressedAttention(
        hidden_size(fields),
        fields.integer("num_attention_heads"),
        fields.integer("head_dim"),
        fields.integer("q_lora_rank"),
        fields.integer("o_lora_rank"),
        fields.integer("o_groups"),
        fields.integer("sliding_window"),
        ratio,
        overlap=ratio == 4,
        indexer=indexer,
    )


FAMILIES = {
    **dict.fromkeys(
        ("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "glm_moe_dsa", "glm4_moe_lite"), deepseek
    ),
    "deepseek_v4": deepseek_v4,
}
