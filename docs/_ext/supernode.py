"""Worked study of docs/cloudmatrix.md: what papers measured beside what the model predicts, with the bar of each row.

Nothing here is fitted: the numbers published are read only to be shown, and to compute errors.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from perfmodel.api import precision_of, target
from perfmodel.estimate.communication import time_collective
from perfmodel.estimate.serving.drafting import draft_cost
from perfmodel.estimate.serving.latencies import decode_token_s
from perfmodel.estimate.serving.steps import serving_steps
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.step import step_time
from perfmodel.estimate.streams import layer_part
from perfmodel.estimate.target import Target
from perfmodel.estimate.timed_step import StepTime
from perfmodel.hardware.engine import Streams
from perfmodel.hardware.kernels import KernelTable
from perfmodel.layers.base import Step
from perfmodel.layers.operators import Attention, Collective, Exchange, Operator
from perfmodel.parallel.grid import PlanGrid, plans
from study_rows import Row, deepseek

PAPER = "arXiv:2506.12708"
DIES = 2
"""Dies of one Ascend 910C package, which the paper calls an NPU; the model's device is a die."""

ACCEPTANCE = 0.7
"""Acceptance of the drafted token that the paper assumes (section 4.2.4)."""


@cache
def supernode(**changes: Any) -> Target:
    """CloudMatrix384 under CloudMatrix-Infer, with some fields of the engine changed."""
    on = target("cloudmatrix384", "cloudmatrix-infer")
    return replace(on, engine=replace(on.engine, **changes))


@cache
def always_cut() -> Target:
    """The same with every step cut that has two requests on a die."""
    streams = supernode().engine.decode_streams or Streams()
    return supernode(decode_streams=replace(streams, least_tokens=1.0))


def with_kernel(on: Target, operator: str, **coefficients: float) -> Target:
    """The same with some coefficients of one operator's kernels changed."""
    own = (
        replace(row, coefficients={**row.coefficients, **coefficients}) if row.operator == operator else row
        for row in on.kernels.measured
    )
    return replace(on, kernels=KernelTable(tuple(own), on.kernels.defaults))


# EP dispatch and combine: table 7, 128 tokens per rank, microseconds.
EXCHANGE = ((8, 116, 118), (16, 131, 132), (32, 133, 146), (64, 141, 150), (128, 152, 150), (256, 152, 149))


def exchange_rows(
    published: Iterable[tuple[int, int, int]] = EXCHANGE,
    on: Target | None = None,
    bytes_sent: float = 1.0,
    source: str = "table 7",
) -> list[Row]:
    """Dispatch and combine of 128 tokens per rank among 8 to 256 devices."""
    rows = []
    for place, (kind, element) in enumerate((("dispatch", bytes_sent), ("combine", 2.0))):
        for ranks, *measured in published:
            moved = Exchange(128.0, 7168.0, 256.0, 8.0, decode=True)
            op = Collective(kind, kind, 128.0 * 8.0 * 7168.0 * element, "moe", exchange=moved)  # type: ignore[arg-type]
            time = time_collective(op, on or supernode(), plans(dp=ranks, ep=ranks))
            rows.append(Row(f"{kind}, EP{ranks}", measured[place], float(time.seconds) * 1e6, "us", source=source))
    return rows


# Decode: tables 4 and 5; requests per NPU, prompt, output, milliseconds per token.
DECODE = (
    (96, 4096, 256, 49.4),
    (128, 1024, 1024, 46.8),
    (112, 2048, 256, 47.4),
    (24, 4096, 256, 24.6),
    (8, 4096, 256, 14.9),
)


def decode_plan(requests: int) -> PlanGrid:
    """160 NPUs, each die an attention-data-parallel and an expert-parallel rank, with so many requests per NPU."""
    return plans(dp=320, ep=320, concurrency=320 * requests // DIES)


def decode_step(requests: int, context: float, queries: float = 2.0, on: Target | None = None) -> StepTime:
    """One decode step of so many requests per NPU."""
    on = on or supernode()
    step = Step(np.asarray(requests / DIES), queries, context, decode=True)
    return step_time(deepseek(), on, decode_plan(requests), step, precision_of(deepseek(), "int8"), keep_lines=True)


@cache
def token_s(requests: int, isl: float, osl: float, *, drafted: int = 1, on: Target | None = None) -> float:
    """Time per output token: a step, drafting with it, over the tokens that are expected of it."""
    on, model, grid = on or supernode(), deepseek(), decode_plan(requests)
    precision = precision_of(model, "int8")
    load = Workload(isl, osl, draft_tokens=drafted, acceptance=ACCEPTANCE)
    steps = serving_steps(model, on, grid, load, precision)
    return float(np.ravel(decode_token_s(model, grid, load, steps))[0])


def decode_rows() -> list[Row]:
    """Time per output token at five batches and lengths."""
    return [
        Row(
            f"{requests} per NPU, {isl:,} in, {osl:,} out",
            published,
            token_s(requests, isl, osl) * 1e3,
            "ms",
            0.12,
            "table 5",
        )
        for requests, isl, osl, published in DECODE
    ]


# Prefill: table 3; 16,384 tokens per NPU in prompts of 4,096, tokens per second and NPU.
PREFILL = (("perfect balance", 0.0, 6688), ("default", None, 5655))


CACHE_BLOCK = 128
"""Tokens of a block that the pool finds again: 128 to 512 (section 4.4.2), which are the same share of 4,096 here."""


def prefill_step(reuse: float = 0.0) -> Step:
    """Two prompts of 4,096 tokens per die, of which whole blocks are found in the pool."""
    found = np.floor(4096.0 * reuse / CACHE_BLOCK) * CACHE_BLOCK
    return Step(np.asarray(2.0), 4096.0 - found, 4096.0, decode=False)


@cache
def prefill_s(on: Target, *, reuse: float = 0.0) -> float:
    """One prefill step of 16 NPUs, with the drafter's pass over its tokens."""
    model, grid, step = deepseek(), plans(dp=32, ep=32, concurrency=64), prefill_step(reuse)
    precision = precision_of(model, "int8")
    seconds = step_time(model, on, grid, step, precision).seconds
    return float(seconds * (1.0 + draft_cost(model, on, grid, step, precision)))


# Figure 21b, read off: milliseconds of a layer of a prefill step in one piece, 16,384 tokens per NPU.
STAGES = (
    ("attention, before the core", 5.0),
    ("attention, the core", 7.5),
    ("attention, after the core", 4.0),
    ("gating", 3.6),
    ("dispatch", 10.6),
    ("experts", 14.7),
    ("combine", 10.7),
)


def _stage(op: Operator) -> str:
    part = layer_part(op)
    if part == "exchange":
        return op.name
    after = ("heads back to their tokens", "attention output projection", "mlp norm")
    place = "the core" if isinstance(op, Attention) else "after the core" if op.name in after else "before the core"
    return {"gate": "gating", "shared": "experts"}.get(part, part if part != "attention" else f"attention, {place}")


def stage_rows() -> list[Row]:
    """Stages of a layer of a prefill step that is not cut, experts evenly loaded."""
    on, model = supernode(prefill_streams=None, prefill_spread=0.0), deepseek()
    grid, precision = plans(dp=32, ep=32, concurrency=64), precision_of(model, "int8")
    lines = step_time(model, on, grid, prefill_step(), precision, keep_lines=True).lines
    spent = dict.fromkeys((name for name, _ in STAGES), 0.0)
    for line in lines:
        if line.block == "moe":
            spent[_stage(line.operator)] += float(np.ravel(line.time.seconds)[0])
    return [Row(name, published, 1e3 * spent[name], "ms", source="figure 21b") for name, published in STAGES]


def prefill_rows() -> list[Row]:
    """Prompt tokens per second and NPU."""
    rows = []
    for name, spread, published in PREFILL:
        on = supernode() if spread is None else supernode(prefill_spread=spread)
        rows.append(Row(name, published, 16384.0 / prefill_s(on), "tokens/s per NPU", 0.12, "table 3"))
    return rows


def layer_rows() -> list[Row]:
    """Time of one layer of a decode step at 96 requests per NPU and 4,096 tokens, both microbatches."""
    layers = deepseek().layers
    return [
        Row(
            f"layer, {name}",
            published,
            float(decode_step(96, 4096.0, queries).seconds) / layers * 1e6,
            "us",
            source="section 5.4",
        )
        for name, queries, published in (("no token drafted", 1.0, 874), ("one token drafted", 2.0, 1260))
    ]


def gain_rows() -> list[Row]:
    """What the paper's techniques add, as times the rate without them."""
    times, whole = "times the rate", supernode(decode_streams=None, prefill_streams=None)
    rows = []
    for requests, published in ((64, 1.058), (96, 1.094), (128, 1.069)):
        gain = token_s(requests, 4096, 256, on=whole) / token_s(requests, 4096, 256)
        name = f"two microbatches in decode, {requests} per NPU"
        rows.append(Row(name, published, gain, times, source="figure 20"))
    balanced = {"prefill_spread": 0.0}
    both = prefill_s(supernode(prefill_streams=None, **balanced)) / prefill_s(supernode(**balanced))
    rows.append(Row("two microbatches in prefill, most", 1.31, both, times, source="section 5.4"))
    for requests, name, published in ((96, "least", 1.06), (8, "most", 1.49)):
        gain = token_s(requests, 4096, 256, drafted=0) / token_s(requests, 4096, 256)
        name = f"one drafted token, {requests} per NPU ({name})"
        rows.append(Row(name, published, gain, times, source="section 5.4"))
    return rows


def reuse_rows() -> list[Row]:
    """What it gains to find part of a prompt's cache in the pool."""
    step = {reuse: prefill_s(supernode(), reuse=reuse) for reuse in (0.0, 0.125, 0.5, 0.9)}
    times, source = "times the rate", "section 5.4"
    return [
        Row("50 % of the prompt reused, over 12.5 %", 1.42, step[0.125] / step[0.5], times, source=source),
        Row("90 % of the prompt reused, over none", 2.28, step[0.0] / step[0.9], times, source=source),
        Row("time to the first token, 50 % reused", 0.66, step[0.5] / step[0.0], "of that with none", source=source),
        Row("time to the first token, 90 % reused", 0.41, step[0.9] / step[0.0], "of that with none", source=source),
    ]
