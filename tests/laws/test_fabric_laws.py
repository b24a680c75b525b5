"""Laws of groups on fabrics: the fastest algorithm, faster links, where a group lies, bytes that are conserved."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.costs.all_to_all_tiers import flat_all_to_all, two_level_all_to_all
from perfmodel.costs.collective_tiers import hierarchical_all_reduce, hierarchical_reduce_scatter
from perfmodel.costs.collectives import ring_reduce_scatter
from perfmodel.costs.expert_traffic import message_bytes, node_limited_exchange, units_reached
from perfmodel.costs.flat_collectives import flat_ring
from perfmodel.costs.nccl_model import nccl_model
from perfmodel.estimate.algorithms import candidates
from perfmodel.estimate.communication import time_collective
from perfmodel.estimate.links import links_of_group
from perfmodel.hardware.kernels import KernelTable
from perfmodel.layers.base import Shard, Step
from perfmodel.layers.operators import Collective, Exchange
from perfmodel.parallel.grid import plans
from perfmodel.parallel.groups import RankGroup

SYSTEMS = ("hgx-h100", "hgx-a100", "gb200-nvl72", "mi300x-8", "mi250x-8", "tpu-v5p-pod", "trn2-ultraserver", "l40s-8")
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
SLACK = 1 + 1e-9

systems = st.sampled_from(SYSTEMS)
kinds = st.sampled_from(KINDS)
payloads = st.integers(0, 36).map(lambda p: 2.0**p)
sizes = st.sampled_from([2.0, 3.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0])
strides = st.sampled_from([1.0, 2.0, 4.0, 8.0, 16.0])
TARGETS = {name: pm.target(name) for name in SYSTEMS}


def textbook(target):
    """The target with nothing measured."""
    return dataclasses.replace(target, kernels=KernelTable())


def fastest(kind, payload, group, target):
    links = links_of_group(target.system, group)
    return min(float(c.seconds) for c in candidates(kind, payload, links, target))


@given(name=systems, kind=kinds, payload=payloads, ranks=sizes, stride=strides, measured=st.booleans())
def test_the_choice_is_never_slower_than_a_flat_or_a_hierarchical_algorithm(
    name, kind, payload, ranks, stride, measured
):
    target = TARGETS[name] if measured else textbook(TARGETS[name])
    group = RankGroup(ranks, stride)
    best = fastest(kind, payload, group, target)
    for which in ("flat", "hierarchical"):
        assert best <= fastest(kind, payload, group, dataclasses.replace(target, collectives=which)) * SLACK


@given(name=systems, kind=kinds, payload=payloads, ranks=sizes, stride=strides, measured=st.booleans(), data=st.data())
def test_doubling_a_bandwidth_never_slows_a_collective(name, kind, payload, ranks, stride, measured, data):
    target = TARGETS[name] if measured else textbook(TARGETS[name])
    system = target.system
    at = data.draw(st.integers(0, len(system.tiers) - 1))
    tier = system.tiers[at]
    link = tier.link_bandwidth and 2 * tier.link_bandwidth
    faster = dataclasses.replace(tier, bandwidth=2 * tier.bandwidth, link_bandwidth=link)
    tiers = (*system.tiers[:at], faster, *system.tiers[at + 1 :])
    improved = dataclasses.replace(target, system=dataclasses.replace(system, tiers=tiers))
    for collectives in ("fastest", "flat", "hierarchical", "nccl"):
        before, after = (dataclasses.replace(t, collectives=collectives) for t in (target, improved))
        group = RankGroup(ranks, stride)
        assert fastest(kind, payload, group, after) <= fastest(kind, payload, group, before) * SLACK


@given(name=systems, kind=kinds, payload=payloads, data=st.data())
def test_a_group_inside_one_tier_costs_the_same_wherever_it_lies(name, kind, payload, data):
    target = TARGETS[name]
    domain = target.system.tiers[0].devices
    ranks = data.draw(st.sampled_from([n for n in (1, 2, 4, 8, 16) if domain % n == 0]))
    stride = data.draw(st.sampled_from([s for s in (1, 2, 4, 8) if domain % (ranks * s) == 0]))
    copies = data.draw(st.integers(1, 4))
    there = RankGroup(float(ranks), float(stride), float(ranks * stride * copies))
    here = RankGroup(float(ranks), 1.0)
    assert fastest(kind, payload, there, target) == fastest(kind, payload, here, target)


@given(name=systems, kind=st.sampled_from([*KINDS, "point_to_point"]), payload=payloads, measured=st.booleans())
def test_one_rank_is_free(name, kind, payload, measured):
    target = TARGETS[name] if measured else textbook(TARGETS[name])
    alone = time_collective(Collective("x", kind, payload, "tp"), target, plans(tp=1))
    assert float(alone.seconds) == float(alone.network_s) == 0.0


@given(name=systems, kind=st.sampled_from([*KINDS, "point_to_point"]), payload=payloads, measured=st.booleans())
def test_plans_together_are_plans_alone(name, kind, payload, measured):
    target = TARGETS[name] if measured else textbook(TARGETS[name])
    tp, dp = np.array([1, 2, 4, 8]), np.array([[1], [2], [8]])
    op = Collective("x", kind, payload, "dp")
    together = time_collective(op, target, plans(tp=tp, dp=dp))
    for i, d in enumerate(dp[:, 0]):
        for j, t in enumerate(tp):
            alone = time_collective(op, target, plans(tp=t, dp=d))
            assert np.broadcast_to(together.seconds, (3, 4))[i, j] == pytest.approx(float(alone.seconds), rel=1e-12)
            assert float(alone.network_s) <= float(alone.seconds)
            choice = int(np.broadcast_to(together.choice, (3, 4))[i, j])
            if float(alone.seconds) > 0:
                assert together.algorithms[choice] == alone.formula


@given(levels=st.lists(st.integers(1, 16), min_size=1, max_size=4), payload=payloads)
def test_tiers_move_the_bytes_of_one_ring(levels, payload):
    ranks = np.prod(levels)
    links = {"bandwidths": [1e11] * len(levels), "latencies": [0.0] * len(levels)}
    whole = ring_reduce_scatter(payload, ranks, bandwidth=1e11)
    assert hierarchical_reduce_scatter(payload, levels, **links) == pytest.approx(float(whole), rel=1e-12)
    halves = 2 * hierarchical_reduce_scatter(payload, levels, **links)
    assert hierarchical_all_reduce(payload, levels, **links) == pytest.approx(float(halves), rel=1e-12)
    assert flat_ring(payload, levels, 2, **links) == pytest.approx(2 * float(flat_ring(payload, levels, **links)))


@given(inner=st.integers(1, 8), outer=st.integers(2, 64), payload=payloads)
def test_an_all_to_all_sends_what_does_not_stay(inner, outer, payload):
    ranks = inner * outer
    endless = [np.inf, np.inf]

    def bytes_on(tier, form):
        rates = list(endless)
        rates[tier] = 1.0
        return float(form(payload, [inner, outer], bandwidths=rates, latencies=[0.0, 0.0]))

    sent = bytes_on(0, flat_all_to_all) + bytes_on(1, flat_all_to_all)
    assert sent == pytest.approx(payload * (ranks - 1) / ranks, rel=1e-9)
    # Gathering first moves the same bytes over the network, and none of them less often over the links.
    assert bytes_on(1, two_level_all_to_all) == pytest.approx(bytes_on(1, flat_all_to_all), rel=1e-9)
    assert bytes_on(0, two_level_all_to_all) * SLACK >= bytes_on(0, flat_all_to_all)


@given(
    topk=st.integers(1, 8),
    units=st.sampled_from([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]),
    limit=st.sampled_from([1.0, 2.0, 4.0, 8.0, np.inf]),
)
def test_a_token_reaches_no_more_units_than_it_may(topk, units, limit):
    reached = float(units_reached(topk, 256, units, limit))
    assert 1.0 - 1e-9 <= reached <= min(topk, units, limit) + 1e-9
    assert reached <= float(units_reached(topk, 256, units)) * SLACK


@given(
    tokens=st.integers(0, 8192),
    topk=st.integers(1, 8),
    ranks=st.sampled_from([1, 8, 16, 64, 256]),
    limit=st.sampled_from([1.0, 4.0, np.inf]),
    bandwidth=st.floats(1e10, 1e12),
    network=st.floats(1e9, 1e11),
    factor=st.floats(1.0, 100.0),
)
def test_exchanges_of_tokens(tokens, topk, ranks, limit, bandwidth, network, factor):
    def time(tokens=tokens, bandwidth=bandwidth, network=network):
        far = {"bandwidth": bandwidth, "domain_ranks": 8, "network_bandwidth": network, "network_latency": 5e-6}
        return float(node_limited_exchange(tokens, 7392, topk, 256, ranks, **far, unit_limit=limit))

    now = time()
    assert now == 0 or ranks > 1
    assert time(bandwidth=bandwidth * factor) <= now * SLACK
    assert time(network=network * factor) <= now * SLACK
    assert time(tokens=tokens * factor) * SLACK >= now


@given(hidden=st.integers(1, 16384), block=st.sampled_from([32, 128, 7168]), pad=st.sampled_from([1, 16, 512]))
def test_messages_hold_their_elements_and_scales(hidden, block, pad):
    found = float(message_bytes(hidden, 1, block, alignment=pad))
    assert found % pad == 0
    assert hidden + 4 * np.ceil(hidden / block) <= found < hidden + 4 * np.ceil(hidden / block) + pad


@pytest.mark.parametrize("decode", [False, True])
@given(ep=st.sampled_from([8, 16, 32, 64]), tokens=st.integers(1, 4096), factor=st.floats(1.0, 10.0), data=st.data())
def test_fused_exchanges_over_domains(decode, ep, tokens, factor, data):
    target = TARGETS["hgx-h100"]
    kind = data.draw(st.sampled_from(["dispatch", "combine"]))
    at = data.draw(st.integers(0, 1))
    tiers = list(target.system.tiers)
    tiers[at] = dataclasses.replace(tiers[at], bandwidth=tiers[at].bandwidth * factor)
    improved = dataclasses.replace(target, system=dataclasses.replace(target.system, tiers=tuple(tiers)))

    def time(on, ep=ep, limit=0):
        moved = Exchange(float(tokens), 7168.0, 256.0, 8.0, decode, 8, limit)
        op = Collective(kind, kind, tokens * 7168.0 * min(8, ep), "moe", exchange=moved)
        return time_collective(op, on, plans(tp=1, dp=ep, ep=ep))

    now = time(target)
    assert float(time(improved).seconds) <= float(now.seconds) * SLACK
    assert float(time(target, limit=4).seconds) <= float(now.seconds) * SLACK
    assert now.formula == ("deepep_low_latency" if decode else "deepep_normal")
    assert 0.0 < float(now.network_s) <= float(now.seconds)


@given(
    payload=payloads,
    ranks=st.sampled_from([2, 8, 16, 64, 1024]),
    architecture=st.sampled_from(["volta", "ampere", "hopper", "blackwell"]),
    op=st.sampled_from(["all_reduce", "all_gather", "reduce_scatter"]),
    reducing=st.booleans(),
    factor=st.floats(1.0, 10.0),
)
def test_what_nccl_expects(payload, ranks, architecture, op, reducing, factor):
    def time(payload=payload, bandwidth=450e9, network=50e9):
        return float(
            nccl_model(
                payload,
                ranks,
                max(ranks / 8, 1),
                bandwidth=bandwidth,
                network_bandwidth=network,
                op=op,
                architecture=architecture,
                reducing=reducing,
            )
        )

    assert 0.0 < time() <= time(payload * factor) * SLACK
    assert time(bandwidth=450e9 * factor) <= time() * SLACK
    assert time(network=50e9 * factor) <= time() * SLACK
    assert float(nccl_model(payload, 1, bandwidth=450e9, op=op)) == 0.0


@pytest.mark.parametrize("model", ["deepseek-v3", "qwen3-235b-a22b"])
def test_tokens_travel_in_the_format_that_experts_take(model):
    spec, target = pm.load_model(model), TARGETS["hgx-h100"]
    grid = plans(tp=1, dp=8, ep=8)
    found = {}
    for precision in ("bf16", "fp8"):
        formats = pm.precision_of(spec, precision)
        blocks = spec.operators(Step(128.0, 1.0, 4096.0, True), Shard(dp=8.0, ep=8.0), formats)
        ops = {op.kind: op for _, _, ops in blocks for op in ops if isinstance(op, Collective) and op.exchange}
        assert ops["combine"].exchange.element_bytes == 2.0
        expected = 2.0 if precision == "bf16" else float(message_bytes(spec.hidden, 1, 128)) / spec.hidden
        assert ops["dispatch"].exchange.element_bytes == expected
        found[precision] = float(time_collective(ops["dispatch"], target, grid).seconds)
    assert found["fp8"] < found["bf16"] < 2 * found["fp8"]


@pytest.mark.parametrize("name", ["hgx-h100", "gb200-nvl72", "mi250x-8", "tpu-v5p-pod"])
@pytest.mark.parametrize("model", ["llama-3.1-70b", "deepseek-v3"])
def test_doubling_a_bandwidth_never_slows_a_plan(name, model):
    target = TARGETS[name]
    ranks = (
        {"dp": np.array([1, 4, 16])[:, None]} if model.startswith("llama") else {"dp": [8, 16, 64], "ep": [8, 16, 64]}
    )
    grid = plans(tp=[1, 4, 16] if model.startswith("llama") else 1, **ranks, concurrency=128)
    before = pm.predict(model, target, grid, isl=2048, osl=256)
    for at, tier in enumerate(target.system.tiers):
        link = tier.link_bandwidth and 2 * tier.link_bandwidth
        faster = dataclasses.replace(tier, bandwidth=2 * tier.bandwidth, link_bandwidth=link)
        tiers = (*target.system.tiers[:at], faster, *target.system.tiers[at + 1 :])
        system = dataclasses.replace(target.system, tiers=tiers)
        after = pm.predict(model, dataclasses.replace(target, system=system), grid, isl=2048, osl=256)
        for step in ("decode_s", "prefill_s"):
            known = np.isfinite(before[step])
            assert known.any()
            assert (after[step][known] <= before[step][known] * SLACK).all()
