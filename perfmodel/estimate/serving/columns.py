"""Columns of a serving estimate: latency, rates, memory and the parts of both steps, one value per plan."""

from functools import partial

from perfmodel.arrays import Floats
from perfmodel.estimate.result import Column
from perfmodel.estimate.serving.footprint import Footprint
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.timed_step import RESOURCES, StepTime
from perfmodel.parallel.grid import PlanGrid


def serving_columns(
    grid: PlanGrid,
    workload: Workload,
    footprint: Footprint,
    decode: StepTime,
    prefill: StepTime,
    *,
    ttft: Floats,
    tpot: Floats,
    rate: Floats,
    **more: Floats,
) -> dict[str, Column]:
    """Lay out what is known of every plan as columns.

    Parameters
    ----------
    grid : PlanGrid
        Plans.
    workload : Workload
        Lengths.
    footprint : Footprint
        Memory of the fullest device.
    decode, prefill : StepTime
        Times of the two steps.
    ttft, tpot : float or array
        Latencies [s].
    rate : float or array
        Requests per second of one replica [1/s].
    **more
        Further columns by name.

    Returns
    -------
    dict
        Column name -> what it is made from; SI units.
    """
    columns: dict[str, Column] = {
        "ttft_s": ttft,
        "tpot_s": tpot,
        "requests_per_s": rate,
        "tokens_per_s": lambda: rate * workload.osl,
        "tokens_per_s_per_gpu": lambda: rate * workload.osl / grid.devices,
        "input_tokens_per_s_per_gpu": lambda: rate * workload.isl / grid.devices,
        "memory_bytes": lambda: footprint.total,
        "memory_capacity_bytes": footprint.capacity,
        "weights_bytes": footprint.weights,
        "cache_bytes": footprint.cache,
        "cache_per_request_bytes": footprint.cache_per_request,
        "activation_bytes": footprint.activations,
        "buffer_bytes": footprint.buffers,
        "framework_bytes": footprint.framework,
        "capacity_requests": lambda: footprint.requests * grid.dp,
        **more,
    }
    for name, step in (("decode", decode), ("prefill", prefill)):
        columns[f"{name}_s"] = partial(step.over_plans, "seconds")
        for part in ("lower", "upper", *RESOURCES):
            columns[f"{name}_{part}_s"] = partial(step.over_plans, f"{part}_s")
        columns[f"{name}_measured_share"] = partial(_measured_share, step)
    return columns | {
        f"bound_{n}": partial(s.over_plans, "bound") for n, s in (("decode", decode), ("prefill", prefill))
    }


def _measured_share(step: StepTime) -> Floats:
    return step.over_plans("measured") / step.over_plans("seconds")
