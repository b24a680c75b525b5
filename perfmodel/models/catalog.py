"""Finding a model by name or path: presets, aliases, checkpoint variants (no quantity of its own)."""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from perfmodel.errors import ModelConfigError, UnknownNameError
from perfmodel.layers.precision import Precision
from perfmodel.models.huggingface import model_from_config, read_config
from perfmodel.models.spec import ModelSpec

# Endings that name a checkpoint's format; the rest of the name says which model it is.
_FORMATS = (
    (r"-(nvfp4|fp4)(-v2)?", "nvfp4"),
    (r"-(fp8(-dynamic|-block)?)", "fp8"),
    (r"-(awq|gptq|gptq-int4|int4|w4a16|quantized\.w4a16|4bit)", "int4_wo"),
    (r"-(gptq-int8|int8|w8a8|quantized\.w8a8)", "sq"),
    (r"-(w8a16|quantized\.w8a16)", "int8_wo"),
    (r"-bf16", "bf16"),
)
# Endings of fine-tuned and dated releases, which have the architecture of their base.
_VARIANTS = r"-(instruct|base|chat|it|hf|pt|exp|preview|terminus|thinking|reasoning|speciale|original|\d{4}|v0\.\d)$"
# Publishers whose 8-bit checkpoints scale weights by blocks of 128 x 128.
_BLOCKWISE = ("qwen", "deepseek-ai", "zai-org", "minimaxai", "moonshotai", "xiaomimimo", "stepfun-ai")
# Letters of a preset's `layer_pattern`, which repeats over the layers.
_KINDS = {"f": "full_attention", "s": "sliding_attention", "l": "linear_attention"}


@cache
def _presets() -> Mapping[str, Mapping[str, Any]]:
    """Every preset by its id, in the order of the files."""
    found: dict[str, Mapping[str, Any]] = {}
    folder = files("perfmodel.models") / "presets"
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            for entry in tomllib.loads(file.read_text(encoding="utf-8"))["model"]:
                if entry["id"] in found:
                    raise ModelConfigError(f"{file.name}: model {entry['id']!r} is there twice; remove one")
                found[entry["id"]] = entry
    return found


def _unformatted(short: str) -> tuple[str, str]:
    """Split the format of a checkpoint off a name in lower case."""
    for pattern, kind in _FORMATS:
        stripped = re.sub(pattern + "$", "", short)
        if stripped != short:
            return stripped, kind
    return short, ""


def _plain(name: str) -> tuple[str, str]:
    """Split a name into its model, in lower case without publisher and variant, and its checkpoint format."""
    short = name.rsplit("/", 1)[-1].lower().replace("_", "-").removeprefix("meta-").removeprefix("nvidia-")
    precision, before = "", None
    while short != before:
        before = short
        short, kind = _unformatted(short)
        precision = precision or kind
        short = re.sub(_VARIANTS, "", short)
    return short, precision


@cache
def _index() -> Mapping[str, str]:
    """Ids and aliases in lower case, whole and plain -> preset id; what comes first in the files wins."""
    index: dict[str, str] = {}
    names = [(name, key) for key, entry in _presets().items() for name in (key, *entry.get("aliases", ()))]
    for name, key in names:
        index.setdefault(name.lower(), key)
    for name, key in names:
        index.setdefault(name.lower().rsplit("/", 1)[-1], key)
    for name, key in names:
        index.setdefault(_plain(name)[0], key)
    for name, key in names:  # "qwen3-235b" for "qwen3-235b-a22b"
        index.setdefault(re.sub(r"-a\d+b$", "", _plain(name)[0]), key)
    return index


@cache
def _preset(key: str) -> ModelSpec:
    entry = _presets()[key]
    config = dict(entry.get("config", {}))
    base = entry
    while "like" in base:
        base = _presets()[base["like"]]
        config = {**base.get("config", {}), **config}
    pattern = config.pop("layer_pattern", "")
    if pattern:
        layers = config["num_hidden_layers"]
        config["layer_types"] = [_KINDS[pattern[i % len(pattern)]] for i in range(layers)]
    source = entry.get("source") or base.get("source", "")
    return model_from_config(
        config, f"preset {key}", model_id=key, source=source, aliases=tuple(entry.get("aliases", ()))
    )


def list_models() -> list[str]:
    """List the models that ship with the package.

    Returns
    -------
    list of str
        Hugging Face ids in alphabetical order.

    Examples
    --------
    >>> "openai/gpt-oss-120b" in list_models()
    True
    """
    return sorted(_presets(), key=str.lower)


def load_model(name: str | Path) -> ModelSpec:
    """Load a model by Hugging Face id, alias or short name, or from the path of a config.json.

    An ending like -FP8, -NVFP4 or -AWQ sets the formats of the weights; endings of fine-tuned releases and other
    publishers' names are looked through.

    Parameters
    ----------
    name : str or Path
        Name, or path of a config.json or of a directory that holds one.

    Returns
    -------
    ModelSpec
        The model.

    Raises
    ------
    UnknownNameError
        If no preset has that name; the message suggests the nearest.
    ModelConfigError
        If the file at the path cannot be read as a model.

    Examples
    --------
    >>> model = load_model("llama-3.1-70b")
    >>> model.id, model.layers, round(model.parameters() / 1e9, 2)
    ('meta-llama/Llama-3.1-70B-Instruct', 80, 70.55)
    >>> load_model("Qwen/Qwen3-32B-FP8").weights.linear
    'fp8_block'
    """
    text = str(name)
    index = _index()
    known = index.get(text.lower())
    if known is not None:
        return _preset(known)
    # A path wins over the looser readings of a name, so that a folder called after a model is read.
    if isinstance(name, Path) or text.endswith(".json") or os.path.exists(text):
        return read_config(text)
    short = text.lower().rsplit("/", 1)[-1]
    plain, kind = _plain(text)
    known = index.get(short) or index.get(_unformatted(short)[0]) or index.get(plain)
    if known is None:
        # Compare like with like: a whole id with ids, a short name with short names.
        names = list(_presets()) if "/" in text else [_plain(key)[0] for key in _presets()]
        raise UnknownNameError("model", text, names, hint="perfmodel model list")
    spec = _preset(known)
    return replace(spec, weights=_checkpoint(spec, kind, text)) if kind else spec


def _checkpoint(spec: ModelSpec, kind: str, name: str) -> Precision:
    """Formats of a checkpoint whose name ends in a format."""
    if kind == "fp8" and name.split("/")[0].lower() in _BLOCKWISE:
        kind = "fp8_block"
    return checkpoint_precision(spec, kind)


def checkpoint_precision(spec: ModelSpec, weights: str, *, per_tensor: bool = False) -> Precision:
    """Formats of a checkpoint of a model in a weight format, as publishers quantise.

    Where the model itself comes in 8 bits, "fp8" is its own recipe. 4-bit float checkpoints of latent-attention
    models leave attention in 16 bits, and come with an 8-bit cache. "mxfp4" is the recipe of gpt-oss: the experts
    only, and 16-bit activations.

    Parameters
    ----------
    spec : ModelSpec
        Model.
    weights : str
        Weight format.
    per_tensor : bool
        Whether "fp8" means scales per tensor even where the publisher's own 8-bit checkpoints scale by blocks.

    Returns
    -------
    Precision
        Formats of all parts.

    Examples
    --------
    >>> checkpoint_precision(load_model("deepseek-v3"), "fp8").linear
    'fp8_block'
    """
    own = spec.weights.experts if spec.is_moe else spec.weights.linear
    if weights == "fp8" and own in ("fp8", "fp8_block"):
        return spec.weights
    if weights == "fp8" and not per_tensor and spec.id.split("/")[0].lower() in _BLOCKWISE:
        return Precision.uniform("fp8_block")
    if weights == "mxfp4":
        return Precision(experts="w4a16_mxfp4") if spec.is_moe else Precision.uniform("w4a16_mxfp4")
    if weights == "nvfp4":
        latent = "kv_heads" not in spec.divisors()
        attention = "bf16" if latent else "nvfp4"
        return Precision(linear="nvfp4", experts="nvfp4", attention_linear=attention, kv="fp8")
    return Precision.uniform(weights)
