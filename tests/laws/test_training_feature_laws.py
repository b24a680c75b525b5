"""Laws of overlap, hybrid sharding, offloads, chunked backward passes, skipped stages and uneven stages."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.costs.overlap import beside_exchange, decomposed_exchange, host_stream
from perfmodel.costs.training_schedules import SCHEDULES, visited_stages
from perfmodel.estimate.training.memory import MEMORY_PARTS
from perfmodel.estimate.training.network import Network
from perfmodel.estimate.training.pipeline import STEP_PARTS
from perfmodel.estimate.training.predict import predict_training
from perfmodel.estimate.training.shape import weights_of
from perfmodel.estimate.training.target import training_target
from perfmodel.estimate.training.workload import TrainingWorkload
from perfmodel.layers.training_recipe import get_recipe
from perfmodel.models.catalog import load_model
from perfmodel.parallel.training_grid import training_plans

DENSE = load_model("meta-llama/Llama-3.1-8B-Instruct")
MOE = load_model("deepseek-ai/DeepSeek-V3")
H100 = training_target("hgx-h100")
SLACK = 1 + 1e-12
shares = st.sampled_from([0.25, 0.5, 1.0])
seconds = st.floats(0.0, 10.0)


@st.composite
def rows(draw):
    tp, pp, dp = (draw(st.sampled_from([1, 2, 4])) for _ in range(3))
    return {
        "tp": tp,
        "pp": pp,
        "dp": 4 * dp,
        "ep": draw(st.sampled_from([1, 4])),
        "micro_batch": draw(st.sampled_from([1, 2])),
        "zero": draw(st.integers(0, 3)),
        "shard_copies": draw(st.sampled_from([1, 2, 4])),
        "sequence_parallel": draw(st.integers(0, 1)),
        "sequence_chunks": draw(st.sampled_from([1, 4])),
        "tp_overlap": draw(st.integers(0, 1)),
        "edge_layers": draw(st.integers(0, 2)),
        "recompute": draw(st.sampled_from([0, 2, 3])),
        "grad_overlap": draw(st.integers(0, 1)),
        "schedule": draw(st.sampled_from([0, SCHEDULES.index("dualpipe")])),
        "offload_optimizer": draw(st.sampled_from([0.0, 0.5])),
        "offload_weights": draw(st.sampled_from([0.0, 1.0])),
        "skipped_stages": draw(st.sampled_from([0.0, 0.5])),
    }


def plans(*found, **knobs):
    columns = {name: [row[name] for row in found] for name in found[0]}
    return training_plans(**(columns | knobs))


def estimate(grid, model=DENSE, target=H100, batch=64, seq=2048, recipe="bf16", method="full"):
    return predict_training(model, target, grid, TrainingWorkload(seq, batch), get_recipe(recipe, method))


@given(found=st.lists(rows(), min_size=1, max_size=4), model=st.sampled_from([DENSE, MOE]))
def test_a_grid_gives_what_each_of_its_plans_gives_alone(found, model):
    grid = plans(*found) if model is MOE else plans(*found, ep=1)
    whole = estimate(grid, model)
    for i in range(grid.size):
        alone = estimate(grid.take([i]), model)
        for name, values in whole.columns.items():
            np.testing.assert_allclose(values[i], alone[name][0], rtol=1e-12, err_msg=name)
        assert whole.verdicts.reason(i) == alone.verdicts.reason(0)


@given(found=rows(), method=st.sampled_from(["full", "lora", "forward"]))
def test_totals_are_the_sum_of_their_parts(found, method):
    one = estimate(plans(found), MOE, method=method)
    np.testing.assert_allclose(sum(one[f"{name}_s"] for name in STEP_PARTS), one["step_s"], rtol=1e-12)
    np.testing.assert_allclose(sum(one[f"{name}_bytes"] for name in MEMORY_PARTS), one["peak_bytes"], rtol=1e-12)
    assert all(one[f"{name}_s"][0] >= 0 for name in STEP_PARTS)
    assert all(one[f"{name}_bytes"][0] >= -1e-3 for name in MEMORY_PARTS)


@given(exchange=seconds, product=seconds, ranks=st.integers(1, 64))
def test_a_decomposed_exchange_lies_between_nothing_and_all_of_it(exchange, product, ranks):
    exposed = decomposed_exchange(exchange, product, ranks)
    assert 0 <= exposed <= exchange
    # Not even a product of endless length begins before the first piece: the whole is never shorter than its parts.
    assert exposed + product >= max(exchange, product) * (1 - 1e-12)
    assert decomposed_exchange(exchange, product, 2 * ranks) <= exposed


@given(inwards=st.floats(0, 1e12), outwards=st.floats(0, 1e12), hiding=seconds, factor=st.floats(1.0, 8.0))
def test_a_stream_is_hidden_up_to_the_computation(inwards, outwards, hiding, factor):
    exposed = host_stream(inwards, outwards, hiding, bandwidth=5e10)
    assert exposed >= 0
    assert exposed + hiding >= max(inwards, outwards) / 5e10
    assert host_stream(inwards, outwards, hiding, bandwidth=5e10 * factor) <= exposed
    assert host_stream(factor * inwards, factor * outwards, factor * hiding, bandwidth=5e10) == pytest.approx(
        factor * exposed, abs=1e-9
    )


@given(found=rows())
def test_overlap_never_takes_longer(found):
    grid = plans(found, tp_overlap=[0, 1], sequence_parallel=1, ep=1)
    apart, beside = estimate(grid)["step_s"]
    assert beside <= apart * SLACK


@given(found=rows(), share=shares, name=st.sampled_from(["offload_optimizer", "offload_weights"]))
def test_offloads_cost_time_and_save_memory(found, share, name):
    grid = plans(found, **{"offload_optimizer": 0.0, "offload_weights": 0.0, "ep": 1, name: [0.0, share]})
    found = estimate(grid)
    assert found["peak_bytes"][1] <= found["peak_bytes"][0] * SLACK
    assert found["step_s"][1] >= found["step_s"][0] / SLACK
    assert found["host_bytes"][1] > found["host_bytes"][0] == 0
    # Nothing is lost: what is not on the device is on the host, or on its way.
    assert (found["peak_bytes"] + found["host_bytes"])[1] >= found["peak_bytes"][0] / SLACK


@given(found=rows(), zero=st.integers(1, 3))
def test_more_copies_of_shards_take_more_memory(found, zero):
    grid = plans(found, zero=zero, shard_copies=[1, 2, 4], offload_weights=0.0, offload_optimizer=0.0, ep=1)
    peak = estimate(grid)["peak_bytes"]
    assert np.all(np.diff(peak) >= -1e-3)
    # As many copies as ranks share nothing.
    alone = estimate(training_plans(dp=4, zero=[0, zero], shard_copies=[1, 4]))
    np.testing.assert_allclose(alone["optimizer_bytes"][0], alone["optimizer_bytes"][1], rtol=1e-12)


@given(compute=seconds, exchange=seconds, share=shares)
def test_a_collective_beside_computation_takes_its_cores_and_never_more_than_its_time(compute, exchange, share):
    both = float(beside_exchange(compute, exchange, taken_share=share))
    assert max(compute, exchange) <= float(beside_exchange(compute, exchange)) * SLACK <= both * SLACK**2
    assert both <= (compute + exchange) * SLACK


def test_every_microbatch_exchanges_what_is_sharded():
    once, thrice = (
        estimate(training_plans(dp=16, zero=[1, 2, 3], grad_overlap=0.0), batch=batch)["dp_s"] for batch in (16, 48)
    )
    network = Network(H100, training_plans(dp=16))
    size = weights_of(
        (t for block, n in DENSE.blocks for _ in range(n) for t in block.tensors()), training_plans(dp=16)
    )
    scatter, gather = (
        float(network.collective(kind, width * float(size.dense) / 32, "dp")) * 32
        for kind, width in (("reduce_scatter", H100.stack.gradient_bytes), ("all_gather", 2.0))
    )
    assert thrice[0] == once[0]
    # Embedding and head come on top of the blocks.
    assert 2 * scatter < thrice[1] - once[1] < 2.4 * scatter
    assert 2 * (scatter + 2 * gather) < thrice[2] - once[2] < 2.4 * (scatter + 2 * gather)


def test_overlap_leaves_the_first_gather_and_the_last_scatter():
    plain, beside = (
        estimate(training_plans(dp=8, zero=3, micro_batch=4, grad_overlap=overlap), seq=8192)["dp_s"][0]
        for overlap in (0.0, 1.0)
    )
    ideal = H100.cores_taken * plain  # products lose no more than the cores that the exchange holds
    assert plain / 40 < beside < ideal + plain / 16


def sharding(**stack):
    """Target whose software shards in another way."""
    return dataclasses.replace(H100, stack=dataclasses.replace(H100.stack, **stack))


@given(dp=st.sampled_from([2, 8, 64]), zero=st.integers(2, 3))
def test_software_that_waits_for_its_shards_hides_nothing_of_them(dp, zero):
    plans = training_plans(dp=dp, zero=zero, grad_overlap=[0, 1])
    alone, beside = estimate(plans, target=sharding(shard_waits=True), batch=2 * dp)["step_s"]
    exposed, hidden = estimate(plans, target=H100, batch=2 * dp)["step_s"]
    assert hidden <= beside * SLACK <= alone * SLACK**2
    assert alone == exposed


@given(dp=st.sampled_from([2, 8, 64]), calls=st.integers(2, 12))
def test_more_collectives_for_the_same_weights_cost_their_latencies(dp, calls):
    plans = training_plans(dp=dp, zero=3)
    once, often, copied = (
        estimate(plans, target=sharding(**how), batch=dp)["dp_s"][0]
        for how in (
            {},
            {"shard_gathers": calls, "shard_scatters": calls},
            {"shard_gathers": calls, "shard_scatters": calls, "shard_rank_kernels": 1, "shard_passes": 3},
        )
    )
    assert once < often * SLACK < copied
    # Two gathers and a scatter of every layer, in which the host copies for every rank.
    launches = 3 * calls * DENSE.layers * dp * H100.stack.host_kernel_s
    assert copied > once + launches


def test_shards_inside_a_node_gather_faster():
    # Four adapters per node of eight: the weights of every microbatch cross them, or stay inside.
    slow = training_target("hgx-a100-4hdr")
    spread, inside = estimate(training_plans(dp=64, zero=3, shard_copies=[1, 8]), target=slow, batch=512)["dp_s"]
    assert inside < 0.6 * spread


@given(chunks=st.sampled_from([2, 8, 64]), seq=st.sampled_from([8192, 65536]))
def test_pieces_of_a_sequence_save_memory_and_no_time_to_speak_of(chunks, seq):
    grid = training_plans(sequence_chunks=[1, chunks, 2 * chunks], recompute="full")
    found = estimate(grid, batch=1, seq=seq)
    assert np.all(np.diff(found["peak_bytes"]) < 0)
    assert np.all(found["step_s"] >= 0.98 * found["step_s"][0])  # a smaller product may suit the cache better


@given(pp=st.sampled_from([2, 4, 8]), skipped=st.sampled_from([0.25, 0.5, 0.75]), m=st.sampled_from([4, 64]))
def test_skipped_stages_save_what_is_skipped(pp, skipped, m):
    whole, part = estimate(training_plans(pp=pp, skipped_stages=[0.0, skipped]), batch=m)["step_s"]
    visited = float(visited_stages(pp, skipped))
    assert 1 <= visited < pp
    assert part < whole
    assert part >= whole * visited / pp * 0.9  # the update, the hops and the fill shrink by less or not at all


@given(edge=st.integers(0, 3), pp=st.integers(1, 16))
def test_edges_take_layers_from_their_stages_only(edge, pp):
    sizes = [sum(stage) for stage in DENSE.stages(pp, edge)]
    assert sum(sizes) == DENSE.layers
    assert min(sizes) >= 1
    if pp > 2:
        assert max(sizes[0], sizes[-1]) <= max(sizes[1:-1])


@given(found=rows(), model=st.sampled_from([DENSE, MOE]))
def test_pointwise_recomputation_lies_between_none_and_full(found, model):
    grid = plans(
        found, recompute=[0, 3, 2], sequence_chunks=1, offload_weights=0.0, **({} if model is MOE else {"ep": 1})
    )
    one = estimate(grid, model, batch=256)
    # What comes on top may hide an exchange that was exposed before.
    assert one["step_s"][0] <= one["step_s"][1] * SLACK
    assert one["step_s"][1] <= one["step_s"][2] * SLACK
    assert one["pointwise_s"][0] < one["pointwise_s"][1]
    assert one["peak_bytes"][0] * SLACK >= one["peak_bytes"][1]
    # Of one microbatch in flight as much comes back as was given up.
    assert one["activations_bytes"][1] <= one["activations_bytes"][0] * SLACK
    assert one["hfu"][1] * one["step_s"][1] == pytest.approx(one["hfu"][0] * one["step_s"][0])


def test_latent_recomputation_gives_up_what_its_products_make_again():
    """Of DeepSeek-V3, queries, keys and values of 128 heads come from 512 and 1,536 latent numbers of each token."""
    grid = training_plans(pp=16, dp=8, ep=8, recompute=["pointwise", "latent", "full"])
    found = [estimate(grid, MOE, batch=256, seq=4096).activations(i) for i in range(3)]
    steps = estimate(grid, MOE, batch=256, seq=4096)
    name = "queries, keys and values"
    assert found[0][name] > 0
    assert name not in found[1]
    assert steps["activations_bytes"][0] > steps["activations_bytes"][1] > steps["activations_bytes"][2]
    assert steps["step_s"][0] < steps["step_s"][1] < steps["step_s"][2]
    # 61 layers of up-projections, forward once more: heads x 192 for queries, heads x 256 for keys and values.
    again = 2.0 * 61 * 128 * (1536 * 192 + 512 * 256) * 4096 * 256
    done = (steps["hfu"] - steps["mfu"]) * steps["step_s"] * 128 * steps.context["peak_flops"]
    assert done[1] == pytest.approx(again, rel=1e-6)
    plain = estimate(training_plans(dp=8, recompute=["pointwise", "latent"]))
    assert plain["step_s"][0] == plain["step_s"][1]
    assert plain["peak_bytes"][0] == plain["peak_bytes"][1]


def test_dual_pipe_hides_the_exchange_of_tokens():
    target = training_target("hgx-h800")
    grid = training_plans(pp=8, dp=64, ep=64, recompute="none", schedule=["zb-h1", "dualpipe"])
    plain, both = (estimate(grid, MOE, target, batch=4096, seq=4096, recipe="fp8").row(i) for i in range(2))
    assert both["ep_s"] < 0.1 * plain["ep_s"]
    assert both["compute_s"] > plain["compute_s"]
    assert both["step_s"] < plain["step_s"]


@pytest.mark.parametrize(
    ("knobs", "reason"),
    [
        ({"tp": 2, "tp_overlap": 1}, "set sequence_parallel=1"),
        ({"dp": 4, "shard_copies": 3, "zero": 3}, "does not divide 4"),
        ({"dp": 4, "shard_copies": 2, "zero": 0}, "nothing is sharded"),
        ({"sequence_chunks": 2}, "recompute=full"),
        ({"skipped_stages": 0.5}, "pp=1 stages"),
    ],
)
def test_plans_that_cannot_be_have_a_reason(knobs, reason):
    assert reason in estimate(training_plans(**knobs)).verdicts.reason(0)


def test_offloads_need_a_link():
    device = dataclasses.replace(H100.device, host_bandwidth=None)
    bare = dataclasses.replace(H100, system=dataclasses.replace(H100.system, device=device))
    reason = estimate(training_plans(offload_weights=0.5), target=bare).verdicts.reason(0)
    assert reason.startswith("offload_weights=0.5, and h100-sxm has no host_bandwidth")
    slow, fast = (training_target("hgx-h100", host_link=link) for link in ("pcie3", "450 GB/s"))
    grid = training_plans(offload_weights=1.0)
    assert estimate(grid, target=fast)["step_s"] < estimate(grid, target=slow)["step_s"]
