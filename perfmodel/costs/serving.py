"""Serving: seconds per output token and to the first token when requests share a device."""

import numpy as np

from perfmodel.arrays import Floats, as_floats, clipped
from perfmodel.costs.registry import formula


@formula(
    name="interleaved_tpot",
    quantity="time",
    equation=r"\mathrm{TPOT} = t_d + s\,\frac{(n - 1)\,t_p}{o}",
    source="Conservation of device time in a closed loop: while one request decodes, each of the others prefills once",
)
def interleaved_tpot(
    decode_s: Floats, prefill_s: Floats, requests: Floats, output_tokens: Floats, *, interference: Floats = 1.0
) -> Floats:
    r"""Mean time per output token when prefills run between the decode steps.

    .. math:: \mathrm{TPOT} = t_d + s\,\frac{(n - 1)\,t_p}{o}

    With n requests always in flight, every other request is replaced, and so prefilled, once in the life of a
    request; each of these prefills stalls its decoding.

    Parameters
    ----------
    decode_s : float or array
        Decode step t_d of all requests in flight [s].
    prefill_s : float or array
        Device time t_p that one prompt takes from the decoding [s].
    requests : float or array
        Requests n in flight on one rank.
    output_tokens : float or array
        Output tokens o of a request.
    interference : float or array
        Time s that a prompt takes from running requests, over the time it takes alone [1].

    Returns
    -------
    float or array
        Time per output token [s].

    References
    ----------
    Conservation of device time; the interference that chunked prefill spreads out (SARATHI, arXiv:2308.16369) and
    does not remove.

    Examples
    --------
    >>> round(float(interleaved_tpot(0.02, 0.1, 65, 1000)), 4)
    0.0264
    """
    others = np.maximum(as_floats(requests) - 1.0, 0.0)
    return as_floats(decode_s) + as_floats(interference) * others * prefill_s / output_tokens


@formula(
    name="closed_loop_wait",
    quantity="time",
    equation=r"w = \min\left(\frac{\rho\,t_p}{2(1 - \rho)},\ (n - 1)\,t_p\right), \quad \rho = \frac{n\,t_p}{T}",
    source="Pollaczek-Khinchine wait with fixed service time (M/D/1), capped by the finite population",
)
def closed_loop_wait(prefill_s: Floats, requests: Floats, cycle_s: Floats) -> Floats:
    r"""Mean wait of a prompt for the prompts before it.

    .. math:: w = \min\left(\frac{\rho\,t_p}{2(1 - \rho)},\ (n - 1)\,t_p\right), \quad \rho = \frac{n\,t_p}{T}

    Parameters
    ----------
    prefill_s : float or array
        Device time t_p of one prompt [s].
    requests : float or array
        Requests n in flight.
    cycle_s : float or array
        Life T of a request, from arrival to its last token [s].

    Returns
    -------
    float or array
        Wait before a prompt's own prefill [s].

    References
    ----------
    Kleinrock 1975, Queueing Systems I, M/D/1. Differs by the cap: no more than the other n - 1 requests can be
    ahead.

    Examples
    --------
    >>> float(closed_loop_wait(0.1, 1, 5.0)), round(float(closed_loop_wait(0.1, 20, 4.0)), 3)
    (0.0, 0.05)
    """
    others = np.maximum(as_floats(requests) - 1.0, 0.0)
    load = clipped(as_floats(requests) * prefill_s / cycle_s, 0.0, 1.0 - 1e-9)
    return np.minimum(load * prefill_s / (2.0 * (1.0 - load)), others * prefill_s)


@formula(
    name="first_wave_wait",
    quantity="time",
    equation=r"w = \frac{n}{2}\left(\phi + \frac{1 - \phi}{W}\right) t_p",
    source="Mean over W waves of n requests: the first arrives at once and waits for n / 2 prompts, others in part",
)
def first_wave_wait(prefill_s: Floats, requests: Floats, waves: Floats, *, lockstep: Floats = 0.0) -> Floats:
    r"""Mean wait of a request for the others of its wave, where a whole wave arrives at once.

    .. math:: w = \frac{n}{2}\left(\phi + \frac{1 - \phi}{W}\right) t_p

    The first wave of a benchmark does so always; later ones only while requests keep starting and ending together.

    Parameters
    ----------
    prefill_s : float or array
        Device time t_p of one prompt [s].
    requests : float or array
        Requests n that arrive at once: the concurrency.
    waves : float or array
        Requests sent in all over the concurrency W; infinite for a load that has run for long.
    lockstep : float or array
        Share phi of the later waves that arrive together [1].

    Returns
    -------
    float or array
        Wait, averaged over all requests of the benchmark [s].

    References
    ----------
    Elementary: the i-th of n prompts that arrive together waits for i - 1 others, n / 2 on average; one request in W
    belongs to that burst.

    Examples
    --------
    >>> float(first_wave_wait(0.1, 100, 10)), float(first_wave_wait(0.1, 100, float("inf")))
    (0.5, 0.0)
    """
    together = as_floats(lockstep) + (1.0 - as_floats(lockstep)) / waves
    return as_floats(requests) / 2.0 * together * prefill_s


@formula(
    name="staggered_wait",
    quantity="time",
    equation=r"w = \min\left(n - 1,\ \tfrac{3}{2}\right) t_p",
    source="A closed loop of equal requests played through step by step, each scheduled while another runs, as"
    " by asynchronous scheduling in vLLM and the overlap scheduler in TensorRT-LLM",
)
def staggered_wait(prefill_s: Floats, requests: Floats) -> Floats:
    r"""Wait of a prompt for those just before it, where requests of equal lengths follow each other step by step.

    .. math:: w = \min\left(n - 1,\ \tfrac{3}{2}\right) t_p

    Requests of equal lengths end in the order and at the distances in which they started. When one ends, the step that
    follows at once holds the prompt of another. Its own prompt is in the step after that, or, where it comes a moment
    after that step was scheduled, in the next one behind a second prompt: a race, of which the mean is taken. The wait
    depends neither on the output's length nor on the load.

    Parameters
    ----------
    prefill_s : float or array
        Device time t_p of one prompt [s].
    requests : float or array
        Requests n in flight.

    Returns
    -------
    float or array
        Wait before a prompt's own prefill [s].

    References
    ----------
    Derived. Measured deployments of vLLM and TensorRT-LLM with equal lengths show a first token that comes after two to
    three prefill times and is the same for outputs of 128 to 1,024 tokens.

    Examples
    --------
    >>> float(staggered_wait(0.1, 1)), round(float(staggered_wait(0.1, 64)), 9)
    (0.0, 0.15)
    """
    return np.minimum(np.maximum(as_floats(requests) - 1.0, 0.0), 1.5) * as_floats(prefill_s)


@formula(
    name="slot_wait",
    quantity="time",
    equation=r"w = \max\left(\frac{b}{n} - 1,\, 0\right) T",
    source="Little's law in a closed loop: b requests share n places, each held for T",
)
def slot_wait(requests: Floats, places: Floats, hold_s: Floats) -> Floats:
    r"""Mean wait for a place where the cache holds fewer requests than are in flight.

    .. math:: w = \max\left(\frac{b}{n} - 1,\, 0\right) T

    Parameters
    ----------
    requests : float or array
        Requests b in flight.
    places : float or array
        Requests n whose cache fits.
    hold_s : float or array
        Time T for which a request holds its place [s].

    Returns
    -------
    float or array
        Wait before a request is admitted [s].

    References
    ----------
    Little 1961, A proof for the queuing formula L = lambda W: the b - n waiting requests leave the queue at rate n / T.

    Examples
    --------
    >>> float(slot_wait(150, 100, 20.0)), float(slot_wait(50, 100, 20.0))
    (10.0, 0.0)
    """
    return np.maximum(as_floats(requests) / places - 1.0, 0.0) * as_floats(hold_s)


@formula(
    name="pool_limited_ttft",
    quantity="time",
    equation=r"\mathrm{TTFT} = \max\left(t_1,\ \frac{N}{\mu} - (o - 1)\,\mathrm{TPOT}\right)",
    source="Asymptotic bounds of a closed queueing network: Denning, Buzen 1978, ACM Computing Surveys 10(3)",
)
def pool_limited_ttft(
    started_s: Floats, token_s: Floats, output_tokens: Floats, requests: Floats, prefill_rate: Floats
) -> Floats:
    r"""Mean time to first token where a pool of prefill workers may be the bottleneck of a closed loop.

    .. math:: \mathrm{TTFT} = \max\left(t_1,\ \frac{N}{\mu} - (o - 1)\,\mathrm{TPOT}\right)

    Parameters
    ----------
    started_s : float or array
        Time t_1 to the first token where no queue lasts [s].
    token_s : float or array
        Time per output token [s].
    output_tokens : float or array
        Output tokens o of a request.
    requests : float or array
        Requests N in flight on the whole deployment.
    prefill_rate : float or array
        Prompts per second mu that all prefill workers finish [1/s].

    Returns
    -------
    float or array
        Time to first token [s].

    References
    ----------
    Denning, Buzen 1978, The operational analysis of queueing network models: the cycle of a closed loop is at least
    N over the rate of its bottleneck.

    Examples
    --------
    >>> float(pool_limited_ttft(0.5, 0.01, 1001, 100, 20)), float(pool_limited_ttft(0.5, 0.01, 1001, 400, 20))
    (0.5, 10.0)
    """
    waiting = as_floats(requests) / prefill_rate - (as_floats(output_tokens) - 1.0) * token_s
    return np.maximum(as_floats(started_s), waiting)


@formula(
    name="speculated_tokens",
    quantity="count",
    equation=r"E = \frac{1 - a^{\gamma + 1}}{1 - a}",
    source="Leviathan, Kalman, Matias 2023 (arXiv:2211.17192), equation 1",
    valid={"draft_tokens": (0.0, 16.0), "acceptance": (0.0, 1.0)},
)
def speculated_tokens(draft_tokens: Floats, acceptance: Floats) -> Floats:
    r"""Expected tokens of one decode step that verifies a draft.

    .. math:: E = \frac{1 - a^{\gamma + 1}}{1 - a}

    Parameters
    ----------
    draft_tokens : float or array
        Tokens gamma that are drafted per step; 0 for plain decoding.
    acceptance : float or array
        Probability a that a drafted token is accepted, given that those before it were.

    Returns
    -------
    float or array
        Tokens per step, between 1 and gamma + 1.

    References
    ----------
    Leviathan, Kalman, Matias 2023 (arXiv:2211.17192), equation 1: acceptances are independent and alike.

    Examples
    --------
    >>> float(speculated_tokens(1, 0.7)), float(speculated_tokens(0, 0.7)), float(speculated_tokens(3, 1.0))
    (1.7, 1.0, 4.0)
    """
    gamma, a = as_floats(draft_tokens), as_floats(acceptance)
    certain = a >= 1.0
    safe = np.where(certain, 0.5, a)
    return np.where(certain, gamma + 1.0, (1.0 - safe ** (gamma + 1.0)) / (1.0 - safe))[()]
