"""Tables of the page that compares tools, from the files that benchmarks/peers/compare.py and a stopwatch wrote."""

import csv
from collections.abc import Sequence
from pathlib import Path

SCORES = Path(__file__).with_name("scores")


def _rows(name: str) -> list[dict[str, str]]:
    with (SCORES / f"peers_{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def errors(name: str, groups: Sequence[str] = ()) -> str:
    """Lay out the errors of every tool, on some groups of cases or on all that a tool answers."""
    head = f"{'cases':24} {'tool':24} {'metric':8} {'n':>5} {'answered':>9} {'mean':>7} {'median':>7}"
    lines = (
        f"{row['group']:24} {row['tool']:24} {row['metric'].rpartition('_')[0]:8} {float(row['cases']):5.0f}"
        f" {float(row['coverage']):8.0f}% {float(row['mape']):6.1f}% {float(row['median']):6.1f}%"
        for row in _rows(name)
        if row["mape"] and float(row["cases"]) and (not groups or row["group"] in groups)
    )
    return "\n".join((head, *lines))


def times() -> str:
    """Lay out the times to answer."""
    return "\n".join(f"{row['tool']:24} {row['what']:50} {row['seconds']:>10} s" for row in _rows("speed"))
