"""Limits: what a serving plan must deliver and may take, as rules, and the short name of a plan."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perfmodel.errors import NothingFeasibleError, PlanError
from perfmodel.estimate.result import Estimate
from perfmodel.estimate.serving.open_loop import SPARE_DEVIATIONS
from perfmodel.estimate.target import Target
from perfmodel.parallel.rules import Rule
from perfmodel.units import format_time


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan must deliver, and what it may take.

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
    usd_per_hour : float
        Most that all devices together may cost for one hour [USD/h].
    power_w : float
        Most power that all devices together may draw, each at its limit [W].
    """

    ttft_s: float = np.inf
    tpot_s: float = np.inf
    rate: float = 0.0
    ttft_p99_s: float = np.inf
    usd_per_hour: float = np.inf
    power_w: float = np.inf

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s", "ttft_p99_s", "usd_per_hour", "power_w"):
            if not getattr(self, name) > 0:
                raise PlanError(f"{name} must be above zero, not {getattr(self, name):g}")
        if self.rate < 0:
            raise PlanError(f"rate must not be negative, not {self.rate:g}")
        if not np.isfinite(self.rate):
            raise PlanError(f"rate must be a number of requests per second, not {self.rate:g}")


def limit_rules(estimate: Estimate, limits: Limits, gpus: int) -> tuple[Rule, ...]:
    """Rules of cache, latency and rate; NaN of a plan that is already infeasible breaks none of them.

    Requests that find no room in the cache wait, which a ranking never chooses: fewer requests do as much.

    Parameters
    ----------
    estimate : Estimate
        Plans of one deployment.
    limits : Limits
        What was asked for.
    gpus : int
        Devices of the deployment.

    Returns
    -------
    tuple of Rule
        In the order in which they are applied, the least rate last.
    """
    ttft, tpot = estimate["ttft_s"], estimate["tpot_s"]
    replicas = gpus / np.broadcast_to(estimate.grid.devices, estimate.grid.shape).ravel()
    rate = estimate["requests_per_s"] * replicas
    shape = estimate.grid.shape
    concurrency = np.broadcast_to(estimate.grid.concurrency, shape).ravel()
    if "in_flight" in estimate.columns:
        # A Poisson number of requests swings about its mean; the cache holds them 99 % of the time.
        concurrency = np.ceil(concurrency + SPARE_DEVIATIONS * np.sqrt(concurrency))
    late = estimate["ttft_p99_s"] if np.isfinite(limits.ttft_p99_s) else np.zeros(len(estimate))
    room = estimate["capacity_requests"]
    return (
        Rule(
            "KV cache exceeds memory",
            (concurrency > room).reshape(shape),
            lambda i: f"the KV cache of {concurrency[i]:.0f} requests exceeds memory, which holds {room[i]:.0f}",
        ),
        Rule(
            "prompts come faster than they are worked off",
            np.isinf(ttft).reshape(shape),
            lambda _: "prompts come faster than they are worked off",
        ),
        Rule("no arrivals", np.equal(rate, 0).reshape(shape), lambda _: "a request that sees no other has no rate"),
        Rule(
            f"TPOT above {format_time(limits.tpot_s)}" if np.isfinite(limits.tpot_s) else "TPOT",
            (tpot > limits.tpot_s).reshape(shape),
            lambda i: f"TPOT {format_time(float(tpot[i]))} is above {format_time(limits.tpot_s)}",
        ),
        Rule(
            f"TTFT above {format_time(limits.ttft_s)}" if np.isfinite(limits.ttft_s) else "TTFT",
            (ttft > limits.ttft_s).reshape(shape),
            lambda i: f"TTFT {format_time(float(ttft[i]))} is above {format_time(limits.ttft_s)}",
        ),
        Rule(
            f"TTFT of 99% above {format_time(limits.ttft_p99_s)}" if np.isfinite(limits.ttft_p99_s) else "TTFT of 99%",
            (late > limits.ttft_p99_s).reshape(shape),
            lambda i: f"99% see a TTFT of up to {format_time(float(late[i]))}, above {format_time(limits.ttft_p99_s)}",
        ),
        Rule(
            f"fewer than {limits.rate:g} requests/s",
            (rate < limits.rate).reshape(shape),
            lambda i: f"{rate[i]:.3g} requests/s are fewer than {limits.rate:g}",
        ),
    )


def affordable(target: Target, gpus: int, limits: Limits, price: float) -> int:
    """Devices that a budget pays for and feeds, in whole scale-up domains where it is more than one.

    Parameters
    ----------
    target : Target
        Gives the power of a device, and the domain.
    gpus : int
        Devices at most.
    limits : Limits
        Price of an hour and power at most.
    price : float
        Price of one device for one hour, NaN where it is not known [USD/h].

    Returns
    -------
    int
        Devices, `gpus` where nothing else is limited.

    Raises
    ------
    NothingFeasibleError
        If they do not suffice for one device.
    PlanError
        If something is limited of which nobody says what a device takes.
    """
    most = float(gpus)
    for limit, each, needs in (
        (limits.usd_per_hour, price, "a budget per hour needs the price of a GPU-hour"),
        (
            limits.power_w,
            target.device.power_w or np.nan,
            "a power budget needs a device whose power limit is published",
        ),
    ):
        if np.isfinite(limit):
            if not np.isfinite(each):
                raise PlanError(needs)
            # Sums of prices are off by a rounding.
            most = min(most, np.floor(limit / each + 1e-9))
    domain = target.system.scale_up_devices
    if most < gpus and most > domain:
        most -= most % domain
    if most < 1:
        raise NothingFeasibleError("the budget does not suffice for one GPU. Ask for more.")
    return int(most)


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
