"""Serving: TTFT, TPOT, throughput and memory of replicas under a load of requests, for every plan."""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.economy import optimal_throughput, token_energy
from perfmodel.costs.formats import get_format, peak_of
from perfmodel.costs.reuse import retention_break_even
from perfmodel.estimate.result import BOUNDS, Column, Columns, Estimate, join_columns
from perfmodel.estimate.serving.columns import serving_columns
from perfmodel.estimate.serving.latencies import (
    closed_loop_latencies,
    decode_token_s,
    prompt_occupation_s,
    riding_s,
    streaming_delay,
)
from perfmodel.estimate.serving.open_loop import open_loop
from perfmodel.estimate.serving.rules import refuse_longer, serving_rules
from perfmodel.estimate.serving.steps import running_requests, serving_steps
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.mesh import mesh_parts
from perfmodel.parallel.rules import Verdicts, joined, judge

MOST_AT_ONCE = 65536
"""Plans that are predicted at once: a column of them is half a megabyte and stays in the processor's cache."""


def predict_serving(
    model: ModelSpec, target: Target, grid: PlanGrid, workload: Workload, precision: Precision
) -> Estimate:
    """Predict latency, throughput and memory of every plan under load.

    In a closed loop `concurrency` requests are always in flight in a replica. Under Poisson arrivals it is the number
    that a request sees, itself included, and the rate follows from it unless the workload gives one. A plan that
    cannot be, or does not fit, has a reason and NaN in its latency columns.

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
        decode and prefill times with their parts and bounds; under Poisson arrivals also the quantiles of the TTFT,
        in_flight and prefill_busy.

    Raises
    ------
    PlanError
        If the workload exceeds the length that the model allows.
    """
    refuse_longer(model, workload)
    if grid.size <= MOST_AT_ONCE:
        parts = [_predict(model, target, grid, workload, precision)]
    else:
        parts = [
            _predict(model, target, grid.part(part), workload.part(part), precision)
            for part in mesh_parts(grid.shape, MOST_AT_ONCE)
        ]
    context = {
        "model": model.id,
        "system": target.system.id,
        "device": target.device.id,
        "engine": target.engine.id,
        "workload": workload,
        "precision": precision,
        "kernels": {
            "measured": target.kernels.software(),
            "defaults": target.kernels.defaults[0].architecture if target.kernels.defaults else "",
        },
    }
    columns = join_columns([columns for columns, _ in parts])
    return Estimate(grid, columns, joined([verdicts for _, verdicts in parts]), context)


def _predict(
    model: ModelSpec, target: Target, grid: PlanGrid, workload: Workload, precision: Precision
) -> tuple[Columns, Verdicts]:
    """Predict so many plans as fit into the processor's cache."""
    steps = serving_steps(model, target, grid, workload, precision)
    engine = target.engine
    more: dict[str, npt.NDArray[np.float64]] = {}
    quantiles: dict[str, Callable[[], npt.NDArray[np.float64]]] = {}
    further: dict[str, Column] = {"prompt_s": steps.prompt_s, "itl_max_s": steps.decode.seconds + steps.shared_s}
    if workload.arrivals == "poisson":
        decode_s = decode_token_s(model, grid, workload, steps)
        more, quantiles = open_loop(
            workload,
            decode_s=decode_s,
            prompt_s=steps.prompt_s + engine.request_s,
            occupied_s=prompt_occupation_s(model, grid, steps),
            riding_s=np.maximum(riding_s(steps), steps.fetch_s - prompt_occupation_s(model, grid, steps)),
            seen=running_requests(grid, steps.footprint),
            streaming=lambda token_s: streaming_delay(engine, grid, workload, steps, decode_s, token_s),
        )
        ttft, tpot, rate = (more.pop(name) for name in ("ttft_s", "tpot_s", "rate"))
        rate = as_floats(rate * grid.dp)
    else:
        ttft, tpot = closed_loop_latencies(model, target, grid, workload, steps)
        rate = grid.concurrency / (ttft + (workload.osl - 1.0) * tpot)
    shape = grid.shape
    verdicts = judge(shape, serving_rules(model, target, grid, steps.footprint))
    hidden = ~verdicts.feasible.reshape(shape)
    latencies: dict[str, Floats] = {"ttft": ttft, "tpot": tpot, "rate": rate, **more}
    if hidden.any():
        latencies = {name: np.where(hidden, np.nan, value) for name, value in latencies.items()}
    further |= {name: partial(_shown, hidden, within) for name, within in quantiles.items()}
    further |= {
        "cache_keep_s": lambda: retention_break_even(steps.marginal_s, steps.footprint.requests),
        # Nothing arrives where a request sees no other.
        "energy_per_token_j": lambda: token_energy(
            grid.devices,
            target.device.power_w or np.nan,
            np.where(latencies["rate"] > 0, latencies["rate"] * workload.osl, np.nan),
        ),
        "optimal_tokens_per_s_per_gpu": lambda: optimal_throughput(
            model.active_parameters(), workload.new_tokens, workload.osl, peak_flops=arithmetic_peak(target, precision)
        ),
    }
    columns = serving_columns(grid, workload, steps.footprint, steps.decode, steps.prefill, **latencies)
    full = grid.concurrency + grid.dp > steps.footprint.requests * grid.dp
    bound = np.where(full, np.float64(BOUNDS.index("capacity")), steps.decode.over_plans("bound"))
    return Columns([shape], [columns | further | {"bound": bound}]), verdicts


def _shown(hidden: npt.NDArray[np.bool_], within: Callable[[], Floats]) -> npt.NDArray[np.float64]:
    return np.where(hidden, np.nan, within())


def arithmetic_peak(target: Target, precision: Precision) -> float:
    """Dense peak in the format that most weights are multiplied in.

    Parameters
    ----------
    target : Target
        Device.
    precision : Precision
        Number formats; those of experts and of other layers are the same or nearly so.

    Returns
    -------
    float
        Peak [FLOP/s].
    """
    peaks = target.device.peak_flops
    return peak_of(precision.linear if get_format(precision.linear).peak in peaks else "bf16", peaks)
