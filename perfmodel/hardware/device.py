"""Device: the rates, sizes and counts of one accelerator as plain floats in SI units."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from perfmodel.errors import PlanError

FORMATS = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4")
"""Number formats that a datasheet gives a peak for; the keys of `Device.peak_flops`."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where one number of a profile comes from.

    Parameters
    ----------
    key : str
        Place in the file, for instance "memory.bandwidth".
    text : str
        The value as the file writes it.
    value : float
        The value in SI units.
    basis : str
        "datasheet", "measured", "vendor statement", "derived" or "unverified".
    source : str
        Title of the source.
    reference : str
        Where to find it.
    date : str
        When it was published or measured.
    note : str
        What to know before using the number.
    """

    key: str
    text: str
    value: float
    basis: str
    source: str
    reference: str
    date: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class ComputeUnit:
    """A second kind of processor in a device, beside the one that the device's own peaks describe.

    Parameters
    ----------
    name : str
        For instance "logic-pim".
    peak_flops : mapping of str to float
        Dense peak per number format; operators in other formats stay with the device's own processor [FLOP/s].
    memory_bandwidth : float
        Bandwidth at which the unit reads the device memory [B/s].
    """

    name: str
    peak_flops: Mapping[str, float] = field(hash=False)
    memory_bandwidth: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "peak_flops", MappingProxyType(dict(self.peak_flops)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, dict(self.peak_flops), self.memory_bandwidth)


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator: what its datasheet promises and what a framework sees of it.

    Peaks are dense, bandwidths one-way, `memory_bytes` is what a framework can allocate from (not the marketed size).
    A number that nobody publishes is None, never a guess.

    Parameters
    ----------
    id : str
        Catalogue id, for instance "h100-sxm".
    name : str
        Name for people.
    vendor : str
        Maker.
    architecture : str
        Family that shares kernels and calibrations: "hopper", "blackwell", "cdna3", "tpu" ...
    peak_flops : mapping of str to float
        Dense peak per number format; a format that is absent is not supported in hardware [FLOP/s].
    memory_bytes : float
        Device memory that a framework sees [B].
    memory_bandwidth : float
        Peak bandwidth of the device memory [B/s].
    cores : int
        Streaming multiprocessors, compute units or their like.
    default_system : str
        Id of the system that this device is assumed to sit in.
    cache_bytes : float, optional
        Last-level cache [B].
    cache_bandwidth : float, optional
        Read bandwidth of the last-level cache [B/s].
    clock_hz : float, optional
        Clock at which the peaks hold, or the highest clock [Hz].
    power_w : float, optional
        Board power limit [W].
    price_per_hour : float, optional
        Price of one device for one hour, in US dollars.
    host_bandwidth : float, optional
        Link to the host, one-way [B/s].
    dies : int, optional
        Dies in the package that software sees as this one device.
    sustained_flops : mapping of str to float, optional
        Rate per number format that a large matrix product was measured to reach [FLOP/s].
    sustained_bandwidth : float, optional
        Bandwidth that a large copy was measured to reach [B/s].
    units : tuple of ComputeUnit, optional
        Other processors in the device, nearer to its memory; every operator runs where it is fastest.
    notes : tuple of str, optional
        What to know before using the numbers.
    provenance : tuple of Provenance, optional
        The source of every number.

    Examples
    --------
    >>> Device("x1", "X1", "Acme", "x", {"bf16": 1e15}, 80e9, 3e12, 100, "x1-single").peak("bf16")
    1000000000000000.0
    """

    id: str
    name: str
    vendor: str
    architecture: str
    peak_flops: Mapping[str, float] = field(hash=False)
    memory_bytes: float
    memory_bandwidth: float
    cores: int
    default_system: str
    cache_bytes: float | None = None
    cache_bandwidth: float | None = None
    clock_hz: float | None = None
    power_w: float | None = None
    price_per_hour: float | None = None
    host_bandwidth: float | None = None
    dies: int = 1
    sustained_flops: Mapping[str, float] = field(default_factory=dict, hash=False)
    sustained_bandwidth: float | None = None
    units: tuple[ComputeUnit, ...] = ()
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)
    provenance: tuple[Provenance, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("peak_flops", "sustained_flops"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy cannot be pickled or copied; the constructor makes a new one.
        values = [getattr(self, name) for name in self.__dataclass_fields__]
        return type(self), tuple(dict(v) if isinstance(v, MappingProxyType) else v for v in values)

    def supports(self, number_format: str) -> bool:
        """Say whether the device has arithmetic in a number format.

        Parameters
        ----------
        number_format : str
            One of `FORMATS`.

        Returns
        -------
        bool
            True when `peak_flops` has it.
        """
        return number_format in self.peak_flops

    def peak(self, number_format: str) -> float:
        """Dense peak in a number format.

        Parameters
        ----------
        number_format : str
            One of `FORMATS`.

        Returns
        -------
        float
            Peak [FLOP/s].

        Raises
        ------
        PlanError
            If the device has no arithmetic in that format.
        """
        try:
            return self.peak_flops[number_format]
        except KeyError:
            has = ", ".join(self.peak_flops)
            raise PlanError(f"{self.id} does not compute in {number_format}; its formats are {has}") from None
