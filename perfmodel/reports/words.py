"""Words that serving reports share: what binds a step, digits of a rate, remarks on what was not limited."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from perfmodel.estimate.timed_step import RESOURCES
from perfmodel.ranking.limits import Limits

BOUND_WORDS = {
    "compute": "arithmetic",
    "memory": "memory bandwidth",
    "network": "communication",
    "latency": "kernel latency",
    "host": "the host",
    "capacity": "KV-cache capacity",
}
"""What binds a step, as a sentence says it."""

NEARLY_FULL = 0.95
"""Share of the usable memory from which a plan has no room for a longer request or one more."""


def share(row: Mapping[str, Any], part: str) -> float:
    """Share of a decode step that is charged to one resource.

    Parameters
    ----------
    row : mapping
        Row of a ranking.
    part : str
        One of compute, memory, network, latency, host.

    Returns
    -------
    float
        Between 0 and 1.
    """
    return float(row[f"decode_{part}_s"] / row["decode_s"])


def bound_text(row: Mapping[str, Any], most: int = 2) -> str:
    """Name the resources that a decode step spends most time on.

    Parameters
    ----------
    row : mapping
        Row of a ranking.
    most : int, optional
        How many are named.

    Returns
    -------
    str
        For instance "memory 81%, network 16%".
    """
    shares = sorted(((share(row, part), part) for part in RESOURCES), reverse=True)
    text = ", ".join(f"{part} {100 * s:.0f}%" for s, part in shares[:most] if s >= 0.05)
    return text + ("; KV cache full" if row["bound"] == "capacity" else "")


def three_digits(value: float) -> str:
    """Write a number with three significant digits, thousands separated, never in exponent form.

    Parameters
    ----------
    value : float
        Number.

    Returns
    -------
    str
        For instance "1,234", "12.3".

    Examples
    --------
    >>> three_digits(1234.5), three_digits(12.345)
    ('1,234', '12.3')
    """
    if not np.isfinite(value) or value == 0:
        return f"{value:g}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{digits}f}"


def latency_remark(limits: Limits, row: Mapping[str, Any]) -> list[str]:
    """Say so where nothing but memory kept a ranking from more concurrency, and where the cache is nearly full.

    Parameters
    ----------
    limits : Limits
        What was asked for.
    row : mapping
        The best plan.

    Returns
    -------
    list of str
        No line or one.
    """
    used = float(row["memory_bytes"] / row["memory_capacity_bytes"])
    full = f"memory {100 * used:.0f}% full" if used >= NEARLY_FULL or row["bound"] == "capacity" else ""
    if not np.isfinite([limits.tpot_s, limits.ttft_s, limits.ttft_p99_s]).any():
        cause = f" ({full})" if full else ""
        return [f"No latency limit was given, so concurrency rises while that pays{cause}; --ttft and --tpot set one."]
    return [f"The best plan has its {full}: a longer request, or one more, would wait."] if full else []


def searched_line(
    total: int, seconds: float, infeasible: Mapping[str, int], what: str = "plans searched", most: int = 4
) -> str:
    """Say how many plans were searched, and why most of those that are missing cannot be.

    Parameters
    ----------
    total : int
        Plans.
    seconds : float
        Time that it took [s].
    infeasible : mapping
        Reason -> number of plans.
    what : str, optional
        What was done with them.
    most : int, optional
        Reasons that are named.

    Returns
    -------
    str
        One sentence.

    Examples
    --------
    >>> searched_line(200, 0.5, {"memory": 50, "ep without experts": 10})
    '200 plans searched in 0.5 s; 30% infeasible: memory 25%, ep without experts 5%.'
    """
    reasons = ", ".join(f"{name} {100 * count / total:.0f}%" for name, count in [*infeasible.items()][:most])
    lost = f"{100 * sum(infeasible.values()) / total:.0f}% infeasible{f': {reasons}' if reasons else ''}"
    return f"{total:,} {what} in {seconds:.2g} s; {lost}."


def economy_line(row: Mapping[str, Any]) -> str:
    """Say how much energy a token takes at most, and how near the best plan comes to what arithmetic allows.

    Parameters
    ----------
    row : mapping
        The best plan.

    Returns
    -------
    str
        One line.
    """
    best, optimal = row["tokens_per_s_per_gpu"], row["optimal_tokens_per_s_per_gpu"]
    share = f"{100 * best / optimal:.0f}%"
    text = f"The best plan reaches {share} of the {three_digits(optimal)} tok/s/GPU that arithmetic allows"
    if np.isfinite(row["energy_per_token_j"]):
        joules = three_digits(row["energy_per_token_j"])
        text += f", at {joules} J per token or less"
    return f"{text}."
