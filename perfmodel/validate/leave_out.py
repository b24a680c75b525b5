"""Serving predictions of deployments that took no part in the fit of their engine's constants."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from perfmodel.calibrate.cases import numbers, words
from perfmodel.calibrate.handoff import SeparateDeployments, fit_handoff
from perfmodel.calibrate.serving import Deployments, fit_engine, measured_deployments, predicted
from perfmodel.errors import CalibrationError
from perfmodel.estimate.serving.disaggregated import deployment_stages
from perfmodel.validate.serving import case_grid, case_pools, grouped_cases, predict_serving_cases

LEFT_OUT = ("model", "hardware", "engine")
"""What can be left out: all rows of one value of the column at a time."""


def predict_left_out(
    cases: pd.DataFrame, by: str, profiles: str | None = None
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Predict each deployment with constants fitted to the others.

    For every value of the column the constants of each engine are fitted to its deployments with other values; where
    none is left, as when an engine itself is left out, to the deployments of all other engines. Kernels, and what an
    engine's profile says it does, stay: deployments took no part in either. For separate workers it is the constants of
    the hand-over that are fitted, to all engines together, because they are the same for all; those of the engines,
    to which these deployments contributed nothing, stay.

    Parameters
    ----------
    cases : pandas.DataFrame
        Measured deployments, as `predict_serving_cases` reads them.
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
    out = pd.DataFrame(np.nan, index=cases.index, columns=["ttft_s", "tpot_s"])
    cases = cases[predict_serving_cases(cases, profiles)["ttft_s"].notna()]
    labels = pd.DataFrame({name: words(cases, name) for name in LEFT_OUT}, index=cases.index)
    separate = cases["prefill_num_workers"].notna() if "prefill_num_workers" in cases else labels[by] != labels[by]
    fits = _common_workers(cases[~separate], labels, by, out, profiles)
    return out, fits + _separate_workers(cases[separate], labels, by, out, profiles)


def _common_workers(
    cases: pd.DataFrame, labels: pd.DataFrame, by: str, out: pd.DataFrame, profiles: str | None
) -> list[dict[str, Any]]:
    """Predict deployments whose workers do both, into `out`."""
    found: list[tuple[pd.Index, Deployments]] = []
    for rows, spec, on, workload, precision in grouped_cases(cases, profiles):
        latencies = {f"{m}_s": numbers(rows, f"measured_{m}_s") for m in ("ttft", "tpot")}
        grid = case_grid(rows, spec)
        found.append((rows.index, measured_deployments(spec, on, grid, workload, precision, **latencies)))
    fits = []
    for value in labels.loc[cases.index, by].unique():
        for engine in labels.loc[cases.index].loc[labels[by] == value, "engine"].unique():
            tested = [(i, g) for i, g in found if _is(labels, i, {by: value, "engine": engine})]
            others = [(i, g) for i, g in found if not _is(labels, i, {by: value})]
            same = [g for i, g in others if _is(labels, i, {"engine": engine})]
            training = same or [g for _, g in others]
            _refuse_nothing(training, by, value)
            constants = fit_engine(training)
            fits.append({by: value, "engine": engine, "groups": len(training), **constants})
            for index, group in tested:
                out.loc[index, "ttft_s"], out.loc[index, "tpot_s"] = predicted(group, constants)
    return fits


def _separate_workers(
    cases: pd.DataFrame, labels: pd.DataFrame, by: str, out: pd.DataFrame, profiles: str | None
) -> list[dict[str, Any]]:
    """Predict deployments with separate workers, into `out`."""
    found: list[tuple[pd.Index, SeparateDeployments]] = []
    for rows, spec, on, workload, precision in grouped_cases(cases, profiles):
        prefill, decode, load = case_pools(rows, spec, on)
        stages = deployment_stages(spec, prefill, decode, workload, precision, load)
        found.append((rows.index, SeparateDeployments(workload, stages, numbers(rows, "measured_ttft_s"))))
        out.loc[rows.index, "tpot_s"] = np.broadcast_to(stages.token_s, len(rows))
    fits = []
    for value in labels.loc[cases.index, by].unique():
        training = [group for index, group in found if not _is(labels, index, {by: value})]
        _refuse_nothing(training, by, value)
        constants = fit_handoff(training)
        fits.append({by: value, "groups": len(training), **asdict(constants)})
        for index, group in found:
            if _is(labels, index, {by: value}):
                out.loc[index, "ttft_s"] = group.predicted(constants)
    return fits


def _refuse_nothing(training: Sequence[object], by: str, value: str) -> None:
    if not training:
        raise CalibrationError(f"every deployment has {by} {value!r}: none is left to fit to")


def _is(labels: pd.DataFrame, index: pd.Index, wanted: Mapping[str, str]) -> bool:
    """Whether a group, whose rows share their labels, has the ones that are wanted."""
    first = labels.loc[index[0]]
    return all(first[name] == value for name, value in wanted.items())
