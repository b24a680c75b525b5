"""What-if hardware: a system with some of its numbers multiplied, each marked as derived (no quantity of its own)."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import PlanError, UnitError, suggest
from perfmodel.hardware.device import Provenance
from perfmodel.hardware.fabric import System, Tier
from perfmodel.units import EXAMPLES, format_quantity, parse

_FACTOR = re.compile(r"[x×*]\s*(\d+\.?\d*([eE][+-]?\d+)?|\.\d+)")
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
        Places of the number in profile files, as a regular expression.
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
    return float(getattr(system.tiers[1], field)) if len(system.tiers) > 1 else None


_INNER, _OUTER = r"tier\[0\]\.", r"tier\[[1-9]\d*\]\."
_LINKS = "(link_)?bandwidth"
NUMBERS: Mapping[str, Number] = {
    "peak_flops": Number("compute", r"peak\..*", lambda s: max(s.device.peak_flops.values()), "peak of every format"),
    "memory_bandwidth": Number(
        "bandwidth", r"memory\.bandwidth", lambda s: s.device.memory_bandwidth, "bandwidth of the device memory"
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
        "bandwidth", _INNER + _LINKS, lambda s: s.tiers[0].bandwidth, "bandwidth of a device inside its node"
    ),
    "scale_up_latency": Number(
        "time", _INNER + "latency", lambda s: s.tiers[0].latency_s, "shortest message inside a node"
    ),
    "scale_up_devices": Number(
        "count", _INNER + "devices", lambda s: float(s.tiers[0].devices), "devices of a node, rack or pod"
    ),
    "scale_out_bandwidth": Number(
        "bandwidth", _OUTER + _LINKS, lambda s: _outer(s, "bandwidth"), "bandwidth of a device between nodes"
    ),
    "scale_out_latency": Number(
        "time", _OUTER + "latency", lambda s: _outer(s, "latency_s"), "shortest message between nodes"
    ),
}
"""Numbers that can be scaled, by name. Those of the scale-out fabric scale every tier outside the innermost alike."""

_DEVICE_FIELDS = {
    "memory_bandwidth": "memory_bandwidth",
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
        Name of a number, one of `NUMBERS` -> factor. A factor of 1 changes nothing.

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
    device: dict[str, Any] = {}
    tiers = list(system.tiers)
    applied: dict[str, float] = {}
    for name, factor in factors.items():
        value = _known(system, name)
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor) or factor <= 0:
            raise PlanError(f"{name}: a factor must be a number above zero, not {factor!r}")
        if factor == 1:
            continue
        applied[name] = float(factor)
        if name == "peak_flops":
            device["peak_flops"] = {kind: peak * factor for kind, peak in system.device.peak_flops.items()}
        elif name in _DEVICE_FIELDS:
            device[_DEVICE_FIELDS[name]] = value * factor
        elif name == "scale_up_devices":
            tiers[0] = _resized(system, tiers[0], factor)
        else:
            tiers = [_scaled_tier(tier, i, name, factor) for i, tier in enumerate(tiers)]
    if not applied:
        return system
    # In a fixed order, so that the same hardware has the same name however it was asked for.
    applied = {name: applied[name] for name in NUMBERS if name in applied}
    label = ", ".join(f"{name} x{factor:.12g}" for name, factor in applied.items())
    marked = dataclasses.replace(system.device, **device, provenance=_marked(system.device.provenance, applied))
    return dataclasses.replace(
        system,
        id=f"{system.id} [{label}]",
        name=f"{system.name} [{label}]",
        device=marked if device else system.device,
        tiers=tuple(tiers),
        provenance=_marked(system.provenance, applied),
    )


def _marked(rows: tuple[Provenance, ...], factors: Mapping[str, float]) -> tuple[Provenance, ...]:
    """Say of every number that was changed what it was, and that it is derived."""
    found = []
    for row in rows:
        for name, factor in factors.items():
            if re.fullmatch(NUMBERS[name].key, row.key):
                value = row.value * factor
                text = f"{format_quantity(value, NUMBERS[name].dimension)} (x{factor:.6g} of {row.text})"
                source = f"{WHAT_IF}, from {row.basis}: {row.source}"
                row = dataclasses.replace(row, text=text, value=value, basis="derived", source=source, note=name)
        found.append(row)
    return tuple(found)


def _number(name: str) -> Number:
    if name not in NUMBERS:
        near = suggest(name, NUMBERS)
        fix = f"did you mean {near!r}?" if near else f"there are {', '.join(NUMBERS)}"
        raise PlanError(f"unknown number of hardware {name!r}; {fix}")
    return NUMBERS[name]


def _known(system: System, name: str) -> float:
    number = _number(name)
    value = number.read(system)
    if value is None:
        raise PlanError(f"{system.id} has no {name} ({number.meaning}) that could be changed")
    return value


def _scaled_tier(tier: Tier, position: int, name: str, factor: float) -> Tier:
    """Scale one tier if the number is its own: the innermost is scale-up, all the others are scale-out."""
    if name.startswith("scale_up") != (position == 0):
        return tier
    if name.endswith("latency"):
        return dataclasses.replace(tier, latency_s=tier.latency_s * factor)
    link = None if tier.link_bandwidth is None else tier.link_bandwidth * factor
    return dataclasses.replace(tier, bandwidth=tier.bandwidth * factor, link_bandwidth=link)


def _resized(system: System, tier: Tier, factor: float) -> Tier:
    """Put more or fewer devices into the innermost tier; where it is the only one, the whole system grows with it."""
    wanted = tier.devices * factor
    devices = round(wanted)
    if abs(wanted - devices) > 1e-6 * wanted or devices < 1:
        raise PlanError(f"{system.id}: scale_up_devices x{factor:g} are {wanted:g} devices, not a whole number")
    if tier.topology in ("ring", "torus2d", "torus3d") or (tier.topology == "mesh" and factor > 1):
        raise PlanError(f"{system.id}: devices of a {tier.topology} cannot be multiplied: every link would be another")
    if len(system.tiers) > 1 and devices > system.tiers[1].devices:
        raise PlanError(
            f"{system.id}: {devices} devices in tier {tier.name!r} are more than the {system.tiers[1].devices}"
            f" of tier {system.tiers[1].name!r} around it"
        )
    return dataclasses.replace(tier, devices=devices)


def factor_of(system: System, name: str, text: str | float) -> float:
    """Read what a number should become, as a factor on what it is.

    Parameters
    ----------
    system : System
        System whose number is meant.
    name : str
        One of `NUMBERS`.
    text : str or number
        A factor ("x2", or a number) or a value with its unit ("6.7 TB/s").

    Returns
    -------
    float
        New value over old [1].

    Raises
    ------
    PlanError
        If it is neither, or the system has no such number.

    Examples
    --------
    >>> from perfmodel.hardware.catalog import load_system
    >>> factor_of(load_system("hgx-h100"), "memory_bandwidth", "6.7TB/s")
    2.0
    """
    change = read_change(name, text)
    value = _known(system, name)
    return change[1] if change[0] == "factor" else change[1] / value


def read_change(name: str, text: str | float) -> tuple[str, float]:
    """Read a change without a system: a factor, or a value in SI units.

    Parameters
    ----------
    name : str
        One of `NUMBERS`.
    text : str or number
        A factor ("x2", or a number where the number is no count) or a value with its unit.

    Returns
    -------
    tuple of str and float
        "factor" or "value", and which.

    Raises
    ------
    PlanError
        If the name is unknown or the text is neither.

    Examples
    --------
    >>> read_change("scale_up_devices", 72), read_change("peak_flops", "x1.5")
    (('value', 72.0), ('factor', 1.5))
    """
    number = _number(name)
    how = "a factor like x2" + (f" or a value like {EXAMPLES[number.dimension]}" if name != "peak_flops" else "")
    match = _FACTOR.fullmatch(text.strip()) if isinstance(text, str) else None
    if match:
        kind, value = "factor", float(match.group(1))
    elif name == "peak_flops" or (not isinstance(text, str) and number.dimension != "count"):
        raise PlanError(f"{name}: {text!r} is no change; write {how}")
    else:
        try:
            kind, value = "value", parse(text, number.dimension)
        except UnitError as error:
            raise PlanError(f"{name}: {error}, or a factor like x2") from None
    if not value > 0:
        raise PlanError(f"{name}: {text!r} must be above zero; write {how}")
    return kind, value


def changed(system: System, flags: Iterable[str]) -> System:
    """Apply changes as they are written on the command line.

    Parameters
    ----------
    system : System
        The system as it is.
    flags : iterable of str
        For instance "memory_bandwidth=x2" or "memory_capacity=192GB".

    Returns
    -------
    System
        The system that would be.

    Raises
    ------
    PlanError
        If a flag cannot be read, names a number twice, or names one that the system has not.

    Examples
    --------
    >>> from perfmodel.hardware.catalog import load_system
    >>> changed(load_system("hgx-h100"), ["scale_up_devices=x2"]).scale_up_devices
    16
    """
    factors: dict[str, float] = {}
    for flag in flags:
        name, sign, text = flag.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not text.strip():
            raise PlanError(f"{flag!r} is no change; write number=factor, for instance memory_bandwidth=x2")
        if name in factors:
            raise PlanError(f"{name} is changed twice")
        factors[name] = factor_of(system, name, text)
    return scaled(system, factors)


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
