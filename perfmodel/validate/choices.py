"""Choices among deployments: whether predictions put splits in the measured order and pick one that keeps a limit."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from perfmodel.calibrate.cases import numbers, words
from perfmodel.errors import CalibrationError

LOAD = ("model", "hardware", "engine", "precision", "isl", "osl")
"""Columns of deployments among which a user chooses."""

NOISE = 0.02
"""Measured difference up to which two deployments count as equal."""

SLACK = 0.05
"""Measured excess over a limit that is not held against a pick: repeated runs scatter as much."""

FEWEST = 8
"""Deployments from which picks are made."""

LIMITS = (0.25, 0.5, 0.75)
"""Shares of the deployments that keep each of the limits that picks are made under."""


def choices(cases: pd.DataFrame, predicted: pd.DataFrame) -> list[dict[str, Any]]:
    """Score the choices that predictions lead to.

    Parameters
    ----------
    cases : pandas.DataFrame
        Measured deployments with columns `LOAD`, tp, pp, dp and concurrency.
    predicted : pandas.DataFrame
        Columns ttft_s and tpot_s of the same rows.

    Returns
    -------
    list of dict
        question, cases (pairs or picks) and percent: pairs of splits in the measured order, of any and of equal numbers
        of GPUs; picks of the highest output rate under a limit on TPOT that break it; the rate lost by the others.

    Raises
    ------
    CalibrationError
        If the deployments have separate workers for prefill and decode.
    """
    if "tp" not in cases:
        raise CalibrationError("column tp is missing: choices are scored among deployments with one kind of worker")
    frame = pd.DataFrame({name: words(cases, name).to_numpy() for name in LOAD})
    gpus = numbers(cases, "tp", 1.0) * numbers(cases, "pp", 1.0) * numbers(cases, "dp", 1.0)
    frame = frame.assign(concurrency=numbers(cases, "concurrency", 1.0), gpus=gpus)
    osl = numbers(cases, "osl")
    for name, source, prefix in (("seen", cases, "measured_"), ("told", predicted, "")):
        frame[f"{name}_tpot"] = source[f"{prefix}tpot_s"].to_numpy(float)
        cycle = source[f"{prefix}ttft_s"].to_numpy(float) + (osl - 1.0) * frame[f"{name}_tpot"]
        frame[f"{name}_rate"] = frame["concurrency"] * osl / cycle / gpus
    same = [*LOAD, "concurrency"]
    found = [pick for _, group in frame.groupby(list(LOAD)) if len(group) >= FEWEST for pick in _picks(group)]
    kept = [lost for lost in found if lost is not None]
    return [
        _pairs("pairs of splits in the measured order", frame, same),
        _pairs("pairs on equally many GPUs in the measured order", frame, [*same, "gpus"]),
        _row("picks that break their limit on TPOT", len(found), len(found) - len(kept), len(found)),
        _row("rate lost by the other picks", len(kept), sum(kept), len(kept)),
    ]


def _row(question: str, cases: int, part: float, whole: float) -> dict[str, Any]:
    return {"question": question, "cases": cases, "percent": round(100.0 * part / whole, 1) if whole else float("nan")}


def _pairs(question: str, frame: pd.DataFrame, by: Sequence[str]) -> dict[str, Any]:
    right = pairs = 0.0
    for _, group in frame.groupby(list(by)):
        seen, told = group["seen_tpot"].to_numpy(), group["told_tpot"].to_numpy()
        first, second = np.triu_indices(len(group), 1)
        apart = np.abs(seen[first] / seen[second] - 1.0) > NOISE
        first, second = first[apart], second[apart]
        order = np.sign(seen[first] - seen[second]) * np.sign(told[first] - told[second])
        # What is predicted to be equal, or not predicted at all, is right half of the time.
        right += float(np.sum((np.nan_to_num(order) + 1.0) / 2.0))
        pairs += len(first)
    return _row(question, int(pairs), right, pairs)


def _picks(group: pd.DataFrame) -> Iterator[float | None]:
    """Rate lost by the pick under each limit; None where it breaks the limit, or nothing is picked."""
    seen: npt.NDArray[np.float64] = group["seen_tpot"].to_numpy()
    ladder = np.sort(seen)
    for share in LIMITS:
        step = min(int(share * len(ladder)), len(ladder) - 2)
        limit = np.sqrt(ladder[step] * ladder[step + 1])
        allowed = group[(group["told_tpot"] <= limit) & group["told_rate"].notna()]
        chosen = group.loc[allowed["told_rate"].idxmax()] if len(allowed) else None
        if chosen is None or chosen["seen_tpot"] > (1.0 + SLACK) * limit:
            yield None
        else:
            best = float(group.loc[seen <= limit, "seen_rate"].max())
            yield max(0.0, 1.0 - float(chosen["seen_rate"]) / best)
