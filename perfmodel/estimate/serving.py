"""Serving: TTFT, TPOT, throughput and memory of replicas under a closed loop of requests, for every plan."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.pipeline import pipelined_time
from perfmodel.costs.serving import closed_loop_wait, interleaved_tpot
from perfmodel.errors import PlanError
from perfmodel.estimate.footprint import Footprint, serving_footprint
from perfmodel.estimate.result import BOUNDS, Estimate
from perfmodel.estimate.step import StepTime, stage_imbalance, step_time
from perfmodel.estimate.target import Target
from perfmodel.layers.base import Step
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.rules import Rule, judge, structural_rules

_GIB = 2.0**30


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests that a deployment serves.

    Parameters
    ----------
    isl : float
        Input tokens of a request.
    osl : float
        Output tokens of a request.
    """

    isl: float
    osl: float

    def __post_init__(self) -> None:
        for name in ("isl", "osl"):
            value = getattr(self, name)
            if not np.isfinite(value) or value < 1 or value != np.floor(value):
                raise PlanError(f"{name} must be a whole number of tokens, at least 1, not {value:g}")


@dataclass(frozen=True, slots=True)
class ServingSteps:
    """The two steps that serving is made of, with their derivations where kept.

    Parameters
    ----------
    decode : StepTime
        One decode step of all requests in flight on a rank, at mean context.
    prefill : StepTime
        One prompt alone.
    footprint : Footprint
        Memory of the fullest device.
    """

    decode: StepTime
    prefill: StepTime
    footprint: Footprint


def serving_steps(
    model: ModelSpec,
    target: Target,
    grid: PlanGrid,
    workload: Workload,
    precision: Precision,
    *,
    keep_lines: bool = False,
) -> ServingSteps:
    """Time the decode step and the prefill of every plan, and weigh its memory.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System, kernels and engine.
    grid : PlanGrid
        Plans.
    workload : Workload
        Lengths.
    precision : Precision
        Number formats.
    keep_lines : bool
        Keep every operator for a derivation.

    Returns
    -------
    ServingSteps
        Decode, prefill and memory.
    """
    per_rank = np.ceil(grid.concurrency / grid.dp)
    # With pipeline stages the requests of a rank form one microbatch per stage, all stages busy at once.
    microbatch = np.ceil(per_rank / grid.pp)
    decode = step_time(
        model,
        target,
        grid,
        Step(microbatch, as_floats(1.0), as_floats(workload.isl + workload.osl / 2.0), decode=True),
        precision,
        keep_lines=keep_lines,
    )
    isl = as_floats(workload.isl)
    prefill = step_time(
        model, target, grid, Step(as_floats(1.0), isl, isl, decode=False), precision, keep_lines=keep_lines
    )
    footprint = serving_footprint(
        model,
        target,
        grid,
        precision,
        context=as_floats(workload.isl + workload.osl),
        requests=per_rank,
        step_tokens=np.minimum(isl, target.engine.step_tokens),
    )
    return ServingSteps(decode, prefill, footprint)


def predict_serving(
    model: ModelSpec, target: Target, grid: PlanGrid, workload: Workload, precision: Precision
) -> Estimate:
    """Predict latency, throughput and memory of every plan under a closed loop of requests.

    `concurrency` requests are always in flight in a replica. A plan that cannot be, or does not fit, has a reason and
    NaN in its latency columns.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System, kernels and engine.
    grid : PlanGrid
        Plans: one or a million.
    workload : Workload
        Lengths.
    precision : Precision
        Number formats.

    Returns
    -------
    Estimate
        Columns ttft_s, tpot_s, tokens_per_s, tokens_per_s_per_gpu, requests_per_s, memory_bytes with its parts,
        decode and prefill times with their parts and bounds.

    Raises
    ------
    PlanError
        If the workload exceeds the length that the model allows.
    """
    if workload.isl + workload.osl > model.max_context:
        raise PlanError(
            f"isl + osl = {workload.isl + workload.osl:g} tokens exceeds the {model.max_context:g}"
            f" that {model.id} allows"
        )
    steps = serving_steps(model, target, grid, workload, precision)
    per_rank = np.ceil(grid.concurrency / grid.dp)
    longest = stage_imbalance(model.layers, grid.pp)
    decode_s = as_floats(steps.decode.seconds) * longest
    prefill_s = as_floats(steps.prefill.seconds)
    # A prompt occupies each stage for its share of the layers, so prompts of a pipeline overlap.
    occupied_s = (pipelined_time(prefill_s, grid.pp, 2.0) - prefill_s) * longest
    tpot = interleaved_tpot(decode_s, occupied_s, per_rank, workload.osl)
    cycle = prefill_s + workload.osl * tpot
    ttft = prefill_s + closed_loop_wait(occupied_s, per_rank, cycle)
    cycle = ttft + (workload.osl - 1.0) * tpot
    rate = grid.concurrency / cycle
    verdicts = judge(grid.shape, _rules(model, target, grid, steps.footprint, per_rank))
    columns = _columns(grid, workload, steps, ttft=ttft, tpot=tpot, rate=rate)
    hidden = ~verdicts.feasible
    for name in ("ttft_s", "tpot_s", "requests_per_s", "tokens_per_s", "tokens_per_s_per_gpu"):
        columns[name] = np.where(hidden, np.nan, columns[name])
    capacity = steps.footprint.requests * grid.dp
    full = np.broadcast_to(grid.concurrency + grid.dp > capacity, grid.shape).ravel()
    columns["bound"] = np.where(full, float(BOUNDS.index("capacity")), columns["bound_decode"])
    context = {
        "model": model.id,
        "system": target.system.id,
        "device": target.device.id,
        "engine": target.engine.id,
        "workload": workload,
        "precision": precision,
        "kernels": {
            "measured": sorted({f"{k.engine} {k.version}".strip() for k in target.kernels.measured}),
            "defaults": target.device.architecture if target.kernels.defaults else "",
        },
    }
    return Estimate(grid, columns, verdicts, context)


def _columns(
    grid: PlanGrid, workload: Workload, steps: ServingSteps, *, ttft: Floats, tpot: Floats, rate: Floats
) -> dict[str, npt.NDArray[np.float64]]:
    footprint, decode, prefill = steps.footprint, steps.decode, steps.prefill
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
    }
    return {name: np.broadcast_to(as_floats(v), grid.shape).ravel() for name, v in values.items()}


def _rules(
    model: ModelSpec, target: Target, grid: PlanGrid, footprint: Footprint, per_rank: Floats
) -> tuple[Rule, ...]:
    """Structural rules first, then memory: the fixed part alone, then with the cache of all requests."""
    fixed = np.broadcast_to(as_floats(footprint.fixed), grid.shape)
    total = np.broadcast_to(as_floats(footprint.total), grid.shape)
    weights = np.broadcast_to(as_floats(footprint.weights), grid.shape)
    requests = np.broadcast_to(as_floats(per_rank), grid.shape)
    room = footprint.capacity
    fixed_flat, total_flat, weights_flat, requests_flat = (
        fixed.ravel(),
        total.ravel(),
        weights.ravel(),
        requests.ravel(),
    )
    return (
        *structural_rules(grid, model.divisors(), layers=model.layers, max_devices=target.system.max_devices),
        Rule(
            "weights exceed memory",
            fixed > room,
            lambda i: (
                f"weights exceed memory by {(fixed_flat[i] - room) / _GIB:.1f} GiB: {weights_flat[i] / _GIB:.1f} GiB"
                f" and {(fixed_flat[i] - weights_flat[i]) / _GIB:.1f} GiB of working memory in {room / _GIB:.1f} GiB"
            ),
        ),
        Rule(
            "KV cache exceeds memory",
            total > room,
            lambda i: (
                f"KV cache of {requests_flat[i]:.0f} requests exceeds memory by {(total_flat[i] - room) / _GIB:.1f} GiB"
            ),
        ),
        Rule(
            "fewer requests than dp ranks",
            np.broadcast_to(grid.concurrency < grid.dp, grid.shape),
            lambda _: "fewer requests in flight than attention-data-parallel ranks",
        ),
    )
