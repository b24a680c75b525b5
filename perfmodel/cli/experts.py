"""`perfmodel experts`: one layer of experts against the ranks that share it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perfmodel.cli import options, screen
from perfmodel.cli.options import Format

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def experts(
    model: options.Model,
    system: options.SystemName,
    tokens_per_rank: Annotated[str, typer.Option(help="Tokens on one rank in a step.")] = "128",
    ep: Annotated[str, typer.Option(help="Expert-parallel ranks, for instance 8,32,256.")] = "8,16,32,64",
    prefill: Annotated[bool, typer.Option("--prefill", help="Tokens of prompts instead of a decode step.")] = False,
    expert_skew: Annotated[
        float, typer.Option(help="Exponent of the power law of the experts' loads; 0 for even.")
    ] = 1.2,
    redundant: Annotated[int, typer.Option(metavar="COUNT", min=0, help="Copies of busy experts.")] = 0,
    loads: Annotated[Path | None, typer.Option(help="CSV with the picks of every expert (column picks).")] = None,
    routing: Annotated[
        Path | None, typer.Option(help="CSV of tokens from expert to expert (layer, expert, next, tokens).")
    ] = None,
    resident: Annotated[
        int, typer.Option(metavar="COUNT", min=0, help="Experts of a layer on a device, the rest on the host.")
    ] = 0,
    expert_hit: Annotated[
        float | None, typer.Option(help="Share of the picks found there, where a predictor's is known.")
    ] = None,
    precision: options.Precision = None,
    engine: options.EngineName = "neutral",
    format: Annotated[Format, typer.Option(help="How to write the result.")] = Format.table,
    collectives: options.Collectives = "fastest",
    output: options.Output = None,
    profiles: options.Profiles = None,
) -> None:
    """Show load, exchange and time of a layer of experts for several numbers of ranks."""
    import numpy as np

    from perfmodel import api
    from perfmodel.errors import PlanError
    from perfmodel.models.catalog import load_model
    from perfmodel.ranking.expert_affinity import affinity_placement, local_share
    from perfmodel.ranking.experts import ExpertLayer, expert_sweep, offload
    from perfmodel.reports import experts as report
    from perfmodel.reports.export import to_csv, to_json

    spec = load_model(model)
    on = api.target(system, engine, profiles=profiles, collectives=collectives)
    if not 0.0 <= expert_skew < 4.0:
        raise PlanError(f"--expert-skew must lie between 0 and 4, not {expert_skew:g}")
    if expert_hit is not None and not resident:
        raise PlanError("--expert-hit needs --resident, the experts of a layer on a device")
    if format is Format.csv and (resident or routing is not None):
        raise PlanError("a CSV holds the table over ranks alone; --resident and --routing need --format table or json")
    asked = ExpertLayer(
        spec,
        on,
        api.precision_of(spec, precision, None, on),
        float(options.count(tokens_per_rank, "tokens-per-rank")),
        not prefill,
        expert_skew,
        redundant,
        None if loads is None else _picks(loads),
    )
    counts = [options.count(text.strip(), "ep") for text in ep.split(",")]
    document: dict[str, Any] = {"layers": expert_sweep(asked, counts)}
    lines = [report.expert_table(asked, document["layers"], screen.table_width(output))]
    if resident:
        document["offload"] = [{"ranks": n, **offload(asked, resident, n, expert_hit)} for n in counts]
        lines += [report.offload_line(found) for found in document["offload"]]
    if routing is not None:
        moves = _routing(routing, asked.layer.experts)
        document["affinity"] = []
        for n in counts:
            found = affinity_placement(moves, n)
            in_order = np.tile(np.repeat(np.arange(n), asked.layer.experts // n), (moves.shape[0] + 1, 1))
            before = local_share(moves, in_order)
            lines.append(report.affinity_line(n, before, found))
            document["affinity"].append(
                {"ranks": n, "in_order": before, "local_share": found.local_share, "placement": found.ranks.tolist()}
            )
    if format is Format.table:
        screen.show("\n".join(lines), output)
    else:
        options.deliver(to_json(document) if format is Format.json else to_csv(document["layers"]), output)


def _picks(file: Path) -> "npt.NDArray[np.float64]":
    from perfmodel.calibrate.cases import numbers, read_cases
    from perfmodel.errors import CaseFileError

    found = numbers(read_cases(file, ["picks"]), "picks")
    wrong = ~(found >= 0)
    if wrong.any():
        raise CaseFileError(f"{file}: line {int(wrong.argmax()) + 2}: picks must be a count, at least 0")
    return found


def _routing(file: Path, experts: int) -> "npt.NDArray[np.float64]":
    import numpy as np

    from perfmodel.calibrate.cases import numbers, read_cases
    from perfmodel.errors import CaseFileError

    names = ["layer", "expert", "next", "tokens"]
    frame = read_cases(file, names)
    columns = [numbers(frame, name) for name in names]
    most = (np.inf, experts - 1, experts - 1, np.inf)
    for name, values, limit in zip(names, columns, most, strict=True):
        whole = (values >= 0) & (values <= limit) & ((values == np.floor(values)) | (name == "tokens"))
        if not whole.all():
            line = int(np.argmin(whole)) + 2
            raise CaseFileError(f"{file}: line {line}: {name} must be a count from 0, below {limit + 1:g}")
    layer, here, there = (values.astype(int) for values in columns[:3])
    moves = np.zeros((int(layer.max()) + 1, experts, experts))
    np.add.at(moves, (layer, here, there), columns[3])
    return moves
