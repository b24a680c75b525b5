"""Options of training plans that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

StackName = Annotated[str | None, typer.Option("--stack", help="Training software; by default that of a row's source.")]
GlobalBatch = Annotated[str, typer.Option("--global-batch", help="Sequences of one step, for instance 1536 or 2Ki.")]
Seq = Annotated[str, typer.Option("--seq", help="Tokens of a sequence, for instance 4Ki.")]
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
