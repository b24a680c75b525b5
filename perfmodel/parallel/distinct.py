"""Distinct rows of columns that broadcast against each other, so that each is computed once (no quantity)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats, common_shape
from perfmodel.recording import FEW

_TABLE, _SMALL_TABLE = 4, 65536
# Rows are numbered by a table, which is faster than sorting, while it has no more entries than so many per row and so
# many besides.


@dataclass(frozen=True, slots=True, eq=False)
class Distinct:
    """Rows that differ, and which of them each element is.

    Parameters
    ----------
    columns : mapping
        Name -> one value per distinct row.
    where : numpy.ndarray
        Row of every element, in the shape that the columns broadcast to.
    """

    columns: Mapping[str, npt.NDArray[np.float64]]
    where: npt.NDArray[np.intp]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return next(iter(self.columns.values())).size

    def over(self, names: Iterable[str]) -> "Distinct":
        """Distinct rows of some of the columns.

        Parameters
        ----------
        names : iterable of str
            Columns to keep.

        Returns
        -------
        Distinct
            Their distinct rows; `where` counts the rows of this object.
        """
        return distinct({name: self.columns[name] for name in names}, (self.rows,))


def distinct(columns: Mapping[str, Floats], shape: tuple[int, ...] | None = None) -> Distinct:
    """Find the distinct rows of columns that broadcast against each other.

    Parameters
    ----------
    columns : mapping
        Name -> number or array.
    shape : tuple of int, optional
        Shape to broadcast to, where it is not that of the columns alone.

    Returns
    -------
    Distinct
        Rows in no particular order; equal ones may remain where there are no more than `FEW`.

    Examples
    --------
    >>> found = distinct({"tp": np.repeat([1.0, 2.0], 50), "pp": np.ones(100)})
    >>> found.columns["tp"].tolist(), found.where[[0, 99]].tolist()
    ([1.0, 2.0], [0, 1])
    """
    arrays = {name: as_floats(value) for name, value in columns.items()}
    if shape is None:
        shape = common_shape(*(value.shape for value in arrays.values()))
    size = math.prod(shape)
    if size <= FEW:
        rows = {name: _flat(value, shape, size) for name, value in arrays.items()}
        return Distinct(rows, np.arange(size).reshape(shape))
    key: Any = np.zeros((1,) * len(shape), dtype=np.int64)
    count = 1
    for value in arrays.values():
        if value.size == 1:
            continue
        codes, values = _codes(value)
        if count * values > _TABLE * size + _SMALL_TABLE:
            # Knobs go together, so that few of their combinations occur: these are numbered anew.
            found, key = _present(np.broadcast_to(key, shape).ravel(), count)
            key, count = key.reshape(shape), found.size
        key = key * values + codes
        count *= values
    found, where = _present(np.broadcast_to(key, shape).ravel(), count)
    places = np.unravel_index(found, shape)
    rows = {name: np.broadcast_to(value, shape)[places] for name, value in arrays.items()}
    return Distinct(rows, where.reshape(shape))


def _flat(value: npt.NDArray[np.float64], shape: tuple[int, ...], size: int) -> npt.NDArray[np.float64]:
    if value.size == size:
        return value.reshape(size)
    out = np.empty(shape)
    out[...] = value
    return out.reshape(size)


def _codes(value: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], int]:
    """Number the values of an array, equal ones alike; integers in a narrow range by a table, others by sorting."""
    low, high = value.min(), value.max()
    if high - low <= _TABLE * value.size:
        offset = (value - low).astype(np.int64)
        if np.array_equal(offset + low, value):
            return offset, int(high - low) + 1
    values, codes = np.unique(value, return_inverse=True)
    return codes.reshape(value.shape), values.size


def _present(key: npt.NDArray[np.int64], count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Where each of the keys that occur is found, and for every element which of them it has."""
    if count > _TABLE * key.size + _SMALL_TABLE:
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        return first, inverse.reshape(key.shape)
    place = np.full(count, -1, dtype=np.intp)
    place[key] = np.arange(key.size)
    seen = np.flatnonzero(place >= 0)
    number = np.empty(count, dtype=np.intp)
    number[seen] = np.arange(seen.size)
    return place[seen], number[key]
