"""Library: deployments with separate prefill and decode workers beside those whose workers do both."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from perfmodel.api_inputs import devices_of, knobs_of, limits_of, price_of, workload_of
from perfmodel.api_targets import model_of, precision_of, target_of
from perfmodel.errors import NothingFeasibleError, PlanError, UnitError
from perfmodel.estimate.serving.pools import Link
from perfmodel.estimate.target import Target
from perfmodel.hardware.fabric import System
from perfmodel.models.spec import ModelSpec
from perfmodel.ranking.compare import Comparison
from perfmodel.ranking.separate import rank_separate
from perfmodel.ranking.serving import rank_serving
from perfmodel.units import parse


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
    >>> from perfmodel.hardware.catalog import load_system
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
    budget: float | None = None,
    power: float | str | None = None,
    ttft: float | str | None = None,
    tpot: float | str | None = None,
    rate: float = 0.0,
    ttft_p99: float | str | None = None,
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
    budget : float, optional
        US dollars per hour that all devices together may cost; `gpus` is then the most that there are [USD/h].
    power : float or str, optional
        Power that all devices together may draw, each at its limit: in watts or with a unit ("224kW").
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
    spec, on = model_of(model), target_of(system, engine)
    first = on if prefill_system is None else target_of(prefill_system, engine)
    gpus, workload, held = devices_of(gpus), workload_of(isl, osl, load), knobs_of(chosen)
    limits, formats = limits_of(ttft, tpot, rate, ttft_p99, budget, power), precision_of(spec, precision, kv, on)
    paid = price_of(price)
    paid_first = paid if prefill_price is None and first.system.id == on.system.id else price_of(prefill_price)
    if np.isfinite(paid) != np.isfinite(paid_first):
        missed = "price" if prefill_price is not None else "prefill_price"
        raise PlanError(f"two systems are in use, and only one has a price: {missed} is missing")
    both: dict[str, Any] = {"together": None, "separate": None}
    missing = []

    fewest: dict[str, int] = {}
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
            prices=(paid_first, paid),
            by=by,
            chosen=held,
        )
        if both["separate"].fewest_gpus:
            fewest["separate"] = both["separate"].fewest_gpus
    except NothingFeasibleError as error:
        missing.append(f"Separate workers: {error}")
    if together:
        try:
            both["together"] = rank_serving(spec, on, gpus, workload, formats, limits, price=paid, chosen=held)
            if rate and (found := both["together"].fewest_gpus(rate)):
                fewest["together"] = found[0]
        except NothingFeasibleError as error:
            missing.append(f"Common workers: {error}")
    if not any(both.values()):
        raise NothingFeasibleError(missing[-1].split(": ", 1)[1])
    return Comparison(both["together"], both["separate"], tuple(missing), by, fewest)
