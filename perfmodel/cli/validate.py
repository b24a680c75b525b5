"""`perfmodel validate`: error tables of predictions against measured cases."""

from pathlib import Path
from typing import Annotated

import typer

from perfmodel.cli import options, screen
from perfmodel.cli.options import Format
from perfmodel.cli.predict import Cases

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Score predictions against measured cases.")


@app.command("operators")
def operators(
    cases: Cases,
    by: Annotated[str, typer.Option(help="Columns to group by, separated by commas.")] = "op,hardware,engine,dtype",
    buckets: Annotated[bool, typer.Option("--buckets", help="Group by latency bucket as well.")] = False,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Refit without each third of the shapes, and score that third.")
    ] = False,
    leave_out: Annotated[
        str, typer.Option(help="`hardware`: each device predicted by a fit to the file's other devices.")
    ] = "",
    format: Annotated[Format, typer.Option(help="How to write the result.")] = Format.table,
    output: options.Output = None,
    profiles: options.Profiles = None,
) -> None:
    """Errors of operator times by operator, device, engine and format, the plain roofline's beside them."""
    from perfmodel.calibrate.cases import read_cases
    from perfmodel.errors import PlanError
    from perfmodel.validate.heldout import predict_held_out
    from perfmodel.validate.operators import predict_operators
    from perfmodel.validate.other_devices import predict_from_others
    from perfmodel.validate.scores import bucket, error_table

    if leave_out not in ("", "hardware"):
        raise PlanError(f"--leave-out: hardware, not {leave_out!r}")
    if leave_out and held_out:
        raise PlanError("--leave-out hardware refits without a device, --held-out without shapes: give one of them")
    frame = read_cases(cases, ("id", "op", "hardware", "measured_s"))
    predict = predict_from_others if leave_out else predict_held_out if held_out else predict_operators
    predicted = predict(frame, profiles)
    scored = frame.assign(
        time_s=predicted["time_s"], roofline=predicted["roofline_s"], bucket=bucket(frame["measured_s"])
    )
    columns = [*by.split(","), *(["bucket"] if buckets else [])]
    _deliver_table(error_table(scored, columns, "time_s", "measured_s", beside="roofline"), format, output)


@app.command("serving")
def serving(
    cases: Cases,
    by: Annotated[str, typer.Option(help="Columns to group by, separated by commas.")] = "engine,hardware",
    leave_out: Annotated[str, typer.Option(help="Column whose values are left out of the fit one at a time.")] = "",
    choose: Annotated[bool, typer.Option("--choices", help="Score order and picks instead of errors.")] = False,
    format: Annotated[Format, typer.Option(help="How to write the result.")] = Format.table,
    output: options.Output = None,
    profiles: options.Profiles = None,
) -> None:
    """Errors of TTFT and TPOT of measured deployments by engine and device.

    --leave-out model (hardware, engine): each model's deployments with the engines' constants fitted to all others.
    --choices: how often predictions put two splits in the measured order, and pick one that keeps a limit on TPOT.
    """
    from perfmodel.calibrate.cases import read_cases
    from perfmodel.errors import PlanError
    from perfmodel.validate.choices import choices
    from perfmodel.validate.leave_out import LEFT_OUT, predict_left_out
    from perfmodel.validate.scores import error_table
    from perfmodel.validate.serving import REQUIRED, predict_serving_cases

    frame = read_cases(cases, (*REQUIRED, "measured_ttft_s", "measured_tpot_s"))
    if leave_out and leave_out not in LEFT_OUT:
        raise PlanError(f"--leave-out: one of {', '.join(LEFT_OUT)}, not {leave_out!r}")
    if leave_out:
        predicted, fits = predict_left_out(frame, leave_out, profiles)
        _show_fits(fits)
    else:
        predicted = predict_serving_cases(frame, profiles)
    if choose:
        rows = choices(frame, predicted)
        _deliver_rows(rows, list(rows[0]), format, output)
        return
    scored = frame.assign(**{name: predicted[name] for name in ("ttft_s", "tpot_s")})
    tables = []
    for metric in ("ttft", "tpot"):
        table = error_table(scored, by.split(","), f"{metric}_s", f"measured_{metric}_s")
        table.insert(1, "metric", metric)
        tables.append(table)
    rows = [row for pair in zip(*(table.to_dict("records") for table in tables), strict=True) for row in pair]
    _deliver_rows(rows, list(tables[0].columns), format, output)


def _show_fits(fits: list[dict[str, object]]) -> None:
    from perfmodel.reports.tables import plain_table

    names = list(dict.fromkeys(name for fit in fits for name in fit))
    cells = [[f"{v:g}" if isinstance(v, float | int) else str(v) for v in map(fit.get, names)] for fit in fits]
    typer.echo(plain_table(names, [["-" if c == "None" else c for c in row] for row in cells]), err=True)


def _deliver_table(table: "pd.DataFrame", format: Format, output: Path | None) -> None:  # type: ignore[name-defined] # noqa: F821
    _deliver_rows(table.to_dict("records"), [str(name) for name in table.columns], format, output)


def _deliver_rows(rows: list[dict[str, object]], columns: list[str], format: Format, output: Path | None) -> None:
    from perfmodel.reports.export import to_csv, to_json
    from perfmodel.reports.tables import plain_table

    if format is Format.json:
        options.deliver(to_json({"errors_percent": rows}), output)
    elif format is Format.csv:
        options.deliver(to_csv(rows, columns), output)
    else:
        cells = [[_cell(name, row[name]) for name in columns] for row in rows]
        screen.show(plain_table(columns, cells, screen.table_width(output)), output)


def _cell(name: str, value: object) -> str:
    if name == "cases":
        return f"{value:,.0f}"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
