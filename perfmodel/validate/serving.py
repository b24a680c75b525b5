"""Serving predictions for case files: TTFT and TPOT of measured deployments, on the same or on separate workers."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from perfmodel.api import precision_of, target
from perfmodel.arrays import as_floats
from perfmodel.calibrate.cases import numbers, words
from perfmodel.errors import PerfmodelError, PlanError
from perfmodel.estimate.result import BOUNDS, Estimate
from perfmodel.estimate.serving.disaggregated import predict_disaggregated
from perfmodel.estimate.serving.pools import Pool
from perfmodel.estimate.serving.predict import predict_serving
from perfmodel.estimate.serving.rules import expert_places, refuse_longer
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.hardware.catalog import load_device, load_system
from perfmodel.layers.precision import Precision
from perfmodel.models.catalog import load_model
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid, plans
from perfmodel.parallel.rules import judge, structural_rules

WAVES = 10.0
"""Requests that a benchmark of these case files sends, over its concurrency."""

UNRECORDED = 0.5
"""Share of the decode places that is taken where no concurrency was recorded: midway between idle and full."""

DRAWN_LOADS = ((1024, 1024), (1024, 8192), (8192, 1024))
"""Input and output tokens of the load points of InferenceX (github.com/SemiAnalysisAI/InferenceX), whose benchmark
draws every length between `SHORTEST` and one times the nominal one (random-range-ratio)."""

SHORTEST = 0.8
"""Shortest length over the nominal one at those load points; elsewhere lengths are taken to be equal. What a column
`shortest` says goes first."""

REQUIRED = ("id", "model", "hardware", "isl", "osl")
"""Columns that every serving case has."""

OUTPUT = (
    "id",
    "ttft_s",
    "tpot_s",
    "tokens_per_s",
    "tokens_per_s_per_gpu",
    "concurrency",
    "memory_bytes",
    "capacity_requests",
    "bound",
    "feasible",
    "reason",
)
"""Columns of a prediction file."""

_NEEDED = ("isl", "osl", "tp", "pp", "dp", "concurrency")
"""Columns of a case with one kind of worker that must be whole numbers where they are there."""

_EXPERTS = {"moe_tp": 0, "moe_ep": 0}
"""Columns that may be empty, and the least number that they may hold: 0 for what is not used."""

_POOLS = (
    (
        "isl",
        "osl",
        *(f"{p}_{knob}" for p in ("prefill", "decode") for knob in ("num_workers", "tp_size", "batch_size")),
    ),
    {
        "concurrency": 0,
        **{f"{p}_{knob}_size": 1 for p in ("prefill", "decode") for knob in ("pp", "attention_dp")},
        **{f"{p}_{knob}_size": 0 for p in ("prefill", "decode") for knob in _EXPERTS},
    },
)
"""The same for a case with separate workers."""

_GROUP = ("model", "hardware", "system", "engine", "precision", "kv", "gpus_per_node")


def predict_serving_cases(cases: pd.DataFrame, profiles: str | None = None) -> pd.DataFrame:
    """Predict every deployment of a case file.

    Parameters
    ----------
    cases : pandas.DataFrame
        Cases with `REQUIRED` columns and either tp, pp, dp, moe_tp, moe_ep and concurrency (one kind of worker) or
        their prefill_ and decode_ forms (separate workers); `shortest`, the shortest length drawn over the nominal one,
        1 where all are equal. Measured columns are not read.
    profiles : str, optional
        Directory of profiles that is searched first.

    Returns
    -------
    pandas.DataFrame
        One row per case in the file's order, columns `OUTPUT`; a case without a number has a reason.
    """
    cases = cases.reset_index(drop=True)
    out = pd.DataFrame(index=cases.index, columns=list(OUTPUT), dtype=object)
    out["id"] = words(cases, "id")
    out["reason"] = ""
    keys = pd.DataFrame({name: words(cases, name) for name in _GROUP})
    for _, members in keys.groupby(list(_GROUP), sort=False):
        group = {name: str(members[name].iloc[0]) for name in _GROUP}
        try:
            spec, on = load_model(group["model"]), _target(group, profiles)
            precision_of(spec, group["precision"] or None, group["kv"] or None)
        except PerfmodelError as error:
            out.loc[members.index, "reason"] = " ".join(str(error).split())
            continue
        rows = cases.loc[members.index]
        separate = rows["prefill_num_workers"].notna() if "prefill_num_workers" in rows else rows["isl"] != rows["isl"]
        parts = ((rows[~separate], _predict_rows), (rows[separate], _predict_separate))
        for part, predict in parts:
            for index, columns in predict(part, spec, on, group) if len(part) else ():
                for name, values in columns.items():
                    out.loc[index, name] = values
    for name in ("ttft_s", "tpot_s", "tokens_per_s", "tokens_per_s_per_gpu", "memory_bytes"):
        out[name] = out[name].astype(float)
    return out[list(OUTPUT)]


def grouped_cases(
    cases: pd.DataFrame, profiles: str | None = None
) -> Iterator[tuple[pd.DataFrame, ModelSpec, Target, Workload, Precision]]:
    """Gather the cases that share a model and a target, for deployments that can be predicted.

    Parameters
    ----------
    cases : pandas.DataFrame
        Cases, each with a prediction from `predict_serving_cases`.
    profiles : str, optional
        Directory of profiles that is searched first.

    Yields
    ------
    tuple
        Rows, model, target, workload and number formats.
    """
    keys = pd.DataFrame({name: words(cases, name) for name in _GROUP}, index=cases.index)
    for _, members in keys.groupby(list(_GROUP), sort=False):
        group = {name: str(members[name].iloc[0]) for name in _GROUP}
        spec, on = load_model(group["model"]), _target(group, profiles)
        rows = cases.loc[members.index]
        yield rows, spec, on, _workload(rows), precision_of(spec, group["precision"] or None, group["kv"] or None, on)


def _workload(rows: pd.DataFrame) -> Workload:
    """Read the lengths of cases: nominal ones, of which the mean is predicted where they are drawn.

    Deployments with separate workers keep the nominal ones, at which they are predicted better.
    """
    separate = numbers(rows, "prefill_num_workers", np.nan) >= 1.0
    isl, osl = numbers(rows, "isl"), numbers(rows, "osl")
    shortest = np.where(separate, 1.0, _shortest(rows))
    mean = (1.0 + shortest) / 2.0
    return Workload(
        np.maximum(np.round(mean * isl), 1.0),
        np.maximum(np.round(mean * osl), 1.0),
        waves=WAVES,
        equal_lengths=shortest >= 1.0,
    )


def _shortest(rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Shortest length over the nominal one."""
    drawn = [pair in DRAWN_LOADS for pair in zip(numbers(rows, "isl"), numbers(rows, "osl"), strict=True)]
    stated = numbers(rows, "shortest", np.nan)
    return np.where(np.isfinite(stated), stated, np.where(drawn, SHORTEST, 1.0))


def _target(group: Mapping[str, str], profiles: str | None) -> Target:
    device = load_device(group["hardware"], profiles)
    system = load_system(group["system"] or device.default_system, profiles)
    if group["gpus_per_node"]:
        system = system.with_scale_up(int(float(group["gpus_per_node"])))
    return target(system, group["engine"] or "neutral", profiles=profiles)


def _predict_rows(rows: pd.DataFrame, spec: ModelSpec, on: Target, group: Mapping[str, str]) -> Any:
    """Predict the valid rows together; the others one by one carry their reason."""
    good = pd.Series(True, index=rows.index)
    for i in rows.index:
        row = rows.loc[[i]]
        reason = _why_not(row, _NEEDED, _EXPERTS) or _experts_fill(row, spec)
        if reason:
            good[i] = False
            yield [i], {"reason": reason, "feasible": False}
    rows = rows[good]
    if not len(rows):
        return
    workload = _workload(rows)
    grid = case_grid(rows, spec)
    precision = precision_of(spec, group["precision"] or None, group["kv"] or None, on)
    try:
        estimate = predict_serving(spec, on, grid, workload, precision)
    except PlanError:
        # A length that the model does not allow: find the rows that have it.
        for i in rows.index:
            one = rows.loc[[i]]
            try:
                load = _workload(one)
                yield [i], _columns(predict_serving(spec, on, case_grid(one, spec), load, precision), one)
            except PlanError as error:
                yield [i], {"reason": str(error), "feasible": False}
        return
    yield rows.index, _columns(estimate, rows)


def _predict_separate(rows: pd.DataFrame, spec: ModelSpec, on: Target, group: Mapping[str, str]) -> Any:
    """Predict deployments with separate prefill and decode workers."""
    good = pd.Series(True, index=rows.index)
    for i in rows.index:
        row = rows.loc[[i]]
        reason = _why_not(row, *_POOLS) or _experts_fill(row, spec, "prefill") or _experts_fill(row, spec, "decode")
        reason = reason or _cannot_be(row, spec, on)
        if reason:
            good[i] = False
            yield [i], {"reason": reason, "feasible": False}
    rows = rows[good]
    if not len(rows):
        return
    workload = _workload(rows)
    prefill, decode, load = case_pools(rows, spec, on)
    precision = precision_of(spec, group["precision"] or None, group["kv"] or None, on)
    result = predict_disaggregated(spec, prefill, decode, workload, precision, load)
    size = (len(rows),)
    tokens = as_floats(result.requests_per_s) * numbers(rows, "osl")
    yield (
        rows.index,
        {
            "ttft_s": np.broadcast_to(result.ttft_s, size),
            "tpot_s": np.broadcast_to(result.tpot_s, size),
            "tokens_per_s": np.broadcast_to(tokens, size),
            "tokens_per_s_per_gpu": np.broadcast_to(tokens / result.devices, size),
            "concurrency": load,
            "capacity_requests": np.broadcast_to(result.capacity_requests, size),
            "feasible": True,
        },
    )


def _cannot_be(row: pd.DataFrame, spec: ModelSpec, on: Target) -> str:
    """Say why the workers of a case with separate ones cannot be, or its requests."""
    try:
        refuse_longer(spec, _workload(row))
        pools = case_pools(row, spec, on)[:2]
    except PlanError as error:
        return str(error)
    sizes = spec.divisors()
    places = expert_places(sizes.get("experts", 0), on.engine)
    for phase, pool in zip(("prefill", "decode"), pools, strict=True):
        rules = structural_rules(
            pool.grid, sizes, layers=spec.layers, max_devices=on.system.max_devices, expert_places=places
        )
        verdicts = judge(pool.grid.shape, rules)
        if not verdicts.feasible[0]:
            return f"{phase} workers: {verdicts.reason(0)}"
    return ""


def case_pools(rows: pd.DataFrame, spec: ModelSpec, on: Target) -> tuple[Pool, Pool, npt.NDArray[np.float64]]:
    """Read the workers of cases with separate ones, and the load on them.

    Parameters
    ----------
    rows : pandas.DataFrame
        Valid cases of one model and target.
    spec : ModelSpec
        Model.
    on : Target
        What both kinds of workers run on.

    Returns
    -------
    prefill, decode : Pool
        Workers of each case.
    load : numpy.ndarray
        Requests in flight; where none were recorded, `UNRECORDED` of the decode places.
    """
    pools = []
    for phase in ("prefill", "decode"):
        columns = {
            f"{phase}_tp_size": "tp",
            f"{phase}_pp_size": "pp",
            f"{phase}_attention_dp_size": "dp",
            f"{phase}_moe_tp_size": "moe_tp",
            f"{phase}_moe_ep_size": "moe_ep",
        }
        renamed = rows[[name for name in columns if name in rows]].rename(columns=columns)
        grid = case_grid(renamed.assign(concurrency=1.0), spec)
        pools.append(Pool(on, grid, numbers(rows, f"{phase}_num_workers"), numbers(rows, f"{phase}_batch_size")))
    prefill, decode = pools
    load = numbers(rows, "concurrency", 0.0)
    return prefill, decode, np.where(load >= 1, load, np.ceil(UNRECORDED * decode.ranks * decode.batch))


def _why_not(row: pd.DataFrame, needed: tuple[str, ...], optional: Mapping[str, int]) -> str:
    """Say which column of a case holds no number that it could; the optional ones may be empty, with a least number."""
    least = dict.fromkeys(needed, 1) | {name: low for name, low in optional.items() if words(row, name).iloc[0]}
    for name, low in least.items():
        if name in row or name in ("isl", "osl"):
            value = float(numbers(row, name)[0])
            if not np.isfinite(value) or value < low or value != np.floor(value):
                return f"{name} must be a whole number of at least {low}, not {row[name].iloc[0]}"
    unread = words(row, "shortest").iloc[0] != "" and not np.isfinite(numbers(row, "shortest")[0])
    if unread or not 0.0 < _shortest(row)[0] <= 1.0:
        return f"shortest must lie between 0 and 1, not {row['shortest'].iloc[0]}"
    return ""


def _experts_fill(row: pd.DataFrame, spec: ModelSpec, prefix: str = "") -> str:
    """Say where the experts' columns of a case of a mixture of experts contradict its other columns."""
    names = (
        ("tp", "dp", "moe_tp", "moe_ep")
        if not prefix
        else tuple(f"{prefix}_{name}_size" for name in ("tp", "attention_dp", "moe_tp", "moe_ep"))
    )
    tp, dp, moe_tp, ep = (float(numbers(row, name, 0.0)[0]) for name in names)
    ranks = max(tp, 1.0) * max(dp, 1.0)
    if spec.is_moe and moe_tp >= 1 and ep >= 1 and moe_tp * ep != ranks:
        return f"{names[2]} x {names[3]} = {moe_tp * ep:.0f} must be the {ranks:.0f} ranks of {names[0]} x {names[1]}"
    return ""


def case_grid(rows: pd.DataFrame, spec: ModelSpec) -> PlanGrid:
    """Read the plans of cases; expert columns that are missing or zero fill the stage by width.

    Parameters
    ----------
    rows : pandas.DataFrame
        Valid cases of one model.
    spec : ModelSpec
        Model.

    Returns
    -------
    PlanGrid
        One plan per case.
    """
    knobs: dict[str, Any] = {
        name: np.maximum(numbers(rows, name, 1.0), 1.0) for name in ("tp", "pp", "dp", "concurrency")
    }
    if spec.is_moe:
        ranks = knobs["tp"] * knobs["dp"]
        ep, moe_tp = numbers(rows, "moe_ep", 0.0), numbers(rows, "moe_tp", 0.0)
        ep = np.where(ep >= 1, ep, np.where(moe_tp >= 1, ranks / np.maximum(moe_tp, 1.0), 1.0))
        knobs |= {"ep": ep, "moe_tp": np.maximum(ranks / ep, 1.0)}
    return plans(**knobs)


def _columns(estimate: Estimate, rows: pd.DataFrame) -> dict[str, Any]:
    """Columns of the output for the rows of one call."""
    reasons = [estimate.verdicts.reason(i) for i in range(len(rows))]
    return {
        **{name: estimate[name] for name in OUTPUT if name in estimate.columns and name != "bound"},
        "concurrency": numbers(rows, "concurrency", 1.0),
        "bound": [BOUNDS[int(value)] for value in estimate["bound"]],
        "feasible": estimate.feasible,
        "reason": reasons,
    }
