"""Held-out errors: every kernel fitted again from scratch without some of its shapes, which it then predicts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from perfmodel.calibrate.cases import words
from perfmodel.calibrate.cross_validation import folds_by_shape
from perfmodel.calibrate.families import FAMILY_OF, GROUP, device_case, roofline
from perfmodel.calibrate.selection import fit_selected, menu
from perfmodel.errors import PerfmodelError
from perfmodel.estimate.kernel_checks import load_kernels
from perfmodel.hardware.catalog import list_devices
from perfmodel.hardware.kernels import KernelCalibration

FOLDS = 3
"""Parts into which the shapes of a kernel are dealt; each is predicted by a fit to the others."""


def known_attributes(profiles: str | None = None) -> list[KernelCalibration]:
    """Kernels of every device of the catalogue, whose attributes are what a fit may choose from.

    Parameters
    ----------
    profiles : str, optional
        Directory of profiles that is searched first.

    Returns
    -------
    list of KernelCalibration
        Measured kernels.
    """
    return [kernel for name in list_devices(profiles) for kernel in load_kernels(name, "", profiles).measured]


def predict_held_out(cases: pd.DataFrame, profiles: str | None = None, *, seed: int = 0) -> pd.DataFrame:
    """Predict every measured case by a fit that saw no case of its shape.

    A fit starts from the registered defaults and chooses the discrete attributes itself, by cross-validation among the
    shapes that it may see: nothing of a calibration file goes into it but the list of attributes that exist.

    Parameters
    ----------
    cases : pandas.DataFrame
        Measured cases: `op`, `hardware`, `measured_s` and the columns of their families.
    profiles : str, optional
        Directory of profiles that is searched first.
    seed : int
        Seed of the folds and fits.

    Returns
    -------
    pandas.DataFrame
        One row per case in the file's order: time_s, roofline_s, coefficients (most of any fold's fit), and the reason
        where there is no number.
    """
    cases = cases.reset_index(drop=True)
    numbers = np.full(len(cases), np.nan)
    out = pd.DataFrame({"time_s": numbers, "roofline_s": numbers, "coefficients": 0, "reason": ""})
    known = known_attributes(profiles)
    keys = pd.DataFrame({name: words(cases, name) for name in GROUP})
    for _, members in keys.groupby(list(GROUP), sort=False):
        group = {name: str(members[name].iloc[0]) for name in GROUP}
        try:
            columns = _predict_group(cases.loc[members.index], group, known, profiles, seed)
        except (PerfmodelError, ValueError) as error:
            out.loc[members.index, "reason"] = " ".join(str(error).split())
            continue
        for name, values in columns.items():
            out.loc[members.index, name] = values
    return out


def _predict_group(
    rows: pd.DataFrame, group: dict[str, str], known: Sequence[KernelCalibration], profiles: str | None, seed: int
) -> dict[str, Any]:
    """Held-out predictions of the cases of one kernel."""
    case = device_case(rows, group, profiles)
    measured = pd.to_numeric(rows["measured_s"], errors="coerce").to_numpy(dtype=np.float64)
    good = case.good & np.isfinite(measured) & (measured > 0.0)
    tried = menu(group, known)
    shape = [case.rows[name].to_numpy(dtype=np.float64) for name in FAMILY_OF[group["op"]].shape]
    fold = folds_by_shape(shape, FOLDS, seed)
    seconds = np.full(len(rows), np.nan)
    most = 0
    for held in range(FOLDS):
        seen, unseen = np.flatnonzero((fold != held) & good), np.flatnonzero((fold == held) & good)
        if not unseen.size:
            continue
        fitted = fit_selected(
            tried, _part(case.sizes, seen), case.numbers, measured[seen], [key[seen] for key in shape], seed=seed
        )
        seconds[unseen] = fitted.seconds(_part(case.sizes, unseen), case.numbers)
        most = max(most, len(fitted.needed))
    bound = np.asarray(roofline(case.rows, group, FAMILY_OF[group["op"]], case.numbers))
    bound = np.where(good, bound, np.nan)
    return {"time_s": seconds, "roofline_s": bound, "coefficients": most, "reason": case.reasons}


def _part(sizes: dict[str, Any], index: Any) -> dict[str, Any]:
    """Arguments of some of the cases."""
    return {name: np.asarray(value)[index] for name, value in sizes.items()}
