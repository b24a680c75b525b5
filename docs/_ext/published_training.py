"""Published figures of training systems beside predictions: nothing in the package was fitted to them."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from perfmodel.api_training import rank_on_cluster, train, training_target
from perfmodel.costs.reliability import elastic_goodput
from perfmodel.costs.training import gpt_step_flops
from perfmodel.hardware.cluster import cluster_of_islands
from perfmodel.models.inline import inline_model
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.training_grid import training_plans
from published_serving import Fact, fact_exceptions, fact_table

NARAYANAN = "Megatron-LM (arXiv:2104.04473)"
LLAMA = "Llama 3 (arXiv:2407.21783, table 4)"
HOLMES = "Holmes (arXiv:2312.03549, figure 6)"
STREAM_BP = "StreamBP (arXiv:2506.03077, table 3)"
FMS = "fms-fsdp (github.com/foundation-model-stack/fms-fsdp)"
ZO2 = "ZO2 (github.com/liangyuwang/zo2)"
SKIP_PIPE = "SkipPipe (arXiv:2502.19913)"
ELAS_WAVE = "ElasWave (arXiv:2510.00606)"
LORA_FUSION = "LoRAFusion (arXiv:2510.00206)"
SUPERPIPELINE = "Superpipeline (arXiv:2410.08791)"
CHUNK_FLOW = "ChunkFlow (arXiv:2503.02356)"
DIST_ZO2 = "DistZO2 (arXiv:2507.03211)"

_ZERO = (
    "40 to 60 s of each step are missing, on 640 GPUs as on 2,240, where four times less is missing for 175B: something"
    " that grows with the tensors (buffers of 3.4 GB are allocated and freed for every gather) and not with the ranks"
)
_RESIDUE = "copies of logits in 32 bits and fragments of the allocator are left out, which longer sequences pay for"


@cache
def _gpt(hidden: int, layers: int, heads: int, vocab: int = 51200, positions: int = 2048) -> ModelSpec:
    sizes = {"hidden": hidden, "layers": layers, "heads": heads, "ffn": 4 * hidden}
    return inline_model(sizes | {"vocab": vocab, "positions": positions})


def _rate(shape: tuple[int, int, int], gpus: int, batch: int, **plan: Any) -> float:
    """Rate per GPU of a run of Megatron-LM with full recomputation, by the paper's own count [TFLOP/s]."""
    on = training_target("hgx-a100", "deepspeed-2021" if plan.get("zero") else "megatron-2021")
    grid = training_plans(recompute="full", **plan)
    step = train(_gpt(*shape), on, grid, seq=2048, global_batch=batch, precision="fp16")["step_s"][0]
    flops = gpt_step_flops(batch, 2048, shape[1], shape[0], 51200, recompute="full")
    return float(flops / step / gpus / 1e12)


def _megatron() -> list[Fact]:
    small, large = (12288, 96, 96), (20480, 105, 128)
    rows: list[tuple[str, float, tuple[int, int, int], int, int, dict[str, Any], str]] = [
        ("175B, 384 GPUs, tp8 pp12", 153, small, 384, 1536, {"tp": 8, "pp": 12, "dp": 4}, ""),
        ("175B, 768 GPUs, tp8 pp12", 149, small, 768, 1536, {"tp": 8, "pp": 12, "dp": 8}, ""),
        ("175B, 1536 GPUs, tp8 pp12", 141, small, 1536, 1536, {"tp": 8, "pp": 12, "dp": 16}, ""),
        ("530B, 560 GPUs, tp8 pp35", 171, large, 560, 2240, {"tp": 8, "pp": 35, "dp": 2}, ""),
        ("530B, 1120 GPUs, tp8 pp35", 167, large, 1120, 2240, {"tp": 8, "pp": 35, "dp": 4}, ""),
        ("530B, 2240 GPUs, tp8 pp35", 159, large, 2240, 2240, {"tp": 8, "pp": 35, "dp": 8}, ""),
        ("175B, 384 GPUs, ZeRO-3", 144, small, 384, 1536, {"dp": 384, "zero": 3, "micro_batch": 4}, ""),
        ("175B, 768 GPUs, ZeRO-3", 88, small, 768, 1536, {"dp": 768, "zero": 3, "micro_batch": 2}, ""),
        ("175B, 1536 GPUs, ZeRO-3", 44, small, 1536, 1536, {"dp": 1536, "zero": 3}, ""),
        ("530B, 640 GPUs, ZeRO-3", 138, large, 640, 2560, {"dp": 640, "zero": 3, "micro_batch": 4}, _ZERO),
        ("530B, 1120 GPUs, ZeRO-3", 98, large, 1120, 2240, {"dp": 1120, "zero": 3, "micro_batch": 2}, _ZERO),
        ("530B, 2240 GPUs, ZeRO-3", 48, large, 2240, 2240, {"dp": 2240, "zero": 3}, _ZERO),
        ("175B, batch 12, 1F1B", 82, small, 96, 12, {"tp": 8, "pp": 12}, ""),
        ("175B, batch 12, interleaved", 119, small, 96, 12, {"tp": 8, "pp": 12, "vp": 4}, ""),
        ("175B, batch 60, 1F1B", 135, small, 96, 60, {"tp": 8, "pp": 12}, ""),
        ("175B, batch 60, interleaved", 146, small, 96, 60, {"tp": 8, "pp": 12, "vp": 4}, ""),
    ]
    return [
        Fact(NARAYANAN, what, rate, "TFLOP/s/GPU", lambda r=(shape, gpus, batch), p=plan: _rate(*r, **p), why)
        for what, rate, shape, gpus, batch, plan, why in rows
    ]


def _fully_sharded(model: str, **plan: Any) -> float:
    """Rate of fully sharded training on 16 nodes of eight A100 behind 400 Gbit/s each [tokens/s/GPU]."""
    on = training_target("hgx-a100")
    inner, outer = on.system.tiers[: on.system.domain + 1], on.system.tiers[on.system.domain + 1 :]
    tiers = (*inner, *(replace(tier, bandwidth=50e9 / 8) for tier in outer))
    grid = training_plans(dp=128, zero=3, grad_overlap=1, **plan)
    chosen = _llama_34b() if model == "34b" else model
    batch = 128 * plan["micro_batch"]
    slow = replace(on, system=replace(on.system, tiers=tiers))
    return float(train(chosen, slow, grid, seq=4096, global_batch=batch)["tokens_per_s_per_gpu"][0])


def _llama_34b() -> ModelSpec:
    sizes = {"hidden": 8192, "layers": 48, "heads": 64, "kv_heads": 8, "ffn": 22016, "vocab": 32000, "gated": 1.0}
    return inline_model(sizes)


def _llama(dp: int, cp: int, seq: int, batch: int) -> float:
    """Rate of Llama 3 405B with attention halved by its mask [TFLOP/s]."""
    plan = training_plans(tp=8, pp=16, vp=7, dp=dp, cp=cp, zero=1, sequence_parallel=1, grad_overlap=1)
    row = train("llama-3.1-405b", "hgx-h100", plan, seq=seq, global_batch=batch).row(0)
    products = 6.0 * 405e9
    scores = 12.0 * 126 * 16384 * seq
    return float(row["tokens_per_s_per_gpu"] * (products + scores / 2.0) / 1e12)


@cache
def _holmes(cluster: str, between: str, **plan: int) -> float:
    """Rate of a GPT of 7.5 billion parameters on eight nodes of eight A100 [TFLOP/s]."""
    ranking = rank_on_cluster(
        _gpt(4096, 36, 32),
        training_target("hgx-a100", "megatron-2021"),
        cluster_of_islands(cluster, between),
        seq=2048,
        global_batch=2688,
        precision="fp16",
        top=1,
        tp=1,
        pp=2,
        micro_batch=4,
        **plan,
    )
    flops = gpt_step_flops(2688, 2048, 36, 4096, 51200, recompute="full")
    return float(flops / ranking.plans[0].row["step_s"] / 64 / 1e12)


@cache
def _longest(model: str, **plan: Any) -> float:
    """Longest sequence whose adapters can be trained on one GPU of 80 GB [thousand tokens]."""
    on = training_target("hgx-a100")
    low, high = 256, 1 << 20
    while high - low > 128:
        middle = (low + high) // 2
        grid = training_plans(recompute="full", **plan)
        need = train(model, on, grid, seq=float(middle), global_batch=1, method="lora")["device_bytes"][0]
        low, high = (middle, high) if need <= on.device.memory_bytes else (low, middle)
    return low / 1e3


def _stretch(model: str) -> float:
    return _longest(model, sequence_chunks=100) / _longest(model)


def _forward(hidden: int, layers: int, heads: int, **plan: Any) -> dict[str, Any]:
    """Step of forward-only training with all layers streamed from the host."""
    grid = training_plans(offload_weights=1.0, **plan)
    model = _gpt(hidden, layers, heads, 50272, 2050)
    batch = plan.get("dp", 1)
    return train(model, "hgx-a100", grid, seq=2048, global_batch=batch, precision="fp16", method="forward").row(0)


def _skipped() -> float:
    """Time that a pipeline of 16 stages and as many microbatches saves with half of the stages left out [%]."""
    model = inline_model({"hidden": 2048, "layers": 32, "heads": 16, "ffn": 5632, "vocab": 32000, "gated": 1.0})
    whole, part = train(model, "hgx-a100", training_plans(pp=16, skipped_stages=[0, 0.5]), seq=4096, global_batch=16)[
        "step_s"
    ]
    return float(100 * (1 - part / whole))


def _streamed_memory() -> float:
    """Memory that streaming its layers saves in training adapters of a 7B model [%]."""
    grid = training_plans(recompute="full", offload_weights=[0.0, 1.0])
    whole, streamed = train("llama-2-7b", "hgx-a100", grid, seq=2048, global_batch=1, method="lora")["device_bytes"]
    return float(100 * (1 - streamed / whole))


def _adapters() -> float:
    """Speed-up of four jobs of four sequences each in one pipeline of four stages, over one after the other."""
    grid = training_plans(pp=4)
    alone, joint = (
        train("llama-3.1-70b", "hgx-h100", grid, seq=4096, global_batch=4 * n, method="lora", adapters=n)["step_s"][0]
        for n in (1, 4)
    )
    return float(4 * alone / joint)


_LONG_TAIL = "905:512, 90:2Ki, 4:8Ki, 0.7:32Ki, 0.3:256Ki"
"""Assumed: of the sequences that ChunkFlow is about more than 99 % are shorter than 4Ki, and the longest have 256Ki."""


def _chunks() -> float:
    """Speed-up of chunks over microbatches of one sequence each, on a plan that holds the longest of them."""
    grid = training_plans(tp=4, pp=4, sequence_parallel=1, zero=1, recompute=["full", "none"])
    job: dict[str, Any] = {"seq": "256Ki", "global_batch": 256, "lengths": _LONG_TAIL}
    alone, _ = train("qwen2.5-7b", "hgx-h100", grid, **job)["step_s"]
    _, chunked = train("qwen2.5-7b", "hgx-h100", grid, chunk="8Ki", retained=16, **job)["step_s"]
    return float(alone / chunked)


def _elastic(dp: int) -> float:
    """Speed after one node of twelve is lost: its work shared out, over the replica of it standing still."""
    shared, alone = (elastic_goodput(10.0, 1.0, 3600.0, 3600.0, lost) for lost in (1 / 12, 1 / dp))
    return float(shared / alone)


def _facts() -> tuple[Fact, ...]:
    mixed, slow = ("4x12.5GB/s, 4x12.5GB/s", "0.39GB/s"), ("8x0.39GB/s", "0.39GB/s")
    opt = {"6.7B": (4096, 32, 32, 4.99), "30B": (7168, 48, 56, 8.86), "175B": (12288, 96, 96, 18.04)}
    sizes: dict[str, Callable[[], float]] = {
        name: (lambda s=shape[:3]: _forward(*s)["device_bytes"] / 1e9) for name, shape in opt.items()
    }
    stretch = {"4b": 247 / 36.5, "8b": 142.4 / 30.6, "14b": 84.6 / 23.0, "32b": 16.3 / 5.9}
    return (
        *_megatron(),
        *(
            Fact(FMS, what, rate, "tokens/s/GPU", lambda m=model, p=plan: _fully_sharded(m, **p))
            for what, rate, model, plan in (
                ("Llama 2 7B, hybrid", 3760, "llama-2-7b", {"micro_batch": 2, "shard_copies": 16}),
                ("Llama 2 13B, hybrid", 1700, "llama-2-13b", {"micro_batch": 1, "shard_copies": 16}),
                ("Llama 2 34B, FSDP", 772, "34b", {"micro_batch": 8, "recompute": "full"}),
                ("Llama 2 70B, FSDP", 380, "llama-2-70b", {"micro_batch": 6, "recompute": "full"}),
            )
        ),
        Fact(LLAMA, "405B, 8,192 GPUs, 8Ki", 430, "TFLOP/s/GPU", lambda: _llama(64, 1, 8192, 2048)),
        Fact(LLAMA, "405B, 16,384 GPUs, 8Ki", 400, "TFLOP/s/GPU", lambda: _llama(128, 1, 8192, 2048)),
        Fact(LLAMA, "405B, 16,384 GPUs, 128Ki", 380, "TFLOP/s/GPU", lambda: _llama(8, 16, 131072, 128)),
        Fact(HOLMES, "7.5B, Ethernet between all nodes", 141, "TFLOP/s/GPU", lambda: _holmes(*slow)),
        Fact(HOLMES, "7.5B, placed on two islands", 195, "TFLOP/s/GPU", lambda: _holmes(*mixed)),
        *(
            Fact(
                STREAM_BP, f"Qwen3-{name.upper()}, longer sequences", ratio, "x", lambda m=f"qwen3-{name}": _stretch(m)
            )
            for name, ratio in stretch.items()
        ),
        Fact(STREAM_BP, "Qwen3-8B, longest, recomputed", 30.6, "k tokens", lambda: _longest("qwen3-8b"), _RESIDUE),
        Fact(
            STREAM_BP,
            "Qwen3-8B, longest, in pieces",
            142.4,
            "k tokens",
            lambda: _longest("qwen3-8b", sequence_chunks=100),
            _RESIDUE,
        ),
        *(Fact(ZO2, f"OPT-{name}, layers streamed", opt[name][3], "GB", size) for name, size in sizes.items()),
        Fact(
            DIST_ZO2,
            "OPT-175B on 4 GPUs, speed-up",
            3.0,
            "x",
            lambda: 4 * _forward(12288, 96, 96)["step_s"] / _forward(12288, 96, 96, dp=4)["step_s"],
            "four GPUs are assumed, each with a link of its own, and nothing here shares the host's memory",
        ),
        Fact(SUPERPIPELINE, "adapters of a 7B model, memory saved", 60, "%", _streamed_memory),
        Fact(SKIP_PIPE, "half of 16 stages skipped, time saved", 55, "%", _skipped),
        Fact(LORA_FUSION, "four adapters in one batch, speed-up", 1.96, "x", _adapters, bound=True),
        Fact(CHUNK_FLOW, "7B, sequences to 256Ki in chunks, speed-up", 4.53, "x", _chunks, bound=True),
        Fact(ELAS_WAVE, "over a job that drops a replica of 2", 1.60, "x", lambda: _elastic(2)),
    )


FACTS = _facts()
"""Published figures."""


def table() -> str:
    """Write published and predicted figures side by side."""
    return fact_table(FACTS)


def exceptions() -> str:
    """Write why figures are off by more than a fifth, with the range of their ratios."""
    return fact_exceptions(FACTS)
