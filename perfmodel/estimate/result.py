"""Estimate: the answer for every plan as columns, with their parts and with the reason where a plan cannot be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.parallel.grid import KNOBS, PlanGrid
from perfmodel.parallel.rules import Verdicts

BOUNDS = ("compute", "memory", "network", "latency", "host", "capacity")
"""What can bind a plan, by position."""


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """Predictions for a grid of plans.

    Parameters
    ----------
    grid : PlanGrid
        The plans.
    columns : mapping
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
    columns: Mapping[str, npt.NDArray[np.float64]]
    verdicts: Verdicts
    context: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> npt.NDArray[np.float64]:
        return self.columns[name]

    def __len__(self) -> int:
        return self.grid.size

    @property
    def feasible(self) -> npt.NDArray[np.bool_]:
        """True for every plan that breaks no rule."""
        return self.verdicts.feasible

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
        row: dict[str, Any] = {name: int(self.grid.column(name)[index]) for name in KNOBS}
        for name, values in self.columns.items():
            value = float(values[index])
            row[name] = BOUNDS[int(value)] if name.startswith("bound") else value
        row["feasible"] = bool(self.verdicts.code[index] == 0)
        row["reason"] = self.verdicts.reason(index)
        return row
