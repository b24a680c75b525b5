"""Laws of training estimates: broadcasting, parts, monotonicity, single device, recomputation, order."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.costs.reliability import checkpoint_interval, elastic_goodput, goodput
from perfmodel.costs.training import layer_activation_bytes
from perfmodel.costs.training_kernels import launched_time, pointwise_time
from perfmodel.costs.training_schedules import SCHEDULES, microbatches_in_flight, schedule_bubble
from perfmodel.estimate.training.memory import MEMORY_PARTS
from perfmodel.estimate.training.pipeline import STEP_PARTS
from perfmodel.estimate.training.predict import predict_training
from perfmodel.estimate.training.target import training_target
from perfmodel.estimate.training.workload import TrainingWorkload
from perfmodel.hardware.kernels import KernelTable
from perfmodel.layers.training_recipe import get_recipe
from perfmodel.models.catalog import load_model
from perfmodel.models.inline import inline_model
from perfmodel.parallel.training_grid import TRAINING_KNOBS, TrainingGrid, training_plans
from perfmodel.ranking.training import rank_training

DENSE = load_model("meta-llama/Llama-3.1-8B-Instruct")
MOE = load_model("deepseek-ai/DeepSeek-V3")
GPT = inline_model({"hidden": 2048, "layers": 24, "heads": 16, "ffn": 8192, "vocab": 51200, "positions": 2048})
TARGETS = {
    name: training_target(system, name)
    for name, system in (
        ("neutral", "hgx-h100"),
        ("megatron-2021", "hgx-a100"),
        ("megatron-deepspeed-2022", "hgx-a100"),
        ("megatron-bridge-2025", "gb200-nvl72"),
    )
}
small = st.sampled_from([1, 2, 4, 8])


@st.composite
def grids(draw, experts=False):
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        tp, pp, dp, cp = draw(small), draw(small), draw(small), draw(st.sampled_from([1, 2]))
        groups = [d for d in (1, 2, 4, 8, 16, 32) if (tp * dp * cp) % d == 0]
        rows.append(
            {
                "tp": tp,
                "pp": pp,
                "dp": dp,
                "cp": cp,
                "ep": draw(st.sampled_from(groups)) if experts else 1,
                "vp": draw(st.sampled_from([1, 2])) if pp > 1 else 1,
                "micro_batch": draw(st.sampled_from([1, 2, 4])),
                "sequence_parallel": draw(st.integers(0, 1)),
                "recompute": draw(st.integers(0, 2)),
                "zero": draw(st.integers(0, 3)),
                "grad_overlap": draw(st.integers(0, 1)),
                "schedule": draw(st.integers(0, len(SCHEDULES) - 1)),
                "recompute_share": draw(st.sampled_from([0.25, 1.0])),
                "offload_activations": draw(st.sampled_from([0.0, 0.0, 0.5])),
            }
        )
    return training_plans(**{name: [row[name] for row in rows] for name in rows[0]})


def estimate(model, grid, target=None, batch=64, seq=2048, recipe="bf16"):
    return predict_training(model, target or TARGETS["neutral"], grid, TrainingWorkload(seq, batch), get_recipe(recipe))


@given(grid=grids(), stack=st.sampled_from(sorted(TARGETS)))
def test_a_grid_gives_what_each_of_its_plans_gives_alone(grid, stack):
    whole = estimate(DENSE, grid, TARGETS[stack])
    for i in range(grid.size):
        alone = estimate(DENSE, grid.take([i]), TARGETS[stack])
        for name, values in whole.columns.items():
            np.testing.assert_allclose(values[i], alone[name][0], rtol=1e-12)
        assert whole.verdicts.reason(i) == alone.verdicts.reason(0)
        assert whole.activations(i) == pytest.approx(alone.activations(0))


@given(grid=grids(experts=True))
def test_experts_broadcast_too(grid):
    whole = estimate(MOE, grid, recipe="fp8")
    alone = estimate(MOE, grid.take([grid.size - 1]), recipe="fp8")
    np.testing.assert_allclose(whole["step_s"][-1], alone["step_s"][0], rtol=1e-12)
    np.testing.assert_allclose(whole["peak_bytes"][-1], alone["peak_bytes"][0], rtol=1e-12)


def test_an_open_mesh_is_the_same_as_a_list():
    mesh = training_plans(tp=[[1], [2]], micro_batch=[1, 2, 4], recompute=[["none"], ["full"]])
    flat = training_plans(**{name: mesh.column(name) for name in TRAINING_KNOBS})
    np.testing.assert_allclose(estimate(DENSE, mesh)["step_s"], estimate(DENSE, flat)["step_s"], rtol=1e-12)


@given(grid=grids(experts=True), model=st.sampled_from([DENSE, GPT, MOE]))
def test_totals_are_the_sum_of_their_parts(grid, model):
    grid = grid if model is MOE else dataclasses.replace(grid, ep=np.ones_like(grid.ep))
    found = estimate(model, grid, TARGETS["megatron-2021" if model is GPT else "neutral"])
    np.testing.assert_allclose(sum(found[f"{name}_s"] for name in STEP_PARTS), found["step_s"], rtol=1e-12)
    np.testing.assert_allclose(sum(found[f"{name}_bytes"] for name in MEMORY_PARTS), found["peak_bytes"], rtol=1e-12)
    for name in STEP_PARTS:
        assert np.all(found[f"{name}_s"] >= 0), name
    for i in range(len(found)):
        assert sum(found.activations(i).values()) == pytest.approx(found["activations_bytes"][i])


@given(grid=grids(), factor=st.sampled_from([1.5, 3.0]))
def test_faster_hardware_is_never_slower(grid, factor):
    target = TARGETS["neutral"]
    device = target.device
    faster = dataclasses.replace(
        device,
        peak_flops={name: factor * rate for name, rate in device.peak_flops.items()},
        memory_bandwidth=factor * device.memory_bandwidth,
    )
    tiers = tuple(dataclasses.replace(t, bandwidth=factor * t.bandwidth) for t in target.system.tiers)
    better = dataclasses.replace(target, system=dataclasses.replace(target.system, device=faster, tiers=tiers))
    assert np.all(estimate(DENSE, grid, better)["step_s"] <= estimate(DENSE, grid, target)["step_s"] * (1 + 1e-12))


@given(grid=grids(), model=st.sampled_from([DENSE, GPT]), stack=st.sampled_from(sorted(TARGETS)))
def test_more_recomputation_never_takes_more_memory_or_less_time(grid, model, stack):
    # Recomputed layers have less to offload: the law is about plans that offload nothing.
    grid = dataclasses.replace(grid, recompute_share=np.ones_like(grid.tp), offload_activations=np.zeros_like(grid.tp))
    modes = [dataclasses.replace(grid, recompute=np.full_like(grid.recompute, i)) for i in range(3)]
    none, selective, full = (estimate(model, g, TARGETS[stack]) for g in modes)
    slack = 1 + 1e-12
    assert np.all(selective["peak_bytes"] <= none["peak_bytes"] * slack)
    assert np.all(full["peak_bytes"] <= none["peak_bytes"] * slack)
    assert np.all(none["step_s"] <= selective["step_s"] * slack)
    assert np.all(selective["step_s"] <= full["step_s"] * slack)
    assert np.all(full["hfu"] * full["step_s"] >= none["hfu"] * none["step_s"])


@given(grid=grids(), share=st.sampled_from([0.25, 0.5, 0.75]))
def test_recomputing_some_layers_lies_between_none_and_all(grid, share):
    grid = dataclasses.replace(grid, offload_activations=np.zeros_like(grid.tp))
    full = dataclasses.replace(grid, recompute=np.full_like(grid.recompute, 2))
    ends = [
        estimate(DENSE, dataclasses.replace(full, recompute_share=np.full_like(grid.tp, s))) for s in (0.0, share, 1.0)
    ]
    assert np.all(np.diff([e["step_s"] for e in ends], axis=0) >= -1e-12)
    none = estimate(DENSE, dataclasses.replace(grid, recompute=np.zeros_like(grid.recompute)))
    np.testing.assert_allclose(ends[0]["step_s"], none["step_s"], rtol=1e-12)
    np.testing.assert_allclose(ends[0]["peak_bytes"], none["peak_bytes"], rtol=1e-12)
    assert np.all(np.diff([e["peak_bytes"] for e in ends], axis=0) <= 1e-6)


@given(grid=grids(), share=st.sampled_from([0.25, 0.5, 1.0]))
def test_offloaded_activations_cost_time_and_save_memory(grid, share):
    kept = estimate(DENSE, dataclasses.replace(grid, offload_activations=np.zeros_like(grid.tp)))
    moved = estimate(DENSE, dataclasses.replace(grid, offload_activations=np.full_like(grid.tp, share)))
    assert np.all(moved["peak_bytes"] <= kept["peak_bytes"] * (1 + 1e-12))
    assert np.all(moved["step_s"] >= kept["step_s"] * (1 - 1e-12))


@given(grid=grids(), lower=st.integers(0, 2))
def test_a_higher_zero_stage_never_takes_more_states(grid, lower):
    def states(stage):
        found = estimate(DENSE, dataclasses.replace(grid, zero=np.full_like(grid.zero, stage)))
        return sum(found[f"{name}_bytes"] for name in ("weights", "gradients", "optimizer"))

    assert np.all(states(lower + 1) <= states(lower) * (1 + 1e-12))


@given(grid=grids())
def test_sequence_parallelism_never_takes_more_memory(grid):
    without = estimate(DENSE, dataclasses.replace(grid, sequence_parallel=np.zeros_like(grid.tp)))
    with_it = estimate(DENSE, dataclasses.replace(grid, sequence_parallel=np.ones_like(grid.tp)))
    assert np.all(with_it["peak_bytes"] <= without["peak_bytes"] * (1 + 1e-12))


@given(seq=st.sampled_from([1024, 4096, 16384]), batch=st.sampled_from([8, 16, 64]))
def test_more_work_takes_longer(seq, batch):
    grid = training_plans(tp=[1, 2], pp=[1, 2], dp=2)
    once = estimate(DENSE, grid, batch=batch, seq=seq)["step_s"]
    assert np.all(estimate(DENSE, grid, batch=2 * batch, seq=seq)["step_s"] > once)
    assert np.all(estimate(DENSE, grid, batch=batch, seq=2 * seq)["step_s"] > once)


def test_a_single_device_neither_communicates_nor_waits():
    found = estimate(DENSE, training_plans(micro_batch=[1, 2, 4]), batch=8)
    for name in ("tp", "cp", "ep", "pp", "bubble", "dp"):
        assert np.all(found[f"{name}_s"] == 0), name


@given(zero=st.integers(0, 3), parallel=st.booleans())
def test_knobs_without_a_group_change_nothing(zero, parallel):
    plain = estimate(DENSE, training_plans(), batch=8)
    other = estimate(DENSE, training_plans(zero=zero, sequence_parallel=float(parallel), grad_overlap=1.0), batch=8)
    for name in ("step_s", *(f"{part}_bytes" for part in ("weights", "gradients", "optimizer", "activations"))):
        np.testing.assert_allclose(plain[name], other[name], rtol=1e-12)


def test_no_step_is_faster_than_its_operations_at_peak():
    found = estimate(DENSE, training_plans(tp=[1, 2, 4, 8], micro_batch=[[1], [4]]), batch=8)
    assert np.all(found["hfu"] < 1.0)


def test_ranking_does_not_depend_on_the_order_of_plans():
    target, recipe = TARGETS["neutral"], get_recipe("bf16")
    ranking = rank_training(DENSE, target, 8, TrainingWorkload(4096, 32), recipe)
    grid = ranking.estimate.grid
    shuffled = np.random.default_rng(0).permutation(grid.size)
    again = estimate(DENSE, grid.take(shuffled), batch=32, seq=4096)
    best = again.grid.row(int(np.argmin(np.where(again.feasible, again["step_s"], np.inf))))
    assert best == grid.row(int(ranking.order[0]))
    assert np.all(np.diff(ranking.estimate["step_s"][ranking.order]) >= -1e-9)
    assert not np.any(~ranking.estimate.feasible[ranking.order])


def test_more_memory_never_shrinks_the_feasible_set():
    target = TARGETS["neutral"]
    device = dataclasses.replace(target.device, memory_bytes=2 * target.device.memory_bytes)
    larger = dataclasses.replace(target, system=dataclasses.replace(target.system, device=device))
    grid = training_plans(tp=[1, 2, 4, 8], recompute=[["none"], ["full"]], micro_batch=4)
    assert np.all(estimate(DENSE, grid, larger).feasible >= estimate(DENSE, grid, target).feasible)


def test_every_stack_works_without_any_calibration():
    bare = dataclasses.replace(TARGETS["neutral"], kernels=KernelTable())
    found = estimate(MOE, training_plans(tp=1, pp=8, dp=8, ep=8), bare)
    assert np.all(np.isfinite(found["step_s"]))
    assert np.all(found["step_s"] > 0)


@given(
    stages=st.integers(1, 64),
    chunks=st.integers(1, 8),
    forward=st.floats(0.1, 5.0),
    ratio=st.floats(1.0, 3.0),
    schedule=st.integers(0, len(SCHEDULES) - 1),
)
def test_bubbles(stages, chunks, forward, ratio, schedule):
    backward, weight = ratio * forward, 0.5 * ratio * forward
    idle = schedule_bubble(stages, forward, backward, weight, chunks, schedule=schedule)
    assert idle >= 0
    assert idle <= schedule_bubble(stages, forward, backward, weight) * (1 + 1e-12)
    assert schedule_bubble(1, forward, backward, weight, chunks, schedule=schedule) == 0


@given(stages=st.integers(1, 64), microbatches=st.integers(1, 512), chunks=st.integers(1, 8), code=st.integers(0, 4))
def test_microbatches_in_flight(stages, microbatches, chunks, code):
    kept = microbatches_in_flight(stages, np.arange(stages), microbatches, chunks, schedule=code)
    assert np.all(kept <= microbatches)
    assert np.all(np.diff(kept) <= 0)  # no later stage keeps more
    assert np.all(kept >= min(1.0 / chunks, microbatches))


@given(
    device=st.floats(0, 1.0),
    kernels=st.floats(0, 1e4),
    host=st.floats(0, 1e-4),
    blend=st.floats(1.0, 64.0),
)
def test_launched_time_lies_between_the_longer_and_the_sum(device, kernels, host, blend):
    found = launched_time(device, kernels, host_kernel_s=host, blend=blend)
    assert max(device, kernels * host) <= found * (1 + 1e-9)
    assert found <= (device + kernels * host) * (1 + 1e-9)


@given(nbytes=st.floats(0, 1e12), factor=st.floats(1.0, 10.0))
def test_passes_are_scale_invariant(nbytes, factor):
    once = pointwise_time(nbytes, memory_bandwidth=2e12, launch_s=0.0)
    assert pointwise_time(nbytes * factor, memory_bandwidth=2e12 * factor, launch_s=0.0) == pytest.approx(once)


@given(tp=small, mode=st.sampled_from(["none", "selective", "full"]))
def test_tensor_parallelism_never_adds_activations(tp, mode):
    one = layer_activation_bytes(1, 2048, 4096, 32, 1, recompute=mode)
    assert layer_activation_bytes(1, 2048, 4096, 32, tp, recompute=mode) <= one
    assert layer_activation_bytes(1, 2048, 4096, 32, tp, sequence_parallel=True, recompute=mode) <= one


def test_grid_is_a_structure_of_arrays():
    grid = training_plans(tp=[1, 2])
    assert isinstance(grid, TrainingGrid)
    assert grid.pp.shape == ()


@given(cost=st.floats(0.1, 1e4), mean=st.floats(1e2, 1e6), restart=st.floats(0, 1e3), factor=st.floats(0.2, 5.0))
def test_the_checkpoint_interval_is_the_best_one(cost, mean, restart, factor):
    best = checkpoint_interval(cost, mean)
    found = goodput(best, cost, restart, mean)
    assert 0 < found <= 1
    assert goodput(factor * best, cost, restart, mean) <= found * 1.02
    assert goodput(best, cost, restart, 2 * mean) >= found * (1 - 1e-9)


@given(step=st.floats(0.1, 1e3), wait=st.floats(0, 1e4), mean=st.floats(1e3, 1e7), lost=st.floats(0, 1.0))
def test_elastic_goodput(step, wait, mean, lost):
    found = elastic_goodput(step, wait, wait, mean, lost)
    assert 0 <= found <= 1
    assert elastic_goodput(step, wait, wait, 2 * mean, lost) >= found
    assert elastic_goodput(step, wait, 2 * wait, mean, lost) <= found
    assert elastic_goodput(step, wait, wait, mean, 0.5 * lost) >= found
