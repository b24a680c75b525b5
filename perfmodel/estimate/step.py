"""Seconds of one forward step of a whole model, summed over blocks and operators, for many plans at once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats, in_rows, stacked
from perfmodel.costs.compute import overlapped
from perfmodel.estimate.compiled import KNOBS, LENGTHS, Compiled, compile_model, shard_of
from perfmodel.estimate.operator_sums import BASES, StepWork, time_works
from perfmodel.estimate.streams import (
    fastest_split,
    is_cut,
    microbatch,
    other_share,
    overlapped_streams,
    with_cores,
)
from perfmodel.estimate.target import Target
from perfmodel.estimate.timed_step import RESOURCES, Line, StepTime
from perfmodel.hardware.engine import Engine, Streams
from perfmodel.layers.base import Step
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.distinct import Distinct, distinct
from perfmodel.parallel.grid import PlanGrid
from perfmodel.programs import repeated
from perfmodel.recording import FEW


def stage_imbalance(layers: int, stages: Floats) -> Floats:
    r"""How much longer the longest pipeline stage is than the mean one.

    .. math:: \lceil L / p \rceil \, p / L

    Parameters
    ----------
    layers : int
        Layers L.
    stages : float or array
        Pipeline stages p.

    Returns
    -------
    float or array
        Factor, 1 where the stages are equal [1].

    Examples
    --------
    >>> float(stage_imbalance(61, 2.0)) > 1.0, float(stage_imbalance(80, 4.0))
    (True, 1.0)
    """
    p = as_floats(stages)
    return np.ceil(layers / p) * p / layers


def host_time(engine: Engine, layers: int, step: Step) -> Floats:
    """Host time of a step that its device waits for.

    Parameters
    ----------
    engine : Engine
        Serving software.
    layers : int
        Layers of the model.
    step : Step
        Sequences, and whether they decode.

    Returns
    -------
    float or array
        Seconds [s].
    """
    if step.decode:
        return engine.decode_step_s + engine.decode_request_s * as_floats(step.batch)
    return engine.prefill_layer_s * layers


def step_time(
    model: ModelSpec,
    target: Target,
    grid: PlanGrid,
    step: Step,
    precision: Precision,
    *,
    keep_lines: bool = False,
) -> StepTime:
    """Time one forward step through all layers, one pipeline stage after the other.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System, kernels and engine.
    grid : PlanGrid
        Plans.
    step : Step
        Sequences and lengths on one attention-data-parallel rank; arrays broadcast against the plans.
    precision : Precision
        Number formats.
    keep_lines : bool
        Keep every operator's time for a derivation.

    Returns
    -------
    StepTime
        Seconds, parts and bounds, arrays over plans.
    """
    return step_times(model, target, [(grid, step)], precision, keep_lines=keep_lines)[0]


def step_times(
    model: ModelSpec,
    target: Target,
    wanted: Sequence[tuple[PlanGrid, Step]],
    precision: Precision,
    *,
    keep_lines: bool = False,
) -> list[StepTime]:
    """Time several steps of one model at once.

    Every operator is timed once for the different sizes that it takes over all plans, together with all operators of
    its kind; its time is multiplied by how often its layer occurs and charged to the resource that binds it.
    Collectives hide behind computation by the engine's overlap; where the engine cuts steps into microbatches, layers
    with experts of one of them run beside those of the other.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System, kernels and engine.
    wanted : sequence of (PlanGrid, Step)
        Plans, and the step that each takes.
    precision : Precision
        Number formats.
    keep_lines : bool
        Keep every operator's time for a derivation; then operators are timed one by one.

    Returns
    -------
    list of StepTime
        One for each of `wanted`.
    """
    steps = _whole_steps(model, target, wanted, precision, keep_lines=keep_lines)
    if not model.is_moe:
        return steps
    return [
        whole if streams is None else _streamed(model, target, whole, grid, step, precision, streams)
        for whole, (grid, step) in zip(steps, wanted, strict=True)
        for streams in (target.engine.decode_streams if step.decode else target.engine.prefill_streams,)
    ]


def _streamed(
    model: ModelSpec,
    target: Target,
    whole: StepTime,
    grid: PlanGrid,
    step: Step,
    precision: Precision,
    streams: Streams,
) -> StepTime:
    """Time the two microbatches of a step beside each other, with the division of the cores that is fastest."""
    cut = is_cut(step, shard_of(grid), streams)
    if not np.any(cut):
        return whole
    with_lines = whole if whole.lines else _whole_steps(model, target, [(grid, step)], precision, keep_lines=True)[0]
    part = [(grid, microbatch(step))]
    found = []
    for share in streams.first_cores:
        first, second = (
            _whole_steps(model, with_cores(target, cores), part, precision, keep_lines=True)[0]
            for cores in (share, other_share(share))
        )
        found.append(overlapped_streams(with_lines, first, second, streams, share, cut))
    return replace(fastest_split(found), lines=whole.lines)


def _whole_steps(
    model: ModelSpec,
    target: Target,
    wanted: Sequence[tuple[PlanGrid, Step]],
    precision: Precision,
    *,
    keep_lines: bool,
) -> list[StepTime]:
    """Steps in one piece: operator after operator."""
    compiled = compile_model(model, target, precision)
    found = [
        distinct(
            {name: getattr(grid, name) for name in KNOBS} | {name: getattr(step, name) for name in LENGTHS},
        )
        for grid, step in wanted
    ]
    groups: dict[Any, list[int]] = {}
    for i, (_, step) in enumerate(wanted):
        groups.setdefault(i if keep_lines else step.decode, []).append(i)
    phases = [wanted[places[0]][1].decode for places in groups.values()]
    rows = [_one_after_the_other([found[i] for i in places]) for places in groups.values()]
    result: dict[int, StepTime] = {}
    for places, (columns, lines) in zip(groups.values(), _timed(compiled, phases, rows, keep_lines), strict=True):
        start = 0
        for i in places:
            result[i] = StepTime(columns, found[i].where + start if start else found[i].where, lines)
            start += found[i].rows
    return [result[i] for i in range(len(wanted))]


def _one_after_the_other(steps: Sequence[Distinct]) -> dict[str, npt.NDArray[np.float64]]:
    """Knobs and lengths of several steps in one column each."""
    if len(steps) == 1:
        return dict(steps[0].columns)
    return {name: np.concatenate([step.columns[name] for step in steps]) for name in (*KNOBS, *LENGTHS)}


def _timed(
    compiled: Compiled, phases: Sequence[bool], rows: Sequence[Mapping[str, npt.NDArray[np.float64]]], keep_lines: bool
) -> list[tuple[Mapping[str, npt.NDArray[np.float64]], tuple[Line, ...]]]:
    """Columns of all decode steps and of all prefill steps, with their operators where wanted."""

    def work_on(rows: Iterable[Mapping[str, npt.NDArray[np.float64]]], together: bool) -> list[StepWork]:
        works = [
            StepWork(compiled, decode, columns, together=together) for decode, columns in zip(phases, rows, strict=True)
        ]
        time_works(works, compiled.target, apart=keep_lines)
        return works

    if keep_lines:
        return [(_columns(work), _lines(work)) for work in work_on(rows, together=True)]
    if any(columns["tp"].size > FEW for columns in rows):
        return [(_columns(work), ()) for work in work_on(rows, together=False)]
    names = (*KNOBS, *LENGTHS)

    def calculate(inputs: Sequence[npt.NDArray[np.float64]]) -> list[dict[str, npt.NDArray[np.float64]]]:
        starts = range(0, len(inputs), len(names))
        given = [dict(zip(names, inputs[start : start + len(names)], strict=True)) for start in starts]
        return [_columns(work) for work in work_on(given, together=True)]

    inputs = [columns[name] for columns in rows for name in names]
    return [(columns, ()) for columns in repeated(compiled.programs, ("step", *phases), calculate, inputs)]


def _columns(work: StepWork) -> dict[str, npt.NDArray[np.float64]]:
    """Seconds of every different step: time on the network hides behind that on the device."""
    sums, engine = work.total(), work.compiled.target.engine
    step = Step(work.whole.columns["batch"], as_floats(1.0), as_floats(1.0), work.decode)
    host_s = in_rows(host_time(engine, work.compiled.model.layers, step), work.size)
    both = overlapped(sums["device"], sums["network"], overlap=engine.overlap)
    parts = [
        sums["charged to compute"],
        sums["charged to memory"],
        both - sums["device"],
        sums["charged to latency"],
        host_s,
    ]
    exact = np.maximum(np.maximum(sums["exact compute"], sums["exact memory"]), sums["exact network"])
    return {
        "seconds": both + host_s,
        **{f"{name}_s": part for name, part in zip(RESOURCES, parts, strict=True)},
        "attention_s": sums["attention"],
        "device_s": sums["device"],
        "links_s": sums["network"],
        "lower_s": exact,
        "upper_s": sums["device"] + sums["hidden"] + sums["network"] + host_s,
        "bound": stacked(parts).argmax(axis=0).astype(np.float64),
        **{name: sums[name] for name in BASES},
    }


def _lines(work: StepWork) -> tuple[Line, ...]:
    """Every operator in the order of the blocks, except those that run inside a neighbouring kernel."""
    return tuple(
        Line(name, repeat, op, work.times[layer, position])
        for name, repeat, layers in work.compiled.block_layers()
        for layer in layers
        for position, op in enumerate(work.operators[0][layer])
        if (layer, position) in work.times
    )
