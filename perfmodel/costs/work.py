"""Work counts: floating-point operations and compulsory bytes of each operator; no hardware."""

import numpy as np

from perfmodel.arrays import Floats, as_floats, clipped
from perfmodel.costs.registry import formula


@formula(
    name="gemm_flops",
    quantity="work",
    equation=r"F = 2\,m\,n\,k",
    source="Definition: one multiplication and one addition per element of the product's inner dimension",
)
def gemm_flops(tokens: Floats, out_features: Floats, in_features: Floats) -> Floats:
    r"""Floating-point operations of a matrix product.

    .. math:: F = 2\,m\,n\,k

    Parameters
    ----------
    tokens, out_features, in_features : float or array
        Rows m, columns n and depth k of the product.

    Returns
    -------
    float or array
        Operations, an addition and a multiplication counted apart [FLOP].

    References
    ----------
    Definition; the convention of Narayanan et al. 2021 (arXiv:2104.04473), appendix.

    Examples
    --------
    >>> float(gemm_flops(1, 8192, 8192)) / 1e6
    134.217728
    """
    return 2.0 * as_floats(tokens) * as_floats(out_features) * as_floats(in_features)


@formula(
    name="gemm_bytes",
    quantity="bytes",
    equation=r"D = n k w + m k a + m n o",
    source="Definition: every operand is read once and the result written once",
)
def gemm_bytes(
    tokens: Floats,
    out_features: Floats,
    in_features: Floats,
    *,
    weight_bytes: Floats,
    activation_bytes: Floats,
    output_bytes: Floats = 2.0,
) -> Floats:
    r"""Compulsory memory traffic of a matrix product.

    .. math:: D = n k w + m k a + m n o

    Parameters
    ----------
    tokens, out_features, in_features : float or array
        Rows m, columns n and depth k of the product.
    weight_bytes, activation_bytes, output_bytes : float or array
        Bytes per element of weights w, activations a and outputs o [B].

    Returns
    -------
    float or array
        Bytes read and written when nothing is read twice [B].

    References
    ----------
    Williams, Waterman, Patterson 2009 (roofline; compulsory traffic).

    Examples
    --------
    >>> float(gemm_bytes(1, 8192, 8192, weight_bytes=2, activation_bytes=2)) / 1e6
    134.250496
    """
    m, n, k = as_floats(tokens), as_floats(out_features), as_floats(in_features)
    return n * k * weight_bytes + m * k * activation_bytes + m * n * output_bytes


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


@formula(
    name="active_experts",
    quantity="count",
    equation=r"E_a = E\,\bigl(1 - (1 - k/E)^{T}\bigr)",
    source="Expected number of distinct experts drawn by T tokens, k of E each, uniformly and independently",
)
def active_experts(tokens: Floats, experts: Floats, topk: Floats) -> Floats:
    r"""Expected number of experts that receive at least one token under uniform random routing.

    .. math:: E_a = E\,\bigl(1 - (1 - k/E)^{T}\bigr)

    Parameters
    ----------
    tokens : float or array
        Tokens T.
    experts, topk : float or array
        Experts E and experts per token k.

    Returns
    -------
    float or array
        Active experts, between 0 and E.

    References
    ----------
    Elementary probability (coupon collector); checked against simulation in the tests.

    Examples
    --------
    >>> float(active_experts(1, 256, 8)), round(float(active_experts(64, 256, 8)), 2)
    (8.0, 222.44)
    """
    e = as_floats(experts)
    miss = clipped(1.0 - as_floats(topk) / e, 0.0, 1.0)
    return e * (1.0 - np.power(miss, as_floats(tokens)))


@formula(
    name="experts_flops",
    quantity="work",
    equation=r"F = 2\,T\,k\,g\,H\,I / (EP \cdot TP)",
    source="Definition: every token visits k experts of g matrices each (3 with a gate, 2 without)",
)
def experts_flops(
    tokens: Floats,
    hidden: Floats,
    intermediate: Floats,
    topk: Floats,
    ep: Floats,
    moe_tp: Floats,
    *,
    matrices: float = 3.0,
) -> Floats:
    r"""Floating-point operations of the routed experts on one device with an even share.

    .. math:: F = 2\,T\,k\,g\,H\,I / (EP \cdot TP)

    Parameters
    ----------
    tokens : float or array
        Tokens T of the layer on all its devices.
    hidden, intermediate : float or array
        Widths H of the model and I of one expert.
    topk : float or array
        Experts per token k.
    ep, moe_tp : float or array
        Devices that share the experts, and one expert.
    matrices : float
        Matrices per expert g.

    Returns
    -------
    float or array
        Operations [FLOP].

    References
    ----------
    Definition; shared experts are separate linear layers.

    Examples
    --------
    >>> float(experts_flops(1, 7168, 2048, 8, 1, 1)) / 1e6
    704.643072
    """
    total = 2.0 * as_floats(tokens) * topk * matrices * as_floats(hidden) * intermediate
    return total / (as_floats(ep) * moe_tp)


@formula(
    name="experts_bytes",
    quantity="bytes",
    equation=r"D = \frac{E_a\,g\,H\,I\,w}{EP \cdot TP} + \frac{T k}{EP}\,(H a + 2H)",
    source="Definition: weights of active experts once, inputs read and outputs written once",
)
def experts_bytes(
    tokens: Floats,
    hidden: Floats,
    intermediate: Floats,
    experts: Floats,
    topk: Floats,
    ep: Floats,
    moe_tp: Floats,
    *,
    matrices: float = 3.0,
    weight_bytes: Floats = 2.0,
    activation_bytes: Floats = 2.0,
) -> Floats:
    r"""Compulsory memory traffic of the routed experts on one device with an even share.

    .. math:: D = \frac{E_a\,g\,H\,I\,w}{EP \cdot TP} + \frac{T k}{EP}\,(H a + 2H)

    Parameters
    ----------
    tokens : float or array
        Tokens T of the layer on all its devices.
    hidden, intermediate : float or array
        Widths H of the model and I of one expert.
    experts, topk : float or array
        Experts E and experts per token k.
    ep, moe_tp : float or array
        Devices that share the experts, and one expert.
    matrices : float
        Matrices per expert g.
    weight_bytes, activation_bytes : float or array
        Bytes per element of weights w and activations a [B].

    Returns
    -------
    float or array
        Bytes; the activations between the two products stay on chip in the bound [B].

    References
    ----------
    E_a is `active_experts`.

    Examples
    --------
    >>> float(experts_bytes(1, 7168, 2048, 256, 8, 1, 1, weight_bytes=1, activation_bytes=1)) / 1e6
    352.493568
    """
    active = active_experts(tokens, experts, topk)
    weights = active * matrices * as_floats(hidden) * intermediate * weight_bytes / (as_floats(ep) * moe_tp)
    rows = as_floats(tokens) * topk / ep
    return weights + rows * as_floats(hidden) * (as_floats(activation_bytes) + 2.0)
