"""Number formats of a checkpoint [bytes per element], from its `quantization_config`."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from perfmodel.errors import ModelConfigError
from perfmodel.layers.precision import Precision


def checkpoint_precision(config: Mapping[str, Any], place: str) -> Precision:
    """Read in which formats a checkpoint stores its weights.

    Parameters
    ----------
    config : mapping
        The whole description; `quantization_config` or `compression_config` may be absent.
    place : str
        File, or name of the preset.

    Returns
    -------
    Precision
        16 bits everywhere but where the description says otherwise.

    Raises
    ------
    ModelConfigError
        If the method of quantisation is not known.
    """
    quantization = config.get("quantization_config") or config.get("compression_config")
    dtype = str(config.get("torch_dtype") or config.get("dtype") or "bfloat16").removeprefix("torch.")
    base = {"float16": "fp16", "float32": "fp32"}.get(dtype, "bf16")
    plain = Precision(linear=base, experts=base, attention_linear=base, head=base)
    if not quantization:
        return plain
    if not isinstance(quantization, Mapping):
        raise ModelConfigError(f"{place}: field 'quantization_config' needs to be an object, not {quantization!r}")
    weights = _weights(quantization, place)
    layers = config.get("num_hidden_layers")
    count = layers if isinstance(layers, int) else 0
    if config.get("expert_dtype") == "fp4":
        return _spare(quantization, plain, weights, "w4a8_mxfp4_mxfp8", count)
    if quantization.get("quant_method") == "mxfp4":
        # Only experts are ever stored in it; everything else is listed as left alone.
        return Precision(linear=base, experts=weights, attention_linear=base, head=base)
    return _spare(quantization, plain, weights, weights, count)


def _spare(quantization: Mapping[str, Any], plain: Precision, weights: str, experts: str, layers: int) -> Precision:
    """Leave the modules in 16 bits that the description lists as not quantised."""
    left = [
        str(name).lower()
        for key in ("modules_to_not_convert", "ignore", "exclude_modules", "ignored_layers")
        for name in _list(quantization.get(key))
    ]
    attention = _mentions(left, ("self_attn", "attention", "linear_attn"), layers)
    linear = _mentions(left, ("shared_expert", "mlp.down_proj", "mlp.(gate", "dense"), layers)
    return Precision(
        linear=plain.linear if linear else weights,
        experts=experts,
        attention_linear=plain.linear if attention else weights,
        head=plain.head,
        kv=_cache(quantization),
    )


def _mentions(names: Iterable[str], words: tuple[str, ...], layers: int) -> bool:
    """Whether a kind of module is left out everywhere: by a pattern, or by name in half of the layers or more."""
    named: set[str] = set()
    for name in names:
        if any(word in name for word in words):
            index = re.search(r"layers\.(\d+)\.", name)
            if index is None:
                return True
            named.add(index.group(1))
    return len(named) > layers / 2 if named else False


def _cache(quantization: Mapping[str, Any]) -> str:
    scheme = quantization.get("kv_cache_scheme")
    kind = quantization.get("kv_cache_quant_algo")
    if (isinstance(scheme, Mapping) and scheme.get("num_bits") == 8) or str(kind).upper() == "FP8":
        return "fp8"
    return "bf16"


def _weights(quantization: Mapping[str, Any], place: str) -> str:
    method = str(quantization.get("quant_method") or "").lower()
    if method in ("fp8", "fbgemm_fp8"):
        return "fp8_block" if quantization.get("weight_block_size") else "fp8"
    if method == "mxfp4":
        return "w4a16_mxfp4"
    if method in ("gptq", "awq", "auto-round", "autoround"):
        bits = quantization.get("bits") or quantization.get("w_bit") or 4
        return "int4_wo" if bits == 4 else "int8_wo"
    if method in ("modelopt", "modelopt_fp4", "nvfp4", "fp4"):
        algorithm = str(quantization.get("quant_algo") or method).lower()
        return "nvfp4" if "fp4" in algorithm else "fp8"
    if method == "compressed-tensors":
        return _compressed(quantization, place)
    if method == "bitsandbytes":
        return "int4_wo" if quantization.get("load_in_4bit") else "int8_wo"
    raise ModelConfigError(
        f"{place}: field 'quantization_config' names the method {method!r}; known are fp8, mxfp4, gptq, awq, modelopt, "
        "compressed-tensors and bitsandbytes; remove it and give the format with --precision"
    )


def _compressed(quantization: Mapping[str, Any], place: str) -> str:
    for group in _mapping(quantization.get("config_groups")).values():
        weights, activations = (_mapping(_mapping(group).get(key)) for key in ("weights", "input_activations"))
        bits, kind = weights.get("num_bits"), weights.get("type")
        if bits == 4 and kind == "float":
            return "nvfp4"
        if bits == 8 and kind == "float":
            return "fp8_block" if weights.get("strategy") == "block" else "fp8"
        if bits in (4, 8) and kind == "int":
            return {4: "int4_wo", 8: "sq" if activations else "int8_wo"}[bits]
    raise ModelConfigError(
        f"{place}: field 'quantization_config.config_groups' holds no 4- or 8-bit weights; remove quantization_config "
        "and give the format with --precision"
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
