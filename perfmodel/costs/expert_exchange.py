"""Time of sending tokens to their experts and back [s]: calibrated forms of the DeepEP kernels."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.expert_traffic import ranks_reached, units_reached
from perfmodel.costs.registry import Coefficient, formula

DEEPEP = "DeepEP (DeepSeek 2025), github.com/deepseek-ai/DeepEP"

_HARDNESS = 4.0


@formula(
    name="deepep_normal",
    quantity="time",
    equation=(
        r"t = t_0 + d t_d + \left[\left(\frac{T (H b + o) (d + w)}{m B_{\rm SM}}\right)^4"
        r" + \left(\frac{T H b\, d (n-1)/n}{e B}\right)^4 + \left(\frac{T H b\, u (k-1)/k}{B_o}\right)^4\right]^{1/4}"
        r" + t_r \frac{V}{V + V_r} + \alpha_o, \quad k = \lceil n / g \rceil"
    ),
    source=(
        "fit of this library to measured kernels inside a domain, the network at its own rate; structure after"
        f" {DEEPEP}, csrc/kernels/intranode.cu and internode.cu"
    ),
    valid={"ranks": (1.0, 1024.0), "sms": (2.0, 64.0), "tokens": (1.0, 131072.0)},
    coefficients=(
        Coefficient("floor_s", "s", 2.5e-5, 1e-6, 2e-4, "launch, notification and barriers"),
        Coefficient("destination_s", "s", 1e-6, 1e-9, 2e-5, "latency of every rank that a token reaches"),
        Coefficient("sm_bandwidth", "B/s", 2.5e10, 1e9, 3e11, "payload that one communication SM moves"),
        Coefficient("token_weight", "1", 2.0, 0.01, 20.0, "work per token in units of one destination's copy"),
        Coefficient("copy_bytes", "B", 4000.0, 1.0, 100000.0, "overhead of one copy of one token, in payload"),
        Coefficient("efficiency", "1", 0.8, 0.05, 1.0, "part of the link bandwidth that can be reached"),
        Coefficient("ramp_s", "s", 1e-5, 1e-8, 2e-4, "filling of the channels' buffers"),
        Coefficient("ramp_bytes", "B", 1e6, 1e4, 1e9, "sent bytes at which half of the filling is paid"),
    ),
    attributes={"element_bytes": (1.03125, 2.0)},
)
def deepep_normal(
    tokens: Floats,
    hidden: Floats,
    topk: Floats,
    experts: Floats,
    ranks: Floats,
    sms: Floats,
    *,
    bandwidth: Floats,
    element_bytes: Floats = 2.0,
    domain_ranks: "Floats | None" = None,
    network_bandwidth: Floats = np.inf,
    network_latency: Floats = 0.0,
    unit_limit: Floats = np.inf,
    floor_s: Floats = 2.5e-5,
    destination_s: Floats = 1e-6,
    sm_bandwidth: Floats = 2.5e10,
    token_weight: Floats = 2.0,
    copy_bytes: Floats = 4000.0,
    efficiency: Floats = 0.8,
    ramp_s: Floats = 1e-5,
    ramp_bytes: Floats = 1e6,
) -> Floats:
    r"""Time of a throughput dispatch or combine, moved by communication SMs over links and network at once.

    .. math::
       t = t_0 + d t_d + \left[\left(\frac{T (H b + o) (d + w)}{m B_{\rm SM}}\right)^4
       + \left(\frac{T H b\, d (n-1)/n}{e B}\right)^4
       + \left(\frac{T H b\, u (k-1)/k}{B_o}\right)^4\right]^{1/4} + t_r \frac{V}{V + V_r} + \alpha_o

    with the d ranks and u of k = n / g scale-up domains among which the experts of a token lie.

    Parameters
    ----------
    tokens : float or array
        Tokens per rank.
    hidden : float or array
        Elements per token.
    topk : float or array
        Experts per token.
    experts : float or array
        Routed experts on all ranks together.
    ranks : float or array
        Members of the expert-parallel group.
    sms : float or array
        Streaming multiprocessors given to communication.
    bandwidth : float or array
        One-way link bandwidth per device [B/s].
    element_bytes : float or array
        Bytes per element: about 1.03 for a dispatch in fp8 with scales, 2 for a combine in bf16 [B].
    domain_ranks : float or array, optional
        Members g of the group inside one scale-up domain; by default all of them.
    network_bandwidth : float or array
        What one device reaches on the network between domains [B/s].
    network_latency : float or array
        Time of an empty message there [s].
    unit_limit : float or array
        Most domains to which one token may go (group-limited routing).
    floor_s, destination_s : float or array
        Latency, and its part per rank reached [s].
    sm_bandwidth : float or array
        Payload per communication SM [B/s].
    token_weight : float or array
        Work per token that does not depend on destinations, in copies.
    copy_bytes : float or array
        Overhead of one copy of one token, in payload [B].
    efficiency : float or array
        Part of the link bandwidth that can be reached.
    ramp_s : float or array
        Filling of the buffers [s].
    ramp_bytes : float or array
        Sent bytes at which half of it is paid [B].

    Returns
    -------
    float or array
        Time, zero for one rank [s].

    Notes
    -----
    A token goes once to every domain with one of its experts (`units_reached`), where links forward it to every rank
    that holds one (`ranks_reached`), not once per expert. What runs on a device inside a domain is measured; between
    domains nothing is fitted.

    References
    ----------
    DeepSeek 2025, DeepEP: normal kernels with NVLink and RDMA forwarding.

    Examples
    --------
    >>> round(float(deepep_normal(4096, 7168, 8, 256, 8, 20, bandwidth=450e9, element_bytes=1.03)) * 1e6)
    738
    """
    n = as_floats(ranks)
    units = np.ceil(n / np.minimum(as_floats(n if domain_ranks is None else domain_ranks), n))
    limit = np.minimum(as_floats(unit_limit), units)
    reached = as_floats(ranks_reached(topk, as_floats(experts) * limit / units, n * limit / units))
    away = as_floats(units_reached(topk, experts, units, unit_limit)) * (units - 1.0) / units
    payload = as_floats(tokens) * as_floats(hidden) * as_floats(element_bytes)
    sent = payload * reached * (n - 1.0) / n
    work = (payload + as_floats(tokens) * as_floats(copy_bytes)) * (reached + as_floats(token_weight))
    by_sms = work / (as_floats(sms) * as_floats(sm_bandwidth))
    by_link = sent / (as_floats(efficiency) * as_floats(bandwidth))
    by_network = payload * away / as_floats(network_bandwidth)
    longest = np.maximum(np.maximum(by_sms, by_link), by_network)
    unit = np.maximum(longest, np.finfo(np.float64).tiny)
    powers = sum(np.power(part / unit, _HARDNESS) for part in (by_sms, by_link, by_network))
    moving = longest * np.power(powers, 1.0 / _HARDNESS)
    ramp = as_floats(ramp_s) * sent / (sent + as_floats(ramp_bytes))
    ramp = ramp + np.where(units > 1.0, as_floats(network_latency), 0.0)
    time = as_floats(floor_s) + as_floats(destination_s) * reached + moving + ramp
    return np.where(n > 1.0, time, 0.0)[()]


@formula(
    name="deepep_low_latency",
    quantity="time",
    equation=(
        r"t = t_0 + E t_E + \frac{T}{m} t_t + \max\left(\frac{V (g-1)/n}{e B}, \frac{V (n-g)/n}{B_o}\right)"
        r" + t_r \frac{V'}{V' + V_r} + \alpha_o, \quad V = T k H b, \quad V' = \frac{n-1}{n} V,"
        r" \quad m = \lceil E / \lceil E / {\rm cores} \rceil \rceil"
    ),
    source=(
        "fit of this library to measured kernels inside a domain, the network at its own rate; structure after"
        f" {DEEPEP}, csrc/kernels/internode_ll.cu"
    ),
    valid={"ranks": (1.0, 1024.0), "tokens": (1.0, 1024.0)},
    coefficients=(
        Coefficient("floor_s", "s", 1e-5, 1e-6, 2e-4, "launch and the two phases"),
        Coefficient("expert_s", "s", 1.5e-8, 1e-10, 1e-6, "counting and signalling per expert"),
        Coefficient("token_s", "s", 2e-6, 1e-9, 1e-5, "one token's turn on one of the SMs in use"),
        Coefficient("efficiency", "1", 0.5, 0.02, 1.0, "asymptotic part of the link bandwidth"),
        Coefficient("ramp_s", "s", 3e-6, 1e-8, 2e-4, "cost of leaving the latency-bound regime"),
        Coefficient("ramp_bytes", "B", 1e6, 1e3, 1e9, "sent bytes at which half of it is paid"),
    ),
    attributes={"element_bytes": (1.03125, 2.0)},
)
def deepep_low_latency(
    tokens: Floats,
    hidden: Floats,
    topk: Floats,
    experts: Floats,
    ranks: Floats,
    *,
    bandwidth: Floats,
    cores: Floats,
    element_bytes: Floats = 2.0,
    domain_ranks: "Floats | None" = None,
    network_bandwidth: Floats = np.inf,
    network_latency: Floats = 0.0,
    floor_s: Floats = 1e-5,
    expert_s: Floats = 1.5e-8,
    token_s: Floats = 2e-6,
    efficiency: Floats = 0.5,
    ramp_s: Floats = 3e-6,
    ramp_bytes: Floats = 1e6,
) -> Floats:
    r"""Time of a latency-bound dispatch or combine: every token goes to each of its experts by itself.

    .. math::
       t = t_0 + E t_E + \frac{T}{m} t_t + \max\left(\frac{V (g-1)/n}{e B}, \frac{V (n-g)/n}{B_o}\right)
       + t_r \frac{V'}{V' + V_r} + \alpha_o,
       \quad V = T k H b, \quad V' = \frac{n-1}{n} V, \quad m = \lceil E / \lceil E / C \rceil \rceil

    Parameters
    ----------
    tokens : float or array
        Tokens per rank.
    hidden : float or array
        Elements per token.
    topk : float or array
        Experts per token.
    experts : float or array
        Routed experts on all ranks together.
    ranks : float or array
        Members of the expert-parallel group.
    bandwidth : float or array
        One-way link bandwidth per device [B/s].
    cores : float or array
        Streaming multiprocessors C of the device.
    element_bytes : float or array
        Bytes per element: about 1.03 for a dispatch in fp8 with scales, 2 for a combine in bf16 [B].
    domain_ranks : float or array, optional
        Members g of the group inside one scale-up domain; by default all of them.
    network_bandwidth : float or array
        What one device reaches on the network between domains [B/s].
    network_latency : float or array
        Time of an empty message there [s].
    floor_s : float or array
        Latency [s].
    expert_s : float or array
        Latency per expert [s].
    token_s : float or array
        One token's turn on an SM [s].
    efficiency : float or array
        Asymptotic part of the link bandwidth.
    ramp_s : float or array
        Cost of leaving the latency-bound regime [s].
    ramp_bytes : float or array
        Sent bytes at which half of it is paid [B].

    Returns
    -------
    float or array
        Time, zero for one rank [s].

    Notes
    -----
    The kernels start one group of warps per expert, so few experts leave most SMs idle: the token term. Members of
    one scale-up domain write over its links, all others over the network, both at once.

    References
    ----------
    DeepSeek 2025, DeepEP: low-latency kernels.

    Examples
    --------
    >>> t = deepep_low_latency(128, 7168, 8, 256, 8, bandwidth=450e9, cores=132, element_bytes=1.03)
    >>> round(float(t) * 1e6)
    48
    """
    n, total = as_floats(ranks), as_floats(experts)
    near = np.minimum(as_floats(n if domain_ranks is None else domain_ranks), n)
    busy = np.ceil(total / np.ceil(total / as_floats(cores)))
    copies = as_floats(tokens) * as_floats(topk) * as_floats(hidden) * as_floats(element_bytes)
    sent = copies * (n - 1.0) / n
    by_link = copies * (near - 1.0) / n / (as_floats(efficiency) * as_floats(bandwidth))
    by_network = copies * (n - near) / n / as_floats(network_bandwidth)
    turns = as_floats(tokens) / busy * as_floats(token_s)
    ramp = as_floats(ramp_s) * sent / (sent + as_floats(ramp_bytes))
    latency = as_floats(floor_s) + as_floats(expert_s) * total + np.where(n > near, as_floats(network_latency), 0.0)
    time = latency + turns + np.maximum(by_link, by_network) + ramp
    return np.where(n > 1.0, time, 0.0)[()]
