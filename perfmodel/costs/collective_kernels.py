"""Time of the collectives that libraries ship [s]: calibrated forms with latency floors and protocol switches."""

import numpy as np

from perfmodel.arrays import Array, Floats, as_floats
from perfmodel.costs.collective_bounds import OPERATIONS, collective_bound, collective_traffic
from perfmodel.costs.registry import Coefficient, formula

MEASURED_RANKS = 8.0
"""Largest group that the forms were fitted to; beyond it latency grows with the depth of a tree."""

LATENCY_GROWTH = 0.3
"""Part by which the steps of the low-latency protocol lengthen with the buffer where they do, as on A100 [1]."""

NCCL_TUNING = "protocols and steps after the cost model of NVIDIA NCCL (5067397), src/graph/tuning.cc"


def _hops(ranks: Array) -> Array:
    """Latency steps: a ring's up to the largest measured group, a tree's (up and down) beyond."""
    depth = np.log2(np.maximum(ranks, MEASURED_RANKS) / MEASURED_RANKS)
    return np.minimum(ranks - 1.0, MEASURED_RANKS - 1.0 + 2.0 * depth)


def _pairs(ranks: Array) -> Array:
    """Ranks relative to the smallest group."""
    return np.maximum(ranks, 2.0) / 2.0


def _gain(ranks: Array, scaling: Floats, domain: float) -> Array:
    """Bandwidth per device of a group relative to that of two ranks."""
    exponent, pairs = as_floats(scaling), _pairs(ranks)
    if domain:
        # One drop on leaving the switch, then every rank takes an equal part of the host's path.
        outside = np.power(2.0, exponent) * 2.0 * domain / np.maximum(ranks, 2.0 * domain)
        return np.where(ranks <= domain, 1.0, outside)
    # Growth saturates like a ring's traffic; sharing of a common medium goes on with every rank.
    grows = np.power(2.0 - 1.0 / pairs, np.maximum(exponent, 0.0))
    return grows * np.power(pairs, np.minimum(exponent, 0.0))


def _stream_s(
    nbytes: Array,
    ranks: Array,
    op: str,
    bandwidth: Floats,
    efficiency: Floats,
    scaling: Floats,
    domain: float = 0.0,
) -> Array:
    """Transfer at the asymptotic bandwidth of a group of this size, never below the exact bound."""
    achieved = as_floats(efficiency) * as_floats(bandwidth) * _gain(ranks, scaling, domain)
    bound = as_floats(collective_bound(nbytes, ranks, op=op, bandwidth=bandwidth))
    return np.maximum(as_floats(collective_traffic(nbytes, ranks, op=op)) / achieved, bound)


@formula(
    name="nccl_collective",
    quantity="time",
    equation=(
        r"t = (t_0 + h t_h)\left(1 + \frac{\lambda S^2}{S^2 + S_l^2}\right)"
        r" + T + (1-\sigma)\left(\tfrac{1}{r}-1\right) T"
        r" + \sigma \max\left[t_s \left(\tfrac{n}{2}\right)^{q},"
        r" \left(\tfrac{1}{r}-1\right) T(S_n)\right], \quad T = \frac{V}{e B\, g(n)},"
        r" \quad \sigma = \frac{x^p}{1+x^p}, \quad x = \frac{S}{S_n}, \quad S_n = S_w \left(\tfrac{n}{2}\right)^{w}"
    ),
    source=f"fit of this library to measured NCCL collectives; {NCCL_TUNING}",
    valid={"ranks": (1.0, 8.0), "nbytes": (1.0, 2.0**31)},
    coefficients=(
        Coefficient("floor_s", "s", 7e-6, 5e-7, 1e-4, "launch and first step of the low-latency protocol"),
        Coefficient("hop_s", "s", 1e-6, 1e-8, 5e-5, "latency of every further step"),
        Coefficient("efficiency", "1", 0.6, 0.02, 1.0, "asymptotic part of the link bandwidth between two ranks"),
        Coefficient("scaling", "1", 0.4, -3.0, 2.0, "growth (> 0) or sharing (< 0) of the bandwidth with ranks"),
        Coefficient("low_protocol", "1", 0.4, 0.1, 1.0, "bandwidth of the low-latency protocol in parts of the full"),
        Coefficient("step_s", "s", 1e-5, 1e-8, 1e-3, "start-up of the full-bandwidth protocol with two ranks"),
        Coefficient("step_scaling", "1", 0.5, -1.0, 2.0, "exponent with which this start-up grows with ranks"),
        Coefficient("switch_bytes", "B", 2e6, 1e4, 1e9, "buffer at which two ranks change the protocol"),
    ),
    attributes={
        "op": OPERATIONS,
        "sharpness": (1.0, 2.0, 8.0),
        "switch_scaling": (0.0, 1.0),
        "domain": (0.0, 2.0),
        "low_switch_bytes": (0.0, 16384.0),
    },
)
def nccl_collective(
    nbytes: Floats,
    ranks: Floats,
    *,
    bandwidth: Floats,
    op: str = "all_reduce",
    floor_s: Floats = 7e-6,
    hop_s: Floats = 1e-6,
    efficiency: Floats = 0.6,
    scaling: Floats = 0.4,
    low_protocol: Floats = 0.4,
    step_s: Floats = 1e-5,
    step_scaling: Floats = 0.5,
    switch_bytes: Floats = 2e6,
    sharpness: float = 2.0,
    switch_scaling: float = 1.0,
    domain: float = 0.0,
    low_switch_bytes: float = 0.0,
) -> Floats:
    r"""Time of a collective of a ring library that changes from a low-latency to a full-bandwidth protocol.

    .. math::
       t = (t_0 + h t_h)\left(1 + \frac{\lambda S^2}{S^2 + S_l^2}\right) + T + (1-\sigma)\left(\tfrac{1}{r}-1\right) T
       + \sigma \max\left[t_s \left(\tfrac{n}{2}\right)^{q}, \left(\tfrac{1}{r}-1\right) T(S_n)\right]

    with the transfer time T = V / (e B g(n)), the part :math:`\sigma = x^p/(1+x^p)` of the full protocol,
    :math:`\lambda` = `LATENCY_GROWTH` (none where :math:`S_l = 0`), x = S / S_n and the switch at
    :math:`S_n = S_w (n/2)^w`.

    Parameters
    ----------
    nbytes : float or array
        Total buffer [B].
    ranks : float or array
        Members of the group.
    bandwidth : float or array
        One-way link bandwidth per device [B/s].
    op : str
        One of `perfmodel.costs.collective_bounds.OPERATIONS`.
    floor_s, hop_s : float or array
        Latency of the first and of every further step [s].
    efficiency : float or array
        Asymptotic part of the bandwidth between two ranks.
    scaling : float or array
        Above zero, bandwidth grows as (2 (n-1)/n)**scaling; below, it falls as (n/2)**scaling.
    low_protocol : float or array
        Bandwidth of the low-latency protocol in parts of the full one.
    step_s : float or array
        Start-up of the full-bandwidth protocol with two ranks [s].
    step_scaling : float or array
        Exponent with which the start-up grows with ranks.
    switch_bytes : float or array
        Buffer at which two ranks change the protocol [B].
    sharpness : float
        Exponent p: 1 a slow ramp, 8 practically a step.
    switch_scaling : float
        Exponent w: 0 the same buffer, 1 the same slice per rank.
    domain : float
        Devices behind one switch of a host's bus; 0 where all devices are equally far apart. With a domain,
        bandwidth changes by 2**scaling outside of it and then falls as 1/n: the path through the host is shared.
    low_switch_bytes : float
        Buffer :math:`S_l` in bytes around which the steps of the low-latency protocol lengthen by `LATENCY_GROWTH`; 0
        where they do not.

    Returns
    -------
    float or array
        Time, zero for one rank [s].

    Notes
    -----
    The transfer never beats `collective_bound`. The time never falls with the size; at sharpness 8 it
    steps up at the switch by the start-up. Beyond eight ranks hops and start-up grow as 2 log2(n/8)
    (trees), except for the hops of all-to-all. A negative scaling describes devices that share a host's
    memory and socket link.

    References
    ----------
    NVIDIA NCCL at 5067397, src/graph/tuning.cc: LL, LL128 and Simple protocols.

    Examples
    --------
    >>> round(float(nccl_collective(2**28, 8, bandwidth=450e9)) * 1e6)
    1469
    """
    n, size = as_floats(ranks), as_floats(nbytes)
    steps, pairs = _hops(n), _pairs(n)
    hops = n - 1.0 if op == "all_to_all" else steps
    switch = as_floats(switch_bytes) * np.power(pairs, switch_scaling)
    slower = 1.0 / as_floats(low_protocol) - 1.0
    transfer = _stream_s(size, n, op, bandwidth, efficiency, scaling, domain)
    at_switch = _stream_s(switch, n, op, bandwidth, efficiency, scaling, domain)
    # Written with the inverse ratio so that huge buffers do not overflow.
    full = 1.0 / (1.0 + np.power(switch / np.maximum(size, 1.0), sharpness))
    # The power law was measured up to eight ranks; beyond, the start-up grows with the steps of a tree.
    extent = np.minimum(pairs, MEASURED_RANKS / 2.0) * np.maximum(steps / (MEASURED_RANKS - 1.0), 1.0)
    start_up = as_floats(step_s) * np.power(extent, as_floats(step_scaling))
    # The switch costs at least what it saves, or a larger buffer would be faster.
    step = np.maximum(start_up, slower * at_switch)
    # Half of the growth at the switch, next to all of it at three times the buffer.
    longer = np.where(
        low_switch_bytes > 0.0, LATENCY_GROWTH / (1.0 + (low_switch_bytes / np.maximum(size, 1.0)) ** 2), 0.0
    )
    latency = (as_floats(floor_s) + as_floats(hop_s) * hops) * (1.0 + longer)
    time = latency + transfer + (1.0 - full) * slower * transfer + full * step
    return np.where(n > 1.0, time, 0.0)[()]


@formula(
    name="custom_all_reduce",
    quantity="time",
    equation=(
        r"t = \begin{cases} t_0 + (n-1) t_p + \min\left[\frac{(n-1)S}{eB},"
        r" t_2 + \frac{2(n-1)}{n}\frac{S}{eB}\right] & S \le S_f(n) \\"
        r" t_l + \frac{2(n-1)}{n}\frac{S}{e_l B g(n)} & S > S_f(n) \end{cases}"
    ),
    source=(
        "fit of this library to measured all-reduces of serving engines; one-shot and two-shot kernels and their"
        " fallback to NCCL as in vLLM (all_reduce_utils) and TensorRT-LLM (customAllReduceUtils)"
    ),
    valid={"ranks": (1.0, 8.0), "nbytes": (1.0, 2.0**31)},
    coefficients=(
        Coefficient("floor_s", "s", 3e-6, 2e-7, 5e-5, "launch and one barrier between two ranks"),
        Coefficient("peer_s", "s", 2e-7, 1e-9, 5e-6, "latency of every further peer"),
        Coefficient("efficiency", "1", 0.65, 0.02, 1.0, "part of the link bandwidth that peer reads reach"),
        Coefficient("two_shot_s", "s", 2e-6, 1e-8, 1e-4, "further barriers of the two-shot kernel"),
        Coefficient("library_s", "s", 3e-5, 1e-7, 1e-3, "start-up of the library that takes large buffers"),
        Coefficient("library_efficiency", "1", 0.7, 0.02, 1.0, "its part of the link bandwidth between two ranks"),
        Coefficient("library_scaling", "1", 0.4, -3.0, 2.0, "growth (> 0) or sharing (< 0) of its bandwidth"),
        Coefficient("fallback_bytes", "B", 8.3e6, 1e5, 1e9, "buffer of two ranks above which the library is used"),
    ),
    attributes={"fallback": ("flat", "pair", "inverse")},
)
def custom_all_reduce(
    nbytes: Floats,
    ranks: Floats,
    *,
    bandwidth: Floats,
    floor_s: Floats = 3e-6,
    peer_s: Floats = 2e-7,
    efficiency: Floats = 0.65,
    two_shot_s: Floats = 2e-6,
    library_s: Floats = 3e-5,
    library_efficiency: Floats = 0.7,
    library_scaling: Floats = 0.4,
    fallback_bytes: Floats = 8.3e6,
    fallback: str = "flat",
) -> Floats:
    r"""Time of a serving engine's own all-reduce: peers read each other's memory, large buffers go to the library.

    .. math::
       t = t_0 + (n-1) t_p + \min\left[\frac{(n-1)S}{eB}, t_2 + \frac{2(n-1)}{n}\frac{S}{eB}\right]
       \;(S \le S_f), \qquad t_l + \frac{2(n-1)}{n}\frac{S}{e_l B g(n)} \;(S > S_f)

    Parameters
    ----------
    nbytes : float or array
        Reduced vector [B].
    ranks : float or array
        Members of the group.
    bandwidth : float or array
        One-way link bandwidth per device [B/s].
    floor_s, peer_s : float or array
        Latency with two ranks and of every further peer [s].
    efficiency : float or array
        Part of the link bandwidth that the kernel's reads reach.
    two_shot_s : float or array
        Further barriers of the two-shot kernel [s].
    library_s : float or array
        Start-up of the library [s].
    library_efficiency, library_scaling : float or array
        As efficiency and scaling of `nccl_collective`.
    fallback_bytes : float or array
        Buffer of two ranks above which the library takes over [B].
    fallback : str
        How the threshold goes with ranks: "flat", "pair" (half for more than two) or "inverse" (times 2/n).

    Returns
    -------
    float or array
        Time, zero for one rank [s].

    Notes
    -----
    The time steps up where the library takes over and never falls with the size. Engines choose
    the shot by a size threshold of their own; here the faster one is taken.

    References
    ----------
    vLLM, all_reduce_utils.py; TensorRT-LLM, customAllReduceUtils.h.

    Examples
    --------
    >>> round(float(custom_all_reduce(2**20, 8, bandwidth=450e9)) * 1e6, 1)
    12.7
    """
    n, size = as_floats(ranks), as_floats(nbytes)
    pairs = _pairs(n)
    limit = as_floats(fallback_bytes)
    if fallback == "pair":
        limit = limit * np.where(n > 2.0, 0.5, 1.0)
    elif fallback == "inverse":
        limit = limit / pairs
    own = np.minimum(size, limit)
    rate = as_floats(efficiency) * as_floats(bandwidth)
    one_shot = (n - 1.0) * own / rate
    two_shot = as_floats(two_shot_s) + as_floats(collective_traffic(own, n, op="all_reduce")) / rate
    kernel = as_floats(floor_s) + as_floats(peer_s) * (n - 1.0) + np.minimum(one_shot, two_shot)
    stream = _stream_s(size, n, "all_reduce", bandwidth, library_efficiency, library_scaling)
    time = np.where(size <= limit, kernel, np.maximum(kernel, as_floats(library_s) + stream))
    return np.where(n > 1.0, time, 0.0)[()]
