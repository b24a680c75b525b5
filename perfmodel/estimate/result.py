"""Estimate: the answer for every plan as columns, with their parts and with the reason where a plan cannot be."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Array, Floats, as_floats
from perfmodel.errors import UnknownNameError
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.knobs import Grid
from perfmodel.parallel.rules import Verdicts

BOUNDS = ("compute", "memory", "network", "latency", "host", "capacity")
"""What can bind a plan, by position."""


Column: TypeAlias = "Floats | Callable[[], Floats]"
"""What a column is made from: values that broadcast to the plans, or what computes them when they are read."""


class Columns(Mapping[str, npt.NDArray[np.float64]]):
    """Columns over plans, spread over all of them when they are read and not before.

    A million plans differ in few steps and weights, and few of the columns are ever read.

    Parameters
    ----------
    shapes : sequence of tuple of int
        Shape of every part of the grid, in the order of the plans.
    parts : sequence of mapping
        Column name -> values, for every part.

    Examples
    --------
    >>> columns = Columns([(2, 2), (1, 2)], [{"a": np.array([[1.0], [2.0]])}, {"a": lambda: 5.0}])
    >>> columns["a"].tolist(), columns.at("a", 3)
    ([1.0, 1.0, 2.0, 2.0, 5.0, 5.0], 2.0)
    """

    __slots__ = ("_parts", "_shapes", "_starts")

    def __init__(self, shapes: Sequence[tuple[int, ...]], parts: Sequence[Mapping[str, Column]]) -> None:
        self._shapes, self._parts = shapes, parts
        self._starts = np.cumsum([0, *(math.prod(shape) for shape in shapes)])

    def __getitem__(self, name: str) -> npt.NDArray[np.float64]:
        if len(self._parts) == 1:
            return self._flat(0, name)
        return np.concatenate([self._flat(part, name) for part in range(len(self._parts))])

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts[0])

    def __len__(self) -> int:
        return len(self._parts[0])

    def _flat(self, part: int, name: str) -> npt.NDArray[np.float64]:
        value = self._parts[part][name]
        return np.broadcast_to(as_floats(value() if callable(value) else value), self._shapes[part]).ravel()

    def at(self, name: str, index: int) -> float:
        """One value of a column.

        Parameters
        ----------
        name : str
            Column.
        index : int
            Flat position in the grid.

        Returns
        -------
        float
            The value.
        """
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return float(self._flat(part, name)[index - self._starts[part]])

    def plus(self, **columns: npt.NDArray[np.float64]) -> "Columns":
        """Add columns that were computed from those of all plans.

        Parameters
        ----------
        **columns
            Name -> one value per plan.

        Returns
        -------
        Columns
            The old and the new ones.
        """
        ends = zip(self._starts, self._starts[1:], self._shapes, self._parts, strict=False)
        parts = [{**p, **{n: v[a:b].reshape(shape) for n, v in columns.items()}} for a, b, shape, p in ends]
        return Columns(self._shapes, parts)


def join_columns(parts: Sequence[Columns]) -> Columns:
    """Put the columns of a grid's parts together.

    Parameters
    ----------
    parts : sequence of Columns
        In the order of the plans.

    Returns
    -------
    Columns
        Columns of the whole grid.
    """
    return Columns([s for part in parts for s in part._shapes], [v for part in parts for v in part._parts])


class Predictions:
    """What estimates of every kind share: columns by name, one value per plan, and which plans can be."""

    __slots__ = ()

    grid: Grid
    columns: Columns
    verdicts: Verdicts

    def __getitem__(self, name: str) -> Array:
        try:
            return self.columns[name]
        except KeyError:
            raise UnknownNameError("column", name, self.columns) from None

    def __len__(self) -> int:
        return self.grid.size

    @property
    def feasible(self) -> npt.NDArray[np.bool_]:
        """True for every plan that breaks no rule."""
        return self.verdicts.feasible

    def verdict(self, index: int) -> dict[str, Any]:
        """Whether one plan can be, and why not.

        Parameters
        ----------
        index : int
            Flat position in the grid.

        Returns
        -------
        dict
            feasible and reason.
        """
        return {"feasible": bool(self.verdicts.code[index] == 0), "reason": self.verdicts.reason(index)}


@dataclass(frozen=True, slots=True, eq=False)
class Estimate(Predictions):
    """Predictions for a grid of plans.

    Parameters
    ----------
    grid : PlanGrid
        The plans.
    columns : Columns
        Column name -> one float64 per plan, flattened; SI units, the suffix names the unit where it is not obvious.
    verdicts : Verdicts
        Feasibility and reasons.
    context : mapping
        What all plans share: model, system, engine, precision, workload.

    Examples
    --------
    Columns are read by name, plans by position::

        estimate["tpot_s"][0], estimate.row(0)["reason"]
    """

    grid: PlanGrid
    columns: Columns
    verdicts: Verdicts
    context: Mapping[str, Any] = field(default_factory=dict)

    def row(self, index: int) -> dict[str, Any]:
        """Everything known about one plan.

        Parameters
        ----------
        index : int
            Flat position in the grid.

        Returns
        -------
        dict
            Knobs as integers, columns as floats (`bound` columns as names), feasible and reason.
        """
        row: dict[str, Any] = dict(self.grid.row(index))
        for name in self.columns:
            value = self.columns.at(name, index)
            row[name] = BOUNDS[int(value)] if name.startswith("bound") else value
        return row | self.verdict(index)
