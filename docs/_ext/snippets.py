"""Runs the snippets of a page when the page is built, so that every output shown is real."""

import ast
import contextlib
import io
import os
import shlex
import subprocess
import sys
import traceback
import warnings
from typing import Any

_ENTRY = "import sys; from perfmodel.cli.main import main; sys.argv[0] = 'perfmodel'; sys.exit(main())"


class SnippetError(Exception):
    """A snippet that did not do what its page says."""


def run_python(code: str, names: dict[str, Any]) -> str:
    """Execute Python in a namespace; return what it printed and then its last expression as a prompt shows it.

    Warnings are errors, as in the tests.
    """
    printed = io.StringIO()
    try:
        tree = ast.parse(code)
        last = tree.body[-1] if tree.body else None
        tail = ast.Expression(last.value) if isinstance(last, ast.Expr) else None
        tree.body = tree.body[:-1] if tail else tree.body
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(tree, "<snippet>", "exec"), names)
            value = None if tail is None else eval(compile(tail, "<snippet>", "eval"), names)
            if value is not None:
                print(repr(value))
    except Exception:
        raise SnippetError(f"{code}\n{traceback.format_exc(limit=-3)}") from None
    return printed.getvalue().rstrip("\n")


def run_command(line: str, *, exit_code: int = 0, columns: int = 120, folder: str | None = None) -> str:
    """Run one ``perfmodel ...`` command line; return what a terminal of that width would show, colours aside."""
    program, *arguments = shlex.split(line, comments=True)
    if program != "perfmodel":
        raise SnippetError(f"{line}\nonly perfmodel itself can be run on a page")
    done = subprocess.run(
        [sys.executable, "-c", _ENTRY, *arguments],
        env={**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    if done.returncode != exit_code:
        raise SnippetError(f"{line}\nexit code {done.returncode} instead of {exit_code}\n{done.stdout}")
    return "\n".join(text.rstrip() for text in done.stdout.rstrip().splitlines())
