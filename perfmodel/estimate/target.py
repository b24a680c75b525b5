"""Target: the machine that an estimate is for: a system, its kernel calibrations and an engine."""

from dataclasses import dataclass

from perfmodel.hardware.device import Device
from perfmodel.hardware.engine import Engine
from perfmodel.hardware.fabric import System
from perfmodel.hardware.kernels import KernelTable

COLLECTIVES = ("fastest", "flat", "hierarchical", "nccl")
"""Algorithms of collectives over several domains: the fastest, only those that treat all ranks alike, only those that
work domain after domain, or what NCCL's own cost model expects of all-reduce, all-gather and reduce-scatter."""


@dataclass(frozen=True, slots=True)
class Target:
    """What runs the model.

    Parameters
    ----------
    system : System
        Device and fabric.
    kernels : KernelTable
        Kernel calibrations that may serve the device.
    engine : Engine
        Serving software.
    collectives : str
        Algorithms that collectives may use, one of `COLLECTIVES`.
    """

    system: System
    kernels: KernelTable
    engine: Engine
    collectives: str = "fastest"

    @property
    def device(self) -> Device:
        """The accelerator."""
        return self.system.device
