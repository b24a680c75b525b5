"""The fused-experts form against hand-made cases."""

import numpy as np
import pytest

from perfmodel.calibrate.moe_cases import moe_sizes, skew_of
from perfmodel.costs.kernel_bounds import experts_bound
from perfmodel.costs.moe import REMOTE, experts_grouped
from perfmodel.costs.moe_tiles import MENUS
from perfmodel.costs.registry import get_formula
from perfmodel.errors import UnknownNameError

HOPPER = {"peak_flops": 989e12, "memory_bandwidth": 3.35e12, "cores": 132, "weight_bytes": 2, "activation_bytes": 2}
SHAPE = (4096, 1536, 128, 8)
BOUND = {name: HOPPER[name] for name in ("peak_flops", "memory_bandwidth", "weight_bytes")}


def test_bound_of_a_large_batch_is_arithmetic():
    flops = 2 * 3 * 16384 * 8 * 4096 * 1536
    assert experts_bound(16384, *SHAPE, **BOUND) == pytest.approx(flops / 989e12)


def test_bound_of_one_token_is_its_experts_weights():
    nbytes = 8 * 3 * 4096 * 1536 * 2 + 4 * 4096
    assert experts_bound(1, *SHAPE, **BOUND) == pytest.approx(nbytes / 3.35e12)


def test_bound_counts_only_weights_that_leave_a_warm_cache():
    cold = experts_bound(1, *SHAPE, **BOUND, cache_bytes=50e6)
    warm = experts_bound(1, *SHAPE, **BOUND, cache_bytes=50e6, warm=True)
    assert cold - warm == pytest.approx(50e6 / 3.35e12)


def test_cached_passes_save_time_until_the_cache_overflows():
    few, many = (
        [experts_grouped(t, *SHAPE, **HOPPER, cache_bytes=96e6, cached_passes=c) for c in (False, True)]
        for t in (64, 2**18)
    )
    assert few[1] < few[0]
    assert many[1] == pytest.approx(many[0], rel=1e-3)


@pytest.mark.parametrize("tiles", MENUS)
def test_a_large_batch_runs_at_the_fitted_efficiency(tiles):
    time = experts_grouped(
        2**20, *SHAPE, **HOPPER, tiles=tiles, flops_efficiency=0.5, fill_rate=2e12, pass_efficiency=1
    )
    bound = experts_bound(2**20, *SHAPE, **BOUND)
    assert 2.0 < time / bound < 3.6


def test_without_a_gate_a_third_of_the_weights_is_gone():
    few = {"launch_s": 1e-6, "scan_s": 0.0, "pair_s": 0.0, "expert_s": 0.0, "bandwidth_efficiency": 1.0, "overlap": 8}
    gated, plain = (
        experts_grouped(64, 8192, 8192, 16, 4, **HOPPER, gated=g, fill_rate=2e12, **few) for g in (True, False)
    )
    assert plain / gated == pytest.approx(2 / 3, rel=0.05)


def test_tensor_ranks_split_the_experts():
    one, four = (experts_grouped(4096, 8192, 16384, 8, 2, 1, r, **HOPPER) for r in (1, 4))
    assert 3.0 < one / four < 4.2


@pytest.mark.parametrize("remote", REMOTE[1:])
def test_remote_rows_cost_time(remote):
    times = [experts_grouped(4096, *SHAPE, 16, skew=1.2, **HOPPER, remote_rows=r) for r in ("skipped", remote)]
    assert times[1] > times[0]


def test_one_rank_has_no_remote_rows():
    times = [experts_grouped(4096, *SHAPE, 1, **HOPPER, remote_rows=r) for r in REMOTE]
    assert np.ptp(times) == pytest.approx(0.0, abs=1e-15)


def test_mean_rows_choose_the_tile():
    # 128 local experts: 64 tokens x 8 picks are 4 rows each, tile 8; on one of 16 ranks the mean is 64, tile 64.
    slow_fill = {"fill_rate": 2e10, "step_s": 1e-9, "tile_s": 1e-8, "flops_efficiency": 1.0}
    chosen = experts_grouped(64, *SHAPE, 16, **HOPPER, tiles="averaged", **slow_fill)
    free = experts_grouped(64, *SHAPE, 16, **HOPPER, tiles="swapped", **slow_fill)
    assert chosen >= free * (1 - 1e-12)


def test_unpacked_weights_are_read_in_sixteen_bits():
    packed = HOPPER | {"weight_bytes": 0.53125}
    assert experts_grouped(64, *SHAPE, **packed, unpacked=True) == pytest.approx(experts_grouped(64, *SHAPE, **HOPPER))
    assert experts_grouped(64, *SHAPE, **packed) < experts_grouped(64, *SHAPE, **HOPPER)


def test_no_tokens_take_no_time():
    assert experts_grouped(0, *SHAPE, **HOPPER) == 0.0


def test_a_million_tokens_are_finite():
    tokens = 2.0 ** np.arange(21)
    for ranks in (1, 16, 128):
        for skew in (0.0, 1.0, 1.01, 2.0):
            assert np.all(np.isfinite(experts_grouped(tokens, *SHAPE, ranks, skew=skew, **HOPPER)))


def test_unknown_names_are_refused():
    with pytest.raises(UnknownNameError):
        experts_grouped(1, *SHAPE, **HOPPER, tiles="groupt")
    with pytest.raises(UnknownNameError):
        experts_grouped(1, *SHAPE, **HOPPER, remote_rows="skiped")


def test_signature_defaults_are_the_registered_ones():
    form = get_formula("experts_grouped")
    assert len(form.coefficients) <= 12
    assert experts_grouped(64, *SHAPE, **HOPPER) == experts_grouped(64, *SHAPE, **HOPPER, **form.defaults())


def case(**columns):
    base = {
        "tokens": [8],
        "hidden": [2048],
        "intermediate": [5120],
        "experts": [512],
        "topk": [22],
        "ep": [4],
        "tp": [2],
    }
    return (
        base | {"routing": ["power_law_1.01"], "kernel": ["sglang_fused_moe_triton"], "version": ["0.5.14"]} | columns
    )


def test_cases_map_to_arguments():
    sizes = moe_sizes(case())
    assert sizes["expert_ranks"].tolist() == [4.0]
    assert sizes["tensor_ranks"].tolist() == [2.0]
    assert sizes["skew"].tolist() == [1.01]
    assert sizes["warm"].tolist() == [True]


@pytest.mark.parametrize(
    ("columns", "gated"),
    [
        ({}, False),
        ({"version": ["0.5.10"]}, True),
        ({"hidden": [6144]}, True),
        ({"hidden": [6144], "kernel": ["moe_torch_flow_nongated"]}, False),
    ],
)
def test_gate_of_a_case(columns, gated):
    assert moe_sizes(case(**columns))["gated"].tolist() == [gated]


@pytest.mark.parametrize("label", ["zipf", "inf", "nan", "power_law_-1", "power_law_4"])
def test_a_routing_that_nobody_knows_has_no_exponent(label):
    exponents = skew_of(["power_law_1.2", label])
    assert exponents[0] == 1.2
    assert np.isnan(exponents[1])
