"""Seconds of one operator: which formula and which numbers time it on a device."""

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from perfmodel.arrays import Booleans, Floats, as_floats
from perfmodel.costs.compute import roofline_bound
from perfmodel.costs.formats import get_format, peak_of
from perfmodel.costs.registry import get_formula
from perfmodel.estimate.operator_time import OperatorTime
from perfmodel.estimate.units import on_fastest_unit
from perfmodel.hardware.device import Device
from perfmodel.hardware.kernels import KernelCalibration, KernelTable
from perfmodel.layers.operators import Attention, Experts, Gemm, Pass, Wait

ROUTING_SKEW = 1.2
"""Exponent of the power law that the load of a served model's experts follows.

One of the two distributions of the public operator tables, and the one with which the decode steps of the measured
deployments are predicted best (0, 0.8 and 1.2 were tried on all of them).
"""


LEVELLED_RANKS = 16.0
"""Expert-parallel ranks from which deployments level the load with redundant experts (DeepSeek-V3, arXiv:2412.19437,
section 3.4; EPLB in SGLang, TensorRT-LLM and vLLM)."""


UNPACKED = {
    "fp8": "int8_wo",
    "fp8_block": "int8_wo",
    "mxfp8": "int8_wo",
    "int8": "int8_wo",
    "sq": "int8_wo",
    "nvfp4": "int4_wo",
    "mxfp4": "int4_wo",
    "w4a8_mxfp4_mxfp8": "w4a16_mxfp4",
}
"""Weight-only format whose kernels a device uses where it cannot multiply in a format."""


@lru_cache(maxsize=256)
def _keywords(form: str) -> frozenset[str]:
    return frozenset(inspect.signature(get_formula(form).function).parameters)


COARSE_CORES = 32
"""A device with fewer cores than this has cores unlike the streaming multiprocessors that the defaults describe."""

_CORE_FLOPS, _CORE_BANDWIDTH = 20e12, 60e9
# The largest multiprocessors that were measured: 17 TFLOP/s in 16 bits and 54 GB/s of memory bandwidth (GB300).


def default_cores(device: Device) -> float:
    """Cores of a device in the measure of the multiprocessors whose coefficients stand in for its own.

    A TPU has 2 cores and Trainium 8, each as large as dozens of multiprocessors; taken as they are, coefficients per
    multiprocessor would leave them waiting for their operands.

    Parameters
    ----------
    device : Device
        Device.

    Returns
    -------
    float
        Its own cores where there are many of them, else as many as its matrix rate and memory bandwidth need.
    """
    if device.cores >= COARSE_CORES:
        return float(device.cores)
    rate = device.peak_flops.get("bf16") or device.peak_flops.get("fp16") or 0.0
    return float(np.ceil(max(device.cores, rate / _CORE_FLOPS, device.memory_bandwidth / _CORE_BANDWIDTH)))


def device_numbers(device: Device, format: str) -> dict[str, float]:
    """Collect the plain numbers that a formula may ask of a device, for one operand format.

    Parameters
    ----------
    device : Device
        Device.
    format : str
        Operand format, which decides the peak.

    Returns
    -------
    dict
        Keyword -> number in SI units.
    """
    f = get_format(format)
    return {
        "peak_flops": peak_of(format, device.peak_flops),
        "memory_bandwidth": device.memory_bandwidth,
        # Where nobody publishes a cache, formulas see one that holds nothing and is never the limit.
        "cache_bytes": device.cache_bytes or 1.0,
        "cache_bandwidth": device.cache_bandwidth or np.inf,
        "cores": device.cores,
        "weight_bytes": f.weight_bytes,
        "activation_bytes": f.activation_bytes,
    }


def call_form(calibration: KernelCalibration, sizes: Mapping[str, Any], numbers: Mapping[str, Any]) -> Floats:
    """Evaluate a calibrated formula with the numbers that its signature asks for.

    Parameters
    ----------
    calibration : KernelCalibration
        Formula name, coefficients and attributes.
    sizes : mapping
        Sizes of the operator by argument name.
    numbers : mapping
        Hardware and format numbers by argument name; those the formula does not take are left out.

    Returns
    -------
    float or array
        Time [s].
    """
    wanted = _keywords(calibration.form)
    offered = {**numbers, **sizes, **calibration.attributes, **calibration.coefficients}
    return get_formula(calibration.form).function(**{k: v for k, v in offered.items() if k in wanted})  # type: ignore[no-any-return]


def beyond_range(calibration: KernelCalibration, sizes: Mapping[str, Any]) -> dict[str, Booleans]:
    """Find the sizes of an operator that lie outside what a calibration was fitted to.

    Parameters
    ----------
    calibration : KernelCalibration
        Formula, and the range of its measured cases where the file has one; else the formula's own range counts.
    sizes : mapping
        Sizes of the operator by argument name.

    Returns
    -------
    dict
        Argument -> True where it is outside, only those that are outside somewhere.
    """
    return get_formula(calibration.form).out_of_range(sizes, calibration.provenance.get("range"))


def _source(calibration: KernelCalibration | None, device: Device) -> str:
    if calibration is None:
        return f"{device.id} datasheet"
    kernel = f" {calibration.kernel}" if calibration.kernel else ""
    return (
        f"{calibration.owner(device.id)}/{calibration.engine or 'any'} {calibration.format}{kernel} {calibration.basis}"
    )


def _operator_key(op: Gemm | Attention | Experts | Pass) -> tuple[str, str, str]:
    """Operator name, operand format and cache format under which calibrations are filed."""
    if isinstance(op, Gemm):
        return "gemm", op.format, ""
    if isinstance(op, Experts):
        return "moe", op.format, ""
    if isinstance(op, Attention):
        return ("decode_" if op.decode else "prefill_") + ("mla" if op.latent else "attention"), op.format, op.kv_format
    return "pass", op.format, ""


def _sizes(op: Gemm | Attention | Experts | Pass, skew: float | None) -> dict[str, Any]:
    """Sizes by the argument names that the formulas use."""
    if isinstance(op, Gemm):
        return {"tokens": op.tokens, "out_features": op.out_features, "in_features": op.in_features}
    if isinstance(op, Experts):
        return {
            "tokens": op.tokens,
            "hidden": op.hidden,
            "intermediate": op.intermediate,
            "experts": op.experts,
            "topk": op.topk,
            "expert_ranks": op.ep,
            "tensor_ranks": op.moe_tp,
            "gated": op.gated,
            "skew": np.where(as_floats(op.ep) >= LEVELLED_RANKS, 0.0, ROUTING_SKEW) if skew is None else skew,
        }
    if isinstance(op, Attention):
        return {
            "batch": op.batch,
            "tokens": op.tokens,
            "context": op.context,
            "heads": op.heads,
            "kv_heads": op.kv_heads,
            "qk_head_dim": op.qk_head_dim,
            "v_head_dim": op.v_head_dim,
            "window": op.window,
            "queries": op.tokens,
            # Absorbed latent attention stores one vector per token, of which the values are a part.
            "kv_elements": op.qk_head_dim if op.latent and op.decode else None,
            "shared_kv": op.latent and op.decode,
            "query_bytes": get_format(op.format).activation_bytes,
            "kv_bytes": get_format(op.kv_format).activation_bytes,
        }
    return {"flops": op.operations, "nbytes": op.moved}


def time_operator(
    op: Gemm | Attention | Experts | Pass | Wait,
    device: Device,
    kernels: KernelTable,
    engine: str = "",
    skew: float | None = None,
) -> OperatorTime:
    """Time one operator that runs on a single device.

    The nearest calibration of the operator's kernel family times it; where the operator has none, a roofline with
    default efficiencies and a launch floor does.

    Parameters
    ----------
    op : Gemm, Attention, Experts, Pass or Wait
        Operator with its sizes, arrays over plans.
    device : Device
        Device.
    kernels : KernelTable
        Calibrations that may serve it.
    engine : str
        Serving engine whose kernels are preferred.
    skew : float, optional
        Exponent of the power law of the experts' loads; by default `ROUTING_SKEW`, and 0 from `LEVELLED_RANKS` on.

    Returns
    -------
    OperatorTime
        Seconds and bounds.
    """
    if isinstance(op, Wait):
        waited = op.count * as_floats(op.seconds)
        source = ("the engine's profile",)
        return OperatorTime(waited, 0.0, 0.0, 0.0, ("rank_wait",), ("measured",), source, op.count)
    operator, format, kv_format = _operator_key(op)
    # Latent-attention kernels multiply in the format of an 8-bit cache.
    latent = isinstance(op, Attention) and op.latent and get_format(op.kv_format).peak == "fp8"
    multiplied = op.kv_format if isinstance(op, Attention) and latent else format
    numbers = device_numbers(device, multiplied)
    if not isinstance(op, Attention) and get_format(format).peak not in device.peak_flops:
        # Without a unit for the format its kernels unpack the weights and leave the activations in 16 bits.
        format = UNPACKED.get(format, format)
        numbers["activation_bytes"] = get_format(format).activation_bytes
    if isinstance(op, Attention) and op.decode:
        numbers["cache_bytes"] = 0.0  # between two steps of a layer, the weights of all others pass through the cache
    flops, nbytes = op.flops(), op.nbytes()
    calibration = kernels.find(operator, format, kv_format=kv_format, engine=engine, captured=True)
    if calibration is None:
        form = get_formula("roofline_time")
        once = form.function(
            as_floats(flops) / op.count,
            as_floats(nbytes) / op.count,
            peak_flops=numbers["peak_flops"],
            memory_bandwidth=numbers["memory_bandwidth"],
            **form.defaults(),
        )
    else:
        if calibration.architecture:
            numbers["cores"] = default_cores(device)
        sizes = _sizes(op, skew)
        once = call_form(calibration, sizes, numbers)
    compute_s = roofline_bound(flops, 0.0, peak_flops=numbers["peak_flops"], memory_bandwidth=1.0)
    memory_s = roofline_bound(0.0, nbytes, peak_flops=1.0, memory_bandwidth=device.memory_bandwidth)
    empty = (as_floats(flops) + nbytes) <= 0  # nothing to do is not even launched
    time = OperatorTime(
        seconds=np.where(empty, 0.0, op.count * as_floats(once)),
        compute_s=compute_s,
        memory_s=memory_s,
        network_s=0.0,
        algorithms=(calibration.form if calibration else "roofline_time",),
        bases=(calibration.basis if calibration else "datasheet",),
        sources=(_source(calibration, device),),
        count=op.count,
        calls=((calibration, sizes),) if calibration else (),
    )
    return on_fastest_unit(time, op, device, multiplied) if device.units else time
