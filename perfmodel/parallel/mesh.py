"""Parts of an open mesh, so that a large one is worked through piece by piece (no quantity of its own)."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats

Slices = tuple[slice, ...]


def mesh_parts(shape: tuple[int, ...], most: int) -> Iterator[Slices]:
    """Cut a mesh into blocks that follow each other in the order of its flattened elements.

    Parameters
    ----------
    shape : tuple of int
        Shape of the mesh.
    most : int
        Elements of a block at most.

    Yields
    ------
    tuple of slice
        One slice per axis.

    Examples
    --------
    >>> [part[0] for part in mesh_parts((5, 10), 20)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    # The axis that is cut: those behind it fit as a whole, and those before it are taken one by one.
    axis, inner = len(shape), 1
    while axis and inner * shape[axis - 1] <= most:
        axis -= 1
        inner *= shape[axis]
    whole = tuple(slice(0, extent) for extent in shape[axis:])
    if not axis:
        yield whole
        return
    step = max(most // inner, 1)
    for outer in product(*(range(extent) for extent in shape[: axis - 1])):
        for start in range(0, shape[axis - 1], step):
            cut = slice(start, min(start + step, shape[axis - 1]))
            yield (*(slice(i, i + 1) for i in outer), cut, *whole)


def take_part(value: Floats, part: Slices) -> npt.NDArray[np.float64]:
    """Block of an array that broadcasts to a mesh.

    Parameters
    ----------
    value : float or array
        One of the arrays that make up the mesh.
    part : tuple of slice
        One slice per axis of the mesh.

    Returns
    -------
    numpy.ndarray
        A view; an axis along which the array does not vary stays as it is.

    Examples
    --------
    >>> take_part(np.array([[1.0], [2.0], [3.0]]), (slice(1, 3), slice(0, 7))).tolist()
    [[2.0], [3.0]]
    """
    array = as_floats(value)
    mine = part[len(part) - array.ndim :]
    return array[tuple(cut if n > 1 else slice(None) for cut, n in zip(mine, array.shape, strict=True))]


def pick(value: Floats, shape: tuple[int, ...], index: int) -> float:
    """One element of an array that broadcasts to a mesh.

    Parameters
    ----------
    value : float or array
        One of the arrays that make up the mesh.
    shape : tuple of int
        Shape of the mesh.
    index : int
        Flat position in the mesh.

    Returns
    -------
    float
        The element.

    Examples
    --------
    >>> pick(np.array([[1.0], [2.0], [3.0]]), (3, 7), 7)
    2.0
    """
    return float(np.broadcast_to(value, shape)[np.unravel_index(index, shape)])
