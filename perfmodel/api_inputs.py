"""Library: numbers of a question from what callers write: tokens, devices, knobs, loads, limits, prices."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from perfmodel.errors import PlanError, UnitError, UnknownNameError
from perfmodel.estimate.serving.workload import Workload
from perfmodel.ranking.limits import Limits
from perfmodel.units import EXAMPLES, parse


def number_of(value: float | str, dimension: str, name: str) -> float:
    """Read a number that may carry a unit.

    Parameters
    ----------
    value : float or str
        A number in SI units, or a text with a unit.
    dimension : str
        One of the keys of `perfmodel.units.EXAMPLES`.
    name : str
        What it is called, for the message.

    Returns
    -------
    float
        The number in SI units.

    Raises
    ------
    PlanError
        If it is neither.

    Examples
    --------
    >>> number_of("50ms", "time", "tpot"), number_of(0.05, "time", "tpot")
    (0.05, 0.05)
    """
    if isinstance(value, str):
        try:
            return parse(value, dimension)
        except UnitError as error:
            raise PlanError(f"{name}: {error}") from None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise PlanError(f"{name}: {value!r} is no number; write for instance {EXAMPLES[dimension]!r}") from None


def tokens_of(value: float | str, name: str = "tokens") -> float:
    """Read a number of tokens, sequences or requests.

    Parameters
    ----------
    value : float or str
        For instance 4096, "4k" or "4Ki".
    name : str
        What it is called, for the message.

    Returns
    -------
    float
        The number.

    Raises
    ------
    PlanError
        If it is neither a number nor such a text.

    Examples
    --------
    >>> tokens_of("4Ki")
    4096.0
    """
    return number_of(value, "count", name)


def devices_of(gpus: int) -> int:
    """Check a number of devices.

    Parameters
    ----------
    gpus : int
        Devices of a deployment or of a cluster.

    Returns
    -------
    int
        The same.

    Raises
    ------
    PlanError
        If it is not a whole number of at least 1.

    Examples
    --------
    >>> devices_of(16)
    16
    """
    if not isinstance(gpus, int | float | np.integer | np.floating) or not (gpus >= 1 and gpus % 1 == 0):
        raise PlanError(f"gpus must be a whole number of at least 1, not {gpus!r}")
    return int(gpus)


def knobs_of(chosen: Mapping[str, Any]) -> dict[str, int]:
    """Read the knobs of a plan that are held at one value.

    Parameters
    ----------
    chosen : mapping
        Knob -> value; None where it is free.

    Returns
    -------
    dict
        Those that are held.

    Raises
    ------
    PlanError
        If a value is no whole number.

    Examples
    --------
    >>> knobs_of({"tp": 4, "pp": None})
    {'tp': 4}
    """
    return {name: int(number_of(value, "count", name)) for name, value in chosen.items() if value is not None}


UNREAD_WITHOUT = {
    "shared_prefix": "sharers",
    "sharers": "shared_prefix",
    "expert_hit": "host_experts",
    "acceptance": "draft_tokens",
    "draft_cost": "draft_tokens",
}
"""Field of a workload -> the field without which nothing reads it."""


def workload_of(isl: float | str, osl: float | str, load: Mapping[str, Any] | None = None) -> Workload:
    """Bring together what requests are like.

    Parameters
    ----------
    isl, osl : float or str
        Input and output tokens.
    load : mapping, optional
        Further fields of the `Workload`.

    Returns
    -------
    Workload
        The load.

    Raises
    ------
    PlanError
        If a number makes no sense.
    UnknownNameError
        If the load has no such field.

    Examples
    --------
    >>> workload_of("1k", 128, {"prefix_hit": 0.5}).prefix_hit
    0.5
    """
    known = [each.name for each in fields(Workload)]
    if not isinstance(load, Mapping | None):
        raise PlanError(f"load: {load!r} holds no fields of a workload; write for instance {{'prefix_hit': 0.5}}")
    for name in load or {}:
        if name not in known:
            raise UnknownNameError("field of a workload", str(name), known)
    for name, owner in UNREAD_WITHOUT.items():
        if name in (load or {}) and owner not in (load or {}):
            raise PlanError(f"load: {name} is read only beside {owner}, which is not given")
    return Workload(tokens_of(isl, "isl"), tokens_of(osl, "osl"), **(load or {}))


def limits_of(
    ttft: float | str | None,
    tpot: float | str | None,
    rate: float,
    ttft_p99: float | str | None = None,
    budget: float | None = None,
    power: float | str | None = None,
) -> Limits:
    """Read latency limits, the rate that must be sustained, and what all devices may cost or draw.

    Parameters
    ----------
    ttft, tpot : float or str, optional
        In seconds or with a unit; None for no limit.
    rate : float
        Requests per second.
    ttft_p99 : float or str, optional
        For 99 requests in 100, like the others.
    budget : float, optional
        US dollars per hour for all devices [USD/h].
    power : float or str, optional
        In watts or with a unit, for all devices at their power limit.

    Returns
    -------
    Limits
        In SI units.
    """
    asked = (
        ("ttft_s", ttft, "time", "ttft"),
        ("tpot_s", tpot, "time", "tpot"),
        ("ttft_p99_s", ttft_p99, "time", "ttft_p99"),
        ("usd_per_hour", budget, "price", "budget"),
        ("power_w", power, "power", "power"),
    )
    given = {name: number_of(value, kind, word) for name, value, kind, word in asked if value is not None}
    return Limits(**given, rate=number_of(rate, "count", "rate"))


def price_of(price: float | None) -> float:
    """Check the price of a GPU-hour.

    Parameters
    ----------
    price : float, optional
        US dollars; None where none is reckoned with [USD/h].

    Returns
    -------
    float
        The price, NaN for none [USD/h].

    Raises
    ------
    PlanError
        If it is not above zero.
    """
    if price is None:
        return float("nan")
    paid = number_of(price, "price", "price")
    if not 0 < paid < float("inf"):
        raise PlanError(f"the price of a GPU-hour must be above zero, not {paid:g}")
    return paid
