"""Time of prefill attention [s]: query tiles, waves, softmax, key blocks, extra passes over queries and keys."""

from typing import Any

import numpy as np

from perfmodel.arrays import Floats, as_floats, clipped
from perfmodel.costs.attention import OUTPUT_BYTES, cold_share, overlapped, power_of_two
from perfmodel.costs.chunks import in_chunks
from perfmodel.costs.registry import Coefficient, formula

KEY_TILE = 64.0
"""Keys in a block of the inner loop; half a block is computed in vain on average."""

REFERENCE_WIDTH = 256.0
"""Sum of the head dimensions for which `skip_s` is given: a head dimension of 128."""

_C = Coefficient
PREFILL_COEFFICIENTS = (
    _C("launch_s", "s", 1.2e-5, 5e-7, 1e-3, "launch gap and preparing kernels whose time does not depend on the sizes"),
    _C("window_s", "s", 2e-7, 1e-9, 2e-5, "extra kernels where a sliding window is set"),
    _C("uneven_head_s", "s", 1e-7, 1e-9, 3e-5, "extra kernels where the head dimension is no power of two (padding)"),
    _C("mma_efficiency", "1", 0.8, 0.02, 1.0, "sustained part of the dense peak inside the main loop"),
    _C(
        "softmax_dims", "1", 40.0, 0.1, 400.0, "cost of one exponential, as additional elements of both head dimensions"
    ),
    _C("wide_head", "1", 0.1, 1e-3, 12.0, "slowdown for wide heads, per reference width above it (registers, spills)"),
    _C("tile_s", "s", 2.6e-6, 1e-8, 5e-5, "prologue and epilogue of one query tile"),
    _C("fill_bandwidth", "B/s", 1e11, 3e9, 1e12, "rate at which one core is fed with keys and values"),
    _C("skip_s", "s", 6e-10, 1e-13, 2e-7, "time per masked key that a tile visits and skips outside the window"),
    _C("wave_softness", "1", 0.02, 0.01, 1.0, "0: whole waves of tiles; 1: persistent schedule without waves"),
    _C("memory_efficiency", "1", 0.85, 0.1, 1.0, "sustained part of the memory bandwidth"),
    _C("query_passes", "1", 0.8, 0.01, 20.0, "additional passes over the queries before the kernel (rotary, quantise)"),
    _C("kv_passes", "1", 2.0, 0.01, 40.0, "additional passes over new keys and values (rotary, cache write, convert)"),
    _C("overlap", "1", 1.1, 1.0, 6.0, "1: memory traffic adds to the main loop; large: it hides behind it"),
    _C("warm_ratio", "1", 1.5, 1.0, 8.0, "bandwidth of the last-level cache relative to memory"),
    _C("cache_share", "1", 0.5, 0.2, 1.0, "part of the last-level cache that keeps data between kernels"),
)


@formula(
    name="prefill_attention_tiled",
    quantity="time",
    equation=(
        r"t_0 + \frac{s(V) V_p}{B} + \left\|\,\max\left(\omega(x)\,T(\bar k),\,T(k_{max})\right),\ "
        r"\frac{s(V) V}{fB}\right\|_p,\quad T(k) = \tau + k\max\left(\frac{2r(d_k+d_v+2d_0)\mu S}{eP},"
        r"\frac{u}{\beta}\right) + \sigma(k_{seen} - k)"
    ),
    source="tiling and causal schedule of Dao, FlashAttention-2, arXiv:2307.08691, timed as waves of query tiles",
    valid={
        "batch": (1, 4096), "tokens": (1, 131072), "context": (1, 1048576), "heads": (1, 256), "kv_heads": (1, 256),
        "qk_head_dim": (32, 576), "v_head_dim": (32, 512),
    },
    coefficients=PREFILL_COEFFICIENTS,
    attributes={
        "tile_rows": (32, 64, 128, 256),
        "tile_rows_256": (32, 64, 128, 256),
        "tile_rows_512": (16, 32, 64, 128),
        "tile_rows_min": (16, 32, 64, 128, 256),
        "packing": ("none", "short", "always"),
        "head_multiple": (1, 128),
        "wide_from": (256, 384),
        "absorbed": (False, True),
    },
)  # fmt: skip
def prefill_attention_tiled(
    batch: Any,
    tokens: Any,
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
    query_bytes: Any = 2.0,
    kv_bytes: Any = 2.0,
    kv_elements: Any = None,
    cache_bytes: Any = 0.0,
    causal: bool = True,
    latent_dim: float = 512.0,
    launch_s: float = 1.2e-5,
    window_s: float = 2e-7,
    uneven_head_s: float = 1e-7,
    mma_efficiency: float = 0.8,
    softmax_dims: float = 40.0,
    wide_head: float = 0.1,
    tile_s: float = 2.6e-6,
    fill_bandwidth: float = 1e11,
    skip_s: float = 6e-10,
    wave_softness: float = 0.02,
    memory_efficiency: float = 0.85,
    query_passes: float = 0.8,
    kv_passes: float = 2.0,
    overlap: float = 1.1,
    warm_ratio: float = 1.5,
    cache_share: float = 0.5,
    tile_rows: int = 128,
    tile_rows_256: int = 128,
    tile_rows_512: int = 64,
    tile_rows_min: int = 16,
    packing: str = "none",
    head_multiple: int = 1,
    wide_from: int = 256,
    absorbed: bool = False,
) -> Floats:
    r"""Return the time of prefill attention on one device.

    .. math:: t = t_0 + \frac{s V_p}{B} + \left\|\max(\omega(x) T(\bar k), T(k_{max})),
              \frac{s V}{fB}\right\|_p, \qquad
              T(k) = \tau + k \max\left(\frac{2r(d_k+d_v+2d_0)\mu S}{eP}, \frac{u}{\beta}\right)
              + \sigma (k_{seen} - k)

    A tile of :math:`r` query rows walks over its keys; :math:`x` tiles per core run in waves
    :math:`\omega(x) = (1-\phi)\lceil x \rceil + \phi \max(1, x)`, and the last tile, which sees most keys, is not cut.

    Parameters
    ----------
    batch, tokens, context : float or array
        Sequences, queries of each, keys of each: the queries are the last `tokens` of the context.
    heads, kv_heads : float or array
        Query heads and KV heads.
    qk_head_dim, v_head_dim : float or array
        Head dimension of queries and keys, and of values.
    window : float or array
        Sliding window in tokens, 0 for none.
    peak_flops : float or array
        Dense peak of the format that the kernel computes in [FLOP/s].
    memory_bandwidth : float or array
        Memory bandwidth [B/s].
    cores : float or array
        Streaming multiprocessors or compute units.
    query_bytes, kv_bytes : float or array
        Bytes per element of queries and of keys and values [B].
    kv_elements : float or array, optional
        Elements per token and KV head; by default the sum of the head dimensions.
    cache_bytes : float or array
        Last-level cache that still holds the operands; zero where they are cold [B].
    causal : bool
        Whether a query sees only the keys up to its own position.
    latent_dim : float
        Rank of the latent vector of latent attention, used where `absorbed`.
    launch_s, window_s, uneven_head_s : float
        Times that do not depend on the sizes: always, with a sliding window, and where the head dimension of queries
        and keys is no power of two [s].
    mma_efficiency : float
        Sustained part of the peak.
    softmax_dims : float
        Cost of an exponential, as elements of a head dimension.
    wide_head : float
        Slowdown per reference width beyond `wide_from`.
    tile_s : float
        Prologue and epilogue of a tile [s].
    fill_bandwidth : float
        Rate at which a core receives keys and values [B/s].
    skip_s : float
        Time per key visited and skipped outside the window, for a width of 256 [s].
    wave_softness : float
        0 for whole waves, 1 for none.
    memory_efficiency : float
        Sustained part of the memory bandwidth.
    query_passes, kv_passes : float
        Additional passes over the queries, and over new keys and values, in 16 bits.
    overlap : float
        Exponent of the overlap of main loop and memory traffic.
    warm_ratio, cache_share : float
        Bandwidth of the cache relative to memory; part of the cache that keeps data.
    tile_rows, tile_rows_256, tile_rows_512, tile_rows_min : int
        Largest query tile for head dimensions up to 128, up to 256 and above; smallest tile, which short queries get.
    packing : {"none", "short", "always"}
        Whether the query heads of a KV head share a tile: never, where that is faster, always.
    head_multiple : int
        Multiple to which the kernel pads head dimensions.
    wide_from : int
        Sum of the head dimensions from which heads count as wide.
    absorbed : bool
        Whether latent attention runs in its absorbed form: one KV head of `latent_dim` elements plus the rotary part
        (the difference of the two head dimensions given).

    Returns
    -------
    float or numpy.ndarray
        Time of the kernels [s].

    Notes
    -----
    Differs from the source in that time steps where the tile or the number of waves changes: the next tile size,
    another head-dimension class, the first waves, and a window set at all. Additional passes count new tokens only.

    References
    ----------
    Dao, "FlashAttention-2: faster attention with better parallelism and work partitioning", arXiv:2307.08691.
    Shah et al., "FlashAttention-3", arXiv:2407.08608, for the cost of exponentials beside matrix instructions.

    Examples
    --------
    >>> t = prefill_attention_tiled(
    ...     1, 8192, 8192, 32, 8, 128, 128, 0, peak_flops=989e12, memory_bandwidth=3.35e12, cores=132
    ... )
    >>> round(float(t * 1e3), 2)
    1.09
    """
    sizes = {
        "batch": batch, "tokens": tokens, "context": context, "heads": heads, "kv_heads": kv_heads,
        "qk": qk_head_dim, "v": v_head_dim, "window": window, "peak": peak_flops, "bandwidth": memory_bandwidth,
        "cores": cores, "query_bytes": query_bytes, "kv_bytes": kv_bytes, "cache": cache_bytes,
        "elements": 0.0 if kv_elements is None else as_floats(kv_elements),
    }  # fmt: skip

    def core(
        batch: Any, tokens: Any, context: Any, heads: Any, kv_heads: Any, qk: Any, v: Any, window: Any,
        peak: Any, bandwidth: Any, cores: Any, query_bytes: Any, kv_bytes: Any, cache: Any, elements: Any,
    ) -> Any:  # fmt: skip
        if absorbed:
            qk, v, elements = latent_dim + qk - v, latent_dim, latent_dim + qk - v
            kv_heads = 1.0
        elements = np.where(elements > 0.0, elements, qk + v)
        context = np.maximum(context, tokens)
        past = context - tokens
        keys = np.where(window > 0.0, np.minimum(window, context), context)
        width = head_multiple * (np.ceil(qk / head_multiple) + np.ceil(v / head_multiple))
        largest = np.where(width > 512.0, tile_rows_512, np.where(width > 256.0, tile_rows_256, tile_rows))
        slowdown = 1.0 + wide_head * np.maximum(0.0, width / wide_from - 1.0)
        row_key = 2.0 * (width + 2.0 * softmax_dims) * slowdown * cores / (mma_efficiency * peak)
        load = elements * kv_bytes / fill_bandwidth

        def loop(rows: Any, workers: Any, rows_per_token: Any) -> Any:
            """Time of the main loop: `workers` heads of `rows` query rows in each sequence."""
            tile = clipped(power_of_two(rows), np.minimum(tile_rows_min, largest), largest)
            tiles = np.ceil(rows / tile)
            span = tile / rows_per_token
            # Tile j sees the keys up to its last query, at most a window and its own tokens: the sum over j.
            full = keys + span
            growing = clipped(np.floor((full - past) / span), 0.0, tiles)
            longest = np.minimum(context, full)
            total = growing * (past + 0.5 * span * (growing + 1.0)) + (tiles - growing) * full
            total = total - np.maximum(0.0, np.minimum(past + tiles * span, full) - longest)
            mean = total / tiles if causal else keys
            longest = longest if causal else keys
            per_key = np.maximum(tile * row_key, load)
            skip = np.minimum(skip_s * width / REFERENCE_WIDTH, per_key)
            unseen = np.maximum(0.0, past + 0.5 * span * (tiles + 1.0) - mean) if causal else context - keys
            x = batch * workers * tiles / cores
            waves = (1.0 - wave_softness) * np.ceil(x) + wave_softness * np.maximum(1.0, x)
            edge = tile_s + 0.5 * KEY_TILE * per_key
            return np.maximum(
                waves * (edge + mean * per_key + unseen * skip),
                edge + longest * per_key + np.maximum(0.0, context - longest) * skip,
            )

        group = heads / kv_heads
        busy = loop(tokens * group, kv_heads, group) if packing == "always" else loop(tokens, heads, 1.0)
        if packing == "short":
            busy = np.minimum(busy, loop(tokens * group, kv_heads, group))
        read = np.minimum(context, tokens + keys)
        nbytes = batch * (
            tokens * heads * (qk * query_bytes + v * OUTPUT_BYTES) + read * kv_heads * elements * kv_bytes
        )
        passes = 2.0 * batch * tokens * (query_passes * heads * qk + kv_passes * kv_heads * elements)
        share = cold_share(nbytes, cache_share * cache, warm_ratio) / bandwidth
        fixed = launch_s + window_s * (window > 0.0) + uneven_head_s * (power_of_two(qk) != qk)
        return fixed + share * passes + overlapped(busy, share * nbytes / memory_efficiency, overlap)

    return in_chunks(core, sizes)
