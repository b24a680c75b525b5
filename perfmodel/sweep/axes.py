"""Axes: what a study may cross, how its values are written, and the columns in which they end up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from perfmodel.errors import PlanError, StudyError, UnitError
from perfmodel.hardware.what_if import NUMBERS
from perfmodel.hardware.what_if_flags import read_change
from perfmodel.parallel.training_grid import NAMES, SHARES, SIZES, SWITCHES
from perfmodel.units import parse

Value: TypeAlias = str | int | float | None
"""Value of an axis at one point: text, a number in SI units, or None where the study leaves it at its default."""

DEFAULT = "default"
"""How a study writes that one of the values of an axis is what `rank` would take by itself."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One thing that a study may vary.

    Parameters
    ----------
    kind : str
        "text", "integer", "number", or a dimension of `perfmodel.units`.
    column : str
        Column of the results; empty for the axis's own name.
    required : bool
        Whether a study must name it.
    knob : bool
        Whether it holds a knob of the plan at one value; its column is the plan's own.
    """

    kind: str
    column: str = ""
    required: bool = False
    knob: bool = False


_MOST = 2.0**62
"""What whole numbers of a result's column can hold, and more than anything that is counted."""

_NAME, _COUNT, _HELD = Axis("text", required=True), Axis("count", required=True), Axis("integer", knob=True)

SERVING: Mapping[str, Axis] = {
    "model": _NAME,
    "system": _NAME,
    "gpus": _COUNT,
    "isl": _COUNT,
    "osl": _COUNT,
    "precision": Axis("text"),
    "kv": Axis("text"),
    "engine": Axis("text"),
    "schedule": Axis("text"),
    "chunk": Axis("count"),
    "split": Axis("text"),
    "expert_skew": Axis("number"),
    "collectives": Axis("text"),
    "ttft": Axis("time", "ttft_limit_s"),
    "tpot": Axis("time", "tpot_limit_s"),
    "rate": Axis("number", "rate_limit_per_s"),
    "arrivals": Axis("text"),
    "ttft_p99": Axis("time", "ttft_p99_limit_s"),
    "price": Axis("number", "price_per_hour"),
    "budget": Axis("number", "budget_per_hour"),
    "power": Axis("power", "power_limit_w"),
    "prefix_hit": Axis("fraction"),
    "host_hit": Axis("fraction"),
    "shared_prefix": Axis("fraction"),
    "sharers": Axis("number"),
    "host_experts": Axis("fraction"),
    "expert_hit": Axis("fraction"),
    "draft_tokens": Axis("integer"),
    "acceptance": Axis("fraction"),
    "draft_cost": Axis("number"),
    "waves": Axis("number"),
    **dict.fromkeys(("tp", "pp", "dp", "ep", "moe_tp", "concurrency"), _HELD),
}
"""Axes of a serving study, in the order of the results' columns."""

TRAINING: Mapping[str, Axis] = {
    "model": _NAME,
    "system": _NAME,
    "gpus": _COUNT,
    "seq": _COUNT,
    "global_batch": _COUNT,
    "tokens": Axis("count", "token_budget"),
    "precision": Axis("text"),
    "stack": Axis("text"),
    "method": Axis("text"),
    "adapter_rank": Axis("number"),
    "adapters": Axis("number"),
    "lengths": Axis("text"),
    "chunk": Axis("count"),
    "retained": Axis("integer"),
    "host_link": Axis("text"),
    **dict.fromkeys(SIZES, _HELD),
    **{name: Axis("text", knob=True) if name in NAMES else _HELD for name in SWITCHES},
    **{name: Axis("fraction", knob=True) for name in SHARES},
}
"""Axes of a training study, in the order of the results' columns."""

TASKS: Mapping[str, Mapping[str, Axis]] = {"serving": SERVING, "training": TRAINING}
"""What a study can be about, and the axes of each."""


def what_if_columns(name: str) -> tuple[str, str]:
    """Columns of a changed number of the hardware.

    Parameters
    ----------
    name : str
        One of `perfmodel.hardware.what_if.NUMBERS`.

    Returns
    -------
    tuple of str
        Column of the number itself in SI units, and of its factor on what the profile says.

    Examples
    --------
    >>> what_if_columns("memory_bandwidth")
    ('memory_bandwidth', 'memory_bandwidth_x')
    """
    return name, f"{name}_x"


def axis_column(task: str, name: str) -> str:
    """Column of the results in which an axis stands.

    Parameters
    ----------
    task : str
        serving or training.
    name : str
        Axis, or a number of the hardware; that one stands in the column of its factor.

    Returns
    -------
    str
        The column.

    Examples
    --------
    >>> axis_column("serving", "tpot"), axis_column("serving", "memory_bandwidth")
    ('tpot_limit_s', 'memory_bandwidth_x')
    """
    if name in NUMBERS:
        return what_if_columns(name)[1]
    return TASKS[task][name].column or name


def read_value(axis: Axis, raw: object) -> Value:
    """Read one value as a study or a flag writes it.

    Parameters
    ----------
    axis : Axis
        What the value is of.
    raw : object
        Text or number.

    Returns
    -------
    str, int, float or None
        The value in SI units; None for "default".

    Raises
    ------
    StudyError
        If it is no such value.

    Examples
    --------
    >>> read_value(SERVING["isl"], "4k"), read_value(SERVING["tpot"], "50ms"), read_value(SERVING["tpot"], "default")
    (4000, 0.05, None)
    """
    if raw == DEFAULT and not axis.required:
        return None
    if axis.kind == "text":
        if not isinstance(raw, str) or not raw.strip():
            raise StudyError(f"{raw!r} is not a name; write it in quotes")
        return raw.strip()
    if axis.kind in ("number", "integer"):
        return _plain(raw, whole=axis.kind == "integer")
    if not isinstance(raw, str | int | float):
        raise StudyError(f"{raw!r} is not a {axis.kind}")
    try:
        value = parse(raw, axis.kind)
    except UnitError as error:
        raise StudyError(str(error)) from None
    if axis.kind == "count":
        if not 1 <= value < _MOST:
            raise StudyError(f"{raw!r} must be at least 1 and less than {_MOST:g}")
        return int(value)
    return value


def _plain(raw: object, *, whole: bool) -> float | int:
    try:
        value = float(raw) if isinstance(raw, str | int | float) and not isinstance(raw, bool) else float("nan")
    except ValueError:
        value = float("nan")
    if not 0 <= value < _MOST or (whole and not value.is_integer()):
        raise StudyError(f"{raw!r} is not a {'whole ' if whole else ''}number from 0 to {_MOST:g}")
    return int(value) if whole else value


def read_what_if(name: str, raw: object) -> str:
    """Read one change of the hardware and write it in one way.

    Parameters
    ----------
    name : str
        One of `perfmodel.hardware.what_if.NUMBERS`.
    raw : object
        A factor ("x2"), or a value with its unit.

    Returns
    -------
    str
        "x" and the factor, or the value as it was written; "x1" for "default".

    Raises
    ------
    StudyError
        If it is no change.

    Examples
    --------
    >>> read_what_if("memory_bandwidth", "x2.0"), read_what_if("memory_bandwidth", " 6.7 TB/s")
    ('x2', '6.7 TB/s')
    """
    if raw == DEFAULT:
        return "x1"
    if not isinstance(raw, str | int | float) or isinstance(raw, bool):
        raise StudyError(f"{raw!r} is no change; write a factor like x2")
    try:
        kind, value = read_change(name, raw)
    except PlanError as error:
        raise StudyError(str(error)) from None
    return f"x{value:.12g}" if kind == "factor" else str(raw).strip()
