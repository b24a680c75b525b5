"""Operator time: seconds of one operator over all plans, its bounds and what they rest on."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.hardware.kernels import Basis, KernelCalibration

LATENCY_SHARE = 0.35
"""An operator whose exact bound is below this share of its time may be bound by latency and not by a rate ..."""

LATENCY_S = 5e-5
"""... if it takes no longer than this; a longer one far from its bound is a slow kernel [s]."""


Call: TypeAlias = tuple[KernelCalibration, Mapping[str, Any]]
"""A calibration and the sizes that its formula was called with."""


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """Time of one operator over all plans, and what it rests on.

    Parameters
    ----------
    seconds : float or array
        Time of all occurrences in the layer [s].
    compute_s, memory_s, network_s : float or array
        Exact bounds: arithmetic at peak, compulsory bytes at full bandwidth, payload at full link rate [s].
    algorithms : tuple of str
        Registered formulas that were chosen from: the algorithms of a collective, the processors of a device.
    bases : tuple of str
        What the time of each of them rests on: measured, default or datasheet.
    sources : tuple of str
        Whose coefficients: device, engine and kernel, or the architecture's defaults.
    count : float or array
        Occurrences in the layer.
    choice : float or array
        Position among the algorithms of the one that each plan uses.
    calls : tuple of Call or None
        The calibration behind each algorithm and its sizes, so that a derivation can compare these with their ranges.
    """

    seconds: Floats
    compute_s: Floats
    memory_s: Floats
    network_s: Floats
    algorithms: tuple[str, ...]
    bases: tuple[Basis, ...]
    sources: tuple[str, ...]
    count: Floats = 1.0
    choice: Floats = 0.0
    calls: tuple[Call | None, ...] = ()

    @property
    def first(self) -> int:
        """Position among the algorithms of the one that the first plan uses."""
        return int(np.ravel(self.choice)[0])

    @property
    def formula(self) -> str:
        """Registered formula of the first plan."""
        return self.algorithms[self.first]

    @property
    def source(self) -> str:
        """Whose coefficients the first plan's time rests on."""
        return self.sources[self.first]

    def rests_on(self, basis: Basis) -> Any:
        """Plans whose time rests on a basis.

        Parameters
        ----------
        basis : str
            measured, default or datasheet.

        Returns
        -------
        bool or numpy.ndarray
            True or False where all or none do, else a mask over the plans.
        """
        algorithms = [number for number, each in enumerate(self.bases) if each == basis]
        if len(algorithms) in (0, len(self.bases)):
            return bool(algorithms)
        return reduce(operator.or_, (np.equal(self.choice, number) for number in algorithms))

    def formulas(self) -> tuple[str, ...]:
        """Registered formulas of the first plan: the algorithm, then what times the part inside a domain."""
        return tuple(self.formula.split(" + "))

    def bound(self) -> Any:
        """Resource that binds: 0 compute, 1 memory, 2 network, 3 latency, an integer array over plans."""
        return binding(self.seconds, self.compute_s, self.memory_s, self.network_s, self.count)


def binding(seconds: Floats, compute_s: Floats, memory_s: Floats, network_s: Floats, count: Floats) -> Any:
    """Resource that binds operators.

    Parameters
    ----------
    seconds : float or array
        Their times [s].
    compute_s, memory_s, network_s : float or array
        Their exact bounds [s].
    count : float or array
        Occurrences that the time is of.

    Returns
    -------
    int or array
        0 compute, 1 memory, 2 network, 3 latency.

    Examples
    --------
    >>> [int(binding(seconds, 8e-6, 2e-6, 0.0, 1.0)) for seconds in (9e-6, 4e-5, 4e-3)]
    [0, 3, 0]
    """
    compute, longest = as_floats(compute_s), np.maximum(np.maximum(compute_s, memory_s), network_s)
    latency = (longest < LATENCY_SHARE * as_floats(seconds)) & (seconds <= LATENCY_S * as_floats(count))
    latency = latency | (longest == 0.0)  # a wait
    rate = np.where(compute == longest, 0, np.where(as_floats(memory_s) == longest, 1, 2))
    return np.where(latency, 3, rate)
