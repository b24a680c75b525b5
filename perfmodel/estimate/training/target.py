"""Training target: the machine that trains: a system, its kernel calibrations and a software stack."""

from dataclasses import dataclass, replace

from perfmodel.estimate.kernel_checks import load_kernels
from perfmodel.estimate.sustained import at_sustained_rates
from perfmodel.hardware.catalog import load_system
from perfmodel.hardware.device import Device
from perfmodel.hardware.fabric import System
from perfmodel.hardware.host_links import host_bandwidth
from perfmodel.hardware.kernels import KernelTable
from perfmodel.hardware.stack import Stack
from perfmodel.hardware.stack_files import load_stack

COMMUNICATION_CORES = 20.0
"""Cores that kernels of collectives hold while the others compute.

DeepSeek-V3 technical report 2024 (arXiv:2412.19437), section 3.2.2: 20 of the 132 of an H800. NCCL gives a core to
each of its channels, which are about as many.
"""


@dataclass(frozen=True, slots=True)
class TrainingTarget:
    """What trains the model.

    Parameters
    ----------
    system : System
        Device and fabric.
    kernels : KernelTable
        Kernel calibrations that may serve the device.
    stack : Stack
        Training software.
    """

    system: System
    kernels: KernelTable
    stack: Stack

    @property
    def device(self) -> Device:
        """The accelerator."""
        return self.system.device

    @property
    def collectives(self) -> str:
        """Trainers call the library on a whole group: it treats all ranks alike."""
        return "flat"

    @property
    def reduction_kernels(self) -> str:
        """Engine whose own all-reduce may be used beside the library's: none."""
        return ""

    @property
    def cores_taken(self) -> float:
        """Part of the cores that a collective holds while others compute; devices of few cores have engines for it."""
        return COMMUNICATION_CORES / self.device.cores if self.device.cores > COMMUNICATION_CORES else 0.0


def training_target(
    system: System | str,
    stack: Stack | str = "neutral",
    *,
    gpus_per_node: int | None = None,
    host_link: str | float | None = None,
    profiles: str | None = None,
) -> TrainingTarget:
    """Bring together a system, the calibrations of its device and training software.

    Parameters
    ----------
    system : System or str
        System, or its name or path.
    stack : Stack or str
        Stack, its name, or the path of a file.
    gpus_per_node : int, optional
        Devices of a scale-up domain, where not the system's own.
    host_link : str or float, optional
        Link between device and host, where not the device's own: one of `perfmodel.hardware.host_links.HOST_LINKS`, or
        a bandwidth [B/s].
    profiles : str, optional
        Directory of profiles that is searched first.

    Returns
    -------
    TrainingTarget
        What training runs on.

    Raises
    ------
    UnknownNameError
        If a name is in no catalogue.

    Examples
    --------
    >>> training_target("hgx-a100", "megatron-2021").stack.attention
    'unfused'
    """
    loaded = load_system(system, profiles) if isinstance(system, str) else system
    if gpus_per_node and gpus_per_node != loaded.scale_up_devices:
        loaded = loaded.with_scale_up(gpus_per_node)
    if host_link is not None:
        loaded = replace(loaded, device=replace(loaded.device, host_bandwidth=host_bandwidth(host_link)))
    kernels = at_sustained_rates(load_kernels(loaded.device.id, loaded.device.architecture, profiles), loaded.device)
    return TrainingTarget(loaded, kernels, load_stack(stack, profiles) if isinstance(stack, str) else stack)
