"""Laws of experts at scale: copies and places, affinity, pipelining, caches, devices with several processors."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

import perfmodel as pm
from perfmodel.costs.expert_pipelining import (
    DEGREES,
    cached_picks,
    offloaded_experts,
    pipelined_experts,
)
from perfmodel.errors import PlanError
from perfmodel.estimate.timing import time_operator
from perfmodel.hardware.device import ComputeUnit
from perfmodel.layers.operators import Attention, Experts, Gemm
from perfmodel.ranking.expert_affinity import affinity_placement, local_share
from perfmodel.ranking.expert_balance import balanced_experts, copy_experts

loads = st.lists(st.integers(0, 10_000), min_size=8, max_size=8).filter(any)
seconds = st.floats(1e-6, 1e-1)
SLACK = 1 + 1e-9


@given(load=loads, redundant=st.integers(0, 24))
def test_copies_lower_the_busiest_place(load, redundant):
    copies = copy_experts(load, 8 + redundant)
    assert copies.sum() == 8 + redundant
    assert copies.min() >= 1
    fewer = np.array(load) / copy_experts(load, 8 + max(redundant - 1, 0))
    assert (np.array(load) / copies).max() <= fewer.max()
    # Nobody could do better: one place less than the busiest needs would leave it busier.
    busiest = (np.array(load) / copies).max()
    if busiest > 0 and redundant:
        needed = np.maximum(np.ceil(np.array(load) / busiest - 1e-9), 1)
        assert needed.sum() <= 8 + redundant


@given(load=loads, ranks=st.sampled_from([1, 2, 4, 8]), copies=st.sampled_from([0, 8, 16]))
def test_placed_experts_keep_their_load_and_their_number(load, ranks, copies):
    found = balanced_experts(load, ranks, copies)
    assert found.loads.sum() == pytest.approx(sum(load))
    assert found.experts.shape == (ranks, (8 + copies) // ranks)
    assert set(found.experts.ravel()) == set(range(8))
    # No rank is busier than an even share and one more place, the bound of longest-first packing.
    largest = (np.array(load) / copy_experts(load, 8 + copies)).max()
    assert found.imbalance >= 1 - 1e-12
    if ranks == 1:
        assert found.imbalance == pytest.approx(1.0)
    assert found.loads.max() * SLACK >= max(largest, sum(load) / ranks)


@given(seed=st.integers(0, 10**6))
def test_copies_level_a_skewed_layer(seed):
    load = np.random.default_rng(seed).pareto(1.5, 256) + 0.01
    plain, levelled = (balanced_experts(load, 32, r) for r in (0, 32))
    in_order = load.reshape(32, 8).sum(axis=1)
    assert levelled.imbalance <= plain.imbalance * SLACK
    assert plain.imbalance <= in_order.max() / in_order.mean() * SLACK


@pytest.mark.parametrize(
    ("load", "ranks", "redundant"), [([1, 2, 3], 2, 0), ([0, 0], 1, 0), ([1, -1], 1, 0), ([1, 2], 1, -1), ([], 1, 0)]
)
def test_places_that_cannot_be(load, ranks, redundant):
    with pytest.raises(PlanError):
        balanced_experts(load, ranks, redundant)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), ranks=st.sampled_from([2, 4]))
def test_affinity_is_at_least_as_local_as_experts_in_order(seed, ranks):
    draw = np.random.default_rng(seed)
    routing = draw.integers(0, 50, (3, 8, 8)) ** 2
    routing[0, 0, 0] += 1
    found = affinity_placement(routing, ranks, exact=False)
    in_order = np.tile(np.repeat(np.arange(ranks), 8 // ranks), (4, 1))
    assert found.local_share == pytest.approx(local_share(routing, found.ranks))
    assert found.local_share * SLACK >= local_share(routing, in_order)
    for layer in found.ranks:
        assert np.bincount(layer, minlength=ranks).tolist() == [8 // ranks] * ranks


def test_the_integer_program_is_at_least_as_good_as_sweeps_and_finds_hidden_groups():
    draw = np.random.default_rng(7)
    hidden = np.stack([draw.permutation(np.repeat([0, 1], 4)) for _ in range(3)])
    routing = np.where(hidden[:-1, :, None] == hidden[1:, None, :], 10, 1)
    exact, swept = (affinity_placement(routing, 2, exact=e) for e in (True, False))
    assert exact.exact
    assert exact.local_share >= swept.local_share - 1e-12
    assert exact.local_share == pytest.approx(10 / 11)
    assert affinity_placement(routing, 1).local_share == 1.0
    noise = draw.integers(1, 30, (1, 4, 4))
    exact, swept = (affinity_placement(noise, 2, exact=e) for e in (True, False))
    assert exact.local_share >= swept.local_share - 1e-12


@pytest.mark.parametrize("routing", [[[1, 2], [3, 4]], [[[1, 2, 3]]], [[[0, 0], [0, 0]]], [[[1, -1], [0, 0]]]])
def test_routing_that_is_none(routing):
    with pytest.raises(PlanError):
        affinity_placement(routing, 1)


@given(compute=seconds, exchange=seconds, share=st.floats(0.0, 1.0), chunk=st.floats(0.0, 1e-3))
def test_parts_beside_each_other(compute, exchange, share, chunk):
    times = [float(pipelined_experts(compute, exchange, d, taken_share=share, chunk_s=chunk)) for d in DEGREES]
    assert times[0] == pytest.approx(compute + exchange)
    assert all(t * SLACK >= max(compute, exchange) for t in times)
    bare = [float(pipelined_experts(compute, exchange, d)) for d in DEGREES]
    assert bare == sorted(bare, reverse=True)
    assert all(a <= b * SLACK for a, b in zip(bare, times, strict=True))


@given(
    experts=st.sampled_from([8, 64, 256]),
    parts=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)),
    skew=st.sampled_from([0.0, 0.6, 1.2, 1.9]),
    nbytes=st.floats(1e6, 1e11),
)
def test_larger_caches_hit_more_and_wait_less(experts, parts, skew, nbytes):
    small, large = (float(cached_picks(c * experts, experts, topk=2, skew=skew)) for c in sorted(parts))
    assert -1e-9 <= small <= large <= 1 + 1e-9
    assert small >= min(parts) - 1e-9  # the busiest experts get more than their share
    slow, fast = (float(offloaded_experts(1e-4, nbytes, h, host_bandwidth=63e9)) for h in (small, large))
    assert fast * SLACK >= 1e-4
    assert fast <= slow * SLACK
    assert float(cached_picks(experts, experts, skew=skew)) == pytest.approx(1.0)


@given(
    tokens=st.sampled_from([1.0, 16.0, 256.0, 4096.0]),
    rate=st.floats(1e12, 1e15),
    bandwidth=st.floats(1e11, 2e13),
    factor=st.floats(1.0, 10.0),
)
def test_another_processor_never_slows_a_device(tokens, rate, bandwidth, factor):
    device, kernels = pm.target("hgx-h100").device, pm.target("hgx-h100").kernels
    ops = (
        Gemm("projection", tokens, 4096.0, 4096.0, "bf16"),
        Attention("attention", tokens, 1.0, 4096.0, 32.0, 8.0, 128.0, 128.0, 0.0, "bf16", "bf16", decode=True),
        Experts("experts", tokens, 4096.0, 14336.0, 8.0, 2.0, 1.0, 1.0, "bf16"),
        Gemm("in a format that it lacks", tokens, 4096.0, 4096.0, "fp8"),
    )

    def time(op, **changed):
        unit = ComputeUnit("near", {"bf16": rate} | changed.get("peak", {}), changed.get("bandwidth", bandwidth))
        return time_operator(op, dataclasses.replace(device, units=(unit,)), kernels)

    for op in ops:
        alone, together = time_operator(op, device, kernels), time(op)
        assert float(together.seconds) <= float(alone.seconds)
        assert float(time(op, bandwidth=bandwidth * factor).seconds) <= float(together.seconds) * SLACK
        assert float(time(op, peak={"bf16": rate * factor}).seconds) <= float(together.seconds) * SLACK
        assert max(float(together.compute_s), float(together.memory_s)) <= float(together.seconds) * SLACK
        on_unit = float(together.choice) == 1
        assert ("near" in together.source) == on_unit
    assert len(time(ops[-1]).algorithms) == 1


def test_a_placement_is_exact_only_where_that_was_proved(monkeypatch):
    routing = np.random.default_rng(3).integers(1, 30, (2, 4, 4))
    each = affinity_placement(routing, 4)
    assert each.exact
    assert each.local_share >= affinity_placement(routing, 4, exact=False).local_share
    solved = optimize.milp

    def stopped(*arguments, **options):
        found = solved(*arguments, **options)
        found.status = 1  # the time was up
        return found

    monkeypatch.setattr(optimize, "milp", stopped)
    assert not affinity_placement(routing, 2).exact
