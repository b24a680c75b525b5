"""Poisson arrivals: seconds that prompts wait, their quantiles, and the requests that are in flight at a rate."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula

SATURATED = 1.0 - 1e-9
"""Load from which a queue counts as growing without end: rounding must not decide between a wait and infinity."""

_HALVINGS = 45  # of the interval that holds a root: to twelve digits and more


@formula(
    name="poisson_wait",
    quantity="time",
    equation=r"w = \frac{\rho\,t_p}{2(1 - \rho)} + b\,\frac{t_d}{2}, \quad \rho = \lambda\,t_p",
    source="M/D/1 queue with vacations: Pollaczek-Khinchine plus the residual vacation (Fuhrmann, Cooper 1985)",
)
def poisson_wait(prefill_s: Floats, arrival_rate: Floats, decode_s: Floats, busy: Floats = 1.0) -> Floats:
    r"""Mean wait of a prompt that arrives at any moment, for prompts before it and for the decode step under way.

    .. math:: w = \frac{\rho\,t_p}{2(1 - \rho)} + b\,\frac{t_d}{2}, \quad \rho = \lambda\,t_p

    A server of prompts that leaves for one decode step whenever no prompt waits.

    Parameters
    ----------
    prefill_s : float or array
        Device time t_p of one prompt [s].
    arrival_rate : float or array
        Prompts lambda that arrive per second [1/s].
    decode_s : float or array
        Decode step t_d that a prompt does not interrupt [s].
    busy : float or array
        Probability b that anything decodes [1].

    Returns
    -------
    float or array
        Wait before a prompt's own prefill; infinite where prompts come faster than they are worked off [s].

    References
    ----------
    Fuhrmann, Cooper 1985, Stochastic decompositions in the M/G/1 queue with generalized vacations; Kleinrock 1975.
    Prompts are alike, served one at a time in their order.

    Examples
    --------
    >>> round(float(poisson_wait(0.1, 5.0, 0.02)), 3), float(poisson_wait(0.1, 10.0, 0.02))
    (0.06, inf)
    """
    load = as_floats(prefill_s) * arrival_rate
    stable = load < SATURATED
    queue = load * prefill_s / (2.0 * (1.0 - np.where(stable, load, 0.0)))
    return np.where(stable, queue + as_floats(busy) * decode_s / 2.0, np.inf)[()]


@formula(
    name="poisson_tpot",
    quantity="time",
    equation=r"\mathrm{TPOT} = \frac{t_d}{1 - \rho} + \frac{\lambda (w + t_p)\,t_p - \rho\,t_d}{(1 - \rho)(o - 1)}",
    source="Busy periods of M/D/1 between decode steps: those that a step's arrivals start, and the one left behind",
)
def poisson_tpot(decode_s: Floats, prefill_s: Floats, arrival_rate: Floats, output_tokens: Floats) -> Floats:
    r"""Mean time per output token while prompts arrive at a rate and go before decode steps.

    .. math:: \mathrm{TPOT} = \frac{t_d}{1 - \rho} + \frac{\lambda (w + t_p)\,t_p - \rho\,t_d}{(1 - \rho)(o - 1)}

    Each decode step but the last is followed by the prompts that arrive during it and during them. Before the first
    step come the prompts that arrived while the request waited for w and was prefilled.

    Parameters
    ----------
    decode_s : float or array
        Decode step t_d of the requests that one of them sees, itself included [s].
    prefill_s : float or array
        Device time t_p of one prompt [s].
    arrival_rate : float or array
        Prompts lambda that arrive per second; rho = lambda t_p [1/s].
    output_tokens : float or array
        Output tokens o of a request, at least 2.

    Returns
    -------
    float or array
        Time per output token; infinite where prompts leave no time [s].

    References
    ----------
    Kleinrock 1975, Queueing Systems I: a departure leaves behind those that arrived during its stay, and a busy
    period multiplies work by 1 / (1 - rho).

    Examples
    --------
    >>> round(float(poisson_tpot(0.02, 0.1, 2.0, 1001)), 5), float(poisson_tpot(0.02, 0.1, 20.0, 1001))
    (0.02502, inf)
    """
    load = as_floats(prefill_s) * arrival_rate
    stable = load < SATURATED
    left = np.where(stable, 1.0 - load, 1.0)
    wait = np.where(stable, poisson_wait(prefill_s, np.where(stable, arrival_rate, 0.0), decode_s), 0.0)
    before = as_floats(arrival_rate) * (wait + prefill_s) * prefill_s - load * decode_s
    return np.where(stable, (decode_s + before / (as_floats(output_tokens) - 1.0)) / left, np.inf)[()]


@formula(
    name="poisson_rate",
    quantity="rate",
    equation=r"n = 1 + \lambda\,(o - 1)\,\mathrm{TPOT}(\lambda)",
    source="Little 1961, L = lambda W, and PASTA (Wolff 1982): an arrival sees the mean number in flight, and itself",
)
def poisson_rate(decode_s: Floats, prefill_s: Floats, requests: Floats, output_tokens: Floats) -> Floats:
    r"""Arrival rate at which a request sees so many decoding, itself included: the root of Little's law.

    .. math:: n = 1 + \lambda\,(o - 1)\,\mathrm{TPOT}(\lambda)

    Parameters
    ----------
    decode_s : float or array
        Decode step of n requests [s].
    prefill_s : float or array
        Device time t_p of one prompt [s].
    requests : float or array
        Requests n that one of them sees decoding, itself included.
    output_tokens : float or array
        Output tokens o of a request, at least 2.

    Returns
    -------
    float or array
        Requests per second, below 1 / t_p [1/s].

    References
    ----------
    Little 1961; Wolff 1982, Poisson arrivals see time averages; TPOT by `poisson_tpot`.

    Examples
    --------
    >>> rate = poisson_rate(0.02, 0.1, 51, 1001)
    >>> round(float(rate), 4), round(float(1 + rate * 1000 * poisson_tpot(0.02, 0.1, rate, 1001)), 6)
    (1.9984, 51.0)
    """
    # Little's law times 2 (1 - rho)^2 is a cubic in rho, far cheaper to evaluate than what it came from.
    decode, prompt = as_floats(decode_s), as_floats(prefill_s)
    others = 2.0 * (as_floats(requests) - 1.0) * prompt
    steady = 2.0 * (as_floats(output_tokens) - 1.0) * decode
    shape = np.broadcast(others, steady).shape
    low, high = np.zeros(shape), np.ones(shape)
    for _ in range(_HALVINGS):
        load = (low + high) / 2.0
        left = 1.0 - load
        needed = load * (steady * left + load * (load * prompt + left * (2.0 * prompt - decode)))
        below = needed < others * left * left
        low, high = np.where(below, load, low), np.where(below, high, load)
    return (low / prompt)[()]


@formula(
    name="poisson_wait_quantile",
    quantity="time",
    equation=r"P(w \le x) = \frac{1}{t_d}\int_0^{\min(x, t_d)} 1 - \rho\,e^{-(x - u)/m}\,du, \quad"
    r" m = \frac{t_p}{2(1 - \rho)}",
    source="Exponential tail with the exact mean and probability of waiting of M/D/1, convolved with the residual step",
)
def poisson_wait_quantile(
    prefill_s: Floats, arrival_rate: Floats, decode_s: Floats, *, busy: Floats = 1.0, quantile: Floats = 0.5
) -> Floats:
    r"""Wait of a prompt that a share of all prompts does not exceed.

    .. math:: P(w \le x) = \frac{1}{t_d}\int_0^{\min(x, t_d)} 1 - \rho\,e^{-(x - u)/m}\,du

    A prompt finds others with probability rho and then waits for them exponentially with mean
    :math:`m = t_p / 2 (1 - \rho)`; the rest of the decode step under way is uniform.

    Parameters
    ----------
    prefill_s : float or array
        Device time t_p of one prompt [s].
    arrival_rate : float or array
        Prompts lambda that arrive per second [1/s].
    decode_s : float or array
        Decode step t_d that a prompt does not interrupt [s].
    busy : float or array
        Probability that anything decodes [1].
    quantile : float or array
        Share of prompts that wait no longer, below 1.

    Returns
    -------
    float or array
        Wait; infinite where prompts come faster than they are worked off [s].

    References
    ----------
    Mean and probability of waiting are exact for equal prompts; their tail is shorter than exponential, by which the
    99 % point comes out up to a quarter too late. Prompts of unequal lengths have a longer one.

    Examples
    --------
    >>> [round(float(poisson_wait_quantile(0.1, 5.0, 0.02, quantile=q)), 3) for q in (0.5, 0.9, 0.99)]
    [0.017, 0.171, 0.401]
    """
    service, q = as_floats(prefill_s), as_floats(quantile)
    load = service * arrival_rate
    stable = load < SATURATED
    load = np.where(stable, load, 0.0)
    mean = service / (2.0 * (1.0 - load))
    step = as_floats(decode_s)
    some = np.maximum(step, 1e-12)  # no step at all is one too short to matter

    def reached(x: Floats) -> Floats:
        inside = np.minimum(x, some)
        # The integral over the residual, of the wait behind other prompts.
        waited = load * mean * (np.exp(-(x - inside) / mean) - np.exp(-x / mean))
        behind = 1.0 - load * np.exp(-x / mean)
        return as_floats(busy * (inside - waited) / some + (1.0 - as_floats(busy)) * behind)

    low, high = (
        np.zeros(np.broadcast(load, some, q, as_floats(busy)).shape),
        some + mean * -np.log((1.0 - q) / 2.0) * 2.0,
    )
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        below = as_floats(reached(middle)) < q
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(stable, high, np.inf)[()]


@formula(
    name="several_servers_wait",
    quantity="time",
    equation=r"w = \frac{C\,t}{2\,c\,(1 - \rho)}, \quad C = \rho^{\sqrt{2(c + 1)} - 1}, \quad \rho = \lambda\,t / c",
    source="Sakasegawa 1977 for the chance to wait at c servers; half of it for equal service times (Allen, Cunneen)",
)
def several_servers_wait(service_s: Floats, arrival_rate: Floats, servers: Floats) -> Floats:
    r"""Mean wait of prompts that arrive at random for the first of several prefill workers.

    .. math:: w = \frac{C\,t}{2\,c\,(1 - \rho)}, \quad C = \rho^{\sqrt{2(c + 1)} - 1}

    Parameters
    ----------
    service_s : float or array
        Time t for which one worker is busy with a prompt [s].
    arrival_rate : float or array
        Prompts lambda that arrive per second at all of them [1/s].
    servers : float or array
        Workers c.

    Returns
    -------
    float or array
        Wait; infinite where prompts come faster than they are worked off [s].

    References
    ----------
    Sakasegawa 1977, Annals of the Institute of Statistical Mathematics 29; Allen 1990, Probability, statistics, and
    queueing theory. Exact for one server.

    Examples
    --------
    >>> round(float(several_servers_wait(0.1, 5.0, 1)), 4), round(float(several_servers_wait(0.1, 35.0, 4)), 4)
    (0.05, 0.0749)
    """
    load = as_floats(service_s) * arrival_rate / servers
    stable = load < SATURATED
    load = np.where(stable, load, 0.0)
    waiting = load ** (np.sqrt(2.0 * (as_floats(servers) + 1.0)) - 1.0)
    return np.where(stable, waiting * service_s / (2.0 * as_floats(servers) * (1.0 - load)), np.inf)[()]


@formula(
    name="several_servers_quantile",
    quantity="time",
    equation=r"P(w > x) = C\,e^{-C x / \bar{w}}",
    source="Exponential tail with the mean and the chance to wait of `several_servers_wait`",
)
def several_servers_quantile(
    service_s: Floats, arrival_rate: Floats, servers: Floats, *, quantile: Floats = 0.5
) -> Floats:
    r"""Wait at several prefill workers that a share of all prompts does not exceed.

    .. math:: P(w > x) = C\,e^{-C x / \bar{w}}

    Parameters
    ----------
    service_s : float or array
        Time t for which one worker is busy with a prompt [s].
    arrival_rate : float or array
        Prompts lambda that arrive per second at all of them [1/s].
    servers : float or array
        Workers c.
    quantile : float or array
        Share of prompts that wait no longer, below 1.

    Returns
    -------
    float or array
        Wait; 0 where more prompts than that find a worker free [s].

    References
    ----------
    Exact for one server and exponential service times.

    Examples
    --------
    >>> [round(float(several_servers_quantile(0.1, 5.0, 1, quantile=q)), 3) for q in (0.4, 0.9, 0.99)]
    [0.0, 0.161, 0.391]
    """
    load = np.minimum(as_floats(service_s) * arrival_rate / servers, 1.0)
    waiting = load ** (np.sqrt(2.0 * (as_floats(servers) + 1.0)) - 1.0)
    mean = several_servers_wait(service_s, arrival_rate, servers)
    some = np.maximum(waiting, 1e-300)
    return np.maximum(mean / some * np.log(some / (1.0 - as_floats(quantile))), 0.0)[()]
