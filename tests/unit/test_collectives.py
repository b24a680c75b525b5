"""Collectives: worked numbers, identities between forms, tiers and topologies."""

import numpy as np
import pandas as pd
import pytest

from perfmodel.calibrate.collective_cases import collective_candidates, collective_sizes, deepep_sizes
from perfmodel.costs.all_to_all_tiers import flat_all_to_all, two_level_all_to_all
from perfmodel.costs.collective_bounds import collective_bound, collective_traffic, effective_bandwidth
from perfmodel.costs.collective_kernels import custom_all_reduce, nccl_collective
from perfmodel.costs.collective_tiers import (
    hierarchical_all_gather,
    hierarchical_all_reduce,
    hierarchical_reduce_scatter,
)
from perfmodel.costs.collectives import (
    in_switch_all_reduce,
    pairwise_all_to_all,
    point_to_point,
    ring_all_gather,
    ring_all_reduce,
    ring_reduce_scatter,
    tree_all_reduce,
)
from perfmodel.costs.expert_exchange import deepep_low_latency, deepep_normal
from perfmodel.costs.expert_traffic import ranks_reached
from perfmodel.costs.flat_collectives import flat_ring
from perfmodel.costs.registry import get_formula
from perfmodel.errors import UnknownNameError
from perfmodel.estimate.links import links_of_group
from perfmodel.hardware.catalog import load_system
from perfmodel.parallel.groups import RankGroup

LINK = {"bandwidth": 100e9, "latency": 2e-6}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (ring_all_gather, 3 * 2e-6 + 3 / 4 * 1e-3),
        (ring_reduce_scatter, 3 * 2e-6 + 3 / 4 * 1e-3),
        (pairwise_all_to_all, 3 * 2e-6 + 3 / 4 * 1e-3),
        (ring_all_reduce, 6 * 2e-6 + 6 / 4 * 1e-3),
        (tree_all_reduce, 4 * 2e-6 + 2e-3),
        (in_switch_all_reduce, 2 * 2e-6 + 5 / 4 * 1e-3),
    ],
)
def test_worked_number_on_four_ranks(form, expected):
    assert form(100e6, 4, **LINK) == pytest.approx(expected, rel=1e-12)


def test_point_to_point_is_latency_plus_transfer():
    assert point_to_point(100e6, **LINK) == pytest.approx(1.002e-3)


def test_scalars_in_scalars_out():
    for value in (ring_all_reduce(1e6, 8, **LINK), nccl_collective(1e6, 8, bandwidth=450e9)):
        assert np.ndim(value) == 0


def test_switch_reduction_beats_the_ring_from_three_ranks_on():
    ranks = np.array([2, 3, 4, 8, 72])
    ring = ring_all_reduce(1e9, ranks, bandwidth=1e11)
    switch = in_switch_all_reduce(1e9, ranks, bandwidth=1e11)
    assert (switch[1:] <= ring[1:] * (1 + 1e-12)).all()
    assert switch[0] > ring[0]
    assert (switch >= collective_bound(1e9, ranks, bandwidth=1e11)).all()


def test_bound_and_traffic_agree_without_reduction_in_the_switch():
    for op in ("all_gather", "reduce_scatter", "all_to_all"):
        assert collective_bound(8e9, 8, bandwidth=1e9, op=op) == collective_traffic(8e9, 8, op=op) / 1e9


@pytest.mark.parametrize(
    "form", [hierarchical_all_reduce, hierarchical_all_gather, flat_all_to_all, two_level_all_to_all]
)
def test_one_tier_is_the_ring(form):
    flat = {
        hierarchical_all_reduce: ring_all_reduce,
        hierarchical_all_gather: ring_all_gather,
        flat_all_to_all: pairwise_all_to_all,
        two_level_all_to_all: pairwise_all_to_all,
    }[form]
    tiers = form(1e8, [8, 1], bandwidths=[1e11, 1e10], latencies=[2e-6, 9e-6])
    assert tiers == pytest.approx(flat(1e8, 8, **LINK), rel=1e-12)


def test_equal_tiers_move_the_bytes_of_one_ring():
    tiers = hierarchical_reduce_scatter(1e9, [4, 2, 3], bandwidths=[1e11] * 3, latencies=[0.0] * 3)
    assert tiers == pytest.approx(ring_reduce_scatter(1e9, 24, bandwidth=1e11), rel=1e-12)


def test_all_to_all_over_nodes_is_bound_by_the_network():
    # 8 nodes of 8: 56/64 of the buffer leaves over 50 GB/s, 7/64 stays inside at 450 GB/s.
    far = {"bandwidths": [450e9, 50e9], "latencies": [1e-6, 5e-6]}
    t = flat_all_to_all(64e6, [8, 8], **far)
    assert t == pytest.approx(56e6 / 50e9 + 7e-6 + 56 * 5e-6, rel=1e-12)
    # Gathered first: seven messages to the network, but everything crosses the links before.
    t = two_level_all_to_all(64e6, [8, 8], **far)
    assert t == pytest.approx(56e6 / 50e9 + 7e-6 + 35e-6 + 56e6 / 450e9, rel=1e-12)


def test_the_emptiest_unit_carries_what_leaves_it():
    # Twelve ranks on nodes of eight: the four on the second node have half of the links of the eight on the first.
    far = {"bandwidths": [450e9, 50e9], "latencies": [0.0, 0.0]}
    full = hierarchical_all_reduce(64e6, [1, 2], **far, carriers=[8, 12])
    assert hierarchical_all_reduce(64e6, [1, 2], **far, carriers=[4, 12]) == pytest.approx(2 * full, rel=1e-12)
    assert flat_ring(64e6, [8, 2], 2, **far, carriers=[4, 12]) == pytest.approx(
        2 * flat_ring(64e6, [8, 2], 2, **far, carriers=[8, 16]), rel=1e-12
    )
    leaving = flat_all_to_all(64e6, [8, 2], **far, carriers=[4, 12], ranks=12)
    assert leaving == pytest.approx(64e6 * 8 / 12 / 50e9, rel=1e-12)


def test_tiers_broadcast_over_plans():
    inner, outer = np.array([1, 2, 4, 8]), np.array([8, 4, 2, 1])
    together = hierarchical_all_reduce(1e8, [inner, outer], bandwidths=[4e11, 5e10], latencies=[1e-6, 5e-6])
    apart = [
        hierarchical_all_reduce(1e8, [i, o], bandwidths=[4e11, 5e10], latencies=[1e-6, 5e-6])
        for i, o in zip(inner, outer, strict=True)
    ]
    assert together.tolist() == apart
    assert (np.diff(together) < 0).all()


def test_mesh_members_see_the_links_between_them():
    seen = effective_bandwidth("mesh", np.array([1, 2, 4, 8, 16]), 8, 448e9)
    assert seen.tolist() == [64e9, 64e9, 192e9, 448e9, 448e9]


def test_torus_axes():
    seen = effective_bandwidth("torus3d", np.array([2, 4, 5, 16, 17, 64]), 64, 600e9)
    assert seen == pytest.approx([200e9, 200e9, 400e9, 400e9, 600e9, 600e9])
    assert effective_bandwidth("torus2d", 8, 64, 400e9) == pytest.approx(200e9)
    assert effective_bandwidth("switch", 3, 8, 400e9) == 400e9


def test_all_to_all_on_rings_and_tori():
    # Sixteen on a closed ring with links of 45 GB/s: a byte that leaves takes a quarter of the ring, 64/15 hops.
    ring = effective_bandwidth("ring", 16, 16, 90e9, pattern="all_to_all")
    assert ring == pytest.approx(90e9 * 15 / 64)
    # How to Scale Your Model (collectives): an all-to-all of V bytes in all takes V / (4 W) on a ring of any size.
    assert 1e9 / 16 * 15 / 16 / ring == pytest.approx(1e9 / (4 * 90e9))
    torus = effective_bandwidth("torus3d", 4096, 4096, 600e9, pattern="all_to_all")
    assert torus == pytest.approx(600e9 / (3 * 16 / 4 * 4096 / 4095))
    patterns = [
        float(effective_bandwidth("torus2d", 256, 256, 180e9, pattern=p)) for p in ("ring", "all_to_all", "pair")
    ]
    assert patterns == pytest.approx([180e9, 180e9 / 8 * 255 / 256, 45e9])


def test_dragonfly_routes_neighbours_by_detours():
    assert effective_bandwidth("dragonfly", 64, 1024, 25e9) == pytest.approx(12.5e9)
    assert effective_bandwidth("dragonfly", 64, 1024, 25e9, pattern="all_to_all") == pytest.approx(25e9)
    assert effective_bandwidth("mesh", 8, 8, 448e9, pattern="pair") == pytest.approx(64e9)


def test_protocol_switch_is_a_step_at_the_documented_buffer():
    sharp = {"bandwidth": 900e9, "switch_bytes": 2.8e6, "sharpness": 8.0, "step_s": 2e-5}
    below, above = nccl_collective(np.array([2e6, 4e6]), 2, **sharp)
    assert above - below > 0.8 * 2e-5


def test_slices_of_equal_size_switch_together():
    sharp = {"bandwidth": 900e9, "sharpness": 8.0, "step_s": 1e-3, "step_scaling": 0.0, "switch_scaling": 1.0}
    times = nccl_collective(np.array([2e6, 4e6, 8e6]), np.array([2, 4, 8]), **sharp)
    assert (np.abs(times - 5e-4) < 1e-4).all()


def test_host_path_is_shared_outside_the_domain():
    bus = {"bandwidth": 31e9, "scaling": -2.3, "domain": 2.0, "op": "all_gather"}
    two, four, eight = (float(nccl_collective(1e9 * n / (n - 1), n, **bus)) for n in (2, 4, 8))
    assert four / two == pytest.approx(2**2.3, rel=0.01)
    assert eight / four == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize(("fallback", "limits"), [("flat", (8, 8, 8)), ("pair", (8, 4, 4)), ("inverse", (8, 4, 2))])
def test_fallback_threshold_follows_its_attribute(fallback, limits):
    numbers = {"bandwidth": 450e9, "fallback": fallback, "fallback_bytes": 8e6, "library_s": 1e-3}
    for ranks, limit in zip((2, 4, 8), limits, strict=True):
        below, above = custom_all_reduce(np.array([0.99e6, 1.01e6]) * limit, ranks, **numbers)
        assert below < 1e-3 < above


def test_one_shot_for_small_two_shot_for_large():
    numbers = {"bandwidth": 450e9, "floor_s": 3e-6, "peer_s": 0.0, "efficiency": 0.5, "two_shot_s": 2e-6}
    small, large = custom_all_reduce(np.array([1e4, 4e6]), 8, **numbers)
    assert small == pytest.approx(3e-6 + 7 * 1e4 / 225e9, rel=1e-12)
    assert large == pytest.approx(5e-6 + 1.75 * 4e6 / 225e9, rel=1e-12)


def test_ranks_reached_against_enumeration():
    # Two of eight experts, one per rank: always two ranks. One expert: always one rank.
    assert ranks_reached(2, 8, 8) == pytest.approx(2.0, abs=0.01)
    assert ranks_reached(1, 64, 8) == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    drawn = [len(set(rng.choice(256, 8, replace=False) // 32)) for _ in range(4000)]
    assert ranks_reached(8, 256, 8) == pytest.approx(np.mean(drawn), rel=0.01)


def test_expert_exchange_is_limited_by_its_sms_and_then_by_the_link():
    few, many = (float(deepep_normal(65536, 7168, 8, 256, 8, s, bandwidth=450e9)) for s in (4, 8))
    assert few / many == pytest.approx(2.0, rel=0.05)
    far, farther = (float(deepep_normal(65536, 7168, 8, 256, 8, s, bandwidth=50e9)) for s in (48, 64))
    assert far / farther == pytest.approx(1.0, rel=0.02)


def test_few_experts_leave_sms_idle_in_low_latency_mode():
    numbers = {"bandwidth": 900e9, "cores": 148}
    assert deepep_low_latency(1024, 4096, 2, 8, 8, **numbers) > 2 * deepep_low_latency(1024, 4096, 2, 128, 8, **numbers)


def test_case_columns():
    frame = pd.DataFrame({"nbytes": [1, 2], "ranks": [2, 8]})
    assert collective_sizes(frame)["ranks"].dtype == np.float64
    row = {"hidden": 7168, "tokens": 16, "topk": 8, "experts": 256, "sms": 24, "nodes": 1}
    normal = pd.DataFrame([row | {"mode": "normal", "hardware": h} for h in ("h100-sxm", "gb200")])
    assert deepep_sizes(normal)["ranks"].tolist() == [8.0, 4.0]
    assert deepep_sizes(normal)["sms"].tolist() == [24.0, 24.0]
    assert deepep_sizes(normal.assign(gpus_per_node=[4, np.nan]))["ranks"].tolist() == [4.0, 4.0]


@pytest.mark.parametrize("name", ["nccl_collective", "custom_all_reduce"])
def test_candidates_use_registered_attributes(name):
    form = get_formula(name)
    allowed = set(form.attributes) | {c.name for c in form.coefficients}
    for candidate in collective_candidates(name, shared_bus=True):
        assert set(candidate) <= allowed
        for key, value in candidate.items():
            assert key not in form.attributes or value in form.attributes[key]


@pytest.mark.parametrize("name", ["nccl_collective", "custom_all_reduce", "deepep_normal", "deepep_low_latency"])
def test_at_most_eight_coefficients_with_defaults_of_the_signature(name):
    form = get_formula(name)
    assert len(form.coefficients) <= 8
    defaults = form.function.__kwdefaults__
    for c in form.coefficients:
        assert c.low <= c.default <= c.high
        assert defaults[c.name] == c.default


@pytest.mark.parametrize("names", [("mesch", "ring"), ("torus3d", "all-to-all")])
def test_wiring_that_nobody_knows_is_refused(names):
    topology, pattern = names
    with pytest.raises(UnknownNameError, match=r"unknown (topology|pattern)"):
        effective_bandwidth(topology, 4, 8, 448e9, pattern=pattern)


def test_axes_of_one_torus_work_together():
    links = links_of_group(load_system("trn2-ultraserver"), RankGroup(64.0, 1.0))
    # All but a sixteenth moves among sixteen chips at 512 GB/s, the rest among four at 128.
    seconds = 15 / 16 / 512e9 + 1 / 16 * 3 / 4 / 128e9
    assert float(links.inside()) == pytest.approx(63 / 64 / seconds)
    assert float(links.domains) == 1.0
    # Three quarters of an exchange leave the instance, and a ring of four carries 96 GB/s of it.
    assert float(links.inside("all_to_all")) == pytest.approx(63 / 64 / (3 / 4 / 96e9))
    along = links_of_group(load_system("trn2-ultraserver"), RankGroup(4.0, 16.0))
    assert float(along.inside()) == 128e9
