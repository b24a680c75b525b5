"""Target: the machine that an estimate is for: a system, its kernel calibrations and an engine."""

from dataclasses import dataclass

from perfmodel.hardware.device import Device
from perfmodel.hardware.engine import Engine
from perfmodel.hardware.fabric import System
from perfmodel.hardware.kernels import KernelTable


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
    """

    system: System
    kernels: KernelTable
    engine: Engine

    @property
    def device(self) -> Device:
        """The accelerator."""
        return self.system.device
