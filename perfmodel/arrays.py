"""Array types: what a broadcasting formula takes and gives (no quantity of its own)."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from perfmodel.recording import Recorded

Floats: TypeAlias = "float | npt.NDArray[np.float64]"
"""A number or an array of them, always float64 when it is an array."""

Array: TypeAlias = npt.NDArray[np.float64]
"""An array of float64, 0-d for a number."""

Booleans: TypeAlias = "bool | np.bool_ | npt.NDArray[np.bool_]"
"""A truth value or a mask."""


_FLOAT64 = np.dtype(np.float64)

_FEW_SUMS = 4096  # so few are added up in one call, which for more is slower than a loop


def as_floats(value: object) -> npt.NDArray[np.float64]:
    """Convert to float64 before anything is multiplied, so that integer sizes cannot wrap.

    Parameters
    ----------
    value : array_like
        Number or array of numbers.

    Returns
    -------
    numpy.ndarray
        The same values as float64; a scalar becomes a 0-d array.

    Examples
    --------
    >>> float(as_floats(2**31) ** 2)
    4.611686018427388e+18
    """
    # Most values are such arrays already, and this is called hundreds of times for one plan.
    if type(value) is np.ndarray and value.dtype is _FLOAT64:
        return value
    if type(value) is Recorded:
        plain = type(value.value) is np.ndarray and value.dtype is _FLOAT64
        return value if plain else value.tape.call(as_floats, (value,))  # type: ignore[return-value]
    return np.asarray(value, _FLOAT64)


def clipped(value: object, low: Floats, high: Floats) -> npt.NDArray[np.float64]:
    """Clip as `numpy.clip` does, whose wrapper takes longer than its work on one plan.

    Parameters
    ----------
    value : array_like
        Values.
    low, high : float or array
        Bounds.

    Returns
    -------
    numpy.ndarray
        The same values, those beyond a bound at the bound.

    Examples
    --------
    >>> clipped([0.0, 2.0, 9.0], 1.0, 3.0).tolist()
    [1.0, 2.0, 3.0]
    """
    return np.minimum(np.maximum(value, low), high)  # type: ignore[no-any-return, call-overload]


def common_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Shape that arrays of some shapes broadcast to.

    Parameters
    ----------
    *shapes : tuple of int
        Shapes, most of which are usually the same or those of numbers.

    Returns
    -------
    tuple of int
        Their common shape.

    Raises
    ------
    ValueError
        If they have none.

    Examples
    --------
    >>> common_shape((), (3,), (3,)), common_shape((2, 1), (3,))
    ((3,), (2, 3))
    """
    different = set(shapes) - {()}
    return different.pop() if len(different) == 1 else np.broadcast_shapes(*different)


def in_rows(value: object, rows: int) -> npt.NDArray[np.float64]:
    """Give a number or a column the length of a column.

    Parameters
    ----------
    value : float or array
        One value, or one per row.
    rows : int
        Number of rows.

    Returns
    -------
    numpy.ndarray
        One value per row.

    Examples
    --------
    >>> in_rows(2.0, 3).tolist()
    [2.0, 2.0, 2.0]
    """
    column = as_floats(value)
    return column if column.shape == (rows,) else np.broadcast_to(column, (rows,))


def occurring(values: object) -> list[float]:
    """List the different values of an array.

    Parameters
    ----------
    values : array_like
        The array; of a recorded one it is noted which they are.

    Returns
    -------
    list of float
        From the smallest to the largest.

    Examples
    --------
    >>> occurring([2.0, 1.0, 2.0])
    [1.0, 2.0]
    """
    found = as_floats(values)
    if isinstance(found, Recorded):
        return sorted({float(found[i]) for i in range(len(found))})
    return np.unique(found).tolist()  # type: ignore[no-any-return]


def stacked(values: Sequence[object]) -> npt.NDArray[np.float64]:
    """Stack values that broadcast against each other along a new first axis.

    Parameters
    ----------
    values : sequence of float or array
        The values.

    Returns
    -------
    numpy.ndarray
        All of them in their common shape.

    Examples
    --------
    >>> stacked([1.0, [2.0, 3.0]]).tolist()
    [[1.0, 1.0], [2.0, 3.0]]
    """
    each = [as_floats(value) for value in values]
    shape = common_shape(*(value.shape for value in each))
    return np.concatenate([(x if x.shape == shape else np.broadcast_to(x, shape))[None] for x in each])


def summed(
    values: npt.NDArray[np.float64], axis: int = 0, after: npt.NDArray[np.float64] | None = None
) -> npt.NDArray[np.float64]:
    """Sum along an axis, always in its order: NumPy's own sums round differently for one plan and for many.

    Parameters
    ----------
    values : numpy.ndarray
        Summands.
    axis : int
        The axis that goes.
    after : numpy.ndarray, optional
        Sum of what comes before them.

    Returns
    -------
    numpy.ndarray
        Sums.

    Examples
    --------
    >>> summed(np.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [4.0, 6.0]
    """
    each: list[Any] = [(slice(None),) * axis + (i,) for i in range(-1, values.shape[axis])]
    if after is None and values.size <= _FEW_SUMS:
        return np.add.accumulate(values, axis=axis)[each[0]]  # type: ignore[no-any-return]
    total = values[each[1]] if after is None else after + values[each[1]]
    for place in each[2:]:
        total = total + values[place]
    return total  # type: ignore[no-any-return]
