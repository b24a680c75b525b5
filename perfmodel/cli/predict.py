"""`perfmodel predict`: a number for every row of a case file."""

from pathlib import Path
from typing import Annotated

import typer

from perfmodel.cli import options

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Predict every row of a case file.")

Cases = Annotated[Path, typer.Argument(help="CSV file with one case per row.")]


@app.command("operators")
def operators(cases: Cases, output: options.Output = None, profiles: options.Profiles = None) -> None:
    """Predict operator times: columns id and time_s, then what they rest on; reason where a row has no number."""
    from perfmodel.calibrate.cases import read_cases
    from perfmodel.validate.operators import predict_operators

    frame = read_cases(cases, ("id", "op", "hardware"))
    predicted = predict_operators(frame, profiles)
    deliver_predictions(predicted, output, "time_s")
    beyond = predicted[predicted["beyond"] != ""]
    if len(beyond):
        first = beyond.iloc[0]
        typer.echo(
            f"perfmodel: {len(beyond)} of {len(predicted)} rows are beyond the sizes that kernels were measured at;"
            f" column beyond names them, {first['id']}: {first['beyond']}",
            err=True,
        )


def deliver_predictions(table: "pd.DataFrame", output: Path | None, column: str) -> None:  # type: ignore[name-defined] # noqa: F821
    """Write predictions and say on stderr how many rows have no number, and why the first has none.

    Parameters
    ----------
    table : pandas.DataFrame
        Predictions with a `reason` column.
    output : pathlib.Path, optional
        File; stdout by default.
    column : str
        Column whose absence is counted.
    """
    options.deliver(table.to_csv(index=False), output)
    lost = table[table[column].isna()]
    if len(lost):
        first = lost.iloc[0]
        typer.echo(
            f"perfmodel: {len(lost)} of {len(table)} rows have no number; {first['id']}: {first['reason']}", err=True
        )


@app.command("serving")
def serving(cases: Cases, output: options.Output = None, profiles: options.Profiles = None) -> None:
    """Predict TTFT and TPOT of deployments: columns id, ttft_s and tpot_s, then throughput, memory and reason."""
    from perfmodel.calibrate.cases import read_cases
    from perfmodel.validate.serving import REQUIRED, predict_serving_cases

    frame = read_cases(cases, REQUIRED)
    deliver_predictions(predict_serving_cases(frame, profiles), output, "tpot_s")
