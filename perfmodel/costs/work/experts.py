"""Work of routed experts: how many are active, floating-point operations and compulsory bytes."""

import numpy as np

from perfmodel.arrays import Floats, as_floats, clipped
from perfmodel.costs.registry import formula


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
