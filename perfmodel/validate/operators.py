"""Operator predictions for case files: seconds of every case, what they rest on, and the roofline beside."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from perfmodel.arrays import as_floats
from perfmodel.calibrate.cases import words
from perfmodel.calibrate.families import FAMILY_OF, GROUP, device_case, roofline
from perfmodel.costs.registry import get_formula
from perfmodel.errors import PerfmodelError
from perfmodel.estimate.kernel_checks import load_kernels
from perfmodel.estimate.sustained import at_sustained_rates
from perfmodel.estimate.timing import beyond_range, call_form, default_cores
from perfmodel.hardware.kernels import KernelCalibration

OUTPUT = ("id", "time_s", "roofline_s", "basis", "beyond", "formula", "kernel", "reason")
"""Columns of a prediction file."""


def predict_operators(cases: pd.DataFrame, profiles: str | None = None) -> pd.DataFrame:
    """Predict every case of an operator file.

    Parameters
    ----------
    cases : pandas.DataFrame
        Cases with `id`, `op`, `hardware` and the columns of their family; measured columns are not read.
    profiles : str, optional
        Directory of profiles that is searched first.

    Returns
    -------
    pandas.DataFrame
        One row per case in the file's order, columns `OUTPUT`; `beyond` names the sizes outside the range that the
        coefficients were fitted to, and a case without a number has a reason.
    """
    cases = cases.reset_index(drop=True)
    out = pd.DataFrame(
        {
            "id": words(cases, "id") if "id" in cases else cases.index.astype(str),
            "time_s": np.full(len(cases), np.nan),
            "roofline_s": np.full(len(cases), np.nan),
            "basis": "",
            "beyond": "",
            "formula": "",
            "kernel": "",
            "reason": "",
        }
    )
    keys = pd.DataFrame({name: words(cases, name) for name in GROUP})
    for _, members in keys.groupby(list(GROUP), sort=False):
        index = members.index
        group = {name: str(members[name].iloc[0]) for name in GROUP}
        rows = cases.loc[index]
        try:
            predicted = _predict_group(rows, group, profiles)
        except (PerfmodelError, ValueError) as error:
            out.loc[index, "reason"] = " ".join(str(error).split())
            continue
        for name, values in predicted.items():
            out.loc[index, name] = values
    return out[list(OUTPUT)]


def _predict_group(rows: pd.DataFrame, group: dict[str, str], profiles: str | None) -> dict[str, Any]:
    """Columns of the output for cases that one calibration serves."""
    case = device_case(rows, group, profiles)
    device, numbers = case.device, case.numbers
    kernels = at_sustained_rates(load_kernels(device.id, device.architecture, profiles), device)
    calibration = kernels.find(
        group["op"],
        "" if group["op"] in ("dispatch", "combine") else case.format,
        kv_format=group["kv_dtype"],
        engine=group["engine"],
        kernel=group["kernel"] or group["mode"],
    )
    bound = roofline(case.rows, group, FAMILY_OF[group["op"]], numbers)
    if calibration is None:
        form = get_formula("roofline_time")
        seconds = as_floats(bound) / form.defaults()["memory_efficiency"] + form.defaults()["launch_s"]
        described: tuple[str, str, str] = ("datasheet", "roofline_time", "")
        beyond = np.full(len(rows), "", dtype=object)
    else:
        if calibration.architecture:
            numbers["cores"] = default_cores(device)
        seconds = as_floats(call_form(calibration, case.sizes, numbers))
        described = (calibration.basis, calibration.form, _name(calibration))
        beyond = _beyond(calibration, case.sizes, len(rows))
    seconds = np.broadcast_to(seconds, (len(rows),))
    return {
        "time_s": np.where(case.good, seconds, np.nan),
        "roofline_s": np.where(case.good, bound, np.nan),
        "basis": described[0],
        "beyond": np.where(case.good, beyond, ""),
        "formula": described[1],
        "kernel": described[2],
        "reason": case.reasons,
    }


def _beyond(calibration: KernelCalibration, sizes: Mapping[str, Any], count: int) -> npt.NDArray[np.object_]:
    """Names of the sizes of every case that are outside the range of the fit, separated by spaces."""
    names = np.full(count, "", dtype=object)
    for name, outside in beyond_range(calibration, sizes).items():
        names = np.where(outside, names + np.where(names == "", name, f" {name}").astype(object), names)
    return names


def _name(calibration: KernelCalibration) -> str:
    parts = (calibration.engine, calibration.version, calibration.kernel, calibration.format)
    return "/".join(part for part in parts if part)
