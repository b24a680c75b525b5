"""Time of experts whose exchanges run beside them, and of experts that lie in host memory [s]."""

import numpy as np

from perfmodel.arrays import Floats, as_floats, clipped
from perfmodel.costs.registry import formula
from perfmodel.costs.routing import power_law_of

DEGREES = (1.0, 2.0, 4.0, 8.0)
"""Parts into which a layer's tokens are cut so that exchanges and experts overlap (the degrees of Tutel)."""


@formula(
    name="pipelined_experts",
    quantity="time",
    equation=(
        r"t = \max\left(t_x,\; t_c + \frac{t_x}{d} + s\, t_x \left(1 - \frac{1}{d}\right)\right) + (d - 1)\, t_0"
    ),
    source=(
        "derived: two streams that alternate over d parts; adaptive pipelining of Hwang et al. 2022, Tutel"
        " (arXiv:2206.03382)"
    ),
)
def pipelined_experts(
    compute_s: Floats, exchange_s: Floats, degree: Floats = 1.0, *, taken_share: Floats = 0.0, chunk_s: Floats = 0.0
) -> Floats:
    r"""Time of a layer of experts whose tokens are cut into parts, the exchange of one beside the experts of another.

    .. math::
       t = \max\left(t_x,\; t_c + \frac{t_x}{d} + s\, t_x \left(1 - \frac{1}{d}\right)\right) + (d - 1)\, t_0

    Parameters
    ----------
    compute_s : float or array
        Time of the experts [s].
    exchange_s : float or array
        Time of dispatch and combine together [s].
    degree : float or array
        Parts d; one for no overlap.
    taken_share : float or array
        Share s of the cores that the exchange occupies [1].
    chunk_s : float or array
        Time that every further part adds: launches, smaller messages, smaller products [s].

    Returns
    -------
    float or array
        Time of the layer [s].

    Notes
    -----
    The dispatch of the first part and the combine of the last one have nothing to hide behind.

    References
    ----------
    Hwang et al. 2022, arXiv:2206.03382, section 3.

    Examples
    --------
    >>> [round(float(pipelined_experts(3e-3, 7e-3, d)) * 1e3, 2) for d in (1, 2, 4)]
    [10.0, 7.0, 7.0]
    """
    exchange, parts = as_floats(exchange_s), as_floats(degree)
    hidden = 1.0 - 1.0 / parts
    busy = as_floats(compute_s) + exchange / parts + as_floats(taken_share) * exchange * hidden
    return np.maximum(exchange, busy) + (parts - 1.0) * as_floats(chunk_s)


@formula(
    name="cached_picks",
    quantity="fraction",
    equation=r"h = \frac{\int_{1-c/E}^{1} q(u)\,du}{\int_0^1 q(u)\,du}",
    source="derived: share of a power law's mass in its largest c of E loads, the best that a fixed cache can hold",
)
def cached_picks(
    cached: Floats, experts: Floats, *, tokens: Floats = 4096.0, topk: Floats = 1.0, skew: Floats = 0.0
) -> Floats:
    r"""Share of the picks that fall on experts in a cache that holds the busiest ones.

    .. math:: h = \frac{\int_{1-c/E}^{1} q(u)\,du}{\int_0^1 q(u)\,du}

    with the quantiles q of `power_law_tokens`.

    Parameters
    ----------
    cached : float or array
        Experts of a layer that the device holds.
    experts : float or array
        Routed experts of a layer.
    tokens : float or array
        Tokens over which the loads were counted.
    topk : float or array
        Experts per token.
    skew : float or array
        Exponent of the power law of the loads; 0 is an even spread, of which a cache holds its share [1].

    Returns
    -------
    float or array
        Hit rate [1].

    Notes
    -----
    A predictor that knows the next layer's routing does better than any fixed choice; its hit rate is a
    measurement and belongs into `offloaded_experts`.

    References
    ----------
    Derived; compare He et al. 2024, ExpertFlow (arXiv:2410.17954), expert cache.

    Examples
    --------
    >>> [round(float(cached_picks(32, 128, topk=8, skew=a)), 2) for a in (0.0, 1.2)]
    [0.25, 0.94]
    """
    e, a = as_floats(experts), as_floats(skew)
    part = clipped(as_floats(cached) / e, 0.0, 1.0)
    law = power_law_of(as_floats(tokens), e, as_floats(topk), a)
    order = 1.0 / law.exponent + 1.0
    span = law.high - law.low
    below = np.power(span * (1.0 - part) + law.low, order)
    share = (law.largest * law.high - below) / (law.largest * law.high - law.smallest * law.low)
    return np.where(a > 0.0, share, part)[()]


@formula(
    name="missed_experts",
    quantity="count",
    equation=r"E_m = E_h\left(1 - \left(1 - \frac{1 - h}{E_h}\right)^{n}\right)",
    source="derived: distinct experts among picks that each miss with 1 - h, evenly spread over those in host memory",
)
def missed_experts(picks: Floats, hosted: Floats, hit_rate: Floats) -> Floats:
    r"""Experts of a layer that a step has to fetch from host memory.

    .. math:: E_m = E_h\left(1 - \left(1 - \frac{1 - h}{E_h}\right)^{n}\right)

    Parameters
    ----------
    picks : float or array
        Experts n that the tokens of the step pick, all tokens together.
    hosted : float or array
        Experts E_h that lie in host memory.
    hit_rate : float or array
        Share h of the picks whose expert is on the device [1].

    Returns
    -------
    float or array
        Different experts, at most those in host memory.

    References
    ----------
    Derived as `active_experts`. With few picks it is n (1 - h), the misses of ExpertFlow (arXiv:2410.17954); a large
    step fetches every hosted expert once, whatever the hit rate.

    Examples
    --------
    >>> [round(float(missed_experts(n, 64, 0.5)), 2) for n in (2, 64, 4096)]
    [1.0, 25.26, 64.0]
    """
    inside = as_floats(hosted)
    spared = clipped(1.0 - (1.0 - as_floats(hit_rate)) / np.where(inside > 0.0, inside, 1.0), 0.0, 1.0)
    return (inside * (1.0 - np.power(spared, picks)))[()]


@formula(
    name="offloaded_experts",
    quantity="time",
    equation=r"t = t_c + \max\left(0,\; \frac{(1 - h) D}{B_h} - t_h\right)",
    source="He et al. 2024, ExpertFlow (arXiv:2410.17954): missing experts are fetched from the host ahead of use",
)
def offloaded_experts(
    compute_s: Floats, nbytes: Floats, hit_rate: Floats, *, host_bandwidth: Floats, hiding_s: Floats = 0.0
) -> Floats:
    r"""Time of a layer of experts of which only some lie in device memory.

    .. math:: t = t_c + \max\left(0,\; \frac{(1 - h) D}{B_h} - t_h\right)

    Parameters
    ----------
    compute_s : float or array
        Time of the experts with all weights in device memory [s].
    nbytes : float or array
        Weights D of the active experts [B].
    hit_rate : float or array
        Share h of them found on the device, or fetched in time by a prediction [1].
    host_bandwidth : float or array
        Link to the host, one-way [B/s].
    hiding_s : float or array
        Time of other work behind which a fetch can hide [s].

    Returns
    -------
    float or array
        Time [s].

    References
    ----------
    He et al. 2024, arXiv:2410.17954.

    Examples
    --------
    Two of eight experts of Mixtral-8x7B (352 MB each in bf16) for one token over PCI Express 4, half of them cached:

    >>> round(float(offloaded_experts(2e-4, 704e6, 0.5, host_bandwidth=31.5e9)) * 1e3, 1)
    11.4
    """
    fetched = (1.0 - as_floats(hit_rate)) * as_floats(nbytes) / as_floats(host_bandwidth)
    return as_floats(compute_s) + np.maximum(0.0, fetched - as_floats(hiding_s))
