"""Fabric: the bandwidths and latencies between devices, tier by tier from the board outwards."""

import dataclasses
from dataclasses import dataclass, field

from perfmodel.errors import PlanError
from perfmodel.hardware.device import Device, Provenance

TOPOLOGIES = ("switched", "mesh", "ring", "torus2d", "torus3d", "fat-tree")
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

    Examples
    --------
    >>> Tier("xgmi", 8, 448e9, 1e-6, "mesh", link_bandwidth=64e9).bandwidth_between(4) / 1e9
    192.0
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

    def bandwidth_between(self, ranks: int) -> float:
        """Bandwidth of one device when a group of so many talks all to all.

        Behind a switch every device has all its links whoever it talks to. In a mesh it has one link per peer:
        ``min(bandwidth, (ranks - 1) * link_bandwidth)``.

        Parameters
        ----------
        ranks : int
            Devices in the group.

        Returns
        -------
        float
            One-way bandwidth per device [B/s].
        """
        if self.topology == "mesh" and self.link_bandwidth is not None:
            return min(self.bandwidth, max(ranks - 1, 1) * self.link_bandwidth)
        return self.bandwidth


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
    """

    id: str
    name: str
    device: Device
    tiers: tuple[Tier, ...]
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)
    provenance: tuple[Provenance, ...] = field(default=(), repr=False, compare=False)

    @property
    def max_devices(self) -> int:
        """Most devices that can be connected."""
        return self.tiers[-1].devices

    @property
    def scale_up_devices(self) -> int:
        """Devices in the innermost tier: the NVLink domain, the board or the pod."""
        return self.tiers[0].devices

    def tier_spanning(self, devices: int) -> Tier:
        """Innermost tier that holds a number of devices.

        Parameters
        ----------
        devices : int
            Devices that must talk to each other.

        Returns
        -------
        Tier
            The tier.

        Raises
        ------
        PlanError
            If the system has no room for so many.
        """
        for tier in self.tiers:
            if devices <= tier.devices:
                return tier
        raise PlanError(f"{self.id} connects at most {self.max_devices} devices, and {devices} are wanted")

    def with_scale_up(self, devices: int) -> "System":
        """Return the same system with another number of devices in the innermost tier.

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
            If the innermost tier cannot have that size.
        """
        limit = self.tiers[1].devices if len(self.tiers) > 1 else self.max_devices
        if not 1 <= devices <= limit:
            raise PlanError(f"{self.id} can have 1 to {limit} devices per node, not {devices}")
        first = dataclasses.replace(self.tiers[0], devices=devices)
        return dataclasses.replace(self, tiers=(first, *self.tiers[1:]))
