"""Work of attention: keys that queries meet, floating-point operations and compulsory bytes."""

import numpy as np

from perfmodel.arrays import Floats, as_floats, clipped
from perfmodel.costs.registry import formula


@formula(
    name="causal_keys",
    quantity="count",
    equation=r"K = \sum_{i=1}^{q} \min(c - q + i,\, W)",
    source="Definition of a causal mask with a sliding window",
)
def causal_keys(tokens: Floats, context: Floats, window: Floats = 0.0) -> Floats:
    r"""Count the query-key pairs that a causal mask with an optional sliding window leaves.

    .. math:: K = \sum_{i=1}^{q} \min(c - q + i,\, W)

    Parameters
    ----------
    tokens : float or array
        Queries q of one sequence: the last q positions of the context.
    context : float or array
        Keys c of the sequence, the queries' own included.
    window : float or array
        Sliding window W in tokens, own position included; 0 for none.

    Returns
    -------
    float or array
        Query-key pairs of one sequence and one head.

    References
    ----------
    Definition; q (2c - q + 1) / 2 without a window.

    Examples
    --------
    >>> float(causal_keys(4, 4)), float(causal_keys(4, 4, 2)), float(causal_keys(1, 100))
    (10.0, 7.0, 100.0)
    """
    q, c, w = as_floats(tokens), as_floats(context), as_floats(window)
    w = np.where(w > 0, w, np.inf)
    first = c - q + 1.0  # keys seen by the first query
    growing = clipped(w - first, 0.0, q)  # queries that see fewer keys than the window holds
    ramp = growing * (2.0 * first + growing - 1.0) / 2.0
    return ramp + np.where(q > growing, (q - growing) * np.minimum(w, c), 0.0)


@formula(
    name="attention_flops",
    quantity="work",
    equation=r"F = 2\,b\,h\,K\,(d_{qk} + d_v)",
    source="Vaswani et al. 2017 (arXiv:1706.03762): scores and weighted values; masked pairs are not computed",
)
def attention_flops(
    batch: Floats,
    tokens: Floats,
    context: Floats,
    heads: Floats,
    qk_head_dim: Floats,
    v_head_dim: Floats,
    window: Floats = 0.0,
) -> Floats:
    r"""Floating-point operations of causal attention, masked pairs left out.

    .. math:: F = 2\,b\,h\,K\,(d_{qk} + d_v)

    Parameters
    ----------
    batch, tokens, context : float or array
        Sequences b, queries per sequence and keys per sequence.
    heads : float or array
        Query heads h.
    qk_head_dim, v_head_dim : float or array
        Widths of keys and values.
    window : float or array
        Sliding window in tokens; 0 for none.

    Returns
    -------
    float or array
        Operations of both products; the softmax is not counted [FLOP].

    References
    ----------
    Vaswani et al. 2017 (arXiv:1706.03762). K is `causal_keys`.

    Examples
    --------
    >>> float(attention_flops(1, 1, 4096, 64, 128, 128)) / 1e6
    134.217728
    """
    pairs = causal_keys(tokens, context, window)
    return 2.0 * as_floats(batch) * heads * pairs * (as_floats(qk_head_dim) + v_head_dim)


@formula(
    name="attention_bytes",
    quantity="bytes",
    equation=r"D = b\,[\,c_W h_{kv} (d_{qk} + d_v) w_{kv} + q h (d_{qk} w_q + 2 d_v)\,]",
    source="Definition: each visible key and value read once, each query read and each output written once",
)
def attention_bytes(
    batch: Floats,
    tokens: Floats,
    context: Floats,
    heads: Floats,
    kv_heads: Floats,
    qk_head_dim: Floats,
    v_head_dim: Floats,
    window: Floats = 0.0,
    *,
    query_bytes: Floats = 2.0,
    kv_bytes: Floats = 2.0,
    shared_kv: bool = False,
) -> Floats:
    r"""Compulsory memory traffic of attention.

    .. math:: D = b\,[\,c_W h_{kv} (d_{qk} + d_v) w_{kv} + q h (d_{qk} w_q + 2 d_v)\,]

    Parameters
    ----------
    batch, tokens, context : float or array
        Sequences, queries per sequence and keys per sequence.
    heads, kv_heads : float or array
        Query heads and key-value heads.
    qk_head_dim, v_head_dim : float or array
        Widths of keys and values.
    window : float or array
        Sliding window in tokens; 0 for none.
    query_bytes, kv_bytes : float or array
        Bytes per element of queries and of the cache [B].
    shared_kv : bool
        Values are a slice of the keys and are read once (absorbed latent attention).

    Returns
    -------
    float or array
        Bytes [B].

    References
    ----------
    Dao et al. 2022 (arXiv:2205.14135): traffic of an exact fused kernel with one pass over the keys.

    Examples
    --------
    >>> float(attention_bytes(1, 1, 4096, 64, 8, 128, 128)) / 1e6
    16.809984
    """
    q, c, w = as_floats(tokens), as_floats(context), as_floats(window)
    # q queries at the end of the context together see at most window + q - 1 keys.
    visible = np.where(w > 0, np.minimum(c, w + q - 1.0), c)
    dk, dv = as_floats(qk_head_dim), as_floats(v_head_dim)
    cached = dk if shared_kv else dk + dv
    keys = visible * as_floats(kv_heads) * cached * kv_bytes
    rows = q * as_floats(heads) * (dk * query_bytes + 2.0 * dv)
    return as_floats(batch) * (keys + rows)
