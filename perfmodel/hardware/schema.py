"""Schema of profile files: every number with unit and source, checked at the door (no quantity of its own)."""

import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from perfmodel.errors import ProfileError, UnitError, suggest
from perfmodel.hardware.device import FORMATS, ComputeUnit, Device, Provenance
from perfmodel.hardware.fabric import System, Tier
from perfmodel.hardware.problems import example, explain
from perfmodel.units import parse

Basis = Literal["datasheet", "measured", "vendor statement", "derived", "unverified"]
Architecture = Literal[
    "volta", "ampere", "ada", "hopper", "blackwell", "blackwell-pcie", "cdna2", "cdna3", "cdna4",
    "tpu", "trainium", "gaudi", "ascend",
]  # fmt: skip
Topology = Literal["switched", "mesh", "ring", "torus2d", "torus3d", "fat-tree", "dragonfly"]
SCHEMA_VERSION = 1


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Table):
    """A document or a measurement that values refer to by its key."""

    title: str = Field(min_length=1)
    reference: str = Field(min_length=1)
    date: str
    basis: Basis

    @field_validator("date", mode="before")
    @classmethod
    def _year_at_least(cls, value: object) -> str:
        text = str(value)  # TOML has a date type of its own; both spellings are fine
        if not re.fullmatch(r"\d{4}(-\d\d(-\d\d)?)?", text):
            raise ValueError('is not a date; write "2024", "2024-03" or "2024-03-18"')
        return text


class Fact(_Table):
    """One number of a profile: its value in SI units, how the file wrote it, and where it comes from."""

    value: float
    text: str
    source: str
    basis: Basis | None = None
    note: str = ""


def _read_fact(dimension: str, raw: object) -> object:
    """Turn ``{ value = "3.35 TB/s", source = "datasheet" }`` into SI, or say what is wrong with it."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"has no source; write {example(dimension)}")
    if "value" not in raw:
        raise ValueError(f"has no value; write {example(dimension)}")
    if not isinstance(raw.get("source"), str) or not raw["source"].strip():
        raise ValueError(f"has no source; write {example(dimension)} with a key of [sources]")
    if "text" in raw:
        raise ValueError("unknown key 'text'; the keys here are value, source, basis, note")
    try:
        value = parse(raw["value"], dimension)
    except UnitError as error:
        raise ValueError(str(error)) from None
    if value <= 0:
        raise ValueError(f"{raw['value']!r} is not more than zero; leave the key out if the number is unknown")
    return {**raw, "value": value, "text": str(raw["value"])}


CountFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "count"))]
TimeFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "time"))]
SizeFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "size"))]
BandwidthFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "bandwidth"))]
ComputeFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "compute"))]
PowerFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "power"))]
FrequencyFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "frequency"))]
PriceFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "price"))]


class Peaks(_Table):
    """Dense peaks; a format that is absent is not supported."""

    fp64: ComputeFact | None = None
    fp32: ComputeFact | None = None
    tf32: ComputeFact | None = None
    bf16: ComputeFact | None = None
    fp16: ComputeFact | None = None
    fp8: ComputeFact | None = None
    int8: ComputeFact | None = None
    fp6: ComputeFact | None = None
    fp4: ComputeFact | None = None

    @model_validator(mode="after")
    def _something(self) -> "Peaks":
        if not any(getattr(self, name) for name in FORMATS):
            raise ValueError(f"has no peak; give at least one of {', '.join(FORMATS)}")
        return self


class Memory(_Table):
    """Device memory and the last-level cache in front of it."""

    capacity: SizeFact
    bandwidth: BandwidthFact
    cache: SizeFact | None = None
    cache_bandwidth: BandwidthFact | None = None


class Sustained(_Table):
    """Rates that the device was measured to reach, where its kernels have no calibration; at most the peaks."""

    bf16: ComputeFact | None = None
    fp16: ComputeFact | None = None
    fp8: ComputeFact | None = None
    int8: ComputeFact | None = None
    fp4: ComputeFact | None = None
    bandwidth: BandwidthFact | None = None


class Chip(_Table):
    """Counts, clock, power, host link and price of the device."""

    cores: CountFact
    clock: FrequencyFact | None = None
    power: PowerFact | None = None
    host_bandwidth: BandwidthFact | None = None
    price: PriceFact | None = None
    dies: int = Field(default=1, ge=1)


class UnitTable(_Table):
    """A second kind of processor in the device."""

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    peak: Peaks
    bandwidth: BandwidthFact


class TierTable(_Table):
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


class _Profile(_Table):
    schema_version: Literal[1]
    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    name: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sources: dict[str, Source]

    def facts(self) -> Iterator[tuple[str, Fact]]:
        """Yield every number with its place in the file."""
        yield from _walk(self, "")

    @model_validator(mode="after")
    def _sources_exist(self) -> "_Profile":
        for key, fact in self.facts():
            if fact.source not in self.sources:
                near = suggest(fact.source, self.sources)
                fix = f"did you mean {near!r}?" if near else f"add [sources.{fact.source}]"
                raise ValueError(f"{key}: source {fact.source!r} is not in [sources]; {fix}")
        return self

    def provenance(self) -> tuple[Provenance, ...]:
        """Source of every number, flat."""
        return tuple(
            Provenance(key, f.text, f.value, f.basis or s.basis, s.title, s.reference, s.date, f.note)
            for key, f in self.facts()
            for s in (self.sources[f.source],)
        )


def _walk(table: BaseModel, prefix: str) -> Iterator[tuple[str, Fact]]:
    for name in type(table).model_fields:
        value = getattr(table, name)
        if isinstance(value, Fact):
            yield prefix + name, value
        elif isinstance(value, BaseModel):
            yield from _walk(value, f"{prefix}{name}.")
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from _walk(item, f"{prefix}{name}[{index}].")


class DeviceFile(_Profile):
    """A file of hardware_profiles/devices."""

    kind: Literal["device"]
    vendor: str = Field(min_length=1)
    architecture: Architecture
    default_system: str
    peak: Peaks
    memory: Memory
    chip: Chip
    sustained: Sustained = Sustained()
    unit: tuple[UnitTable, ...] = ()

    @model_validator(mode="after")
    def _below_peak(self) -> "DeviceFile":
        for name in FORMATS:
            reached, peak = getattr(self.sustained, name, None), getattr(self.peak, name)
            if reached and (peak is None or reached.value > peak.value):
                limit = "has no peak of that format" if peak is None else f"is more than peak.{name}, {peak.text}"
                raise ValueError(f"sustained.{name}: {reached.text} {limit}")
        reached = self.sustained.bandwidth
        if reached and reached.value > self.memory.bandwidth.value:
            raise ValueError(f"sustained.bandwidth: {reached.text} is more than memory.bandwidth")
        return self

    def build(self) -> Device:
        """Return the device as plain floats."""
        chip, memory = self.chip, self.memory
        return Device(
            id=self.id,
            name=self.name,
            vendor=self.vendor,
            architecture=self.architecture,
            peak_flops=_rates(self.peak),
            memory_bytes=memory.capacity.value,
            memory_bandwidth=memory.bandwidth.value,
            cores=int(chip.cores.value),
            default_system=self.default_system,
            cache_bytes=_optional(memory.cache),
            cache_bandwidth=_optional(memory.cache_bandwidth),
            clock_hz=_optional(chip.clock),
            power_w=_optional(chip.power),
            price_per_hour=_optional(chip.price),
            host_bandwidth=_optional(chip.host_bandwidth),
            dies=chip.dies,
            sustained_flops=_rates(self.sustained),
            sustained_bandwidth=_optional(self.sustained.bandwidth),
            units=tuple(ComputeUnit(u.name, _rates(u.peak), u.bandwidth.value) for u in self.unit),
            notes=self.notes,
            provenance=self.provenance(),
        )


class SystemFile(_Profile):
    """A file of hardware_profiles/systems."""

    kind: Literal["system"]
    device: str
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
                link_bandwidth=_optional(t.link_bandwidth),
                in_network_reduction=t.in_network_reduction,
                oversubscription=t.oversubscription,
                shape=t.shape,
                planes=t.planes,
            )
            for t in self.tier
        )
        domain = next((i for i, t in enumerate(self.tier) if t.scale_up), 0)
        return System(self.id, self.name, device, tiers, self.notes, self.provenance(), domain)


def _rates(table: Peaks | Sustained) -> dict[str, float]:
    return {name: fact.value for name in FORMATS if (fact := getattr(table, name, None)) is not None}


def _optional(fact: Fact | None) -> float | None:
    return None if fact is None else fact.value


KINDS: dict[str, type[DeviceFile] | type[SystemFile]] = {"device": DeviceFile, "system": SystemFile}


def check(data: Mapping[str, Any], path: Path) -> DeviceFile | SystemFile:
    """Check the tables of a profile file.

    Parameters
    ----------
    data : mapping
        What the TOML file holds.
    path : Path
        The file, for messages.

    Returns
    -------
    DeviceFile or SystemFile
        The checked tables.

    Raises
    ------
    ProfileError
        If they do not satisfy the schema; the message names file, key and fix in one line.
    """
    if "kind" not in data:
        raise ProfileError(f'{path}: kind: is missing; add kind = "device" or kind = "system"')
    model = KINDS.get(str(data["kind"]))
    if model is None:
        near = suggest(str(data["kind"]), KINDS)
        raise ProfileError(f"{path}: kind: {data['kind']!r} is not a profile; write {near or 'device or system'!r}")
    try:
        profile = model.model_validate(data)
    except ValidationError as error:
        problems = [explain(detail, model) for detail in error.errors()]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ProfileError(f"{path}: {problems[0]}{more}") from None
    if profile.id != path.stem:
        raise ProfileError(f"{path}: id: {profile.id!r} is not the file's name; call the file {profile.id}.toml")
    return profile
