"""Schema of a system's profile file: its device and its tiers from the innermost outwards."""

import math
from typing import Literal

from pydantic import Field, model_validator

from perfmodel.hardware.device import Device
from perfmodel.hardware.fabric import System, Tier
from perfmodel.hardware.schema_facts import BandwidthFact, CountFact, Profile, Table, TimeFact, value_of

Topology = Literal["switched", "mesh", "ring", "torus2d", "torus3d", "fat-tree", "dragonfly"]


class TierTable(Table):
    """One tier of a system."""

    name: str = Field(min_length=1)
    devices: CountFact
    topology: Topology
    bandwidth: BandwidthFact
    latency: TimeFact
    link_bandwidth: BandwidthFact | None = None
    in_network_reduction: bool = False
    oversubscription: float = Field(default=1.0, ge=1.0, allow_inf_nan=False)
    shape: tuple[int, ...] = ()
    planes: int = Field(default=1, ge=1)
    scale_up: bool = False

    @model_validator(mode="after")
    def _links(self) -> "TierTable":
        if self.link_bandwidth and self.link_bandwidth.value > self.bandwidth.value:
            raise ValueError("link_bandwidth is more than bandwidth, which counts all links of a device together")
        if not self.link_bandwidth and self.topology in ("mesh", "ring", "torus2d", "torus3d") and self._several():
            raise ValueError(f"topology {self.topology!r} needs link_bandwidth, the one-way rate between neighbours")
        if self.shape and math.prod(self.shape) != self.devices.value:
            raise ValueError(f"shape {list(self.shape)} does not multiply to {self.devices.text} devices")
        return self

    def _several(self) -> bool:
        return self.devices.value > 1


class SystemFile(Profile):
    """A file of hardware_profiles/systems."""

    kind: Literal["system"]
    device: str
    host_cpu: Literal["amd", "arm", "intel", ""] = ""
    tier: tuple[TierTable, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _outwards(self) -> "SystemFile":
        for inner, outer in zip(self.tier, self.tier[1:], strict=False):
            if outer.devices.value % inner.devices.value or outer.devices.value <= inner.devices.value:
                raise ValueError(
                    f"tier {outer.name!r} has {outer.devices.text} devices, which must be a larger multiple of the "
                    f"{inner.devices.text} in tier {inner.name!r}; list tiers from the innermost outwards"
                )
        if sum(tier.scale_up for tier in self.tier) > 1:
            raise ValueError("scale_up = true stands at more than one tier; only one is the scale-up domain")
        return self

    def build(self, device: Device) -> System:
        """Put the system together as plain floats around its device.

        Parameters
        ----------
        device : Device
            The accelerator.

        Returns
        -------
        System
            Device, tiers and the source of every number.
        """
        tiers = tuple(
            Tier(
                name=t.name,
                devices=int(t.devices.value),
                bandwidth=t.bandwidth.value,
                latency_s=t.latency.value,
                topology=t.topology,
                link_bandwidth=value_of(t.link_bandwidth),
                in_network_reduction=t.in_network_reduction,
                oversubscription=t.oversubscription,
                shape=t.shape,
                planes=t.planes,
            )
            for t in self.tier
        )
        domain = next((i for i, t in enumerate(self.tier) if t.scale_up), 0)
        return System(self.id, self.name, device, tiers, self.notes, self.provenance(), domain, self.host_cpu)
