"""Calibrated forms on a million shapes in one call; attention and experts as well, collectives too."""

import time
from typing import Any

import numpy as np
import pytest

from perfmodel.estimate.target import Target
from perfmodel.estimate.timing import call_form, device_numbers

MILLION = 1_000_000


def whole(random: np.random.Generator, low: int, high: int) -> Any:
    """A million whole numbers, even on a logarithmic scale."""
    return np.floor(np.exp(random.uniform(np.log(low), np.log(high), MILLION)))


def gemm(random: np.random.Generator) -> dict[str, Any]:
    """Tokens and features of a matrix multiplication."""
    sides = {name: whole(random, 512, 32768) for name in ("out_features", "in_features")}
    return {"tokens": whole(random, 1, 16384), **sides}


def attention(random: np.random.Generator) -> dict[str, Any]:
    """Grouped-query attention of one layer."""
    kv_heads = whole(random, 1, 8)
    sizes = {"kv_heads": kv_heads, "heads": 8 * kv_heads, "qk_head_dim": 128.0, "v_head_dim": 128.0, "window": 0.0}
    return {"context": whole(random, 1, 131072), **sizes}


def prefill(random: np.random.Generator) -> dict[str, Any]:
    """Whole prompts."""
    sizes = attention(random)
    return {"batch": whole(random, 1, 16), "tokens": sizes["context"], **sizes}


def decode(random: np.random.Generator) -> dict[str, Any]:
    """One query per sequence."""
    return {"batch": whole(random, 1, 512), **attention(random)}


def experts(random: np.random.Generator) -> dict[str, Any]:
    """A layer of routed experts with an uneven load."""
    return {
        "tokens": whole(random, 1, 16384),
        "hidden": whole(random, 2048, 8192),
        "intermediate": whole(random, 512, 4096),
        "experts": random.choice([64.0, 128.0, 256.0], MILLION),
        "topk": 8.0,
        "expert_ranks": random.choice([1.0, 2.0, 4.0, 8.0], MILLION),
        "skew": 1.2,
    }


def collective(random: np.random.Generator) -> dict[str, Any]:
    """Buffers from a kibibyte to a gibibyte."""
    return {"nbytes": whole(random, 1024, 2**30), "ranks": random.choice([2.0, 4.0, 8.0], MILLION)}


CASES = {
    "GEMM": ("gemm", "bf16", "", gemm),
    "prefill attention": ("prefill_attention", "bf16", "bf16", prefill),
    "decode attention": ("decode_attention", "bf16", "bf16", decode),
    "experts (MoE)": ("moe", "bf16", "", experts),
    "all-reduce": ("all_reduce", "bf16", "", collective),
    "all-gather": ("all_gather", "fp16", "", collective),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.benchmark(group="forms, a million shapes in one call", timer=time.process_time)
def test_form(benchmark: Any, machine: Target, random: np.random.Generator, name: str) -> None:
    """Time a calibrated form of this machine on a million shapes."""
    operator, format, kv_format, sizes_of = CASES[name]
    sizes = sizes_of(random)
    kernel = machine.kernels.find(operator, format, kv_format=kv_format, engine="trtllm")
    assert kernel is not None
    tier = machine.system.scale_up
    numbers = {**device_numbers(machine.device, format), "bandwidth": tier.bandwidth, "op": operator}
    seconds = benchmark.pedantic(call_form, (kernel, sizes, numbers), rounds=3, warmup_rounds=1)
    benchmark.extra_info |= {"name": name, "items": MILLION, "unit": "shapes"}
    assert seconds.shape == (MILLION,)
    assert np.isfinite(seconds).all()
