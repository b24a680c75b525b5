"""Array types: what a broadcasting formula takes and gives (no quantity of its own)."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = "float | npt.NDArray[np.float64]"
"""A number or an array of them, always float64 when it is an array."""

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
