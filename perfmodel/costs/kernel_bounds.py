"""Time below which no kernel can finish [s]: matrix products and routed experts."""

from typing import Any

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.expert_load import expert_load
from perfmodel.costs.registry import formula


@formula(
    name="gemm_bound",
    quantity="time",
    equation=r"\max\left(\frac{2mnk}{P}, \frac{\max(W + A - C, W - C/r, 0)}{B}, \frac{W + A}{B_C}\right)",
    source="Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009, with the bytes that must miss a cache",
)
def gemm_bound(
    tokens: Any,
    out_features: Any,
    in_features: Any,
    *,
    peak_flops: Any,
    memory_bandwidth: Any,
    weight_bytes: Any,
    activation_bytes: Any,
    output_bytes: Any = 2.0,
    cache_bytes: Any = 0.0,
    cache_bandwidth: Any = np.inf,
    weight_copies: Any = np.inf,
) -> Floats:
    r"""Return the time below which no kernel can finish a matrix multiplication.

    .. math:: t \ge \max\left(\frac{2mnk}{P}, \frac{\max(W + A - C, W - C/r, 0)}{B}, \frac{W + A}{B_C}\right)

    with :math:`W` bytes of weights, :math:`A` bytes of activations and outputs and :math:`C` bytes of cache.

    Parameters
    ----------
    tokens, out_features, in_features : float or array
        Rows of the activations, columns of the weights, inner dimension.
    peak_flops : float or array
        Dense peak of the operand format [FLOP/s].
    memory_bandwidth : float or array
        Memory bandwidth [B/s].
    weight_bytes, activation_bytes, output_bytes : float or array
        Bytes per element, scale factors included [B].
    cache_bytes : float or array
        Last-level cache, zero where everything is taken to miss [B].
    cache_bandwidth : float or array
        Bandwidth of the last-level cache [B/s].
    weight_copies : float or array
        Different weights used between two uses of the same ones: infinite in a model, a few in a benchmark.

    Returns
    -------
    float or numpy.ndarray
        Lower bound of the time [s].

    Notes
    -----
    Differs from the plain roofline in that bytes that may be found in the cache need not come from memory.

    References
    ----------
    Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009.

    Examples
    --------
    >>> h100 = dict(peak_flops=989e12, memory_bandwidth=3.35e12)
    >>> t = gemm_bound(4096, 4096, 4096, weight_bytes=2, activation_bytes=2, **h100)
    >>> float(t * 1e6)
    138.97
    """
    m, n, k = as_floats(tokens), as_floats(out_features), as_floats(in_features)
    flop = 2.0 * m * n * k
    weights, rest = n * k * weight_bytes, m * (k * activation_bytes + n * output_bytes)
    missed = np.maximum(np.maximum(weights + rest - cache_bytes, weights - cache_bytes / weight_copies), 0.0)
    bound: Floats = np.maximum(
        np.maximum(flop / peak_flops, missed / memory_bandwidth), (weights + rest) / cache_bandwidth
    )
    return bound


@formula(
    name="experts_bound",
    quantity="time",
    equation=r"t \ge \max\left(\frac{2 M \cdot R H I / tp}{P},"
    r"\frac{\max(0, E_a M H I w / tp - C) + \max(0, (a + 2) T_r H - C)}{B}\right)",
    source="Derived: arithmetic at peak; weights of active experts and the rank's tokens, in and out, from memory.",
    valid={"tokens": (0, 2**20), "experts": (1, 2**16), "topk": (1, 64)},
)
def experts_bound(
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
    weight_bytes: Floats,
    input_bytes: Floats = 2.0,
    cache_bytes: "Floats | None" = None,
) -> Floats:
    r"""Least time of the routed experts of one layer on the busiest rank.

    .. math:: t \ge \max\left(\frac{2 M R H I / tp}{P},
        \frac{\max(0, E_a M H I w / tp - C) + \max(0, (a + 2) T_r H - C)}{B}\right)

    with M = 3 matrices of a gated expert or 2, R rows, E_a active experts and T_r tokens of the rank.

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
        Whether the layer runs back to back with itself, so that the cache holds its weights.
    peak_flops : float or array
        Dense peak of the operand format [FLOP/s].
    memory_bandwidth : float or array
        Memory bandwidth [B/s].
    weight_bytes : float or array
        Bytes per weight element, scales included [B].
    input_bytes : float or array
        Bytes a per element of the tokens as they come: 2, or 1 where they were quantised before they were sent [B].
    cache_bytes : float or array, optional
        Last-level cache: holds activations, and weights where `warm` [B].

    Returns
    -------
    float or array
        Time [s].

    References
    ----------
    Derived: compulsory work over datasheet rates.

    Examples
    --------
    >>> t = experts_bound(64, 4096, 1536, 128, 8, 4, peak_flops=989e12, memory_bandwidth=3.35e12, weight_bytes=2)
    >>> round(float(t) * 1e6, 1)
    360.9
    """
    load = expert_load(tokens, experts, topk, expert_ranks, skew, random=random)
    h, width = as_floats(hidden), as_floats(intermediate) / as_floats(tensor_ranks)
    matrices = 2.0 + as_floats(gated)
    weights = load.active * matrices * h * width * as_floats(weight_bytes)
    cache = as_floats(0.0 if cache_bytes is None else cache_bytes)
    compute = 2.0 * matrices * load.rows * h * width / as_floats(peak_flops)
    moved = np.maximum(weights - np.where(warm, cache, 0.0), 0.0) + np.maximum(
        (as_floats(input_bytes) + 2.0) * load.tokens * h - cache, 0.0
    )
    return np.maximum(compute, moved / as_floats(memory_bandwidth))
