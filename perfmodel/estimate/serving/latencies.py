"""Seconds to the first token and per token of a closed loop of requests, from the times of its steps."""

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.scheduling import balanced_wait
from perfmodel.costs.serving import (
    closed_loop_wait,
    first_wave_wait,
    interleaved_tpot,
    pool_limited_ttft,
    slot_wait,
    staggered_wait,
)
from perfmodel.estimate.serving.mixed_steps import decoding_requests
from perfmodel.estimate.serving.steps import ServingSteps, running_requests
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.step import stage_imbalance
from perfmodel.estimate.target import Target
from perfmodel.hardware.engine import Engine
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid


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
    lockstep = wave_lockstep(engine, workload)
    # Of the prompts of a wave in lockstep, the half that goes first is waited for before the first token.
    tpot = as_floats(
        interleaved_tpot(decode_s, occupied_s, decoding, workload.osl, interference=1.0 - as_floats(lockstep) / 2.0)
    )
    started: Floats = steps.prompt_s + engine.request_s + streaming_delay(engine, grid, workload, steps, decode_s, tpot)
    service_s = np.maximum(occupied_s + riding_s(steps), steps.fetch_s)
    wave_s = service_s + beside_s(engine, workload, decode_s)
    started = started + first_wave_wait(wave_s, running, workload.waves, lockstep=lockstep)
    wait = closed_loop_wait if engine.schedule == "prefill-first" else balanced_wait
    queued = wait(service_s, running, started + workload.osl * tpot)
    behind = (1.0 - as_floats(lockstep)) * staggered_wait(service_s, running)
    started = started + np.where(kept_in_order(engine, workload), behind, queued)
    # Each request of a cycle is prefilled once, so the cycle is never shorter than all of their prompts.
    started = pool_limited_ttft(started, tpot, workload.osl, running, 1.0 / service_s)
    per_rank = np.ceil(grid.concurrency / grid.dp)
    return as_floats(started + slot_wait(per_rank, running, started + workload.osl * tpot)), tpot


def kept_in_order(engine: Engine, workload: Workload) -> npt.NDArray[np.bool_]:
    """Whether requests keep the order and the distances in which they started: equal ones, with prompts in whole.

    Parameters
    ----------
    engine : Engine
        Gives the schedule.
    workload : Workload
        Says whether lengths are equal.

    Returns
    -------
    numpy.ndarray of bool
        One value, or one for each plan.
    """
    return np.asarray(workload.equal_lengths, dtype=bool) & (engine.schedule == "prefill-first")


def wave_lockstep(engine: Engine, workload: Workload) -> npt.NDArray[np.float64]:
    """Share of the waves that start and end together: all where an engine computes every prompt of a wave first.

    Parameters
    ----------
    engine : Engine
        Gives ``drains_prompts`` and the schedule.
    workload : Workload
        Says whether lengths are equal.

    Returns
    -------
    numpy.ndarray
        0 or 1 [1].
    """
    return as_floats(kept_in_order(engine, workload) * float(engine.drains_prompts))


def beside_s(engine: Engine, workload: Workload, decode_s: Floats) -> npt.NDArray[np.float64]:
    """Decoding beside each prompt of a wave: its share of a step that also decodes those that had their prompts before.

    Parameters
    ----------
    engine : Engine
        Gives the tokens of a prefill step, and whether anything decodes before all prompts are computed.
    workload : Workload
        Lengths.
    decode_s : float or ndarray
        Time of a decode step, s.

    Returns
    -------
    ndarray
        Seconds; 0 where prompts are spread over decode steps, which then count already.
    """
    if engine.drains_prompts or engine.schedule != "prefill-first":
        return as_floats(0.0)
    return as_floats(as_floats(decode_s) * workload.new_tokens / engine.step_tokens)


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
    return as_floats(decode_s / workload.tokens_per_step)


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
    engine: Engine, grid: PlanGrid, workload: Workload, steps: ServingSteps, decode_s: Floats, tpot: Floats
) -> npt.NDArray[np.float64]:
    """Delay of a token by steps that pass before its prompt is taken and after it is done.

    A step holds at most one full prefill step beside the decoding, however many prompts a short output attracts.
    Where requests keep their order, the prompts before one are waited for apart from these steps. Where a wave starts
    together, nothing decodes while its prompts wait, and only the half of the steps that follows a prompt is left.

    Parameters
    ----------
    engine : Engine
        Gives ``stream_steps`` and ``balance_steps``.
    grid : PlanGrid
        The plans.
    workload : Workload
        Says whether lengths are equal.
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
    # In as many steps as a request has tokens every other request has its prompt.
    passing = np.minimum(passing * (1.0 - wave_lockstep(engine, workload) / 2.0), workload.osl)
    alone = kept_in_order(engine, workload)
    return as_floats(passing * np.where(alone, decode_s, np.minimum(tpot, decode_s + steps.shared_s)))
