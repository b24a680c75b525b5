"""Attention forms on sizes whose answer can be worked out by hand, and the mapping of case files to sizes."""

import time

import numpy as np
import pandas as pd
import pytest

from perfmodel.calibrate.attention_cases import attention_sizes, mla_sizes
from perfmodel.costs.attention import attention_bound, cold_share, overlapped
from perfmodel.costs.attention_decode import decode_attention_split
from perfmodel.costs.attention_prefill import prefill_attention_tiled
from perfmodel.errors import CaseFileError

RATES = {"peak_flops": 1e15, "memory_bandwidth": 3e12}
HARDWARE = {**RATES, "cores": 100}
# Coefficients for which the forms are plain arithmetic: no overlap, no launch, no passes, perfect efficiencies.
PLAIN = {"launch_s": 0.0, "window_s": 0.0, "wide_head": 0.0, "tile_s": 0.0, "skip_s": 0.0, "query_passes": 0.0,
         "mma_efficiency": 1.0, "memory_efficiency": 1.0, "wave_softness": 0.0, "overlap": 1.0,
         "fill_bandwidth": 1e30}  # fmt: skip


def brute_force_pairs(tokens, context, window):
    seen = [context - tokens + i + 1 for i in range(tokens)]
    return sum(min(s, window) if window else s for s in seen)


@pytest.mark.parametrize(
    ("tokens", "context", "window"), [(1, 1, 0), (7, 7, 0), (7, 30, 0), (30, 30, 8), (5, 40, 8), (9, 10, 4), (6, 9, 50)]
)
def test_bound_counts_every_pair_of_query_and_key(tokens, context, window):
    t = attention_bound(2, tokens, context, 6, 2, 64, 32, window, peak_flops=1.0, memory_bandwidth=1e30)
    assert t == pytest.approx(2 * 2 * 6 * (64 + 32) * brute_force_pairs(tokens, context, window))


def test_bound_counts_compulsory_bytes():
    t = attention_bound(2, 4, 10, 6, 2, 64, 32, 0, peak_flops=1e30, memory_bandwidth=1.0, query_bytes=1, kv_bytes=0.5)
    queries, outputs, cache = 2 * 4 * 6 * 64 * 1, 2 * 4 * 6 * 32 * 2, 2 * 10 * 2 * (64 + 32) * 0.5
    assert t == pytest.approx(queries + outputs + cache)
    # A window of 3 keeps the last 4 + 3 - 1 keys; what the cache holds does not cross the memory bus.
    t = attention_bound(2, 4, 10, 6, 2, 64, 32, 3, peak_flops=1e30, memory_bandwidth=1.0, query_bytes=1, kv_bytes=0.5)
    assert t == pytest.approx(queries + outputs + cache * 6 / 10)
    t = attention_bound(1, 1, 10, 1, 1, 64, 64, 0, peak_flops=1e30, memory_bandwidth=1.0, cache_bytes=1e9)
    assert t == pytest.approx(0.0, abs=1e-12)


def test_prefill_counts_tiles_by_hand():
    # 256 tokens, tiles of 128: the first sees 128 keys and the second 256, half a key block of 32 on top of each.
    # One head on one core of many: the second tile is the longest and decides.
    t = prefill_attention_tiled(
        1, 256, 256, 1, 1, 128, 128, 0, **HARDWARE, **{**PLAIN, "kv_passes": 0.0}, softmax_dims=0.0, tile_rows_min=128
    )
    compute = 2 * 128 * 256 * (256 + 32) / (1e15 / 100)
    memory = 256 * (128 * 2 + 128 * 2 + 256 * 2) / 3e12
    assert t == pytest.approx(compute + memory)
    # 100 heads: 200 tiles on 100 cores are two waves of the mean tile.
    t = prefill_attention_tiled(
        1, 256, 256, 100, 100, 128, 128, 0, **HARDWARE, **{**PLAIN, "kv_passes": 0.0}, softmax_dims=0.0,
        tile_rows_min=128,
    )  # fmt: skip
    assert t == pytest.approx(2 * 2 * 128 * 256 * (192 + 32) / (1e15 / 100) + 100 * memory)


def test_short_queries_use_small_tiles_unless_the_kernel_has_none():
    small = prefill_attention_tiled(64, 1, 1, 32, 8, 128, 128, 0, **HARDWARE, tile_rows_min=16)
    large = prefill_attention_tiled(64, 1, 1, 32, 8, 128, 128, 0, **HARDWARE, tile_rows_min=128)
    assert small < large


def test_packing_shares_a_tile_between_the_heads_of_a_group():
    sizes = (64, 16, 16, 32, 4, 128, 128, 0)
    alone = prefill_attention_tiled(*sizes, **HARDWARE, packing="none", tile_rows_min=128)
    packed = prefill_attention_tiled(*sizes, **HARDWARE, packing="always", tile_rows_min=128)
    assert packed < alone
    assert prefill_attention_tiled(*sizes, **HARDWARE, packing="short", tile_rows_min=128) == min(alone, packed)


def test_a_kernel_that_visits_masked_blocks_gains_less_from_a_window():
    sizes = (1, 16384, 16384, 32, 8, 128, 128)
    full = prefill_attention_tiled(*sizes, 0, **HARDWARE)
    skipping = prefill_attention_tiled(*sizes, 128, **HARDWARE, skip_s=1e-13)
    visiting = prefill_attention_tiled(*sizes, 128, **HARDWARE, skip_s=2e-8)
    assert skipping < 0.2 * full
    assert skipping < visiting <= full * 1.01


def test_absorbed_prefill_costs_more_arithmetic():
    sizes = (1, 4096, 4096, 16, 16, 192, 128, 0)
    plain = prefill_attention_tiled(*sizes, **HARDWARE)
    assert prefill_attention_tiled(*sizes, **HARDWARE, absorbed=True) > 2 * plain
    same = prefill_attention_tiled(1, 4096, 4096, 16, 1, 576, 512, 0, kv_elements=576, **HARDWARE)
    assert prefill_attention_tiled(*sizes, **HARDWARE, absorbed=True) == pytest.approx(same)


def test_a_chunk_of_a_prompt_costs_less_than_the_whole_and_more_than_without_its_past():
    whole = prefill_attention_tiled(1, 8192, 8192, 32, 8, 128, 128, 0, **HARDWARE)
    last = prefill_attention_tiled(1, 2048, 8192, 32, 8, 128, 128, 0, **HARDWARE)
    first = prefill_attention_tiled(1, 2048, 2048, 32, 8, 128, 128, 0, **HARDWARE)
    assert first < last < whole
    chunks = sum(prefill_attention_tiled(1, 2048, c, 32, 8, 128, 128, 0, **HARDWARE) for c in (2048, 4096, 6144, 8192))
    assert whole < chunks < 1.3 * whole


def test_decode_streams_the_cache_by_hand():
    t = decode_attention_split(
        100, 1000, 8, 1, 128, 128, 0, **HARDWARE, **PLAIN, concurrency=1.0, split_keys=1e9, split_s=0.0,
        rows_per_tile=1,
    )  # fmt: skip
    compute = 1000 * 2 * 8 * 256 / (1e15 / 100)
    memory = (100 * 8 * 128 * 4 + 100 * 1000 * 256 * 2) / 3e12
    assert t == pytest.approx(compute + memory)


def test_few_sequences_are_split():
    sizes = (1, 65536, 8, 1, 128, 128, 0)
    split = decode_attention_split(*sizes, **HARDWARE)
    whole = decode_attention_split(*sizes, **HARDWARE, split_keys=1e9)
    capped = decode_attention_split(*sizes, **HARDWARE, max_splits=8)
    assert split < capped < whole


def test_a_kernel_that_cannot_split_walks_over_all_keys():
    sizes = (8, 1, 128, 128, 0)
    short, long = (decode_attention_split(1, c, *sizes, **HARDWARE, max_splits=1) for c in (2**18, 2**19))
    assert long > 1.9 * short


def test_uneven_head_dimensions_cost_extra_kernels():
    for form, sizes in ((prefill_attention_tiled, (1, 64, 64)), (decode_attention_split, (1, 64))):
        for head_dim, extra in ((64, 0.0), (128, 0.0), (96, 1e-5), (192, 1e-5)):
            arguments = (*sizes, 8, 8, head_dim, head_dim, 0)
            with_padding = form(*arguments, **HARDWARE, uneven_head_s=1e-5)
            assert with_padding - form(*arguments, **HARDWARE, uneven_head_s=0.0) == pytest.approx(extra, abs=1e-12)


def test_wide_heads_take_longer_to_start():
    even = [decode_attention_split(1, 1, 8, 8, d, d, 0, **HARDWARE, tile_width=0.0, wide_head=0.0) for d in (128, 256)]
    wide = [decode_attention_split(1, 1, 8, 8, d, d, 0, **HARDWARE, tile_width=1.0, wide_head=0.0) for d in (128, 256)]
    assert even[1] == pytest.approx(even[0], rel=0.01)
    assert wide[1] - wide[0] == pytest.approx(2e-6, rel=0.05)


def test_kernels_without_grouping_fall_off_a_cliff():
    few = decode_attention_split(64, 4096, 32, 1, 128, 128, 0, **HARDWARE, grouped_max=32)
    many = decode_attention_split(64, 4096, 64, 1, 128, 128, 0, **HARDWARE, grouped_max=32)
    grouped = decode_attention_split(64, 4096, 64, 1, 128, 128, 0, **HARDWARE)
    assert many > 5 * few
    assert grouped < 2 * few
    free = decode_attention_split(64, 4096, 32, 8, 128, 128, 1024, **HARDWARE)
    assert decode_attention_split(64, 4096, 32, 8, 128, 128, 1024, **HARDWARE, ungrouped_window=True) > free


def test_captured_graphs_pay_for_empty_splits_up_to_their_batch():
    ratio = [
        decode_attention_split(b, 64, 8, 1, 128, 128, 0, **HARDWARE, graph_batch=512, idle_split_s=1e-6)
        / decode_attention_split(b, 64, 8, 1, 128, 128, 0, **HARDWARE)
        for b in (512, 513)
    ]
    assert ratio[0] > 1.5
    assert ratio[1] == pytest.approx(1.0)


def test_speculative_queries_share_the_cache():
    one = decode_attention_split(64, 8192, 32, 8, 128, 128, 0, **HARDWARE)
    four = decode_attention_split(64, 8192, 32, 8, 128, 128, 0, queries=4, **HARDWARE)
    assert one < four < 1.5 * one


def test_latent_attention_stores_its_vector_once():
    sizes = (64, 8192, 16, 1, 576, 512, 0)
    once = decode_attention_split(*sizes, kv_elements=576, **HARDWARE)
    twice = decode_attention_split(*sizes, **HARDWARE)
    assert twice / once == pytest.approx((576 + 512) / 576, rel=0.15)


def test_overlap_is_between_the_larger_and_the_sum():
    assert overlapped(2.0, 3.0, 1.0) == 5.0
    assert overlapped(2.0, 3.0, 2.0) == pytest.approx(13**0.5)
    assert overlapped(2.0, 3.0, 60.0) == pytest.approx(3.0)
    assert overlapped(0.0, 3.0, 2.0) == pytest.approx(3.0)


def test_cold_share():
    assert cold_share(1e6, 0.0, 5.0) == 1.0
    assert cold_share(1e6, 1e9, 5.0) == pytest.approx(0.2)


def test_a_cache_that_fills_whole_loses_nothing_before_it_is_full():
    assert cold_share(1e8, 1e8, 4.0, whole=True) == pytest.approx(0.25)
    assert cold_share(1.06e8, 1e8, 4.0, whole=True) == pytest.approx(0.625)
    assert cold_share(1.12e8, 1e8, 4.0, whole=True) == pytest.approx(1.0)
    assert cold_share(1e6, 0.0, 4.0, whole=True) == 1.0
    # 4 x 8192 keys of 8 heads: 128 MiB with the keys and values in 16 bits, and a little for the queries.
    times = [
        float(decode_attention_split(4, 8192, 32, 8, 128, 128, 0, **HARDWARE, cache_bytes=size, whole_cache=whole))
        for size in (136 * 2**20, 112 * 2**20)
        for whole in (True, False)
    ]
    assert times[0] < times[1]
    assert times[2] > times[3]


def test_a_warm_cache_helps():
    sizes = (8, 1024, 32, 8, 128, 128, 0)
    assert decode_attention_split(*sizes, **HARDWARE, cache_bytes=1e9, warm_ratio=4.0) < decode_attention_split(
        *sizes, **HARDWARE, warm_ratio=4.0
    )


@pytest.mark.parametrize("form", ["prefill", "decode"])
def test_a_million_evaluations_are_quick(form):
    rng = np.random.default_rng(1)
    batch = rng.integers(1, 256, 1_000_000)
    context = rng.integers(1, 32768, 1_000_000)
    start = time.process_time()
    if form == "prefill":
        t = prefill_attention_tiled(batch, context, context, 32, 8, 128, 128, 0, **HARDWARE)
    else:
        t = decode_attention_split(batch, context, 32, 8, 128, 128, 0, **HARDWARE)
    assert time.process_time() - start < 2.0, "ten times the time of an idle core: a temporary per element too many"
    assert np.all(np.isfinite(t))


FRAME = pd.DataFrame(
    {"batch": [2], "tokens": [7], "context": [9], "heads": [16], "kv_heads": [4], "head_dim": [128], "window": [64],
     "dtype": ["fp8"], "kv_dtype": ["bf16"], "measured_s": [1e-5]}
)  # fmt: skip


def test_cases_map_to_sizes():
    prefill = {k: float(v[0]) for k, v in attention_sizes(FRAME, "prefill_attention").items()}
    assert prefill == {"batch": 2, "tokens": 7, "context": 9, "heads": 16, "kv_heads": 4, "qk_head_dim": 128,
                       "v_head_dim": 128, "window": 64, "query_bytes": 1, "kv_bytes": 2}  # fmt: skip
    assert "tokens" not in attention_sizes(FRAME, "decode_attention")


def test_latent_cases_map_to_sizes():
    decode = {k: float(v[0]) for k, v in mla_sizes(FRAME, "decode_mla").items()}
    assert (decode["kv_heads"], decode["qk_head_dim"], decode["v_head_dim"], decode["kv_elements"]) == (
        1,
        576,
        512,
        576,
    )
    prefill = {k: float(v[0]) for k, v in mla_sizes(FRAME, "prefill_mla").items()}
    assert (prefill["kv_heads"], prefill["qk_head_dim"], prefill["v_head_dim"]) == (16, 192, 128)


def test_cases_that_cannot_be_read_say_so():
    with pytest.raises(CaseFileError, match="head_dim"):
        attention_sizes(FRAME.drop(columns="head_dim"), "decode_attention")
    with pytest.raises(CaseFileError, match="kv_dtype"):
        mla_sizes(FRAME.assign(kv_dtype="fp3"), "decode_mla")
