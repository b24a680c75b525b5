"""Serving: TTFT, TPOT, throughput and memory of replicas under a closed loop of requests, for every plan."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.economy import optimal_throughput, token_energy
from perfmodel.costs.formats import get_format, peak_of
from perfmodel.costs.reuse import retention_break_even
from perfmodel.costs.scheduling import balanced_wait
from perfmodel.costs.serving import (
    closed_loop_wait,
    first_wave_wait,
    interleaved_tpot,
    pool_limited_ttft,
    prefill_first_lockstep,
    slot_wait,
    speculated_tokens,
)
from perfmodel.errors import PlanError
from perfmodel.estimate.drafting import drafting_factor
from perfmodel.estimate.footprint import Footprint, serving_footprint
from perfmodel.estimate.host_link import host_fetch
from perfmodel.estimate.mixed_steps import added_s, decoding_requests, pieces_of
from perfmodel.estimate.open_loop import open_loop
from perfmodel.estimate.result import BOUNDS, Column, Columns, Estimate, join_columns
from perfmodel.estimate.serving_columns import serving_columns
from perfmodel.estimate.serving_rules import serving_rules
from perfmodel.estimate.split_steps import split_steps
from perfmodel.estimate.step import host_time, stage_imbalance, step_times
from perfmodel.estimate.target import Target
from perfmodel.estimate.timed_step import StepTime, hosted
from perfmodel.estimate.workload import Workload
from perfmodel.hardware.engine import Engine
from perfmodel.layers.base import Step
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.mesh import mesh_parts
from perfmodel.parallel.rules import Verdicts, joined, judge

MOST_AT_ONCE = 65536
"""Plans that are predicted at once: a column of them is half a megabyte and stays in the processor's cache."""

MOST_PROMPTS = 4.0
"""Prompts that share a prefill step at most when the time that one adds is taken, unless outputs are so short that more
requests end in every decode step."""


@dataclass(frozen=True, slots=True)
class ServingSteps:
    """The two steps that serving is made of, with their derivations where kept.

    Parameters
    ----------
    decode : StepTime
        One decode step of all requests in flight on a rank, at mean context.
    prefill : StepTime
        One prompt alone.
    marginal_s : float or array
        Device time that one prompt adds to a prefill step of several [s].
    shared_s : float or array
        That prefill step [s].
    footprint : Footprint
        Memory of the fullest device.
    riding_steps : float or array
        Decode steps that a prompt shares with running requests; 0 where prompts have steps of their own.
    together : float or array
        Prompts that share such a step.
    fetch_s : float or array
        Time for which a prompt's cache from host memory occupies the host link [s].
    fetched_s : float or array
        Part of it that computing the rest of the prompt does not hide [s].
    drafting : float or array
        Time of a decode step and of drafting for the next one, over the time of the step [1].
    """

    decode: StepTime
    prefill: StepTime
    marginal_s: Floats
    shared_s: Floats
    footprint: Footprint
    riding_steps: Floats = 0.0
    together: Floats = 1.0
    fetch_s: Floats = 0.0
    fetched_s: Floats = 0.0
    drafting: Floats = 1.0

    @property
    def prompt_s(self) -> npt.NDArray[np.float64]:
        """From the start of a prompt's own prefill until its end [s]."""
        if np.any(as_floats(self.riding_steps) > 0):
            return as_floats(self.marginal_s + self.riding_steps * self.decode.seconds + self.fetched_s)
        return as_floats(self.prefill.seconds + self.fetched_s)


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
    isl = as_floats(workload.isl)
    fresh = as_floats(workload.new_tokens)
    budget = target.engine.step_tokens
    footprint = workload_footprint(model, target, grid, workload, precision)
    running = running_requests(grid, footprint)
    # Prompts that wait together share a step, and so the reading of the weights and the launches.
    together = np.clip(np.floor(budget / fresh), 1.0, np.maximum(MOST_PROMPTS, np.floor(running / workload.osl)))
    # With pipeline stages the requests of a rank form one microbatch per stage, all stages busy at once.
    decoding = decoding_requests(model, target, workload, running)
    batch, verified = np.ceil(decoding / grid.pp), as_floats(workload.draft_tokens + 1.0)
    mixed = target.engine.schedule != "prefill-first"
    pieces = pieces_of(model, target, workload, batch)
    wanted = [
        Step(batch, verified, isl + as_floats(workload.osl) / 2.0, decode=True),
        Step(as_floats(1.0), fresh, isl, decode=False),
        Step(together, fresh, isl, decode=False),
        *([pieces.dense, pieces.attention] if mixed else []),
    ]
    decode, alone, shared, *parts = (split_steps if target.engine.split != "none" else step_times)(
        model, target, [(grid, step) for step in wanted], precision, keep_lines=keep_lines
    )
    if mixed:
        added = added_s(model, target, pieces, dense=parts[0], attention=parts[1], decode=decode)
        found = ServingSteps(decode, alone, added, added / pieces.steps, footprint, pieces.steps, pieces.together)
    else:
        # What a prompt waits for its launches, the steps of others fill.
        marginal_s = (shared.seconds - shared.over_plans("host_s")) / together
        found = ServingSteps(decode, alone, marginal_s, shared.seconds, footprint)
    found = replace(found, drafting=drafting_factor(model, target, grid, workload, wanted[0], precision))
    if not workload.host_hit:
        return found
    fetch_s, seen = host_fetch(model, target, grid, workload, precision, found.prompt_s)
    return replace(found, fetch_s=fetch_s, fetched_s=seen)


def with_host(model: ModelSpec, engine: Engine, grid: PlanGrid, steps: ServingSteps) -> ServingSteps:
    """Steps with the host times of another engine.

    Parameters
    ----------
    model : ModelSpec
        Gives the number of layers.
    engine : Engine
        Serving software whose host times are taken.
    grid : PlanGrid
        The plans.
    steps : ServingSteps
        Step times of the plans, from :func:`serving_steps`.

    Returns
    -------
    ServingSteps
        The same work on the device.
    """
    one = as_floats(1.0)
    batch = np.ceil(running_requests(grid, steps.footprint) / grid.pp)
    decode_s = host_time(engine, model.layers, Step(batch, one, one, decode=True))
    prefill_s = host_time(engine, model.layers, Step(one, one, one, decode=False))
    more_s = prefill_s - steps.prefill.over_plans("host_s")
    return replace(
        steps,
        decode=hosted(steps.decode, decode_s),
        prefill=hosted(steps.prefill, prefill_s),
        shared_s=steps.shared_s + more_s,
    )


def workload_footprint(
    model: ModelSpec, target: Target, grid: PlanGrid, workload: Workload, precision: Precision
) -> Footprint:
    """Memory of every plan under a workload, the requests in flight included.

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

    Returns
    -------
    Footprint
        Bytes on the fullest device.
    """
    return serving_footprint(
        model,
        target,
        grid,
        precision,
        context=workload.stored_tokens + target.engine.reserved_output * as_floats(workload.osl),
        requests=np.ceil(grid.concurrency / grid.dp),
        step_tokens=np.minimum(as_floats(workload.new_tokens), target.engine.step_tokens),
    )


def running_requests(grid: PlanGrid, footprint: Footprint) -> Floats:
    """Requests that run on one rank: those in flight, or as many as the cache holds.

    Parameters
    ----------
    grid : PlanGrid
        Plans.
    footprint : Footprint
        Memory of the fullest device.

    Returns
    -------
    float or array
        At least 1: a plan that holds none is refused by a rule.
    """
    return np.maximum(np.minimum(np.ceil(grid.concurrency / grid.dp), footprint.requests), 1.0)


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
    longest_request = float(np.max(as_floats(workload.isl) + workload.osl))
    if model.max_context and longest_request > model.max_context:
        raise PlanError(
            f"isl + osl = {longest_request:g} tokens exceeds the {model.max_context:g} that {model.id} allows"
        )
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
            streaming=lambda token_s: streaming_delay(engine, grid, steps, decode_s, token_s),
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


def closed_loop_latencies(
    model: ModelSpec, target: Target, grid: PlanGrid, workload: Workload, steps: ServingSteps
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean time to first token and per output token where a finished request is replaced at once.

    Parameters
    ----------
    model : ModelSpec
        Gives the layers that the stages share.
    target : Target
        System, and the engine that schedules.
    grid : PlanGrid
        Plans.
    workload : Workload
        Lengths and waves.
    steps : ServingSteps
        Step times of the plans, from :func:`serving_steps`.

    Returns
    -------
    tuple of numpy.ndarray
        TTFT and TPOT [s].
    """
    engine, running = target.engine, running_requests(grid, steps.footprint)
    decode_s = decode_token_s(model, grid, workload, steps)
    occupied_s = prompt_occupation_s(model, grid, steps)
    decoding = decoding_requests(model, target, workload, running)
    lockstep = engine.drains_prompts * as_floats(prefill_first_lockstep(occupied_s, running, workload.osl, decode_s))
    # Of the prompts of a wave in lockstep, the half that goes first is waited for before the first token.
    stalling = 1.0 - lockstep / 2.0
    tpot = as_floats(interleaved_tpot(decode_s, occupied_s, decoding, workload.osl, interference=stalling))
    started: Floats = steps.prompt_s + engine.request_s + streaming_delay(engine, grid, steps, decode_s, tpot)
    service_s = np.maximum(occupied_s + riding_s(steps), steps.fetch_s)
    started = started + first_wave_wait(service_s, running, workload.waves, lockstep=lockstep)
    wait = closed_loop_wait if engine.schedule == "prefill-first" else balanced_wait
    started = started + wait(service_s, running, started + workload.osl * tpot)
    # Each request of a cycle is prefilled once, so the cycle is never shorter than all of their prompts.
    started = pool_limited_ttft(started, tpot, workload.osl, running, 1.0 / service_s)
    per_rank = np.ceil(grid.concurrency / grid.dp)
    return as_floats(started + slot_wait(per_rank, running, started + workload.osl * tpot)), tpot


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


def prompt_occupation_s(model: ModelSpec, grid: PlanGrid, steps: ServingSteps) -> npt.NDArray[np.float64]:
    """Time that a prompt takes from the others of its rank: its share of each stage, as prompts of a pipeline overlap.

    Parameters
    ----------
    model : ModelSpec
        Gives the layers that the stages share.
    grid : PlanGrid
        The plans.
    steps : ServingSteps
        Step times of the plans, from :func:`serving_steps`.

    Returns
    -------
    ndarray of grid.shape
        Seconds.
    """
    return as_floats(as_floats(steps.marginal_s) / grid.pp * stage_imbalance(model.layers, grid.pp))


def decode_token_s(
    model: ModelSpec, grid: PlanGrid, workload: Workload, steps: ServingSteps
) -> npt.NDArray[np.float64]:
    """Time of a token with no prefill beside it: the decode step of the longest stage, drafting included.

    Parameters
    ----------
    model : ModelSpec
        Gives the layers that the stages share.
    grid : PlanGrid
        The plans.
    workload : Workload
        Gives what is drafted and how often it is accepted.
    steps : ServingSteps
        Step times of the plans, from :func:`serving_steps`.

    Returns
    -------
    ndarray of grid.shape
        Seconds.
    """
    decode_s = as_floats(steps.decode.seconds) * stage_imbalance(model.layers, grid.pp) * steps.drafting
    return as_floats(decode_s / speculated_tokens(workload.draft_tokens, workload.acceptance))


def riding_s(steps: ServingSteps) -> npt.NDArray[np.float64]:
    """Time of the decode steps that a prompt is spread over, which no other prompt can use.

    Parameters
    ----------
    steps : ServingSteps
        Step times of the plans.

    Returns
    -------
    ndarray of grid.shape
        Seconds; 0 where prompts have steps of their own.
    """
    return as_floats(steps.riding_steps * steps.decode.seconds / as_floats(steps.together))


def streaming_delay(
    engine: Engine, grid: PlanGrid, steps: ServingSteps, decode_s: Floats, tpot: Floats
) -> npt.NDArray[np.float64]:
    """Delay of a token by steps that pass before its prompt is taken and after it is done.

    A step holds at most one full prefill step beside the decoding, however many prompts a short
    output attracts.

    Parameters
    ----------
    engine : Engine
        Gives ``stream_steps`` and ``balance_steps``.
    grid : PlanGrid
        The plans.
    steps : ServingSteps
        Step times of the plans, from :func:`serving_steps`.
    decode_s : float or ndarray
        Time of a token with no prefill beside it, s.
    tpot : float or ndarray
        Time of a token with the prompts of others spread over it, s.

    Returns
    -------
    ndarray of grid.shape
        Seconds.
    """
    passing = engine.stream_steps + np.where(grid.dp > 1, engine.balance_steps, 0.0)
    return as_floats(passing * np.minimum(tpot, decode_s + steps.shared_s))
