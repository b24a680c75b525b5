"""Options of training plans that several commands share."""

import re
from pathlib import Path
from typing import Annotated

import typer

StackName = Annotated[str | None, typer.Option("--stack", help="Training software; by default that of a row's source.")]
GlobalBatch = Annotated[str, typer.Option("--global-batch", help="Sequences of one step, for instance 1536 or 2Ki.")]
Seq = Annotated[str, typer.Option("--seq", help="Tokens of a sequence, for instance 4Ki.")]
Lengths = Annotated[
    str | None,
    typer.Option(
        help="How many sequences have which length, '90:1Ki, 9:8Ki, 1:256Ki', or a CSV of tokens and sequences."
    ),
]
Chunk = Annotated[
    str | None, typer.Option(help="Tokens of a chunk: short sequences are packed, long ones cut, for instance 8Ki.")
]
Retained = Annotated[int, typer.Option(help="Chunks of a sequence whose activations are kept, with --chunk.")]
Recipe = Annotated[str, typer.Option("--precision", help="bf16, fp16, fp8, mxfp8, nvfp4 ...")]
Method = Annotated[str, typer.Option(help="What is learned: full, lora (adapters) or forward (zeroth order).")]
AdapterRank = Annotated[int, typer.Option(help="Rank of the adapters of lora.")]
Stack = Annotated[str, typer.Option("--stack", help="Training software: neutral, megatron-2021 ... or a TOML file.")]
HostLink = Annotated[
    str | None,
    typer.Option(help="Link to the host for offloads: pcie3 to pcie6, nvlink-c2c or a bandwidth; the device's own."),
]
OffloadActivations = Annotated[float, typer.Option(help="Part of the activations kept on the host, 0 to 1.")]
OffloadOptimizer = Annotated[float, typer.Option(help="Part of the optimizer's states kept on the host, 0 to 1.")]
OffloadWeights = Annotated[float, typer.Option(help="Part of the layers that streams from the host, 0 to 1.")]
ShardCopies = Annotated[int, typer.Option(help="Copies of what ZeRO shards: hybrid sharding where more than 1.")]
SequenceChunks = Annotated[int, typer.Option(help="Pieces of a sequence in the backward pass, with full recompute.")]
TpOverlap = Annotated[bool, typer.Option(help="Run tensor-parallel exchanges in pieces beside the products.")]
EdgeLayers = Annotated[int, typer.Option(help="Layers that embedding and head count for, each, in dividing stages.")]
SkippedStages = Annotated[float, typer.Option(help="Part of the stages that a microbatch leaves out, 0 to below 1.")]
Islands = Annotated[
    str | None, typer.Option(help="Nodes and bandwidth per device of islands, '4x25GB/s, 4x12.5GB/s'; @0.8 for slower.")
]
Between = Annotated[str | None, typer.Option(help="Bandwidth per device between islands.")]
Links = Annotated[Path | None, typer.Option(help="CSV table of the bandwidth per device between every two nodes.")]
Elastic = Annotated[
    str | None, typer.Option(help="With --mtbf: go on without what failed: shrink (a replica less) or reshard.")
]
Repair = Annotated[str, typer.Option(help="Time until a failed node is back, with --elastic.")]
Recovery = Annotated[str, typer.Option(help="Time from a failure until the rest computes again, with --elastic.")]
Adapters = Annotated[int, typer.Option(help="Adapters of lora that are trained in one batch.")]


def several(text: str | None, name: str) -> list[str] | None:
    """Read values separated by commas.

    Parameters
    ----------
    text : str, optional
        For instance "none,full".
    name : str
        Option, for the message.

    Returns
    -------
    list of str or None
        Each value once; None where the option was not given.

    Raises
    ------
    PlanError
        If a value is missing.

    Examples
    --------
    >>> several("none, full", "recompute")
    ['none', 'full']
    """
    from perfmodel.errors import PlanError

    if text is None:
        return None
    values = [value.strip() for value in text.split(",")]
    if not all(values):
        raise PlanError(f"--{name} takes one value or several separated by commas, not {text!r}")
    return list(dict.fromkeys(values))


def whole_numbers(text: str | None, name: str) -> list[int] | None:
    """Read whole numbers separated by commas.

    Parameters
    ----------
    text : str, optional
        For instance "0,1,3".
    name : str
        Option, for the message.

    Returns
    -------
    list of int or None
        Each number once; None where the option was not given.

    Raises
    ------
    PlanError
        If a value is no whole number.

    Examples
    --------
    >>> whole_numbers("0,1,3", "zero")
    [0, 1, 3]
    """
    from perfmodel.errors import PlanError

    values = several(text, name)
    # Not what int() takes beside digits (1_000, +1, digits of other scripts), nor more digits than a float tells apart.
    wrong = [value for value in values or () if not re.fullmatch("-?[0-9]{1,15}", value)]
    if wrong:
        raise PlanError(f"--{name} takes whole numbers separated by commas, not {wrong[0]!r}")
    return None if values is None else list(dict.fromkeys(int(value) for value in values))
