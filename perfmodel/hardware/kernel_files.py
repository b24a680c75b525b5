"""Calibration files: kernel coefficients of one device; `estimate.kernel_checks` compares them with their formulas."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from perfmodel.hardware.kernels import RELATIVES, Basis, KernelCalibration, KernelTable
from perfmodel.hardware.named_files import read_schema
from perfmodel.hardware.places import profile_directories


class _Provenance(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(min_length=1)
    date: str = Field(min_length=4)
    points: int = Field(gt=0)
    fit_mape: float = Field(ge=0)
    fit_median: float | None = None
    heldout_mape: float | None = None
    heldout_median: float | None = None
    range: dict[str, tuple[float, float]] | None = None
    note: str | None = None
    published: bool = False


class _Kernel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    operator: str
    engine: str = ""
    format: str = ""
    kv_format: str = ""
    version: str = ""
    kernel: str = ""
    form: str
    host_timed: bool = False
    basis: Literal["default"] | None = None  # of a device's kernel: figures of another one stand in
    attributes: dict[str, Any] = Field(default_factory=dict)
    coefficients: dict[str, float]
    flop_energy_j: float = Field(default=0.0, ge=0, allow_inf_nan=False)  # of defaults
    provenance: _Provenance


class _CalibrationFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    device: str | None = None
    architecture: str | None = None
    engine: str = ""
    kernel: tuple[_Kernel, ...]


def read_calibrations(path: Path, basis: Basis = "measured") -> tuple[KernelCalibration, ...]:
    """Read one calibration file.

    Parameters
    ----------
    path : pathlib.Path
        TOML file.
    basis : str
        What the times will be said to rest on where an entry does not say that it only stands in.

    Returns
    -------
    tuple of KernelCalibration
        In the file's order.

    Raises
    ------
    ProfileError
        If the file is not TOML or does not satisfy the schema; the message names file and key.
    """
    parsed = read_schema(path, _CalibrationFile)
    return tuple(
        KernelCalibration(
            operator=k.operator,
            engine=k.engine or parsed.engine,
            kernel=k.kernel,
            format=k.format,
            kv_format=k.kv_format,
            version=k.version,
            form=k.form,
            coefficients=k.coefficients,
            attributes=k.attributes,
            host_timed=k.host_timed,
            basis=k.basis or basis,
            provenance=k.provenance.model_dump(exclude_none=True),
            place=f"{path}: kernel.{n}",
            architecture=(parsed.architecture or path.stem) if basis == "default" else "",
            flop_energy_j=k.flop_energy_j,
        )
        for n, k in enumerate(parsed.kernel)
    )


def load_kernel_table(device: str, architecture: str, profiles: str | os.PathLike[str] | None = None) -> KernelTable:
    """Read every calibration that may serve one device, from every profile directory.

    Parameters
    ----------
    device, architecture : str
        Device id, and the architecture whose defaults stand in.
    profiles : path, optional
        Directory that is searched first.

    Returns
    -------
    KernelTable
        The user's calibrations before the built-in ones.
    """
    tables = [read_kernel_table(folder, device, architecture) for folder in profile_directories(profiles)]
    return KernelTable(
        tuple(row for table in tables for row in table.measured),
        tuple(row for table in tables for row in table.defaults),
    )


@lru_cache(maxsize=64)
def read_kernel_table(root: Path, device: str, architecture: str) -> KernelTable:
    """Read every calibration under a profile directory that may serve one device.

    Parameters
    ----------
    root : pathlib.Path
        Profile directory with a `calibrations` folder.
    device, architecture : str
        Device id, and the architecture whose defaults stand in.

    Returns
    -------
    KernelTable
        Empty when nothing was calibrated.
    """
    folder = root / "calibrations"
    measured = [row for path in sorted((folder / device).glob("*.toml")) for row in read_calibrations(path)]
    defaults = [
        row
        for name in (architecture, *RELATIVES.get(architecture, ()), "generic")
        if (folder / "defaults" / f"{name}.toml").is_file()
        for row in read_calibrations(folder / "defaults" / f"{name}.toml", "default")
    ]
    return KernelTable(tuple(measured), tuple(defaults))
