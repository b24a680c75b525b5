"""Library: what a question is about: the model, what runs it, and in which formats."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from perfmodel.api_inputs import number_of, tokens_of
from perfmodel.costs.formats import get_format
from perfmodel.errors import PlanError
from perfmodel.estimate.kernel_checks import load_kernels
from perfmodel.estimate.sustained import at_sustained_rates
from perfmodel.estimate.target import COLLECTIVES, Target
from perfmodel.hardware.catalog import load_system
from perfmodel.hardware.engine import SCHEDULES, SPLITS
from perfmodel.hardware.engine_files import load_engine
from perfmodel.hardware.fabric import System
from perfmodel.layers.precision import Precision
from perfmodel.models.catalog import checkpoint_precision, load_model
from perfmodel.models.spec import ModelSpec

PRECISIONS: Mapping[str, str] = {
    "bf16": "16-bit weights",
    "fp16": "16-bit weights",
    "fp8": "8-bit float weights, scales per tensor",
    "fp8_block": "8-bit float weights, scales per block",
    "int8": "8-bit integer weights and activations",
    "int8_wo": "8-bit integer weights",
    "int4": "4-bit integer weights",
    "nvfp4": "4-bit float weights and activations",
    "mxfp4": "4-bit float experts, 16-bit activations",
}
"""What `--precision` accepts."""


def target(
    system: System | str,
    engine: str = "neutral",
    *,
    profiles: str | None = None,
    schedule: str | None = None,
    chunk: float | str | None = None,
    split: str | None = None,
    expert_skew: float | None = None,
    collectives: str = "fastest",
) -> Target:
    """Bring together a system, the calibrations of its device and an engine.

    Parameters
    ----------
    system : System or str
        System, or its name or path.
    engine : str
        Engine profile: neutral, trtllm, vllm, sglang, cloudmatrix-infer, deepseek, or the path of a file.
    profiles : str, optional
        Directory of profiles that is searched first.
    schedule : str, optional
        How prompts and running requests share steps: prefill-first, chunked or layered; the engine's by default.
    chunk : float or str, optional
        Tokens of a step of the chunked schedule.
    split : str, optional
        How steps overlap with themselves: none, tokens or nano; the engine's by default.
    expert_skew : float, optional
        Exponent of the power law of the experts' loads; 0 where redundant experts level them.
    collectives : str
        Algorithms that collectives over several scale-up domains may use: "fastest", "flat", "hierarchical", or "nccl"
        for what NCCL's own cost model expects.

    Returns
    -------
    Target
        What `predict` and `rank` run a model on.

    Raises
    ------
    PlanError
        If there is no such schedule, a chunk has no tokens, or what should be a name is none.
    UnknownNameError
        If a name is in no catalogue.
    ProfileError
        If a file is broken, or a calibration does not fit the formula that it names.
    PlanError
        If there are no such collectives.

    Examples
    --------
    >>> target("hgx-h100").device.id
    'h100-sxm'
    """
    if not isinstance(system, str | Path | System):
        raise PlanError(f"system: {system!r} is neither a name nor a path nor what load_system returns")
    loaded = system if isinstance(system, System) else load_system(system, profiles)
    kernels = at_sustained_rates(load_kernels(loaded.device.id, loaded.device.architecture, profiles), loaded.device)
    software = load_engine(engine, profiles)
    if schedule is not None:
        if schedule not in SCHEDULES:
            raise PlanError(f"unknown schedule {schedule!r}; choose from {', '.join(SCHEDULES)}")
        software = replace(software, schedule=schedule)
    if split is not None:
        if split not in SPLITS:
            raise PlanError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
        software = replace(software, split=split)
    if expert_skew is not None:
        skew = number_of(expert_skew, "fraction", "expert_skew")
        if not 0 <= skew <= 4:
            raise PlanError(f"expert_skew must lie between 0 and 4, not {skew:g}")
        software = replace(software, expert_skew=skew)
    if chunk is not None:
        tokens = tokens_of(chunk, "chunk")
        if not 1 <= tokens < float("inf"):
            raise PlanError(f"a chunk needs at least 1 token, not {chunk}")
        software = replace(software, chunk_tokens=tokens)
    if collectives not in COLLECTIVES:
        raise PlanError(f"unknown collectives {collectives!r}; choose from {', '.join(COLLECTIVES)}")
    return Target(loaded, kernels, software, collectives)


def precision_of(
    model: ModelSpec, weights: str | None = None, kv: str | None = None, on: Target | None = None
) -> Precision:
    """Formats of a deployment: the checkpoint's own unless others are asked for.

    Parameters
    ----------
    model : ModelSpec
        Model, with the formats its checkpoint comes in.
    weights : str, optional
        One of `PRECISIONS`.
    kv : str, optional
        Format of the KV cache; by default what the checkpoint names, or what the engine chooses for it.
    on : Target, optional
        Device and serving software.

    Returns
    -------
    Precision
        The formats.

    Raises
    ------
    PlanError
        If the precision is unknown.

    Examples
    --------
    >>> precision_of(load_model("llama-3.1-70b"), "fp8").linear
    'fp8'
    """
    if weights is None:
        chosen = model.weights
    elif weights not in PRECISIONS:
        raise PlanError(f"unknown precision {weights!r}; choose from {', '.join(PRECISIONS)}")
    else:
        per_tensor = on is not None and on.engine.own_quantiser
        chosen = checkpoint_precision(model, {"int4": "int4_wo"}.get(weights, weights), per_tensor=per_tensor)
    if kv is None and on is not None and {"all", on.device.architecture} & set(on.engine.small_cache):
        widest = chosen.experts if model.is_moe else chosen.linear
        kv = "fp8" if get_format(widest).peak in ("fp8", "fp4") else None
    return chosen.with_kv(kv) if kv else chosen


def model_of(model: ModelSpec | str) -> ModelSpec:
    """Load a model, unless it is one already.

    Parameters
    ----------
    model : ModelSpec or str
        Model, or its name or the path of a config.json.

    Returns
    -------
    ModelSpec
        The model.

    Raises
    ------
    PlanError
        If it is neither.

    Examples
    --------
    >>> model_of("llama-3.1-8b").layers
    32
    """
    if isinstance(model, str | Path):
        return load_model(model)
    if not isinstance(model, ModelSpec):
        raise PlanError(f"model: {model!r} is neither a name nor a path nor what load_model returns")
    return model


def target_of(system: System | Target | str, engine: str = "neutral") -> Target:
    """Bring together what runs a model, unless that is done already.

    Parameters
    ----------
    system : System, Target or str
        What runs it.
    engine : str
        Engine profile, where `system` is not a `Target`.

    Returns
    -------
    Target
        System, kernels and engine.

    Raises
    ------
    PlanError
        If it is none of these.

    Examples
    --------
    >>> target_of("hgx-h100", "vllm").engine.id
    'vllm'
    """
    return system if isinstance(system, Target) else target(system, engine)
