"""Knobs: what grids of plans share, whatever their plans are made of: columns, blocks of plans, single ones."""

import math
from collections.abc import Iterator
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Array, as_floats, common_shape
from perfmodel.errors import PlanError
from perfmodel.parallel.mesh import Slices, take_part


class Grid:
    """Many plans at once: one array per knob, all of which broadcast to one shape."""

    __slots__ = ()

    KNOBS: ClassVar[tuple[str, ...]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape that every knob broadcasts to."""
        return common_shape(*(value.shape for _, value in self.knobs()))

    @property
    def size(self) -> int:
        """Number of plans."""
        return math.prod(self.shape)

    def knobs(self) -> Iterator[tuple[str, Array]]:
        """Yield every knob's name and its array, not broadcast."""
        for name in self.KNOBS:
            yield name, getattr(self, name)

    def column(self, name: str) -> Array:
        """Return one knob for every plan.

        Parameters
        ----------
        name : str
            Knob.

        Returns
        -------
        numpy.ndarray
            The knob, broadcast and flattened, of length `size`.
        """
        return np.broadcast_to(getattr(self, name), self.shape).ravel()

    def take(self, index: npt.ArrayLike) -> Self:
        """Return some of the plans as a one-dimensional grid.

        Parameters
        ----------
        index : array_like
            Positions in the flattened grid, or a mask over it.

        Returns
        -------
        Grid
            The chosen plans.
        """
        shape = self.shape or (1,)
        places = np.unravel_index(np.arange(self.size)[np.asarray(index)], shape)
        return type(self)(**{name: np.broadcast_to(value, shape)[places] for name, value in self.knobs()})

    def part(self, slices: Slices) -> Self:
        """Return a block of the plans.

        Parameters
        ----------
        slices : tuple of slice
            One slice per axis of the grid.

        Returns
        -------
        Grid
            The block, each knob no larger than before.
        """
        return type(self)(**{name: take_part(value, slices) for name, value in self.knobs()})


def knob(name: str, value: object) -> npt.NDArray[np.float64]:
    """Read the values of a knob.

    Parameters
    ----------
    name : str
        Knob, for the message.
    value : array_like
        What was given for it.

    Returns
    -------
    numpy.ndarray
        The values.

    Raises
    ------
    PlanError
        If they are no numbers.

    Examples
    --------
    >>> knob("tp", [1, 2]).tolist()
    [1.0, 2.0]
    """
    try:
        return as_floats(value)
    except (TypeError, ValueError):
        raise PlanError(f"{name} must be a number or an array of numbers, not {value!r}") from None
