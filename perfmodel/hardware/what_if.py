"""What-if hardware: a system with some of its numbers multiplied, each marked as derived (no quantity of its own)."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import PlanError, suggest
from perfmodel.hardware.device import Device, Provenance
from perfmodel.hardware.fabric import System, Tier
from perfmodel.units import format_quantity

WHAT_IF = "what-if"
"""How the source of a number that was changed begins."""


@dataclass(frozen=True, slots=True)
class Number:
    """One number of a system that can be asked "what if" about.

    Parameters
    ----------
    dimension : str
        Dimension of its unit, as in `perfmodel.units`.
    key : str
        Places of the number in profile files, as a regular expression; of the tiers, "up" is the scale-up domain and
        "out" is every tier around it.
    read : callable
        System -> value in SI units, or None where the profile has none.
    meaning : str
        What it is, in a few words.
    """

    dimension: str
    key: str
    read: Callable[[System], float | None]
    meaning: str


def _outer(system: System, field: str) -> float | None:
    tiers = system.tiers[system.domain + 1 :]
    return float(getattr(tiers[0], field)) if tiers else None


_INNER, _OUTER = r"tier\[up\]\.", r"tier\[out\]\."
_LINKS = "(link_)?bandwidth"
NUMBERS: Mapping[str, Number] = {
    "peak_flops": Number(
        "compute",
        r"(unit\[\d+\]\.)?peak\..*|sustained\.(?!bandwidth).*",
        lambda s: max(s.device.peak_flops.values()),
        "peak of every format",
    ),
    "memory_bandwidth": Number(
        "bandwidth",
        r"(memory|sustained|unit\[\d+\])\.bandwidth",
        lambda s: s.device.memory_bandwidth,
        "bandwidth of the device memory",
    ),
    "memory_capacity": Number(
        "size", r"memory\.capacity", lambda s: s.device.memory_bytes, "device memory that a framework sees"
    ),
    "cache_bandwidth": Number(
        "bandwidth", r"memory\.cache_bandwidth", lambda s: s.device.cache_bandwidth, "bandwidth of the last-level cache"
    ),
    "cache_capacity": Number("size", r"memory\.cache", lambda s: s.device.cache_bytes, "last-level cache"),
    "host_bandwidth": Number(
        "bandwidth", r"chip\.host_bandwidth", lambda s: s.device.host_bandwidth, "link to the host, one way"
    ),
    "scale_up_bandwidth": Number(
        "bandwidth", _INNER + _LINKS, lambda s: s.scale_up.bandwidth, "bandwidth of a device inside its node"
    ),
    "scale_up_latency": Number(
        "time", _INNER + "latency", lambda s: s.scale_up.latency_s, "shortest message inside a node"
    ),
    "scale_up_devices": Number(
        "count", _INNER + "devices", lambda s: float(s.scale_up_devices), "devices of a node, rack or pod"
    ),
    "scale_out_bandwidth": Number(
        "bandwidth", _OUTER + _LINKS, lambda s: _outer(s, "bandwidth"), "bandwidth of a device between nodes"
    ),
    "scale_out_latency": Number(
        "time", _OUTER + "latency", lambda s: _outer(s, "latency_s"), "shortest message between nodes"
    ),
}
"""Numbers that can be scaled, by name. Those of scale-out scale every tier around the scale-up domain alike."""

_DEVICE_FIELDS = {
    "memory_capacity": "memory_bytes",
    "cache_bandwidth": "cache_bandwidth",
    "cache_capacity": "cache_bytes",
    "host_bandwidth": "host_bandwidth",
}


def scaled(system: System, factors: Mapping[str, float]) -> System:
    """Return the system that would be if some numbers of its hardware were so many times what they are.

    The device keeps its id and with it its kernel calibrations: a kernel reaches the same share of the new peak or
    bandwidth, and latencies, host times and software stay. The system's id says what was changed, and the provenance
    of every changed number says that it was derived, from what, and where that came from.

    Parameters
    ----------
    system : System
        The system as it is.
    factors : mapping
        Name of a number, one of `NUMBERS` -> factor. A factor of 1 changes nothing, and no number is needed for it.

    Returns
    -------
    System
        A copy; the very same system where nothing changes.

    Raises
    ------
    PlanError
        If a name or a factor is none, or the system has no such number.

    Examples
    --------
    >>> from perfmodel.hardware.catalog import load_system
    >>> faster = scaled(load_system("hgx-h100"), {"memory_bandwidth": 2.0})
    >>> faster.id, faster.device.memory_bandwidth / 1e12
    ('hgx-h100 [memory_bandwidth x2]', 6.7)
    """
    applied: dict[str, float] = {}
    changed = system
    for name, factor in factors.items():
        get_number(name)
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor) or factor <= 0:
            raise PlanError(f"{name}: a factor must be a number above zero, not {factor!r}")
        if factor == 1:
            continue
        value_of(system, name)  # nobody can change what is not there
        applied[name] = float(factor)
        if name == "scale_up_devices":
            changed = _resized(changed, factor)
        elif name.startswith("scale_"):
            tiers = tuple(_scaled_tier(tier, i - changed.domain, name, factor) for i, tier in enumerate(changed.tiers))
            changed = dataclasses.replace(changed, tiers=tiers)
        else:
            changed = dataclasses.replace(changed, device=_scaled_device(changed.device, name, factor))
    if not applied:
        return system
    # In a fixed order, so that the same hardware has the same name however it was asked for.
    applied = {name: applied[name] for name in NUMBERS if name in applied}
    label = ", ".join(f"{name} x{factor:.12g}" for name, factor in applied.items())
    marked = _marked(system.device.provenance, applied, system.domain)
    device = dataclasses.replace(changed.device, provenance=marked)
    return dataclasses.replace(
        changed,
        id=f"{system.id} [{label}]",
        name=f"{system.name} [{label}]",
        device=system.device if changed.device is system.device else device,
        provenance=_marked(system.provenance, applied, system.domain),
    )


def _scaled_device(device: Device, name: str, factor: float) -> Device:
    """Scale one number of the device, and what was measured of it in the same proportion."""

    def all_of(rates: Mapping[str, float]) -> dict[str, float]:
        return {kind: rate * factor for kind, rate in rates.items()}

    if name == "peak_flops":
        units = tuple(dataclasses.replace(unit, peak_flops=all_of(unit.peak_flops)) for unit in device.units)
        peaks, sustained = all_of(device.peak_flops), all_of(device.sustained_flops)
        return dataclasses.replace(device, peak_flops=peaks, sustained_flops=sustained, units=units)
    if name == "memory_bandwidth":
        units = tuple(
            dataclasses.replace(unit, memory_bandwidth=unit.memory_bandwidth * factor) for unit in device.units
        )
        reached = None if device.sustained_bandwidth is None else device.sustained_bandwidth * factor
        bandwidth = device.memory_bandwidth * factor
        return dataclasses.replace(device, memory_bandwidth=bandwidth, sustained_bandwidth=reached, units=units)
    field = _DEVICE_FIELDS[name]
    scaled_field: dict[str, Any] = {field: getattr(device, field) * factor}
    return dataclasses.replace(device, **scaled_field)


def _marked(rows: tuple[Provenance, ...], factors: Mapping[str, float], domain: int) -> tuple[Provenance, ...]:
    """Say of every number that was changed what it was, and that it is derived."""

    def place(match: re.Match[str]) -> str:
        at = int(match.group(1)) - domain
        return f"tier[{'up' if at == 0 else 'out' if at > 0 else 'in'}]"

    found = []
    for row in rows:
        key = re.sub(r"^tier\[(\d+)\]", place, row.key)
        for name, factor in factors.items():
            if re.fullmatch(NUMBERS[name].key, key):
                value = row.value * factor
                text = f"{format_quantity(value, NUMBERS[name].dimension)} (x{factor:.6g} of {row.text})"
                source = f"{WHAT_IF}, from {row.basis}: {row.source}"
                row = dataclasses.replace(row, text=text, value=value, basis="derived", source=source, note=name)
        found.append(row)
    return tuple(found)


def get_number(name: str) -> Number:
    """Find a number of the hardware by its name.

    Parameters
    ----------
    name : str
        One of `NUMBERS`.

    Returns
    -------
    Number
        What is known about it.

    Raises
    ------
    PlanError
        If there is none; the message suggests the nearest.
    """
    if name not in NUMBERS:
        near = suggest(name, NUMBERS)
        fix = f"did you mean {near!r}?" if near else f"there are {', '.join(NUMBERS)}"
        raise PlanError(f"unknown number of hardware {name!r}; {fix}")
    return NUMBERS[name]


def value_of(system: System, name: str) -> float:
    """Read a number of a system.

    Parameters
    ----------
    system : System
        The system.
    name : str
        One of `NUMBERS`.

    Returns
    -------
    float
        Its value in SI units.

    Raises
    ------
    PlanError
        If the name is unknown, or the system has no such number.

    Examples
    --------
    >>> from perfmodel.hardware.catalog import load_system
    >>> value_of(load_system("hgx-h100"), "scale_up_devices")
    8.0
    """
    number = get_number(name)
    value = number.read(system)
    if value is None:
        raise PlanError(f"{system.id} has no {name} ({number.meaning}) that could be changed")
    return value


def _scaled_tier(tier: Tier, position: int, name: str, factor: float) -> Tier:
    """Scale one tier if the number is its own; its position counts from the scale-up domain outwards."""
    if position < 0 or name.startswith("scale_up") != (position == 0):
        return tier
    if name.endswith("latency"):
        return dataclasses.replace(tier, latency_s=tier.latency_s * factor)
    link = None if tier.link_bandwidth is None else tier.link_bandwidth * factor
    return dataclasses.replace(tier, bandwidth=tier.bandwidth * factor, link_bandwidth=link)


def _resized(system: System, factor: float) -> System:
    """Put more or fewer devices into the scale-up domain; where nothing is around it, the whole system grows."""
    tier = system.scale_up
    wanted = tier.devices * factor
    devices = round(wanted)
    if abs(wanted - devices) > 1e-6 * wanted or devices < 1:
        raise PlanError(f"{system.id}: scale_up_devices x{factor:g} are {wanted:g} devices, not a whole number")
    if tier.topology not in ("switched", "fat-tree") and not (tier.topology == "mesh" and factor < 1):
        raise PlanError(f"{system.id}: devices of a {tier.topology} cannot be multiplied: every link would be another")
    if system.tiers[-1] is tier:
        return dataclasses.replace(system, tiers=(*system.tiers[:-1], dataclasses.replace(tier, devices=devices)))
    return system.with_scale_up(devices)


def changes(system: System) -> tuple[Provenance, ...]:
    """What is not as the profile has it.

    Parameters
    ----------
    system : System
        A system, perhaps made by `scaled`.

    Returns
    -------
    tuple of Provenance
        One number of each name that was changed; its note is the name.

    Examples
    --------
    >>> from perfmodel.hardware.catalog import load_system
    >>> changes(scaled(load_system("hgx-h100"), {"memory_bandwidth": 2.0}))[0].text
    '6.7 TB/s (x2 of 3.35 TB/s)'
    """
    rows = (*system.device.provenance, *system.provenance)
    return tuple({row.note: row for row in rows if row.source.startswith(WHAT_IF)}.values())
