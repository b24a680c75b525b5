"""Hugging Face config.json -> model: which family reads it, and what is wrong with it when none can (sizes only)."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from perfmodel.errors import ModelConfigError, suggest
from perfmodel.models.block import assemble
from perfmodel.models.huggingface import hybrid, latent, softmax
from perfmodel.models.huggingface.fields import Fields, ignorable
from perfmodel.models.huggingface.parts import Draft, max_context
from perfmodel.models.huggingface.quantization import checkpoint_precision
from perfmodel.models.spec import ModelSpec

FAMILIES: Mapping[str, Callable[[Fields], Draft]] = {**softmax.FAMILIES, **latent.FAMILIES, **hybrid.FAMILIES}
"""Reader of every known `model_type`."""

# Fields that some family places; used only to say which ones of an unknown architecture none would.
_FAMILIAR = """
    hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim v_head_dim intermediate_size
    vocab_size max_position_embeddings tie_word_embeddings attention_bias mlp_bias sliding_window use_sliding_window
    max_window_layers layer_types num_experts num_local_experts n_routed_experts num_experts_per_tok
    moe_intermediate_size n_shared_experts first_k_dense_replace moe_layer_freq use_qk_norm quantization_config
    q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim num_nextn_predict_layers index_topk index_n_heads
    index_head_dim text_config vision_config n_embd n_layer n_head n_inner n_positions"""
_PLACED = frozenset(_FAMILIAR.split())


def read_config(path: str | Path) -> ModelSpec:
    """Read a model from a config.json, or from a directory that holds one.

    Parameters
    ----------
    path : str or Path
        The file or directory.

    Returns
    -------
    ModelSpec
        The model; its id is the path.

    Raises
    ------
    ModelConfigError
        If the file cannot be read, is no JSON object or describes no model that is known.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "config.json"
    values = _json_object(file)
    beside = file.with_name("hf_quant_config.json")
    if "quantization_config" not in values and beside.exists():
        # Some publishers keep the formats in a file of their own.
        formats = _json_object(beside).get("quantization")
        if isinstance(formats, dict):
            values["quantization_config"] = {"quant_method": "modelopt", **formats}
    return model_from_config(values, str(file))


def _json_object(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ModelConfigError(f"{file}: cannot be read: {reason}; give the path of a model's config.json") from None
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        what = "is empty" if not text.strip() else f"is not JSON ({error.msg} at {where}); it may be truncated"
        raise ModelConfigError(f"{file}: {what}; download it again") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets nested as deep
        raise ModelConfigError(f"{file}: is no description of a model; download it again") from None
    if not isinstance(values, dict):
        raise ModelConfigError(f"{file}: holds a JSON {type(values).__name__}; a model's config.json is an object")
    return values


def model_from_config(
    config: Mapping[str, Any], place: str, *, model_id: str = "", source: str = "", aliases: tuple[str, ...] = ()
) -> ModelSpec:
    """Turn the fields of a config.json into a model.

    Parameters
    ----------
    config : mapping
        The description; a multimodal one holds its language model under `text_config`.
    place : str
        File, or name of the preset: the beginning of every complaint.
    model_id : str
        Id of the model; the place where there is none.
    source : str
        Where the description comes from.
    aliases : tuple of str
        Other names.

    Returns
    -------
    ModelSpec
        The model.

    Raises
    ------
    ModelConfigError
        If a field is missing or makes no sense, or no family reads this architecture.
    """
    values, notes = _language_model(config, place)
    fields = Fields(values, place)
    family = str(values.get("model_type") or "")
    reader = FAMILIES.get(family)
    if reader is None:
        raise _unknown(values, family, place)
    draft = reader(fields)
    fields.use("quantization_config", "compression_config", "expert_dtype", "model_type")
    blocks, layout = assemble(draft.layers)
    mtp, _ = assemble(draft.mtp)
    context = max_context(fields)
    unplaced = fields.unplaced()
    if unplaced:
        notes.append(f"fields not taken into account: {', '.join(unplaced)}")
    return ModelSpec(
        id=model_id or place,
        hidden=draft.embedding.hidden,
        vocab=draft.embedding.vocab,
        blocks=blocks,
        layout=layout,
        embedding=draft.embedding,
        head=draft.head,
        max_context=context,
        mtp=mtp,
        weights=checkpoint_precision(values, place),
        family=family,
        source=source or place,
        aliases=aliases,
        notes=(*notes, *draft.notes),
    )


def _language_model(config: Mapping[str, Any], place: str) -> tuple[Mapping[str, Any], list[str]]:
    """The part of a multimodal description that is the language model; what stands outside it counts where it fits."""
    inner = config.get("text_config") or config.get("llm_config") or config.get("language_config")
    if inner is None:
        return config, []
    if not isinstance(inner, Mapping):
        raise ModelConfigError(f"{place}: field 'text_config' needs to be an object, not {inner!r}")
    shared = ("quantization_config", "compression_config", "torch_dtype", "dtype", "architectures")
    outer = {key: config[key] for key in (*shared, "tie_word_embeddings") if key in config}
    inner = {**outer, **inner}
    inner.setdefault("model_type", config.get("model_type"))
    towers = [key.removesuffix("_config") for key in ("vision_config", "audio_config") if config.get(key)]
    return inner, [f"the {' and '.join(towers)} encoder is not part of the model here"] if towers else []


def _unknown(values: Mapping[str, Any], family: str, place: str) -> ModelConfigError:
    names = values.get("architectures")
    architecture = names[0] if isinstance(names, list) and names else "unnamed"
    if not family and architecture == "unnamed":
        return ModelConfigError(
            f"{place}: fields 'model_type' and 'architectures' are missing; give a model's own config.json"
        )
    strange = sorted(name for name in values if name not in _PLACED and not ignorable(name))
    fields = f"fields that no family places: {', '.join(strange)}" if strange else "all its fields are familiar"
    near = suggest(family, FAMILIES)
    hint = f"; did you mean {near!r}?" if near else ""
    return ModelConfigError(
        f"{place}: unknown architecture {architecture!r} (model_type {family!r}); {fields}{hint or ';'} if it follows "
        "a known family (llama, qwen3, mixtral, deepseek_v3 ...), set model_type to that one"
    )
