"""Schema of a device's profile file: peaks, memory, chip, sustained rates."""

from typing import Literal

from pydantic import Field, model_validator

from perfmodel.hardware.device import FORMATS, ComputeUnit, Device
from perfmodel.hardware.schema_facts import (
    BandwidthFact,
    ComputeFact,
    CountFact,
    FrequencyFact,
    PowerFact,
    PriceFact,
    Profile,
    SizeFact,
    Table,
    value_of,
)

Architecture = Literal[
    "volta", "ampere", "ada", "hopper", "blackwell", "blackwell-pcie", "cdna2", "cdna3", "cdna4",
    "tpu", "trainium", "gaudi", "ascend",
]  # fmt: skip


class Peaks(Table):
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


class Memory(Table):
    """Device memory and the last-level cache in front of it."""

    capacity: SizeFact
    bandwidth: BandwidthFact
    cache: SizeFact | None = None
    cache_bandwidth: BandwidthFact | None = None


class Sustained(Table):
    """Rates that the device was measured to reach, where its kernels have no calibration; at most the peaks."""

    bf16: ComputeFact | None = None
    fp16: ComputeFact | None = None
    fp8: ComputeFact | None = None
    int8: ComputeFact | None = None
    fp4: ComputeFact | None = None
    bandwidth: BandwidthFact | None = None


class Chip(Table):
    """Counts, clock, power, host link and price of the device."""

    cores: CountFact
    clock: FrequencyFact | None = None
    power: PowerFact | None = None
    host_bandwidth: BandwidthFact | None = None
    price: PriceFact | None = None
    dies: int = Field(default=1, ge=1)


class UnitTable(Table):
    """A second kind of processor in the device."""

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    peak: Peaks
    bandwidth: BandwidthFact


def _rates(table: Peaks | Sustained) -> dict[str, float]:
    return {name: fact.value for name in FORMATS if (fact := getattr(table, name, None)) is not None}


class DeviceFile(Profile):
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
            cache_bytes=value_of(memory.cache),
            cache_bandwidth=value_of(memory.cache_bandwidth),
            clock_hz=value_of(chip.clock),
            power_w=value_of(chip.power),
            price_per_hour=value_of(chip.price),
            host_bandwidth=value_of(chip.host_bandwidth),
            dies=chip.dies,
            sustained_flops=_rates(self.sustained),
            sustained_bandwidth=value_of(self.sustained.bandwidth),
            units=tuple(ComputeUnit(u.name, _rates(u.peak), u.bandwidth.value) for u in self.unit),
            notes=self.notes,
            provenance=self.provenance(),
        )
