"""Screen: how wide what is printed may be, and what a terminal shows in bold (no quantity of its own)."""

import os
import shutil
import sys
from pathlib import Path

import typer

from perfmodel.cli import options

WIDTH = 120
"""Characters of a line in a pipe or a file, unless $COLUMNS says otherwise."""
NARROWEST = 40
"""A terminal that claims to be narrower is not believed."""


def on_terminal(output: Path | None = None) -> bool:
    """Say whether a result is read on a terminal.

    Parameters
    ----------
    output : pathlib.Path, optional
        File that it is written to.

    Returns
    -------
    bool
        False for files and pipes.
    """
    # There is no stdout where whoever started the program closed it.
    return output is None and sys.stdout is not None and sys.stdout.isatty()


def line_width(output: Path | None = None) -> int:
    """Characters of a line of prose.

    Parameters
    ----------
    output : pathlib.Path, optional
        File that the result is written to.

    Returns
    -------
    int
        Those of the terminal or of $COLUMNS; `WIDTH` in a file, and where neither is known.
    """
    return WIDTH if output is not None else max(shutil.get_terminal_size((WIDTH, 24)).columns, NARROWEST)


def table_width(output: Path | None = None) -> int | None:
    """Characters of a row of a table.

    Parameters
    ----------
    output : pathlib.Path, optional
        File that the result is written to.

    Returns
    -------
    int or None
        Those of the terminal; None in pipes and files, which hold every column.
    """
    return line_width() if on_terminal(output) else None


def show(text: str, output: Path | None) -> None:
    """Print a report for people, or write it to a file whole: prose wrapped, on a terminal with its verdict in bold.

    Parameters
    ----------
    text : str
        Lines of the report.
    output : pathlib.Path, optional
        File; stdout by default.
    """
    from perfmodel.reports.screen import VERDICT, fitted

    laid = fitted(text, line_width(output), hang=on_terminal(output))
    if laid.startswith(VERDICT) and on_terminal(output) and _coloured():
        verdict, gap, rest = laid.partition("\n\n")
        laid = typer.style(verdict, bold=True) + gap + rest
    options.deliver(laid, output)


def _coloured() -> bool:
    """Whether the terminal takes colours and nobody asked for none (no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
