"""Laws of microbatches on two streams, of products in rounds of tiles and of exchanges by stores."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.api import precision_of, target
from perfmodel.costs.balance import busiest_rank, rank_wait
from perfmodel.costs.store_exchange import store_exchange
from perfmodel.costs.streams import alternating_streams, paired_phases
from perfmodel.costs.tile_rounds import balanced_attention, tile_rounds_experts, tile_rounds_gemm
from perfmodel.estimate.arrangement import arranged, block_bytes, expert_slots
from perfmodel.estimate.step import step_time
from perfmodel.hardware.engine import Engine, Waits
from perfmodel.layers.base import Shard, Step
from perfmodel.layers.latent import LatentAttention
from perfmodel.layers.operators import Wait
from perfmodel.models.catalog import load_model
from perfmodel.parallel.grid import plans

SLACK = 1 + 1e-9

seconds = st.floats(1e-6, 1e-2)
layers = st.integers(1, 100)
rates = {"peak_flops": 752e12, "memory_bandwidth": 1.6e12, "cores": 24.0}


@given(seconds, seconds, seconds, layers)
def test_streams_lie_between_the_busier_one_and_nothing_hidden(a, b, shared, count):
    shared = min(shared, a + b)
    t = float(alternating_streams(a, b, count, shared_s=shared))
    assert t * SLACK >= 2 * count * max(a, b, shared)
    assert t <= 2 * count * (a + b) * SLACK
    assert t == pytest.approx(float(alternating_streams(b, a, count, shared_s=shared)))


@given(seconds, seconds, seconds, seconds, layers)
def test_phases_lie_between_the_busier_resource_and_nothing_hidden(a, d, e, c, count):
    t = float(paired_phases(a, d, e, c, count))
    assert t * SLACK >= 2 * count * max(a + e, d + c)
    assert t <= 2 * count * (a + d + e + c) * SLACK
    longer = float(paired_phases(a * 1.5, d, e, c, count))
    assert longer * SLACK >= t


@given(st.integers(1, 512), st.integers(1, 512), st.floats(0, 2))
def test_the_busiest_rank_is_above_the_mean_and_evens_out_with_places(ranks, per_rank, spread):
    one = float(busiest_rank(ranks, ranks, slot_spread=spread))
    many = float(busiest_rank(ranks, ranks * per_rank, slot_spread=spread))
    assert 1.0 <= many <= one * SLACK
    assert float(busiest_rank(1, 256, slot_spread=spread)) == 1.0


@given(st.integers(1, 4096), st.integers(64, 8192), st.integers(1, 16), st.integers(1, 768), st.booleans())
def test_an_exchange_by_stores_pays_for_every_byte_and_every_copy(tokens, hidden, topk, ranks, dma):
    numbers = {"cores": 24.0, "memory_bandwidth": 1.6e12, "quantise_s": 1e-10, "dma": dma}
    t = float(store_exchange(tokens, hidden, topk, ranks, **numbers))
    if ranks == 1:
        assert t == 0
        return
    wire = tokens * topk * hidden * 2.0 * (ranks - 1) / ranks / 137e9
    assert t >= wire
    assert float(store_exchange(tokens + 1, hidden, topk, ranks, **numbers)) >= t
    assert float(store_exchange(tokens, hidden, topk, ranks, imbalance=1.5, **numbers)) > t
    wider = {"near_bandwidth": 2.74e11, "far_bandwidth": 2.7e11}
    assert float(store_exchange(tokens, hidden, topk, ranks, **numbers, **wider)) <= t
    assert float(store_exchange(tokens, hidden, topk, ranks, **numbers | {"cores": 48.0})) <= t * SLACK


@given(st.integers(1, 20000), st.integers(16, 40000), st.integers(16, 20000))
def test_rounds_of_tiles_are_never_below_the_roofline(m, n, k):
    t = float(tile_rounds_gemm(m, n, k, **rates, weight_bytes=1.0, activation_bytes=1.0))
    assert t >= 2.0 * m * n * k / 752e12
    assert t >= (n * k + m * k) / 1.6e12
    faster = {**rates, "peak_flops": 1504e12, "memory_bandwidth": 3.2e12}
    assert float(tile_rounds_gemm(m, n, k, **faster, weight_bytes=1.0, activation_bytes=1.0)) <= t
    assert float(tile_rounds_gemm(2 * m, n, k, **rates, weight_bytes=1.0, activation_bytes=1.0)) >= t


def test_formulas_broadcast():
    m = np.array([1.0, 48.0, 8192.0])
    sizes = {"weight_bytes": 1.0, "activation_bytes": 1.0, **rates}
    for f in (
        lambda t: tile_rounds_gemm(t, 7168.0, 2048.0, **sizes),
        lambda t: tile_rounds_experts(t, 7168.0, 2048.0, 256.0, 8.0, 32.0, **sizes),
        lambda t: balanced_attention(
            t, 1.0, 4096.0, 128.0, 1.0, 576.0, 512.0, peak_flops=376e12, memory_bandwidth=1.6e12
        ),
        lambda t: store_exchange(t, 7168.0, 8.0, 64.0, cores=24.0, memory_bandwidth=1.6e12),
        lambda t: alternating_streams(t, 3.0, 10.0),
        lambda t: paired_phases(t, 3.0, 4.0, 5.0, 10.0),
    ):
        assert np.asarray(f(m)) == pytest.approx([float(f(x)) for x in m])


@given(st.integers(1, 768), st.integers(0, 64), st.integers(0, 64), st.booleans())
def test_places_hold_every_expert(ranks, redundant, shared, decode):
    engine = Engine("", "", redundant_experts=redundant, shared_copies=shared)
    slots, extra = expert_slots(256, ranks, engine, decode=decode)
    assert 256 <= float(slots) <= 256 + redundant + shared
    assert float(extra) in ((0.0, 1.0) if decode and shared else (0.0,))
    if float(extra):
        assert float(slots) % ranks == 0


def test_no_token_is_sent_to_a_shared_expert_that_a_model_has_not():
    engine = Engine("", "", redundant_experts=32, shared_copies=32)
    assert expert_slots(128, 16, engine, decode=True, shared=False) == (160.0, 0.0)
    assert expert_slots(128, 16, engine, decode=True, shared=True) == (192.0, 1.0)


def test_copies_of_experts_take_memory():
    model = load_model("deepseek-v3")
    engine = Engine("", "", redundant_experts=32, shared_copies=32)
    block = next(block for block, _ in model.blocks if block.name == "moe")
    precision = precision_of(model, "int8")
    one = 3.0 * 7168 * 2048
    for ep, places in ((32, 10), (320, 1)):  # the shared expert among the routed ones: no other copy on each device
        shard = Shard(dp=float(ep), ep=float(ep))
        plain = block.weight_bytes(shard, precision)
        expected = plain - one * (256 / ep + 1) + one * places
        assert float(block_bytes(block, shard, precision, engine)) == pytest.approx(float(expected))
        assert float(block_bytes(block, shard, precision, Engine("", ""))) == float(plain)


@pytest.fixture(scope="module")
def supernode():
    model = load_model("deepseek-v3")
    return model, target("cloudmatrix384", "cloudmatrix-infer"), precision_of(model, "int8")


def test_a_step_on_streams_is_within_its_bounds_for_every_plan(supernode):
    model, on, precision = supernode
    grid = plans(dp=[64, 64, 320, 320], ep=[64, 64, 320, 320], concurrency=1e4)
    for step in (
        Step(np.array([2.0, 64.0, 8.0, 100.0]), 2.0, 4096.0, decode=True),
        Step(np.array([1.0, 2.0, 3.0, 4.0]), 2048.0, 2048.0, decode=False),
    ):
        found = step_time(model, on, grid, step, precision)
        assert (found.lower_s <= found.seconds * SLACK).all()
        assert (found.seconds <= found.upper_s * SLACK).all()
        assert (found.streams.lower_s <= found.seconds * SLACK).all()
        assert np.sum(found.parts, axis=0) == pytest.approx(found.seconds, rel=1e-6)
        for i in range(4):
            one = step_time(model, on, grid.take([i]), replace(step, batch=step.batch[[i]]), precision)
            assert float(one.seconds[0]) == pytest.approx(float(found.seconds[i]))


@pytest.mark.parametrize("decode", [True, False])
def test_parts_add_up_with_shared_experts_pipeline_stages_and_host(decode):
    model, on = load_model("deepseek-v3"), target("hgx-h800", "deepseek")
    grid = plans(dp=32, pp=[1, 2], ep=32, concurrency=1e4)
    step = Step(np.array([64.0, 100.0]), 1.0 if decode else 512.0, 2048.0, decode=decode)
    found = step_time(model, on, grid, step, precision_of(model))
    assert np.sum(found.parts, axis=0) == pytest.approx(found.seconds, rel=1e-9)
    assert (found.seconds <= found.upper_s * SLACK).all()


def test_what_is_too_small_stays_whole_and_no_engine_of_one_stream_changes(supernode):
    model, on, precision = supernode
    whole = replace(on, engine=replace(on.engine, decode_streams=None))
    grid = plans(dp=320, ep=320, concurrency=1e4)
    small = Step(np.asarray(4.0), 1.0, 4096.0, decode=True)
    cut, uncut = (step_time(model, each, grid, small, precision) for each in (on, whole))
    assert float(cut.seconds) == float(uncut.seconds)
    assert uncut.streams is None
    dense = load_model("llama-3.1-8b")
    alone = plans(tp=8, concurrency=8)
    assert step_time(dense, on, alone, small, precision_of(dense, "int8")).streams is None


def test_faster_hardware_is_never_slower_on_streams(supernode):
    model, on, precision = supernode
    grid = plans(dp=320, ep=320, concurrency=1e4)
    step = Step(np.array([16.0, 48.0, 64.0]), 2.0, 4096.0, decode=True)
    base = step_time(model, on, grid, step, precision).seconds
    device = on.device
    peaks = {name: 1.3 * peak for name, peak in device.peak_flops.items()}
    for faster in (replace(device, memory_bandwidth=1.3 * device.memory_bandwidth), replace(device, peak_flops=peaks)):
        changed = replace(on, system=replace(on.system, device=faster))
        assert (step_time(model, changed, grid, step, precision).seconds <= base * SLACK).all()


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_streams_together_draw_no_more_than_the_memory_gives(supernode, share):
    model, on, precision = supernode
    slow = replace(on.device, memory_bandwidth=on.device.memory_bandwidth / 50)
    streams = replace(on.engine.decode_streams, first_cores=(share,))
    on = replace(on, system=replace(on.system, device=slow), engine=replace(on.engine, decode_streams=streams))
    step = Step(np.asarray(48.0), 2.0, 4096.0, decode=True)
    found = step_time(model, on, plans(dp=320, ep=320, concurrency=15360), step, precision, keep_lines=True)
    both = (*found.streams.first, *found.streams.second)
    nbytes = 2 * sum(line.repeat * float(np.ravel(line.operator.nbytes())[0]) for line in both)
    assert float(found.seconds) * SLACK >= nbytes / slow.memory_bandwidth


def test_ranks_wait_for_each_other_in_every_prefill_of_a_layer_with_experts(supernode):
    model, on, precision = supernode
    moe_layers = next(count for block, count in model.blocks if block.name == "moe")
    step = Step(np.asarray(2.0), 4096.0, 4096.0, decode=False)

    def seconds(step, grid, **engine):
        changed = replace(on, engine=replace(on.engine, **engine))
        return float(step_time(model, changed, grid, step, precision).seconds)

    spread, alone = plans(dp=32, ep=32, concurrency=64), plans(concurrency=2)
    for wait in ("gate_s", "dispatch_s", "combine_s"):
        added = [
            seconds(step, spread, prefill_waits=Waits(**{wait: 1e-3}, ranks=32), prefill_streams=streams)
            - seconds(step, spread, prefill_waits=Waits(), prefill_streams=streams)
            for streams in (None, on.engine.prefill_streams)
        ]
        # In one piece once per layer; computation waits in both microbatches, an exchange as far as it is seen.
        assert added[0] == pytest.approx(1e-3 * moe_layers)
        assert added[1] == pytest.approx(2e-3 * moe_layers) if wait == "gate_s" else added[1] < 2e-3 * moe_layers
    many = Waits(1.0, 1.0, 1.0)
    assert seconds(step, alone, prefill_waits=many) == seconds(step, alone, prefill_waits=Waits())
    decode = replace(step, tokens=1.0, decode=True)
    assert seconds(decode, spread, prefill_waits=many) == seconds(decode, spread, prefill_waits=Waits())


@given(st.integers(1, 64), st.floats(0, 1), st.integers(2, 64))
def test_what_was_found_in_a_cache_comes_to_every_rank_that_attends(prompts, found, ranks):
    model, shard = load_model("deepseek-v3"), Shard(dp=float(ranks), ep=float(ranks))
    latent = next(part for block, _ in model.blocks for part in block.parts if isinstance(part, LatentAttention))
    precision = precision_of(model, "int8")
    engine = Engine("", "", regrouped_prefill=True)

    def gathered(tokens):
        step = Step(np.asarray(float(prompts)), np.asarray(tokens), 4096.0, decode=False)
        ops = arranged(latent, latent.operators(step, shard, precision), engine, step, shard)
        return next(float(op.payload) for op in ops if op.name == "compressed vectors to every rank")

    fresh = 4096.0 * (1.0 - found)
    computed = ranks * prompts * fresh * (1536 + 576)
    assert gathered(fresh) == pytest.approx(computed + ranks * prompts * (4096.0 - fresh) * 576 * 2)


@given(st.integers(1, 4096), st.integers(2, 512), seconds)
def test_more_ranks_wait_longer_for_the_last(ranks, measured, wait):
    t = float(rank_wait(ranks, wait_s=wait, measured_ranks=measured))
    assert float(rank_wait(measured, wait_s=wait, measured_ranks=measured)) == pytest.approx(wait)
    assert t <= float(rank_wait(ranks + 1, wait_s=wait, measured_ranks=measured))
    assert (t == 0.0) == (ranks == 1)
    assert float(rank_wait(ranks, wait_s=2 * wait, measured_ranks=measured)) == pytest.approx(2 * t)


def test_a_wait_is_no_work():
    wait = Wait("ranks", np.array([1e-3, 2e-3]), "dispatch")
    assert not np.any(wait.flops())
    assert not np.any(wait.nbytes())
