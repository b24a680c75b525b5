"""What every matrix-multiplication time must obey, whatever the coefficients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.costs.gemm import COEFFICIENTS, MEMORY_RAMP_S, gemm_tiled
from perfmodel.costs.kernel_bounds import gemm_bound
from perfmodel.costs.tiles import HOST_LAUNCHES, TILES

SPEEDUPS = ("cache_speedup", "weight_speedup")
RATES = (
    "peak_flops", "memory_bandwidth", "fill_bandwidth", "store_bandwidth", "reduce_bandwidth", "cache_bandwidth",
    *SPEEDUPS,
)  # fmt: skip
TIMES = ("launch_s", "tile_s", "depth_s", "split_s", "quantise_row_s", "memory_ramp_s")
FREE_MENUS = tuple(name for name, menu in TILES.items() if all(tile[2] == 0 for tile in menu))

sizes = st.integers(1, 2**20)


def between(low, high):
    return st.floats(np.log(low), np.log(high)).map(lambda x: float(np.exp(x)))


devices = st.fixed_dictionaries(
    {
        "peak_flops": between(1e13, 1e17),
        "memory_bandwidth": between(1e11, 1e14),
        "cache_bytes": between(1e6, 1e9),
        "cores": st.integers(16, 512),
        "weight_bytes": st.sampled_from([0.5, 0.5625, 1.0, 2.0]),
        "activation_bytes": st.sampled_from([0.5625, 1.0, 2.0]),
        "weight_copies": st.sampled_from([1.0, 2.0, 6.0, np.inf]),
        "cache_bandwidth": between(1e12, 1e15),
    }
)
coefficients = st.fixed_dictionaries({c.name: st.floats(c.low, c.high) for c in COEFFICIENTS})
kernels = st.fixed_dictionaries(
    {
        "tiles": st.sampled_from(sorted(TILES)),
        "split_k": st.booleans(),
        "quantise": st.booleans(),
        "host": st.sampled_from(HOST_LAUNCHES),
    }
)
free_kernels = st.fixed_dictionaries(
    {
        "tiles": st.sampled_from(FREE_MENUS),
        "split_k": st.booleans(),
        "quantise": st.booleans(),
        "host": st.sampled_from(["hidden", "constant"]),
    }
)


@given(sizes, sizes, sizes, devices, coefficients, kernels)
def test_finite_and_never_below_the_bound(m, n, k, device, numbers, kernel):
    t = gemm_tiled(m, n, k, **device, **numbers, **kernel)
    assert np.isfinite(t)
    assert t >= gemm_bound(m, n, k, **{name: v for name, v in device.items() if name != "cores"}) * (1 - 1e-12)


@given(sizes, sizes, sizes, st.integers(0, 2), st.integers(1, 2**20), devices, coefficients, free_kernels)
def test_more_work_takes_no_less_time(m, n, k, which, more, device, numbers, kernel):
    small, large = [m, n, k], [m, n, k]
    large[which] += more
    if which == 0:  # the documented step: rows that are no multiple of four may cost more
        small[0], large[0] = 4 * -(-small[0] // 4), 4 * -(-large[0] // 4)
    before = gemm_tiled(*small, **device, **numbers, **kernel)
    assert gemm_tiled(*large, **device, **numbers, **kernel) >= before * (1 - 1e-9)


@given(sizes, sizes, sizes, st.integers(1, 4096), devices, coefficients, kernels)
def test_more_tokens_fall_by_less_than_the_documented_step(m, n, k, more, device, numbers, kernel):
    kernel = kernel | {"host": "hidden"}
    before = gemm_tiled(m, n, k, **device, **numbers, **kernel)
    after = gemm_tiled(m + more, n, k, **device, **numbers, **kernel)
    step = 1.0 if kernel["tiles"] in FREE_MENUS else 0.5
    step /= 1.0 if kernel["split_k"] else numbers["odd_row_factor"]
    # The clock loss of long kernels takes part in the step.
    assert after >= before * step / (1 + numbers["throttle"])


@given(sizes, sizes, sizes, st.sampled_from(RATES), st.floats(1.0, 10.0), devices, coefficients, kernels)
def test_faster_hardware_is_never_slower(m, n, k, rate, factor, device, numbers, kernel):
    arguments = device | numbers | kernel
    before = gemm_tiled(m, n, k, **arguments)
    after = gemm_tiled(m, n, k, **(arguments | {rate: arguments[rate] * factor}))
    assert after <= before * (1 + 1e-9)


@given(sizes, sizes, sizes, between(1.0, 100.0), devices, coefficients, kernels)
def test_everything_faster_takes_the_time_down_alike(m, n, k, factor, device, numbers, kernel):
    arguments = device | numbers | kernel | {"throttle": 0.0, "memory_ramp_s": MEMORY_RAMP_S}
    faster = {name: arguments[name] * factor for name in RATES if name not in SPEEDUPS}
    shorter = {name: arguments[name] / factor for name in TIMES}
    before = gemm_tiled(m, n, k, **arguments)
    after = gemm_tiled(m, n, k, **(arguments | faster | shorter))
    assert after * factor == pytest.approx(before, rel=1e-9)


@given(st.lists(st.tuples(sizes, sizes, sizes), min_size=1, max_size=20), devices, coefficients, kernels)
def test_a_grid_is_its_points(shapes, device, numbers, kernel):
    m, n, k = (np.array(column) for column in zip(*shapes, strict=True))
    grid = gemm_tiled(m, n, k, **device, **numbers, **kernel)
    points = [gemm_tiled(*shape, **device, **numbers, **kernel) for shape in shapes]
    np.testing.assert_allclose(grid, points, rtol=1e-12)


@settings(max_examples=5)
@given(devices, coefficients, kernels, st.integers(1, 2**31))
def test_chunks_do_not_show(device, numbers, kernel, seed):
    m, n, k = np.random.default_rng(seed).integers(1, 2**17, (3, 20_000))
    whole = gemm_tiled(m, n, k, **device, **numbers, **kernel)
    np.testing.assert_allclose(whole[9_000:9_100], gemm_tiled(m[9_000:9_100], n[9_000:9_100], k[9_000:9_100],
                               **device, **numbers, **kernel), rtol=1e-12)  # fmt: skip


@given(sizes, sizes, sizes, devices)
def test_the_bound_is_below_the_plain_roofline(m, n, k, device):
    device = {name: v for name, v in device.items() if name != "cores"}
    plain = gemm_bound(m, n, k, **(device | {"cache_bytes": 0.0, "weight_copies": np.inf}))
    assert gemm_bound(m, n, k, **device) <= plain
