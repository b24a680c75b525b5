"""Options that several commands share, and how their text becomes numbers."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perfmodel.hardware.fabric import System

Model = Annotated[str, typer.Option("--model", help="Model: a built-in name or the path of a config.json.")]
SystemName = Annotated[str, typer.Option("--system", help="System: a name from 'hardware list' or a TOML file.")]
Gpus = Annotated[str, typer.Option("--gpus", help="Devices of the whole deployment.")]
Isl = Annotated[str, typer.Option("--isl", help="Input tokens per request, for instance 4k (4000) or 4Ki (4096).")]
Osl = Annotated[str, typer.Option("--osl", help="Output tokens per request.")]
Precision = Annotated[
    str | None, typer.Option("--precision", help="Weight format: bf16, fp8, nvfp4 ...; the checkpoint's by default.")
]
KvFormat = Annotated[str | None, typer.Option("--kv", help="Format of the KV cache; the model's own by default.")]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine", help="Serving software: neutral, trtllm, vllm, sglang, cloudmatrix-infer, deepseek or a TOML file."
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option("--schedule", help="prefill-first, chunked or layered prefill; the engine's own by default."),
]
Chunk = Annotated[
    str | None, typer.Option("--chunk", help="Tokens of a step of the chunked schedule, running requests included.")
]
Split = Annotated[
    str | None, typer.Option("--split", help="Steps that overlap with themselves: none, tokens (two halves) or nano.")
]
ExpertSkew = Annotated[
    float | None,
    typer.Option("--expert-skew", help="Power law of the experts' loads: 0 where redundant experts level them."),
]
Profiles = Annotated[str | None, typer.Option("--profiles", help="Directory of profiles that is searched first.")]
WhatIf = Annotated[
    list[str] | None,
    typer.Option(
        "--what-if",
        metavar="NUMBER=CHANGE",
        help="Hardware as it is not: memory_bandwidth=x2 or memory_capacity=192GB; repeatable.",
    ),
]
Collectives = Annotated[
    str, typer.Option("--collectives", help="Algorithms over several nodes: fastest, flat, hierarchical or nccl.")
]


def _file(output: Path | None) -> Path | None:
    """File that an output is written to; none for "-", which means stdout to most programs."""
    return None if output == Path("-") else output


Output = Annotated[Path | None, typer.Option("-o", "--output", callback=_file, help="File to write instead of stdout.")]


LARGEST = 1e15
"""Largest count of an option: up to here float64 holds every whole number, and no product of several overflows."""


class Format(StrEnum):
    """How a result is written."""

    table = "table"
    json = "json"
    csv = "csv"


def count(text: str, name: str) -> int:
    """Read a whole number that may carry a prefix.

    Parameters
    ----------
    text : str
        For instance "16", "4k" or "4Ki".
    name : str
        Option, for the message.

    Returns
    -------
    int
        From 1 to `LARGEST`.

    Raises
    ------
    PlanError
        If it is no such number.
    """
    from perfmodel.errors import PlanError, UnitError
    from perfmodel.units import parse

    try:
        value = parse(text, "count")
    except UnitError as error:
        raise PlanError(f"--{name}: {error}") from None
    if value < 1:
        raise PlanError(f"--{name} must be a whole number of at least 1, not {text}")
    if value > LARGEST:
        raise PlanError(f"--{name} must be at most {LARGEST:.0e}, not {text}")
    return int(value)


def seconds(text: str | None, name: str) -> float | None:
    """Read an optional time with its unit.

    Parameters
    ----------
    text : str, optional
        For instance "50ms".
    name : str
        Option, for the message.

    Returns
    -------
    float or None
        Seconds.

    Raises
    ------
    PlanError
        If it is no time.
    """
    from perfmodel.errors import PlanError, UnitError
    from perfmodel.units import parse

    if text is None:
        return None
    try:
        return parse(text, "time")
    except UnitError as error:
        raise PlanError(f"--{name}: {error}") from None


def system_of(name: str, what_if: list[str] | None, profiles: str | None) -> "System":
    """Load a system and change what `--what-if` asks for.

    Parameters
    ----------
    name : str
        System.
    what_if : list of str, optional
        Changes, for instance "memory_bandwidth=x2".
    profiles : str, optional
        Directory of profiles that is searched first.

    Returns
    -------
    System
        The system, as it is or as it would be.

    Raises
    ------
    PlanError
        If a change makes no sense.
    """
    from perfmodel.errors import PlanError
    from perfmodel.hardware.catalog import load_system
    from perfmodel.hardware.what_if_flags import changed

    try:
        return changed(load_system(name, profiles), what_if or ())
    except PlanError as error:
        raise PlanError(f"--what-if: {error}") from None


def refuse_unread(context: typer.Context, **conditions: tuple[object, str]) -> None:
    """Refuse options that were given though nothing would read them.

    Parameters
    ----------
    context : typer.Context
        Tells which options were typed.
    **conditions
        Option -> whether it is read, and what it needs to be.

    Raises
    ------
    PlanError
        For the first option that is not read; the message names what it needs.
    """
    from perfmodel.errors import PlanError

    for name, (read, needs) in conditions.items():
        source = context.get_parameter_source(name)
        if not read and source is not None and source.name == "COMMANDLINE":
            raise PlanError(f"--{name.replace('_', '-')} needs {needs}")


def deliver(text: str, output: Path | None) -> None:
    """Print a result, or write it to a file whole.

    Parameters
    ----------
    text : str
        The result.
    output : pathlib.Path, optional
        File; stdout by default.
    """
    if output is None:
        typer.echo(text, nl=not text.endswith("\n"))
    else:
        from perfmodel.reports.export import write_whole

        write_whole(output, text if text.endswith("\n") else text + "\n")
