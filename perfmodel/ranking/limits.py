"""Limits: what a serving plan must deliver, and the short name of a plan."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perfmodel.errors import PlanError


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan must deliver.

    Parameters
    ----------
    ttft_s : float
        Longest mean time to first token [s].
    tpot_s : float
        Longest mean time per output token after the first [s].
    rate : float
        Requests per second that all replicas together must sustain [1/s].
    ttft_p99_s : float
        Longest time to first token of 99 requests in 100, under Poisson arrivals [s].
    """

    ttft_s: float = np.inf
    tpot_s: float = np.inf
    rate: float = 0.0
    ttft_p99_s: float = np.inf

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s", "ttft_p99_s"):
            if not getattr(self, name) > 0:
                raise PlanError(f"{name} must be above zero, not {getattr(self, name):g}")
        if self.rate < 0:
            raise PlanError(f"rate must not be negative, not {self.rate:g}")
        if not np.isfinite(self.rate):
            raise PlanError(f"rate must be a number of requests per second, not {self.rate:g}")


def plan_name(row: Mapping[str, object]) -> str:
    """Write a split in the field's short form.

    Parameters
    ----------
    row : mapping
        Knobs of a plan.

    Returns
    -------
    str
        For instance "TP8 PP2" or "TP1 DP8 EP8".

    Examples
    --------
    >>> plan_name({"tp": 4, "pp": 1, "dp": 2, "cp": 1, "ep": 8, "moe_tp": 1})
    'TP4 DP2 EP8'
    """
    parts = [f"TP{row['tp']}"]
    parts += [f"{label}{row[key]}" for key, label in (("pp", "PP"), ("dp", "DP"), ("cp", "CP")) if row[key] != 1]
    if row["ep"] != 1:
        parts.append(f"EP{row['ep']}")
        if row["moe_tp"] != 1:
            parts.append(f"ETP{row['moe_tp']}")
    return " ".join(parts)
