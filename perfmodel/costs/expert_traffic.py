"""Where the tokens of experts go: ranks and units that one reaches [1], its bytes [B], the time of exchanges [s]."""

import numpy as np

from perfmodel.arrays import Floats, as_floats, clipped
from perfmodel.costs.registry import formula


@formula(
    name="ranks_reached",
    quantity="count",
    equation=r"d = n\left[1-\left(1-\frac{E/n}{E-(k-1)/2}\right)^k\right]",
    source="derived: chance that none of k distinct experts lives on a rank, midpoint of the falling product",
)
def ranks_reached(topk: Floats, experts: Floats, ranks: Floats) -> Floats:
    r"""Expected number of ranks among which the chosen experts of one token lie.

    .. math:: d = n\left[1-\left(1-\frac{E/n}{E-(k-1)/2}\right)^k\right]

    Parameters
    ----------
    topk : float or array
        Distinct experts per token.
    experts : float or array
        Routed experts on all ranks together.
    ranks : float or array
        Members of the group.

    Returns
    -------
    float or array
        Ranks reached, the own one included, for an even random choice.

    Notes
    -----
    The exact product (E - E/n - i)/(E - i) over i < k is replaced by its middle factor to the power k.

    References
    ----------
    Derived.

    Examples
    --------
    >>> round(float(ranks_reached(8, 256, 8)), 2)
    5.29
    """
    k, n = as_floats(topk), as_floats(ranks)
    total = np.maximum(as_floats(experts), k)
    missed = clipped(1.0 - total / n / (total - (k - 1.0) / 2.0), 0.0, 1.0)
    return (n * (1.0 - np.power(missed, k)))[()]


@formula(
    name="units_reached",
    quantity="count",
    equation=r"u = d\left(k, E\frac{M}{U}, M\right), \quad M = \min(U, L)",
    source="derived: `ranks_reached` with units for ranks, inside the units that group-limited routing allows"
    " (DeepSeek-V3 technical report 2024, arXiv:2412.19437, section 2.1.2)",
)
def units_reached(topk: Floats, experts: Floats, units: Floats, unit_limit: Floats = np.inf) -> Floats:
    r"""Expected number of nodes or domains among which the chosen experts of one token lie.

    .. math:: u = d\left(k, E\frac{M}{U}, M\right), \qquad M = \min(U, L)

    Parameters
    ----------
    topk : float or array
        Distinct experts per token.
    experts : float or array
        Routed experts on all units together.
    units : float or array
        Units U over which the experts are spread evenly.
    unit_limit : float or array
        Most units L to which one token may go.

    Returns
    -------
    float or array
        Units reached, the own one included; choices inside the allowed units are even and random.

    References
    ----------
    Derived; DeepSeek-V3 technical report 2024, section 2.1.2, node-limited routing.

    Examples
    --------
    Eight of 256 experts on eight nodes: unlimited, and in at most four nodes:

    >>> round(float(units_reached(8, 256, 8)), 2), round(float(units_reached(8, 256, 8, 4)), 2)
    (5.29, 3.62)
    """
    allowed = np.minimum(as_floats(units), as_floats(unit_limit))
    return ranks_reached(topk, as_floats(experts) * allowed / as_floats(units), allowed)


@formula(
    name="message_bytes",
    quantity="bytes",
    equation=r"m = a \left\lceil \frac{H b + \lceil H / c \rceil\, b_s}{a} \right\rceil",
    source="layout of the messages of DeepEP (DeepSeek 2025) and of CANN EP (arXiv:2506.12708, section 4.2)",
)
def message_bytes(
    hidden: Floats,
    element_bytes: Floats,
    scale_block: Floats = np.inf,
    *,
    scale_bytes: Floats = 4.0,
    alignment: Floats = 1.0,
) -> Floats:
    r"""Bytes of one token on its way to an expert: elements, their scales, and padding.

    .. math:: m = a \left\lceil \frac{H b + \lceil H / c \rceil\, b_s}{a} \right\rceil

    Parameters
    ----------
    hidden : float or array
        Elements per token.
    element_bytes : float or array
        Bytes per element without scales: 1 for fp8 and int8, 2 for bf16 [B].
    scale_block : float or array
        Elements c that share a scale; infinite where there are no scales.
    scale_bytes : float or array
        Bytes of one scale [B].
    alignment : float or array
        Size of which a message is a multiple [B].

    Returns
    -------
    float or array
        Bytes per token and destination [B].

    References
    ----------
    DeepSeek 2025, DeepEP; CloudMatrix384, arXiv:2506.12708, section 4.2.

    Examples
    --------
    DeepSeek-V3: fp8 in blocks of 128, int8 with one scale padded to 512 bytes (7.5 KiB), and bf16:

    >>> int(message_bytes(7168, 1, 128)), int(message_bytes(7168, 1, 7168, alignment=512)), int(message_bytes(7168, 2))
    (7392, 7680, 14336)
    """
    width = as_floats(hidden)
    scales = np.ceil(width / as_floats(scale_block)) * as_floats(scale_bytes)
    scales = np.where(np.isfinite(as_floats(scale_block)), scales, 0.0)
    whole = as_floats(alignment)
    return (np.ceil((width * as_floats(element_bytes) + scales) / whole) * whole)[()]


@formula(
    name="node_limited_exchange",
    quantity="time",
    equation=(
        r"t = \alpha + \alpha_o + \max\left(\frac{T m\, d (n-1)/n}{B}, \frac{T m\, u (k-1)/k}{B_o}\right),"
        r" \quad k = \lceil n / g \rceil"
    ),
    source="derived from the bytes on links and network; DeepSeek-V3 report 2024 (arXiv:2412.19437), section 3.2.2",
)
def node_limited_exchange(
    tokens: Floats,
    token_bytes: Floats,
    topk: Floats,
    experts: Floats,
    ranks: Floats,
    *,
    bandwidth: Floats,
    latency: Floats = 0.0,
    domain_ranks: "Floats | None" = None,
    network_bandwidth: Floats = np.inf,
    network_latency: Floats = 0.0,
    unit_limit: Floats = np.inf,
) -> Floats:
    r"""Time of an exchange in which a token crosses the network once per node and links forward it to its ranks.

    .. math::
       t = \alpha + \alpha_o + \max\left(\frac{T m\, d (n-1)/n}{B}, \frac{T m\, u (k-1)/k}{B_o}\right),
       \qquad k = \lceil n / g \rceil

    with the d ranks and the u nodes among which the experts of a token lie.

    Parameters
    ----------
    tokens : float or array
        Tokens T per rank.
    token_bytes : float or array
        Bytes m of one token's message [B].
    topk : float or array
        Experts per token.
    experts : float or array
        Routed experts on all ranks together.
    ranks : float or array
        Members n of the expert-parallel group.
    bandwidth : float or array
        One-way bandwidth per device inside a domain [B/s].
    latency : float or array
        Time of an empty message there [s].
    domain_ranks : float or array, optional
        Members g of the group inside one scale-up domain; by default all of them.
    network_bandwidth : float or array
        What one device reaches on the network between domains [B/s].
    network_latency : float or array
        Time of an empty message there [s].
    unit_limit : float or array
        Most domains to which one token may go (group-limited routing).

    Returns
    -------
    float or array
        Time, zero for one rank [s].

    References
    ----------
    Derived; DeepSeek-V3 technical report 2024, section 3.2.2.

    Examples
    --------
    >>> far = {"domain_ranks": 8, "network_bandwidth": 50e9, "unit_limit": 4}
    >>> t = node_limited_exchange(4096, 7392, 8, 256, 64, bandwidth=160e9, **far)
    >>> round(float(t) * 1e3, 2)
    1.92
    >>> far |= {"latency": 1e-5, "network_latency": 2e-5}
    >>> round(float(node_limited_exchange(4096, 7392, 8, 256, 64, bandwidth=160e9, **far) - t) * 1e6, 3)
    30.0
    """
    n = as_floats(ranks)
    near = np.minimum(as_floats(n if domain_ranks is None else domain_ranks), n)
    units = np.ceil(n / near)
    limit = np.minimum(as_floats(unit_limit), units)
    reached = as_floats(ranks_reached(topk, as_floats(experts) * limit / units, n * limit / units))
    away = as_floats(units_reached(topk, experts, units, unit_limit)) * (units - 1.0) / units
    payload = as_floats(tokens) * as_floats(token_bytes)
    by_link = np.where(near > 1.0, payload * reached * (n - 1.0) / n / as_floats(bandwidth), 0.0)
    by_network = payload * away / as_floats(network_bandwidth)
    wait = np.where(near > 1.0, as_floats(latency), 0.0) + np.where(units > 1.0, as_floats(network_latency), 0.0)
    time = wait + np.maximum(by_link, by_network)
    return np.where(n > 1.0, time, 0.0)[()]
