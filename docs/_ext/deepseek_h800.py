"""DeepSeek's own deployments on H800 for docs/cloudmatrix.md: profiles, DeepEP and training beside predictions.

Nothing here is fitted: the numbers published are read only to be shown, and to compute errors.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from perfmodel.api import precision_of, target
from perfmodel.api_training import train
from perfmodel.estimate.step import step_time
from perfmodel.estimate.target import Target
from perfmodel.layers.base import Step
from perfmodel.parallel.grid import plans
from perfmodel.parallel.training_grid import training_plans
from study_rows import Row, deepseek
from supernode import PAPER, exchange_rows


@cache
def hopper() -> Target:
    """H800 under DeepSeek's own software."""
    return target("hgx-h800", "deepseek")


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


def hopper_decode_s(ranks: int, requests: float, context: float, on: Target | None = None) -> float:
    """One decode step on H800, no token drafted."""
    model, on = deepseek(), on or hopper()
    grid = plans(dp=ranks, ep=ranks, concurrency=ranks * requests)
    return float(
        step_time(model, on, grid, Step(np.asarray(requests), 1.0, context, decode=True), precision_of(model)).seconds
    )


def hopper_prefill_s(on: Target | None = None) -> float:
    """One prefill step on H800: 32 of them, four prompts of 4,096 tokens each."""
    model, grid, step = deepseek(), plans(dp=32, ep=32, concurrency=128), Step(4.0, 4096.0, 4096.0, decode=False)
    return float(step_time(model, on or hopper(), grid, step, precision_of(model)).seconds)


def hopper_rows() -> list[Row]:
    """DeepSeek's profiles and overview on H800, and training on 2,048 of them."""
    profile, night = hopper_decode_s(128, 128.0, 4096.0), hopper_decode_s(144, 92.0, 4989.0)
    return [
        Row(
            "prefill profile, EP32, 16 Ki tokens",
            7839,
            16384.0 / hopper_prefill_s(),
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
