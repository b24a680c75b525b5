"""`perfmodel sweep`: run a study over many points, and ask what its results say."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from perfmodel.cli import options, screen
from perfmodel.cli.options import Format

if TYPE_CHECKING:
    import pandas as pd


class _RunByDefault(TyperGroup):
    """`perfmodel sweep STUDY` is `perfmodel sweep run STUDY`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in where the first word is none.

        Parameters
        ----------
        ctx : Context
            Context of the command.
        args : list of str
            Words of the command line.

        Returns
        -------
        list of str
            Words that are left.
        """
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            from perfmodel.errors import StudyError, suggest

            near = suggest(args[0], self.commands)
            if near and "." not in args[0] and not Path(args[0]).exists():
                raise StudyError(
                    f"{args[0]}: no such command, and no such file. Did you mean 'perfmodel sweep {near}'?"
                )
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Evaluate every point of a study ('perfmodel sweep STUDY.toml -o DIR') and ask what the results say.",
)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of a sweep.")]
Task = Annotated[str | None, typer.Option(help="serving or training, where the study has both.")]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="AXIS=VALUE", help="Only points that have it, for instance gpus=8; repeatable."),
]
Of = Annotated[str, typer.Option("--of", help="Column that is to be best.")]
By = Annotated[str | None, typer.Option(help="Axes, separated by commas; one answer per combination.")]
OutputFormat = Annotated[Format, typer.Option("--format", help="How to write the result.")]
Top = Annotated[int, typer.Option(metavar="COUNT", min=1, help="Rows to show in a table.")]


@app.command("run")
def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="What to cross.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Directory of the results.")],
    processes: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT", min=1, help="Processes; one per processor by default, 1 for none beside this one."
        ),
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on the Dask cluster at this address.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew where DIR holds another sweep.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the study, count its points, run nothing.")] = False,
    profiles: options.Profiles = None,
) -> None:
    """Evaluate every point of a study; stopped at any moment, the same command goes on from there."""
    import sys

    from perfmodel.errors import NothingFeasibleError
    from perfmodel.sweep.inputs import inputs_of
    from perfmodel.sweep.partitions import partitions
    from perfmodel.sweep.progress import Progress
    from perfmodel.sweep.run import run_sweep
    from perfmodel.sweep.study_files import read_study

    wanted = read_study(study)
    if dry_run:
        inputs_of(wanted, profiles)
        count = len(list(partitions(wanted)))
        typer.echo(f"{len(wanted):,} points in {count:,} partitions; every name in {study} is known.")
        return
    more: dict[str, Any] = {"workers": processes}
    if dask is not None:
        more = _dask(dask)
    sweep = run_sweep(wanted, output, profiles=profiles, restart=restart, progress=Progress(sys.stderr), **more)
    lost = sweep.done - sweep.feasible
    if not sweep.feasible:
        frame = sweep.frame(sweep.tasks[0], ["reason"])
        often = frame["reason"].value_counts()
        raise NothingFeasibleError(
            f"none of {len(sweep):,} points is feasible; {often.iloc[0]:,} times: {often.index[0]}"
        )
    typer.echo(
        f"{len(sweep):,} points{f', {lost:,} of them infeasible,' if lost else ''} in {len(sweep.parts):,}"
        f" partition{'s' if len(sweep.parts) != 1 else ''} of {output}. See: perfmodel sweep best {output}"
    )


def _dask(address: str) -> dict[str, Any]:
    from importlib import import_module

    from perfmodel.errors import MissingExtraError, SweepError

    try:
        distributed: Any = import_module("distributed")
    except ImportError:
        raise MissingExtraError("--dask", "distributed", "dask") from None
    try:
        client = distributed.Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise SweepError(f"--dask {address}: cannot be reached ({error or type(error).__name__})") from None
    threads = sum(client.nthreads().values())
    return {"executor": client.get_executor(), "in_flight": max(2 * threads, 8)}


@app.command("show")
def show(directory: Directory) -> None:
    """Say what a sweep is about and how far it is."""
    from perfmodel.sweep.read import open_sweep

    sweep = open_sweep(directory)
    lines = [f"{sweep.done:,} of {len(sweep):,} points, {sweep.done - sweep.feasible:,} of them infeasible"]
    for block in sweep.study.blocks:
        for names, steps in block.factors:
            values = [", ".join("default" if v is None else str(v) for v in step) for step in steps]
            lines.append(
                f"  {block.task}.{'+'.join(names)} = {'; '.join(values) if len(names) > 1 else ', '.join(values)}"
            )
    screen.show("\n".join(lines), None)


@app.command("best")
def best(
    directory: Directory,
    by: By = None,
    of: Of = "tokens_per_s_per_gpu",
    where: Where = None,
    task: Task = None,
    top: Top = 40,
    format: OutputFormat = Format.table,
    output: options.Output = None,
) -> None:
    """Best plan of every point, or of every combination of some axes."""
    from perfmodel.reports.sweep import plan_lines
    from perfmodel.sweep import answers

    which, frame = _open(directory, task)
    found = answers.best(frame, _names(by), of, answers.read_conditions(frame, which, where or ()))
    axes = answers.axes_of(frame)
    extra, width = [answers.find_column(frame, of)], screen.table_width(output)
    _deliver(found, lambda: plan_lines(which, found, axes, top, extra, width), format, output)


@app.command("pareto")
def pareto(
    directory: Directory,
    objectives: Annotated[
        str | None, typer.Option(help="Columns, separated by commas; rates are to be large, all else small.")
    ] = None,
    by: By = None,
    where: Where = None,
    task: Task = None,
    top: Top = 40,
    format: OutputFormat = Format.table,
    output: options.Output = None,
) -> None:
    """Plans of all points that no other plan beats in every objective at once."""
    from perfmodel.reports.sweep import plan_lines
    from perfmodel.sweep import answers

    which, frame = _open(directory, task)
    wanted = _names(objectives) or ["tpot_s" if which == "serving" else "step_s", answers.OBJECTIVE]
    conditions = answers.read_conditions(frame, which, where or ())
    found = answers.pareto(frame, wanted, _names(by) or (), conditions)
    axes = answers.axes_of(frame)
    extra = [answers.find_column(frame, name) for name in wanted]
    _deliver(found, lambda: plan_lines(which, found, axes, top, extra, screen.table_width(output)), format, output)


@app.command("sensitivity")
def sensitivity(
    directory: Directory,
    number: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Number of the hardware; all by default; repeatable."),
    ] = None,
    of: Annotated[str, typer.Option("--of", help="Column whose growth is asked for.")] = "tokens_per_s_per_gpu",
    step: Annotated[str, typer.Option(help="Relative step of the differences.")] = "10%",
    processes: Annotated[int, typer.Option(metavar="COUNT", min=1, help="Processes.")] = 1,
    where: Where = None,
    task: Task = None,
    top: Top = 40,
    format: OutputFormat = Format.table,
    output: options.Output = None,
    profiles: options.Profiles = None,
) -> None:
    """Which number of the hardware buys most: growth of the result over growth of the number."""
    import contextlib

    from perfmodel.errors import PlanError, UnitError
    from perfmodel.reports.sweep import table_lines
    from perfmodel.sweep import answers
    from perfmodel.sweep.pool import Workers
    from perfmodel.sweep.read import open_sweep
    from perfmodel.sweep.sensitivity import sweep_sensitivity
    from perfmodel.units import parse

    try:
        relative = parse(step, "fraction")
    except UnitError as error:
        raise PlanError(f"--step: {error}") from None
    which, frame = _open(directory, task)
    chosen = answers.select(frame, answers.read_conditions(frame, which, where or ()))
    points = chosen["point"].drop_duplicates()
    with Workers(processes) if processes > 1 else contextlib.nullcontext() as pool:
        found = sweep_sensitivity(
            open_sweep(directory),
            number,
            task=which,
            points=map(int, points),
            of=of,
            step=relative,
            executor=None if pool is None else pool.executor,
            profiles=profiles,
        )
    columns = [name for name in ("number", "held", "reoptimised", "loss", "gain", "plan") if name in found]
    columns += ["reason"] if (found["reason"] != "").any() else []
    axes = answers.axes_of(frame)
    _deliver(found, lambda: table_lines(found.head(top), axes, columns, screen.table_width(output)), format, output)


@app.command("break-even")
def break_even(
    directory: Directory,
    along: Annotated[str, typer.Option(help="Axis with numbers along which the leader may change.")],
    a: Annotated[list[str], typer.Option("--a", metavar="AXIS=VALUE", help="First choice; repeatable.")],
    b: Annotated[list[str], typer.Option("--b", metavar="AXIS=VALUE", help="Second choice; repeatable.")],
    of: Annotated[str, typer.Option("--of", help="Column that is compared.")] = "tokens_per_s_per_gpu",
    where: Where = None,
    task: Task = None,
    top: Top = 40,
    format: OutputFormat = Format.table,
    output: options.Output = None,
) -> None:
    """Where one choice overtakes another along an axis: bracketed by points, interpolated between them."""
    from perfmodel.reports.sweep import cell, heading, table_lines
    from perfmodel.sweep import answers
    from perfmodel.sweep import break_even as overtaking

    which, frame = _open(directory, task)

    def read(texts: list[str] | None) -> dict[str, Any]:
        return answers.read_conditions(frame, which, texts or ())

    found = overtaking.break_even(frame, along, read(a), read(b), of, read(where))
    column = answers.find_column(frame, along)
    numbers, words = ("below", "above", "break_even"), ("ahead_below", "ahead_above", "how")
    axes = [str(name) for name in found.columns if name not in (*numbers, *words, "axis")]

    def lines() -> list[str]:
        # Brackets and crossing are written like the axis itself.
        shown = found.head(top)
        shown = shown.assign(**{name: [cell(column, value) for value in shown[name]] for name in numbers})
        title = f" along {heading(column)}, a: {', '.join(a)}; b: {', '.join(b)}"
        return [title, *table_lines(shown, axes, (*numbers, *words), screen.table_width(output))]

    _deliver(found, lines, format, output)


def _open(directory: Path, task: str | None) -> "tuple[str, pd.DataFrame]":
    """Read a sweep's results, and say on stderr what is not there yet."""
    from perfmodel.errors import NothingFeasibleError
    from perfmodel.sweep.read import open_sweep

    sweep = open_sweep(directory)
    which = sweep.task(task)
    frame = sweep.frame(which)
    if sweep.done < len(sweep):
        typer.echo(f"perfmodel: {directory} is not finished: {sweep.done:,} of {len(sweep):,} points", err=True)
    if not frame["feasible"].any():
        raise NothingFeasibleError(f"{directory}: no {which} point is feasible; the first: {frame['reason'].iloc[0]}")
    return which, frame


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _deliver(frame: "pd.DataFrame", lines: Any, format: Format, output: Path | None) -> None:
    from perfmodel.reports.export import to_csv, to_json

    records = [
        {str(name): None if type(value).__name__ == "NAType" else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]
    if format is Format.json:
        options.deliver(to_json({"rows": records}), output)
    elif format is Format.csv:
        options.deliver(to_csv(records, [str(name) for name in frame.columns]), output)
    else:
        screen.show("\n".join(lines()), output)
