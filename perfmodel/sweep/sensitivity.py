"""Sensitivity: by how many per cent a result grows when a number of the hardware grows by one [1]."""

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from perfmodel.errors import NothingFeasibleError, PlanError, SweepError, suggest
from perfmodel.hardware.what_if import NUMBERS, scaled
from perfmodel.ranking.limits import plan_name
from perfmodel.ranking.training import training_plan_name
from perfmodel.sweep.axes import TASKS, axis_column
from perfmodel.sweep.evaluate import changed_numbers, ranking_of
from perfmodel.sweep.inputs import inputs_of, target_of
from perfmodel.sweep.read import Sweep
from perfmodel.sweep.study import Point

if TYPE_CHECKING:
    import pandas as pd

_LIMITS = ("ttft", "tpot", "ttft_p99", "rate")
_NAMES = {"serving": plan_name, "training": training_plan_name}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about one point.

    Parameters
    ----------
    point : Point
        The point.
    numbers : tuple of str
        Numbers of the hardware.
    step : float
        Relative step of the differences [1].
    of : str
        Column whose growth is asked for.
    profiles : str, optional
        Directory of profiles that is searched first.
    """

    point: Point
    numbers: tuple[str, ...]
    step: float
    of: str
    profiles: str | None


def sensitivity(
    points: Point | Iterable[Point],
    numbers: Sequence[str] | None = None,
    *,
    of: str = "tokens_per_s_per_gpu",
    step: float = 0.1,
    executor: Executor | None = None,
    profiles: str | None = None,
) -> "pd.DataFrame":
    r"""Which number of the hardware buys most, at some points.

    .. math:: e = \frac{\log f(x (1 + h)) - \log f(x / (1 + h))}{2 \log(1 + h)}

    `held` is e for the best plan of the point, which stays as it is and is not held to the limits; `reoptimised` is e
    for whichever plan is best at each value of the number, limits kept, and is never less than what the held plan
    gets where nothing else changes. `loss` and `gain` are the same below and above the point: where they differ, a
    limit or another plan lies there. Devices of a node come in whole nodes and are doubled and halved.

    Parameters
    ----------
    points : Point or iterable of Point
        Where.
    numbers : sequence of str, optional
        Numbers of the hardware; by default all that the system has.
    of : str
        Column of a plan, for instance "tokens_per_s_per_gpu" or "tpot_s".
    step : float
        Relative step h [1].
    executor : Executor, optional
        What runs the points; this process by default.
    profiles : str, optional
        Directory of profiles that is searched first.

    Returns
    -------
    pandas.DataFrame
        Per point and number: `number`, `value` in SI units, `held`, `reoptimised`, `loss`, `gain`, `plan`,
        `plan_below`, `plan_above` and `reason`; what buys most comes first.

    Raises
    ------
    SweepError
        If a number or a column does not exist, or the step makes no sense.
    """
    import pandas as pd

    if not math.isfinite(step) or not 0 < step <= 1:
        raise SweepError(f"a step must lie between 0 and 1, not {step:g}")
    for name in numbers or ():
        if name not in NUMBERS:
            near = suggest(name, NUMBERS)
            raise SweepError(
                f"unknown number of hardware {name!r}; "
                + (f"did you mean {near!r}?" if near else f"there are {', '.join(NUMBERS)}")
            )
    listed = [points] if isinstance(points, Point) else list(points)
    asked = [Question(point, tuple(numbers or NUMBERS), step, of, profiles) for point in listed]
    answers = executor.map(answer, asked) if executor is not None else map(answer, asked)
    return pd.DataFrame([row for rows in answers for row in rows])


def sweep_sensitivity(
    sweep: Sweep,
    numbers: Sequence[str] | None = None,
    *,
    task: str | None = None,
    points: Iterable[int] | None = None,
    of: str = "tokens_per_s_per_gpu",
    step: float = 0.1,
    executor: Executor | None = None,
    profiles: str | None = None,
) -> "pd.DataFrame":
    """Which number of the hardware buys most, at the points of a sweep.

    Parameters
    ----------
    sweep : Sweep
        The sweep; only its study is needed, which is evaluated anew around its points.
    numbers : sequence of str, optional
        Numbers of the hardware; by default all that the system has.
    task : str, optional
        serving or training, where the study has both.
    points : iterable of int, optional
        Which points; all by default.
    of : str
        Column of a plan.
    step : float
        Relative step [1].
    executor : Executor, optional
        What runs the points.
    profiles : str, optional
        Directory of profiles that is searched first.

    Returns
    -------
    pandas.DataFrame
        As `sensitivity` returns it.

    Raises
    ------
    SweepError
        If profiles or code have changed since the sweep was made.
    """
    now = inputs_of(sweep.study, profiles)
    changed = [name for name in now if sweep.inputs.get(name) != now[name]]
    if changed:
        what = ", ".join("the code" if name == "code" else name for name in changed)
        raise SweepError(f"{sweep.directory}: was made before a change of {what}; make it anew with --restart")
    block = sweep.study.block(sweep.task(task))
    chosen = range(len(block)) if points is None else points
    return sensitivity(
        (block.point(index) for index in chosen), numbers, of=of, step=step, executor=executor, profiles=profiles
    )


def answer(question: Question) -> list[dict[str, Any]]:
    """Answer a question about one point.

    Parameters
    ----------
    question : Question
        What is asked.

    Returns
    -------
    list of dict
        One row per number that the system has, the largest re-optimised effect first.

    Raises
    ------
    SweepError
        If a plan has no such column.
    """
    point = question.point
    axes = TASKS[point.task]
    head: dict[str, Any] = {"point": point.index}
    head |= {axis_column(point.task, name): v for name, v in point.values.items() if not axes[name].knob}
    try:
        head |= changed_numbers(point, question.profiles)
        base = ranking_of(point, question.profiles).row(1)
    except (NothingFeasibleError, PlanError) as error:
        return [head | {"number": None, "reason": str(error)}]
    if not isinstance(base.get(question.of), float):
        near = suggest(question.of, [name for name, value in base.items() if isinstance(value, float)])
        raise SweepError(f"unknown column {question.of!r}" + (f"; did you mean {near!r}?" if near else ""))
    held = {name: base[name] for name, axis in axes.items() if axis.knob and name in base}
    free = replace(point, values={n: v for n, v in point.values.items() if n not in _LIMITS})
    target, _ = target_of(point, question.profiles)
    middle = [_result(each, question, knobs) for each, knobs in ((free, held), (point, {}))]
    rows = []
    for name in question.numbers:
        value = NUMBERS[name].read(target.system)
        if value is None:
            continue
        factor = 2.0 if name == "scale_up_devices" else 1.0 + question.step
        same = _slopes(free, question, name, factor, held, middle[0])
        best = _slopes(point, question, name, factor, {}, middle[1])
        rows.append({"number": name, "value": value, "held": same["slope"], "reoptimised": best.pop("slope")} | best)
    rows.sort(key=lambda row: -abs(row["reoptimised"]) if math.isfinite(row["reoptimised"]) else math.inf)
    return [head | row for row in rows]


def _result(point: Point, question: Question, held: Mapping[str, Any]) -> tuple[float, str, str]:
    """Logarithm of the result of a point's best plan, the plan, and the reason where there is none."""
    try:
        row = ranking_of(point, question.profiles, **held).row(1)
    except (NothingFeasibleError, PlanError) as error:
        return math.nan, "", str(error)
    return math.log(row[question.of]) if row[question.of] > 0 else math.nan, _NAMES[point.task](row), ""


def _slopes(
    point: Point,
    question: Question,
    name: str,
    factor: float,
    held: Mapping[str, Any],
    middle: tuple[float, str, str],
) -> dict[str, Any]:
    """Growth of the result over growth of the number, below, above and across the point."""
    found = [middle, middle]
    for i, change in enumerate((1.0 / factor, factor)):
        try:
            found[i] = _result(_changed(point, name, change, question.profiles), question, held)
        except PlanError as error:
            found[i] = (math.nan, "", str(error))
    (low, plan_below, why_below), (high, plan_above, why_above) = found
    width = math.log(factor)
    loss, gain, both = (middle[0] - low) / width, (high - middle[0]) / width, (high - low) / (2.0 * width)
    slope = both if math.isfinite(both) else gain if math.isfinite(gain) else loss
    return {
        # Without -0.0, which nobody wants to read.
        "slope": slope + 0.0,
        "loss": loss + 0.0,
        "gain": gain + 0.0,
        "plan": middle[1],
        "plan_below": plan_below,
        "plan_above": plan_above,
        "reason": why_below or why_above,
    }


def _changed(point: Point, name: str, change: float, profiles: str | None) -> Point:
    target, factors = target_of(point, profiles)
    # Refused here and not later, with the number's own reason, where a system cannot have it.
    scaled(target.system, {name: change})
    return replace(point, what_if={**point.what_if, name: f"x{factors.get(name, 1.0) * change!r}"})
