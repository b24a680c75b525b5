"""Fabric: the bandwidths and latencies between devices, tier by tier from the board outwards."""

import dataclasses
from dataclasses import dataclass, field

from perfmodel.errors import PlanError
from perfmodel.hardware.device import Device, Provenance

HOST_CPUS = ("amd", "arm", "intel")
"""Makers of the processors by which NCCL picks its figures; arm stands for Grace."""

TOPOLOGIES = ("switched", "mesh", "ring", "torus2d", "torus3d", "fat-tree", "dragonfly")
"""How the devices of a tier are wired: `mesh` means a link between every pair."""


@dataclass(frozen=True, slots=True)
class Tier:
    """One level of the fabric: a group of devices that talk at the same speed.

    Parameters
    ----------
    name : str
        For instance "nvlink" or "infiniband".
    devices : int
        Devices in one unit of this tier, inner tiers included.
    bandwidth : float
        What one device can send while it receives as much, over all its links of this tier together [B/s].
    latency_s : float
        Time of the shortest message from one device to another [s].
    topology : str
        One of `TOPOLOGIES`.
    link_bandwidth : float, optional
        One-way bandwidth between two neighbours where links are point to point (mesh, ring, torus) [B/s].
    in_network_reduction : bool, optional
        Whether the switches can add (NVLink SHARP, InfiniBand SHARP).
    oversubscription : float, optional
        Bandwidth into this tier over bandwidth through its core [1].
    shape : tuple of int, optional
        Devices along each axis of a ring or torus.
    planes : int, optional
        Independent networks over which the links of a device are spread; `bandwidth` counts all of them.

    Examples
    --------
    >>> Tier("xgmi", 8, 448e9, 1e-6, "mesh", link_bandwidth=64e9).planes
    1
    """

    name: str
    devices: int
    bandwidth: float
    latency_s: float
    topology: str
    link_bandwidth: float | None = None
    in_network_reduction: bool = False
    oversubscription: float = 1.0
    shape: tuple[int, ...] = ()
    planes: int = 1

    def with_planes(self, planes: int) -> "Tier":
        """Return the same tier with fewer of its planes in service.

        Parameters
        ----------
        planes : int
            Planes that still work, at least one and at most all.

        Returns
        -------
        Tier
            A copy whose devices have the bandwidth of those planes; latency and topology stay.

        Raises
        ------
        PlanError
            If the tier has not so many planes.

        Examples
        --------
        >>> Tier("ub", 768, 196e9, 1.9e-6, "switched", planes=7).with_planes(6).bandwidth / 1e9
        168.0
        """
        if not 1 <= planes <= self.planes:
            raise PlanError(f"tier {self.name!r} has 1 to {self.planes} planes, not {planes}")
        part = planes / self.planes
        link = None if self.link_bandwidth is None else self.link_bandwidth * part
        return dataclasses.replace(self, bandwidth=self.bandwidth * part, link_bandwidth=link, planes=planes)


@dataclass(frozen=True, slots=True)
class System:
    """A kind of machine: one device type and the tiers that connect many of them.

    Parameters
    ----------
    id : str
        Catalogue id, for instance "hgx-h100".
    name : str
        Name for people.
    device : Device
        The accelerator.
    tiers : tuple of Tier
        From the innermost to the outermost; a single-card system without network has one tier of one device.
    notes : tuple of str, optional
        What to know before using the numbers.
    provenance : tuple of Provenance, optional
        The source of every number.
    domain : int, optional
        Position of the tier that is the scale-up domain; tiers inside it join the dies of a package or of a board.
    host_cpu : str, optional
        Processors of the hosts, one of `HOST_CPUS`; empty where nobody says.
    """

    id: str
    name: str
    device: Device
    tiers: tuple[Tier, ...]
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)
    provenance: tuple[Provenance, ...] = field(default=(), repr=False, compare=False)
    domain: int = 0
    host_cpu: str = ""

    @property
    def scale_up(self) -> Tier:
        """The scale-up domain: the NVLink domain, the board or the pod."""
        return self.tiers[self.domain]

    @property
    def max_devices(self) -> int:
        """Most devices that can be connected."""
        return self.tiers[-1].devices

    @property
    def scale_up_devices(self) -> int:
        """Devices in the scale-up domain."""
        return self.scale_up.devices

    def with_scale_up(self, devices: int) -> "System":
        """Return the same system with another number of devices in the scale-up domain.

        Parameters
        ----------
        devices : int
            Devices per node, more than zero and at most what the next tier holds.

        Returns
        -------
        System
            A copy; the bandwidths stay.

        Raises
        ------
        PlanError
            If the scale-up domain cannot have that size.
        """
        at, outer = self.domain, self.tiers[self.domain + 1 :]
        limit = outer[0].devices if outer else self.max_devices
        if not 1 <= devices <= limit:
            raise PlanError(f"{self.id} can have 1 to {limit} devices per node, not {devices}")
        inner = tuple(tier for tier in self.tiers[:at] if tier.devices < devices)
        changed = dataclasses.replace(self.scale_up, devices=devices)
        return dataclasses.replace(self, tiers=(*inner, changed, *outer), domain=len(inner))
