"""Split steps: a step cut in two halves that overlap with each other (TokenWeave, NanoFlow)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from perfmodel.arrays import as_floats
from perfmodel.costs.splitting import nano_batch_time, token_split_time
from perfmodel.estimate.step import step_times
from perfmodel.estimate.target import Target
from perfmodel.estimate.timed_step import RESOURCES, StepTime
from perfmodel.layers.base import Step
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid

WEAVE_CORES = 8.0
"""Cores that a collective takes from the computation beside it: the most that TokenWeave gives it (2 to 8)."""


def half_of(step: Step) -> Step:
    """Half of a step: of the requests in decode, of the tokens in prefill.

    Parameters
    ----------
    step : Step
        Step.

    Returns
    -------
    Step
        The larger half.
    """
    if step.decode:
        return dataclasses.replace(step, batch=np.ceil(as_floats(step.batch) / 2.0))
    return dataclasses.replace(step, tokens=np.ceil(as_floats(step.tokens) / 2.0))


def one_step(model: ModelSpec, target: Target, grid: PlanGrid, step: Step, precision: Precision) -> StepTime:
    """Time one step as the engine runs it: whole, or as two halves.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System, kernels and engine.
    grid : PlanGrid
        Plans.
    step : Step
        Sequences and lengths.
    precision : Precision
        Number formats.

    Returns
    -------
    StepTime
        Arrays over plans.
    """
    timed = step_times if target.engine.split == "none" else split_steps
    return timed(model, target, [(grid, step)], precision)[0]


def split_steps(
    model: ModelSpec,
    target: Target,
    wanted: Sequence[tuple[PlanGrid, Step]],
    precision: Precision,
    *,
    keep_lines: bool = False,
) -> list[StepTime]:
    """Time several steps of one model, each as two halves where that is faster.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System, kernels and engine, which says how steps are split.
    wanted : sequence of (PlanGrid, Step)
        Plans, and the step that each takes.
    precision : Precision
        Number formats.
    keep_lines : bool
        Keep every operator of the whole steps for a derivation.

    Returns
    -------
    list of StepTime
        One for each of `wanted`.
    """
    whole = step_times(model, target, wanted, precision, keep_lines=keep_lines)
    halves = step_times(model, target, [(grid, half_of(step)) for grid, step in wanted], precision)
    return [
        split_step(model, target, full, half, decode=step.decode)
        for full, half, (_, step) in zip(whole, halves, wanted, strict=True)
    ]


def split_step(model: ModelSpec, target: Target, full: StepTime, half: StepTime, *, decode: bool) -> StepTime:
    """Time a step as two halves that overlap, where that is faster than the step as a whole.

    Parameters
    ----------
    model : ModelSpec
        Gives the number of layers.
    target : Target
        Gives the kind of split and the device's cores.
    full, half : StepTime
        The step, and its half by `half_of`.
    decode : bool
        Whether attention is divided with the requests; in a prefill both halves together attend as the whole does.

    Returns
    -------
    StepTime
        The same columns, one value per plan; what is hidden is charged to nobody.
    """
    compute, memory, _, latency, host = full.parts
    whole = full.seconds
    attention = 0.0 if decode else 2.0 * half.over_plans("attention_s") - full.over_plans("attention_s")
    links = 2.0 * half.over_plans("links_s")
    if target.engine.split == "tokens":
        cores = float(target.device.cores)
        slowed = np.where(links > 0, cores / max(cores - WEAVE_CORES, 1.0), 1.0)
        device = (2.0 * half.over_plans("device_s") - attention) * slowed
        seconds = as_floats(token_split_time(device, links, model.layers)) + host
        scale = device / np.maximum(compute + memory + latency, 1e-30)
        parts = [compute * scale, memory * scale, seconds - host - device, latency * scale, host]
    else:
        arithmetic = np.maximum(2.0 * half.parts[0] - attention, 0.0)
        traffic = 2.0 * (half.parts[1] + half.parts[3])
        busy = (arithmetic, traffic, links)
        seconds = as_floats(nano_batch_time(*busy, model.layers)) + host
        longest = np.argmax(np.stack(np.broadcast_arrays(*busy)), axis=0)
        parts = [np.where(longest == i, time, 0.0) for i, time in enumerate(busy)]
        parts += [seconds - host - np.max(np.stack(np.broadcast_arrays(*busy)), axis=0), host]
    better = seconds < whole
    if target.engine.split == "tokens":
        better &= links > 0  # halves of nothing to hide could only win by the tiles that they fill
    chosen = [np.where(better, new, old) for new, old in zip(parts, full.parts, strict=True)]
    columns = {name: full.over_plans(name).ravel() for name in full.columns}
    columns["seconds"] = np.where(better, seconds, whole).ravel()
    columns["bound"] = np.argmax(np.stack(chosen), axis=0).ravel().astype(np.float64)
    columns |= {f"{name}_s": part.ravel() for name, part in zip(RESOURCES, chosen, strict=True)}
    return StepTime(columns, np.arange(whole.size).reshape(whole.shape), full.lines)
