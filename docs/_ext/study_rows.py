"""Rows of a worked study: a published figure beside its prediction, with the error that was aimed for."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from perfmodel.models.catalog import load_model


@dataclass(frozen=True, slots=True)
class Row:
    """One published figure beside its prediction.

    Parameters
    ----------
    name : str
        What was measured.
    published, predicted : float
        The two figures.
    unit : str
        Their unit.
    bar : float
        Largest error that was aimed for; infinite where none was [1].
    source : str
        Where the figure was published.
    """

    name: str
    published: float
    predicted: float
    unit: str
    bar: float = float("inf")
    source: str = ""

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted / self.published - 1.0


@cache
def deepseek() -> Any:
    """DeepSeek-V3, whose shapes R1 has."""
    return load_model("deepseek-v3")


def mape(rows: Iterable[Row]) -> float:
    """Mean absolute error of some rows [1]."""
    return float(np.mean([abs(row.error) for row in rows]))


def table(rows: Iterable[Row]) -> str:
    """Write rows as a Markdown table; a miss of the bar is bold."""

    def number(value: float) -> str:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}" if abs(value) < 10 else f"{value:,.1f}"

    lines = ["| | published | predicted | | error | bar | source |", "| --- | ---: | ---: | --- | ---: | ---: | --- |"]
    for row in rows:
        error = f"{100 * row.error:+.1f} %"
        bar = f"{100 * row.bar:.0f} %" if np.isfinite(row.bar) else ""
        shown = f"**{error}**" if abs(row.error) > row.bar else error
        cells = (row.name, number(row.published), number(row.predicted), row.unit, shown, bar, row.source)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
