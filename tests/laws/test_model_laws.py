"""Laws of models: what is sharded adds up again, and one device does what the formulas of one device say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.layers.base import Shard, Step, Tensor
from perfmodel.layers.operators import Attention, Experts, Gemm, Operator
from perfmodel.layers.precision import Precision
from perfmodel.models.catalog import list_models, load_model
from perfmodel.models.spec import ModelSpec

BF16 = Precision()
MODELS = [
    "llama-3.1-70b",
    "qwen3-32b",
    "gpt-oss-120b",
    "mixtral-8x7b",
    "deepseek-v3",
    "deepseek-v3.2",
    "deepseek-v4-flash",
    "Qwen/Qwen3.5-397B-A17B",
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "google/gemma-4-26B-A4B",
    "megatron/gpt-22b",
]
models = st.sampled_from(MODELS).map(load_model)
powers = st.sampled_from([1, 2, 4, 8])
steps = st.builds(
    lambda batch, tokens, past, decode: Step(
        float(batch), 1.0 if decode else float(tokens), float(past + (1 if decode else tokens)), decode
    ),
    st.integers(1, 64),
    st.integers(1, 2048),
    st.integers(0, 4096),
    st.booleans(),
)


def tensors(model: ModelSpec) -> list[tuple[Tensor, int]]:
    ends = [(t, 1) for part in (model.embedding, model.head) for t in part.tensors()]
    return ends + [(t, n) for block, n in model.blocks for t in block.tensors()]


def copies(tensor: Tensor, shard: Shard) -> float:
    """How many of the tp x dp ranks hold the same part of a tensor."""
    world = float(shard.tp) * float(shard.dp)
    parts = {
        "none": 1.0,
        "tp": float(shard.tp),
        "vocab": float(shard.tp),
        "kv": min(float(shard.tp), tensor.limit),
        "expert": float(shard.ep) * float(shard.moe_tp),
    }[tensor.split]
    return world / parts


@st.composite
def shards(draw: st.DrawFn) -> Shard:
    tp, dp = draw(powers), draw(powers)
    ep = draw(st.sampled_from([e for e in (1, 2, 4, 8, 16, 32, 64) if (tp * dp) % e == 0]))
    return Shard(tp=float(tp), dp=float(dp), ep=float(ep), moe_tp=float(tp * dp // ep))


@given(models, shards())
def test_sharded_weights_add_up_to_the_model(model: ModelSpec, shard: Shard) -> None:
    world = float(shard.tp) * float(shard.dp)
    total = sum(n * float(t.per_device(shard)) * world / copies(t, shard) for t, n in tensors(model))
    assert total == pytest.approx(model.parameters(), rel=1e-12)
    assert float(model.weight_bytes(shard, BF16)) * world >= 2 * model.parameters() * (1 - 1e-12)


@pytest.mark.parametrize("name", list_models())
def test_one_device_holds_every_weight_once(name: str) -> None:
    model = load_model(name)
    assert float(model.weight_bytes(Shard(), BF16)) == pytest.approx(2 * model.parameters(), rel=1e-12)
    parts = sum(n * float(block.weight_bytes(Shard(), BF16)) for block, n in model.blocks)
    parts += float(model.embedding_bytes(Shard(), BF16)) + float(model.head_bytes(Shard(), BF16))
    assert parts == pytest.approx(2 * model.parameters(), rel=1e-12)


def matrix_flops(model: ModelSpec, step: Step, shard: Shard) -> dict[str, float]:
    """FLOP of the dense products, attention and experts of a whole model on one device."""
    out = {"gemm": 0.0, "attention": 0.0, "experts": 0.0}
    for _, repeat, operators in model.operators(step, shard, BF16):
        for op in operators:
            kind = {Gemm: "gemm", Attention: "attention", Experts: "experts"}.get(type(op))
            if kind:
                out[kind] += repeat * float(op.flops())
    return out


@pytest.mark.parametrize("name", list_models())
def test_decode_multiplies_every_active_weight_once(name: str) -> None:
    """Two FLOP per active weight and token, but for what is no matrix or runs in a pass."""
    model = load_model(name)
    step = Step(1.0, 1.0, 1.0, decode=True)
    flops = matrix_flops(model, step, Shard())
    counted = {"linear", "attention_linear", "expert", "router", "head"}
    active = sum(n * t.active for t, n in tensors(model) if t.role in counted or "pooling" in t.name)
    assert flops["gemm"] + flops["experts"] == pytest.approx(2 * active, rel=0.01)


def evenly(op: Operator, tp: float) -> bool:
    """Whether an operator is divided over tp (weights that every rank holds are multiplied by every rank)."""
    whole = ("down projection", "router", "indexer", "pooling", "latent down", "latent up")
    return not any(word in op.name for word in whole) or op.name in (
        "mlp down projection",
        "shared expert down projection",
    )


@given(st.sampled_from(["llama-3.1-70b", "qwen3-32b", "gpt-oss-120b", "deepseek-v3"]).map(load_model), powers, steps)
def test_flops_of_the_ranks_add_up_to_the_model(model: ModelSpec, tp: int, step: Step) -> None:
    alone, shared = Shard(), Shard(tp=float(tp), ep=float(tp))
    for one, part in zip(model.operators(step, alone, BF16), model.operators(step, shared, BF16), strict=True):
        for a, b in zip(one[2], part[2], strict=True):
            if isinstance(a, Gemm | Attention | Experts):
                times = tp if evenly(a, tp) else 1.0
                # The vocabulary is padded to the ranks: allow for one row each.
                slack = 1e-3 if a.name == "output projection" else 1e-12
                assert float(b.flops()) * times == pytest.approx(float(a.flops()), rel=slack), a.name


@given(models, shards(), steps)
def test_data_parallel_ranks_share_the_experts_work(model: ModelSpec, shard: Shard, step: Step) -> None:
    for _, _, operators in model.operators(step, shard, BF16):
        for op in operators:
            if isinstance(op, Experts):
                all_tokens = float(step.batch) * float(step.tokens) * float(shard.dp)
                assert float(op.tokens) == pytest.approx(all_tokens)
                work = 2 * all_tokens * op.topk * (2 + op.gated) * op.hidden * op.intermediate
                ranks = float(shard.tp) * float(shard.dp)
                assert float(op.flops()) * ranks == pytest.approx(work, rel=1e-12)


@given(models, shards(), steps)
def test_nothing_is_negative_and_no_group_of_one_communicates(model: ModelSpec, shard: Shard, step: Step) -> None:
    for _, repeat, operators in model.operators(step, shard, BF16):
        assert repeat >= 1
        for op in operators:
            assert float(op.flops()) >= 0
            assert float(op.nbytes()) >= 0
            payload = getattr(op, "payload", 0.0)
            assert float(payload) >= 0
            if float(shard.tp) * float(shard.dp) == 1:
                assert float(payload) == 0


@given(models, shards(), st.integers(1, 10**6))
def test_cache_never_shrinks_and_more_ranks_never_hold_more(model: ModelSpec, shard: Shard, context: int) -> None:
    now, later = (float(model.cache_bytes(float(c), shard, BF16)) for c in (context, context + 1))
    alone = float(model.cache_bytes(float(context), Shard(), BF16))
    assert 0 < now <= later
    assert now <= alone
    assert float(model.cache_bytes(float(context), shard, BF16.with_kv("fp8"))) <= now


@given(models, st.integers(1, 16))
def test_stages_partition_the_layers(model: ModelSpec, pp: int) -> None:
    stages = model.stages(pp)
    assert len(stages) == pp
    assert [sum(stage[i] for stage in stages) for i in range(len(model.blocks))] == [n for _, n in model.blocks]
    sizes = [sum(stage) for stage in stages]
    assert max(sizes) - min(sizes) <= 1


@given(models, steps)
def test_plans_in_an_array_equal_plans_alone(model: ModelSpec, step: Step) -> None:
    tp, dp, ep = np.array([1.0, 2.0, 4.0]), np.array([1.0, 4.0, 1.0]), np.array([1.0, 8.0, 2.0])
    grid = Shard(tp, dp, 1.0, ep, tp * dp / ep)
    weights, cache = model.weight_bytes(grid, BF16), model.cache_bytes(step.context, grid, BF16)
    many = matrix_arrays(model, step, grid)
    for i in range(3):
        one = Shard(tp[i], dp[i], 1.0, ep[i], tp[i] * dp[i] / ep[i])
        assert weights[i] == float(model.weight_bytes(one, BF16))
        assert np.broadcast_to(cache, (3,))[i] == float(model.cache_bytes(step.context, one, BF16))
        assert many[i] == pytest.approx(sum(matrix_flops(model, step, one).values()), rel=1e-12)


def matrix_arrays(model: ModelSpec, step: Step, shard: Shard) -> np.ndarray:
    total = np.zeros(3)
    for _, repeat, operators in model.operators(step, shard, BF16):
        for op in operators:
            if isinstance(op, Gemm | Attention | Experts):
                total = total + repeat * op.flops()
    return total
