"""Case files: tables of measured or wanted cases, read whole or refused with the file, the column and the row."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from perfmodel.errors import CaseFileError

_TEXT = ("id", "version", "engine_version", "kernel", "mode")  # "2.10" is a version and no number

MEASURED = "measured_"
"""Columns that begin so hold measurements; predictions never read them."""


def read_cases(path: str | os.PathLike[str], required: Sequence[str]) -> pd.DataFrame:
    """Read a case file.

    Parameters
    ----------
    path : path
        CSV with a header line; `-` is not accepted.
    required : sequence of str
        Columns that must be there.

    Returns
    -------
    pandas.DataFrame
        One row per case, in the file's order, index 0 to n - 1.

    Raises
    ------
    CaseFileError
        If the file is missing, is no table, is empty, lacks a column or repeats an id.
    """
    file = Path(path)
    if not file.is_file():
        what = "is no file" if file.exists() else "no such file"
        raise CaseFileError(f"{file}: {what}; give the path of a CSV table")
    try:
        frame = pd.read_csv(file, keep_default_na=True, low_memory=False, dtype=dict.fromkeys(_TEXT, str))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        raise CaseFileError(f"{file}: is not a CSV table: {str(error).splitlines()[0]}") from None
    missing = [name for name in required if name not in frame.columns]
    if missing:
        raise CaseFileError(f"{file}: column {missing[0]!r} is missing; it has {', '.join(map(str, frame.columns))}")
    if not len(frame):
        raise CaseFileError(f"{file}: has a header and no cases")
    if "id" in frame.columns and frame["id"].duplicated().any():
        row = int(np.argmax(frame["id"].duplicated().to_numpy()))
        raise CaseFileError(f"{file}: line {row + 2}: id {frame['id'].iloc[row]!r} is there twice")
    return frame


def numbers(frame: pd.DataFrame, column: str, default: float | None = None) -> np.ndarray:
    """Take a column as float64; what is no number becomes NaN.

    Parameters
    ----------
    frame : pandas.DataFrame
        Cases.
    column : str
        Column.
    default : float, optional
        Value where the column is missing altogether or empty in a row.

    Returns
    -------
    numpy.ndarray
        One value per case.

    Examples
    --------
    >>> numbers(pd.DataFrame({"m": ["4", "x"]}), "m").tolist()
    [4.0, nan]
    >>> numbers(pd.DataFrame({"m": ["4", "x", None, " "]}), "m", 1.0).tolist()
    [4.0, nan, 1.0, 1.0]
    """
    if column not in frame.columns:
        return np.full(len(frame), np.nan if default is None else default)
    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
    if default is None:
        return values
    empty = frame[column].isna() | frame[column].astype(str).str.strip().eq("")
    return np.where(empty.to_numpy(), default, values)


def words(frame: pd.DataFrame, column: str, default: str = "") -> pd.Series:
    """Take a column as text; what is empty or missing becomes the default.

    Parameters
    ----------
    frame : pandas.DataFrame
        Cases.
    column : str
        Column.
    default : str
        Text where there is none.

    Returns
    -------
    pandas.Series
        One text per case.

    Examples
    --------
    >>> words(pd.DataFrame({"kernel": ["a", None]}), "kernel").tolist()
    ['a', '']
    """
    if column not in frame.columns:
        return pd.Series(default, index=frame.index, dtype=object)
    return frame[column].astype(object).where(frame[column].notna(), default).astype(str)
