"""Duplex (Yun et al. 2024, arXiv:2409.01141): operations per byte, use of a GPU, and what processors near memory gain.

The paper simulates devices; nothing here was fitted to it. Its figures: experts in decode have 1 to 32 operations per
byte and use at most 11 % of an H100; grouped-query attention has 4 to 8 and uses at most 2.06 %; throughput rises by up
to 2.51 times without co-processing.
"""

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.estimate.serving.steps import serving_steps
from perfmodel.layers.base import Shard, Step
from perfmodel.layers.operators import Attention, Experts
from perfmodel.parallel.grid import plans

H100 = 989e12 / 3.35e12  # operations per byte at which arithmetic and memory take equally long


def per_byte(model, batch, kind):
    spec = pm.load_model(model)
    blocks = spec.operators(Step(float(batch), 1.0, 2560.0, True), Shard(), pm.precision_of(spec))
    op = next(op for _, _, ops in blocks for op in ops if isinstance(op, kind))
    return float(op.flops() / op.nbytes())


def test_experts_do_little_arithmetic_per_byte():
    # Mixtral, eight experts of which a token visits two: a quarter of the batch per expert.
    found = [per_byte("mixtral-8x7b", batch, Experts) for batch in (1, 32, 128)]
    assert found == pytest.approx([1, 8, 32], rel=0.01)
    assert found[-1] / H100 == pytest.approx(0.11, abs=0.005)


@pytest.mark.parametrize(("model", "queries_per_head"), [("mixtral-8x7b", 4), ("llama-3.1-70b", 8)])
def test_grouped_query_attention_does_as_many_operations_as_queries_share_a_key(model, queries_per_head):
    found = per_byte(model, 32, Attention)
    assert found == pytest.approx(queries_per_head, rel=0.01)
    # The paper's largest group of six queries: 2.03 % against its 2.06 %.
    assert 6 / queries_per_head * found / H100 == pytest.approx(0.0206, rel=0.03)


def test_throughput_of_mixtral_on_four_devices():
    gains = []
    for batch in (32, 64, 128):
        plan = plans(tp=4, ep=1, moe_tp=4, concurrency=batch)
        on = (pm.predict("mixtral-8x7b", s, plan, isl=2048, osl=1024) for s in ("hgx-h100", "duplex-8"))
        gpu, duplex = (e["tokens_per_s_per_gpu"][0] for e in on)
        gains.append(duplex / gpu)
    assert max(gains) == pytest.approx(2.51, rel=0.15)
    assert np.all(np.diff(gains) < 0)
    assert gains[-1] > 1.1


def places(concurrency):
    """Processor of every operator in decode and in prefill."""
    spec, target = pm.load_model("mixtral-8x7b"), pm.target("duplex-8")
    plan = plans(tp=4, ep=1, moe_tp=4, concurrency=concurrency)
    steps = serving_steps(spec, target, plan, pm.Workload(2048, 1024), pm.precision_of(spec), keep_lines=True)
    return [
        {line.operator.name for line in phase.lines if "logic-pim" in line.time.source}
        for phase in (steps.decode, steps.prefill)
    ]


def test_what_runs_near_memory():
    # The paper's border is 32 operations per byte, a batch of 32 in a projection.
    few, prompt = places(16)
    assert {"attention", "experts", "qkv projection"} <= few
    many, _ = places(128)
    assert "attention" in many
    assert not {"qkv projection", "attention output projection"} & many
    assert not {"attention", "experts", "qkv projection"} & prompt
