"""Array types: what a broadcasting formula takes and gives (no quantity of its own)."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = "float | npt.NDArray[np.float64]"
"""A number or an array of them, always float64 when it is an array."""

Array: TypeAlias = npt.NDArray[np.float64]
"""An array of float64, 0-d for a number."""

Booleans: TypeAlias = "bool | np.bool_ | npt.NDArray[np.bool_]"
"""A truth value or a mask."""


_FLOAT64 = np.dtype(np.float64)


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
