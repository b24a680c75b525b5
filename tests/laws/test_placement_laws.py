"""Clusters that are not uniform: how they are read, where stages go, and what a plan costs there."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.api_training import rank_on_cluster, train
from perfmodel.errors import NothingFeasibleError, PlanError
from perfmodel.estimate.training.pipeline import STEP_PARTS
from perfmodel.estimate.training.target import training_target
from perfmodel.hardware.cluster import Cluster, cluster_of_islands, read_cluster
from perfmodel.models.inline import inline_model
from perfmodel.parallel.training_grid import training_plans
from perfmodel.ranking.node_placement import links, place

GPT = inline_model({"hidden": 4096, "layers": 36, "heads": 32, "ffn": 16384, "vocab": 51200, "positions": 2048})
A100 = training_target("hgx-a100", "megatron-2021")
COMMON = {"seq": 2048, "global_batch": 1536, "precision": "fp16", "tp": 1, "micro_batch": 4, "recompute": "full"}


def cost(ring, hops, _):
    return 10.0 / ring + float(np.sum(1.0 / hops))


@st.composite
def tables(draw):
    nodes = draw(st.sampled_from([4, 6]))
    rates = [draw(st.sampled_from([1.0, 3.0, 25.0])) for _ in range(nodes * nodes)]
    table = np.array(rates).reshape(nodes, nodes)
    table = np.minimum(table, table.T)
    np.fill_diagonal(table, np.inf)
    return table


@given(table=tables(), size=st.sampled_from([1, 2]))
def test_the_search_finds_the_best_order(table, size):
    nodes = len(table)
    found = place(table, nodes // size, cost)
    every = (np.array(p).reshape(-1, size) for p in permutations(range(nodes)))
    best = min(cost(*links(order, table), order) for order in every)
    assert found.cost <= best * 1.001
    assert sorted(found.order.ravel().tolist()) == list(range(nodes))


@given(seed=st.integers(0, 99))
def test_islands_are_found_however_their_nodes_are_named(seed):
    island = np.random.default_rng(seed).permutation([0, 0, 0, 0, 1, 1, 1, 1])
    table = np.where(island[:, None] == island, 25e9, 3e9)
    np.fill_diagonal(table, np.inf)
    found = place(table, 2, lambda ring, hops, _: 1.0 / ring)
    assert {frozenset(island[row].tolist()) for row in found.order} == {frozenset({0}), frozenset({1})}


def test_a_uniform_cluster_is_the_system_itself():
    cluster = cluster_of_islands("8x25GB/s", "25GB/s")
    for pp, dp in ((1, 64), (2, 32), (4, 16)):
        placed = rank_on_cluster(GPT, A100, cluster, pp=pp, vp=1, zero=1, top=1, **COMMON).plans[0]
        plan = training_plans(pp=pp, dp=dp, micro_batch=4, recompute="full", zero=1, grad_overlap=1)
        alone = train(GPT, A100, plan, seq=2048, global_batch=1536, precision="fp16").row(0)
        assert placed.row["step_s"] == pytest.approx(alone["step_s"], rel=1e-9)
        assert placed.row["given_step_s"] == pytest.approx(alone["step_s"], rel=1e-9)


def test_placement_is_never_slower_than_the_order_given_and_faster_links_never_hurt():
    rng = np.random.default_rng(3)
    steps = []
    for factor in (1.0, 2.0):
        rates = factor * np.random.default_rng(3).choice([1e9, 5e9, 25e9], (8, 8))
        cluster = Cluster(tuple(f"n{i}" for i in range(8)), rates, np.ones(8))
        ranking = rank_on_cluster(GPT, A100, cluster, top=5, **COMMON)
        assert all(plan.row["step_s"] <= plan.row["given_step_s"] * (1 + 1e-12) for plan in ranking.plans)
        assert np.all(np.diff([plan.row["step_s"] for plan in ranking.plans]) >= -1e-9)
        steps.append(ranking.plans[0].row["step_s"])
    assert steps[1] < steps[0]
    # Names of nodes are no part of the physics.
    order = rng.permutation(8)
    rates = 1e9 * np.where(np.arange(8)[:, None] % 2 == np.arange(8) % 2, 25.0, 1.0)
    seen = [
        rank_on_cluster(GPT, A100, Cluster(tuple("abcdefgh"), r, np.ones(8)), top=1, pp=2, **COMMON).plans[0].row
        for r in (rates, rates[np.ix_(order, order)])
    ]
    assert seen[0]["step_s"] == pytest.approx(seen[1]["step_s"])


def test_parts_sum_to_the_step_and_plans_of_several_stages_per_node_work():
    cluster = cluster_of_islands("2x25GB/s, 2x25GB/s@0.5", "1GB/s")
    for plan in rank_on_cluster(GPT, A100, cluster, top=20, **(COMMON | {"tp": 2})).plans:
        parts = [plan.row[f"{name}_s"] for name in STEP_PARTS]
        assert sum(parts) == pytest.approx(plan.row["step_s"])
        assert min(parts) >= 0
        assert sum(plan.layers) == GPT.layers


def test_slower_nodes_get_fewer_layers():
    even, slow = (
        rank_on_cluster(GPT, A100, cluster_of_islands(text, "12.5GB/s"), pp=2, vp=1, top=1, **COMMON).plans[0]
        for text in ("4x25GB/s, 4x25GB/s", "4x25GB/s, 4x25GB/s@0.5")
    )
    assert even.layers == (18, 18)
    assert sorted(slow.layers) == [12, 24]
    assert even.row["step_s"] < slow.row["step_s"] < 2 * even.row["step_s"]


def test_plans_that_do_not_fill_nodes_are_counted():
    cluster = cluster_of_islands("3x25GB/s", "25GB/s")
    ranking = rank_on_cluster(GPT, A100, cluster, top=3, **COMMON)
    assert all(plan.row["pp"] in (1, 3, 6, 12, 24) for plan in ranking.plans)
    with pytest.raises(NothingFeasibleError, match="whole nodes"):
        rank_on_cluster(GPT, A100, cluster, top=3, pp=2, **COMMON)


def test_a_system_without_a_network_makes_no_cluster():
    alone = replace(A100, system=replace(A100.system, tiers=A100.system.tiers[:1]))
    with pytest.raises(PlanError, match="no network between nodes"):
        rank_on_cluster(GPT, alone, cluster_of_islands("2x1GB/s", "1GB/s"), **COMMON)


@pytest.mark.parametrize(
    ("islands", "between", "message"),
    [
        ("4x25", "1GB/s", "island '4x25'"),
        ("25GB/s", "1GB/s", "island '25GB/s'"),
        ("0x25GB/s", "1GB/s", "no number of nodes"),
        ("2x25GB/s@fast", "1GB/s", "could not convert"),
        ("2x25GB/s", "slow", "between islands"),
        ("1x25GB/s", "1GB/s", "at least two nodes"),
        ("2x25GB/s@0", "1GB/s", "speed"),
    ],
)
def test_islands_that_make_no_sense(islands, between, message):
    with pytest.raises(PlanError, match=message):
        cluster_of_islands(islands, between)


def test_measured_tables(tmp_path):
    path = tmp_path / "links.csv"
    path.write_text("node,x,y,speed\nx,,10GB/s,1\ny,8GB/s,,0.9\n")
    cluster = read_cluster(path)
    assert cluster.names == ("x", "y")
    assert cluster.both_ways[0, 1] == 8e9
    assert cluster.speed.tolist() == [1.0, 0.9]
    for text, message in (
        ("node,x\nx,1GB/s\n", "at least two nodes"),
        ("node,x,y\nx,,1GB/s\nz,1GB/s,\n", "rows are x, z, and columns x, y"),
        ("node,x,y\nx,,1\ny,1GB/s,\n", "row x, column y"),
        ("node,x,y\nx,,0GB/s\ny,1GB/s,\n", "above zero"),
    ):
        path.write_text(text)
        with pytest.raises(PlanError, match=message):
            read_cluster(path)
    with pytest.raises(PlanError, match="No such file"):
        read_cluster(tmp_path / "none.csv")
