"""Operator calibration: coefficients of each kernel family from a user's measured cases, or the reason why not."""

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from perfmodel.arrays import as_floats
from perfmodel.calibrate.cases import words
from perfmodel.calibrate.families import FAMILY_OF, Family, link_numbers, roofline
from perfmodel.calibrate.files import measured_range
from perfmodel.calibrate.fit import fit_form
from perfmodel.calibrate.fit_errors import errors_of
from perfmodel.calibrate.starts import best_start, known_kernels
from perfmodel.costs.formats import FORMATS
from perfmodel.errors import CalibrationError, PerfmodelError
from perfmodel.estimate.timing import device_numbers
from perfmodel.hardware.catalog import load_system
from perfmodel.hardware.device import Device
from perfmodel.hardware.kernels import KernelCalibration, KernelTable

FEWEST_POINTS = 20
"""Cases of one kernel family below which a fit would say more about noise than about the kernel."""

FEWEST_SHAPES = 5
"""Distinct shapes below which nothing can be held out."""

WORST_MEDIAN = 0.5
"""Median error of a fit from which the formula does not describe the cases [1]."""

_KEY = ("op", "dtype", "kv_dtype", "kernel", "mode", "version")


class _LeftOutError(CalibrationError):
    """One family of a file has too little to be fitted, which says nothing about the others."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A kernel family of a case file that was not fitted.

    Parameters
    ----------
    reason : str
        Which family, and why.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Calibrated:
    """One fitted kernel family and how well it fits.

    Parameters
    ----------
    kernel : dict
        Entry of a calibration file.
    before_mape : float
        Error of the coefficients that were there before, or of the defaults, on the same cases [%].
    """

    kernel: dict[str, Any]
    before_mape: float


def calibrate_operators(
    cases: pd.DataFrame,
    device: Device,
    engine: str,
    kernels: KernelTable,
    *,
    source: str,
    elsewhere: Sequence[KernelCalibration] = (),
    profiles: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> tuple[list[Calibrated], list[LeftOut]]:
    """Fit every kernel family of a case file that has enough cases.

    The coefficients known for the device or its architecture are the prior, so that fifty points are enough. Attributes
    are taken from the known kernel that predicts held-out shapes best.

    Parameters
    ----------
    cases : pandas.DataFrame
        Measured cases with `op`, `measured_s` and the columns of their families; `hardware` and `engine`, where
        present, select the rows of this device and engine.
    device : Device
        Device that was measured.
    engine : str
        Software whose kernels were timed.
    kernels : KernelTable
        What is known already.
    source : str
        Name of the data set, for the provenance.
    elsewhere : sequence of KernelCalibration
        Kernels of other devices, whose attributes are tried as well.
    profiles : path, optional
        Directory of profiles that is searched first for the system that the device sits in.
    seed : int
        Seed of the fits.

    Returns
    -------
    tuple of list
        The families that were fitted and those that have too few cases or shapes, in the order of the file.

    Raises
    ------
    CalibrationError
        If no case is of this device and engine, every family has too few points or shapes, a number is missing, or
        the times cannot be seconds.
    """
    cases = cases.reset_index(drop=True)
    for column, wanted in (("hardware", device.id), ("engine", engine)):
        if column in cases:
            there = words(cases, column)
            cases = cases[there == wanted]
            if not len(cases):
                others = ", ".join(sorted(set(there) - {""})[:8]) or "nothing"
                raise CalibrationError(f"no case has {column} {wanted!r}; the file has {others}")
    cases = cases.assign(hardware=device.id, engine=engine)
    links = link_numbers(load_system(device.default_system, profiles))
    keys = pd.DataFrame({name: words(cases, name) for name in _KEY}, index=cases.index)
    found: list[Calibrated] = []
    left: list[LeftOut] = []
    for _, members in keys.groupby(list(_KEY), sort=False):
        group = {name: str(members[name].iloc[0]) for name in _KEY}
        rows = cases.loc[members.index]
        try:
            found.append(_calibrate_group(rows, group, device, engine, kernels, elsewhere, links, source, seed))
        except _LeftOutError as error:
            left.append(LeftOut(str(error)))
    if not found:
        more = f"; nor can the other {len(left) - 1} families of the file be fitted" if len(left) > 1 else ""
        raise CalibrationError(left[0].reason + more)
    return found, left


def _calibrate_group(
    rows: pd.DataFrame,
    group: dict[str, str],
    device: Device,
    engine: str,
    kernels: KernelTable,
    elsewhere: Sequence[KernelCalibration],
    links: Mapping[str, Any],
    source: str,
    seed: int,
) -> Calibrated:
    label = " ".join(part for part in group.values() if part)
    family = FAMILY_OF.get(group["op"])
    if family is None:
        raise CalibrationError(f"op {group['op']!r} is none of {', '.join(FAMILY_OF)}")
    format = group["dtype"] or "bf16"
    if format not in FORMATS:
        raise CalibrationError(f"{label}: dtype {format!r} is none of {', '.join(FORMATS)}")
    rows = _checked(rows.assign(dtype=format), family, label)
    latent = group["op"].endswith("mla") and group["kv_dtype"] == "fp8"
    numbers = {**device_numbers(device, "fp8" if latent else format), **links, "op": group["op"]}
    measured = rows["measured_s"].to_numpy(dtype=np.float64)
    sizes = _sizes(rows, family, device, label)
    tried = known_kernels(group, format, engine, kernels, elsewhere, family.form)
    before = tried[0].seconds(sizes, numbers)
    _refuse_wrong_units(measured, as_floats(roofline(rows, group, family, numbers)), before, label)
    shape = [as_floats(rows[name]) for name in family.shape if name in rows]

    chosen, held = best_start(tried, sizes, numbers, measured, shape, seed=seed)
    fixed = chosen.fixed(numbers)
    result = fit_form(chosen.form, sizes, fixed, measured, priors=chosen.coefficients, seed=seed)
    if result.median > WORST_MEDIAN:
        raise CalibrationError(
            f"{label}: the best fit of {chosen.form.name} is off by {result.median:.0%} in the median case:"
            " the sizes, the times or the hardware are not what the columns say"
        )
    return Calibrated(
        {
            "operator": group["op"],
            "format": group["dtype"] or ("" if group["mode"] else format),
            "kv_format": group["kv_dtype"],
            "version": group["version"],
            "kernel": group["kernel"] or group["mode"],
            "form": chosen.form.name,
            "attributes": dict(chosen.attributes),
            "coefficients": {name: value for name, value in result.coefficients.items() if name not in fixed},
            "provenance": {
                "dataset": source,
                "date": datetime.date.today().isoformat(),
                "points": int(measured.size),
                "fit_mape": round(100.0 * result.mape, 2),
                "fit_median": round(100.0 * result.median, 2),
                "heldout_mape": round(100.0 * held.mape, 2),
                "heldout_median": round(100.0 * held.median, 2),
                "range": measured_range(chosen.form, sizes),
            },
        },
        before_mape=100.0 * errors_of(before, measured).mape,
    )


def _sizes(rows: pd.DataFrame, family: Family, device: Device, label: str) -> dict[str, Any]:
    """Arguments of the family's formula; text that it cannot read is refused."""
    try:
        sizes = {name: value for name, value in family.sizes(rows, device).items() if value is not None}
    except (PerfmodelError, ValueError) as error:
        raise CalibrationError(f"{label}: {error}") from None
    return sizes


def _checked(rows: pd.DataFrame, family: Family, label: str) -> pd.DataFrame:
    """Rows with numbers in every column; anything else is refused by name."""
    wanted = (*family.numbers, *family.words, "measured_s")
    missing = [name for name in wanted if name not in rows or rows[name].isna().all()]
    if missing:
        raise CalibrationError(f"{label}: column {missing[0]!r} is missing")
    rows = rows.copy()
    for name in (*family.numbers, "measured_s"):
        rows[name] = pd.to_numeric(rows[name], errors="coerce")
        wrong = ~(np.isfinite(rows[name].to_numpy()) & (rows[name].to_numpy() > 0))
        if wrong.any():
            raise CalibrationError(
                f"{label}: {int(wrong.sum())} of {len(rows)} values of {name} are no positive numbers,"
                f" the first in data row {int(rows.index[wrong.argmax()]) + 1}"
            )
    for name in family.optional:
        rows[name] = pd.to_numeric(rows[name], errors="coerce").fillna(0.0) if name in rows else 0.0
    if len(rows) < FEWEST_POINTS:
        raise _LeftOutError(
            f"{label}: {len(rows)} cases are too few; measure at least {FEWEST_POINTS}, better 50, or leave them out"
        )
    shapes = len(rows[[name for name in family.shape if name in rows]].drop_duplicates())
    if shapes < FEWEST_SHAPES:
        raise _LeftOutError(
            f"{label}: {shapes} distinct shape{' is' if shapes == 1 else 's are'} too few to hold any out;"
            f" {FEWEST_SHAPES} are needed, or leave them out"
        )
    return rows


def _refuse_wrong_units(
    measured: npt.NDArray[np.float64],
    bound: npt.NDArray[np.float64],
    usual: npt.NDArray[np.float64],
    label: str,
) -> None:
    """Large cases run within a factor of some ten of the roofline; a factor of a thousand is a unit.

    Where even the largest cases are all launch, they are far from the roofline and near to what is usual.
    """
    large = bound >= np.quantile(bound, 0.8)
    ratio = float(np.median(measured[large] / bound[large]))
    against_usual = float(np.median(measured[large] / usual[large]))
    if ratio < 0.3:
        raise CalibrationError(
            f"{label}: the largest cases take {ratio:.2g} of the least time that the datasheet allows;"
            " measured_s must be in seconds, and hardware the device that was measured"
        )
    if against_usual < 1.0 / 30.0:
        raise CalibrationError(
            f"{label}: the largest cases take {against_usual:.2g} of what known kernels take;"
            " measured_s must be in seconds, and hardware the device that was measured"
        )
    if ratio > 300.0 and against_usual > 30.0:
        raise CalibrationError(
            f"{label}: the largest cases take {ratio:,.0f} times the least time that the datasheet allows;"
            " measured_s must be in seconds (are these milliseconds or microseconds?)"
        )
