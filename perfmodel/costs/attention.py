"""Time below which attention cannot finish [s], and the parts that its prefill and decode forms share."""

from typing import Any

import numpy as np

from perfmodel.arrays import Floats, as_floats, clipped
from perfmodel.costs.registry import formula

OUTPUT_BYTES = 2.0
"""Bytes per element of the attention output, which every kernel writes in 16 bits [B]."""

RESIDENCY_RAMP = 0.12
"""Working set beyond a cache that fills whole, relative to it, at which nothing is found there any more [1]."""


def overlapped(first: Any, second: Any, exponent: float) -> Any:
    """Return the time of two activities that overlap in part: their p-norm, between the larger and the sum.

    Parameters
    ----------
    first, second : float or array
        Times of the activities, positive [s].
    exponent : float
        1: one after the other; large: hidden behind each other.

    Returns
    -------
    float or numpy.ndarray
        Time of both [s].

    Examples
    --------
    >>> float(overlapped(3.0, 4.0, 2.0))
    5.0
    """
    longer = np.maximum(first, second)
    ratio = np.minimum(first, second) / longer
    # exp and log are several times faster than two powers; the floor keeps log(0) out.
    return longer * np.exp(np.log(1.0 + np.exp(exponent * np.log(np.maximum(ratio, 1e-300)))) / exponent)


def power_of_two(count: Any) -> Any:
    """Return the smallest power of two that is not below a number; frexp is exact where log2 may round.

    Parameters
    ----------
    count : float or array
        Positive number.

    Returns
    -------
    float or numpy.ndarray
        Power of two.

    Examples
    --------
    >>> power_of_two(np.array([1.0, 3.0, 64.0, 65.0])).tolist()
    [1.0, 4.0, 64.0, 128.0]
    """
    mantissa, exponent = np.frexp(count)
    return np.ldexp(1.0, exponent - (mantissa == 0.5))


def cold_share(nbytes: Any, cache_bytes: Any, warm_ratio: float, *, whole: bool = False) -> Any:
    r"""Return the time of moving bytes relative to moving all of them from memory, where a cache holds some.

    .. math:: s = \kappa + \frac{1 - \kappa}{w}, \quad \kappa = \frac{1}{1 + (C / V)^4} \quad\text{or}\quad
       \kappa = \min\left(1,\ \max\left(0,\ \frac{V / C - 1}{0.12}\right)\right)

    Parameters
    ----------
    nbytes : float or array
        Working set of the kernel [B].
    cache_bytes : float or array
        Cache that may still hold it from the run before; zero where it is cold [B].
    warm_ratio : float
        Bandwidth of the cache relative to memory [1].
    whole : bool
        Whether the cache is filled to its last byte before it loses anything (the second form), and does not miss more
        and more as it fills.

    Returns
    -------
    float or numpy.ndarray
        Between 1/warm_ratio (all cached) and 1 (nothing cached) [1].

    Examples
    --------
    >>> float(cold_share(100e6, 0.0, 4.0)), float(cold_share(50e6, 50e6, 4.0))
    (1.0, 0.625)
    """
    if whole:
        cold = clipped((nbytes / np.maximum(cache_bytes, 1.0) - 1.0) / RESIDENCY_RAMP, 0.0, 1.0)
    else:
        fits = cache_bytes / np.maximum(nbytes, 1.0)
        fits = fits * fits
        cold = 1.0 / (1.0 + fits * fits)
    return cold + (1.0 - cold) / warm_ratio


@formula(
    name="attention_bound",
    quantity="time",
    equation=(
        r"\max\left(\frac{2bh(d_k+d_v)\sum_i\min(c-n+i,\,w)}{P},\ "
        r"\frac{\max(0,\,bnh(d_kq+2d_v) + b\min(c,\,n+w-1)h_ku - C)}{B}\right)"
    ),
    source="Dao et al., FlashAttention, arXiv:2205.14135: FLOP and compulsory traffic of exact fused attention",
)
def attention_bound(
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
    query_bytes: Any = 2.0,
    kv_bytes: Any = 2.0,
    kv_elements: Any = None,
    cache_bytes: Any = 0.0,
    causal: bool = True,
) -> Floats:
    r"""Return the time below which no kernel can finish fused attention.

    .. math:: t \ge \max\left(\frac{2bh(d_k+d_v)\sum_{i=1}^{n}\min(c-n+i, w)}{P},\
              \frac{\max(0, bnh(d_k q + 2 d_v) + b\min(c, n+w-1)h_k u - C)}{B}\right)

    with :math:`u` bytes of keys and values per token and KV head.

    Parameters
    ----------
    batch, tokens, context : float or array
        Sequences, queries of each, keys of each (past included; at least `tokens`).
    heads, kv_heads : float or array
        Query heads and KV heads.
    qk_head_dim, v_head_dim : float or array
        Head dimension of queries and keys, and of values.
    window : float or array
        Sliding window in tokens, 0 for none.
    peak_flops : float or array
        Dense peak of the operand format [FLOP/s].
    memory_bandwidth : float or array
        Memory bandwidth [B/s].
    query_bytes, kv_bytes : float or array
        Bytes per element of queries and of the KV cache [B].
    kv_elements : float or array, optional
        Elements per token and KV head in the cache; by default the sum of the head dimensions, for latent attention
        the latent vector, which is stored once.
    cache_bytes : float or array
        Last-level cache that may hold bytes already, zero where all is cold [B].
    causal : bool
        Whether a query sees only the keys up to its own position.

    Returns
    -------
    float or numpy.ndarray
        Lower bound of the time [s].

    Notes
    -----
    Differs from the source in that the sliding window and the queries at the end of a longer context (chunked
    prefill, speculative decoding) are counted exactly.

    References
    ----------
    Dao et al., "FlashAttention: fast and memory-efficient exact attention with IO-awareness", arXiv:2205.14135.

    Examples
    --------
    >>> t = attention_bound(1, 8192, 8192, 32, 8, 128, 128, 0, peak_flops=989e12, memory_bandwidth=3.35e12)
    >>> round(float(t * 1e6), 1)
    555.9
    """
    b, n, h, hk = as_floats(batch), as_floats(tokens), as_floats(heads), as_floats(kv_heads)
    dk, dv, w = as_floats(qk_head_dim), as_floats(v_head_dim), as_floats(window)
    c = np.maximum(as_floats(context), n)
    w = np.where(w > 0, np.minimum(w, c), c)
    growing = clipped(w - (c - n), 0.0, n)
    pairs = growing * (c - n) + growing * (growing + 1.0) / 2.0 + (n - growing) * w
    pairs = pairs if causal else n * w
    elements = dk + dv if kv_elements is None else as_floats(kv_elements)
    # Without a causal mask nothing is known about where the windows lie: at least one of them is read.
    keys = np.minimum(c, n + w - 1.0) if causal else w
    nbytes = b * n * h * (dk * query_bytes + dv * OUTPUT_BYTES) + b * keys * hk * elements * kv_bytes
    bound: Floats = np.maximum(
        2.0 * b * h * (dk + dv) * pairs / peak_flops, np.maximum(nbytes - cache_bytes, 0.0) / memory_bandwidth
    )
    return bound
