"""Report of plans on nodes that are not connected alike: verdict, table, nodes of every stage."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from perfmodel.ranking.training import training_plan_name
from perfmodel.ranking.training_placed import PlacedPlan, PlacedRanking
from perfmodel.reports.training import shown_knobs, time_goes_to
from perfmodel.reports.words import searched_line
from perfmodel.units import format_size, format_time


def _short(names: Sequence[str]) -> str:
    """Names of nodes, neighbours with running numbers drawn together: a1-a4, b2."""

    def split(name: str) -> tuple[str, int]:
        head = name.rstrip("0123456789")
        return head, int(name[len(head) :] or -1)

    ordered = sorted(map(split, names))
    out = []
    for (head, _), run in groupby(enumerate(ordered), key=lambda pair: (pair[1][0], pair[1][1] - pair[0])):
        numbers = [number for _, (_, number) in run]
        first = f"{head}{numbers[0]}" if numbers[0] >= 0 else head
        out.append(first if len(numbers) == 1 else f"{first}-{head}{numbers[-1]}")
    return ", ".join(out)


def placed_verdict(ranking: PlacedRanking) -> str:
    """Say which plan is fastest, and what its nodes were worth.

    Parameters
    ----------
    ranking : PlacedRanking
        Ranked plans.

    Returns
    -------
    str
        Two lines.
    """
    row = ranking.plans[0].row
    gain = row["given_step_s"] / row["step_s"] - 1.0
    worth = (
        f"{100 * gain:.1f}% before the same plan on the nodes in the order given"
        if gain >= 5e-4
        else "No faster than on the nodes in the order given"
    )
    return (
        f"Best: {training_plan_name(row)}: {format_time(row['step_s'])} per step,"
        f" {row['tokens_per_s_per_gpu']:,.0f} tok/s/GPU, MFU {100 * row['mfu']:.1f}%,"
        f" {format_size(row['peak_bytes'], binary=True)} per device.\n      {worth}."
    )


def placed_rows(ranking: PlacedRanking) -> tuple[list[str], list[list[str]]]:
    """Write the plans as a table of text.

    Parameters
    ----------
    ranking : PlacedRanking
        Ranked plans.

    Returns
    -------
    tuple
        Header, and one list of cells per plan.
    """
    shown = shown_knobs([plan.row for plan in ranking.plans])
    header = ["rank", *("mb" if k == "micro_batch" else k for k in shown)]
    header += ["step", "as given", "tok/s/GPU", "MFU", "memory", "time goes to"]
    rows = []
    for i, plan in enumerate(ranking.plans):
        row = plan.row
        cells = [
            str(i + 1),
            *(str(row[k]) for k in shown),
            format_time(row["step_s"]),
            format_time(row["given_step_s"]),
        ]
        cells += [f"{row['tokens_per_s_per_gpu']:,.0f}", f"{100 * row['mfu']:.1f}%"]
        rows.append([*cells, format_size(row["peak_bytes"], binary=True), time_goes_to(row)])
    return header, rows


def stage_rows(plan: PlacedPlan) -> tuple[list[str], list[list[str]]]:
    """Write which nodes hold which part of the pipeline.

    Parameters
    ----------
    plan : PlacedPlan
        One plan.

    Returns
    -------
    tuple
        Header, and one list of cells per group of stages.
    """
    several = plan.row["pp"] // len(plan.stages)
    rows = []
    for i, (names, layers) in enumerate(zip(plan.stages, plan.layers, strict=True)):
        first = i * several + 1
        stage = str(first) if several == 1 else f"{first}-{first + several - 1}"
        rows.append([stage, str(layers), _short(names)])
    return ["stage", "layers", "nodes"], rows


def placed_note(ranking: PlacedRanking) -> str:
    """Say how the plans were found.

    Parameters
    ----------
    ranking : PlacedRanking
        Ranked plans.

    Returns
    -------
    str
        One line.
    """
    what = f"plans searched and {ranking.placed} placed on {ranking.context['nodes']} nodes"
    return searched_line(ranking.searched, ranking.seconds, ranking.infeasible, what)


def placed_document(ranking: PlacedRanking) -> dict[str, Any]:
    """Arrange a ranking as the document that `--format json` prints.

    Parameters
    ----------
    ranking : PlacedRanking
        Ranked plans.

    Returns
    -------
    dict
        verdict, plans, infeasible and provenance.
    """
    context = ranking.context
    plans = [
        {"rank": i + 1, **plan.row, "stage_nodes": [list(names) for names in plan.stages], "stage_layers": plan.layers}
        for i, plan in enumerate(ranking.plans)
    ]
    names = ("model", "system", "device", "stack", "nodes")
    provenance = {name: context[name] for name in names} | {"precision": context["recipe"]}
    provenance |= {"plans_searched": ranking.searched, "plans_placed": ranking.placed}
    return {
        "verdict": placed_verdict(ranking),
        "plans": plans,
        "infeasible": dict(ranking.infeasible),
        "provenance": provenance | {"search_seconds": ranking.seconds},
    }
