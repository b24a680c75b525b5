"""Answers from a sweep: the rows that satisfy conditions, the best plan per point or group, and Pareto fronts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from perfmodel.errors import SweepError, suggest
from perfmodel.hardware.what_if import NUMBERS
from perfmodel.ranking.pareto import pareto_front
from perfmodel.sweep.axes import TASKS, read_value, what_if_columns
from perfmodel.sweep.columns import LARGER_IS_BETTER

OBJECTIVE = "tokens_per_s_per_gpu"
"""What is best where nothing else is said."""


def axes_of(frame: pd.DataFrame) -> list[str]:
    """Columns in which a point differs from another: those before `feasible`.

    A changed number of the hardware counts once, in the one of its two columns that the study crossed.

    Parameters
    ----------
    frame : pandas.DataFrame
        Results of a sweep.

    Returns
    -------
    list of str
        The columns.
    """
    columns = list(frame.columns)
    names = [name for name in columns[: columns.index("feasible")] if name != "point"]
    twice = {other for name in names if name in NUMBERS for other in _both(name) if other != _crossed(frame, name)}
    return [name for name in names if name not in twice]


def _both(name: str) -> tuple[str, str]:
    return what_if_columns(name)


def _crossed(frame: pd.DataFrame, name: str) -> str:
    """Column that takes fewer values: factors are the same for every system, or else values are."""
    value, factor = _both(name)
    known = frame[value].notna().all()
    return value if known and frame[value].nunique() < frame[factor].nunique() else factor


def find_column(frame: pd.DataFrame, name: str) -> str:
    """Find the column that is meant by the name of an axis, of a number of the hardware or of a result.

    Parameters
    ----------
    frame : pandas.DataFrame
        Results of a sweep.
    name : str
        What the user wrote.

    Returns
    -------
    str
        Column of the table.

    Raises
    ------
    SweepError
        If there is none; the message suggests the nearest name.
    """
    wanted = name.strip()
    if wanted in NUMBERS and wanted in frame.columns:
        return _crossed(frame, wanted)
    for axes in TASKS.values():
        if wanted in axes and axes[wanted].column in frame.columns:
            return axes[wanted].column
    if wanted in frame.columns:
        return wanted
    near = suggest(wanted, frame.columns)
    fix = f"did you mean {near!r}?" if near else f"the axes are {', '.join(axes_of(frame))}"
    raise SweepError(f"unknown column {wanted!r}; {fix}")


def read_conditions(frame: pd.DataFrame, task: str, texts: Iterable[str]) -> dict[str, Any]:
    """Read conditions as they are written on the command line.

    Parameters
    ----------
    frame : pandas.DataFrame
        Results of a sweep.
    task : str
        serving or training.
    texts : iterable of str
        For instance "gpus=8", "tpot=50ms" or "memory_bandwidth=x2".

    Returns
    -------
    dict
        Column -> value in SI units.

    Raises
    ------
    SweepError
        If a condition cannot be read.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not sign or not name or not value:
            raise SweepError(f"{text!r} is no condition; write axis=value, for instance gpus=8")
        column = find_column(frame, name)
        if name in TASKS[task]:
            found[column] = read_value(TASKS[task][name], value)
        elif value.startswith(("x", "×")) and column.endswith("_x"):
            found[column] = float(value[1:])
        else:
            numeric = pd.api.types.is_numeric_dtype(frame[column])
            try:
                found[column] = float(value) if numeric else value
            except ValueError:
                raise SweepError(f"{text!r}: {column} is a number in SI units, for instance {column}=2") from None
    return found


def select(frame: pd.DataFrame, where: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Keep the rows that satisfy conditions.

    Parameters
    ----------
    frame : pandas.DataFrame
        Results of a sweep.
    where : mapping, optional
        Column, or name of an axis -> value in SI units; None for what the study left at its default.

    Returns
    -------
    pandas.DataFrame
        The rows, in the same order.

    Raises
    ------
    SweepError
        If a column does not exist, or no row satisfies a condition.
    """
    kept = frame
    for name, value in (where or {}).items():
        column = find_column(frame, name)
        values = kept[column]
        if value is None:
            match = values.isna()
        elif isinstance(value, float):
            match = pd.Series(np.isclose(values.to_numpy(np.float64, na_value=np.nan), value, rtol=1e-9), kept.index)
        else:
            match = (values == value).fillna(value=False)
        if not match.any():
            there = ", ".join("default" if pd.isna(v) else f"{v}" for v in values.unique()[:12])
            raise SweepError(f"no point has {name}={'default' if value is None else value}; there are {there}")
        kept = kept[match.to_numpy(bool)]
    return kept


def _ordered(frame: pd.DataFrame, of: str) -> pd.DataFrame:
    """Rows with a value, the best first; ties go to the earlier point and plan."""
    column = find_column(frame, of)
    if not pd.api.types.is_numeric_dtype(frame[column]):
        raise SweepError(f"{column} is no number that could be best")
    found = frame[frame["feasible"].fillna(value=False).to_numpy(bool) & frame[column].notna().to_numpy(bool)]
    values = found[column].to_numpy(np.float64)
    order = np.argsort(-values if column in LARGER_IS_BETTER else values, kind="stable")
    return found.iloc[order]


def best(
    frame: pd.DataFrame, by: Sequence[str] | None = None, of: str = OBJECTIVE, where: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Best plan of every point, or of every group of points.

    Parameters
    ----------
    frame : pandas.DataFrame
        Results of a sweep.
    by : sequence of str, optional
        Axes whose every combination gets one row; by default every point does. An empty one gives a single row.
    of : str
        Column that is to be best: large for rates and utilisations, small for times and sizes.
    where : mapping, optional
        Axis -> value that it must have.

    Returns
    -------
    pandas.DataFrame
        One row per point or group, in the order of the points; where nothing is feasible, a row with its reason.

    Raises
    ------
    SweepError
        If a column does not exist.
    """
    kept = select(frame, where)
    keys = ["point"] if by is None else [find_column(frame, name) for name in by]
    ranked = _ordered(kept, of)
    lost = kept[~kept["feasible"].fillna(value=False).to_numpy(bool)]
    rows = pd.concat([ranked, lost])
    if not keys:
        return rows.head(1).reset_index(drop=True)
    first = rows.groupby(keys, sort=False, dropna=False).head(1)
    # Groups keep the order in which the study has their first point.
    place = kept.groupby(keys, sort=False, dropna=False).ngroup()
    return (
        first.assign(_place=place.loc[first.index]).sort_values("_place").drop(columns="_place").reset_index(drop=True)
    )


def pareto(
    frame: pd.DataFrame,
    objectives: Sequence[str] = ("tpot_s", OBJECTIVE),
    by: Sequence[str] = (),
    where: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Plans that no other plan beats in every objective at once.

    Parameters
    ----------
    frame : pandas.DataFrame
        Results of a sweep.
    objectives : sequence of str
        Columns: large is better for rates and utilisations, small for times, sizes and numbers of devices.
    by : sequence of str
        Axes whose every combination has a front of its own.
    where : mapping, optional
        Axis -> value that it must have.

    Returns
    -------
    pandas.DataFrame
        The fronts, each in the order of its first objective.

    Raises
    ------
    SweepError
        If a column does not exist or is no number.
    """
    if not objectives:
        raise SweepError("a front needs at least one objective")
    columns = [find_column(frame, name) for name in objectives]
    kept = _ordered(select(frame, where), columns[0]).sort_index()
    keys = [find_column(frame, name) for name in by]
    groups = kept.groupby(keys, sort=False, dropna=False) if keys else [((), kept)]
    fronts = []
    for _, group in groups:
        costs = [_cost(group, column) for column in columns]
        fronts.append(group.iloc[pareto_front(*costs)])
    return pd.concat(fronts).reset_index(drop=True) if fronts else kept.reset_index(drop=True)


def _cost(frame: pd.DataFrame, column: str) -> npt.NDArray[np.float64]:
    if not pd.api.types.is_numeric_dtype(frame[column]):
        raise SweepError(f"{column} is no number that could be an objective")
    values = frame[column].to_numpy(np.float64, na_value=np.nan)
    return -values if column in LARGER_IS_BETTER else values
