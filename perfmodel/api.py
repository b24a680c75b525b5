"""Library: load a model and a system, predict plans, rank splits (the functions that the top level offers)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from perfmodel.arrays import as_floats
from perfmodel.costs.formats import get_format
from perfmodel.errors import NothingFeasibleError, PlanError, UnitError
from perfmodel.estimate.kernel_checks import load_kernels
from perfmodel.estimate.open_loop import at_rate
from perfmodel.estimate.pools import Link
from perfmodel.estimate.result import Estimate
from perfmodel.estimate.serving import predict_serving
from perfmodel.estimate.sustained import at_sustained_rates
from perfmodel.estimate.target import COLLECTIVES, Target
from perfmodel.estimate.workload import Workload
from perfmodel.hardware.catalog import load_system
from perfmodel.hardware.engine import SCHEDULES, SPLITS
from perfmodel.hardware.engine_files import load_engine
from perfmodel.hardware.fabric import System
from perfmodel.layers.precision import Precision
from perfmodel.models.catalog import checkpoint_precision, load_model
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid
from perfmodel.ranking.compare import Comparison
from perfmodel.ranking.separate import rank_separate
from perfmodel.ranking.serving import Limits, Ranking, rank_serving
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
        Engine profile: neutral, trtllm, vllm, sglang, or the path of a file.
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
        tokens = _tokens(chunk)
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


def _tokens(value: float | str) -> float:
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
    workload = Workload(_tokens(isl), _tokens(osl), **(load or {}))
    formats = precision_of(spec, precision, kv, on)
    if rate is None:
        return predict_serving(spec, on, plan, workload, formats)
    return at_rate(lambda grid, asked: predict_serving(spec, on, grid, asked, formats), plan, workload, as_floats(rate))


def _limits(
    ttft: float | str | None, tpot: float | str | None, rate: float, ttft_p99: float | str | None = None
) -> Limits:
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
        Workload(_tokens(isl), _tokens(osl), **(load or {})),
        precision_of(spec, precision, kv, on),
        _limits(ttft, tpot, rate, ttft_p99),
        price=_price(price),
        chosen={k: int(v) for k, v in chosen.items() if v is not None},
    )


def _price(price: float | None) -> float:
    if price is None:
        return float("nan")
    if not 0 < price < float("inf"):
        raise PlanError(f"the price of a GPU-hour must be above zero, not {price:g}")
    return float(price)


def link_of(system: System, text: str | None = None, *, layerwise: bool = False) -> Link:
    """Link that a prompt's cache crosses between separate workers.

    Parameters
    ----------
    system : System
        System of the prefill workers.
    text : str, optional
        Name of one of its tiers, or a rate such as "200Gbit/s"; the outermost tier by default.
    layerwise : bool
        Whether each layer's cache is sent while the next layer is computed.

    Returns
    -------
    Link
        The link.

    Raises
    ------
    PlanError
        If it is neither a tier nor a rate.

    Examples
    --------
    >>> link_of(load_system("hgx-h100"), "200Gbit/s").bandwidth
    25000000000.0
    """
    tiers = {tier.name: tier for tier in system.tiers}
    tier = tiers.get(text or "", system.tiers[-1])
    if text is None or text in tiers:
        return Link(tier.name, tier.bandwidth / tier.oversubscription, tier.latency_s, layerwise)
    try:
        bandwidth = parse(text, "bandwidth")
    except UnitError:
        raise PlanError(
            f"unknown link {text!r}: {system.id} has {', '.join(tiers)}; or give a rate such as 200Gbit/s"
        ) from None
    if not bandwidth > 0:
        raise PlanError(f"a link needs a rate above zero, not {text}")
    return Link(f"a link of {text}", bandwidth, tier.latency_s, layerwise)


def compare(
    model: ModelSpec | str,
    system: System | Target | str,
    *,
    gpus: int,
    isl: float | str,
    osl: float | str,
    prefill_system: System | Target | str | None = None,
    link: str | None = None,
    layerwise: bool = False,
    together: bool = True,
    by: str = "gpu",
    price: float | None = None,
    prefill_price: float | None = None,
    ttft: float | str | None = None,
    tpot: float | str | None = None,
    rate: float = 0.0,
    precision: str | None = None,
    kv: str | None = None,
    engine: str = "neutral",
    load: Mapping[str, Any] | None = None,
    **chosen: Any,
) -> Comparison:
    """Rank deployments with separate prefill and decode workers beside those whose workers do both.

    Parameters
    ----------
    model : ModelSpec or str
        Model, or its name or the path of a config.json.
    system : System, Target or str
        What runs the decode workers, and the workers that do both.
    gpus : int
        Devices of the deployment, both kinds of workers together.
    isl, osl : float or str
        Input and output tokens.
    prefill_system : System, Target or str, optional
        What runs the prefill workers, where that is another system.
    link : str, optional
        What the cache crosses: a tier of the prefill system, or a rate; the outermost tier by default.
    layerwise : bool
        Whether the cache is sent layer by layer during the prompt, and not at once after it.
    together : bool
        Whether plans whose workers do both are ranked too.
    by : str
        What tokens are ranked per: "gpu", "cost" (needs prices) or "energy" (devices at their power limit).
    price, prefill_price : float, optional
        US dollars for one device and hour, and for one of the prefill system where that is another one [USD/h].
    ttft, tpot : float or str, optional
        Limits, in seconds or with a unit ("50ms").
    rate : float
        Requests per second that must be sustained.
    precision : str, optional
        Weight format; the checkpoint's by default.
    kv : str, optional
        KV-cache format.
    engine : str
        Engine profile, where systems are not `Target`.
    load : mapping, optional
        Further fields of the `Workload`.
    **chosen
        Knobs of every worker held at one value: tp, pp, dp, ep, moe_tp.

    Returns
    -------
    Comparison
        Deployments of both kinds in one order.

    Raises
    ------
    NothingFeasibleError
        If neither kind fits and meets the limits.

    Examples
    --------
    >>> compare("llama-3.1-8b", "hgx-h100", gpus=4, isl="4k", osl=256, tpot="20ms").rows(1)[0]["gpus"]
    4
    """
    spec = load_model(model) if isinstance(model, str) else model
    on = system if isinstance(system, Target) else target(system, engine)
    first = on
    if prefill_system is not None:
        first = prefill_system if isinstance(prefill_system, Target) else target(prefill_system, engine)
    workload = Workload(_tokens(isl), _tokens(osl), **(load or {}))
    held = {k: int(v) for k, v in chosen.items() if v is not None}
    limits, formats = _limits(ttft, tpot, rate), precision_of(spec, precision, kv, on)
    paid = _price(price)
    both: dict[str, Any] = {"together": None, "separate": None}
    missing = []
    try:
        both["separate"] = rank_separate(
            spec,
            first,
            on,
            gpus,
            workload,
            formats,
            limits,
            link=link_of(first.system, link, layerwise=layerwise),
            prices=(paid if prefill_price is None and prefill_system is None else _price(prefill_price), paid),
            by=by,
            chosen=held,
        )
    except NothingFeasibleError as error:
        missing.append(f"Separate workers: {error}")
    if together:
        try:
            both["together"] = rank_serving(spec, on, gpus, workload, formats, limits, price=paid, chosen=held)
        except NothingFeasibleError as error:
            missing.append(f"Common workers: {error}")
    if not any(both.values()):
        raise NothingFeasibleError(missing[-1].split(": ", 1)[1])
    return Comparison(both["together"], both["separate"], tuple(missing), by)
