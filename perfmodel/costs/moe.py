"""Seconds of the routed experts of a layer on its busiest rank: routing, grouped products, activation, permutation."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from perfmodel.arrays import Floats
from perfmodel.costs.chunks import in_chunks
from perfmodel.costs.expert_load import expert_load
from perfmodel.costs.moe_tiles import MENUS, product_time, tile_choice
from perfmodel.costs.registry import Coefficient, formula
from perfmodel.errors import UnknownNameError

RESIDENT_SPEED = 4.0
"""How much faster weights come from the last-level cache than from memory, at least."""

REMOTE = ("skipped", "passed", "multiplied", "joined")
"""Rows that belong to other ranks: not touched, touched by element-wise passes only, multiplied as well, or
multiplied for the tokens that have an expert on the rank."""


COEFFICIENTS = (
    Coefficient("launch_s", "s", 1e-5, 1e-6, 1e-4, "launches of all kernels of the layer"),
    Coefficient("scan_s", "s", 1e-6, 0.0, 6e-6, "routing and prefix sums, per doubling of the tokens"),
    Coefficient("pair_s", "s", 3e-10, 0.0, 2e-8, "routing, per token-expert pair"),
    Coefficient("expert_s", "s", 1.2e-8, 0.0, 4e-7, "scheduling, per routed expert"),
    Coefficient("flops_efficiency", "1", 0.65, 0.03, 1.0, "sustained part of the peak inside a tile"),
    Coefficient("bandwidth_efficiency", "1", 0.9, 0.1, 1.0, "sustained part of the memory bandwidth"),
    Coefficient("fill_rate", "B/s", 1.2e11, 5e9, 2e12, "operand bytes that reach one core per second"),
    Coefficient("step_s", "s", 1e-7, 1e-9, 2e-6, "latency of one pipeline step of a tile"),
    Coefficient("tile_s", "s", 1e-6, 1e-8, 3e-5, "prologue and epilogue of a tile"),
    Coefficient("overlap", "1", 2.0, 1.0, 8.0, "overlap of arithmetic and memory: 1 none, large full"),
    Coefficient("pass_efficiency", "1", 0.6, 0.05, 1.0, "part of the memory bandwidth in element-wise passes"),
    Coefficient("cache_share", "1", 0.6, 0.1, 1.0, "part of the last-level cache that keeps weights between calls"),
)


def _layer(tiles: str, remote_rows: str, cached_passes: bool, n: Mapping[str, Any]) -> Any:
    """Time of the layer for one chunk of broadcast arguments."""
    menu = MENUS[tiles]
    t, h, k, e = n["tokens"], n["hidden"], n["topk"], n["experts"]
    width = n["intermediate"] / n["tensor_ranks"]
    matrices = 2.0 + n["gated"]
    load = expert_load(t, e, k, n["expert_ranks"], n["skew"], random=n["random"] != 0.0)
    touched = {"skipped": load.rows, "joined": load.tokens * k}.get(remote_rows, t * k)
    touched = np.maximum(touched, load.rows)
    multiplied = load.rows if remote_rows == "passed" else touched
    heights = menu.columns(np.ndim(load.rows))[0]
    counts = load.tiles(heights) + (multiplied - load.rows) / heights
    weights = load.active * matrices * h * width * n["weight_bytes"]
    kept = n["cache_share"] * n["cache_bytes"] / np.maximum(weights, 1.0)
    kept = np.where(n["warm"] != 0.0, kept, 0.0) ** 2
    missed = 1.0 / (1.0 + kept * kept)
    cold = missed + (1.0 - missed) / RESIDENT_SPEED
    rate = n["bandwidth_efficiency"] * n["memory_bandwidth"]
    chosen = tile_choice(menu, t, e / n["expert_ranks"], k)
    up, out = (matrices - 1.0) * width, h
    moved = load.active * n["weight_bytes"] * cold
    time = n["launch_s"] + n["scan_s"] * np.log2(1.0 + t) + n["pair_s"] * t * k + n["expert_s"] * e
    for columns, depth in ((up, h), (out, width)):
        rows_bytes = load.rows * (depth * n["activation_bytes"] + 2.0 * columns)
        memory_s = (moved * columns * depth + rows_bytes) / rate
        time = time + product_time(load, counts, columns, depth, memory_s, chosen, menu, n)
    passes = 4.0 * t * h + touched * (4.0 * h + 2.0 * (up + width))
    if cached_passes:
        # One pass moves about half of the sum, and the next one finds it in the cache as far as it fits.
        held = (2.0 * n["cache_bytes"] / np.maximum(passes, 1.0)) ** 2
        missed = 1.0 / (1.0 + held * held)
        passes = passes * (missed + (1.0 - missed) / RESIDENT_SPEED)
    time = time + passes / (n["pass_efficiency"] * n["memory_bandwidth"])
    compute_s = 2.0 * matrices * load.rows * h * width / n["peak_flops"]
    return np.where(t > 0.0, np.maximum(time, compute_s), 0.0)


@formula(
    name="experts_grouped",
    quantity="time",
    equation=r"t = t_0 + t_s \log_2(1 + T) + t_p T k + t_e E + \sum_{g=1}^{2} \left\|\min_{tile} c_g, "
    r"\frac{E_a N_g K_g w + R (K_g a + 2 N_g)}{f B}\right\|_p + \frac{4 T H + R' (4 H + 2 M I / tp)}{f_a B}",
    source="Derived: wave-quantised grouped products under a routing distribution; tile menus and choices as published "
    "in the sources of TensorRT-LLM, FlashInfer, SGLang and vLLM; cf. arXiv 2211.15841 (MegaBlocks).",
    valid={"tokens": (0, 2**20), "experts": (1, 2**12), "topk": (1, 64), "expert_ranks": (1, 1024)},
    coefficients=COEFFICIENTS,
    attributes={
        "tiles": tuple(MENUS),
        "remote_rows": REMOTE,
        "unpacked": (False, True),
        "cached_passes": (False, True),
    },
)
def experts_grouped(
    tokens: Floats,
    hidden: Floats,
    intermediate: Floats,
    experts: Floats,
    topk: Floats,
    expert_ranks: Floats = 1.0,
    tensor_ranks: Floats = 1.0,
    *,
    gated: Any = True,
    skew: Floats = 0.0,
    random: Any = False,
    warm: Any = False,
    peak_flops: Floats,
    memory_bandwidth: Floats,
    cores: Floats,
    weight_bytes: Floats,
    activation_bytes: Floats,
    cache_bytes: "Floats | None" = None,
    tiles: str = "grouped",
    remote_rows: str = "skipped",
    unpacked: bool = False,
    cached_passes: bool = False,
    launch_s: Floats = 1e-5,
    scan_s: Floats = 1e-6,
    pair_s: Floats = 3e-10,
    expert_s: Floats = 1.2e-8,
    flops_efficiency: Floats = 0.65,
    bandwidth_efficiency: Floats = 0.9,
    fill_rate: Floats = 1.2e11,
    step_s: Floats = 1e-7,
    tile_s: Floats = 1e-6,
    overlap: Floats = 2.0,
    pass_efficiency: Floats = 0.6,
    cache_share: Floats = 0.6,
) -> Floats:
    r"""Time of the routed experts of one layer on the busiest rank, from router logits to reduced output.

    .. math:: t = t_0 + t_s \log_2(1 + T) + t_p T k + t_e E + \sum_{g=1}^{2} \left\|\min_{tile} c_g,
        \frac{E_a N_g K_g w + R (K_g a + 2 N_g)}{f B}\right\|_p + \frac{4 T H + R' (4 H + 2 M I / tp)}{f_a B}

    The grouped products are (N, K) = (2 I / tp, H) and (H, I / tp), the first half as wide without a gate. A tile
    takes the slowest of arithmetic, operand supply and pipeline latency, tiles run in waves over the cores, and the
    products overlap with memory in a p-norm. Rows per expert follow `expert_load`.

    Steps: the time is stepwise in the sizes where a tile or a wave begins, where the menus "averaged" and "narrow"
    double their tile with the mean rows per expert, where "triton" leaves its small tile (more tokens than local
    experts), and where the picks pass the number of experts (the power law changes its ends). At the last three
    steps more tokens may take less time, never less than half for twice the tokens; elsewhere the time rises.

    Parameters
    ----------
    tokens : float or array
        Tokens before top-k on all ranks together.
    hidden, intermediate : float or array
        Width of the model, and of an expert before it is split.
    experts, topk : float or array
        Routed experts, and experts per token.
    expert_ranks, tensor_ranks : float or array
        Ranks over which the experts, and over which each expert, are split.
    gated : bool or array
        Whether there is a gate beside the up projection.
    skew : float or array
        Exponent of the power law of the experts' loads; 0 is an even spread [1].
    random : bool or array
        Tokens pick independently and uniformly instead.
    warm : bool or array
        Whether the layer runs back to back with itself, so that the cache holds its weights (benchmarks).
    peak_flops : float or array
        Dense peak of the operand format [FLOP/s].
    memory_bandwidth : float or array
        Memory bandwidth [B/s].
    cores : float or array
        Streaming multiprocessors or compute units.
    weight_bytes, activation_bytes : float or array
        Bytes per weight and per activation element, scales included [B].
    cache_bytes : float or array, optional
        Last-level cache: holds weights where `warm`, activations where `cached_passes` [B].
    tiles : str
        Tile menu of the kernel family, a key of `MENUS`.
    remote_rows : str
        What happens to rows of other ranks' experts, one of `REMOTE`.
    unpacked : bool
        Whether the kernel keeps weights in 16 bits whatever their format.
    cached_passes : bool
        Whether element-wise passes find their data in the cache: a large cache over slow memory.
    launch_s : float or array
        Launches of all kernels of the layer [s].
    scan_s : float or array
        Routing and prefix sums, per doubling of the tokens [s].
    pair_s : float or array
        Routing, per token-expert pair [s].
    expert_s : float or array
        Scheduling, per routed expert [s].
    flops_efficiency : float or array
        Sustained part of the peak inside a tile [1].
    bandwidth_efficiency : float or array
        Sustained part of the memory bandwidth [1].
    fill_rate : float or array
        Operand bytes that reach one core per second [B/s].
    step_s : float or array
        Latency of one pipeline step of a tile [s].
    tile_s : float or array
        Prologue and epilogue of a tile [s].
    overlap : float or array
        Exponent p of the norm that joins arithmetic and memory: 1 no overlap, large full overlap [1].
    pass_efficiency : float or array
        Part of the memory bandwidth in element-wise passes [1].
    cache_share : float or array
        Part of the last-level cache that keeps weights between calls [1].

    Returns
    -------
    float or array
        Time [s].

    References
    ----------
    Derived; block-sparse view of the grouped product: Gale et al. 2022, arXiv 2211.15841, section 4.

    Examples
    --------
    >>> t = experts_grouped(64, 4096, 1536, 128, 8, 4, peak_flops=989e12, memory_bandwidth=3.35e12, cores=132,
    ...                     weight_bytes=2, activation_bytes=2)
    >>> round(float(t) * 1e6)
    444
    """
    if tiles not in MENUS:
        raise UnknownNameError("tile menu", tiles, MENUS)
    if remote_rows not in REMOTE:
        raise UnknownNameError("treatment of remote rows", remote_rows, REMOTE)
    given = {
        "tokens": tokens,
        "hidden": hidden,
        "intermediate": intermediate,
        "experts": experts,
        "topk": topk,
        "expert_ranks": expert_ranks,
        "tensor_ranks": tensor_ranks,
        "gated": gated,
        "skew": skew,
        "random": random,
        "warm": warm,
        "peak_flops": peak_flops,
        "memory_bandwidth": memory_bandwidth,
        "cores": cores,
        "weight_bytes": np.maximum(weight_bytes, 2.0) if unpacked else weight_bytes,
        "activation_bytes": activation_bytes,
        "cache_bytes": 0.0 if cache_bytes is None else cache_bytes,
        "launch_s": launch_s,
        "scan_s": scan_s,
        "pair_s": pair_s,
        "expert_s": expert_s,
        "flops_efficiency": flops_efficiency,
        "bandwidth_efficiency": bandwidth_efficiency,
        "fill_rate": fill_rate,
        "step_s": step_s,
        "tile_s": tile_s,
        "overlap": overlap,
        "pass_efficiency": pass_efficiency,
        "cache_share": cache_share,
    }
    return in_chunks(lambda **n: _layer(tiles, remote_rows, cached_passes, n), given)
