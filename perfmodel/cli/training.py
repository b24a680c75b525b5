"""Training commands: predict and validate cases, rank the plans of a budget, derive one plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perfmodel.cli import options, screen
from perfmodel.cli import training_options as knobs
from perfmodel.cli.options import Format
from perfmodel.cli.predict import Cases, deliver_predictions

if TYPE_CHECKING:
    from perfmodel.hardware.cluster import Cluster
    from perfmodel.ranking.training_placed import PlacedRanking


def predict(
    cases: Cases,
    output: options.Output = None,
    stack: knobs.StackName = None,
    profiles: options.Profiles = None,
) -> None:
    """Predict optimizer steps: columns id, step_s and peak_bytes, then utilisations, reason and parts."""
    from perfmodel.calibrate.cases import read_cases
    from perfmodel.validate.training import REQUIRED, predict_training_cases

    frame = read_cases(cases, REQUIRED)
    deliver_predictions(predict_training_cases(frame, stack=stack, profiles=profiles), output, "step_s")


def validate(
    cases: Cases,
    by: Annotated[str, typer.Option(help="Columns to group by, separated by commas.")] = "source",
    stack: knobs.StackName = None,
    format: Annotated[Format, typer.Option(help="How to write the result.")] = Format.table,
    output: options.Output = None,
    profiles: options.Profiles = None,
) -> None:
    """Errors of step time and peak memory by source of the measurements."""
    from perfmodel.calibrate.cases import read_cases
    from perfmodel.reports.export import to_csv, to_json
    from perfmodel.reports.tables import plain_table
    from perfmodel.validate.training import REQUIRED, predict_training_cases, training_errors

    frame = read_cases(cases, (*REQUIRED, "measured_step_s"))
    table = training_errors(frame, predict_training_cases(frame, stack=stack, profiles=profiles), tuple(by.split(",")))
    rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    if format is Format.json:
        options.deliver(to_json({"errors_percent": rows}), output)
    elif format is Format.csv:
        options.deliver(to_csv(rows, [str(name) for name in table.columns]), output)
    else:
        cells = [[f"{v:g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
        header = [str(name) for name in table.columns]
        screen.show(plain_table(header, cells, screen.table_width(output)), output)


def rank(
    context: typer.Context,
    model: options.Model,
    system: options.SystemName,
    gpus: options.Gpus,
    global_batch: knobs.GlobalBatch,
    seq: knobs.Seq,
    tokens: Annotated[str | None, typer.Option(help="Tokens to train on, for instance 15T: gives days.")] = None,
    lengths: knobs.Lengths = None,
    chunk: knobs.Chunk = None,
    retained: knobs.Retained = 1,
    precision: knobs.Recipe = "bf16",
    stack: knobs.Stack = "neutral",
    method: knobs.Method = "full",
    adapter_rank: knobs.AdapterRank = 16,
    adapters: knobs.Adapters = 1,
    tp: Annotated[str | None, typer.Option(help="Hold tensor parallelism at one value, or several: 1,2,4.")] = None,
    pp: Annotated[str | None, typer.Option(help="Hold pipeline parallelism at one value, or several: 1,2,4.")] = None,
    dp: Annotated[str | None, typer.Option(help="Hold data parallelism at one value, or several: 1,2,4.")] = None,
    cp: Annotated[str | None, typer.Option(help="Hold context parallelism at one value, or several: 1,2,4.")] = None,
    ep: Annotated[str | None, typer.Option(help="Hold expert parallelism at one value, or several: 1,2,4.")] = None,
    vp: Annotated[str | None, typer.Option(help="Hold the chunks per stage at one value, or several: 1,2,4.")] = None,
    micro_batch: Annotated[str | None, typer.Option(help="Hold the microbatch at one value, or several.")] = None,
    recompute: Annotated[
        str | None, typer.Option(help="Hold recomputation: none, selective, pointwise, latent or full, or several.")
    ] = None,
    zero: Annotated[str | None, typer.Option(help="Hold the ZeRO stage at one value, or several: 0,1,3.")] = None,
    shard_copies: knobs.ShardCopies = 1,
    tp_overlap: knobs.TpOverlap = False,
    edge_layers: knobs.EdgeLayers = 0,
    skipped_stages: knobs.SkippedStages = 0.0,
    sequence_chunks: knobs.SequenceChunks = 1,
    offload_activations: knobs.OffloadActivations = 0.0,
    offload_optimizer: knobs.OffloadOptimizer = 0.0,
    offload_weights: knobs.OffloadWeights = 0.0,
    host_link: knobs.HostLink = None,
    schedule: Annotated[
        str | None, typer.Option(help="Pipeline schedule: 1f1b, gpipe, zb-h1, zb-h2, dualpipe, or several.")
    ] = None,
    islands: knobs.Islands = None,
    between: knobs.Between = None,
    links: knobs.Links = None,
    mtbf: Annotated[str | None, typer.Option(help="Mean time between failures of one device: gives goodput.")] = None,
    checkpoint: Annotated[str, typer.Option(help="Time that writing a checkpoint stops the job.")] = "60s",
    restart: Annotated[str, typer.Option(help="Time from a failure until the job computes again.")] = "10min",
    elastic: knobs.Elastic = None,
    repair: knobs.Repair = "4h",
    recovery: knobs.Recovery = "30s",
    top: Annotated[int, typer.Option(metavar="COUNT", min=1, help="Plans to show.")] = 10,
    format: Annotated[Format, typer.Option(help="How to write the result.")] = Format.table,
    what_if: options.WhatIf = None,
    output: options.Output = None,
    profiles: options.Profiles = None,
) -> None:
    """Rank every training plan that fits by the time of one optimizer step."""
    from perfmodel.api_training import rank_on_cluster, rank_training_plans
    from perfmodel.errors import PlanError
    from perfmodel.estimate.training.target import training_target
    from perfmodel.models.catalog import load_model
    from perfmodel.ranking.training import Reliability
    from perfmodel.reports import training as report
    from perfmodel.reports.export import to_csv, to_json
    from perfmodel.reports.tables import plain_table
    from perfmodel.reports.what_if import what_if_lines

    given = {"mtbf": mtbf, "checkpoint": checkpoint, "restart": restart, "repair": repair, "recovery": recovery}
    times = {name: options.seconds(text, name) or 0.0 for name, text in given.items()}
    failing, shrinking = (mtbf, "--mtbf, the mean time between failures of one device"), (elastic, "--elastic")
    learned = (method == "lora", "--method lora")
    options.refuse_unread(
        context,
        elastic=failing,
        checkpoint=failing,
        restart=failing,
        repair=shrinking,
        recovery=shrinking,
        adapter_rank=learned,
        adapters=learned,
        retained=(chunk, "--chunk"),
    )
    reliability = (
        Reliability(
            times["mtbf"], times["checkpoint"], times["restart"], elastic or "", times["repair"], times["recovery"]
        )
        if mtbf
        else None
    )
    target = training_target(
        options.system_of(system, what_if, profiles), stack, host_link=host_link, profiles=profiles
    )
    sizes = {"tp": tp, "pp": pp, "dp": dp, "cp": cp, "ep": ep, "vp": vp, "micro-batch": micro_batch, "zero": zero}
    request: dict[str, Any] = {
        "seq": options.count(seq, "seq"),
        "global_batch": options.count(global_batch, "global-batch"),
        "precision": precision,
        "method": method,
        "adapter_rank": adapter_rank,
        "adapters": adapters,
        **{name.replace("-", "_"): knobs.whole_numbers(text, name) for name, text in sizes.items()},
        "recompute": knobs.several(recompute, "recompute"),
        "schedule": knobs.several(schedule, "schedule"),
        "shard_copies": shard_copies,
        "tp_overlap": float(tp_overlap),
        "edge_layers": edge_layers,
        "skipped_stages": skipped_stages,
        "sequence_chunks": sequence_chunks,
        "offload_activations": offload_activations,
        "offload_optimizer": offload_optimizer,
        "offload_weights": offload_weights,
    }
    devices = options.count(gpus, "gpus")
    if between and not (islands or links):
        raise PlanError("--between needs --islands, which it lies between")
    if (islands or links) and (mtbf or tokens):
        raise PlanError("--tokens and --mtbf are not reckoned with on nodes that are not connected alike")
    if (islands or links) and (lengths or chunk):
        raise PlanError("--lengths and --chunk are not reckoned with on nodes that are not connected alike")
    if islands or links:
        cluster = _cluster(islands, between, links, devices, target.system.scale_up_devices)
        placed = rank_on_cluster(load_model(model), target, cluster, top=top, **request)
        _deliver_placed(placed, format, output)
        return
    ranking = rank_training_plans(
        load_model(model),
        target,
        gpus=devices,
        tokens=float(options.count(tokens, "tokens")) if tokens else 0.0,
        reliability=reliability,
        lengths=lengths,
        chunk=options.count(chunk, "chunk") if chunk else 0.0,
        retained=retained,
        **request,
    )
    if format is Format.json:
        options.deliver(to_json(report.training_document(ranking, top)), output)
    elif format is Format.csv:
        rows = [ranking.row(rank) for rank in range(1, min(top, len(ranking)) + 1)]
        options.deliver(to_csv(rows), output)
    else:
        table = plain_table(*report.training_rows(ranking, top), width=screen.table_width(output))
        lines = [report.training_verdict(ranking), "", table, ""]
        lines += ["Best plan:", *report.memory_lines(ranking.estimate, int(ranking.order[0])), ""]
        lines += [f" {report.why_not_training(ranking)}", *report.mixed_lines(ranking.estimate.context["workload"])]
        lines += [f" {report.conventions()}", *what_if_lines(target.system)]
        screen.show("\n".join(lines), output)


def _cluster(islands: str | None, between: str | None, links: Path | None, gpus: int, node: int) -> "Cluster":
    from perfmodel.errors import PlanError
    from perfmodel.hardware.cluster import cluster_of_islands, read_cluster

    if islands and links:
        raise PlanError("--islands and --links both say how nodes are connected; give one of them")
    if links and between:
        raise PlanError("--between belongs to --islands; --links says how every two nodes are connected")
    if islands and not between:
        raise PlanError("--islands needs --between, the bandwidth per device from one island to another")
    cluster = cluster_of_islands(islands, between or "") if islands else read_cluster(str(links))
    if len(cluster) * node != gpus:
        raise PlanError(f"{len(cluster)} nodes of {node} devices are {len(cluster) * node} devices, not --gpus {gpus}")
    return cluster


def _deliver_placed(ranking: "PlacedRanking", format: Format, output: Path | None) -> None:
    from perfmodel.reports import training_placed as report
    from perfmodel.reports.export import to_csv, to_json
    from perfmodel.reports.tables import plain_table

    if format is Format.json:
        options.deliver(to_json(report.placed_document(ranking)), output)
    elif format is Format.csv:
        options.deliver(to_csv([dict(plan.row) for plan in ranking.plans]), output)
    else:
        width = screen.table_width(output)
        lines = [report.placed_verdict(ranking), "", plain_table(*report.placed_rows(ranking), width=width), ""]
        lines += ["Best plan:", plain_table(*report.stage_rows(ranking.plans[0]), width=width), ""]
        screen.show("\n".join([*lines, f" {report.placed_note(ranking)}"]), output)


def explain(
    context: typer.Context,
    model: options.Model,
    system: options.SystemName,
    global_batch: knobs.GlobalBatch,
    seq: knobs.Seq,
    lengths: knobs.Lengths = None,
    chunk: knobs.Chunk = None,
    retained: knobs.Retained = 1,
    precision: knobs.Recipe = "bf16",
    stack: knobs.Stack = "neutral",
    method: knobs.Method = "full",
    adapter_rank: knobs.AdapterRank = 16,
    adapters: knobs.Adapters = 1,
    tp: Annotated[int, typer.Option(help="Tensor-parallel ranks.")] = 1,
    pp: Annotated[int, typer.Option(help="Pipeline stages.")] = 1,
    dp: Annotated[int, typer.Option(help="Data-parallel ranks.")] = 1,
    cp: Annotated[int, typer.Option(help="Context-parallel ranks.")] = 1,
    ep: Annotated[int, typer.Option(help="Expert-parallel ranks.")] = 1,
    vp: Annotated[int, typer.Option(help="Chunks per stage.")] = 1,
    micro_batch: Annotated[int, typer.Option(help="Sequences of a microbatch.")] = 1,
    sequence_parallel: Annotated[bool, typer.Option(help="Divide activations outside the matrices too.")] = True,
    recompute: Annotated[str, typer.Option(help="none, selective, pointwise, latent or full.")] = "none",
    recompute_share: Annotated[float, typer.Option(help="Part of the layers that is recomputed, 0 to 1.")] = 1.0,
    shard_copies: knobs.ShardCopies = 1,
    tp_overlap: knobs.TpOverlap = False,
    edge_layers: knobs.EdgeLayers = 0,
    skipped_stages: knobs.SkippedStages = 0.0,
    sequence_chunks: knobs.SequenceChunks = 1,
    offload_activations: knobs.OffloadActivations = 0.0,
    offload_optimizer: knobs.OffloadOptimizer = 0.0,
    offload_weights: knobs.OffloadWeights = 0.0,
    host_link: knobs.HostLink = None,
    zero: Annotated[int, typer.Option(help="ZeRO stage, 0 to 3.")] = 1,
    grad_overlap: Annotated[bool, typer.Option(help="Exchange gradients during the backward pass.")] = True,
    schedule: Annotated[str, typer.Option(help="1f1b, gpipe, zb-h1, zb-h2 or dualpipe.")] = "1f1b",
    what_if: options.WhatIf = None,
    output: options.Output = None,
    profiles: options.Profiles = None,
) -> None:
    """Show where every second and every byte of one training plan comes from."""
    from perfmodel.api_training import train
    from perfmodel.estimate.training.target import training_target
    from perfmodel.parallel.training_grid import training_plans
    from perfmodel.reports.training import training_derivation
    from perfmodel.reports.what_if import what_if_lines

    target = training_target(
        options.system_of(system, what_if, profiles), stack, host_link=host_link, profiles=profiles
    )
    plan = training_plans(
        tp=tp,
        pp=pp,
        dp=dp,
        cp=cp,
        ep=ep,
        vp=vp,
        micro_batch=micro_batch,
        sequence_parallel=float(sequence_parallel and tp > 1),
        recompute=recompute,
        recompute_share=recompute_share,
        shard_copies=shard_copies,
        tp_overlap=float(tp_overlap),
        edge_layers=edge_layers,
        skipped_stages=skipped_stages,
        sequence_chunks=sequence_chunks,
        offload_activations=offload_activations,
        offload_optimizer=offload_optimizer,
        offload_weights=offload_weights,
        zero=zero,
        grad_overlap=float(grad_overlap),
        schedule=schedule,
    )
    learned = (method == "lora", "--method lora")
    options.refuse_unread(context, adapter_rank=learned, adapters=learned, retained=(chunk, "--chunk"))
    estimate = train(
        model,
        target,
        plan,
        seq=float(options.count(seq, "seq")),
        global_batch=options.count(global_batch, "global-batch"),
        precision=precision,
        method=method,
        adapter_rank=adapter_rank,
        adapters=adapters,
        lengths=lengths,
        chunk=options.count(chunk, "chunk") if chunk else 0.0,
        retained=retained,
    )
    text = training_derivation(estimate, 0, target.stack.provenance)
    screen.show("\n".join([text, *what_if_lines(target.system)]), output)


def calibrate(
    cases: Cases,
    stack: knobs.Stack = "neutral",
    fit: Annotated[
        str, typer.Option(help="Constants to fit, separated by commas; by default as the steps allow.")
    ] = "",
    output: options.Output = None,
    profiles: options.Profiles = None,
) -> None:
    """Fit one or two constants of a training stack to measured steps; two steps are enough."""
    from perfmodel.calibrate.cases import read_cases
    from perfmodel.calibrate.training import fit_stack, stack_toml
    from perfmodel.hardware.stack_files import load_stack
    from perfmodel.validate.training import REQUIRED, predict_training_cases

    frame = read_cases(cases, (*REQUIRED, "measured_step_s"))
    names = [name.strip() for name in fit.split(",") if name.strip()]
    result = fit_stack(
        frame,
        load_stack(stack, profiles),
        lambda rows, candidate: predict_training_cases(rows, stack=candidate, profiles=profiles),
        names or None,
    )
    options.deliver(stack_toml(result, cases.name), output)
    values = ", ".join(f"{name} = {getattr(result.stack, name):.4g}" for name in result.fitted)
    typer.echo(f"{values}; error {result.before_mape:.1f} % before, {result.after_mape:.1f} % after", err=True)
