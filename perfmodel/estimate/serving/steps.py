"""Seconds of the steps that serving is made of, and the memory that bounds them, for every plan."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats, clipped
from perfmodel.estimate.serving.drafting import drafting_factor
from perfmodel.estimate.serving.footprint import Footprint, serving_footprint
from perfmodel.estimate.serving.host_experts import expert_fetch
from perfmodel.estimate.serving.host_link import host_fetch
from perfmodel.estimate.serving.mixed_steps import added_s, decoding_requests, pieces_of
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.split_steps import split_steps
from perfmodel.estimate.step import host_time, step_times
from perfmodel.estimate.target import Target
from perfmodel.estimate.timed_step import StepTime, fetching, hosted, launched_ahead
from perfmodel.hardware.engine import Engine
from perfmodel.layers.base import Step
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid

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
        That prefill step, or what prompts add to a step of running requests [s].
    footprint : Footprint
        Memory of the fullest device.
    riding_steps : float or array
        Decode steps that a prompt shares with running requests; 0 where prompts have steps of their own.
    together : float or array
        Prompts for which these steps have room.
    fetch_s : float or array
        Time for which a prompt's cache from host memory occupies the host link [s].
    fetched_s : float or array
        Part of it that computing the rest of the prompt does not hide [s].
    decode_experts_s, prefill_experts_s : float or array
        Part of either step in which it waits for experts from host memory [s].
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
    decode_experts_s: Floats = 0.0
    prefill_experts_s: Floats = 0.0
    drafting: Floats = 1.0

    @property
    def prompt_s(self) -> npt.NDArray[np.float64]:
        """From the start of a prompt's own prefill until its end [s]."""
        if np.any(as_floats(self.riding_steps) > 0):
            return as_floats(self.riding_steps * (self.shared_s + self.decode.seconds) + self.fetched_s)
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
    together = clipped(np.floor(budget / fresh), 1.0, np.maximum(MOST_PROMPTS, np.floor(running / workload.osl)))
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
    waits: list[Floats] = [0.0, 0.0]
    if workload.host_experts:
        # Which experts a prompt or a piece of it needs is known, nearly all of them, so they come while it is computed.
        steps = (decode, alone, shared, *parts[:1])
        waits = [
            expert_fetch(model, target, grid, workload, precision, step, hiding_s=0.0 if step.decode else timed.seconds)
            for step, timed in zip(wanted, steps, strict=False)
        ]
        decode, alone, shared, *hosted_parts = map(fetching, steps, waits)
        parts = [*hosted_parts, *parts[1:]]
    if target.engine.launches_ahead:
        alone = launched_ahead(alone)
    if mixed:
        added, step_s = added_s(model, target, pieces, dense=parts[0], attention=parts[1], decode=decode)
        found = ServingSteps(decode, alone, added, step_s, footprint, pieces.steps, pieces.together)
    else:
        # What a prompt waits for its launches, the steps of others fill.
        marginal_s = (shared.seconds - shared.over_plans("host_s")) / together
        found = ServingSteps(decode, alone, marginal_s, shared.seconds, footprint)
    drafting = drafting_factor(model, target, grid, workload, wanted[0], precision)
    found = replace(found, drafting=drafting, decode_experts_s=waits[0], prefill_experts_s=waits[1])
    if not workload.host_hit:
        return found
    fetch_s, seen = host_fetch(model, target, grid, workload, precision, found.prompt_s)
    return replace(found, fetch_s=fetch_s, fetched_s=seen)


def with_host(model: ModelSpec, engine: Engine, grid: PlanGrid, steps: ServingSteps) -> ServingSteps:
    """Steps with the host times of an engine.

    Parameters
    ----------
    model : ModelSpec
        Gives the number of layers.
    engine : Engine
        Serving software whose host times are taken.
    grid : PlanGrid
        The plans.
    steps : ServingSteps
        Step times of the plans, from :func:`serving_steps` for an engine without host times.

    Returns
    -------
    ServingSteps
        The same work on the device.
    """
    one = as_floats(1.0)
    batch = np.ceil(running_requests(grid, steps.footprint) / grid.pp)
    decode_s = host_time(engine, model.layers, Step(batch, one, one, decode=True))
    prefill_s = host_time(engine, model.layers, Step(one, one, one, decode=False))
    alone = hosted(steps.prefill, prefill_s)
    return replace(
        steps,
        decode=hosted(steps.decode, decode_s),
        prefill=launched_ahead(alone) if engine.launches_ahead else alone,
        shared_s=steps.shared_s + prefill_s,
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
        host_experts=workload.host_experts,
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
