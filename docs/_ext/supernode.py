"""Worked study of docs/cloudmatrix.md: what papers measured beside what the model predicts, with the bar of each row.

Nothing here is fitted: the numbers published are read only to be shown, and to compute errors.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from perfmodel.api import precision_of, target
from perfmodel.api_training import train
from perfmodel.estimate.communication import time_collective
from perfmodel.estimate.serving.drafting import draft_cost
from perfmodel.estimate.serving.latencies import decode_token_s
from perfmodel.estimate.serving.steps import serving_steps
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.step import step_time
from perfmodel.estimate.target import Target
from perfmodel.estimate.timed_step import StepTime
from perfmodel.hardware.engine import Streams
from perfmodel.hardware.kernels import KernelTable
from perfmodel.layers.base import Step
from perfmodel.layers.operators import Collective, Exchange
from perfmodel.models.catalog import load_model
from perfmodel.parallel.grid import PlanGrid, plans
from perfmodel.parallel.training_grid import training_plans

PAPER = "arXiv:2506.12708"
DIES = 2
"""Dies of one Ascend 910C package, which the paper calls an NPU; the model's device is a die."""

ACCEPTANCE = 0.7
"""Acceptance of the drafted token that the paper assumes (section 4.2.4)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One published figure beside its prediction.

    Parameters
    ----------
    name : str
        What was measured.
    published, predicted : float
        The two figures.
    unit : str
        Their unit.
    bar : float
        Largest error that was aimed for; infinite where none was [1].
    source : str
        Where the figure was published.
    """

    name: str
    published: float
    predicted: float
    unit: str
    bar: float = float("inf")
    source: str = ""

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted / self.published - 1.0


@cache
def deepseek() -> Any:
    """DeepSeek-V3, whose shapes R1 has."""
    return load_model("deepseek-v3")


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


@cache
def hopper() -> Target:
    """H800 under DeepSeek's own software."""
    return target("hgx-h800", "deepseek")


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


# DeepEP on H800 in its first version, which sent everything over RDMA (table 7), and in a later one (docs/legacy.md).
DEEPEP = {
    1: ((8, 163, 318), (16, 173, 329), (32, 182, 350), (64, 186, 353), (128, 192, 369), (256, 194, 360)),
    8: ((8, 77, 114), (16, 118, 195), (32, 155, 273), (64, 173, 314), (128, 192, 369), (256, 194, 360)),
}


def deepep_rows(domain: int) -> list[Row]:
    """Low-latency kernels of DeepEP whose messages take NVLink inside a domain of so many devices."""
    on = replace(hopper(), system=hopper().system.with_scale_up(domain))
    source = f"{PAPER}, table 7" if domain == 1 else "DeepEP, docs/legacy.md"
    return exchange_rows(DEEPEP[domain], on, 1.03125, source)


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


@cache
def prefill_s(on: Target, *, reuse: float = 0.0) -> float:
    """One prefill step of 16 NPUs, two prompts of 4,096 tokens per die, with the drafter's pass over them."""
    model, grid = deepseek(), plans(dp=32, ep=32, concurrency=64)
    precision = precision_of(model, "int8")
    step = Step(np.asarray(2.0), 4096.0 * (1.0 - reuse), 4096.0, decode=False)
    seconds = step_time(model, on, grid, step, precision).seconds
    return float(seconds * (1.0 + draft_cost(model, on, grid, step, precision)))


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
    reused = prefill_s(supernode()) / prefill_s(supernode(), reuse=0.9)
    rows.append(Row("90 % of the prompt reused", 2.28, reused, times, source="section 5.4"))
    return rows


def hopper_decode_s(ranks: int, requests: float, context: float, on: Target | None = None) -> float:
    """One decode step on H800, no token drafted."""
    model, on = deepseek(), on or hopper()
    grid = plans(dp=ranks, ep=ranks, concurrency=ranks * requests)
    return float(
        step_time(model, on, grid, Step(np.asarray(requests), 1.0, context, decode=True), precision_of(model)).seconds
    )


def hopper_rows() -> list[Row]:
    """DeepSeek's profiles and overview on H800, and training on 2,048 of them."""
    model, on = deepseek(), hopper()
    prefill = step_time(
        model,
        on,
        plans(dp=32, ep=32, concurrency=128),
        Step(np.asarray(4.0), 4096.0, 4096.0, decode=False),
        precision_of(model),
    )
    profile, night = hopper_decode_s(128, 128.0, 4096.0), hopper_decode_s(144, 92.0, 4989.0)
    return [
        Row(
            "prefill profile, EP32, 16 Ki tokens",
            7839,
            16384.0 / float(prefill.seconds),
            "tokens/s per GPU",
            0.15,
            f"{PAPER}, table 3",
        ),
        Row(
            "decode profile, EP128, 128 requests", 2325, 128.0 / profile, "tokens/s per GPU", 0.15, f"{PAPER}, table 4"
        ),
        Row("the same, time per token", 50.2, profile * 1e3, "ms", source=f"{PAPER}, table 4"),
        Row(
            "decode overview, EP144, 92 requests",
            1850,
            92.0 / night,
            "tokens/s per GPU",
            source="open-infra-index, day 6",
        ),
        Row(
            "training on 2,048",
            1543.2,
            training()["tokens_per_s_per_gpu"],
            "tokens/s per GPU",
            0.12,
            "arXiv:2412.19437, table 1",
        ),
    ]


def otherwise() -> dict[str, tuple[float, float]]:
    """What choices made with the tables in view are worth: rates with them and without.

    Returns
    -------
    dict
        Choice -> tokens per second of an NPU or a GPU, as it is and otherwise.
    """
    dies, gpus = supernode(), hopper()
    streams, exchange = dies.engine.decode_streams, gpus.engine.decode_streams
    if streams is None or exchange is None:
        raise TypeError("both engines cut decode steps in two")

    def decode(on: Target) -> float:
        return 128.0 / token_s(128, 1024, 1024, on=on)

    def profile(on: Target) -> float:
        return 128.0 / hopper_decode_s(128, 128.0, 4096.0, on)

    def prefill(on: Target) -> float:
        return 16384.0 / prefill_s(on)

    held = replace(streams, first_cores=(0.6667,))
    idle = {"decode_step_s": 0.0, "decode_request_s": 0.0}
    return {
        "cores": (decode(dies), decode(supernode(decode_streams=held))),
        "prefill": (prefill(dies), prefill(with_kernel(dies, "prefill_mla", compute_efficiency=0.654))),
        "flashmla": (profile(gpus), profile(with_kernel(gpus, "decode_mla", compute_efficiency=0.667))),
        "exchange": (
            profile(gpus),
            profile(replace(gpus, engine=replace(gpus.engine, decode_streams=replace(exchange, exchange_s=0.0)))),
        ),
        "host": (profile(gpus), profile(replace(gpus, engine=replace(gpus.engine, **idle)))),  # type: ignore[arg-type]
        "experts": (training()["tokens_per_s_per_gpu"], training(stack="neutral")["tokens_per_s_per_gpu"]),
    }


def training(stack: str = "deepseek-2024", recompute: str = "full") -> dict[str, Any]:
    """DeepSeek-V3 on 2,048 H800: PP16, EP64, DualPipe, FP8, 15,360 sequences of 4,096 tokens.

    Queries and latents are expanded again in the backward pass (section 3.2.3): their weights are this share of those
    that a token meets in a layer.
    """
    block, _ = deepseek().blocks[1]
    tensors = (tensor for part in block.parts for tensor in part.tensors())
    again = sum(tensor.active for tensor in tensors if tensor.name in ("query up projection", "latent expansion"))
    plan = training_plans(
        pp=16, dp=128, ep=64, micro_batch=1, schedule="dualpipe", zero=1, recompute=recompute,
        recompute_share=again / block.active_parameters(),
    )  # fmt: skip
    found = train(deepseek(), "hgx-h800", plan, seq=4096, global_batch=15360, precision="fp8_block", stack=stack)
    return dict(found.row(0))


def mape(rows: Iterable[Row]) -> float:
    """Mean absolute error of some rows [1]."""
    return float(np.mean([abs(row.error) for row in rows]))


def table(rows: Iterable[Row]) -> str:
    """Write rows as a Markdown table; a miss of the bar is bold."""

    def number(value: float) -> str:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}" if abs(value) < 10 else f"{value:,.1f}"

    lines = ["| | published | predicted | | error | bar | source |", "| --- | ---: | ---: | --- | ---: | ---: | --- |"]
    for row in rows:
        error = f"{100 * row.error:+.1f} %"
        bar = f"{100 * row.bar:.0f} %" if np.isfinite(row.bar) else ""
        shown = f"**{error}**" if abs(row.error) > row.bar else error
        cells = (row.name, number(row.published), number(row.predicted), row.unit, shown, bar, row.source)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


STUDIES: dict[str, Callable[[], list[Row]]] = {
    "exchange": exchange_rows,
    "decode": decode_rows,
    "prefill": prefill_rows,
    "layer": layer_rows,
    "gain": gain_rows,
    "hopper": hopper_rows,
}
"""Tables of the page."""
