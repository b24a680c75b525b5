"""Serving predictions of deployments that took no part in the fit of their engine's constants."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from perfmodel.calibrate.cases import numbers, words
from perfmodel.calibrate.serving import Deployments, fit_engine, measured_deployments, predicted
from perfmodel.errors import CalibrationError
from perfmodel.validate.serving import grouped_cases, predict_serving_cases

LEFT_OUT = ("model", "hardware", "engine")
"""What can be left out: all rows of one value of the column at a time."""


def predict_left_out(
    cases: pd.DataFrame, by: str, profiles: str | None = None
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Predict each deployment with constants fitted to the others.

    For every value of the column the constants of each engine are fitted to its deployments with other values; where
    none is left, as when an engine itself is left out, to the deployments of all other engines. Kernels, and what an
    engine's profile says it does, stay: deployments took no part in either.

    Parameters
    ----------
    cases : pandas.DataFrame
        Measured deployments with prefill and decode on the same workers, as `predict_serving_cases` reads them.
    by : str
        One of `LEFT_OUT`.
    profiles : str, optional
        Directory of profiles that is searched first.

    Returns
    -------
    tuple of pandas.DataFrame and list of dict
        Columns ttft_s and tpot_s in the order of the cases, NaN for one that cannot be predicted; and the constants of
        each fit.

    Raises
    ------
    CalibrationError
        If no deployment is left to fit to.
    """
    cases = cases.reset_index(drop=True)
    if "prefill_num_workers" in cases and cases["prefill_num_workers"].notna().any():
        raise CalibrationError(
            "column prefill_num_workers: constants are fitted to deployments with one kind of worker"
        )
    out = pd.DataFrame(np.nan, index=cases.index, columns=["ttft_s", "tpot_s"])
    cases = cases[predict_serving_cases(cases, profiles)["ttft_s"].notna()]
    labels = pd.DataFrame({name: words(cases, name) for name in LEFT_OUT}, index=cases.index)
    found: list[tuple[pd.Index, Deployments]] = []
    for index, spec, on, grid, workload, precision in grouped_cases(cases, profiles):
        rows = cases.loc[index]
        latencies = {f"{m}_s": numbers(rows, f"measured_{m}_s") for m in ("ttft", "tpot")}
        found.append((index, measured_deployments(spec, on, grid, workload, precision, **latencies)))
    fits = []
    for value in labels[by].unique():
        for engine in labels.loc[labels[by] == value, "engine"].unique():
            tested = [(i, g) for i, g in found if _is(labels, i, {by: value, "engine": engine})]
            if not tested:
                continue
            others = [(i, g) for i, g in found if not _is(labels, i, {by: value})]
            same = [g for i, g in others if _is(labels, i, {"engine": engine})]
            training = same or [g for _, g in others]
            if not training:
                raise CalibrationError(f"every deployment has {by} {value!r}: none is left to fit to")
            constants = fit_engine(training)
            fits.append({by: value, "engine": engine, "groups": len(training), **constants})
            for index, group in tested:
                out.loc[index, "ttft_s"], out.loc[index, "tpot_s"] = predicted(group, constants)
    return out, fits


def _is(labels: pd.DataFrame, index: pd.Index, wanted: Mapping[str, str]) -> bool:
    """Whether a group, whose rows share their labels, has the ones that are wanted."""
    first = labels.loc[index[0]]
    return all(first[name] == value for name, value in wanted.items())
