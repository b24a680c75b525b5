"""Entry point: the command tree, and one line with an exit code for everything that goes wrong."""

import io
import os
import sys
from typing import Annotated, NoReturn

import typer

from perfmodel.cli import catalogue, explain, predict, rank, sweep, training, validate
from perfmodel.cli.calibrate import calibrate
from perfmodel.cli.experts import experts
from perfmodel.errors import PerfmodelError

app = typer.Typer(
    name="perfmodel",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Predict latency, throughput and memory of large models, and rank the ways to split them over accelerators.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.add_typer(rank.app, name="rank")
app.add_typer(explain.app, name="explain")
app.add_typer(predict.app, name="predict")
app.add_typer(validate.app, name="validate")
predict.app.command("training")(training.predict)
validate.app.command("training")(training.validate)
rank.app.command("training")(training.rank)
explain.app.command("training")(training.explain)
app.command("calibrate")(calibrate)
app.add_typer(sweep.app, name="sweep")
app.command("experts")(experts)
app.add_typer(catalogue.hardware, name="hardware")
app.add_typer(catalogue.model, name="model")


def _version(wanted: bool) -> None:
    if wanted:
        from perfmodel import __version__

        typer.echo(f"perfmodel {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# Typer carries its own copy of click in some versions and imports it in others: its public error leads to both bases.
_UsageError: type[Exception]
_ClickException: type[Exception]
_UsageError, _ClickException = typer.BadParameter.__mro__[1:3]


def _message(error: Exception) -> str:
    # Typer reads values with pydantic, whose words for what is wrong begin with the kind of the error.
    return str(error.format_message()).replace("Value error, ", "")  # type: ignore[attr-defined]


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"perfmodel: {' '.join(message.split())}\n")
    raise SystemExit(code)


def _drop_stdout() -> None:
    """Let what is still buffered go nowhere, or Python would try to write it again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Exits with 0 when done, 1 when nothing is feasible, 2 for usage or unreadable input and 130 when it was interrupted;
    whatever goes wrong is one line on stderr.

    Parameters
    ----------
    arguments : list of str, optional
        Arguments without the program's name; those of the process by default.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot write the branches of a tree, or a name, shows question marks instead.
        sys.stdout.reconfigure(errors="replace")
    try:
        code = app(args=arguments, standalone_mode=False, prog_name="perfmodel")
    except PerfmodelError as error:
        _fail(str(error), error.exit_code)
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(_message(error), err=True)
            raise SystemExit(2) from None
        context = getattr(error, "ctx", None)
        where = f" (see '{context.command_path} --help')" if context else ""
        _fail(f"{_message(error)}{where}", 2)
    except _ClickException as error:
        _fail(_message(error), 2)
    except typer.Abort:
        _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader went away (for instance `| head`); nothing is left to tell it.
        _drop_stdout()
        raise SystemExit(0) from None
    except OSError as error:
        # Files are read and written with errors of their own, so it is stdout that cannot be written.
        _drop_stdout()
        _fail(f"stdout: cannot be written: {error.strerror or error}", 2)
    raise SystemExit(code if isinstance(code, int) else 0)
