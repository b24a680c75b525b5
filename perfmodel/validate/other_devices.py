"""Kernels of a device that nobody measured: predicted by a fit to the same kernels on its nearest relatives."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from perfmodel.calibrate.cases import words
from perfmodel.calibrate.families import FAMILY_OF, GROUP, DeviceCase, device_case, roofline
from perfmodel.calibrate.selection import Selected, fit_selected, menu
from perfmodel.errors import CalibrationError, PerfmodelError
from perfmodel.estimate.kernel_checks import load_kernels
from perfmodel.estimate.sustained import MATRIX
from perfmodel.hardware.device import Device
from perfmodel.hardware.kernels import RELATIVES, KernelCalibration

KIND = tuple(name for name in GROUP if name not in ("hardware", "version", "system"))
"""Columns within which the kernels of several devices are taken for the same."""

MOST_SUSTAINED = 0.95
"""Part of its peak that a kernel is taken to reach where power leaves it room for more [1]."""


def predict_from_others(cases: pd.DataFrame, profiles: str | None = None, *, seed: int = 0) -> pd.DataFrame:
    """Predict the cases of every device by fits to those of other devices.

    The others are those of the same architecture, else of the nearest of its `RELATIVES` that has cases, else all. A
    fit starts from the registered defaults and chooses among attributes of kernels on other devices. Between
    architectures the matrix rate goes with the power limit of the board, as it does there: of the peak a device
    reaches more where it has more power for it.

    Parameters
    ----------
    cases : pandas.DataFrame
        Measured cases of several devices: `op`, `hardware`, `measured_s` and the columns of their families.
    profiles : str, optional
        Directory of profiles that is searched first.
    seed : int
        Seed of the fits.

    Returns
    -------
    pandas.DataFrame
        One row per case in the file's order: time_s, roofline_s, and the reason where there is no number.
    """
    cases = cases.reset_index(drop=True)
    out = pd.DataFrame({"time_s": np.full(len(cases), np.nan), "roofline_s": np.nan, "reason": ""})
    keys = pd.DataFrame({name: words(cases, name) for name in GROUP})
    for _, kind in keys.groupby(list(KIND), sort=False):
        read: dict[str, DeviceCase] = {}
        measured: dict[str, Any] = {}
        groups: dict[str, dict[str, str]] = {}
        for name, members in kind.groupby("hardware", sort=False):
            device = str(name)
            groups[device] = {column: str(members[column].iloc[0]) for column in GROUP}
            try:
                read[device] = device_case(cases.loc[members.index], groups[device], profiles)
            except (PerfmodelError, ValueError) as error:
                out.loc[members.index, "reason"] = " ".join(str(error).split())
                continue
            measured[device] = pd.to_numeric(cases.loc[members.index, "measured_s"], errors="coerce").to_numpy(float)
        for device, case in read.items():
            index = case.rows.index
            out.loc[index, "reason"] = case.reasons
            bound = np.asarray(roofline(case.rows, groups[device], FAMILY_OF[groups[device]["op"]], case.numbers))
            out.loc[index, "roofline_s"] = np.where(case.good, bound, np.nan)
            try:
                others = nearest_devices(case.device, [c.device for c in read.values()])
                fitted = _fitted(others, read, measured, groups[others[0].id], case.device, profiles, seed)
            except (PerfmodelError, ValueError) as error:
                out.loc[index, "reason"] = " ".join(str(error).split())
                continue
            out.loc[index, "time_s"] = np.where(case.good, fitted.seconds(case.sizes, case.numbers), np.nan)
    return out


def nearest_devices(device: Device, measured: Sequence[Device]) -> list[Device]:
    """Choose the devices whose kernels stand in for one that was not measured.

    Parameters
    ----------
    device : Device
        Device that was not measured.
    measured : sequence of Device
        Devices that were; the device itself does not count.

    Returns
    -------
    list of Device
        Those of the same architecture, else of the nearest relative, else all.

    Raises
    ------
    CalibrationError
        If no other device was measured.
    """
    others = [other for other in measured if other.id != device.id]
    if not others:
        raise CalibrationError(f"no device but {device.id} has cases of this kernel")
    for architecture in (device.architecture, *RELATIVES.get(device.architecture, ())):
        alike = [other for other in others if other.architecture == architecture]
        if alike:
            return alike
    return others


def _fitted(
    others: Sequence[Device],
    read: Mapping[str, DeviceCase],
    measured: Mapping[str, Any],
    group: Mapping[str, str],
    device: Device,
    profiles: str | None,
    seed: int,
) -> Selected:
    """Fit the cases of other devices together, and carry the fit over to one that is none of them."""
    known: list[KernelCalibration] = []
    for other in others:
        known += load_kernels(other.id, "", profiles).measured
    good = {other.id: read[other.id].good & (measured[other.id] > 0.0) for other in others}
    cases = [(read[other.id], good[other.id]) for other in others]
    sizes = {n: np.concatenate([np.asarray(c.sizes[n])[kept] for c, kept in cases]) for n in cases[0][0].sizes}
    first = cases[0][0]
    numbers = {
        n: v if isinstance(v, str) else np.concatenate([np.full(int(kept.sum()), c.numbers[n]) for c, kept in cases])
        for n, v in first.numbers.items()
    }
    shape = [
        np.concatenate([c.rows[n].to_numpy(dtype=np.float64)[kept] for c, kept in cases])
        for n in FAMILY_OF[group["op"]].shape
    ]
    times = np.concatenate([measured[other.id][good[other.id]] for other in others])
    fitted = fit_selected(menu(group, known), sizes, numbers, times, shape, seed=seed)
    return _carried(fitted, others, device, first.format)


def _carried(fitted: Selected, others: Sequence[Device], device: Device, format: str) -> Selected:
    """Scale the matrix rate with the power for a device of a related architecture."""
    if others[0].architecture not in RELATIVES.get(device.architecture, ()):
        return fitted
    peak = "bf16" if format not in device.peak_flops else format
    if device.power_w is None or not all(other.power_w and peak in other.peak_flops for other in others):
        return fitted
    theirs = np.mean([float(other.power_w or 0.0) / other.peak_flops[peak] for other in others])
    ratio = float(device.power_w / device.peak_flops[peak] / theirs)
    changed = {
        name: min(value * ratio, max(MOST_SUSTAINED, value))
        for name, value in fitted.result.coefficients.items()
        if name in MATRIX
    }
    return replace(fitted, result=replace(fitted.result, coefficients={**fitted.result.coefficients, **changed}))
