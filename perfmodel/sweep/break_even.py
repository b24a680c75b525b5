"""Break-even: where along an axis of a sweep one choice overtakes another, bracketed and interpolated."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from perfmodel.errors import SweepError
from perfmodel.sweep.answers import OBJECTIVE, axes_of, best, find_column, select
from perfmodel.sweep.columns import LARGER_IS_BETTER


def break_even(
    frame: pd.DataFrame,
    along: str,
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    of: str = OBJECTIVE,
    where: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Where one choice overtakes another along an axis, for every combination of the other axes.

    Between the two neighbouring values of the axis that bracket a change of the leader, the logarithm of the ratio is
    interpolated linearly over the logarithm of the axis. Where one of the two becomes feasible or ceases to be, the
    bracket is all that is known.

    Parameters
    ----------
    frame : pandas.DataFrame
        Results of a sweep.
    along : str
        Axis with numbers, for instance "isl", "gpus" or "memory_bandwidth".
    a, b : mapping
        Axis -> value: the two choices. What both leave open is compared at equal values.
    of : str
        Column that is compared.
    where : mapping, optional
        Axis -> value that it must have.

    Returns
    -------
    pandas.DataFrame
        Per combination one row for every change of the leader, or one that says who leads throughout: `axis` is the
        column, `below` and `above` bracket the change, `break_even` is interpolated between them, `ahead_below` and
        `ahead_above` are "a", "b", "level" or "neither", `how` is "crossing", "feasibility" or "throughout".

    Raises
    ------
    SweepError
        If an axis does not exist or has no numbers, or a choice has no points.
    """
    axis, column = find_column(frame, along), find_column(frame, of)
    if axis not in axes_of(frame) or not pd.api.types.is_numeric_dtype(frame[axis]):
        raise SweepError(f"{along} is no axis with numbers; the axes are {', '.join(axes_of(frame))}")
    if not a or not b:
        raise SweepError("two choices are compared; name both, for instance a={'system': 'hgx-h100'}")
    kept = select(frame, where)
    named = [{find_column(frame, name) for name in side} for side in (a, b)]
    for name in sorted(named[0] ^ named[1]):
        raise SweepError(f"{name} is named for one choice only; name it for both")
    chosen = named[0]
    others = [name for name in axes_of(frame) if name != axis and name not in chosen]
    sides = [select(kept, side) for side in (a, b)]
    # What only goes along with the choice, as a price does, is part of it.
    others = [name for name in others if not _goes_along(sides, name)]
    keys = [*others, axis]
    # In the order of the study, where both were studied: what was not is not infeasible.
    both = pd.concat(sides).sort_index()[keys].drop_duplicates()
    for side in sides:
        both = both.merge(side[keys].drop_duplicates(), on=keys, how="inner")
    if both.empty:
        raise SweepError("the two choices have no point in common at which they could be compared")
    for side, name in zip(sides, "ab", strict=True):
        best_of_side = best(side, keys, of)
        both = both.merge(best_of_side[[*keys, column]].rename(columns={column: name}), on=keys, how="left")
    rows: list[dict[str, Any]] = []
    groups = both.groupby(others, sort=False, dropna=False) if others else [((), both)]
    for key, group in groups:
        line = group.dropna(subset=[axis]).sort_values(axis)
        x = line[axis].to_numpy(np.float64)
        ya, yb = (line[name].to_numpy(np.float64, na_value=np.nan) for name in "ab")
        head = dict(zip(others, key, strict=True))
        rows += [
            head | {"axis": axis} | change for change in leader_changes(x, ya, yb, larger=column in LARGER_IS_BETTER)
        ]
    return pd.DataFrame(rows)


def _goes_along(sides: Sequence[pd.DataFrame], name: str) -> bool:
    """Whether a column has one value on either side, and not the same."""
    values = [side[name].drop_duplicates().tolist() for side in sides]
    return all(len(found) == 1 for found in values) and values[0] != values[1] and not all(map(_lacks, values))


def _lacks(values: Sequence[Any]) -> bool:
    return bool(pd.isna(values[0]))


def leader_changes(
    x: npt.NDArray[np.float64], a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], *, larger: bool
) -> list[dict[str, Any]]:
    """Find where one of two curves overtakes the other.

    Parameters
    ----------
    x : numpy.ndarray
        Values of the axis, increasing.
    a, b : numpy.ndarray
        Two curves; NaN where something is not feasible.
    larger : bool
        Whether the larger value leads.

    Returns
    -------
    list of dict
        One per change, or a single one that says who leads throughout.

    Examples
    --------
    >>> change = leader_changes(np.array([1.0, 4.0]), np.array([1.0, 4.0]), np.array([2.0, 2.0]), larger=True)[0]
    >>> change["ahead_below"], change["ahead_above"], round(change["break_even"], 6)
    ('b', 'a', 2.0)
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        lead = np.log(a / b) * (1.0 if larger else -1.0)
    lead = np.where(np.isfinite(a) & ~np.isfinite(b), np.inf, np.where(~np.isfinite(a) & np.isfinite(b), -np.inf, lead))
    names = np.select([np.isnan(lead), lead > 0, lead < 0], ["neither", "a", "b"], "level")
    found = []
    for i in range(len(x) - 1):
        if names[i] == names[i + 1]:
            continue
        crossing = bool(np.isfinite(lead[i]) and np.isfinite(lead[i + 1]))
        even = np.nan
        if crossing:
            share = lead[i] / (lead[i] - lead[i + 1])
            even = x[i] * (x[i + 1] / x[i]) ** share if x[i] > 0 else x[i] + (x[i + 1] - x[i]) * share
        found.append(_change(x[i], x[i + 1], even, names[i], names[i + 1], "crossing" if crossing else "feasibility"))
    if not found and len(x):
        found.append(_change(x[0], x[-1], np.nan, names[0], names[-1], "throughout"))
    return found


def _change(below: float, above: float, even: float, before: str, after: str, how: str) -> dict[str, Any]:
    return {
        "below": float(below),
        "above": float(above),
        "break_even": float(even),
        "ahead_below": str(before),
        "ahead_above": str(after),
        "how": how,
    }
