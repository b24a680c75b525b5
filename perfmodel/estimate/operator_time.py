"""Operator time: seconds of one operator over all plans, its bounds and what they rest on."""

from collections.abc import Mapping
from dataclasses import dataclass
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
    formula : str
        Registered formula.
    basis : str
        measured, default or datasheet.
    source : str
        Whose coefficients: device, engine and kernel, or the architecture's defaults.
    count : float or array
        Occurrences in the layer.
    algorithms : tuple of str
        Registered formulas of the algorithms that a collective chose from.
    choice : float or array
        Position among them of the one that each plan uses.
    bases : tuple of str
        What the time of each of them rests on; `basis` is that of the first plan's.
    calls : tuple of Call or None
        The calibration behind each of them and its sizes, so that a derivation can compare these with their ranges.
    """

    seconds: Floats
    compute_s: Floats
    memory_s: Floats
    network_s: Floats
    formula: str
    basis: Basis
    source: str
    count: Floats = 1.0
    algorithms: tuple[str, ...] = ()
    choice: Floats = 0.0
    bases: tuple[Basis, ...] = ()
    calls: tuple[Call | None, ...] = ()

    def formulas(self) -> tuple[str, ...]:
        """Registered formulas of the first plan: the algorithm, then what times the part inside a domain."""
        return tuple(self.formula.split(" + "))

    def bound(self) -> Any:
        """Resource that binds: 0 compute, 1 memory, 2 network, 3 latency, an integer array over plans."""
        compute_s, memory_s, seconds = map(as_floats, (self.compute_s, self.memory_s, self.seconds))
        longest = np.maximum(np.maximum(compute_s, memory_s), self.network_s)
        latency = (longest < LATENCY_SHARE * seconds) & (seconds <= LATENCY_S * as_floats(self.count))
        latency = latency | (longest == 0.0)  # a wait
        rate = np.where(compute_s == longest, 0, np.where(memory_s == longest, 1, 2))
        return np.where(latency, 3, rate)
