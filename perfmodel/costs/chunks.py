"""Large grids piece by piece: memory stays bounded and temporaries in the processor's cache (no quantity)."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from perfmodel.arrays import Floats, as_floats, common_shape
from perfmodel.recording import Recorded

CHUNK = 8192
"""Elements that are computed at once."""


def in_chunks(core: Callable[..., Any], arguments: Mapping[str, Any], *, planes: int = 1) -> Floats:
    """Evaluate an elementwise function of broadcasting arguments in chunks that fit the processor's cache.

    Parameters
    ----------
    core : callable
        Elementwise function of float64 keywords; it sees one-dimensional chunks of every array and plain floats.
    arguments : mapping
        Keyword -> number or array; the arrays broadcast against each other.
    planes : int
        Values that `core` computes at a time for each element, along a first axis that it reduces.

    Returns
    -------
    float or numpy.ndarray
        What `core` returns, in the broadcast shape.

    Examples
    --------
    >>> in_chunks(lambda a, b: a + b, {"a": [1, 2, 3], "b": 10}).tolist()
    [11.0, 12.0, 13.0]
    """
    converted = {name: as_floats(value) for name, value in arguments.items()}
    arrays = {name: value for name, value in converted.items() if value.ndim}
    constants = {name: float(value) for name, value in converted.items() if not value.ndim}
    if not arrays:
        return as_floats(core(**constants)).reshape(())[()]
    shape = common_shape(*(value.shape for value in arrays.values()))
    most = max(CHUNK // planes, 1)
    # What is recorded is few plans of many operators, and goes through the same calls whatever their number.
    if len(shape) == 1 and (shape[0] <= most or any(isinstance(value, Recorded) for value in arrays.values())):
        found = as_floats(core(**constants, **arrays))
        return found if found.shape == shape else np.broadcast_to(found, shape).copy()
    out = np.empty(shape)
    operands: Any = [*arrays.values(), out]
    modes: Any = [["readonly"]] * len(arrays) + [["writeonly"]]
    with np.nditer(
        operands, flags=["external_loop", "buffered", "zerosize_ok"], op_flags=modes, buffersize=most
    ) as chunks:
        for *parts, result in chunks:
            result[...] = core(**constants, **dict(zip(arrays, parts, strict=True)))
    return out
