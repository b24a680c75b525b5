"""Hardware profiles: peaks, bandwidths, sizes and latencies of devices and systems, each with its source."""

from perfmodel.hardware.catalog import (
    find_profile,
    list_devices,
    list_systems,
    load_device,
    load_system,
    validate_file,
)
from perfmodel.hardware.device import FORMATS, Device, Provenance
from perfmodel.hardware.fabric import TOPOLOGIES, System, Tier
from perfmodel.hardware.places import profile_directories

__all__ = [
    "FORMATS",
    "TOPOLOGIES",
    "Device",
    "Provenance",
    "System",
    "Tier",
    "find_profile",
    "list_devices",
    "list_systems",
    "load_device",
    "load_system",
    "profile_directories",
    "validate_file",
]
