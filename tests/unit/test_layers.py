"""Sizes of layers against numbers worked out by hand."""

import math

import numpy as np
import pytest

from perfmodel.layers.attention import GroupedQueryAttention
from perfmodel.layers.base import Layer, Shard, Step, Tensor
from perfmodel.layers.compressed import CompressedAttention
from perfmodel.layers.embedding import Embedding, Head
from perfmodel.layers.latent import Indexer, LatentAttention
from perfmodel.layers.linear_attention import LinearAttention
from perfmodel.layers.mlp import Mlp
from perfmodel.layers.moe import MixtureOfExperts
from perfmodel.layers.norm import HyperConnections, Norm
from perfmodel.layers.operators import Attention, Collective, Experts, Gemm, Operator, Pass
from perfmodel.layers.precision import Precision

BF16 = Precision()
ONE = Shard()
DECODE = Step(batch=16.0, tokens=1.0, context=1000.0, decode=True)
PREFILL = Step(batch=2.0, tokens=500.0, context=500.0, decode=False)
LLAMA = GroupedQueryAttention(8192, 64, 8, 128, 128)
DEEPSEEK = LatentAttention(7168, 128, 1536, 512, 128, 64, 128)


def find(layer: Layer, name: str, step: Step = DECODE, shard: Shard = ONE, precision: Precision = BF16) -> Operator:
    found = [op for op in layer.operators(step, shard, precision) if op.name == name]
    assert len(found) == 1, f"{name}: {[op.name for op in layer.operators(step, shard, precision)]}"
    return found[0]


def elements(layer: Layer) -> float:
    return sum(tensor.elements for tensor in layer.tensors())


def test_grouped_query_weights() -> None:
    # q 8192 x 8192, k and v 8192 x 1024 each, o 8192 x 8192
    assert elements(LLAMA) == 2 * 8192 * 8192 + 2 * 8192 * 1024


@pytest.mark.parametrize(("tp", "out_features", "kv_heads"), [(1, 10240, 8), (8, 1280, 1), (16, 768, 1), (3, 3584, 3)])
def test_grouped_query_projection_is_divided(tp: float, out_features: float, kv_heads: float) -> None:
    # (heads + 2 kv heads) x 128 on the busiest rank; key-value heads are copied beyond 8 ranks.
    shard = Shard(tp=float(tp))
    projection, attention = find(LLAMA, "qkv projection", shard=shard), find(LLAMA, "attention", shard=shard)
    assert isinstance(projection, Gemm)
    assert isinstance(attention, Attention)
    assert (projection.tokens, projection.out_features, projection.in_features) == (16, out_features, 8192)
    assert attention.kv_heads == kv_heads


def test_key_value_weights_are_copied_beyond_their_heads() -> None:
    # 16 ranks: a sixteenth of q and o, an eighth of k and v
    stored = sum(float(t.per_device(Shard(tp=16.0))) for t in LLAMA.tensors())
    assert stored == 2 * 8192 * 8192 / 16 + 2 * 8192 * 1024 / 8


def test_grouped_query_cache() -> None:
    # 1000 tokens x 2 x 8 heads x 128 x 2 bytes; an eighth on 8 ranks and no less on 16; half in 8 bits
    assert LLAMA.cache_bytes(1000.0, ONE, BF16) == 4_096_000
    assert LLAMA.cache_bytes(1000.0, Shard(tp=8.0), BF16) == 512_000
    assert LLAMA.cache_bytes(1000.0, Shard(tp=16.0), BF16) == 512_000
    assert LLAMA.cache_bytes(1000.0, Shard(cp=4.0), BF16) == 1_024_000
    assert LLAMA.cache_bytes(1000.0, ONE, BF16.with_kv("fp8")) == 2_048_000


def test_sliding_window_bounds_cache_and_work() -> None:
    near = GroupedQueryAttention(2880, 64, 8, 64, 64, window=128)
    assert near.cache_bytes(np.array([100.0, 1e5]), ONE, BF16).tolist() == [204_800, 262_144]
    short, long = (find(near, "sliding attention", Step(1.0, 1.0, c, True)).flops() for c in (128.0, 1e5))
    assert short == long == 2 * 64 * 128 * (64 + 64)


def test_chunked_attention_sees_half_a_chunk() -> None:
    chunked = GroupedQueryAttention(5120, 40, 8, 128, 128, window=8192, chunked=True)
    op = find(chunked, "sliding attention", Step(1.0, 1.0, 1e6, True))
    assert isinstance(op, Attention)
    assert op.window == 4096.5


def test_attention_all_reduce_carries_the_tokens() -> None:
    alone, shared = (find(LLAMA, "attention all-reduce", shard=Shard(tp=t)) for t in (1.0, 4.0))
    assert isinstance(alone, Collective)
    assert isinstance(shared, Collective)
    assert (float(alone.payload), float(shared.payload)) == (0.0, 16 * 8192 * 2)


def test_gate_norms_and_biases_are_counted() -> None:
    # Qwen3.5: 24 heads of 256 with a gate each, 4 key-value heads, width 5120
    gated = GroupedQueryAttention(5120, 24, 4, 256, 256, qk_norm=True, output_gate=True)
    assert elements(gated) == 5120 * (24 * 512 + 2 * 4 * 256 + 24 * 256) + 2 * 256
    # gpt-oss: biases on all four projections and a sink per head
    biased = GroupedQueryAttention(2880, 64, 8, 64, 64, qkv_bias=True, output_bias=True, sinks=True)
    assert elements(biased) == 2881 * (4096 + 1024) + 4096 * 2880 + 2880 + 64


def test_head_norms_are_a_pass_and_wide_ones_add_up_over_ranks() -> None:
    def of(step: Step, **norms: bool) -> list[Operator]:
        layer = GroupedQueryAttention(64, 8, 2, 16, 16, **norms)
        return [op for op in layer.operators(step, Shard(tp=2.0), Precision()) if op.name.startswith("head norms")]

    step = Step(3.0, 1.0, 100.0, decode=True)
    assert of(step) == []
    (norm,) = of(step, qk_norm=True)
    assert norm.nbytes() == 3 * (4 + 1) * 16 * 2 * 2  # 4 query heads and 1 key head per rank, read and written
    summed = of(step, qk_norm=True, wide_norm=True)[1]
    assert isinstance(summed, Collective)
    assert (summed.kind, summed.group, float(summed.payload)) == ("all_reduce", "tp", 3 * 2 * 4)
    weights = {
        n: sum(t.elements for t in GroupedQueryAttention(64, 8, 2, 16, 16, qk_norm=True, wide_norm=n).tensors())
        for n in (False, True)
    }
    assert weights[True] - weights[False] == (8 + 2 - 2) * 16


def test_latent_weights() -> None:
    # 7168 x (1536 + 576), 1536 x 128 x 192, 512 x 128 x 256, 16384 x 7168, norms 2048
    expected = 7168 * 2112 + 1536 * 24576 + 512 * 32768 + 16384 * 7168 + 2048
    assert elements(DEEPSEEK) == expected == 187_107_328


def test_latent_cache_is_on_every_rank() -> None:
    # 576 elements of 2 bytes per token, whatever tp
    assert DEEPSEEK.cache_bytes(10.0, ONE, BF16) == 11_520
    assert DEEPSEEK.cache_bytes(10.0, Shard(tp=16.0), BF16) == 11_520


def test_latent_decode_is_absorbed_and_prefill_expanded() -> None:
    decode, prefill = find(DEEPSEEK, "latent attention"), find(DEEPSEEK, "latent attention", PREFILL)
    assert isinstance(decode, Attention)
    assert isinstance(prefill, Attention)
    assert (decode.kv_heads, decode.qk_head_dim, decode.v_head_dim, decode.latent) == (1, 576, 512, True)
    assert (prefill.kv_heads, prefill.qk_head_dim, prefill.v_head_dim) == (128, 192, 128)
    # decode: 16 x 128 heads x 1000 keys x (576 + 512) x 2
    assert decode.flops() == 2 * 16 * 128 * 1000 * 1088
    names = {op.name for op in DEEPSEEK.operators(DECODE, ONE, BF16)}
    assert {"query absorption", "value expansion"} <= names
    assert "latent expansion" not in names


def test_absorption_does_the_work_of_the_expansion_weights() -> None:
    absorb, expand = find(DEEPSEEK, "query absorption"), find(DEEPSEEK, "value expansion")
    # 16 tokens x 128 heads x 128 x 512 x 2, twice
    assert absorb.flops() + expand.flops() == 2 * (2 * 16 * 128 * 128 * 512)


def test_chunked_prefill_expands_the_cached_latents_again() -> None:
    op = find(DEEPSEEK, "latent expansion", Step(1.0, 100.0, 900.0, False))
    assert isinstance(op, Gemm)
    assert op.tokens == 900


def test_indexer_bounds_attention_and_adds_its_own_cost() -> None:
    sparse = LatentAttention(7168, 128, 1536, 512, 128, 64, 128, Indexer(64, 128, 2048))
    long = Step(1.0, 1.0, 100_000.0, True)
    op = find(sparse, "sparse latent attention", long)
    assert isinstance(op, Attention)
    assert op.context == 2048
    scores = find(sparse, "indexer scores", long)
    assert scores.flops() == 2 * 100_000 * 64 * 128
    assert scores.nbytes() > 100_000 * 132
    # 576 x 2 bytes and 128 bytes with a 4-byte scale, per token
    assert sparse.cache_bytes(1.0, ONE, BF16) == 1152 + 132
    # weights of one layer: 1536 x 64 x 128, 7168 x (128 + 64), a norm with bias
    assert elements(sparse) - elements(DEEPSEEK) == 1536 * 8192 + 7168 * 192 + 256


def test_compressed_attention_keeps_a_window_and_pooled_keys() -> None:
    pooled = CompressedAttention(4096, 64, 512, 1024, 1024, 8, 128, 128)
    op = find(pooled, "compressed attention", Step(1.0, 1.0, 128_000.0, True))
    assert isinstance(op, Attention)
    assert op.context == 128 + 1000
    assert pooled.cache_bytes(128_000.0, ONE, BF16) == (128 + 1000) * 1024
    sparse = CompressedAttention(4096, 64, 512, 1024, 1024, 8, 128, 4, True, Indexer(64, 128, 512, 4))
    op = find(sparse, "compressed attention", Step(1.0, 1.0, 128_000.0, True))
    assert isinstance(op, Attention)
    assert op.context == 128 + 512


def test_mlp() -> None:
    gated, plain = Mlp(8192, 28672), Mlp(12288, 49152, gated=False, bias=True)
    assert elements(gated) == 3 * 8192 * 28672
    assert elements(plain) == 2 * 12288 * 49152 + 49152 + 12288
    up = find(gated, "mlp up projection", shard=Shard(tp=8.0))
    assert isinstance(up, Gemm)
    assert (up.out_features, up.in_features) == (7168, 8192)
    activation = find(gated, "mlp activation")
    assert isinstance(activation, Pass)
    assert activation.nbytes() == 16 * 28672 * 3 * 2


MOE = MixtureOfExperts(7168, 256, 8, 2048, shared_intermediate=2048, router_bias=True)


def test_moe_weights() -> None:
    expert = 3 * 7168 * 2048
    assert elements(MOE) == 257 * expert + 256 * 7168 + 256
    assert sum(t.active for t in MOE.tensors()) == 9 * expert + 256 * 7168 + 256


def payloads(shard: Shard, layer: MixtureOfExperts = MOE, precision: Precision = BF16) -> dict[str, float]:
    ops = layer.operators(DECODE, shard, precision)
    return {op.name: float(op.payload) for op in ops if isinstance(op, Collective) and float(op.payload) > 0}


def test_moe_on_one_group_ends_in_one_all_reduce() -> None:
    tokens = 16 * 7168 * 2
    assert payloads(ONE) == {}
    assert payloads(Shard(tp=8.0, ep=8.0)) == {"expert all-reduce": tokens}
    assert payloads(Shard(tp=8.0, ep=2.0, moe_tp=4.0)) == {"expert all-reduce": tokens}
    op = find(MOE, "experts", shard=Shard(tp=8.0, ep=8.0))
    assert isinstance(op, Experts)
    assert op.tokens == 16


def test_moe_over_groups_dispatches_and_combines() -> None:
    # 16 tokens per rank go to 8 ranks each: 8-bit there, 16-bit back
    copies = 16 * 8 * 7168
    wide = Shard(dp=32.0, ep=32.0)
    fp8 = Precision.uniform("fp8")
    assert payloads(wide, precision=fp8) == {"dispatch": copies, "combine": 2 * copies}
    op = find(MOE, "experts", shard=wide)
    assert isinstance(op, Experts)
    assert op.tokens == 16 * 32
    # With tp 4 a rank sends a quarter of its group's tokens; then the group rebuilds them.
    got = payloads(Shard(tp=4.0, dp=8.0, ep=32.0))
    assert got == {
        "dispatch": copies / 4 * 2,
        "combine": copies / 4 * 2,
        "shared expert reduce-scatter": 16 * 7168 * 2,
        "token all-gather": 16 * 7168 * 2,
    }
    # Experts regrouped over 8 of 32 ranks serve the tokens of those 8.
    op = find(MOE, "experts", shard=Shard(dp=32.0, ep=8.0))
    assert isinstance(op, Experts)
    assert op.tokens == 16 * 8
    # Without expert parallelism all tokens are gathered and the sums scattered.
    assert payloads(Shard(dp=8.0, moe_tp=8.0)) == {
        "expert all-gather": 8 * 16 * 7168 * 2,
        "expert reduce-scatter": 8 * 16 * 7168 * 2,
    }


def test_latent_experts_see_projected_tokens() -> None:
    layer = MixtureOfExperts(4096, 512, 22, 2688, gated=False, latent=1024)
    op = find(layer, "experts")
    assert isinstance(op, Experts)
    assert (op.hidden, op.gated) == (1024, False)
    assert elements(layer) == 512 * 2 * 1024 * 2688 + 512 * 4096 + 2 * 4096 * 1024


def test_linear_attention() -> None:
    # Qwen3.5-27B: 16 key heads, 48 value heads of 128, width 5120, kernel 4
    net = LinearAttention(5120, 16, 128, 48, 128, vectors=2 * 48 + 128)
    keys, values = 2 * 16 * 128, 48 * 128
    weights = 5120 * (keys + 2 * values + 96) + values * 5120 + 4 * (keys + values) + 224
    assert elements(net) == weights
    # 48 heads of 128 x 128 in 4 bytes; three taps of the convolution in 2; the same for any length
    state = 48 * 128 * 128 * 4 + 3 * (keys + values) * 2
    assert net.cache_bytes(np.array([1.0, 1e6]), ONE, BF16).tolist() == [state, state]
    op = find(net, "gated delta rule")
    assert op.flops() == 16 * 48 * 2 * 3 * 128 * 128
    assert op.nbytes() == 16 * (2 * 48 * 128 * 128 * 4 + (keys + 2 * values) * 2)


def test_ends() -> None:
    table, head = Embedding(1000, 64), Head(1000, 64)
    assert [t.active for t in table.tensors()] == [0.0]
    projection = find(head, "output projection", PREFILL)
    assert isinstance(projection, Gemm)
    assert projection.tokens == 2  # the last token of each sequence
    tied = {t.name: t for t in Head(1000, 64, tied=True).tensors()}["output projection"]
    assert (tied.elements, tied.active) == (0, 64_000)
    assert elements(Embedding(1000, 64, positions=10)) == 64 * 1010


def test_norms_and_streams() -> None:
    assert elements(Norm("n", 100)) == 100
    assert elements(Norm("n", 100, vectors=2)) == 200
    assert elements(HyperConnections("s", 100, 4)) == 24 * 401 + 3 + 100
    assert find(Norm("n", 100), "n").nbytes() == 16 * 100 * 4 * 2


def test_weight_formats_follow_roles() -> None:
    fp4 = Precision(linear="fp8", experts="nvfp4", attention_linear="bf16")
    sizes = {
        role: Tensor("t", 1.0, role, "none", 1.0).element_bytes(fp4)
        for role in ("linear", "expert", "attention_linear", "router", "norm", "head", "embedding")
    }
    assert sizes == {
        "linear": 1, "expert": 0.5625, "attention_linear": 2, "router": 2, "norm": 2, "head": 2, "embedding": 2
    }  # fmt: skip


def test_context_parallel_prefill_shares_the_pairs() -> None:
    whole, part = (find(LLAMA, "attention", PREFILL, Shard(cp=c)) for c in (1.0, 4.0))
    assert whole.flops() == 4 * part.flops()
    rows = [find(LLAMA, "qkv projection", s, Shard(cp=4.0)) for s in (PREFILL, DECODE)]
    assert [float(op.tokens) for op in rows if isinstance(op, Gemm)] == [2 * 500 / 4, 16]
    gathered = find(LLAMA, "key-value all-gather", PREFILL, Shard(cp=4.0))
    assert isinstance(gathered, Collective)
    assert gathered.payload == 2 * 500 * 2 * 8 * 128 * 2
    assert not any(op.name == "key-value all-gather" for op in LLAMA.operators(DECODE, Shard(cp=4.0), BF16))


@pytest.mark.parametrize("layer", [LLAMA, DEEPSEEK, MOE, Mlp(64, 256), Head(1000, 64), Norm("n", 8)])
def test_an_array_of_plans_equals_plan_by_plan(layer: Layer) -> None:
    tp, dp = np.array([1.0, 2.0, 8.0, 4.0]), np.array([1.0, 4.0, 1.0, 2.0])
    ep, moe_tp = np.array([1.0, 8.0, 2.0, 1.0]), np.array([1.0, 1.0, 4.0, 8.0])
    many = layer.operators(DECODE, Shard(tp, dp, 1.0, ep, moe_tp), BF16)
    for i in range(4):
        one = layer.operators(DECODE, Shard(tp[i], dp[i], 1.0, ep[i], moe_tp[i]), BF16)
        for a, b in zip(many, one, strict=True):
            for get in ("flops", "nbytes"):
                row = np.broadcast_to(getattr(a, get)(), (4,))[i]
                assert math.isclose(row, float(getattr(b, get)()), rel_tol=1e-12)
            if isinstance(a, Collective) and isinstance(b, Collective):
                assert np.broadcast_to(a.payload, (4,))[i] == b.payload
