"""Training cases: step times [s] and peak bytes [B] predicted row by row, and their errors against measurements."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from perfmodel.calibrate.cases import numbers, words
from perfmodel.costs.training import RECOMPUTE
from perfmodel.errors import PerfmodelError, PlanError
from perfmodel.estimate.training.predict import TrainingEstimate, predict_training
from perfmodel.estimate.training.target import TrainingTarget, training_target
from perfmodel.estimate.training.workload import TrainingWorkload
from perfmodel.hardware.catalog import load_device
from perfmodel.hardware.stack import Stack
from perfmodel.hardware.stack_files import stack_of_source
from perfmodel.layers.training_recipe import get_recipe
from perfmodel.models.catalog import load_model
from perfmodel.models.inline import INLINE_FIELDS, inline_model
from perfmodel.models.lengths import read_lengths
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.training_grid import SHARES, SIZES, SWITCHES, training_plans
from perfmodel.validate.scores import error_table

REQUIRED = ("id", "hardware", "seq", "global_batch", "tp", "pp", "dp", "micro_batch")
"""Columns that a file of training cases must have."""

PREDICTED = ("step_s", "peak_bytes", "mfu", "hfu", "reason")
"""Columns of a prediction beside `id`, in this order; the parts of time and memory follow."""

_OTHERS = tuple(n for n in (*SWITCHES, *SHARES) if n not in ("recompute", "schedule", "recompute_share"))

_MIXED = ("lengths", "chunk", "retained")

_GROUP = ("model", "hardware", "system", "stack", "source", "precision", "seq", "gpus_per_node", *_MIXED)


class _Machines:
    """Targets of one file of cases, each read once."""

    def __init__(self, stack: Stack | str | None, profiles: str | None) -> None:
        self._stack, self._profiles = stack, profiles
        self._claims: dict[str, tuple[str, str]] = {"": ("neutral", "")}
        self._targets: dict[tuple[Any, ...], TrainingTarget] = {}

    def of(self, row: Mapping[str, Any]) -> TrainingTarget:
        if not np.isfinite(row["gpus_per_node"]):
            raise PlanError("gpus_per_node must be a whole number")
        source = row["source"]
        if source not in self._claims:
            self._claims[source] = stack_of_source(source, self._profiles)
        claimed, system = self._claims[source]
        stack = self._stack or row["stack"] or claimed
        key = (row["hardware"], row["system"] or system, stack if isinstance(stack, str) else "", row["gpus_per_node"])
        if key not in self._targets:
            device = load_device(row["hardware"], self._profiles)
            target = training_target(
                key[1] or device.default_system,
                stack,
                gpus_per_node=int(row["gpus_per_node"]) or None,
                profiles=self._profiles,
            )
            if target.device.id != device.id:
                raise PlanError(f"system {target.system.id} has {target.device.id}, the case names {device.id}")
            self._targets[key] = target
        return self._targets[key]


def _model(row: Mapping[str, Any]) -> ModelSpec:
    if row["model"]:
        return load_model(str(row["model"]))
    sizes = {name: float(row[name]) for name in INLINE_FIELDS if name in row and row[name] == row[name]}
    return inline_model(sizes if row.get("gated") else {"positions": float(row["seq"]), **sizes})


def predict_training_cases(
    cases: pd.DataFrame, *, stack: Stack | str | None = None, profiles: str | None = None
) -> pd.DataFrame:
    """Predict every training case.

    Rows that share model, machine and software are predicted together. A `stack` column, the stack that claims the
    row's `source`, or "neutral" says which software ran. `lengths` ("90:1Ki, 10:32Ki", or a CSV file), `chunk` and
    `retained` describe sequences of several lengths, and chunks. Where `recompute` is empty, as few layers as memory
    asks for.

    Parameters
    ----------
    cases : pandas.DataFrame
        Cases; columns that begin with measured_ are not read.
    stack : Stack or str, optional
        Stack for all rows.
    profiles : str, optional
        Directory of profiles that is searched first.

    Returns
    -------
    pandas.DataFrame
        id, `PREDICTED` and the parts, in the order of the cases; a row without numbers has a reason.
    """
    frame = pd.DataFrame(index=cases.index)
    for name in ("model", "hardware", "system", "stack", "source", "precision", "lengths"):
        frame[name] = words(cases, name, "bf16" if name == "precision" else "")
    for name in ("seq", "gpus_per_node", "global_batch", "chunk"):
        frame[name] = numbers(cases, name, 0.0)
    frame["retained"] = numbers(cases, "retained", 1.0)
    for name in INLINE_FIELDS:
        if name in cases.columns:
            frame[name] = numbers(cases, name)
    for name in (*SIZES, *_OTHERS):
        frame[name] = numbers(cases, name, 1.0 if name in SIZES else 0.0)
    frame["recompute"] = words(cases, "recompute")
    frame["schedule"] = words(cases, "schedule", "1f1b")
    keys = [*_GROUP, *(name for name in INLINE_FIELDS if name in frame.columns)]
    machines = _Machines(stack, profiles)
    parts: list[pd.DataFrame] = []
    for _, group in frame.groupby(keys, dropna=False, sort=False):
        parts.append(_group(group, machines))
    result = pd.concat(parts).loc[cases.index]
    result.insert(0, "id", cases["id"])
    return result


def _group(group: pd.DataFrame, machines: _Machines) -> pd.DataFrame:
    row: dict[str, Any] = {str(name): value for name, value in group.iloc[0].items()}
    try:
        target = machines.of(row)
        recipe, model = get_recipe(row["precision"]), _model(row)
    except PerfmodelError as error:
        return _without(group, str(error))
    wanted = group["recompute"].to_numpy()
    try:
        _check(row)
        for mode in sorted({mode for mode in wanted if mode} - set(RECOMPUTE)):
            raise PlanError(f"recompute {mode!r} is none of {', '.join(RECOMPUTE)}")
        batch = group["global_batch"].to_numpy(dtype=np.float64)
        mixed = read_lengths(row["lengths"]) if row["lengths"] else None
        workload = TrainingWorkload(float(row["seq"]), batch, mixed, float(row["chunk"]), float(row["retained"]))
        knobs: dict[str, Any] = {n: group[n].to_numpy() for n in SIZES}
        knobs |= {n: group[n].to_numpy() for n in (*_OTHERS, "schedule")}
        knobs["recompute"] = np.where(wanted == "", "none", wanted)

        def predict() -> TrainingEstimate:
            return predict_training(model, target, training_plans(**knobs), workload, recipe)

        estimate = predict()
        if (wanted == "").any():
            _fit_recompute(knobs, wanted == "", target.device.memory_bytes, predict)
            estimate = predict()
    except PerfmodelError as error:
        if len(group) == 1:
            return _without(group, str(error))
        return pd.concat([_group(group.iloc[[i]], machines) for i in range(len(group))])
    return _table(group, estimate)


def _fit_recompute(
    knobs: dict[str, Any], free: npt.NDArray[np.bool_], capacity: float, predict: Callable[[], TrainingEstimate]
) -> None:
    """Where a case does not say what it recomputes: as few layers as fit, and sharded weights where all do not."""
    plain = predict()["device_bytes"]
    knobs["recompute"] = np.where(free, "full", knobs["recompute"])
    least = predict()["device_bytes"]
    lost = free & (least > capacity) & (knobs["dp"] > 1)
    if lost.any():
        knobs["zero"] = np.where(lost, 3, knobs["zero"])
        least = predict()["device_bytes"]
        knobs["recompute"] = np.where(free, "none", knobs["recompute"])
        plain = predict()["device_bytes"]
    share = np.clip((plain - capacity) / np.maximum(plain - least, 1.0), 0.0, 1.0)
    knobs["recompute"] = np.where(free, np.where(share > 0, "full", "none"), knobs["recompute"])
    knobs["recompute_share"] = np.where(free & (share > 0), share, 1.0)


def _table(group: pd.DataFrame, estimate: TrainingEstimate) -> pd.DataFrame:
    reasons = [estimate.verdicts.reason(i) for i in range(len(group))]
    # A plan that was run fits, whatever the memory model says: the number stays, with the reason beside it.
    broken = np.array([bool(reason) and not reason.startswith("needs ") for reason in reasons])
    out = {name: np.where(broken, np.nan, values) for name, values in estimate.columns.items()}
    frame = pd.DataFrame(out, index=group.index)
    frame["reason"] = reasons
    frame["recompute"] = [RECOMPUTE[int(code)] for code in estimate.grid.column("recompute")]
    frame["recompute_share"] = estimate.grid.column("recompute_share")
    first = [*PREDICTED, "recompute", "recompute_share"]
    return frame[[*first, *(name for name in frame.columns if name not in first)]]


def _check(row: Mapping[str, Any]) -> None:
    for name in ("seq", "global_batch"):
        value = float(row[name])
        if not 1 <= value < np.inf or value != int(value):
            raise PlanError(f"{name} is {value:g}, and must be a whole number of at least 1")


def _without(group: pd.DataFrame, reason: str) -> pd.DataFrame:
    nothing = dict.fromkeys(PREDICTED[:-1], np.nan) | {"reason": " ".join(reason.split())}
    return pd.DataFrame(nothing, index=group.index)[list(PREDICTED)]


def training_errors(cases: pd.DataFrame, predictions: pd.DataFrame, by: tuple[str, ...] = ("source",)) -> pd.DataFrame:
    """Errors of step time and peak memory by group.

    Parameters
    ----------
    cases : pandas.DataFrame
        Cases with measured_step_s, and measured_peak_bytes where known.
    predictions : pandas.DataFrame
        Predictions of the same ids.
    by : tuple of str
        Columns to group by.

    Returns
    -------
    pandas.DataFrame
        One row per group and quantity.
    """
    merged = cases.merge(predictions[["id", "step_s", "peak_bytes"]], on="id", how="left")
    tables = []
    for quantity, predicted, measured in (
        ("step", "step_s", "measured_step_s"),
        ("peak memory", "peak_bytes", "measured_peak_bytes"),
    ):
        if measured not in merged.columns or not merged[measured].notna().any():
            continue
        known = merged[merged[measured].notna()]
        table = error_table(known, by, predicted, measured)
        table.insert(1, "quantity", quantity)
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
