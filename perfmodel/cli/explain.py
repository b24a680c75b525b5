"""`perfmodel explain`: the derivation of an estimate, operator by operator."""

from dataclasses import replace
from typing import Annotated

import typer

from perfmodel.cli import load_options, options, screen

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Derive an estimate, operator by operator.")


@app.command("serving")
def serving(
    context: typer.Context,
    model: options.Model,
    system: options.SystemName,
    isl: options.Isl,
    osl: options.Osl,
    tp: Annotated[int, typer.Option(help="Tensor-parallel ranks.")] = 1,
    pp: Annotated[int, typer.Option(help="Pipeline stages.")] = 1,
    dp: Annotated[int, typer.Option(help="Attention data-parallel ranks.")] = 1,
    ep: Annotated[int, typer.Option(help="Expert-parallel ranks.")] = 1,
    concurrency: Annotated[int | None, typer.Option(help="Requests in flight in the replica; one by default.")] = None,
    arrival_rate: Annotated[
        float | None, typer.Option(help="Requests that arrive per second, at random; the concurrency follows.")
    ] = None,
    precision: options.Precision = None,
    kv: options.KvFormat = None,
    engine: options.EngineName = "neutral",
    prefix_hit: load_options.PrefixHit = 0.0,
    host_hit: load_options.HostHit = 0.0,
    shared_prefix: load_options.SharedPrefix = 0.0,
    sharers: load_options.Sharers = 1.0,
    host_experts: load_options.HostExperts = 0.0,
    expert_hit: load_options.ExpertHit = None,
    draft_tokens: load_options.DraftTokens = 0,
    acceptance: load_options.Acceptance = 0.7,
    draft_cost: load_options.DraftCost = None,
    schedule: options.Schedule = None,
    chunk: options.Chunk = None,
    split: options.Split = None,
    expert_skew: options.ExpertSkew = None,
    phase: Annotated[str, typer.Option(help="decode, prefill or both.")] = "both",
    collectives: options.Collectives = "fastest",
    what_if: options.WhatIf = None,
    output: options.Output = None,
    profiles: options.Profiles = None,
) -> None:
    """Show where every millisecond and every byte of one plan comes from."""
    from perfmodel import api
    from perfmodel.errors import NothingFeasibleError, PlanError
    from perfmodel.estimate.serving.open_loop import at_rate
    from perfmodel.estimate.serving.predict import predict_serving
    from perfmodel.estimate.serving.workload import Workload
    from perfmodel.models.catalog import load_model
    from perfmodel.parallel.grid import plans
    from perfmodel.reports.explain import derivation
    from perfmodel.reports.what_if import what_if_lines

    if phase not in ("decode", "prefill", "both"):
        raise PlanError(f"--phase must be decode, prefill or both, not {phase!r}")
    spec = load_model(model)
    if arrival_rate is not None and concurrency is not None:
        raise PlanError("--concurrency follows from --arrival-rate; give one of them")
    if ep > 1 and not spec.is_moe:
        raise PlanError(f"--ep shares out experts, and {spec.id} has none")
    knobs = {"tp": tp, "pp": pp, "dp": dp, "concurrency": 1 if concurrency is None else concurrency}
    grid = plans(**knobs, ep=ep) if spec.is_moe else plans(**knobs)
    on = api.target(
        options.system_of(system, what_if, profiles),
        engine,
        profiles=profiles,
        schedule=schedule,
        chunk=chunk,
        split=split,
        expert_skew=expert_skew,
        collectives=collectives,
    )
    load_options.refuse_unread_loads(
        context,
        on.engine.schedule,
        moe=spec.is_moe,
        shared_prefix=shared_prefix,
        sharers=sharers,
        host_experts=host_experts,
        draft_tokens=draft_tokens,
    )
    workload = Workload(
        float(options.count(isl, "isl")),
        float(options.count(osl, "osl")),
        prefix_hit=prefix_hit,
        host_hit=host_hit,
        shared_prefix=shared_prefix,
        sharers=sharers,
        host_experts=host_experts,
        expert_hit=expert_hit,
        draft_tokens=draft_tokens,
        acceptance=acceptance,
        draft_cost=draft_cost,
    )
    formats = api.precision_of(spec, precision, kv, on)
    if arrival_rate is not None:
        found = at_rate(
            lambda part, asked: predict_serving(spec, on, part, asked, formats), grid, workload, arrival_rate
        )
        if not found.feasible[0]:
            raise NothingFeasibleError(found.verdicts.reason(0))
        grid = found.grid.take([0])
        workload = replace(workload, arrivals="poisson", rate=arrival_rate / dp)
    text = derivation(
        spec,
        on,
        grid,
        workload,
        formats,
        phases=("decode", "prefill") if phase == "both" else (phase,),
    )
    screen.show("\n".join([text, *what_if_lines(on.system)]), output)
