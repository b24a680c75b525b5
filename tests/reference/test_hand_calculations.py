"""Whole-model answers against arithmetic done by hand: published sizes and datasheet rates, nothing from the library.

The numbers on the right-hand sides are worked out in the comments beside them.
"""

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.estimate.serving.steps import serving_steps
from perfmodel.estimate.serving.workload import Workload
from perfmodel.layers.base import Shard

GB, TB = 1e9, 1e12
GIB = 2.0**30


def steps(model, system, isl, osl, **knobs):
    spec = pm.load_model(model)
    return serving_steps(spec, pm.target(system), pm.plans(**knobs), Workload(isl, osl), spec.weights)


def test_70b_on_eight_h100_cannot_beat_its_weights():
    # 70.55e9 parameters, of which the embedding table has 128,256 x 8,192 = 1.05e9: 69.50e9 x 2 B = 139.0 GB are read
    # per token; eight H100 read 8 x 3.35 TB/s.
    least = 139.0 * GB / (8 * 3.35 * TB)
    step = steps("meta-llama/Llama-3.1-70B-Instruct", "hgx-h100", 1, 1, tp=8, concurrency=1).decode
    assert step.lower_s == pytest.approx(least, rel=2e-3)
    assert least < step.seconds < 3 * least


def test_70b_cache_and_weights_per_gpu():
    # KV cache per token: 80 layers x 2 x 8 heads x 128 x 2 B = 327,680 B; over tp=8 40,960 B.
    # One request, half of its output there on average: 4,500 tokens, 184.32 MB per GPU. Weights: 70.55e9 x 2 B / 8 =
    # 17.64 GB.
    memory = steps("meta-llama/Llama-3.1-70B-Instruct", "hgx-h100", 4000, 1000, tp=8, concurrency=64).footprint
    assert float(memory.cache_per_request) == pytest.approx(184.32e6, rel=1e-9)
    assert float(memory.cache) == pytest.approx(64 * 184.32e6, rel=1e-9)
    assert float(memory.weights) == pytest.approx(17.64 * GB, rel=2e-3)


def test_70b_prefill_cannot_beat_its_arithmetic():
    # 4,096 tokens x 2 x 68.5e9 matrix parameters (70.55e9 less embedding table and head) = 5.61e14 FLOP, and causal
    # attention 80 layers x 2 x 64 heads x (4096 x 4097 / 2) x 256 = 2.2e13; eight H100 at 989 TFLOP/s: 73.7 ms.
    step = steps("meta-llama/Llama-3.1-70B-Instruct", "hgx-h100", 4096, 1, tp=8).prefill
    assert step.lower_s == pytest.approx((5.61e14 + 0.22e14) / (8 * 989e12), rel=0.01)
    assert step.lower_s < step.seconds < 3 * step.lower_s


def test_deepseek_v3_cache_is_latent():
    # 61 layers x (512 + 64) x 2 B = 70,272 B per token, the same on every tensor-parallel rank.
    spec = pm.load_model("deepseek-ai/DeepSeek-V3")
    for tp in (1.0, 8.0):
        per_token = spec.cache_bytes(2.0, Shard(tp=tp), spec.weights) - spec.cache_bytes(
            1.0, Shard(tp=tp), spec.weights
        )
        assert float(per_token) == pytest.approx(70272.0, rel=1e-9)


def test_deepseek_v3_weights_on_eight_h200():
    # 58 MoE layers x 256 experts x 3 x 7,168 x 2,048 = 653.9e9 expert parameters, one byte each over ep=8: 81.7 GB.
    # The rest, 17.1e9 parameters, is copied to every attention-data-parallel rank: table and head 2 x 0.927e9 x 2 B =
    # 3.7 GB, 15.3 GB of 8-bit linears (routers in 16 bits add 0.1 GB): 100.8 GB in all, 93.9 GiB.
    memory = steps("deepseek-ai/DeepSeek-V3", "hgx-h200", 4000, 1000, tp=1, dp=8, ep=8, concurrency=8).footprint
    assert float(memory.weights) / GB == pytest.approx(100.8, rel=0.01)


def test_deepseek_v3_decode_reads_active_experts():
    # One request, tp=8, experts split over 8 ranks by width: 8 of 256 experts are active in each of 58 layers:
    # 58 x 8 x 3 x 7,168 x 2,048 = 20.4 GB in 8 bits; attention, dense layers, shared experts and head 15.3 + 1.85 GB.
    # Of those 37.6 GB the latent down projections, 61 x 7,168 x (1,536 + 576) = 0.92 GB, and the routers in 16 bits,
    # 58 x 7,168 x 256 x 2 = 0.21 GB, are read whole by every rank: 36.4 / 8 + 1.13 = 5.69 GB at 4.8 TB/s is 1.19 ms.
    step = steps("deepseek-ai/DeepSeek-V3", "hgx-h200", 100, 1, tp=8, ep=1, concurrency=1).decode
    assert step.lower_s == pytest.approx(5.69 * GB / (4.8 * TB), rel=0.04)
    assert step.seconds > step.lower_s


def test_qwen3_235b_on_one_mi325x_node():
    # 94 layers x 128 experts x 3 x 4,096 x 1,536 = 227.1e9 expert parameters; 8.0e9 others with 1.24e9 of tables.
    # ep=8 on dp=8: 227.1e9 x 2 B / 8 + 8.0e9 x 2 B = 72.8 GB per GPU, against 256 GiB: it fits with room for cache.
    spec = pm.load_model("Qwen/Qwen3-235B-A22B")
    memory = steps("Qwen/Qwen3-235B-A22B", "mi325x-8", 4000, 1000, tp=1, dp=8, ep=8, concurrency=8).footprint
    assert float(memory.weights) / GB == pytest.approx(72.8, rel=0.01)
    # Cache: 94 layers x 2 x 4 heads x 128 x 2 B = 192,512 B per token; 5,000 tokens 0.963 GB.
    assert float(spec.cache_bytes(5000.0, Shard(), spec.weights)) / GB == pytest.approx(0.963, rel=1e-3)
    # Room: 0.9 x 274.9 GB (256 GiB) less 72.8 GB and some 2.3 GB of working memory, 172 GB; with half of its output a
    # request takes 0.866 GB: 199 requests per GPU.
    assert float(memory.requests) == pytest.approx(199, abs=3)


@pytest.mark.parametrize(
    ("model", "system", "gpus", "low", "high"),
    [
        # Output tokens per second and GPU. DeepSeek-V3 in fp8 on eight H200 was measured at 174 for 8,192 tokens in and
        # 1,024 out and at 798 for 1,024 in and out, at up to 60 ms per token (silicon_sample.csv of aiconfigurator-core
        # 0.12.0): 4,000 in lies between. Llama-3.1-70B in fp8 on H100 at 291 and 1,098, so less in bf16. Qwen3-235B on
        # MI325X has no public measurement: weights of 227.1e9 x 2 B / 8 = 56.8 GB and some cache are read per step.
        ("meta-llama/Llama-3.1-70B-Instruct", "hgx-h100", 16, 200, 700),
        ("deepseek-ai/DeepSeek-V3", "hgx-h200", 64, 174, 798),
        ("Qwen/Qwen3-235B-A22B", "mi325x-8", 8, 300, 2500),
    ],
)
def test_best_plans_are_credible(model, system, gpus, low, high):
    best = pm.rank(model, system, gpus=gpus, isl="4k", osl="1k", ttft="5s", tpot="60ms").row(1)
    assert low < best["tokens_per_s_per_gpu"] < high
    assert best["memory_bytes"] <= best["memory_capacity_bytes"]
    if model.startswith("deepseek"):
        assert best["dp"] > 1  # latent attention is copied by tensor parallelism, so data parallelism holds more cache
    if model.startswith("meta"):
        assert best["tp"] * best["pp"] >= 4  # 141 GB of weights leave too little cache on two 80 GB devices


def test_more_tensor_parallelism_trades_throughput_for_latency():
    estimate = pm.predict(
        "meta-llama/Llama-3.1-70B-Instruct", "hgx-h200", pm.plans(tp=[2, 4, 8], concurrency=8), isl=1000, osl=500
    )
    assert np.all(np.diff(estimate["tpot_s"]) < 0)
    assert np.all(np.diff(estimate["tokens_per_s_per_gpu"]) < 0)
