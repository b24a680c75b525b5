"""Single matrix multiplications whose time can be worked out by hand."""

import math
import time

import numpy as np
import pandas as pd
import pytest

from perfmodel.calibrate.gemm_cases import gemm_sizes, weight_copies
from perfmodel.costs.gemm import gemm_tiled
from perfmodel.costs.kernel_bounds import gemm_bound
from perfmodel.costs.registry import get_formula
from perfmodel.costs.tiles import TILES
from perfmodel.errors import CaseFileError, UnknownNameError

DEVICE = {"peak_flops": 1e15, "memory_bandwidth": 4e12, "cache_bytes": 50e6, "cores": 100}
BF16 = {"weight_bytes": 2.0, "activation_bytes": 2.0}
BOUND = {name: v for name, v in DEVICE.items() if name != "cores"}
IDEAL = {
    "launch_s": 0.0,
    "compute_efficiency": 1.0,
    "memory_efficiency": 1.0,
    "fill_bandwidth": 1e30,
    "store_bandwidth": 1e30,
    "tile_s": 0.0,
    "depth_s": 0.0,
    "wave_softness": 0.0,
    "throttle": 0.0,
    "split_s": 0.0,
    "reduce_bandwidth": 1e30,
    "cache_speedup": 1.0,
    "weight_speedup": 1.0,
    "memory_ramp_s": 1e-30,
}


def test_bound_is_compute_or_cold_bytes():
    assert gemm_bound(8192, 8192, 8192, **BOUND, **BF16) == pytest.approx(2 * 8192**3 / 1e15)
    weights = 16384 * 16384 * 2
    assert gemm_bound(1, 16384, 16384, **BOUND, **BF16) == pytest.approx(weights / 4e12)
    plain = gemm_bound(1, 16384, 16384, **(BOUND | {"cache_bytes": 0.0}), **BF16)
    assert plain == pytest.approx((weights + 2 * 2 * 16384) / 4e12)


def test_bound_of_rotating_weights_lets_the_cache_hold_some():
    weights = 5000 * 5000 * 2
    cold = gemm_bound(1, 5000, 5000, **BOUND, **BF16)
    rotating = gemm_bound(1, 5000, 5000, **BOUND, **BF16, weight_copies=2.0)
    assert cold == pytest.approx(weights / 4e12)
    assert rotating == pytest.approx((weights - 25e6) / 4e12)
    cached = gemm_bound(1, 5000, 5000, **BOUND, **BF16, weight_copies=2.0, cache_bandwidth=1e12)
    assert cached == pytest.approx((weights + 2 * 2 * 5000) / 1e12)


def test_one_wave_of_whole_tiles_runs_at_the_peak():
    # 10 x 10 tiles of 128 x 128 on 100 cores: nothing is lost, and the memory side adds in quadrature.
    t = gemm_tiled(1280, 1280, 65536, **DEVICE, **BF16, **IDEAL, tiles="fixed_128", split_k=False)
    compute = 2 * 1280 * 1280 * 65536 / 1e15
    memory = (2 * 1280 * 65536 * 2 + 1280 * 1280 * 2) / 4e12
    assert t == pytest.approx(math.hypot(compute, memory))


def test_one_tile_more_costs_a_second_wave():
    kw = DEVICE | BF16 | IDEAL | {"memory_bandwidth": 1e30}
    one = gemm_tiled(1280, 1280, 8192, **kw, tiles="fixed_128", split_k=False)
    two = gemm_tiled(1281, 1280, 8192, **kw, tiles="fixed_128", split_k=False)
    assert two == pytest.approx(2 * one)


def test_split_fills_the_idle_cores():
    kw = DEVICE | BF16 | IDEAL | {"memory_bandwidth": 1e30}
    whole = gemm_tiled(128, 128, 65536, **kw, tiles="fixed_128", split_k=False)
    split = gemm_tiled(128, 128, 65536, **kw, tiles="fixed_128", split_k=True)
    assert split == pytest.approx(whole / 100, rel=1e-6)
    # Never thinner than 256 elements of the inner dimension: four parts of 1024.
    assert gemm_tiled(128, 128, 1024, **kw, tiles="fixed_128", split_k=True) == pytest.approx(
        gemm_tiled(128, 128, 1024, **kw, tiles="fixed_128", split_k=False) / 4, rel=1e-6
    )


def test_pipeline_floor_is_proportional_to_the_inner_dimension():
    kw = DEVICE | BF16 | IDEAL | {"memory_bandwidth": 1e30, "peak_flops": 1e30, "depth_s": 1e-8}
    t = gemm_tiled(1, 128, np.array([1024, 2048]), **kw, split_k=False)
    np.testing.assert_allclose(t, [1024e-8, 2048e-8])


def test_cached_bytes_move_faster_only_when_they_fit():
    kw = DEVICE | BF16 | (IDEAL | {"cache_speedup": 2.0, "weight_speedup": 2.0})
    cold = gemm_tiled(1, 4096, 1024, **kw, split_k=False)
    warm = gemm_tiled(1, 4096, 1024, **kw, split_k=False, weight_copies=1.0)
    assert warm < 0.6 * cold
    large = gemm_tiled(1, 65536, 1024, **kw, split_k=False)
    assert gemm_tiled(1, 65536, 1024, **kw, split_k=False, weight_copies=1.0) == pytest.approx(large)


def test_quantisation_adds_a_pass_over_the_activations():
    kw = DEVICE | {"weight_bytes": 1.0, "activation_bytes": 1.0} | IDEAL
    extra = {"quantise_efficiency": 0.5, "quantise_row_s": 0.0}
    plain = gemm_tiled(8192, 4096, 16384, **kw)
    quantised = gemm_tiled(8192, 4096, 16384, **kw, **extra, quantise=True)
    assert quantised - plain == pytest.approx(8192 * 16384 * 3 / (0.5 * 4e12))


def test_odd_rows_slow_down_kernels_without_split():
    kw = DEVICE | BF16 | IDEAL | {"memory_bandwidth": 1e30}
    even = gemm_tiled(132, 4096, 4096, **kw, split_k=False, odd_row_factor=1.3)
    odd = gemm_tiled(131, 4096, 4096, **kw, split_k=False, odd_row_factor=1.3)
    assert odd == pytest.approx(1.3 * even)


@pytest.mark.parametrize(
    ("host", "shape", "launches"),
    [
        ("constant", (3, 4096, 4096), 1),
        ("padded", (4, 4096, 4096), 3),
        ("padded", (5, 4096, 4096), 4),
        ("staged", (16, 4096, 4096), 2),
        ("staged", (17, 4096, 4096), 3),
        ("staged", (16, 32, 4096), 6),
        ("staged", (16, 4096, 64), 6),
    ],
)
def test_host_in_the_loop_is_a_floor(host, shape, launches):
    t = gemm_tiled(*shape, **DEVICE, **BF16, **(IDEAL | {"launch_s": 1e-3}), split_k=False, host=host)
    assert t == pytest.approx(launches * 1e-3)


def test_every_menu_and_default_works():
    form = get_formula("gemm_tiled")
    for tiles in TILES:
        for split_k in form.attributes["split_k"]:
            t = form.function(100, 5120, 5120, **DEVICE, **BF16, **form.defaults(), tiles=tiles, split_k=split_k)
            assert 5e-6 < t < 1e-4


def test_unknown_menus_are_named():
    with pytest.raises(UnknownNameError, match="Did you mean 'library'"):
        gemm_tiled(1, 2, 3, **DEVICE, **BF16, tiles="libary")
    with pytest.raises(UnknownNameError, match="host launch mode"):
        gemm_tiled(1, 2, 3, **DEVICE, **BF16, host="eager")


def test_no_tokens_take_finite_time():
    assert np.isfinite(gemm_tiled(0, 4096, 4096, **DEVICE, **BF16))
    assert np.isfinite(gemm_tiled([0, 1], 4096, 4096, **DEVICE, **BF16)).all()


def test_defaults_of_the_signature_are_the_registered_ones():
    form = get_formula("gemm_tiled")
    kw = DEVICE | BF16
    assert form.function(100, 5120, 5120, **kw) == form.function(100, 5120, 5120, **kw, **form.defaults())


def test_scalar_in_scalar_out_and_open_mesh():
    assert np.ndim(gemm_tiled(3, 4, 5, **DEVICE, **BF16)) == 0
    grid = gemm_tiled(np.arange(1, 4)[:, None], np.array([[128, 256]]), 512, **DEVICE, **BF16)
    assert grid.shape == (3, 2)
    assert gemm_tiled(np.zeros(0), 4, 5, **DEVICE, **BF16).shape == (0,)


def test_a_million_are_fast():
    rng = np.random.default_rng(0)
    m, n, k = (np.ceil(2 ** rng.uniform(0, 15, 200_000)) for _ in range(3))
    start = time.process_time()
    gemm_tiled(m, n, k, **DEVICE, **BF16)
    # The goal is 0.5 s for a million; the factor leaves room for a slow machine.
    assert time.process_time() - start < 0.2 * 0.5 * 4


def test_sizes_of_case_rows():
    frame = pd.DataFrame({"m": [1, 2], "n": [4096, 65536], "k": [1024, 8192], "dtype": ["bf16", "nvfp4"]})
    assert set(gemm_sizes(frame)) == {"tokens", "out_features", "in_features"}
    sizes = gemm_sizes(frame.assign(engine="sglang"), cache_bytes=50e6)
    assert sizes["weight_copies"].tolist() == [6.0, 6.0]
    assert sizes["out_features"].dtype == np.float64
    assert weight_copies(frame.assign(engine="trtllm"), 50e6).tolist() == [5.0, 1.0]
    assert weight_copies(frame.assign(engine="vllm"), 50e6).tolist() == [6.0, 1.0]
    with pytest.raises(CaseFileError, match="missing: k"):
        gemm_sizes(frame.drop(columns="k"))
