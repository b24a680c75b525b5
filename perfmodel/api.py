"""Library: predict serving plans and rank splits (functions that the top level offers)."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from perfmodel.api_inputs import devices_of, knobs_of, limits_of, price_of, workload_of
from perfmodel.api_targets import PRECISIONS, model_of, precision_of, target, target_of
from perfmodel.arrays import as_floats
from perfmodel.errors import PlanError
from perfmodel.estimate.result import Estimate
from perfmodel.estimate.serving.open_loop import at_rate
from perfmodel.estimate.serving.predict import predict_serving
from perfmodel.estimate.target import Target
from perfmodel.hardware.fabric import System
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid
from perfmodel.ranking.serving import Ranking, rank_serving

__all__ = ["PRECISIONS", "precision_of", "predict", "rank", "target"]


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
    spec, on = model_of(model), target_of(system, engine)
    workload = workload_of(isl, osl, load)
    formats = precision_of(spec, precision, kv, on)
    if not isinstance(plan, PlanGrid):
        raise PlanError(f"plan: {plan!r} is no grid of plans; perfmodel.plans(tp=2) makes one")
    if rate is None:
        return predict_serving(spec, on, plan, workload, formats)
    return at_rate(lambda grid, asked: predict_serving(spec, on, grid, asked, formats), plan, workload, as_floats(rate))


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
    budget: float | None = None,
    power: float | str | None = None,
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
    budget : float, optional
        US dollars per hour that all devices together may cost; `gpus` is then the most that there are [USD/h].
    power : float or str, optional
        Power that all devices together may draw, each at its limit: in watts or with a unit ("224kW").
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
    spec, on = model_of(model), target_of(system, engine)
    return rank_serving(
        spec,
        on,
        devices_of(gpus),
        workload_of(isl, osl, load),
        precision_of(spec, precision, kv, on),
        limits_of(ttft, tpot, rate, ttft_p99, budget, power),
        price=price_of(price),
        chosen=knobs_of(chosen),
    )
