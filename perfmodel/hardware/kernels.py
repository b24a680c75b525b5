"""Kernel calibrations: fitted coefficients of one formula on one device, and how to find the nearest ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

Basis: TypeAlias = Literal["measured", "default", "datasheet"]
"""What a time rests on: measurements of the kernel on this device, what stands in for them, or the datasheet alone.

Defaults of an architecture stand in, and so do a device's figures of another kernel, format or engine or of its
fabric."""

# Formats whose kernels behave alike, nearest first: where a format was not measured, its neighbour's
# coefficients serve (they are relative to the format's own peak and bytes).
NEAR_FORMATS: Mapping[str, tuple[str, ...]] = {
    "bf16": ("fp16",),
    "fp16": ("bf16",),
    "fp8": ("fp8_block", "bf16"),
    "fp8_block": ("fp8", "bf16"),
    "mxfp8": ("fp8_block", "fp8", "bf16"),
    "int8": ("sq", "fp8", "bf16"),
    "sq": ("int8", "fp8", "bf16"),
    "int8_wo": ("int4_wo", "bf16"),
    "int4_wo": ("int8_wo", "w4a16_mxfp4", "bf16"),
    "nvfp4": ("mxfp4", "fp8_block", "fp8", "bf16"),
    "mxfp4": ("nvfp4", "w4a8_mxfp4_mxfp8", "fp8_block", "fp8", "bf16"),
    "w4a16_mxfp4": ("int4_wo", "bf16"),
    "w4a8_mxfp4_mxfp8": ("mxfp4", "nvfp4", "fp8_block", "fp8", "bf16"),
}


RELATIVES: Mapping[str, tuple[str, ...]] = {
    "ada": ("blackwell-pcie",),
    "blackwell-pcie": ("ada",),
}
"""Architectures that stand in for each other, nearest first.

These two multiply one warp at a time (mma.sync), keep a large cache before GDDR memory, and sit on boards whose power
limits the matrix rate."""


_OTHER_ENGINE = 2
# Distance of another engine's own kernel; one that stands for all engines is nearer.


@dataclass(frozen=True, slots=True, eq=False)
class KernelCalibration:
    """Coefficients of one registered formula, fitted to one kernel family.

    Parameters
    ----------
    operator : str
        gemm, prefill_attention, decode_attention, prefill_mla, decode_mla, moe, all_reduce, ...
    engine : str
        Software whose kernels were timed; empty for defaults.
    kernel : str
        Kernel family where one engine has several.
    format, kv_format : str
        Number formats of the operands and of the KV cache; empty where they do not matter.
    version : str
        Version of the engine.
    form : str
        Name of the registered formula.
    coefficients : mapping
        Keyword -> value in SI units.
    attributes : mapping
        Discrete keywords of the formula.
    host_timed : bool
        Whether the host's launches are part of the measured times, as they are not where a step is a captured graph.
    basis : str
        measured on this device, or default where something else stands in.
    provenance : mapping
        Data set, date, number of points, fit error and held-out error [%].
    place : str
        File and entry it was read from, for messages.
    architecture : str
        Architecture whose default it is, `generic` where it stands for every one; empty for a device's own.
    flop_energy_j : float
        Of defaults: energy per operation at the board's power limit, which caps the matrix rate of a device that has
        less power for its peak than those that were measured; zero where it is not known [J].
    """

    operator: str
    engine: str
    kernel: str
    format: str
    kv_format: str
    version: str
    form: str
    coefficients: Mapping[str, float]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    host_timed: bool = False
    basis: Basis = "measured"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""
    architecture: str = ""
    flop_energy_j: float = 0.0

    def owner(self, device: str) -> str:
        """Say whose coefficients these are.

        Parameters
        ----------
        device : str
            Id of the device that is timed.

        Returns
        -------
        str
            The device, or the defaults that stand in for it.
        """
        return f"{self.architecture} defaults" if self.architecture else device


@dataclass(frozen=True, slots=True, eq=False)
class KernelTable:
    """Every calibration that may serve one device: its own first, then the defaults of its architecture.

    Parameters
    ----------
    measured : tuple of KernelCalibration
        Filed for this device, preferred ones first.
    defaults : tuple of KernelCalibration
        Defaults, the architecture's before the generic ones.
    """

    measured: tuple[KernelCalibration, ...] = ()
    defaults: tuple[KernelCalibration, ...] = ()
    _found: dict[tuple[Any, ...], KernelCalibration | None] = field(default_factory=dict, init=False, repr=False)

    def software(self) -> list[str]:
        """List whose kernels were measured.

        Returns
        -------
        list of str
            Engine and version, in alphabetical order.
        """
        return list(_software(self.measured))

    def find(
        self,
        operator: str,
        format: str = "",
        *,
        kv_format: str = "",
        engine: str = "",
        kernel: str = "",
        captured: bool = False,
    ) -> KernelCalibration | None:
        """Find the calibration nearest to what is asked for.

        A measured kernel of the same engine is nearest, then of another engine, then the defaults; within each,
        the exact formats come before neighbouring ones and the named kernel before the others. What was measured with
        other formats, another engine or another kernel than those asked for only stands in, and says so in its basis.

        Parameters
        ----------
        operator : str
            Operator to time.
        format : str
            Operand format; empty matches any.
        kv_format : str
            Format of the KV cache; empty matches any.
        engine : str
            Serving engine; empty prefers the first listed.
        kernel : str
            Kernel family; empty prefers the first listed.
        captured : bool
            Leave out kernels that were timed with the host in the loop.

        Returns
        -------
        KernelCalibration or None
            The nearest calibration, None when the operator has none at all.
        """
        asked = (operator, format, kv_format, engine, kernel, captured)
        if asked not in self._found:
            self._found[asked] = self._nearest(*asked)
        return self._found[asked]

    def _nearest(
        self, operator: str, format: str, kv_format: str, engine: str, kernel: str, captured: bool
    ) -> KernelCalibration | None:
        formats = (format, *NEAR_FORMATS.get(format, ()))
        best: tuple[tuple[int, int, int, int, int], KernelCalibration] | None = None
        for tier, table in ((0, self.measured), (1, self.defaults)):
            for row in table:
                if row.operator != operator or (captured and row.host_timed):
                    continue
                if format and row.format and row.format not in formats:
                    continue
                distance = (
                    formats.index(row.format) if format and row.format else 0,
                    tier,
                    int(bool(kv_format) and row.kv_format != kv_format),
                    # An entry that stands for all engines is nearer than another engine's own.
                    0 if not engine or row.engine == engine else 1 if not row.engine else _OTHER_ENGINE,
                    int(bool(kernel) and row.kernel != kernel),
                )
                if best is None or distance < best[0]:
                    best = (distance, row)
        if best is None:
            return None
        (other_format, _, other_cache, other_engine, other_kernel), row = best
        stands_in = other_format or other_cache or other_engine == _OTHER_ENGINE or other_kernel
        return replace(row, basis="default") if stands_in else row


@lru_cache(maxsize=64)
def _software(rows: tuple[KernelCalibration, ...]) -> tuple[str, ...]:
    return tuple(sorted({f"{row.engine} {row.version}".strip() for row in rows}))
