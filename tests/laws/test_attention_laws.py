"""What every attention time must obey, whatever the coefficients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.costs.attention import attention_bound
from perfmodel.costs.attention_decode import DECODE_COEFFICIENTS, decode_attention_split
from perfmodel.costs.attention_prefill import PREFILL_COEFFICIENTS, prefill_attention_tiled
from perfmodel.costs.registry import FORMULAS

RATES = ("peak_flops", "memory_bandwidth", "fill_bandwidth", "ungrouped_bandwidth", "mma_efficiency")
TIMES = ("launch_s", "window_s", "regroup_s", "uneven_head_s", "tile_s", "split_s", "ungrouped_tile_s", "idle_split_s")
SLACK = 1 + 1e-9

tokens = st.integers(1, 2**20)
batches = st.integers(1, 2**12)
windows = st.one_of(st.just(0), st.integers(1, 2**20))
groups = st.integers(1, 128)
kv_heads = st.integers(1, 128)
head_dims = st.sampled_from([(64, 64), (96, 96), (128, 128), (192, 128), (256, 256), (512, 512), (576, 512)])


def between(low, high):
    return st.floats(np.log(low), np.log(high)).map(lambda x: float(np.exp(x)))


devices = st.fixed_dictionaries(
    {
        "peak_flops": between(1e13, 1e17),
        "memory_bandwidth": between(1e11, 1e14),
        "cores": st.integers(16, 512),
        "query_bytes": st.sampled_from([1.0, 2.0]),
        "kv_bytes": st.sampled_from([0.5625, 1.0, 2.0]),
        "cache_bytes": st.one_of(st.just(0.0), between(1e6, 1e9)),
    }
)


def kernels(name, coefficients, **override):
    attributes = {k: st.sampled_from(v) for k, v in FORMULAS[name].attributes.items()} | override
    return st.fixed_dictionaries({c.name: st.floats(c.low, c.high) for c in coefficients} | attributes)


prefills = kernels("prefill_attention_tiled", PREFILL_COEFFICIENTS, absorbed=st.just(False))
decodes = kernels("decode_attention_split", DECODE_COEFFICIENTS)
# Without the documented falls: captured graphs end at a batch, few blocks run ungrouped, libraries split by rules.
FALLS = {"graph_batch": st.just(0), "grouped_blocks": st.just(0), "split_rule": st.just("filled")}
smooth = kernels("decode_attention_split", DECODE_COEFFICIENTS, **FALLS)
ruled = kernels(
    "decode_attention_split", DECODE_COEFFICIENTS, **FALLS | {"split_rule": st.sampled_from(["waves", "root"])}
)


def bound_of(*sizes, **device):
    return attention_bound(*sizes, **{k: v for k, v in device.items() if k != "cores"})


@given(batches, tokens, tokens, kv_heads, groups, head_dims, windows, devices, prefills)
def test_prefill_is_finite_and_never_below_the_bound(b, n, past, hk, g, dims, w, device, kernel):
    sizes = (b, n, n + past - 1, hk * g, hk, *dims, w)
    t = prefill_attention_tiled(*sizes, **device, **kernel)
    assert np.isfinite(t)
    assert t * SLACK >= bound_of(*sizes, **device)


@given(batches, tokens, st.integers(1, 8), kv_heads, groups, head_dims, windows, devices, decodes)
def test_decode_is_finite_and_never_below_the_bound(b, c, q, hk, g, dims, w, device, kernel):
    sizes = (b, c, hk * g, hk, *dims, w)
    t = decode_attention_split(*sizes, queries=q, **device, **kernel)
    assert np.isfinite(t)
    assert t * SLACK >= bound_of(b, q, max(c, q), *sizes[2:], **device)


@given(batches, tokens, tokens, kv_heads, groups, head_dims, devices, prefills)
def test_uncausal_prefill_is_never_below_the_bound(b, n, past, hk, g, dims, device, kernel):
    sizes = (b, n, n + past - 1, hk * g, hk, *dims, 0)
    assert prefill_attention_tiled(*sizes, causal=False, **device, **kernel) * SLACK >= bound_of(
        *sizes, causal=False, **device
    )


@given(batches, tokens, tokens, kv_heads, groups, head_dims, windows, devices, prefills, st.integers(0, 3), tokens)
def test_more_prefill_takes_no_less_time(b, n, past, hk, g, dims, w, device, kernel, which, more):
    # Batch, tokens after the same past, past before the same tokens, window.
    def time(b, n, past, w):
        return prefill_attention_tiled(b, n, n + past - 1, hk * g, hk, *dims, w, **device, **kernel)

    sizes = [b, n, past, max(w, 1)] if which == 3 else [b, n, past, w]
    larger = [v + more if i == which else v for i, v in enumerate(sizes)]
    assert time(*larger) * SLACK >= time(*sizes)


@given(batches, tokens, kv_heads, groups, head_dims, windows, devices, smooth, st.integers(0, 2), tokens)
def test_more_decode_takes_no_less_time(b, c, hk, g, dims, w, device, kernel, which, more):
    def time(b, c, w):
        return decode_attention_split(b, c, hk * g, hk, *dims, w, **device, **kernel)

    sizes = [b, c, max(w, 1)] if which == 2 else [b, c, w]
    larger = [v + more if i == which else v for i, v in enumerate(sizes)]
    assert time(*larger) * SLACK >= time(*sizes)


@given(batches, tokens, kv_heads, groups, head_dims, windows, devices, ruled, st.integers(0, 2), tokens)
def test_more_decode_in_splits_by_rule_takes_at_least_half_of_the_time(
    b, c, hk, g, dims, w, device, kernel, which, more
):
    def time(b, c, w):
        return decode_attention_split(b, c, hk * g, hk, *dims, w, **device, **kernel)

    sizes = [b, c, max(w, 1)] if which == 2 else [b, c, w]
    larger = [v + more if i == which else v for i, v in enumerate(sizes)]
    assert 2.0 * time(*larger) * SLACK >= time(*sizes)


@given(batches, tokens, kv_heads, groups, head_dims, windows, devices, prefills, decodes, between(1.0, 100.0))
def test_a_faster_device_is_never_slower(b, n, hk, g, dims, w, device, prefill, decode, factor):
    for rate in RATES:
        for form, sizes, kernel in (
            (prefill_attention_tiled, (b, n, n, hk * g, hk, *dims, w), prefill),
            (decode_attention_split, (b, n, hk * g, hk, *dims, w), decode),
        ):
            arguments = {**device, **kernel}
            if rate in arguments:
                slow = form(*sizes, **arguments)
                assert form(*sizes, **{**arguments, rate: arguments[rate] * factor}) <= slow * SLACK


@given(batches, tokens, kv_heads, groups, head_dims, windows, devices, prefills, decodes, between(1.0, 100.0))
def test_more_cache_is_never_slower(b, n, hk, g, dims, w, device, prefill, decode, factor):
    larger = {**device, "cache_bytes": device["cache_bytes"] * factor}
    sizes = (hk * g, hk, *dims, w)
    t = prefill_attention_tiled(b, n, n, *sizes, **device, **prefill)
    assert prefill_attention_tiled(b, n, n, *sizes, **larger, **prefill) <= t * SLACK
    t = decode_attention_split(b, n, *sizes, **device, **decode)
    assert decode_attention_split(b, n, *sizes, **larger, **decode) <= t * SLACK


@given(st.lists(st.tuples(batches, tokens, kv_heads, groups, windows), min_size=2, max_size=9), head_dims, devices,
       prefills, decodes)  # fmt: skip
def test_broadcasting_equals_one_by_one(cases, dims, device, prefill, decode):
    b, n, hk, g, w = np.array(cases).T
    together = prefill_attention_tiled(b, n, n, hk * g, hk, *dims, w, **device, **prefill)
    alone = [prefill_attention_tiled(x, y, y, z * u, z, *dims, v, **device, **prefill) for x, y, z, u, v in cases]
    assert together == pytest.approx(alone, rel=1e-12)
    together = decode_attention_split(b, n, hk * g, hk, *dims, w, **device, **decode)
    alone = [decode_attention_split(x, y, z * u, z, *dims, v, **device, **decode) for x, y, z, u, v in cases]
    assert together == pytest.approx(alone, rel=1e-12)
    mesh = decode_attention_split(b[:, None], n[None, :], hk[0] * g[0], hk[0], *dims, 0, **device, **decode)
    assert mesh.shape == (len(b), len(n))
    assert mesh[-1, 0] == pytest.approx(
        decode_attention_split(b[-1], n[0], hk[0] * g[0], hk[0], *dims, 0, **device, **decode), rel=1e-12
    )


@given(batches, tokens, kv_heads, groups, head_dims, devices, prefills, decodes, between(1.0, 1000.0))
def test_a_device_scaled_in_time_scales_the_time(b, n, hk, g, dims, device, prefill, decode, factor):
    for form, sizes, kernel in (
        (prefill_attention_tiled, (b, n, n, hk * g, hk, *dims, 0), prefill),
        (decode_attention_split, (b, n, hk * g, hk, *dims, 0), decode),
    ):
        faster = {**device, **kernel}
        for rate in ("peak_flops", "memory_bandwidth", "fill_bandwidth", "ungrouped_bandwidth"):
            if rate in faster:
                faster[rate] *= factor
        for duration in (*TIMES, "skip_s"):
            if duration in faster:
                faster[duration] /= factor
        assert form(*sizes, **faster) == pytest.approx(form(*sizes, **device, **kernel) / factor, rel=1e-9)
