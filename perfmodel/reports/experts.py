"""Report of experts at scale: a table over numbers of ranks, then what affinity and host memory would do."""

from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.ranking.expert_affinity import AffinityPlacement
from perfmodel.ranking.experts import ExpertLayer
from perfmodel.reports.tables import plain_table
from perfmodel.units import format_size, format_time


def expert_table(asked: ExpertLayer, rows: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """Write a sweep over ranks as text.

    Parameters
    ----------
    asked : ExpertLayer
        What was asked.
    rows : sequence of mapping
        From `perfmodel.ranking.experts.expert_sweep`.
    width : int, optional
        Characters of a line; columns that do not fit are left out.

    Returns
    -------
    str
        Title, table and a legend.
    """
    layer = asked.layer
    kind = "decode" if asked.decode else "prefill"
    source = "measured picks" if asked.loads is not None else f"a power law with exponent {asked.skew:g}"
    head = [
        "ranks", "places each", "busiest/mean", "copies", "levelled", "dispatch", "experts", "combine", "in parts",
        "layer", "exchange by", "ranks/token", "domains/token",
    ]  # fmt: skip
    cells = [
        [
            str(row["ranks"]),
            str(row["places_per_rank"]),
            f"{row['imbalance']:.2f}" if row["imbalance"] == row["imbalance"] else "-",
            str(row["copies"]),
            f"{row['levelled_imbalance']:.2f}",
            *(_time(row[f"{name}_s"]) for name in ("dispatch", "experts", "combine")),
            f"{row['degree']:.0f}",
            _time(row["layer_s"]),
            str(row["algorithm"]) if row["ranks"] > 1 else "-",
            f"{row['ranks_per_token']:.2f}",
            f"{row['domains_per_token']:.2f} of {row['domains']}",
        ]
        for row in rows
    ]
    limited = f", at most {layer.group_limit} of {layer.groups} groups per token" if layer.group_limit else ""
    return "\n".join(
        [
            f"{asked.model.id} on {asked.target.system.id}: {layer.experts} experts, top {layer.topk}{limited};"
            f" {asked.tokens:,.0f} {kind} tokens per rank, loads from {source}",
            "",
            plain_table(head, cells, width),
            "",
            " busiest/mean: load of the busiest rank, experts "
            + ("in the order given" if asked.loads is not None else "in random order")
            + "; levelled: with copies of busy experts, the busiest placed first.",
            " in parts: tokens cut so that exchanges run beside experts, at the degree that is fastest.",
        ]
    )


def _time(seconds: float) -> str:
    return format_time(seconds) if seconds > 0 else "-"


def offload_line(found: Mapping[str, float]) -> str:
    """Say what experts in host memory cost and save.

    Parameters
    ----------
    found : mapping
        From `perfmodel.ranking.experts.offload`.

    Returns
    -------
    str
        One line.
    """
    saved = f"{format_size(found['saved_bytes'], binary=True)} ({found['saved_share']:.1%} of the experts)"
    return (
        f" {found['resident']:.0f} experts of a layer on each device, the others in host memory: {saved} are saved,"
        f" {found['hit_rate']:.0%} of the weights are found, and a layer's experts take"
        f" {format_time(found['offloaded_s'])} instead of {format_time(found['experts_s'])}."
    )


def affinity_line(ranks: int, before: float, found: AffinityPlacement) -> str:
    """Say how many tokens stay on their rank, in order and placed by affinity.

    Parameters
    ----------
    ranks : int
        Expert-parallel ranks.
    before : float
        Share of tokens that stay with the experts in order [1].
    found : AffinityPlacement
        Placement by affinity.

    Returns
    -------
    str
        One line.
    """
    how = "integer program" if found.exact else "sweeps over the layers"
    fewer = 1.0 - (1.0 - found.local_share) / (1.0 - before) if before < 1.0 else 0.0
    return (
        f" {ranks} ranks: {before:.1%} of the tokens stay on their rank from layer to layer with the experts in order,"
        f" {found.local_share:.1%} placed by affinity ({how}): {fewer:.0%} less crosses."
    )
