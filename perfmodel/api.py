"""Library: load a model and a system, predict plans, rank splits (the functions that the top level offers)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from perfmodel.arrays import as_floats
from perfmodel.costs.formats import get_format
from perfmodel.errors import PlanError, UnitError
from perfmodel.estimate.kernel_checks import load_kernels
from perfmodel.estimate.result import Estimate
from perfmodel.estimate.serving.open_loop import at_rate
from perfmodel.estimate.serving.predict import predict_serving
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.sustained import at_sustained_rates
from perfmodel.estimate.target import COLLECTIVES, Target
from perfmodel.hardware.catalog import load_system
from perfmodel.hardware.engine import SCHEDULES, SPLITS
from perfmodel.hardware.engine_files import load_engine
from perfmodel.hardware.fabric import System
from perfmodel.layers.precision import Precision
from perfmodel.models.catalog import checkpoint_precision, load_model
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid
from perfmodel.ranking.limits import Limits
from perfmodel.ranking.serving import Ranking, rank_serving
from perfmodel.units import parse

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
        If there is no such schedule, or a chunk has no tokens.
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
    loaded = load_system(system, profiles) if isinstance(system, str) else system
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
        if not 0 <= expert_skew <= 4:
            raise PlanError(f"expert_skew must lie between 0 and 4, not {expert_skew:g}")
        software = replace(software, expert_skew=float(expert_skew))
    if chunk is not None:
        try:
            tokens = tokens_of(chunk)
        except UnitError as error:
            raise PlanError(f"chunk: {error}") from None
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


def tokens_of(value: float | str) -> float:
    """Read a number of tokens.

    Parameters
    ----------
    value : float or str
        For instance 4096, "4k" or "4Ki".

    Returns
    -------
    float
        Tokens.
    """
    return parse(value, "count") if isinstance(value, str) else float(value)


def predict(
    model: ModelSpec | str,
    system: System | Target | str,
    plan: PlanGrid,
    *,
    isl: float | str,
    osl: float | str,
    precision: str | None = None,
    kv: str | None = None,
    engine: str = "neutral",
    rate: npt.ArrayLike | None = None,
    load: Mapping[str, Any] | None = None,
) -> Estimate:
    """Predict serving latency, throughput and memory of one plan or of a million.

    Parameters
    ----------
    model : ModelSpec or str
        Model, or its name or the path of a config.json.
    system : System, Target or str
        What runs it.
    plan : PlanGrid
        Plans, from `plans`.
    isl, osl : float or str
        Input and output tokens, for instance 4096 or "4Ki".
    precision : str, optional
        Weight format; the checkpoint's by default.
    kv : str, optional
        KV-cache format.
    engine : str
        Engine profile, where `system` is not a `Target`.
    rate : float or array, optional
        Requests that arrive per second at one replica, at random; the plans' concurrency then follows from it, and
        the estimate has quantiles of the TTFT, the mean number in flight and the utilisation.
    load : mapping, optional
        Further fields of the `Workload`.

    Returns
    -------
    Estimate
        One value per plan and column.

    Examples
    --------
    >>> from perfmodel.parallel.grid import plans
    >>> estimate = predict("llama-3.1-8b", "hgx-h100", plans(tp=[1, 2], concurrency=8), isl="1k", osl=128)
    >>> bool(estimate["tpot_s"][1] < estimate["tpot_s"][0])
    True
    >>> estimate = predict("llama-3.1-8b", "hgx-h100", plans(tp=1), isl="1k", osl=128, rate=[2.0, 8.0])
    >>> bool(estimate["ttft_p99_s"][1] > estimate["ttft_p99_s"][0] > estimate["ttft_s"][0])
    True
    """
    spec = load_model(model) if isinstance(model, str) else model
    on = system if isinstance(system, Target) else target(system, engine)
    workload = Workload(tokens_of(isl), tokens_of(osl), **(load or {}))
    formats = precision_of(spec, precision, kv, on)
    if rate is None:
        return predict_serving(spec, on, plan, workload, formats)
    return at_rate(lambda grid, asked: predict_serving(spec, on, grid, asked, formats), plan, workload, as_floats(rate))


def limits_of(
    ttft: float | str | None, tpot: float | str | None, rate: float, ttft_p99: float | str | None = None
) -> Limits:
    """Read latency limits, and the rate that must be sustained.

    Parameters
    ----------
    ttft, tpot : float or str, optional
        In seconds or with a unit; None for no limit.
    rate : float
        Requests per second.
    ttft_p99 : float or str, optional
        For 99 requests in 100, like the others.

    Returns
    -------
    Limits
        In seconds.
    """
    seconds = {
        name: parse(value, "time") if isinstance(value, str) else float(value)
        for name, value in (("ttft_s", ttft), ("tpot_s", tpot), ("ttft_p99_s", ttft_p99))
        if value is not None
    }
    return Limits(**seconds, rate=rate)


def rank(
    model: ModelSpec | str,
    system: System | Target | str,
    *,
    gpus: int,
    isl: float | str,
    osl: float | str,
    ttft: float | str | None = None,
    tpot: float | str | None = None,
    rate: float = 0.0,
    ttft_p99: float | str | None = None,
    precision: str | None = None,
    kv: str | None = None,
    engine: str = "neutral",
    load: Mapping[str, Any] | None = None,
    price: float | None = None,
    **chosen: Any,
) -> Ranking:
    """Rank every split of a number of devices for serving.

    Parameters
    ----------
    model : ModelSpec or str
        Model, or its name or the path of a config.json.
    system : System, Target or str
        What runs it.
    gpus : int
        Devices of the deployment.
    isl, osl : float or str
        Input and output tokens.
    ttft, tpot : float or str, optional
        Limits, in seconds or with a unit ("50ms").
    rate : float
        Requests per second that must be sustained.
    ttft_p99 : float or str, optional
        Limit for 99 requests in 100, under Poisson arrivals.
    precision : str, optional
        Weight format; the checkpoint's by default.
    kv : str, optional
        KV-cache format.
    engine : str
        Engine profile, where `system` is not a `Target`.
    load : mapping, optional
        Further fields of the `Workload`: arrivals, prefix_hit, draft_tokens, acceptance, draft_cost, waves.
    price : float, optional
        US dollars for one device and hour; then rows have the price of a million output tokens [USD/h].
    **chosen
        Knobs held at one value: tp, pp, dp, ep, moe_tp, concurrency.

    Returns
    -------
    Ranking
        Ranked plans.

    Raises
    ------
    NothingFeasibleError
        If nothing fits and meets the limits; the message names the nearest miss.

    Examples
    --------
    >>> best = rank("llama-3.1-8b", "hgx-h100", gpus=1, isl="1k", osl=128).row(1)
    >>> best["tp"], best["feasible"]
    (1, True)
    """
    spec = load_model(model) if isinstance(model, str) else model
    on = system if isinstance(system, Target) else target(system, engine)
    return rank_serving(
        spec,
        on,
        gpus,
        Workload(tokens_of(isl), tokens_of(osl), **(load or {})),
        precision_of(spec, precision, kv, on),
        limits_of(ttft, tpot, rate, ttft_p99),
        price=price_of(price),
        chosen={k: int(v) for k, v in chosen.items() if v is not None},
    )


def price_of(price: float | None) -> float:
    """Check the price of a GPU-hour.

    Parameters
    ----------
    price : float, optional
        US dollars; None where none is reckoned with [USD/h].

    Returns
    -------
    float
        The price, NaN for none [USD/h].

    Raises
    ------
    PlanError
        If it is not above zero.
    """
    if price is None:
        return float("nan")
    if not 0 < price < float("inf"):
        raise PlanError(f"the price of a GPU-hour must be above zero, not {price:g}")
    return float(price)
