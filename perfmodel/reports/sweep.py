"""Report of a sweep: its answers as tables of text, with units, and what all rows share said once."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perfmodel.hardware.what_if import NUMBERS
from perfmodel.ranking.limits import plan_name
from perfmodel.ranking.training import training_plan_name
from perfmodel.reports.tables import plain_table
from perfmodel.units import format_quantity, format_size, format_time

if TYPE_CHECKING:
    import pandas as pd

_SHORT = {
    "tokens_per_s_per_gpu": "tok/s/GPU",
    "tokens_per_s": "tok/s",
    "deployment_tokens_per_s": "tok/s",
    "requests_per_s": "req/s",
    "usd_per_million_tokens": "USD/Mtok",
    "price_per_hour": "USD/h",
    "rate_limit_per_s": "req/s wanted",
    "concurrency": "conc",
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "ttft_limit_s": "TTFT limit",
    "tpot_limit_s": "TPOT limit",
    "step_s": "step",
    "mfu": "MFU",
    "memory_bytes": "memory",
    "peak_bytes": "memory",
    "bound_decode": "bound in decode",
}
_RESULTS: Mapping[str, Sequence[str]] = {
    "serving": ("concurrency", "ttft_s", "tpot_s", "tokens_per_s_per_gpu", "memory_bytes", "bound_decode"),
    "training": ("step_s", "tokens_per_s_per_gpu", "mfu", "peak_bytes"),
}
_REASON = 60
"""Characters of a reason that a table shows; JSON and CSV have all of it."""


def heading(column: str) -> str:
    """Short name of a column for a table.

    Parameters
    ----------
    column : str
        Column of the results.

    Returns
    -------
    str
        Its heading.

    Examples
    --------
    >>> heading("tpot_limit_s"), heading("memory_bandwidth_x")
    ('TPOT limit', 'memory bandwidth')
    """
    if column.removesuffix("_x") in NUMBERS:
        return column.removesuffix("_x").replace("_", " ")
    return _SHORT.get(column, column)


def cell(column: str, value: Any) -> str:
    """Write one value of a column with its unit.

    Parameters
    ----------
    column : str
        Column of the results.
    value : Any
        Its value in SI units.

    Returns
    -------
    str
        Text; "-" for what is not there.

    Examples
    --------
    >>> cell("tpot_s", 0.0314), cell("memory_bandwidth_x", 2.0), cell("tokens_per_s_per_gpu", 1234.5), cell("tp", None)
    ('31.4 ms', 'x2', '1,234', '-')
    """
    if value is None or value != value or type(value).__name__ == "NAType":
        return "-"
    if isinstance(value, str):
        return value or "-"
    if column.endswith("_x"):
        return f"x{value:.6g}"
    if column in NUMBERS:
        return format_quantity(float(value), NUMBERS[column].dimension)
    if column in ("mfu", "hfu") or column.endswith("_share"):
        return f"{100 * value:.1f}%"
    if column.endswith("_bytes"):
        return format_size(float(value), binary=True)
    if column.endswith("_s") and "per_s" not in column:
        return format_time(float(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{float(value):,.0f}" if abs(value) >= 1000 else f"{float(value):.3g}"


def with_plans(task: str, frame: "pd.DataFrame") -> "pd.DataFrame":
    """Add the names of plans to rows of a sweep.

    Parameters
    ----------
    task : str
        serving or training.
    frame : pandas.DataFrame
        Rows of plans.

    Returns
    -------
    pandas.DataFrame
        The rows with a column `plan`; "" where nothing is feasible.
    """
    names = []
    for row in frame.to_dict("records"):
        if row["feasible"] is not True:
            names.append("")
        elif task == "serving":
            names.append(f"{row['replicas']} x {plan_name({str(k): v for k, v in row.items()})}")
        else:
            names.append(training_plan_name({str(k): v for k, v in row.items()}))
    return frame.assign(plan=names)


def plan_lines(
    task: str,
    frame: "pd.DataFrame",
    axes: Sequence[str],
    top: int | None = None,
    extra: Sequence[str] = (),
    width: int | None = None,
) -> list[str]:
    """Write plans of a sweep as a table, constants above it.

    Parameters
    ----------
    task : str
        serving or training.
    frame : pandas.DataFrame
        Rows of plans.
    axes : sequence of str
        Columns in which points differ.
    top : int, optional
        Rows at most.
    extra : sequence of str
        Further columns to show.
    width : int, optional
        Characters of a line; columns that do not fit are left out.

    Returns
    -------
    list of str
        Lines.
    """
    results = [*_RESULTS[task], *(name for name in extra if name not in (*_RESULTS[task], *axes))]
    shown = with_plans(task, frame if top is None else frame.head(top))
    lost = bool((shown["plan"] == "").any())
    lines = table_lines(shown, axes, ["plan", *results, *(["reason"] if lost else [])], width)
    if len(shown) < len(frame):
        lines += [
            "",
            f" {len(frame) - len(shown):,} more rows: --top {len(frame)} shows them, --format csv has them all.",
        ]
    return lines


def table_lines(
    frame: "pd.DataFrame", axes: Sequence[str], results: Sequence[str], width: int | None = None
) -> list[str]:
    """Write rows as a table; axes in which they do not differ stand above it.

    Parameters
    ----------
    frame : pandas.DataFrame
        The rows.
    axes : sequence of str
        Columns that may be the same in all of them.
    results : sequence of str
        Columns that are always shown.
    width : int, optional
        Characters of a line; columns that do not fit are left out.

    Returns
    -------
    list of str
        Lines.
    """
    constant = [name for name in axes if len(frame) > 1 and len(frame[name].drop_duplicates()) == 1]
    varying = [name for name in axes if name not in constant]
    columns = [*varying, *results]
    rows = []
    for row in frame.to_dict("records"):
        cells = [cell(name, row[name]) for name in columns]
        rows.append([text if len(text) <= _REASON else f"{text[: _REASON - 1]}…" for text in cells])
    lines = [" " + ", ".join(f"{heading(n)} {cell(n, frame[n].iloc[0])}" for n in constant), ""] if constant else []
    return [*lines, plain_table([heading(name) for name in columns], rows, width)]
