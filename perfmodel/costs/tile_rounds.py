"""Time of matrix products, experts and attention whose tiles are dealt to the matrix cores in rounds [s]."""

from typing import Any

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.expert_load import expert_load
from perfmodel.costs.registry import Coefficient, formula
from perfmodel.costs.work import attention_bytes, attention_flops

ROWS, COLUMNS, UNIT = 128.0, 152.0, 16.0
"""Rows and columns of a tile, and rows that a smaller one pads to.

The INT8 product of CANN (arXiv:2506.12708, table 10); DeepGEMM takes widths up to as much.
"""

CANN = "tiles and utilisations of CANN, Zuo et al. 2025, arXiv:2506.12708, tables 8 to 10"

_TILED = (
    Coefficient("launch_s", "s", 5e-6, 0.0, 1e-4, "launch of one matrix kernel"),
    Coefficient("compute_efficiency", "1", 0.86, 0.01, 1.0, "sustained part of the peak inside a tile"),
    Coefficient("memory_efficiency", "1", 0.84, 0.01, 1.0, "sustained part of the memory bandwidth"),
    Coefficient("tile_s", "s", 5e-7, 0.0, 3e-5, "filling and draining of one tile"),
)


def _columns_s(rows: Floats, row_tiles: Floats, out_features: Floats, depth: Floats, rate: Floats, c: Floats) -> Floats:
    """Arithmetic of a product by rounds of tiles over c cores; fewer tiles than cores split their depth."""
    tiles = as_floats(row_tiles) * np.ceil(as_floats(out_features) / COLUMNS)
    rounds = np.where(tiles < c, tiles / c, np.ceil(tiles / c))
    return rounds * (2.0 * as_floats(rows) * COLUMNS * as_floats(depth)) * c / as_floats(rate)


@formula(
    name="tile_rounds_gemm",
    quantity="time",
    equation=(
        r"t = t_0 + \max\left(r \left(\frac{2 m\, n_t\, k\, C}{e P}\right) + \lceil r \rceil t_{\rm tile},"
        r" \frac{D}{f B}\right), \quad r = \frac{1}{C}\left\lceil \frac{T}{m_t} \right\rceil"
        r" \left\lceil \frac{n}{n_t} \right\rceil \text{ (whole above 1)}"
    ),
    source=f"derived: rounds of tiles over the cores; {CANN}",
    coefficients=_TILED,
    attributes={"quantise": (False, True)},
)
def tile_rounds_gemm(
    tokens: Floats,
    out_features: Floats,
    in_features: Floats,
    *,
    peak_flops: Floats,
    memory_bandwidth: Floats,
    cores: Floats,
    weight_bytes: Floats,
    activation_bytes: Floats,
    output_bytes: Floats = 2.0,
    launch_s: Floats = 5e-6,
    compute_efficiency: Floats = 0.86,
    memory_efficiency: Floats = 0.84,
    tile_s: Floats = 5e-7,
    quantise: bool = False,
) -> Floats:
    r"""Time of a matrix product whose tiles are dealt to the matrix cores in rounds.

    .. math::
       t = t_0 + \max\left(r \left(\frac{2 m\, n_t\, k\, C}{e P}\right) + \lceil r \rceil t_{\rm tile},
       \frac{D}{f B}\right), \quad r = \frac{1}{C}\left\lceil \frac{T}{m_t} \right\rceil
       \left\lceil \frac{n}{n_t} \right\rceil \text{ (whole above 1)}

    Parameters
    ----------
    tokens, out_features, in_features : float or array
        Rows T, columns n and depth k.
    peak_flops : float or array
        Dense peak P [FLOP/s].
    memory_bandwidth : float or array
        Memory bandwidth B [B/s].
    cores : float or array
        Matrix cores C.
    weight_bytes, activation_bytes, output_bytes : float or array
        Bytes per element of the weights, the activations and the result [B].
    launch_s : float or array
        Launch t_0 [s].
    compute_efficiency, memory_efficiency : float or array
        Sustained parts e and f of the two rates [1].
    tile_s : float or array
        Filling and draining of a tile [s].
    quantise : bool
        Whether a pass reads the activations in 16 bits and writes them in the operand format before the product.

    Returns
    -------
    float or array
        Time [s].

    References
    ----------
    Zuo et al. 2025, arXiv:2506.12708, table 10: tiles of 128 x 152, 77 to 83 % of the INT8 peak.

    Examples
    --------
    The utilisation of one of four groups of 7168 x 4096 x 4096 (79.4 % measured):

    >>> t = tile_rounds_gemm(4 * 7168, 4096, 4096, peak_flops=752e12, memory_bandwidth=1.6e12, cores=24,
    ...               weight_bytes=1, activation_bytes=1, launch_s=0.0)
    >>> round(2 * 4 * 7168 * 4096 * 4096 / 752e12 / float(t), 3)
    0.791
    """
    m, n, k, c = (as_floats(x) for x in (tokens, out_features, in_features, cores))
    row_tiles = np.ceil(m / ROWS)
    rows = np.minimum(np.ceil(m / UNIT) * UNIT, ROWS)
    rate = as_floats(compute_efficiency) * as_floats(peak_flops)
    arithmetic = _columns_s(rows, row_tiles, n, k, rate, c)
    arithmetic = arithmetic + np.ceil(row_tiles * np.ceil(n / COLUMNS) / c) * as_floats(tile_s)
    nbytes = n * k * as_floats(weight_bytes) + m * k * as_floats(activation_bytes) + m * n * as_floats(output_bytes)
    memory = as_floats(memory_efficiency) * as_floats(memory_bandwidth)
    before = m * k * (2.0 + as_floats(activation_bytes)) / memory if quantise else 0.0
    return as_floats(launch_s) + before + np.maximum(arithmetic, nbytes / memory)


@formula(
    name="balanced_attention",
    quantity="time",
    equation=r"t = t_0 + \max\left(\frac{F}{e P}, \frac{D}{f B}\right)",
    source=f"Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785, with the utilisations of {CANN}",
    coefficients=(
        _TILED[0],
        Coefficient("compute_efficiency", "1", 0.65, 0.01, 1.0, "sustained part of the peak where attention computes"),
        Coefficient("memory_efficiency", "1", 0.84, 0.01, 1.0, "sustained part of the memory bandwidth"),
    ),
)
def balanced_attention(
    batch: Floats,
    tokens: Floats,
    context: Floats,
    heads: Floats,
    kv_heads: Floats,
    qk_head_dim: Floats,
    v_head_dim: Floats,
    window: Floats = 0.0,
    *,
    peak_flops: Floats,
    memory_bandwidth: Floats,
    query_bytes: Floats = 2.0,
    kv_bytes: Floats = 2.0,
    shared_kv: bool = False,
    launch_s: Floats = 5e-6,
    compute_efficiency: Floats = 0.65,
    memory_efficiency: Floats = 0.84,
) -> Floats:
    r"""Time of attention whose work is dealt evenly to the cores: a roofline with two utilisations.

    .. math:: t = t_0 + \max\left(\frac{F}{e P}, \frac{D}{f B}\right)

    Parameters
    ----------
    batch : float or array
        Sequences.
    tokens : float or array
        New queries per sequence.
    context : float or array
        Keys per sequence.
    heads, kv_heads : float or array
        Query and key-value heads.
    qk_head_dim, v_head_dim : float or array
        Width of a key and of a value.
    window : float or array
        Sliding window, 0 for none.
    peak_flops : float or array
        Dense peak P [FLOP/s].
    memory_bandwidth : float or array
        Memory bandwidth B [B/s].
    query_bytes, kv_bytes : float or array
        Bytes per element of queries and of keys and values [B].
    shared_kv : bool
        Whether values are a part of the keys and are read once (absorbed latent attention).
    launch_s : float or array
        Launch t_0 [s].
    compute_efficiency, memory_efficiency : float or array
        Sustained parts e and f of the two rates [1].

    Returns
    -------
    float or array
        Time [s].

    References
    ----------
    Zuo et al. 2025, arXiv:2506.12708, tables 8 and 9: 65.4 % of the BF16 peak where latent attention computes,
    84.1 % of the memory bandwidth where it reads.

    Examples
    --------
    >>> t = balanced_attention(48, 2, 4224, 128, 1, 576, 512, shared_kv=True,
    ...                        peak_flops=376e12, memory_bandwidth=1.6e12)
    >>> round(float(t) * 1e6)
    467
    """
    work = (batch, tokens, context, heads)
    flops = attention_flops(*work, qk_head_dim, v_head_dim, window)
    nbytes = attention_bytes(
        *work, kv_heads, qk_head_dim, v_head_dim, window,
        query_bytes=query_bytes, kv_bytes=kv_bytes, shared_kv=shared_kv,
    )  # fmt: skip
    arithmetic = as_floats(flops) / (as_floats(compute_efficiency) * as_floats(peak_flops))
    traffic = as_floats(nbytes) / (as_floats(memory_efficiency) * as_floats(memory_bandwidth))
    return as_floats(launch_s) + np.maximum(arithmetic, traffic)


@formula(
    name="tile_rounds_experts",
    quantity="time",
    equation=(
        r"t = 2 t_0 + t_1 + \sum_{j=1,2} \max\left(r_j \frac{2 m\, n_t\, k_j\, C}{e P}"
        r" + \lceil r_j \rceil t_{\rm tile}, \frac{D_j}{f B}\right) + \frac{D_{\rm act}}{f B}"
    ),
    source=f"derived: two grouped products and an activation on the busiest rank; {CANN}",
    coefficients=(*_TILED, Coefficient("pass_s", "s", 2e-6, 0.0, 1e-4, "launch of the activation")),
)
def tile_rounds_experts(
    tokens: Floats,
    hidden: Floats,
    intermediate: Floats,
    experts: Floats,
    topk: Floats,
    expert_ranks: Floats = 1.0,
    tensor_ranks: Floats = 1.0,
    skew: Floats = 0.0,
    *,
    peak_flops: Floats,
    memory_bandwidth: Floats,
    cores: Floats,
    weight_bytes: Floats,
    activation_bytes: Floats,
    gated: bool = True,
    launch_s: Floats = 5e-6,
    compute_efficiency: Floats = 0.86,
    memory_efficiency: Floats = 0.84,
    tile_s: Floats = 5e-7,
    pass_s: Floats = 2e-6,
    random: Any = False,
) -> Floats:
    r"""Time of the routed experts on the busiest rank: two grouped products and the activation between them.

    .. math::
       t = 2 t_0 + t_1 + \sum_{j=1,2} \max\left(r_j \frac{2 m\, n_t\, k_j\, C}{e P} + \lceil r_j \rceil t_{\rm tile},
       \frac{D_j}{f B}\right) + \frac{D_{\rm act}}{f B}

    Parameters
    ----------
    tokens : float or array
        Tokens before top-k on all ranks.
    hidden, intermediate : float or array
        Width of the model and of one expert.
    experts, topk : float or array
        Experts of the layer, and experts per token.
    expert_ranks, tensor_ranks : float or array
        Ranks that share the experts, and ranks that share one expert.
    skew : float or array
        Exponent of the power law of the loads, 0 for an even spread [1].
    peak_flops : float or array
        Dense peak P [FLOP/s].
    memory_bandwidth : float or array
        Memory bandwidth B [B/s].
    cores : float or array
        Matrix cores C.
    weight_bytes, activation_bytes : float or array
        Bytes per element of weights and activations [B].
    gated : bool
        Whether the up projection has a gate beside it.
    launch_s : float or array
        Launch t_0 of a product [s].
    compute_efficiency, memory_efficiency : float or array
        Sustained parts e and f of the two rates [1].
    tile_s : float or array
        Filling and draining of a tile [s].
    pass_s : float or array
        Launch t_1 of the activation [s].
    random : bool or array
        Whether tokens pick experts independently and uniformly.

    Returns
    -------
    float or array
        Time [s].

    References
    ----------
    Zuo et al. 2025, arXiv:2506.12708, table 10: tiles of 128 x 152 of the grouped INT8 product.
    DeepSeek 2025, DeepGEMM: grouped products of DeepSeek-V3 on H800.

    Examples
    --------
    >>> t = tile_rounds_experts(15360, 7168, 2048, 320, 9, 320, peak_flops=752e12, memory_bandwidth=1.6e12, cores=24,
    ...                  weight_bytes=1, activation_bytes=1)
    >>> round(float(t) * 1e6)
    88
    """
    load = expert_load(tokens, experts, topk, expert_ranks, skew, random=random)
    h, c, a, w = (as_floats(x) for x in (hidden, cores, activation_bytes, weight_bytes))
    inner = as_floats(intermediate) / as_floats(tensor_ranks)
    wide = inner * np.where(gated, 2.0, 1.0)
    row_tiles = load.tiles(ROWS)
    rows = np.minimum(np.ceil(load.rows / np.maximum(row_tiles, 1.0) / UNIT) * UNIT, ROWS)
    rate = as_floats(compute_efficiency) * as_floats(peak_flops)
    memory = as_floats(memory_efficiency) * as_floats(memory_bandwidth)
    time = 2.0 * as_floats(launch_s) + as_floats(pass_s) + load.rows * (2.0 * wide + a * inner) / memory
    for columns, depth in ((wide, h), (h, inner)):
        arithmetic = _columns_s(rows, row_tiles, columns, depth, rate, c)
        arithmetic = arithmetic + np.ceil(row_tiles * np.ceil(columns / COLUMNS) / c) * as_floats(tile_s)
        nbytes = load.active * columns * depth * w + load.rows * (depth * a + columns * 2.0)
        time = time + np.maximum(arithmetic, nbytes / memory)
    return time
