"""Nearest miss: why no serving plan is feasible, and the smallest change that would mend it."""

import numpy as np

from perfmodel.costs.formats import get_format
from perfmodel.estimate.result import Estimate
from perfmodel.estimate.serving.predict import predict_serving
from perfmodel.estimate.serving.rules import expert_places
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import serving_splits
from perfmodel.ranking.limits import Limits, plan_name
from perfmodel.units import format_size, format_time


def nearest_miss(
    model: ModelSpec,
    target: Target,
    gpus: int,
    workload: Workload,
    precision: Precision,
    limits: Limits,
    estimate: Estimate,
) -> str:
    """Say why nothing is feasible and what would be.

    Parameters
    ----------
    model, target, gpus, workload, precision, limits
        The request, as in `rank_serving`.
    estimate : Estimate
        Every plan that was searched.

    Returns
    -------
    str
        One line with the nearest miss and the smallest change that mends it, where one was found.
    """
    code = estimate.verdicts.code
    names = {i + 1: rule.category for i, rule in enumerate(estimate.verdicts.rules)}
    categories = {names[int(c)] for c in np.unique(code)}
    late = [c for c in categories if c.startswith(("TPOT", "TTFT", "fewer than"))]
    if late:
        reached = code >= min(i for i, name in names.items() if name in late)
        replicas = gpus / np.broadcast_to(estimate.grid.devices, estimate.grid.shape).ravel()
        excess = np.zeros(len(estimate))
        late_of = (("tpot_s", limits.tpot_s), ("ttft_s", limits.ttft_s), ("ttft_p99_s", limits.ttft_p99_s))
        for column, limit in (pair for pair in late_of if pair[0] in estimate.columns):
            excess = np.maximum(excess, estimate[column] / limit)
        if limits.rate:
            sustained = estimate["requests_per_s"] * replicas
            with np.errstate(over="ignore"):
                short = np.where(sustained > 0, limits.rate / np.where(sustained > 0, sustained, 1.0), np.inf)
            excess = np.maximum(excess, short)
        i = int(np.argmin(np.where(reached, excess, np.inf)))
        row = estimate.row(i)
        return (
            f"nothing meets the limits. Nearest: {plan_name(row)} at {row['concurrency']}"
            f" request{'s' if row['concurrency'] != 1 else ''} with"
            f" TTFT {format_time(row['ttft_s'])}, TPOT {format_time(row['tpot_s'])}: {row['reason']}."
        )
    crowded = np.array([names[int(c)] == "KV cache exceeds memory" if c else False for c in code])
    if crowded.any():
        i = int(np.argmax(np.where(crowded, estimate["capacity_requests"], -np.inf)))
        row = estimate.row(i)
        return (
            f"nothing fits: {row['reason']} at best ({plan_name(row)}, {precision.linear})."
            " Ask for fewer requests, or for more GPUs in a replica."
        )
    if any(c.startswith(("weights exceed", "no request fits")) for c in categories):
        least = np.where(np.isfinite(estimate["weights_bytes"]), estimate["weights_bytes"], np.inf)
        i = int(np.argmin(np.where(code > 0, least, np.inf)))
        row = estimate.row(i)
        capacity = target.device.memory_bytes
        message = (
            f"nothing fits: {row['reason']} at best ({plan_name(row)}, {precision.linear}); weights need"
            f" {format_size(row['weights_bytes'], binary=True)} per GPU, one {target.device.id} holds"
            f" {format_size(capacity, binary=True)}."
        )
        return f"{message} {_way_out(model, target, gpus, workload, precision)}"
    most = next(iter(estimate.verdicts.counts().items()))
    i = int(np.argmax(code > 0))
    return f"nothing is feasible: {most[0]} ({estimate.verdicts.reason(i)})."


def _way_out(model: ModelSpec, target: Target, gpus: int, workload: Workload, precision: Precision) -> str:
    """Smallest number of devices on which the model fits as it is, and with smaller weights where that needs fewer."""
    found = _enough_gpus(model, target, gpus, workload, precision)
    ways = [f"{found} GPUs"] if found else []
    for weights, name in (("fp8", "fp8"), ("int4_wo", "int4")):
        if get_format(weights).weight_bytes < get_format(precision.linear).weight_bytes:
            fewer = _enough_gpus(model, target, gpus, workload, Precision.uniform(weights, precision.kv))
            if fewer and (found is None or fewer < found):
                ways.append(f"--precision {name} on {fewer}")
                found = fewer
    return f"Nearest: {', or '.join(ways)}." if ways else "No number of these GPUs that the system connects is enough."


def _enough_gpus(model: ModelSpec, target: Target, gpus: int, workload: Workload, precision: Precision) -> int | None:
    """Smallest of the device count and its doublings on which anything fits."""
    count = gpus
    while count <= min(target.system.max_devices, 64 * gpus):
        sizes = model.divisors()
        splits = serving_splits(
            count,
            tensor_limit=sizes.get("heads", count),
            layers=model.layers,
            experts=max(expert_places(sizes.get("experts", 0), target.engine)),
        )
        if predict_serving(model, target, splits, workload, precision).feasible.any():
            return count
        count *= 2
    return None
