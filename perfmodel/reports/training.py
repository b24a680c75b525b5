"""Report of training plans: verdict, table, memory by part, why the rest is not there, and a derivation."""

from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.errors import PlanError
from perfmodel.estimate.training.flops import CONVENTIONS
from perfmodel.estimate.training.memory import MEMORY_PARTS
from perfmodel.estimate.training.pipeline import STEP_PARTS
from perfmodel.estimate.training.predict import TrainingEstimate
from perfmodel.estimate.training.workload import TrainingWorkload
from perfmodel.ranking.training import TrainingRanking, training_plan_name
from perfmodel.reports.tables import plain_table
from perfmodel.reports.words import searched_line
from perfmodel.units import format_quantity, format_size, format_time

_WORDS = {
    "compute": "matrix products and attention",
    "pointwise": "pointwise passes",
    "tp": "tensor-parallel communication",
    "cp": "context-parallel communication",
    "ep": "expert exchange",
    "pp": "hops between stages",
    "bubble": "pipeline bubble",
    "dp": "gradient and weight exchange",
    "optimizer": "optimizer",
    "offload": "moving data to the host and back",
    "host": "waiting for the host",
}


def time_goes_to(row: Mapping[str, Any]) -> str:
    """Name the three largest parts of a step.

    Parameters
    ----------
    row : mapping
        Columns of a plan.

    Returns
    -------
    str
        For instance "compute 74%, tp 16%, bubble 6%"; nothing below 2 %.
    """
    shares = sorted(((row[f"{part}_s"] / row["step_s"], part) for part in STEP_PARTS), reverse=True)
    return ", ".join(f"{part} {100 * share:.0f}%" for share, part in shares[:3] if share >= 0.02)


def training_verdict(ranking: TrainingRanking) -> str:
    """Say in one sentence which plan is fastest, and in a second why the next is behind it.

    Parameters
    ----------
    ranking : TrainingRanking
        Ranked plans.

    Returns
    -------
    str
        One or two lines.
    """
    best = ranking.row(1)
    days = f", {best['days']:,.1f} days for {format_quantity(ranking.tokens, 'count')} tokens" if ranking.tokens else ""
    text = (
        f"Best: {training_plan_name(best)}: {format_time(best['step_s'])} per step,"
        f" {best['tokens_per_s_per_gpu']:,.0f} tok/s/GPU, MFU {100 * best['mfu']:.1f}%, HFU {100 * best['hfu']:.1f}%,"
        f" {format_size(best['peak_bytes'], binary=True)} per device{days}."
    )
    if "goodput" in best:
        back = (
            f"a checkpoint every {best['checkpoint_interval_s'] / 60:,.0f} min"
            if "checkpoint_interval_s" in best
            else "after which the job goes on without what failed"
        )
        text += (
            f"\n      Goodput {100 * best['goodput']:.1f}%: an interruption every {best['job_mtbf_s'] / 3600:,.1f} h,"
            f" {back}."
        )
    if len(ranking) < 2:
        return text
    other = ranking.row(2)
    slower = other["step_s"] / best["step_s"] - 1.0
    more = max(STEP_PARTS, key=lambda part: float(other[f"{part}_s"] - best[f"{part}_s"]))
    name = training_plan_name(other)
    lead = f"{100 * slower:.1f}% before {name}" if slower >= 5e-4 else f"Level with {name}"
    gap = float(other[f"{more}_s"] - best[f"{more}_s"])
    return (
        f"{text}\n      {lead}, which spends {format_time(gap)} more in {_WORDS[more]}."
        if gap > 0
        else f"{text}\n      {lead}."
    )


def training_rows(ranking: TrainingRanking, top: int) -> tuple[list[str], list[list[str]]]:
    """Write the fastest plans as a table of text.

    Parameters
    ----------
    ranking : TrainingRanking
        Ranked plans.
    top : int
        Rows at most.

    Returns
    -------
    tuple
        Header, and one list of cells per plan.
    """
    plans = [ranking.row(rank) for rank in range(1, min(top, len(ranking)) + 1)]
    knobs = shown_knobs(plans)
    again = any(row["hfu"] > row["mfu"] for row in plans)
    header = ["rank", *("mb" if k == "micro_batch" else k for k in knobs), "step", "tok/s/GPU", "MFU"]
    header += [*(["HFU"] if again else []), *(["days"] if ranking.tokens else []), "memory", "time goes to"]
    rows = []
    for row in plans:
        cells = [str(row["rank"]), *(str(row[k]) for k in knobs), format_time(row["step_s"])]
        cells += [f"{row['tokens_per_s_per_gpu']:,.0f}", f"{100 * row['mfu']:.1f}%"]
        cells += [f"{100 * row['hfu']:.1f}%"] if again else []
        cells += [f"{row['days']:,.1f}"] if ranking.tokens else []
        rows.append([*cells, format_size(row["peak_bytes"], binary=True), time_goes_to(row)])
    return header, rows


def shown_knobs(plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """Knobs that a table of plans shows: the usual ones, and the others where a plan uses them.

    Parameters
    ----------
    plans : sequence of mapping
        Rows of the table.

    Returns
    -------
    list of str
        Knobs, in order.

    Examples
    --------
    >>> shown_knobs([{"cp": 1, "ep": 8, "vp": 1}])
    ['tp', 'pp', 'dp', 'ep', 'micro_batch', 'zero', 'recompute']
    """
    knobs = ("tp", "pp", "dp", "cp", "ep", "vp", "micro_batch", "zero", "recompute")
    return [k for k in knobs if k not in ("cp", "ep", "vp") or any(row[k] > 1 for row in plans)]


def memory_lines(estimate: TrainingEstimate, index: int) -> list[str]:
    """Write the memory of one plan's fullest device, part by part, activations by operator.

    Parameters
    ----------
    estimate : TrainingEstimate
        Predictions.
    index : int
        Flat position of the plan.

    Returns
    -------
    list of str
        Lines; the parts sum to the peak.
    """
    row = estimate.row(index)
    lines = [f"peak memory {format_size(row['peak_bytes'], binary=True)} (allocator, fullest stage)"]
    if row["host_bytes"]:
        lines[0] += f", {format_size(row['host_bytes'], binary=True)} per device on the host"
    rows = []
    for part in MEMORY_PARTS:
        value = row[f"{part}_bytes"]
        rows.append([part, format_size(value, binary=True), f"{100 * value / row['peak_bytes']:.1f}%"])
        if part == "activations":
            for name, nbytes in estimate.activations(index).items():
                rows.append([f"  {name}", format_size(nbytes, binary=True), f"{100 * nbytes / row['peak_bytes']:.1f}%"])
    return [*lines, plain_table(["part", "bytes", "share"], rows)]


def why_not_training(ranking: TrainingRanking) -> str:
    """Say how many plans were searched and why most of the others are not in the table.

    Parameters
    ----------
    ranking : TrainingRanking
        Ranked plans.

    Returns
    -------
    str
        One line.
    """
    return searched_line(ranking.searched, ranking.seconds, ranking.infeasible)


def conventions() -> str:
    """Say what the two utilisations count.

    Returns
    -------
    str
        One line for each.
    """
    return "\n ".join(f"{name.upper()}: {text}." for name, text in CONVENTIONS.items())


def mixed_facts(workload: TrainingWorkload) -> dict[str, Any]:
    """Arrange what sequences of several lengths, or chunks, a step trains on.

    Parameters
    ----------
    workload : TrainingWorkload
        Lengths and chunks.

    Returns
    -------
    dict
        lengths (tokens and share of each), mean_tokens, chunk and retained.
    """
    drawn = workload.drawn
    lengths = [{"tokens": n, "share": share} for n, share in zip(drawn.tokens, drawn.shares, strict=True)]
    facts = {"lengths": lengths, "mean_tokens": drawn.mean}
    return facts | ({"chunk": workload.chunk, "retained": workload.retained} if workload.chunk else {})


def mixed_lines(workload: TrainingWorkload) -> list[str]:
    """Say what sequences of several lengths, or chunks, a step trains on.

    Parameters
    ----------
    workload : TrainingWorkload
        Lengths and chunks.

    Returns
    -------
    list of str
        One line, none for sequences of one length.
    """
    if not workload.mixed:
        return []
    drawn = workload.drawn
    text = f"sequences of {drawn.tokens[0]:,.0f} to {drawn.longest:,.0f} tokens, {drawn.mean:,.0f} on average"
    if not workload.chunk:
        return [f" {text}, each a microbatch; memory holds the longest, and waits for it are in bubble and dp."]
    kept = f"of a longer sequence {workload.retained:.0f} are kept and the others computed twice"
    return [f" {text}, in chunks of {workload.chunk:,.0f}; {kept}."]


def training_document(ranking: TrainingRanking, top: int) -> dict[str, Any]:
    """Arrange a ranking as the document that `--format json` prints.

    Parameters
    ----------
    ranking : TrainingRanking
        Ranked plans.
    top : int
        Plans at most.

    Returns
    -------
    dict
        verdict, plans, infeasible and provenance.
    """
    context = ranking.estimate.context
    workload = context["workload"]
    plans = []
    for rank in range(1, min(top, len(ranking)) + 1):
        activations = ranking.estimate.activations(int(ranking.order[rank - 1]))
        plans.append(ranking.row(rank) | {"activations_by_operator_bytes": activations})
    return {
        "verdict": training_verdict(ranking),
        "plans": plans,
        "infeasible": dict(ranking.infeasible),
        "provenance": {
            "model": context["model"],
            "system": context["system"],
            "device": context["device"],
            "stack": context["stack"],
            "precision": context["recipe"],
            "seq": workload.seq,
            **(mixed_facts(workload) if workload.mixed else {}),
            "global_batch": workload.global_batch,
            "conventions": dict(CONVENTIONS),
            "plans_searched": ranking.searched,
            "search_seconds": ranking.seconds,
        },
    }


def training_derivation(estimate: TrainingEstimate, index: int, provenance: Mapping[str, str]) -> str:
    """Derive one plan's step and memory.

    Parameters
    ----------
    estimate : TrainingEstimate
        Predictions.
    index : int
        Flat position of the plan.
    provenance : mapping
        Number of the stack -> where it comes from.

    Returns
    -------
    str
        Lines: the step part by part, memory part by part, and what they rest on.

    Raises
    ------
    PlanError
        If the plan cannot be; one that only lacks memory is derived, to show what takes it.
    """
    row, context = estimate.row(index), estimate.context
    broken = int(estimate.verdicts.code[index])
    if broken and estimate.verdicts.rules[broken - 1].category != "memory":
        raise PlanError(f"this plan cannot be: {row['reason']}")
    rows = [
        [part, format_time(row[f"{part}_s"]), f"{100 * row[f'{part}_s'] / row['step_s']:.1f}%", _WORDS[part]]
        for part in STEP_PARTS
    ]
    lines = [
        f"{context['model']} on {context['system']}, stack {context['stack']}, {context['recipe']},"
        f" {context['method']} training: {training_plan_name(row)}",
        f"step {format_time(row['step_s'])}: {row['microbatches']:g} microbatches per rank,"
        f" MFU {100 * row['mfu']:.1f}%,"
        f" HFU {100 * row['hfu']:.1f}% of {context['peak_flops'] / 1e12:,.0f} TFLOP/s",
        plain_table(["part", "time", "share", "what it is"], rows),
        "",
        *memory_lines(estimate, index),
        "",
        *mixed_lines(context["workload"]),
        f" {conventions()}",
        f"numbers of the stack {context['stack']}:",
        *(f" {name}: {source}" for name, source in provenance.items()),
    ]
    if row["reason"]:
        lines.append(f"not feasible: {row['reason']}")
    return "\n".join(lines)
