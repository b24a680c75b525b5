"""Report of a serving ranking: the verdict in a sentence, the table, why the rest is not there, how far to trust it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from perfmodel.estimate.timed_step import RESOURCES
from perfmodel.ranking.limits import plan_name
from perfmodel.ranking.serving import Ranking
from perfmodel.ranking.ties import NEAR_TIE
from perfmodel.reports.words import (
    BOUND_WORDS,
    bound_text,
    economy_line,
    latency_remark,
    searched_line,
    share,
    three_digits,
)
from perfmodel.units import format_size, format_time


def verdict(ranking: Ranking) -> str:
    """Say in one sentence which plan is best, and in a second why the next split is behind it.

    Parameters
    ----------
    ranking : Ranking
        Ranked plans.

    Returns
    -------
    str
        One or two lines.
    """
    best = ranking.row(1)
    replicas = f"{best['replicas']} replica{'s' if best['replicas'] != 1 else ''} of {plan_name(best)}"
    requests = f"{best['concurrency']} request{'s' if best['concurrency'] != 1 else ''} each"
    capacity = ", all that the KV cache holds" if best["bound"] == "capacity" else ""
    text = (
        f"Best: {replicas}, {requests}{capacity}: {best['deployment_tokens_per_s']:,.0f} output tok/s"
        f" ({three_digits(best['tokens_per_s_per_gpu'])} per GPU), TTFT {format_time(best['ttft_s'])},"
        f" TPOT {format_time(best['tpot_s'])}, decode bound by {BOUND_WORDS[str(best['bound_decode'])]}."
    )
    if len(ranking) < 2:
        return text
    return f"{text}\n      {_why_next(best, ranking.row(2))}"


def _why_next(best: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Name the part of the decode step, or the memory, that puts the second split behind."""
    gain = best["tokens_per_s_per_gpu"] / other["tokens_per_s_per_gpu"] - 1.0
    name = f"{plan_name(other)} x {other['replicas']}"
    lead = f"{100 * gain:+.0f}% over {name}" if gain >= 0.005 else f"Level with {name}"
    shares = {part: (share(best, part), share(other, part)) for part in RESOURCES if part not in ("compute", "memory")}
    part = max(shares, key=lambda p: shares[p][1] - shares[p][0])
    ours, theirs = shares[part]
    here, there = (row["concurrency"] / _devices(row) for row in (best, other))
    if theirs - ours > 0.02:
        what = {"network": "communication", "latency": "kernel latency", "host": "waiting for the host"}[part]
        return f"{lead}, which spends {100 * theirs:.0f}% of a decode step in {what} (here {100 * ours:.0f}%)."
    if there < 0.98 * here:
        fewer, more = (f"{value:,.0f}" if value >= 10 else f"{value:.3g}" for value in (there, here))
        if other["bound"] == "capacity":
            return f"{lead}, whose KV cache holds no more than {fewer} requests per GPU (here {more})."
        return f"{lead}, which is at its best with {fewer} requests per GPU (here {more})."
    if gain < 0.005:
        return f"{lead}: TTFT {format_time(other['ttft_s'])}, TPOT {format_time(other['tpot_s'])}."
    slower = max(("decode", "prefill"), key=lambda phase: other[f"{phase}_s"] / best[f"{phase}_s"])
    took, takes = (format_time(row[f"{slower}_s"]) for row in (best, other))
    if took == takes:
        # The steps are alike, so what differs is the longest stage and the prompts that share it.
        took, takes = (format_time(row["tpot_s"]) for row in (best, other))
        return f"{lead}, whose TPOT is {takes} (here {took})."
    return f"{lead}, whose {slower} step takes {takes} (here {took})."


def _devices(row: Mapping[str, Any]) -> int:
    return int(row["tp"] * row["pp"] * row["dp"] * row["cp"])


def table_rows(ranking: Ranking, top: int) -> tuple[list[str], list[list[str]]]:
    """Write the best plans as a table of text.

    Parameters
    ----------
    ranking : Ranking
        Ranked plans.
    top : int
        Rows at most.

    Returns
    -------
    tuple
        Header, and one list of cells per plan.
    """
    moe = bool(np.any(ranking.estimate.grid.ep > 1)) or bool(np.any(ranking.estimate.grid.moe_tp > 1))
    header = ["rank", "replicas", "tp", "pp", "dp", *(["ep"] if moe else []), "conc", "TTFT", "TPOT", "tok/s/GPU"]
    arriving = "ttft_p99_s" in ranking.estimate.columns
    if arriving:
        header[-2:-2] = ["p99"]
        header += ["load"]
    priced = bool(np.isfinite(ranking.price))
    header += ["USD/Mtok"] if priced else []
    header += ["memory", *([] if arriving or priced else ["headroom"]), "bound in decode"]
    rows = []
    for rank in range(1, min(top, len(ranking)) + 1):
        row = ranking.row(rank)
        device_bytes = ranking.estimate.columns["memory_capacity_bytes"][0]
        used = 100 * float(row["memory_bytes"]) / device_bytes
        headroom = format_size(max(float(device_bytes - row["memory_bytes"]), 0.0), binary=True)
        rows.append(
            [
                str(rank),
                str(row["replicas"]),
                *(str(row[k]) for k in ("tp", "pp", "dp", *(["ep"] if moe else []), "concurrency")),
                format_time(float(row["ttft_s"])),
                *([format_time(float(row["ttft_p99_s"]))] if arriving else []),
                format_time(float(row["tpot_s"])),
                three_digits(float(row["tokens_per_s_per_gpu"])),
                *([_percent(row["utilisation"])] if arriving else []),
                *([three_digits(float(row["usd_per_million_tokens"]))] if priced else []),
                f"{format_size(float(row['memory_bytes']), binary=True)} {used:.0f}%",
                *([] if arriving or priced else [headroom]),
                bound_text(row),
            ]
        )
    return header, rows


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if np.isfinite(share) else ""


def why_not(ranking: Ranking) -> str:
    """Say how many plans were searched and why most of the others are not in the table.

    Parameters
    ----------
    ranking : Ranking
        Ranked plans.

    Returns
    -------
    str
        One line.
    """
    text = searched_line(ranking.searched, ranking.seconds, ranking.infeasible)
    if ranking.limits.rate and (fewest := ranking.fewest_gpus(ranking.limits.rate)):
        row = ranking.estimate.row(fewest[1])
        text += (
            f"\n {ranking.limits.rate:g} requests/s need at least {fewest[0]} GPUs: {fewest[0] // _devices(row)} of"
            f" {plan_name(row)}, {row['requests_per_s']:.3g} requests/s each."
        )
    if np.any(np.diff(ranking.estimate["tokens_per_s_per_gpu"][ranking.order]) > 0):
        text += f"\n Rates within {100 * NEAR_TIE:.0f}% of each other count as equal: fewer pipeline stages come first."
    if "ttft_p99_s" in ranking.estimate.columns:
        text += (
            "\n Poisson arrivals; conc: what a request sees in flight; load: of the most that the plan sustains."
            "\n p99: TTFT that 99 of 100 requests stay within, if prompts are alike and go singly before decode steps."
        )
    best = ranking.row(1)
    return "\n ".join([text, *_collectives(ranking), *latency_remark(ranking.limits, best), economy_line(best)])


def _collectives(ranking: Ranking) -> list[str]:
    """Name the algorithms of the best plan's collectives, where it has any."""
    used: dict[str, list[str]] = {}
    for where, algorithm in ranking.collectives(1).items():
        used.setdefault(algorithm, []).append(where)
    named = [f"{', '.join(where)}: {algorithm}" for algorithm, where in used.items()]
    return [f"Collectives of the best plan: {'; '.join(named)}."] if named else []


def trust(ranking: Ranking) -> str:
    """Say what share of the best plan's time rests on measurements.

    Parameters
    ----------
    ranking : Ranking
        Ranked plans.

    Returns
    -------
    str
        One line.
    """
    row = ranking.row(1)
    context = ranking.estimate.context
    parts = [f"{phase} {100 * float(row[f'{phase}_measured_share']):.0f}%" for phase in ("decode", "prefill")]
    return (
        f"Accuracy: share of the time that rests on measured kernels of {context['device']}: {', '.join(parts)};"
        " the rest on defaults and the datasheet. See: perfmodel explain serving"
    )


def document(ranking: Ranking, top: int) -> dict[str, Any]:
    """Arrange a ranking as the document that `--format json` prints.

    Parameters
    ----------
    ranking : Ranking
        Ranked plans.
    top : int
        Plans at most.

    Returns
    -------
    dict
        verdict, plans, infeasible and provenance.
    """
    context = ranking.estimate.context
    return {
        "verdict": verdict(ranking),
        "plans": [
            ranking.row(rank) | {"collectives": dict(ranking.collectives(rank))}
            for rank in range(1, min(top, len(ranking)) + 1)
        ],
        "infeasible": dict(ranking.infeasible),
        "provenance": {
            "model": context["model"],
            "system": context["system"],
            "device": context["device"],
            "engine": context["engine"],
            "isl": context["workload"].isl,
            "osl": context["workload"].osl,
            "precision": {name: getattr(context["precision"], name) for name in context["precision"].__slots__},
            "plans_searched": ranking.searched,
            "search_seconds": ranking.seconds,
            "kernels": context["kernels"],
        },
    }
