"""Target: the machine that an estimate is for: a system, its kernel calibrations and an engine."""

from dataclasses import dataclass
from typing import Protocol

from perfmodel.hardware.device import Device
from perfmodel.hardware.engine import Engine
from perfmodel.hardware.fabric import System
from perfmodel.hardware.kernels import KernelTable

COLLECTIVES = ("fastest", "flat", "hierarchical", "nccl")
"""Algorithms of collectives over several domains: the fastest, only those that treat all ranks alike, only those that
work domain after domain, or what NCCL's own cost model expects of all-reduce, all-gather and reduce-scatter."""


class Communicator(Protocol):
    """What a collective has to know about the machine and the software that run it."""

    @property
    def system(self) -> System:
        """Device and fabric."""

    @property
    def kernels(self) -> KernelTable:
        """Kernel calibrations that may serve the device."""

    @property
    def device(self) -> Device:
        """The accelerator."""

    @property
    def collectives(self) -> str:
        """Algorithms that collectives may use, one of `COLLECTIVES`."""

    @property
    def reduction_kernels(self) -> str:
        """Whose own all-reduce may be used beside the library's; empty for nobody's."""


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

    @property
    def reduction_kernels(self) -> str:
        """Engine whose own all-reduce may be used beside the library's."""
        return self.engine.kernels
