"""Scores: errors of predictions against measurements, in percent, overall and by group."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

BUCKETS = ((0.0, 1e-5, "<10us"), (1e-5, 3e-5, "10-30us"), (3e-5, 1e-4, "30-100us"), (1e-4, 3e-4, "0.1-0.3ms"))
"""Latency buckets of operator tables; what is longer is ">0.3ms"."""


def bucket(seconds: pd.Series) -> pd.Series:
    """Name the latency bucket of each measurement.

    Parameters
    ----------
    seconds : pandas.Series
        Measured times [s].

    Returns
    -------
    pandas.Series
        Names of `BUCKETS`.

    Examples
    --------
    >>> bucket(pd.Series([5e-6, 1.0])).tolist()
    ['<10us', '>0.3ms']
    """
    edges = [low for low, _, _ in BUCKETS] + [BUCKETS[-1][1], np.inf]
    names = [*(name for _, _, name in BUCKETS), ">0.3ms"]
    return pd.cut(seconds, edges, right=False, labels=names).astype(str)


def errors(predicted: pd.Series, measured: pd.Series) -> dict[str, float]:
    """Summarise absolute percentage errors; a case without a prediction counts against coverage.

    Parameters
    ----------
    predicted, measured : pandas.Series
        Times of the same cases [s].

    Returns
    -------
    dict
        cases, coverage, mape, median, p90 and bias (median signed error), all but the first in percent.

    Examples
    --------
    >>> errors(pd.Series([1.1, float("nan")]), pd.Series([1.0, 1.0]))["coverage"]
    50.0
    """
    known = measured.notna()
    p, m = predicted[known].astype(float), measured[known].astype(float)
    ok = np.isfinite(p) & (p > 0)
    signed = (100.0 * (p - m) / m)[ok]
    row = {"cases": float(len(m)), "coverage": round(100.0 * float(ok.mean()), 1) if len(m) else 0.0}
    if not len(signed):
        return row | dict.fromkeys(("mape", "median", "p90", "bias"), float("nan"))
    size = signed.abs()
    return row | {
        "mape": round(float(size.mean()), 2),
        "median": round(float(size.median()), 2),
        "p90": round(float(size.quantile(0.9)), 2),
        "bias": round(float(signed.median()), 2),
    }


def error_table(
    frame: pd.DataFrame, by: Sequence[str], predicted: str, measured: str, beside: str | None = None
) -> pd.DataFrame:
    """Errors by group, with another prediction beside.

    Parameters
    ----------
    frame : pandas.DataFrame
        Cases with predictions and measurements.
    by : sequence of str
        Columns to group by.
    predicted, measured : str
        Columns.
    beside : str, optional
        Another predicted column, for instance the plain roofline.

    Returns
    -------
    pandas.DataFrame
        One row per group and a last row ALL.
    """
    keys = [name for name in by if name in frame.columns]
    rows = []
    groups = list(frame.groupby(keys, dropna=False, sort=True)) if keys else []
    for key, group in [*groups, ("ALL", frame)]:
        name = key if isinstance(key, str) else " ".join(str(part) for part in key if str(part) not in ("", "nan"))
        row: dict[str, object] = {"group": name, **errors(group[predicted], group[measured])}
        if beside:
            row[f"{beside}_mape"] = errors(group[beside], group[measured])["mape"]
        rows.append(row)
    return pd.DataFrame(rows)
