"""Grids, groups, placement and rules."""

import numpy as np
import pytest

from perfmodel.errors import PlanError
from perfmodel.parallel.grid import concurrency_ladder, plans, serving_splits
from perfmodel.parallel.groups import RankGroup, rank_group
from perfmodel.parallel.placement import place
from perfmodel.parallel.rules import judge, structural_rules
from perfmodel.parallel.training_grid import training_plans


@pytest.mark.parametrize("value", [0, -1, 1.5, float("nan"), float("inf"), [1, 0]])
def test_a_knob_is_a_whole_number_of_at_least_one(value):
    with pytest.raises(PlanError, match="tp must be a whole number of at least 1"):
        plans(tp=value)


def test_unknown_knobs_and_shapes_that_do_not_broadcast_are_named():
    with pytest.raises(PlanError, match="unknown plan knob 'tpp'"):
        plans(tpp=2)
    with pytest.raises(PlanError, match="do not broadcast"):
        plans(tp=[1, 2], pp=[1, 2, 3])


def test_serving_splits_of_a_dense_model_are_all_divisor_pairs():
    grid = serving_splits(8, tensor_limit=64, layers=80)
    found = {(int(t), int(p)) for t, p in zip(grid.tp, grid.pp, strict=True)}
    assert found == {(t, p) for t in (1, 2, 4, 8) for p in (1, 2, 4, 8) if t * p <= 8}


def test_expert_groups_regroup_the_ranks_of_a_stage():
    grid = serving_splits(16, tensor_limit=128, layers=61, experts=256)
    assert np.all(grid.ep * grid.moe_tp == grid.tp * grid.dp)
    assert np.all(16 % grid.devices == 0)
    assert len({tuple(row) for row in zip(grid.tp, grid.pp, grid.dp, grid.ep, strict=True)}) == grid.size


def test_splits_beyond_heads_or_layers_are_not_tried():
    grid = serving_splits(64, tensor_limit=8, layers=4)
    assert grid.tp.max() == 8
    assert grid.pp.max() == 4


def test_held_knobs_that_no_split_has_are_an_error():
    with pytest.raises(PlanError, match="tp=3"):
        serving_splits(8, tensor_limit=64, layers=80, chosen={"tp": 3})


def test_ladder_ends_at_its_limit_and_never_repeats():
    for limit in (1, 7, 16, 17, 1000):
        ladder = concurrency_ladder(limit)
        assert ladder[-1] == limit
        assert np.all(np.diff(ladder) > 0)
        assert np.all(ladder == np.round(ladder))


def test_groups_multiply_to_the_world():
    grid = plans(tp=4, pp=2, dp=2, cp=2, ep=16)
    world = 1.0
    for name in ("tp", "cp", "dp", "pp"):
        group = rank_group(grid, name)
        assert float(group.stride) == world
        world *= float(group.ranks)
    assert world == float(grid.devices)
    assert float(rank_group(grid, "moe").ranks) == 16.0


@pytest.mark.parametrize(
    ("ranks", "stride", "tiers", "expected"),
    [
        (8, 1, (8, 64), (8, 1)),
        (16, 1, (8, 64), (8, 2)),
        (4, 2, (8, 64), (4, 1)),
        (8, 2, (8, 64), (4, 2)),
        (2, 16, (8, 64), (1, 2)),
        (72, 1, (72, 576), (72, 1)),
        (128, 1, (8, 32, 1024), (8, 4, 4)),
    ],
)
def test_placement_counts_members_per_unit(ranks, stride, tiers, expected):
    found = place(RankGroup(float(ranks), float(stride)), tuple(map(float, tiers)))
    assert tuple(float(n) for n in found.levels) == tuple(map(float, expected))


def laid_out(ranks, stride, replicas_of_it, devices):
    """Units of the worst-placed group among those that share a replica, and members in the emptiest and fullest."""
    block = ranks * stride
    worst = (1, ranks, ranks)
    for start in range(0, block * replicas_of_it, block):
        for offset in range(stride):
            where = [(start + offset + i * stride) // devices for i in range(ranks)]
            held = [where.count(unit) for unit in sorted(set(where))]
            worst = max(worst, (len(held), min(held), max(held)), key=lambda found: (found[0], -found[1]))
    return worst


@pytest.mark.parametrize("devices", [2, 4, 8, 16, 72])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 8, 12, 16, 24])
def test_placement_finds_the_worst_group_of_a_replica(ranks, stride, devices):
    for copies in (1, 2, 3, 4, 6):
        world = float(ranks * stride * copies)
        found = place(RankGroup(float(ranks), float(stride), world), (float(devices), 1e6))
        units, emptiest, _ = laid_out(ranks, stride, copies, devices)
        assert float(found.outside(0)) == units
        # With a stride that does not divide the step of the blocks, one member fewer may be counted, never more.
        assert emptiest - 1 <= float(found.carriers[0]) <= emptiest
        assert float(found.levels[0]) * units >= ranks


def reasons(grid, divisors, layers=8, max_devices=1024):
    verdicts = judge(grid.shape, structural_rules(grid, divisors, layers=layers, max_devices=max_devices))
    return [verdicts.reason(i) for i in range(grid.size)]


def test_every_structural_reason_names_its_numbers():
    sizes = {"heads": 12, "kv_heads": 4, "experts": 8, "expert_intermediate": 96}
    grid = plans(
        tp=[5, 6, 1, 2, 4, 1, 64],
        pp=[1, 1, 9, 1, 1, 1, 32],
        dp=[1, 1, 1, 1, 4, 64, 1],
        ep=[1, 1, 1, 4, 16, 1, 64],
        moe_tp=[5, 6, 1, 1, 1, 64, 1],
    )
    assert reasons(grid, sizes) == [
        "tp=5 does not divide 12 query heads",
        "tp=6 neither divides 4 KV heads nor is a multiple of them",
        "pp=9 exceeds 8 layers",
        "ep=4 x moe_tp=1 is not the 2 ranks of a stage",
        "ep=16 does not divide 8 experts",
        "moe_tp=64 does not divide the expert width 96",
        "2048 devices, and the system connects 1024",
    ]


def test_kv_heads_may_be_copied_and_dense_models_have_no_expert_groups():
    assert reasons(plans(tp=[4, 8]), {"heads": 8, "kv_heads": 2}) == ["", ""]
    assert reasons(plans(dp=2, ep=2), {"heads": 8}) == ["ep=2 on a model without experts"]


@pytest.mark.parametrize("build", [plans, training_plans])
def test_plans_are_taken_out_of_a_grid_of_any_shape(build):
    assert build(tp=2).take([0]).tp.tolist() == [2.0]
    mesh = build(tp=[[1], [2], [4]], dp=[1, 2])
    assert mesh.take([1, 4]).tp.tolist() == [1.0, 4.0]
    assert mesh.take([1, 4]).dp.tolist() == [2.0, 1.0]
    assert mesh.take(mesh.column("tp") > 1).dp.tolist() == [1.0, 2.0, 1.0, 2.0]
    assert mesh.part((slice(1, 2), slice(0, 2))).tp.tolist() == [[2.0]]
    assert mesh.row(3)["tp"] == mesh.row(3)["dp"] == 2
