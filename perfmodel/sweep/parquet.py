"""Parquet: results as bytes of a partition and back, where pyarrow is installed (no quantity of its own)."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.errors import MissingExtraError, SweepError


def require_pyarrow() -> Any:
    """Load pyarrow with its Parquet part.

    Returns
    -------
    module
        pyarrow.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("a sweep", "pyarrow", "parquet") from None
    return pyarrow


def to_bytes(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> bytes:
    """Write rows as one Parquet file.

    Parameters
    ----------
    rows : sequence of mapping
        Column -> value; what is missing becomes null.
    columns : mapping
        Column -> "int64", "float64", "string" or "bool".

    Returns
    -------
    bytes
        The file; the same rows give the same bytes.
    """
    pyarrow = require_pyarrow()
    kinds = {
        "int64": pyarrow.int64(),
        "float64": pyarrow.float64(),
        "string": pyarrow.string(),
        "bool": pyarrow.bool_(),
    }
    reads = {"int64": int, "float64": float, "string": str, "bool": bool}
    arrays = [
        pyarrow.array([None if (v := row.get(name)) is None else reads[kind](v) for row in rows], type=kinds[kind])
        for name, kind in columns.items()
    ]
    table = pyarrow.Table.from_arrays(arrays, names=list(columns))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def from_bytes(data: bytes, name: str, columns: Sequence[str] | None = None) -> Any:
    """Read one Parquet file.

    Parameters
    ----------
    data : bytes
        The file.
    name : str
        What it is called, for messages.
    columns : sequence of str, optional
        Columns to read; all by default.

    Returns
    -------
    pyarrow.Table
        Its rows.

    Raises
    ------
    SweepError
        If it is no Parquet file or lacks a column.
    """
    pyarrow = require_pyarrow()
    try:
        return pyarrow.parquet.read_table(io.BytesIO(data), columns=None if columns is None else list(columns))
    except (pyarrow.ArrowInvalid, pyarrow.ArrowKeyError, OSError) as error:
        raise SweepError(f"{name}: is no Parquet file of a sweep: {error}") from None
