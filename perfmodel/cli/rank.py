"""`perfmodel rank`: ranked plans for a budget of devices."""

from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from perfmodel.cli import load_options, options, screen
from perfmodel.cli.options import Format

FEW_PLANS = 5000
"""Plans up to which a ranking also looks at separate workers, which it does not rank unless it is asked to."""


class Arrivals(StrEnum):
    """How requests come."""

    closed = "closed"
    poisson = "poisson"


class Objective(StrEnum):
    """What tokens are ranked per."""

    gpu = "gpu"
    cost = "cost"
    energy = "energy"


class Workers(StrEnum):
    """Who computes prompts and tokens."""

    together = "together"
    separate = "separate"
    both = "both"


app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Rank the splits of a model over devices.")


@app.command("serving")
def serving(
    context: typer.Context,
    model: options.Model,
    system: options.SystemName,
    gpus: options.Gpus,
    isl: options.Isl,
    osl: options.Osl,
    ttft: Annotated[str | None, typer.Option(help="Longest mean time to first token, for instance 2s.")] = None,
    tpot: Annotated[str | None, typer.Option(help="Longest mean time per output token, for instance 50ms.")] = None,
    rate: Annotated[float, typer.Option(help="Requests per second that must be sustained.")] = 0.0,
    arrivals: Annotated[
        Arrivals, typer.Option(help="closed: a finished request is replaced at once; poisson: at random.")
    ] = Arrivals.closed,
    ttft_p99: Annotated[
        str | None, typer.Option("--ttft-p99", help="Longest TTFT of 99 requests in 100, under Poisson arrivals.")
    ] = None,
    precision: options.Precision = None,
    kv: options.KvFormat = None,
    engine: options.EngineName = "neutral",
    schedule: options.Schedule = None,
    chunk: options.Chunk = None,
    split: options.Split = None,
    expert_skew: options.ExpertSkew = None,
    prefix_hit: load_options.PrefixHit = 0.0,
    host_hit: load_options.HostHit = 0.0,
    shared_prefix: load_options.SharedPrefix = 0.0,
    sharers: load_options.Sharers = 1.0,
    host_experts: load_options.HostExperts = 0.0,
    expert_hit: load_options.ExpertHit = None,
    draft_tokens: load_options.DraftTokens = 0,
    acceptance: load_options.Acceptance = 0.7,
    draft_cost: load_options.DraftCost = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="Show the front of TPOT against rate per GPU.")] = False,
    workers: Annotated[
        Workers, typer.Option(help="Prompts and tokens on the same workers, on separate ones, or both compared.")
    ] = Workers.together,
    prefill_system: Annotated[
        str | None, typer.Option(help="System of the prefill workers, where it is another one.")
    ] = None,
    link: Annotated[
        str | None, typer.Option(help="What the cache crosses to a decode worker: a tier of the system, or 200Gbit/s.")
    ] = None,
    layerwise: Annotated[bool, typer.Option("--layerwise", help="Send the cache layer by layer.")] = False,
    price: Annotated[float | None, typer.Option(help="US dollars for one GPU and hour.")] = None,
    prefill_price: Annotated[float | None, typer.Option(help="The same for a GPU of the prefill system.")] = None,
    budget: Annotated[
        float | None, typer.Option(help="US dollars per hour that all GPUs may cost; needs --price.")
    ] = None,
    power: Annotated[
        str | None, typer.Option(help="Power that all GPUs may draw, each at its limit, for instance 200kW.")
    ] = None,
    objective: Annotated[
        Objective, typer.Option(help="With separate workers: rank by tokens per GPU, cost or energy.")
    ] = Objective.gpu,
    tp: Annotated[int | None, typer.Option(help="Hold tensor parallelism at one value.")] = None,
    pp: Annotated[int | None, typer.Option(help="Hold pipeline parallelism at one value.")] = None,
    dp: Annotated[int | None, typer.Option(help="Hold attention data parallelism at one value.")] = None,
    ep: Annotated[int | None, typer.Option(help="Hold expert parallelism at one value.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Hold the requests in flight per replica.")] = None,
    top: Annotated[int, typer.Option(metavar="COUNT", min=1, help="Plans to show.")] = 10,
    format: Annotated[Format, typer.Option(help="How to write the result.")] = Format.table,
    collectives: options.Collectives = "fastest",
    what_if: options.WhatIf = None,
    output: options.Output = None,
    profiles: options.Profiles = None,
) -> None:
    """Rank every split that fits by output tokens per second and GPU, within latency limits."""
    from perfmodel import api, api_compare
    from perfmodel.errors import PlanError
    from perfmodel.models.catalog import load_model
    from perfmodel.reports import compare
    from perfmodel.reports import serving as report

    spec = load_model(model)
    software: dict[str, Any] = {
        "engine": engine,
        "profiles": profiles,
        "schedule": schedule,
        "chunk": chunk,
        "split": split,
        "expert_skew": expert_skew,
        "collectives": collectives,
    }
    on = api.target(options.system_of(system, what_if, profiles), **software)
    load_options.refuse_unread_loads(
        context,
        on.engine.schedule,
        moe=spec.is_moe,
        shared_prefix=shared_prefix,
        sharers=sharers,
        host_experts=host_experts,
        draft_tokens=draft_tokens,
    )
    if what_if and prefill_system:
        raise PlanError(
            "--what-if changes one machine and --prefill-system adds another; write a profile for one of them"
        )
    asked: dict[str, Any] = {
        "gpus": options.count(gpus, "gpus"),
        "isl": options.count(isl, "isl"),
        "osl": options.count(osl, "osl"),
        "ttft": options.seconds(ttft, "ttft"),
        "tpot": options.seconds(tpot, "tpot"),
        "rate": rate,
        "price": price,
        "budget": budget,
        "power": power,
        "precision": precision,
        "kv": kv,
        "load": {
            "arrivals": arrivals.value,
            "prefix_hit": prefix_hit,
            "host_hit": host_hit,
            "shared_prefix": shared_prefix,
            "sharers": sharers,
            "host_experts": host_experts,
            "expert_hit": expert_hit,
            "draft_tokens": draft_tokens,
            "acceptance": acceptance,
            "draft_cost": draft_cost,
        },
        "tp": tp,
        "pp": pp,
        "dp": dp,
        "ep": ep,
    }
    late = options.seconds(ttft_p99, "ttft-p99")
    if workers is not Workers.together:
        if pareto or concurrency is not None:
            raise PlanError("--pareto and --concurrency need --workers together")
        comparison = api_compare.compare(
            spec,
            on,
            **asked,
            ttft_p99=late,
            prefill_system=prefill_system and api.target(prefill_system, **software),
            link=link,
            layerwise=layerwise,
            together=workers is Workers.both,
            by=objective.value,
            prefill_price=prefill_price,
        )
        _deliver(compare, comparison, on.system, top, format, output)
        return
    if prefill_system or link or layerwise or prefill_price or objective is not Objective.gpu:
        flags = "--prefill-system, --prefill-price, --link, --layerwise and --objective"
        raise PlanError(f"{flags} need --workers separate or both")
    ranking = api.rank(spec, on, **asked, ttft_p99=late, concurrency=concurrency)
    note = ""
    if pareto:
        ranking = ranking.front()
    elif concurrency is None and ranking.searched <= FEW_PLANS and format is Format.table:
        note = compare.separate_note(
            ranking, lambda: api_compare.compare(spec, on, **asked, ttft_p99=late, together=False)
        )
    _deliver(report, ranking, on.system, top, format, output, note)


def _deliver(
    report: ModuleType, ranking: Any, system: Any, top: int, format: Format, output: Path | None, note: str = ""
) -> None:
    """Write a ranking with the functions of its report module."""
    from perfmodel.reports.export import to_csv, to_json
    from perfmodel.reports.tables import plain_table
    from perfmodel.reports.what_if import what_if_lines

    if format is Format.json:
        options.deliver(to_json(report.document(ranking, top)), output)
    elif format is Format.csv:
        rows = report.document(ranking, top)["plans"]
        options.deliver(to_csv(rows, dict.fromkeys(name for row in rows for name in row)), output)
    else:
        header, cells = report.table_rows(ranking, top)
        table = plain_table(header, cells, screen.table_width(output))
        lines = [report.verdict(ranking), "", table, ""]
        lines += [
            f" {report.why_not(ranking)}",
            *([f" {note}"] if note else []),
            f" {report.trust(ranking)}",
            *what_if_lines(system),
        ]
        screen.show("\n".join(lines), output)
