"""Time of decode attention [s]: splits of the KV cache, grouped and ungrouped heads, splits of captured graphs."""

from typing import Any

import numpy as np

from perfmodel.arrays import Floats, as_floats, clipped
from perfmodel.costs.attention import OUTPUT_BYTES, cold_share, overlapped, power_of_two
from perfmodel.costs.attention_splits import KEYS_PER_SPLIT, SPLIT_RULES, library_splits
from perfmodel.costs.chunks import in_chunks
from perfmodel.costs.registry import Coefficient, formula

REFERENCE_WIDTH = 256.0
"""Sum of the head dimensions from which a head is wide: a head dimension of 128."""

PADDED_SPLITS = 32.0
"""Splits for which a captured graph is prepared, whatever number the scheduler fills."""

_C = Coefficient
DECODE_COEFFICIENTS = (
    _C("launch_s", "s", 8e-6, 5e-7, 1e-3, "launch gap and preparing kernels whose time does not depend on the sizes"),
    _C("window_s", "s", 2e-7, 1e-9, 2e-5, "extra kernels where a sliding window is set"),
    _C("regroup_s", "s", 6e-6, 1e-9, 5e-5, "kernels that only grouped query heads need (`grouping`)"),
    _C("uneven_head_s", "s", 1e-7, 1e-9, 3e-5, "extra kernels where the head dimension is no power of two (padding)"),
    _C("mma_efficiency", "1", 0.5, 0.02, 1.0, "sustained part of the dense peak inside the main loop"),
    _C("wide_head", "1", 0.05, 1e-3, 12.0, "slowdown for wide heads, per reference width above it"),
    _C("tile_s", "s", 2e-6, 1e-8, 5e-5, "prologue and epilogue of one thread block"),
    _C("tile_width", "1", 0.3, 0.0, 1.0, "how far that time grows with the head dimension: 0 not, 1 in proportion"),
    _C("fill_bandwidth", "B/s", 3e11, 2e9, 1e12, "rate at which one core streams keys and values"),
    _C("concurrency", "1", 1.2, 1.0, 16.0, "thread blocks that one core needs at once to reach its rate"),
    _C("wave_softness", "1", 0.1, 0.01, 1.0, "0: whole waves of thread blocks; 1: no waves"),
    _C("split_s", "s", 3.5e-6, 1e-8, 1e-4, "second kernel that combines the splits of the KV cache"),
    _C("split_keys", "1", 96.0, 16.0, 8192.0, "fewest keys in a split"),
    _C("skip_s", "s", 1e-11, 1e-14, 1e-8, "time per masked key visited and skipped outside the window"),
    _C("ungrouped_tile_s", "s", 2e-6, 1e-8, 5e-5, "prologue and epilogue of a thread block of the ungrouped kernel"),
    _C("ungrouped_bandwidth", "B/s", 4e10, 1e9, 1e12, "rate at which a core of the ungrouped kernel reads keys"),
    _C("idle_split_s", "s", 3e-8, 1e-9, 3e-5, "time of a wave of prepared but empty splits in a captured graph"),
    _C("query_passes", "1", 4.0, 0.01, 40.0, "additional passes over queries and new keys (rotary, cache write)"),
    _C("memory_efficiency", "1", 0.88, 0.2, 1.0, "sustained part of the memory bandwidth"),
    _C("overlap", "1", 2.9, 1.0, 6.0, "1: memory traffic adds to the main loop; large: it hides behind it"),
    _C("warm_ratio", "1", 2.0, 1.0, 8.0, "bandwidth of the last-level cache relative to memory"),
    _C("cache_share", "1", 0.6, 0.2, 1.0, "part of the last-level cache that keeps data between kernels"),
)


@formula(
    name="decode_attention_split",
    quantity="time",
    equation=(
        r"t_0 + \frac{V_q}{B} + \min_{\lambda \in \{1, s\}} \left( \left\|\,\max\left(\omega(x\lambda)"
        r"\left(\tau + \frac{ck}{\lambda}\right),\ \tau + \frac{\rho ck}{\lambda}\right),\ "
        r"\frac{s(V) V}{fB}\right\|_p + t_s[\lambda > 1] \right),\quad "
        r"s = \min\left(\frac{\rho}{x},\,s_{max},\,\frac{c}{c_s}\right)"
    ),
    source="split-KV decoding of Dao et al., Flash-Decoding, 2023, timed as waves of two kernels' blocks",
    valid={
        "batch": (1, 8192), "context": (1, 1048576), "heads": (1, 256), "kv_heads": (1, 256),
        "qk_head_dim": (32, 576), "v_head_dim": (32, 512), "queries": (1, 16),
    },
    coefficients=DECODE_COEFFICIENTS,
    attributes={
        "rows_per_tile": (1, 8, 16, 32, 64, 128),
        "grouped_min": (1, 2, 4, 128),
        "grouped_max": (32, 1000000),
        "ungrouped_window": (False, True),
        "ungrouped_splits": (True, False),
        "max_splits": (1, 8, 16, 32, 1000000),
        "graph_batch": (0, 512),
        "cold_latency": (False, True),
        "rows_min": (8, 16, 32, 64),
        "key_tile": (1, 64, 128),
        "whole_cache": (False, True),
        "grouping": ("inside", "copied", "prepared"),
        "grouped_blocks": (0, 0.25),
        "split_rule": SPLIT_RULES,
    },
)  # fmt: skip
def decode_attention_split(
    batch: Any,
    context: Any,
    heads: Any,
    kv_heads: Any,
    qk_head_dim: Any,
    v_head_dim: Any,
    window: Any,
    *,
    peak_flops: Any,
    memory_bandwidth: Any,
    cores: Any,
    queries: Any = 1.0,
    query_bytes: Any = 2.0,
    kv_bytes: Any = 2.0,
    kv_elements: Any = None,
    cache_bytes: Any = 0.0,
    launch_s: float = 8e-6,
    window_s: float = 2e-7,
    regroup_s: float = 6e-6,
    uneven_head_s: float = 1e-7,
    mma_efficiency: float = 0.5,
    wide_head: float = 0.05,
    tile_s: float = 2e-6,
    tile_width: float = 0.3,
    fill_bandwidth: float = 3e11,
    concurrency: float = 1.2,
    wave_softness: float = 0.1,
    split_s: float = 3.5e-6,
    split_keys: float = 96.0,
    skip_s: float = 1e-11,
    ungrouped_tile_s: float = 2e-6,
    ungrouped_bandwidth: float = 4e10,
    idle_split_s: float = 3e-8,
    query_passes: float = 4.0,
    memory_efficiency: float = 0.88,
    overlap: float = 2.9,
    warm_ratio: float = 2.0,
    cache_share: float = 0.6,
    rows_per_tile: int = 16,
    grouped_min: int = 1,
    grouped_max: int = 1000000,
    ungrouped_window: bool = False,
    ungrouped_splits: bool = True,
    max_splits: int = 1000000,
    graph_batch: int = 0,
    cold_latency: bool = False,
    rows_min: int = 8,
    key_tile: int = 1,
    whole_cache: bool = False,
    grouping: str = "inside",
    grouped_blocks: float = 0.0,
    split_rule: str = "filled",
) -> Floats:
    r"""Return the time of decode attention on one device.

    .. math:: t = t_0 + \frac{V_q}{B} + \min_{\lambda \in \{1, s\}} \left( \left\|
              \max\left(\omega(x\lambda)\left(\tau + \frac{c k}{\lambda}\right), \tau + \frac{\rho c k}{\lambda}\right),
              \frac{s(V) V}{fB}\right\|_p + t_s [\lambda > 1] \right), \qquad
              k = \mu \max\left(\frac{2 r (d_k + d_v) S}{e P}, \frac{u}{\beta}\right)

    with :math:`x` thread blocks per core, :math:`c` keys, :math:`k` seconds per key, and
    :math:`s = \min(\rho / x, s_{max}, c / c_s)` splits of the KV cache.

    Parameters
    ----------
    batch, context : float or array
        Sequences and keys of each, the new tokens included.
    heads, kv_heads : float or array
        Query heads and KV heads; latent attention in absorbed form has one KV head.
    qk_head_dim, v_head_dim : float or array
        Head dimension of queries and keys, and of values; 576 and 512 for absorbed latent attention.
    window : float or array
        Sliding window in tokens, 0 for none.
    peak_flops : float or array
        Dense peak of the format that the kernel computes in [FLOP/s].
    memory_bandwidth : float or array
        Memory bandwidth [B/s].
    cores : float or array
        Streaming multiprocessors or compute units.
    queries : float or array
        Queries per sequence, more than one with speculative decoding.
    query_bytes, kv_bytes : float or array
        Bytes per element of queries and of the KV cache [B].
    kv_elements : float or array, optional
        Elements per token and KV head in the cache; by default the sum of the head dimensions, 576 for latent vectors.
    cache_bytes : float or array
        Last-level cache that still holds the KV cache; zero where it is cold, as between layers of a model [B].
    launch_s, window_s, regroup_s, uneven_head_s : float
        Times that do not depend on the sizes: always, with a sliding window, where query heads are grouped by a kernel
        of its own (`grouping`), and where the head dimension of queries and keys is no power of two [s].
    mma_efficiency : float
        Sustained part of the peak.
    wide_head : float
        Slowdown per reference width beyond it.
    tile_s : float
        Prologue and epilogue of a thread block, for a head dimension of 128 [s].
    tile_width : float
        How far they grow with the head dimension: 0 not at all, 1 in proportion.
    fill_bandwidth : float
        Rate at which a core streams keys and values [B/s].
    concurrency : float
        Thread blocks that a core needs at once to reach that rate.
    wave_softness : float
        0 for whole waves, 1 for none.
    split_s : float
        Second kernel that combines splits [s].
    split_keys : float
        Fewest keys in a split.
    skip_s : float
        Time per key visited and skipped outside the window [s].
    ungrouped_tile_s : float
        As `tile_s`, of the kernel that reads the cache once per query head [s].
    ungrouped_bandwidth : float
        As `fill_bandwidth`, of that kernel [B/s].
    idle_split_s : float
        Time of a wave of empty splits [s].
    query_passes : float
        Additional passes over queries and new keys, in 16 bits.
    memory_efficiency : float
        Sustained part of the memory bandwidth.
    overlap : float
        Exponent of the overlap of main loop and memory traffic.
    warm_ratio, cache_share : float
        Bandwidth of the cache relative to memory; part of the cache that keeps data.
    rows_per_tile : int
        Query rows of a KV head that one thread block takes; 1: all of them, without padding.
    grouped_min, grouped_max : int
        Query heads per KV head for which the grouping kernel exists; outside, each query head reads the cache itself.
    ungrouped_window : bool
        Whether grouping is switched off by a sliding window.
    ungrouped_splits : bool
        Whether the kernel that does not group can split the KV cache.
    max_splits : int
        Most splits of a sequence.
    graph_batch : int
        Largest batch whose captured graph prepares a fixed number of splits; 0 for none.
    cold_latency : bool
        Whether a lone thread block is slower by `warm_ratio` where the KV cache comes from memory.
    rows_min : int
        Fewest rows of a tile, to which smaller groups of heads are padded; at least those of a matrix instruction.
    key_tile : int
        Keys in a block of the inner loop, which is computed whole however few of them there are.
    whole_cache : bool
        Whether the last-level cache keeps all that it holds until it is full, whatever `cache_share`, as large ones
        before GDDR memory do.
    grouping : str
        How the query heads of a KV head come together: "inside" the kernel; "copied" by kernels that move queries and
        outputs, with several sequences, KV heads and query heads for each, and without a window; "prepared" by a kernel
        that also rotates and writes the cache, where the grouping kernel runs. Only these make `query_passes` then.
    grouped_blocks : float
        Thread blocks per core, one for every `KEYS_PER_SPLIT` keys, below which query heads are not grouped.
    split_rule : str
        One of `SPLIT_RULES`: how the grouping kernel splits the KV cache. Those of libraries make their splits even if
        all cores are busy, and `max_splits` does not limit them.

    Returns
    -------
    float or numpy.ndarray
        Time of the kernels [s].

    Notes
    -----
    Differs from the source in that time steps where thread blocks fill another wave, where the keys fill another
    `key_tile` and where another kernel takes over (`grouped_min`, `grouped_max`, a window set at all). It falls, once,
    above `graph_batch`, where a rule stops splitting into "segments", and at `grouped_blocks`; and by less than half
    where another `split_rule` of a library makes one more split or one fewer.

    References
    ----------
    Dao, Haziza, Massa, Sizov, "Flash-Decoding for long-context inference", 2023.
    TensorRT-LLM, decoderXQAImplJIT.cpp, mayHavePerfGain (kEnableMinBlockFactor), for `grouped_blocks`.
    vLLM's FlashAttention 2, flash_api.cpp, seqlenq_ngroups_swapped, for heads that are "copied".
    Ainslie et al., "GQA: training generalized multi-query transformer models", arXiv:2305.13245.

    Examples
    --------
    >>> t = decode_attention_split(
    ...     64, 4096, 32, 8, 128, 128, 0, peak_flops=989e12, memory_bandwidth=3.35e12, cores=132
    ... )
    >>> round(float(t * 1e6), 1)
    373.7
    """
    sizes = {
        "batch": batch, "context": context, "heads": heads, "kv_heads": kv_heads, "qk": qk_head_dim, "v": v_head_dim,
        "window": window, "peak": peak_flops, "bandwidth": memory_bandwidth, "cores": cores, "queries": queries,
        "query_bytes": query_bytes, "kv_bytes": kv_bytes, "cache": cache_bytes,
        "elements": 0.0 if kv_elements is None else as_floats(kv_elements),
    }  # fmt: skip

    kept = 1.0 if whole_cache else cache_share

    def core(
        batch: Any, context: Any, heads: Any, kv_heads: Any, qk: Any, v: Any, window: Any, peak: Any, bandwidth: Any,
        cores: Any, queries: Any, query_bytes: Any, kv_bytes: Any, cache: Any, elements: Any,
    ) -> Any:  # fmt: skip
        elements = np.where(elements > 0.0, elements, qk + v)
        # Queries of a sequence share its keys: the window of the first reaches further back than that of the last.
        context = np.maximum(context, queries)
        keys = np.where(window > 0.0, np.minimum(window + queries - 1.0, context), context)
        computed = np.ceil(keys / key_tile) * key_tile
        group = heads / kv_heads
        rows = group * queries
        new = batch * queries
        nbytes = new * heads * (qk * query_bytes + v * OUTPUT_BYTES) + batch * keys * kv_heads * elements * kv_bytes
        share = cold_share(nbytes, kept * cache, warm_ratio, whole=whole_cache)
        memory = share * nbytes / (memory_efficiency * bandwidth)
        slowdown = 1.0 + wide_head * np.maximum(0.0, (qk + v) / REFERENCE_WIDTH - 1.0)
        widening = 1.0 + tile_width * ((qk + v) / REFERENCE_WIDTH - 1.0)
        row_key = 2.0 * (qk + v) * slowdown * cores / (mma_efficiency * peak)
        load = elements * kv_bytes * slowdown
        latency = concurrency * np.maximum(1.0, share * warm_ratio) if cold_latency else concurrency

        def loop(blocks: Any, per_block: Any, per_key: Any, most: float) -> Any:
            """Time of the main loop of `blocks` thread blocks in at most `most` splits, with its memory traffic."""
            x = blocks / cores
            waves = (1.0 - wave_softness) * np.ceil(x) + wave_softness * np.maximum(1.0, x)
            run = computed * per_key + np.maximum(context - computed, 0.0) * np.minimum(skip_s, per_key)
            whole = overlapped(np.maximum(waves * (per_block + run), per_block + latency * run), memory, overlap)
            splits = np.maximum(1.0, np.minimum(np.minimum(concurrency / x, most), computed / split_keys))
            busy = np.maximum(x * (splits * per_block + run), per_block + latency * run / splits)
            split = overlapped(busy, memory, overlap) + split_s
            return np.where(splits > 1.0, np.minimum(whole, split), whole)

        def ruled(blocks: Any, per_block: Any, per_key: Any) -> Any:
            """Time of the main loop in the splits that the library makes."""
            splits = library_splits(split_rule, blocks, context, cores)
            x = blocks * splits / cores
            waves = (1.0 - wave_softness) * np.ceil(x) + wave_softness * np.maximum(1.0, x)
            run = (computed * per_key + np.maximum(context - computed, 0.0) * np.minimum(skip_s, per_key)) / splits
            busy = np.maximum(waves * (per_block + run), per_block + latency * run)
            return overlapped(busy, memory, overlap) + np.where(splits > 1.0, split_s, 0.0)

        if rows_per_tile == 1:
            tiles, tile = 1.0, rows
        else:
            tiles = np.ceil(rows / rows_per_tile)
            tile = clipped(power_of_two(rows), min(rows_min, rows_per_tile), rows_per_tile)
        blocks, per_block = batch * kv_heads * tiles, tile_s * widening
        per_key = np.maximum(tile * row_key, load / fill_bandwidth)
        if split_rule == "filled":
            busy = loop(blocks, per_block, per_key, max_splits)
        else:
            busy = ruled(blocks, per_block, per_key)
        alone = (group < grouped_min) | (group > grouped_max)
        if grouped_blocks:
            most = batch * kv_heads * np.maximum(np.floor(context / KEYS_PER_SPLIT), 1.0)
            alone = alone | (most < grouped_blocks * cores)
        if ungrouped_window:
            alone = alone | ((window > 0.0) & (group > 1.0))
        if np.any(alone):
            per_key = np.maximum(queries * row_key, load / ungrouped_bandwidth)
            most = max_splits if ungrouped_splits else 1
            busy = np.where(alone, loop(batch * heads, ungrouped_tile_s * widening, per_key, most), busy)
        if graph_batch:
            idle = idle_split_s * np.ceil(batch * kv_heads * PADDED_SPLITS / cores)
            busy = busy + np.where(batch <= graph_batch, idle, 0.0)
        passes = 2.0 * query_passes * new * (heads * qk + kv_heads * elements) / bandwidth
        if grouping == "copied":
            # The query heads of a KV head lie together already for one sequence or one KV head.
            copied = (group > 1.0) & (batch > 1.0) & (kv_heads > 1.0) & (window <= 0.0)
            passes = np.where(copied, passes + regroup_s, 0.0)
        elif grouping == "prepared":
            passes = np.where(alone, 0.0, passes + regroup_s)
        fixed = launch_s + window_s * (window > 0.0) + uneven_head_s * (power_of_two(qk) != qk)
        return fixed + passes + busy

    return in_chunks(core, sizes)
