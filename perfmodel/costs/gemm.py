"""Time of a matrix multiplication [s]: tiles, waves, split-K, pipeline floor, cache, activation quantisation."""

from typing import Any

import numpy as np

from perfmodel.arrays import Floats, clipped
from perfmodel.costs.chunks import in_chunks
from perfmodel.costs.registry import Coefficient, formula
from perfmodel.costs.tiles import ANY, HOST_LAUNCHES, TILES
from perfmodel.errors import UnknownNameError

SPLIT_DEPTH = 256.0
"""Shortest part of the inner dimension that a split-K kernel gives to one core."""

RESIDENCY_RAMP = 0.12
"""Working set beyond the cache, relative to the cache, at which nothing of it is found there any more."""

THROTTLE_TIME_S = 5e-3
"""Kernel time at which half of the sustained-clock loss has set in [s]."""

MEMORY_RAMP_S = 5e-7
"""Time that the memory system takes to reach its rate, about one round trip; shorter transfers see part of it [s]."""

SHORTEST_DEPTH = 64.0
"""Elements of the inner dimension in one step of the pipeline; a shorter inner dimension is padded to it."""

_C = Coefficient
COEFFICIENTS = (
    _C("launch_s", "s", 2.5e-6, 2e-7, 6e-4, "launch gap; with the host in the loop: host time of one launch"),
    _C("compute_efficiency", "1", 0.8, 0.2, 1.0, "sustained part of the dense peak inside the main loop"),
    _C("memory_efficiency", "1", 0.87, 0.3, 1.0, "sustained part of the memory bandwidth"),
    _C("fill_bandwidth", "B/s", 2.0e11, 1e10, 2e12, "rate at which one core is fed with operands"),
    _C("store_bandwidth", "B/s", 6.0e10, 1e9, 2e12, "rate at which one core stores its output tile"),
    _C("tile_s", "s", 5e-7, 1e-8, 2e-5, "prologue and epilogue of one tile"),
    _C("depth_s", "s", 1e-9, 1e-11, 5e-9, "pipeline latency per element of the inner dimension"),
    _C("wave_softness", "1", 0.7, 0.0, 1.0, "0: whole waves of tiles; 1: persistent or stream-K schedule"),
    _C("throttle", "1", 0.2, 0.0, 1.5, "relative slowdown of kernels much longer than 5 ms (power, clocks)"),
    _C("split_s", "s", 2.5e-6, 1e-7, 3e-5, "extra time of a split-K reduction"),
    _C("reduce_bandwidth", "B/s", 4e10, 2e9, 2e12, "rate at which one core exchanges partial sums of a split"),
    _C("odd_row_factor", "1", 1.0, 1.0, 2.0, "main-loop slowdown above 64 tokens that are no multiple of four"),
    _C("quantise_efficiency", "1", 0.5, 0.1, 1.0, "part of the memory bandwidth of the activation quantisation"),
    _C("quantise_row_s", "s", 1e-9, 1e-11, 3e-8, "time per token of the activation quantisation"),
    _C("cache_speedup", "1", 1.3, 1.0, 5.0, "bandwidth of activations found in the cache, relative to memory"),
    _C("weight_speedup", "1", 1.0, 1.0, 5.0, "bandwidth of weights found in the cache, as benchmarks may do"),
)


@formula(
    name="gemm_tiled",
    quantity="time",
    equation=(
        r"t_0 + \min\left(\sqrt{\Theta(b)^2 + M^2},\ \sqrt{\Theta(b_s)^2 + M^2} + t_s\right) + q,\quad "
        r"b = \min_{(t_m, t_n)} c\,(\tau + k\kappa),\quad "
        r"b_s = \min_{(t_m, t_n)} \tau + \frac{k\kappa}{s} + \rho,\quad "
        r"\Theta(b) = b\left(1 + \frac{\theta b}{b + 5\,\mathrm{ms}}\right)"
    ),
    source="tile, wave and split-K quantisation after Osama et al., Stream-K, PPoPP 2023 (arXiv:2301.03598)",
    valid={"tokens": (1, 65536), "out_features": (32, 262144), "in_features": (32, 262144)},
    coefficients=COEFFICIENTS,
    attributes={
        "tiles": tuple(TILES),
        "split_k": (False, True),
        "quantise": (False, True),
        "host": HOST_LAUNCHES,
    },
)
def gemm_tiled(
    tokens: Any,
    out_features: Any,
    in_features: Any,
    *,
    peak_flops: Any,
    memory_bandwidth: Any,
    cache_bytes: Any,
    cores: Any,
    weight_bytes: Any,
    activation_bytes: Any,
    output_bytes: Any = 2.0,
    weight_copies: Any = np.inf,
    cache_bandwidth: Any = np.inf,
    memory_ramp_s: Any = MEMORY_RAMP_S,
    launch_s: Any = 2.5e-6,
    compute_efficiency: Any = 0.8,
    memory_efficiency: Any = 0.87,
    fill_bandwidth: Any = 2.0e11,
    store_bandwidth: Any = 6.0e10,
    tile_s: Any = 5e-7,
    depth_s: Any = 1e-9,
    wave_softness: Any = 0.7,
    throttle: Any = 0.2,
    split_s: Any = 2.5e-6,
    reduce_bandwidth: Any = 4e10,
    odd_row_factor: Any = 1.0,
    quantise_efficiency: Any = 0.5,
    quantise_row_s: Any = 1e-9,
    cache_speedup: Any = 1.3,
    weight_speedup: Any = 1.0,
    tiles: str = "library",
    split_k: bool = True,
    quantise: bool = False,
    host: str = "hidden",
) -> Floats:
    r"""Return the time of one matrix multiplication on one device.

    .. math::

        t = t_0 + \min\left(\sqrt{\Theta(b)^2 + M^2}, \sqrt{\Theta(b_s)^2 + M^2} + t_s\right) + q, \qquad
        b = \min_{(t_m, t_n)} c\,(\tau + k\kappa), \qquad
        b_s = \min_{(t_m, t_n)} \tau + \frac{k\kappa}{s} + \rho, \qquad
        \Theta(b) = b\left(1 + \frac{\theta b}{b + 5\,\mathrm{ms}}\right)

    A tile costs :math:`\tau` (prologue, output) and :math:`\kappa` per element of the inner dimension: multiplying,
    feeding and the pipeline's latency, which hide behind each other in part (root of the sum of squares). :math:`x`
    tiles per core take :math:`c` waves between :math:`x` and :math:`\lceil x \rceil`; fewer tiles than cores may split
    the inner dimension :math:`s = 1/x` times at the price of a reduction :math:`t_s` and of exchanging partial sums
    :math:`\rho`. Power limits stretch long multiplications by :math:`\Theta`. :math:`M` moves what misses the cache at
    memory speed and the rest faster.

    Parameters
    ----------
    tokens, out_features, in_features : float or array
        Rows of the activations, columns of the weights, inner dimension.
    peak_flops : float or array
        Dense peak of the operand format [FLOP/s].
    memory_bandwidth : float or array
        Memory bandwidth [B/s].
    cache_bytes : float or array
        Last-level cache [B].
    cores : float or array
        Streaming multiprocessors or compute units.
    weight_bytes, activation_bytes, output_bytes : float or array
        Bytes per element, scale factors included [B].
    weight_copies : float or array
        Different weights used between two uses of the same ones: infinite in a model, a few in a benchmark.
    cache_bandwidth : float or array
        Bandwidth of the last-level cache, where the profile has one: the ceiling for cached bytes [B/s].
    memory_ramp_s : float or array
        Time that the memory system takes to reach its rate [s].
    launch_s : float or array
        Launch gap, or the host's time per launch where `host` is not hidden [s].
    compute_efficiency, memory_efficiency : float or array
        Sustained parts of peak and bandwidth [1].
    fill_bandwidth, store_bandwidth : float or array
        Operand feed and output store of one core [B/s].
    tile_s : float or array
        Prologue and epilogue of a tile; nothing where `split_k`, whose `split_s` stands for it [s].
    depth_s : float or array
        Pipeline latency per element of the inner dimension [s].
    wave_softness : float or array
        0 for whole waves, 1 for a persistent schedule; used where `split_k`, whole waves elsewhere [1].
    throttle : float or array
        Slowdown of long kernels [1].
    split_s : float or array
        Reduction of a split inner dimension [s].
    reduce_bandwidth : float or array
        Rate at which a core writes and reads partial sums of a split [B/s].
    odd_row_factor : float or array
        Slowdown above 64 tokens where they are no multiple of four (where not `split_k`); with the host in the loop
        there is none, the padding is launched instead [1].
    quantise_efficiency : float or array
        Part of the memory bandwidth that the quantisation pass reaches [1].
    quantise_row_s : float or array
        Quantisation per token, one thread block each [s].
    cache_speedup, weight_speedup : float or array
        Bandwidth of activations, and of weights, that are found in the cache, relative to memory [1].
    tiles : str
        Tile menu, a key of `TILES`.
    split_k : bool
        Whether the kernel family splits the inner dimension.
    quantise : bool
        Whether the time includes quantising the activations from the output format.
    host : str
        How often the host launches, where that is not hidden; one of `HOST_LAUNCHES`.

    Returns
    -------
    float or numpy.ndarray
        Time [s], never below `gemm_bound` of the same arguments.

    Raises
    ------
    UnknownNameError
        If there is no such tile menu or host mode.

    Notes
    -----
    Rises with every size except in these places: above 64 tokens that are no multiple of four it lies higher by at most
    `odd_row_factor`; where a menu that dispatches on tokens changes its tile it may fall, by less than half; with
    ``host`` "padded" or "staged" the launch count falls at multiples of four and where a side reaches 64 or 128.
    Differs from Stream-K's own model in the cache terms, the pipeline floor and the overlap of the two resources.

    References
    ----------
    Osama, Merrill, Cecka, Garland, Owens, "Stream-K", PPoPP 2023, arXiv:2301.03598.

    Examples
    --------
    >>> h100 = dict(peak_flops=989e12, memory_bandwidth=3.35e12, cache_bytes=50 * 2**20, cores=132)
    >>> t = gemm_tiled(4096, 4096, 4096, weight_bytes=2, activation_bytes=2, **h100)
    >>> float(t * 1e6)
    186.9
    """
    if tiles not in TILES:
        raise UnknownNameError("tile menu", tiles, TILES)
    if host not in HOST_LAUNCHES:
        raise UnknownNameError("host launch mode", host, HOST_LAUNCHES)
    # Tiles lie along the first axis: all of them are timed in one call.
    rows, columns, above, upto = (np.array(values)[:, None] for values in zip(*TILES[tiles], strict=True))
    dispatched = bool(np.any(above > 0) or np.any(upto < ANY))

    def core(
        m: Any, n: Any, k: Any, peak: Any, bandwidth: Any, cache: Any, cores: Any, w: Any, a: Any, o: Any, copies: Any,
        launch: Any, e: Any, f: Any, fill: Any, store: Any, tile: Any, depth: Any, soft: Any, theta: Any, split: Any,
        reduce: Any, odd: Any, quant: Any, row: Any, speedup: Any, weight_speedup: Any, ceiling: Any,
        ramp: Any,
    ) -> Any:  # fmt: skip
        deep = np.maximum(k, SHORTEST_DEPTH)
        weights, rest = n * k * w, m * (k * a + n * o)
        # Bytes count less by this part where they are found in the cache: all of them while the working set fits.
        gain = 1.0 - 1.0 / speedup
        warm_rest = gain * clipped(1.0 - ((weights + rest) / cache - 1.0) / RESIDENCY_RAMP, 0.0, 1.0)
        warm_weights = clipped(1.0 - ((copies * weights + rest) / cache - 1.0) / RESIDENCY_RAMP, 0.0, 1.0)
        warm_weights = (1.0 - 1.0 / weight_speedup) * warm_weights
        memory = (weights * (1.0 - warm_weights) + rest * (1.0 - warm_rest)) / (f * bandwidth)
        memory = memory + ramp * (memory / (memory + ramp))
        memory = np.maximum(memory, (weights + rest) / ceiling)
        memory_squared = memory * memory
        unaligned = np.mod(m, 4.0) != 0.0
        if not split_k and host == "hidden":
            deep = deep * np.where(unaligned & (m > 64.0), odd, 1.0)
        prologue = 0.0 if split_k else tile
        # Parts are as many as leave no core idle, and none is shallower than the shortest: both as inverses.
        shallowest = np.minimum(SPLIT_DEPTH / k, 1.0)
        splits = shallowest < 1.0
        used_rows, used_columns = np.minimum(m, rows), np.minimum(n, columns)
        used_area = used_rows * used_columns
        per_core = np.ceil(m / rows) * np.ceil(n / columns) / cores
        # Multiplying, feeding and latency hide behind each other unless they are equally long: norm of order four.
        rate = 2.0 * rows * columns * cores / (e * peak)
        feed = (used_rows * (a / fill) + used_columns * (w / fill)) ** 2
        loop = deep * np.sqrt(np.sqrt(feed * feed + (rate**4 + depth**4)))
        ends = prologue + used_area * (o / store)
        waves = np.maximum(np.ceil(per_core), 1.0)
        if split_k:
            waves = waves + soft * (np.maximum(per_core, 1.0) - waves)
        time = waves * (ends + loop)
        exists: Any = True
        if dispatched:
            exists = (m > above) & (m <= upto)
            time = np.where(exists, time, np.inf)
        busy = time.min(axis=0)

        def overlapped(time: Any) -> Any:
            time = time + theta * time * (time / (time + THROTTLE_TIME_S))
            return np.sqrt(time * time + memory_squared)

        time = overlapped(busy)
        if split_k:
            # Partial sums are written and read again in fp32 by the cores that hold them.
            sums = np.minimum(per_core, shallowest) / shallowest * used_area * (8.0 / reduce)
            short = ends + sums + loop * np.maximum(per_core, shallowest)
            parted = np.where((per_core < 1.0) & splits & exists, short, np.inf).min(axis=0)
            time = np.minimum(time, overlapped(np.minimum(parted, busy)) + split)
        if quantise:
            # One pass over the activations: bytes, or a thread block per token where rows are short.
            per_row = k * (o + a) * (1.0 - warm_rest) / (quant * bandwidth)
            time = time + m * np.sqrt(per_row * per_row + row * row)
        if host == "hidden":
            return launch + time
        launches: Any = 1.0
        if host == "padded":
            launches = np.where(unaligned, 4.0, 3.0)
        elif host == "staged":
            launches = np.where((n < 64.0) | (k < 128.0), 6.0, np.where(m > 16.0, 3.0, 2.0))
        return np.maximum(launches * launch, time)

    return in_chunks(
        core,
        {
            "m": tokens, "n": out_features, "k": in_features, "peak": peak_flops, "bandwidth": memory_bandwidth,
            "cache": cache_bytes, "cores": cores, "w": weight_bytes, "a": activation_bytes, "o": output_bytes,
            "copies": weight_copies, "launch": launch_s, "e": compute_efficiency, "f": memory_efficiency,
            "fill": fill_bandwidth, "store": store_bandwidth, "tile": tile_s, "depth": depth_s, "soft": wave_softness,
            "theta": throttle, "split": split_s, "reduce": reduce_bandwidth, "odd": odd_row_factor,
            "quant": quantise_efficiency, "row": quantise_row_s, "speedup": cache_speedup,
            "weight_speedup": weight_speedup, "ceiling": cache_bandwidth,
            "ramp": memory_ramp_s,
        },
        planes=len(rows),
    )  # fmt: skip
