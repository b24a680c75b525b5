"""Published figures of serving systems beside predictions: nothing in the package was fitted to them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from textwrap import fill
from typing import Any

import numpy as np

import perfmodel as pm
from perfmodel.api import target
from perfmodel.costs.economy import optimal_throughput
from perfmodel.costs.scheduling import prompt_chunks
from perfmodel.estimate.step import step_time
from perfmodel.layers.base import Shard, Step
from perfmodel.layers.precision import Precision
from perfmodel.reports.tables import plain_table
from published_splitwise import POWER_W, USD_PER_HOUR, common, least_common, least_separate, separate


@dataclass(frozen=True)
class Fact:
    """One published figure, how it is predicted, and why the two differ where they do by more than a fifth.

    With `bound` the figure is the most that was seen, and not a value.
    """

    source: str
    what: str
    published: float
    unit: str
    predict: Callable[[], float]
    exception: str = ""
    bound: bool = False

    @property
    def ratio(self) -> float:
        """Prediction over publication."""
        return self.predict() / self.published


@cache
def _prefill(tokens: int, split: str) -> float:
    """Device time of one prompt of Llama-3.3-70B on 8 H100 [s]."""
    on = target("hgx-h100", "vllm", split=split)
    e = pm.predict("llama-3.3-70b", on, pm.plans(tp=8), isl=tokens, osl=1)
    return float(e["prefill_s"][0] - e["prefill_host_s"][0])


@cache
def _device_s(tokens: int, context: int, batch: int, decode: bool) -> float:
    """Device time of a step of LLaMA-13B on one A6000 in 16 bits [s]."""
    on = target("rtx-a6000-8", "vllm")
    step = Step(float(batch), float(tokens), float(context), decode=decode)
    time = step_time(pm.load_model("huggyllama/llama-13b"), on, pm.plans(), step, Precision())
    return float(np.ravel(time.seconds - time.over_plans("host_s"))[0])


def _chunk_loss(chunk: int) -> float:
    """Time of a prompt of 1024 tokens in chunks over that in one piece, less one [%]."""
    chunks = sum(_device_s(chunk, end, 1, False) for end in range(chunk, 1025, chunk))
    return 100 * (chunks / _device_s(1024, 1024, 1, False) - 1)


def _decode_maximal() -> float:
    """What one of three decodes adds to a step with 1021 prompt tokens, per token [ms]."""
    alone = _device_s(1021, 1021, 1, False)
    attention = _device_s(1, 1024, 3, True) - _device_s(1, 1, 3, True)
    return 1e3 * (_device_s(1024, 1024, 1, False) - alone + max(attention, 0.0)) / 3


@cache
def _expert_bytes() -> float:
    model = pm.load_model("qwen3-30b-a3b")
    experts = (
        count * tensor.per_device(Shard()) * 2.0
        for block, count in model.blocks
        for tensor in block.tensors()
        if tensor.role == "expert"
    )
    return float(sum(experts))


@cache
def _scheduled(schedule: str) -> dict[str, Any]:
    """Qwen3-30B-A3B on two H100, 1.5 requests per second of 9194 tokens in and 198 out."""
    on = target("hgx-h100", "vllm", schedule=schedule, chunk=512)
    return pm.predict("qwen3-30b-a3b", on, pm.plans(tp=2, moe_tp=2), isl=9194, osl=198, rate=1.5).row(0)


FLOW_TOKENS = 2048.0
"""Tokens of a step of NanoFlow, with and without overlap: its largest dense batch."""


@cache
def _throughput(isl: int, osl: int, split: str, step_tokens: float = FLOW_TOKENS) -> float:
    """All tokens per second and device of Llama-2-70B on 8 A100, at the best concurrency."""
    on = target("hgx-a100", "trtllm", split=split)
    on = replace(on, engine=replace(on.engine, step_tokens=step_tokens))
    best = pm.rank("llama-2-70b", on, gpus=8, isl=isl, osl=osl, tp=8).row(1)
    return float(best["tokens_per_s_per_gpu"] * (isl + osl) / osl)


@cache
def _alone(system: str, isl: int) -> dict[str, Any]:
    """Llama-2-70B on eight devices, one request at a time."""
    return pm.predict("llama-2-70b", target(system, "vllm"), pm.plans(tp=8), isl=isl, osl=129).row(0)


def _hidden(system: str) -> float:
    """Visible transfer of 1500 tokens of Llama-2-70B, sent layer by layer [ms]."""
    both = pm.compare(
        "llama-2-70b", target(system, "vllm"), gpus=16, isl=1500, osl=129, tp=8, layerwise=True, together=False
    )
    return 1e3 * float(both.rows(1)[0]["transfer_s"])


TOKENWEAVE, NANOFLOW = "TokenWeave (arXiv:2505.11329), artifact", "NanoFlow (arXiv:2408.12757)"
SARATHI, LAYERED = "SARATHI (arXiv:2308.16369)", "Layered prefill (arXiv:2510.08055)"
SPLITWISE = "Splitwise (arXiv:2311.18677)"

OLD = "engine of 2024, slower by a third than NanoFlow's own without overlap, which is predicted; why is not published"
UNMEASURED = (
    "nobody measured the A6000: its matrix products of 256 rows are those of an A100, which waste more of a wave"
)
TRACE = "the lengths of the trace vary and are taken as their mean; steps that prompts share are too fast, as below"
MIXED = "lengths of the trace vary and are taken as their mean, and machines of either pool take over work of the other"
NINE_LIMITS = (
    "limits here are on the mean time per token, and the paper's on what 90 and 99 % see as well, which prompts"
    " between the steps of common machines break"
)
SYNCHRONISED = (
    "a constant of several milliseconds, which the paper does not take apart and the prediction does not hold"
)

_WEAVE = {
    1024: (53.66, 46.16),
    2048: (94.23, 76.73),
    4096: (179.48, 142.23),
    8192: (356.02, 279.76),
    16384: (744.11, 585.34),
}
_FLOW = {(512, 512): (735, 1286), (1024, 512): (817, 1263), (512, 1024): (636, 1212)}
_FLOW_ABLATION = {
    (512, 2): (1273, 1446),
    (512, 512): (1106, 1323),
    (1024, 512): (1092, 1291),
    (512, 1024): (1048, 1277),
}
"""Figure 9, without and with nano-batches; what it calls no output are 2 tokens in the artifact."""


def _facts() -> list[Fact]:
    facts = []
    for tokens, (base, woven) in _WEAVE.items():
        facts += [
            Fact(
                TOKENWEAVE,
                f"Llama-3.3-70B, TP8 on H100, {tokens} tokens",
                base,
                "ms",
                lambda n=tokens: 1e3 * _prefill(n, "none"),
            ),
            Fact(
                TOKENWEAVE,
                f"gain of split tokens, {tokens}",
                base / woven,
                "x",
                lambda n=tokens: _prefill(n, "none") / _prefill(n, "tokens"),
            ),
        ]
    facts.append(
        Fact(
            NANOFLOW,
            "optimal throughput at 260 TFLOP/s",
            1857,
            "1/s",
            lambda: 2 * float(optimal_throughput(70e9, 512, 512, peak_flops=260e12)),
        )
    )
    for (isl, osl), (engine, nano) in _FLOW.items():
        facts += [
            Fact(
                NANOFLOW,
                f"TensorRT-LLM, {isl} in, {osl} out",
                engine,
                "1/s",
                lambda i=isl, o=osl: _throughput(i, o, "none", target("hgx-a100", "trtllm").engine.step_tokens),
                OLD,
            ),
            Fact(
                NANOFLOW,
                f"NanoFlow, {isl} in, {osl} out",
                nano,
                "1/s",
                lambda i=isl, o=osl: _throughput(i, o, "nano"),
            ),
        ]
    for (isl, osl), (apart, nano) in _FLOW_ABLATION.items():
        facts += [
            Fact(
                NANOFLOW,
                f"without overlap, {isl} in, {osl} out",
                apart,
                "1/s",
                lambda i=isl, o=osl: _throughput(i, o, "none"),
            ),
            Fact(
                NANOFLOW,
                f"gain of nano-batches, {isl} in, {osl} out",
                nano / apart,
                "x",
                lambda i=isl, o=osl: _throughput(i, o, "nano") / _throughput(i, o, "none"),
            ),
        ]
    facts += [
        Fact(SARATHI, "LLaMA-13B on A6000, prompt of 1024", 234.8, "ms", lambda: 1e3 * _device_s(1024, 1024, 1, False)),
        Fact(SARATHI, "decode step of 4 at 1024", 49.96, "ms", lambda: 1e3 * _device_s(1, 1024, 4, True)),
        Fact(SARATHI, "decode riding along, per token", 1.2, "ms", _decode_maximal),
        Fact(SARATHI, "loss by chunks of 256, at most", 20, "%", lambda: _chunk_loss(256), UNMEASURED, bound=True),
        Fact(SARATHI, "loss by chunks of 512, at most", 10, "%", lambda: _chunk_loss(512), bound=True),
        Fact(
            LAYERED,
            "expert traffic of a request, chunks of 512",
            955,
            "GB",
            lambda: 1e-9 * _expert_bytes() * float(prompt_chunks(9194, 512)),
        ),
        Fact(
            LAYERED,
            "expert traffic of a request, chunks of 2048",
            304,
            "GB",
            lambda: 1e-9 * _expert_bytes() * float(prompt_chunks(9194, 2048)),
        ),
    ]
    for name, column, chunked, layered in (("TTFT", "ttft_s", 1018.75, 712.84), ("TPOT", "tpot_s", 19.71, 15.09)):
        facts += [
            Fact(
                LAYERED,
                f"mean {name}, chunks of 512",
                chunked,
                "ms",
                lambda c=column: 1e3 * _scheduled("chunked")[c],
                TRACE if column == "tpot_s" else "",
            ),
            Fact(
                LAYERED, f"mean {name}, layered", layered, "ms", lambda c=column: 1e3 * _scheduled("layered")[c], TRACE
            ),
        ]
    for isl, ttft, tbt in ((1500, 185 / 95, 52 / 31), (1020, 155 / 84, 40 / 28)):
        facts += [
            Fact(
                SPLITWISE,
                f"TTFT of A100 over H100, {isl} tokens",
                ttft,
                "x",
                lambda i=isl: _alone("hgx-a100", i)["ttft_s"] / _alone("hgx-h100", i)["ttft_s"],
            ),
            Fact(
                SPLITWISE,
                f"TBT of A100 over H100, {isl} tokens",
                tbt,
                "x",
                lambda i=isl: _alone("hgx-a100", i)["tpot_s"] / _alone("hgx-h100", i)["tpot_s"],
            ),
        ]
    facts += [
        Fact(SPLITWISE, "transfer seen, layer by layer, A100", 8, "ms", lambda: _hidden("hgx-a100"), SYNCHRONISED),
        Fact(SPLITWISE, "transfer seen, layer by layer, H100", 5, "ms", lambda: _hidden("hgx-h100"), SYNCHRONISED),
    ]
    return facts + _cluster_facts()


def _cluster_facts() -> list[Fact]:
    """Clusters of Splitwise: A A100, H H100; prompts on the first, tokens on the second."""
    a, h = "hgx-a100", "hgx-h100"
    power, cost = {"power": POWER_W}, {"budget": USD_PER_HOUR}
    return [
        Fact(SPLITWISE, "A100 machines for the power of 40 H100", 70, "", lambda: common(a, **power)["gpus"] / 8),
        Fact(SPLITWISE, "A100 machines for the price of 40 H100", 86, "", lambda: common(a, **cost)["gpus"] / 8),
        Fact(
            SPLITWISE,
            "equal power: AA over common A100",
            2.15,
            "x",
            lambda: separate(a, a, **power)["rate"] / common(a, **power)["rate"],
        ),
        Fact(
            SPLITWISE,
            "equal power: HA over common H100",
            1.18,
            "x",
            lambda: separate(h, a, **power)["rate"] / common(h, **power)["rate"],
        ),
        Fact(
            SPLITWISE,
            "equal power: price of HA over common H100",
            0.9,
            "x",
            lambda: separate(h, a, **power)["usd_per_hour"] / USD_PER_HOUR,
        ),
        Fact(
            SPLITWISE,
            "equal price: AA over common H100",
            1.4,
            "x",
            lambda: separate(a, a, **cost)["rate"] / common(h, **cost)["rate"],
            NINE_LIMITS,
        ),
        Fact(
            SPLITWISE,
            "equal price: power of AA over common H100",
            1.25,
            "x",
            lambda: separate(a, a, **cost)["power_w"] / POWER_W,
        ),
        Fact(
            SPLITWISE,
            "70 requests/s: power of HH, capped, over common H100",
            0.75,
            "x",
            lambda: least_separate(h, f"{h} capped", "power_w") / least_common(h, "power_w"),
        ),
        Fact(
            SPLITWISE,
            "70 requests/s: price of AA over common H100",
            0.75,
            "x",
            lambda: least_separate(a, a, "usd_per_hour") / least_common(h, "usd_per_hour"),
        ),
        Fact(
            SPLITWISE,
            "equal power: prompt machines of HH, of 40",
            25,
            "",
            lambda: separate(h, h, **power)["prefill_workers"],
            MIXED,
        ),
    ]


FACTS = _facts()


def beside_prompts() -> dict[str, Any]:
    """Steps that a prompt shares, published (90 % of the latencies between tokens are below) and predicted [ms].

    Beside them the host's launches of all layers one by one [ms].
    """
    published = {"chunked": 32.56, "layered": 25.54}
    found: dict[str, Any] = {name: (p90, 1e3 * _scheduled(name)["itl_max_s"]) for name, p90 in published.items()}
    model, engine = pm.load_model("qwen3-30b-a3b"), target("hgx-h100", "vllm").engine
    return found | {"launches": 1e3 * engine.prefill_layer_s * model.layers}


def table() -> str:
    """Write published and predicted figures side by side."""
    return fact_table(FACTS)


def exceptions() -> str:
    """Write why figures are off by more than a fifth, with the range of their ratios."""
    return fact_exceptions(FACTS)


def fact_table(facts: Iterable[Fact]) -> str:
    """Write facts as a table."""
    rows = [
        [
            fact.source.split(" (")[0],
            fact.what,
            _figure(fact.published),
            _figure(fact.predict()),
            fact.unit,
            f"{fact.ratio:.2f}",
        ]
        for fact in facts
    ]
    return plain_table(["paper", "figure", "published", "predicted", "unit", "ratio"], rows)


def fact_exceptions(facts: Iterable[Fact]) -> str:
    """Write the exceptions among facts."""
    reasons: dict[str, list[Fact]] = {}
    for fact in facts:
        if fact.exception:
            reasons.setdefault(fact.exception, []).append(fact)
    lines = (
        f"{min(f.ratio for f in these):.2g} to {max(f.ratio for f in these):.2g} of the published"
        f" ({these[0].source.split(' (')[0]}): {reason}."
        for reason, these in reasons.items()
    )
    return "\n".join(fill(line, 118, subsequent_indent="  ") for line in lines)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
