"""Columns of a serving estimate: latency, rates, memory and the parts of both steps, one value per plan."""

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.estimate.footprint import Footprint
from perfmodel.estimate.step import StepTime
from perfmodel.estimate.workload import Workload
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
) -> dict[str, npt.NDArray[np.float64]]:
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
        Column name -> one float64 per plan, flattened; SI units.
    """
    measured = as_floats(decode.basis.get("measured", 0.0))
    values: dict[str, Floats] = {
        "ttft_s": ttft,
        "tpot_s": tpot,
        "requests_per_s": rate,
        "tokens_per_s": rate * workload.osl,
        "tokens_per_s_per_gpu": rate * workload.osl / grid.devices,
        "input_tokens_per_s_per_gpu": rate * workload.isl / grid.devices,
        "memory_bytes": footprint.total,
        "memory_capacity_bytes": footprint.capacity,
        "weights_bytes": footprint.weights,
        "cache_bytes": footprint.cache,
        "cache_per_request_bytes": footprint.cache_per_request,
        "activation_bytes": footprint.activations,
        "buffer_bytes": footprint.buffers,
        "framework_bytes": footprint.framework,
        "capacity_requests": footprint.requests * grid.dp,
        "decode_s": decode.seconds,
        "decode_lower_s": decode.lower_s,
        "decode_upper_s": decode.upper_s,
        "decode_compute_s": decode.parts[0],
        "decode_memory_s": decode.parts[1],
        "decode_network_s": decode.parts[2],
        "decode_latency_s": decode.parts[3],
        "decode_host_s": decode.parts[4],
        "decode_measured_share": measured / decode.seconds,
        "prefill_s": prefill.seconds,
        "prefill_lower_s": prefill.lower_s,
        "prefill_upper_s": prefill.upper_s,
        "prefill_compute_s": prefill.parts[0],
        "prefill_memory_s": prefill.parts[1],
        "prefill_network_s": prefill.parts[2],
        "prefill_latency_s": prefill.parts[3],
        "prefill_host_s": prefill.parts[4],
        "prefill_measured_share": as_floats(prefill.basis.get("measured", 0.0)) / prefill.seconds,
        "bound_decode": decode.bound().astype(np.float64),
        "bound_prefill": prefill.bound().astype(np.float64),
        **more,
    }
    return {name: np.broadcast_to(as_floats(v), grid.shape).ravel() for name, v in values.items()}
