"""Report of a comparison: prompts and tokens on the same workers against separate ones, in one table."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from perfmodel.errors import NothingFeasibleError, PlanError
from perfmodel.ranking.compare import Comparison
from perfmodel.ranking.limits import plan_name
from perfmodel.ranking.separate import pool_plan
from perfmodel.ranking.serving import Ranking
from perfmodel.reports.words import BOUND_WORDS, bound_text, economy_line, latency_remark, three_digits
from perfmodel.units import format_bandwidth, format_time


def workers_text(row: Mapping[str, Any]) -> str:
    """Write the workers of a deployment.

    Parameters
    ----------
    row : mapping
        A row of either kind.

    Returns
    -------
    str
        For instance "4 x TP4", or "2 x TP4 > 1 x TP8": prefill workers, then decode workers.
    """
    if row["workers"] == "separate":
        return f"{pool_plan(row, 'prefill')} > {pool_plan(row, 'decode')}"
    return f"{row['replicas']} x {plan_name(row)}"


def _requests(row: Mapping[str, Any]) -> int:
    return int(row["concurrency"] * (row["replicas"] if row["workers"] == "together" else 1))


def _tokens(row: Mapping[str, Any]) -> float:
    return float(row["tokens_per_s" if row["workers"] == "separate" else "deployment_tokens_per_s"])


def _idle(row: Mapping[str, Any]) -> str:
    """Say what is left over."""
    count = int(row.get("idle_gpus", 0))
    return f"; {count} GPU{'s' if count != 1 else ''} left over" if count else ""


def verdict(comparison: Comparison) -> str:
    """Say which deployment is best, and what the best of the other kind would give.

    Parameters
    ----------
    comparison : Comparison
        Ranked deployments.

    Returns
    -------
    str
        Two lines.
    """
    best = comparison.rows(1)[0]
    if best["workers"] == "separate":
        plan = f"{pool_plan(best, 'prefill')} for prompts and {pool_plan(best, 'decode')} for tokens"
        moved = f", {format_time(best['transfer_s'])} of it for the cache"
    else:
        plan, moved = f"{workers_text(best)} for prompts and tokens alike", ""
    text = (
        f"Best: {plan}, {_requests(best):,} requests in flight:\n      {_tokens(best):,.0f} output tok/s"
        f" ({three_digits(best['tokens_per_s_per_gpu'])} per GPU), TTFT {format_time(best['ttft_s'])}{moved},"
        f" TPOT {format_time(best['tpot_s'])},\n"
        f"      decode bound by {BOUND_WORDS[str(best['bound_decode'])]}{_idle(best)}."
    )
    other = comparison.together if best["workers"] == "separate" else comparison.separate
    if other is None:
        return "\n".join([text, *(f"      {reason}" for reason in comparison.missing)])
    kind = "together" if best["workers"] == "separate" else "separate"
    second = other.row(1) | {"workers": kind}
    gain = comparison.worth(best) / comparison.worth(second) - 1.0
    per = "" if comparison.by == "gpu" else f" in tokens per {comparison.by}"
    lead = f"{100 * gain:+.0f}%{per} over" if gain >= 0.005 else "Level with"
    name = "the best plan on common workers" if kind == "together" else "the best plan with separate workers"
    return (
        f"{text}\n      {lead} {name}, {workers_text(second)}:"
        f" TTFT {format_time(second['ttft_s'])}, TPOT {format_time(second['tpot_s'])}."
    )


def table_rows(comparison: Comparison, top: int) -> tuple[list[str], list[list[str]]]:
    """Write the best deployments of both kinds as a table of text.

    Parameters
    ----------
    comparison : Comparison
        Ranked deployments.
    top : int
        Rows at most.

    Returns
    -------
    tuple
        Header, and one list of cells per deployment.
    """
    shown = comparison.rows(top)
    arriving = all("ttft_p99_s" in row for row in shown)
    idle = any(row["gpus"] != shown[0]["gpus"] for row in shown)
    header = [
        "rank",
        "workers",
        *(["GPUs"] if idle else []),
        "requests",
        "TTFT",
        *(["p99"] if arriving else []),
        "TPOT",
        "tok/s/GPU",
        "transfer",
    ]
    priced = all("usd_per_million_tokens" in row for row in shown)
    # Energy makes room where there is a price or a quantile, unless it is what the ranking goes by.
    energy = comparison.by == "energy" or not (priced or arriving)
    energy = energy and all(np.isfinite(row["energy_per_token_j"]) for row in shown)
    header += [*(["USD/Mtok"] if priced else []), *(["J/tok"] if energy else []), "memory", "bound"]
    rows = [
        [
            str(row["rank"]),
            workers_text(row),
            *([str(row["gpus"])] if idle else []),
            str(_requests(row)),
            format_time(row["ttft_s"]),
            *([format_time(row["ttft_p99_s"])] if arriving else []),
            format_time(row["tpot_s"]),
            three_digits(row["tokens_per_s_per_gpu"]),
            format_time(row["transfer_s"]) if row["workers"] == "separate" else "",
            *([three_digits(row["usd_per_million_tokens"])] if priced else []),
            *([three_digits(row["energy_per_token_j"])] if energy else []),
            f"{100 * row['memory_bytes'] / row['memory_capacity_bytes']:.0f}%",
            # A full cache stands in the column of the memory.
            str(row["bound_decode"]) if arriving and priced else bound_text({**row, "bound": row["bound_decode"]}, 1),
        ]
        for row in shown
    ]
    return header, rows


def why_not(comparison: Comparison) -> str:
    """Say how many deployments were searched, what the cache crosses, and what the ranking leaves out.

    Parameters
    ----------
    comparison : Comparison
        Ranked deployments.

    Returns
    -------
    str
        A few lines.
    """
    lines = [f"{comparison.searched:,} deployments searched in {comparison.seconds:.2g} s."]
    if comparison.separate:
        part = comparison.separate
        how = "layer by layer during the prompt" if part.link.layerwise else "at once after the prompt"
        lines.append(
            f"workers: prompts > tokens; the cache crosses {part.link.name}"
            f" ({format_bandwidth(part.link.bandwidth)} per GPU) {how}."
        )
        if part.systems[0] != part.systems[1]:
            lines.append(f"Prompts on {part.systems[0]}, tokens on {part.systems[1]}; GPUs of both count alike.")
    lines += [reason for reason in comparison.missing if len(comparison)]
    limits = (comparison.separate or comparison.together).limits  # type: ignore[union-attr]
    if "ttft_p99_s" in comparison.rows(1)[0]:
        lines.append("Poisson arrivals; requests: those decoding; p99: TTFT that 99 of 100 requests stay within.")
    if comparison.fewest:
        kinds = {"together": "on common workers", "separate": "with separate ones"}
        needed = ", ".join(f"{count} GPUs {kinds[kind]}" for kind, count in comparison.fewest.items())
        lines.append(f"{limits.rate:g} requests/s need at least {needed}.")
    best = comparison.rows(1)[0]
    lines += [*latency_remark(limits, best), economy_line(best)]
    if comparison.by != "gpu":
        lines.append(f"Ranked by output tokens per {comparison.by}.")
    return "\n ".join(lines)


def document(comparison: Comparison, top: int) -> dict[str, Any]:
    """Arrange a comparison as the document that `--format json` prints.

    Parameters
    ----------
    comparison : Comparison
        Ranked deployments.
    top : int
        Rows at most.

    Returns
    -------
    dict
        verdict, plans, infeasible and provenance.
    """
    infeasible: dict[str, int] = {}
    for part in (comparison.together, comparison.separate):
        for reason, count in part.infeasible.items() if part else ():
            infeasible[reason] = infeasible.get(reason, 0) + count
    provenance: dict[str, Any] = {
        "plans_searched": comparison.searched,
        "search_seconds": comparison.seconds,
        "missing": list(comparison.missing),
        "fewest_gpus": dict(comparison.fewest),
    }
    if comparison.separate:
        link = comparison.separate.link
        provenance |= {
            "prefill_system": comparison.separate.systems[0],
            "decode_system": comparison.separate.systems[1],
            "link": {name: getattr(link, name) for name in ("name", "bandwidth", "latency_s", "layerwise")},
        }
    return {
        "verdict": verdict(comparison),
        "plans": comparison.rows(top),
        "infeasible": infeasible,
        "provenance": provenance,
    }


def separate_note(ranking: Ranking, compared: Callable[[], Comparison]) -> str:
    """Say in one line what separate workers would give, beside a ranking of common ones.

    Parameters
    ----------
    ranking : Ranking
        Ranked plans.
    compared : callable
        Ranks separate workers under the same limits.

    Returns
    -------
    str
        One line; empty where separate workers cannot be.
    """
    try:
        row = compared().rows(1)[0]
    except (NothingFeasibleError, PlanError):
        return ""
    gain = row["tokens_per_s_per_gpu"] / ranking.row(1)["tokens_per_s_per_gpu"] - 1.0
    return (
        f"Separate workers for prompts and tokens, {workers_text(row)}: {100 * gain:+.0f}%,"
        f" TTFT {format_time(row['ttft_s'])}, TPOT {format_time(row['tpot_s'])}. See: --workers both"
    )


def trust(comparison: Comparison) -> str:
    """Say what share of the best deployment's time rests on measurements.

    Parameters
    ----------
    comparison : Comparison
        Ranked deployments.

    Returns
    -------
    str
        One line.
    """
    row = comparison.rows(1)[0]
    parts = [f"{phase} {100 * row[f'{phase}_measured_share']:.0f}%" for phase in ("decode", "prefill")]
    return f"Accuracy: share of the best plan's time that rests on measured kernels: {', '.join(parts)}."
