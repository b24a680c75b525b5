"""Laws of whole estimates: broadcasting, bounds, parts, monotonicity in hardware, independence of order."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.estimate.serving.predict import predict_serving
from perfmodel.estimate.serving.steps import serving_steps
from perfmodel.estimate.serving.workload import Workload
from perfmodel.hardware.kernels import KernelTable
from perfmodel.layers.base import Shard
from perfmodel.parallel.grid import KNOBS
from perfmodel.ranking.serving import rank_serving
from perfmodel.ranking.ties import NEAR_TIE

DENSE, MOE = "meta-llama/Llama-3.1-70B-Instruct", "deepseek-ai/DeepSeek-V3"
TARGETS = {name: pm.target(name) for name in ("hgx-h100", "hgx-h200", "gb200-nvl72", "mi325x-8")}

powers = st.sampled_from([1, 2, 4, 8, 16])


@st.composite
def dense_grids(draw):
    size = draw(st.integers(1, 6))
    knobs = {k: [draw(powers) for _ in range(size)] for k in ("tp", "pp")}
    return pm.plans(**knobs, concurrency=[draw(st.integers(1, 600)) for _ in range(size)])


@st.composite
def expert_grids(draw):
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        tp, dp = draw(powers), draw(powers)
        ep = draw(st.sampled_from([d for d in (1, 2, 4, 8, 16, 32, 64, 128, 256) if tp * dp % d == 0]))
        rows.append((tp, draw(st.sampled_from([1, 2, 4])), dp, ep, draw(st.integers(1, 900))))
    tp, pp, dp, ep, concurrency = np.array(rows, dtype=float).T
    return pm.plans(tp=tp, pp=pp, dp=dp, ep=ep, moe_tp=tp * dp / ep, concurrency=concurrency)


def estimate(model, grid, target=None, isl=2000.0, osl=300.0):
    spec = pm.load_model(model)
    return predict_serving(spec, target or TARGETS["hgx-h200"], grid, Workload(isl, osl), spec.weights)


def same(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-12, equal_nan=True)


@given(grid=dense_grids())
def test_a_grid_gives_what_each_of_its_plans_gives_alone(grid):
    whole = estimate(DENSE, grid)
    for i in range(grid.size):
        alone = estimate(DENSE, grid.take([i]))
        for name, values in whole.columns.items():
            same(values[i], alone[name][0])
        assert whole.verdicts.reason(i) == alone.verdicts.reason(0)


@given(grid=expert_grids())
def test_the_same_holds_for_experts(grid):
    whole = estimate(MOE, grid)
    for i in range(grid.size):
        alone = estimate(MOE, grid.take([i]))
        for name in ("ttft_s", "tpot_s", "memory_bytes", "decode_s", "prefill_s", "decode_lower_s"):
            same(whole[name][i], alone[name][0])


@given(grid=expert_grids(), system=st.sampled_from(sorted(TARGETS)))
def test_parts_add_up_and_bounds_hold(grid, system):
    e = estimate(MOE, grid, TARGETS[system])
    for phase in ("decode", "prefill"):
        parts = sum(e[f"{phase}_{part}_s"] for part in ("compute", "memory", "network", "latency", "host"))
        same(parts, e[f"{phase}_s"])
        assert np.all(e[f"{phase}_lower_s"] <= e[f"{phase}_s"] * (1 + 1e-12))
        assert np.all(e[f"{phase}_s"] <= e[f"{phase}_upper_s"] * (1 + 1e-12))
    memory = ("weights_bytes", "cache_bytes", "activation_bytes", "buffer_bytes", "framework_bytes")
    same(sum(e[name] for name in memory), e["memory_bytes"])


@given(grid=dense_grids(), order=st.randoms(use_true_random=False))
def test_permuting_plans_permutes_results(grid, order):
    index = list(range(grid.size))
    order.shuffle(index)
    straight, shuffled = estimate(DENSE, grid), estimate(DENSE, grid.take(index))
    for name, values in straight.columns.items():
        same(values[index], shuffled[name])


def faster(target, **factors):
    """The same machine with some rates multiplied, and everything known about its kernels kept."""
    device = dataclasses.replace(
        target.device,
        memory_bandwidth=target.device.memory_bandwidth * factors.get("memory", 1.0),
        peak_flops={k: v * factors.get("peak", 1.0) for k, v in target.device.peak_flops.items()},
        memory_bytes=target.device.memory_bytes * factors.get("capacity", 1.0),
    )
    tiers = tuple(
        dataclasses.replace(
            tier,
            bandwidth=tier.bandwidth * factors.get("network", 1.0),
            link_bandwidth=tier.link_bandwidth and tier.link_bandwidth * factors.get("network", 1.0),
        )
        for tier in target.system.tiers
    )
    return dataclasses.replace(target, system=dataclasses.replace(target.system, device=device, tiers=tiers))


@given(
    grid=expert_grids(),
    system=st.sampled_from(sorted(TARGETS)),
    rate=st.sampled_from(["memory", "peak", "network"]),
    factor=st.floats(1.0, 4.0),
)
def test_faster_hardware_is_never_slower(grid, system, rate, factor):
    before = estimate(MOE, grid, TARGETS[system])
    after = estimate(MOE, grid, faster(TARGETS[system], **{rate: factor}))
    for name in ("decode_s", "prefill_s"):
        assert np.all(after[name] <= before[name] * (1 + 1e-9)), name


@given(grid=dense_grids(), factor=st.floats(1.0, 3.0))
def test_more_memory_never_shrinks_the_feasible_set(grid, factor):
    before = estimate(DENSE, grid, TARGETS["hgx-h100"])
    after = estimate(DENSE, grid, faster(TARGETS["hgx-h100"], capacity=factor))
    assert not np.any(before.feasible & ~after.feasible)


@given(concurrency=st.integers(1, 500), more=st.integers(1, 500))
def test_more_requests_take_longer_steps_and_more_memory(concurrency, more):
    e = estimate(DENSE, pm.plans(tp=8, concurrency=[concurrency, concurrency + more]))
    # Tiles and waves may make a slightly larger batch cheaper; totals follow the work.
    assert e["decode_s"][1] >= 0.97 * e["decode_s"][0]
    assert e["cache_bytes"][1] > e["cache_bytes"][0]


@pytest.mark.parametrize("system", sorted(TARGETS))
def test_without_calibrations_the_datasheet_still_answers(system):
    target = dataclasses.replace(TARGETS[system], kernels=KernelTable())
    e = estimate(DENSE, pm.plans(tp=8, concurrency=16), target)
    assert np.isfinite(e["tpot_s"][0])
    assert e["decode_measured_share"][0] == 0.0


@pytest.mark.parametrize("model", [DENSE, MOE])
def test_ranking_does_not_depend_on_the_enumeration(model, monkeypatch):
    import perfmodel.ranking.serving as module

    spec = pm.load_model(model)
    straight = rank_serving(spec, TARGETS["hgx-h200"], 16, Workload(2000.0, 300.0), spec.weights)
    original = module.serving_splits

    def reversed_splits(*args, **kwargs):
        grid = original(*args, **kwargs)
        return grid.take(np.arange(grid.size)[::-1])

    monkeypatch.setattr(module, "serving_splits", reversed_splits)
    backward = rank_serving(spec, TARGETS["hgx-h200"], 16, Workload(2000.0, 300.0), spec.weights)
    assert len(straight) == len(backward)
    for i in range(1, len(straight) + 1):
        assert {k: straight.row(i)[k] for k in KNOBS} == {k: backward.row(i)[k] for k in KNOBS}


def test_ranked_plans_are_sorted_feasible_and_within_limits():
    spec = pm.load_model(DENSE)
    limits = pm.Limits(ttft_s=2.0, tpot_s=0.05)
    ranking = rank_serving(spec, TARGETS["hgx-h100"], 16, Workload(4000.0, 1000.0), spec.weights, limits)
    rows = [ranking.row(i) for i in range(1, len(ranking) + 1)]
    rates = [row["tokens_per_s_per_gpu"] for row in rows]
    # Sorted, but for near-ties, where fewer pipeline stages come first.
    assert all(rate >= (1 - NEAR_TIE) * max(rates[i:]) for i, rate in enumerate(rates))
    swapped = [(a, b) for a, b in itertools.pairwise(rows) if a["tokens_per_s_per_gpu"] < b["tokens_per_s_per_gpu"]]
    assert all(a["pp"] < b["pp"] for a, b in swapped)
    assert all(r["feasible"] and r["ttft_s"] <= 2.0 and r["tpot_s"] <= 0.05 for r in rows)
    assert all(r["replicas"] * r["tp"] * r["pp"] * r["dp"] * r["cp"] == 16 for r in rows)
    assert sum(ranking.infeasible.values()) == int((~ranking.estimate.feasible).sum())


def test_each_split_is_shown_at_its_best_concurrency():
    spec = pm.load_model(DENSE)
    ranking = rank_serving(spec, TARGETS["hgx-h100"], 8, Workload(1000.0, 200.0), spec.weights)
    e = ranking.estimate
    for i in range(1, len(ranking) + 1):
        row = ranking.row(i)
        same_split = np.all([e.grid.column(k) == row[k] for k in KNOBS if k != "concurrency"], axis=0)
        best = np.nanmax(np.where(same_split & e.feasible, e["tokens_per_s_per_gpu"], np.nan))
        assert row["tokens_per_s_per_gpu"] == best


@given(tp=powers)
def test_all_ones_is_the_single_device_model(tp):
    spec = pm.load_model("meta-llama/Llama-3.1-8B-Instruct")
    workload = Workload(500.0, 100.0)
    one = serving_steps(spec, TARGETS["hgx-h100"], pm.plans(), workload, spec.weights)
    shard = Shard()
    same(one.footprint.weights, spec.weight_bytes(shard, spec.weights))
    # Half of the output is there on average.
    same(one.footprint.cache, spec.cache_bytes(550.0, shard, spec.weights))
    many = serving_steps(spec, TARGETS["hgx-h100"], pm.plans(tp=tp), workload, spec.weights)
    assert many.footprint.weights * tp >= one.footprint.weights * (1 - 1e-12)
