"""Evaluation of points: each becomes the rows of its best plans, or one row with the reason why there is none."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from perfmodel import api, api_training
from perfmodel.errors import NothingFeasibleError, PlanError, SweepError
from perfmodel.estimate.serving.workload import Workload
from perfmodel.hardware.what_if import NUMBERS
from perfmodel.hardware.what_if_flags import read_change
from perfmodel.parallel.grid import KNOBS
from perfmodel.sweep.axes import TASKS, axis_column, what_if_columns
from perfmodel.sweep.columns import PLAN_COLUMNS
from perfmodel.sweep.inputs import SOFTWARE, digest_of, forget, model_of, names_of, target_of
from perfmodel.sweep.study import Point

_REUSE = ("prefix_hit", "host_hit", "shared_prefix", "sharers", "host_experts", "expert_hit")
_LOAD = ("arrivals", *_REUSE, "draft_tokens", "acceptance", "draft_cost", "waves")

watcher: Callable[[int | None], None] | None = None
"""Called with the point that is begun, and with None when all are done, in the processes of a pool of our own."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some points and what a worker needs to know to evaluate them.

    Parameters
    ----------
    points : tuple of Point
        The points.
    inputs : mapping
        Digest of every input as the sweep began with it.
    top : int
        Plans that are kept of every point.
    front : bool
        Whether the front of serving points is kept.
    profiles : str, optional
        Directory of profiles that is searched first.
    """

    points: tuple[Point, ...]
    inputs: Mapping[str, str] = field(default_factory=dict, hash=False)
    top: int = 1
    front: bool = True
    profiles: str | None = None


def evaluate(chunk: Chunk) -> list[list[dict[str, Any]]]:
    """Evaluate some points.

    Parameters
    ----------
    chunk : Chunk
        Points and settings.

    Returns
    -------
    list of list of dict
        Rows of every point, in the order of the points.

    Raises
    ------
    SweepError
        If something failed that no point should, or this worker has other files or code than the sweep began with.
    """
    found = []
    for point in chunk.points:
        if watcher is not None:
            watcher(point.index)
        try:
            _check_inputs(point, chunk)
            found.append(rows_of(point, top=chunk.top, front=chunk.front, profiles=chunk.profiles))
        except SweepError:
            raise
        except Exception as error:
            raise SweepError(f"{point}: {type(error).__name__}: {error}") from error
    if watcher is not None:
        watcher(None)
    return found


def _check_inputs(point: Point, chunk: Chunk) -> None:
    for name in names_of(point):
        wanted = chunk.inputs.get(name)
        if wanted is None or digest_of(name, chunk.profiles) == wanted:
            continue
        if name != "code":
            forget()  # a worker may outlive several sweeps, and a file may have changed between them
        if name == "code" or digest_of(name, chunk.profiles) != wanted:
            what = "another version of perfmodel" if name == "code" else f"another {name}"
            raise SweepError(f"{point}: a worker has {what} than the sweep began with; use the same files everywhere")


def rows_of(point: Point, *, top: int = 1, front: bool = True, profiles: str | None = None) -> list[dict[str, Any]]:
    """Evaluate one point.

    Parameters
    ----------
    point : Point
        The point.
    top : int
        Plans to keep, best first.
    front : bool
        Whether to keep the front of TPOT against rate of a serving point.
    profiles : str, optional
        Directory of profiles that is searched first.

    Returns
    -------
    list of dict
        One row per plan; a single one with its reason where nothing is feasible.

    Examples
    --------
    >>> load = {"model": "llama-3.1-8b", "system": "hgx-h100", "gpus": 1, "isl": 1000, "osl": 200}
    >>> rows_of(Point(0, "serving", load), front=False)[0]["rank"]
    1
    """
    axes = TASKS[point.task]
    common: dict[str, Any] = {"point": point.index}
    common |= {axis_column(point.task, name): value for name, value in point.values.items() if not axes[name].knob}
    held = {name: value for name, value in point.values.items() if axes[name].knob}
    for name, text in point.what_if.items():
        # What is asked for is known even where the machine cannot have it.
        kind, change = read_change(name, text)
        common |= dict(zip(what_if_columns(name), (change, None) if kind == "value" else (None, change), strict=True))
    try:
        common |= changed_numbers(point, profiles)
        ranking = ranking_of(point, profiles)
    except (NothingFeasibleError, PlanError) as error:
        return [common | held | {"feasible": False, "reason": str(error)}]
    searched = getattr(ranking, "searched", None) or len(ranking.estimate)
    best = [ranking.row(rank) for rank in range(1, min(top, len(ranking)) + 1)]
    others: list[dict[str, Any]] = []
    if front and point.task == "serving":
        other = ranking.front()
        others = [other.row(rank) for rank in range(1, len(other) + 1)]
    efficient = {_knobs(row) for row in others}
    kept = {_knobs(row) for row in best}
    rows = [row | {"on_front": _knobs(row) in efficient if others else None} for row in best]
    rows += [row | {"rank": None, "on_front": True} for row in others if _knobs(row) not in kept]
    names = ("rank", "on_front", *PLAN_COLUMNS[point.task])
    more = {"feasible": True, "reason": "", "plans_searched": searched}
    return [common | more | {name: row.get(name) for name in names} for row in rows]


def _knobs(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in KNOBS)


def changed_numbers(point: Point, profiles: str | None = None) -> dict[str, float | None]:
    """What the changed numbers of a point's hardware are, and how many times what the profile says.

    Parameters
    ----------
    point : Point
        The point.
    profiles : str, optional
        Directory of profiles that is searched first.

    Returns
    -------
    dict
        Columns of `what_if_columns`; None for a number that the machine has not.
    """
    target, factors = target_of(point, profiles)
    columns: dict[str, float | None] = {}
    for name, factor in factors.items():
        columns |= dict(zip(what_if_columns(name), (NUMBERS[name].read(target.system), factor), strict=True))
    return columns


def ranking_of(point: Point, profiles: str | None = None, **held: Any) -> Any:
    """Rank the plans of a point.

    Parameters
    ----------
    point : Point
        The point.
    profiles : str, optional
        Directory of profiles that is searched first.
    **held
        Knobs to hold at one value beside those that the study holds.

    Returns
    -------
    Ranking or TrainingRanking
        Its plans, never empty.

    Raises
    ------
    NothingFeasibleError
        If nothing fits and meets the limits.
    PlanError
        If the point makes no sense.
    """
    target, _ = target_of(point, profiles)
    given: dict[str, Any] = {name: value for name, value in point.values.items() if value is not None}
    given |= held
    model = model_of(str(given.pop("model")))
    for name in ("system", *SOFTWARE[point.task]):
        given.pop(name, None)
    if point.task == "training":
        return api_training.rank_training_plans(model, target, **given)
    # An axis at its default is given: it is what others of the load are read beside.
    plain = {each.name: each.default for each in fields(Workload)}
    asked = {*point.values, *held}
    load = {name: given.pop(name, plain[name]) for name in _LOAD if name in asked}
    return api.rank(model, target, load=load, **given)
