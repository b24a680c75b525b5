"""Clusters of Splitwise (arXiv:2311.18677, section VI) under equal power, cost and throughput, beside rankings."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

import perfmodel as pm
from perfmodel.api import target
from perfmodel.errors import NothingFeasibleError
from perfmodel.estimate.serving.disaggregated import HANDOFF
from perfmodel.estimate.target import Target

MODEL, INPUT, OUTPUT = "bigscience/bloom", 1155, 211
"""BLOOM-176B under the conversation trace: means of its lengths, which vary (generate_trace.py of SplitwiseSim)."""

TOKEN_S = {"hgx-a100": 48.8e-3, "hgx-h100": 35.48e-3}
"""One token of one request of 1024 on eight GPUs, as measured (perf_model.csv of SplitwiseSim) [s]."""

HOURLY = {"hgx-a100": 17.6 / 8, "hgx-h100": 38.0 / 8}
"""Table I: price of a machine, over its GPUs [USD/h]."""

POWER_W, USD_PER_HOUR, RATE = 40 * 8 * 700.0, 40 * 38.0, 70.0
"""What 40 H100 machines draw and cost, and the peak load of figures 12 and 19 [1/s]."""

CAPPED = 0.7
"""Power of a machine whose GPUs are capped at half, which decoding does not notice."""


@cache
def _machine(name: str) -> Target:
    """Machine whose host takes as long for a decode step as the paper's, software of 2023 included."""
    system, capped = name.removesuffix(" capped"), name.endswith("capped")
    on = target(system, "vllm")
    ours = float(pm.predict(MODEL, on, pm.plans(tp=8), isl=1024, osl=128)["tpot_s"][0])
    engine = replace(on.engine, decode_step_s=on.engine.decode_step_s + TOKEN_S[system] - ours)
    device = replace(on.device, power_w=(CAPPED if capped else 1.0) * (on.device.power_w or np.nan))
    return replace(on, engine=engine, system=replace(on.system, device=device))


@cache
def _limits() -> dict[str, float]:
    """Table VI: at most so many times what a request alone takes on A100."""
    row = pm.predict(MODEL, _machine("hgx-a100"), pm.plans(tp=8), isl=INPUT, osl=OUTPUT).row(0)
    return {"ttft": 2.0 * row["ttft_s"], "ttft_p99": 6.0 * row["ttft_s"], "tpot": 1.25 * row["tpot_s"]}


def _asked(name: str) -> dict[str, Any]:
    price = HOURLY[name.removesuffix(" capped")]
    return {"isl": INPUT, "osl": OUTPUT, "load": {"arrivals": "poisson"}, "tp": 8, "pp": 1, "price": price}


@cache
def common(name: str, **budget: float) -> dict[str, Any]:
    """Best deployment of machines that do both, under a budget."""
    row = pm.rank(MODEL, _machine(name), gpus=2000, **_asked(name), **_limits(), **budget).row(1)
    return row | {"rate": row["requests_per_s"] * row["replicas"]}


@cache
def separate(prompts: str, tokens: str, **budget: float) -> dict[str, Any]:
    """Best deployment of machines for prompts and machines for tokens, under a budget."""
    limits = dict(_limits())
    # The first token of Splitwise comes from the prompt machine and does not wait for the hand-over.
    for name in ("ttft", "ttft_p99"):
        limits[name] += HANDOFF.steps * limits["tpot"]
    both = pm.compare(
        MODEL,
        _machine(tokens),
        prefill_system=_machine(prompts),
        gpus=2000,
        together=False,
        layerwise=True,
        prefill_price=_asked(prompts)["price"],
        **_asked(tokens),
        **limits,
        **budget,
    )
    row = both.rows(1)[0]
    return row | {"rate": row["requests_per_s"]}


def least_common(name: str, column: str) -> float:
    """What the fewest machines that do both and sustain `RATE` take: GPUs times the price or power of one."""
    row = common(name, power=POWER_W)
    machines = np.ceil(RATE / row["requests_per_s"])
    each = HOURLY[name] if column == "usd_per_hour" else _machine(name).device.power_w or np.nan
    return float(8 * machines * each)


@cache
def least_separate(prompts: str, tokens: str, column: str) -> float:
    """What the least budget that sustains `RATE` pays for."""
    key, low, high = ("budget", 0.0, USD_PER_HOUR) if column == "usd_per_hour" else ("power", 0.0, POWER_W)
    while high - low > 0.005 * high:
        middle = (low + high) / 2.0
        try:
            enough = separate(prompts, tokens, **{key: middle})["rate"] >= RATE
        except NothingFeasibleError:
            enough = False
        low, high = (low, middle) if enough else (middle, high)
    return float(separate(prompts, tokens, **{key: high})[column])
