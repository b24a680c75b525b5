"""Reuse and retention of the KV cache: shared prefixes, break-even of keeping, queues by length (s, shares)."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula


@formula(
    name="shared_prefix_saving",
    quantity="fraction",
    equation=r"h = f\left(1 - \frac{1}{G}\right)",
    source="BatchLLM (arXiv:2412.03594), section 4: a prefix that G requests share is computed once",
    valid={"shared": (0.0, 1.0), "sharers": (1.0, np.inf)},
)
def shared_prefix_saving(shared: Floats, sharers: Floats) -> Floats:
    r"""Share of the input tokens that need be neither computed nor stored because another request of a group has them.

    .. math:: h = f\left(1 - \frac{1}{G}\right)

    Parameters
    ----------
    shared : float or array
        Share f of a request's input that belongs to the common prefix.
    sharers : float or array
        Requests G that share one prefix.

    Returns
    -------
    float or array
        Share of all input tokens, between 0 and 1.

    References
    ----------
    BatchLLM (arXiv:2412.03594), section 4, for prefixes of one level.

    Examples
    --------
    >>> float(shared_prefix_saving(0.6, 4)), float(shared_prefix_saving(0.6, 1))
    (0.45, 0.0)
    """
    return as_floats(shared) * (1.0 - 1.0 / as_floats(sharers))


@formula(
    name="retention_break_even",
    quantity="time",
    equation=r"\tau = t\,N",
    source="Continuum (arXiv:2511.02230): keep a cache as long as that costs others less than making it again",
)
def retention_break_even(restore_s: Floats, places: Floats) -> Floats:
    r"""Longest pause of a request for which keeping its cache is cheaper than restoring it.

    .. math:: \tau = t\,N

    A cache that is kept for tau takes one of N places from other requests, 1 / N of what the device does in that
    time. Restoring it takes the whole device, or the link that it is fetched over, for t.

    Parameters
    ----------
    restore_s : float or array
        Time t to compute the prompt again, or to fetch its cache from where it was moved [s].
    places : float or array
        Requests N whose cache fits on one rank.

    Returns
    -------
    float or array
        Time-to-live after which a cache had better be dropped [s].

    References
    ----------
    Continuum (arXiv:2511.02230), section 4, whose utility also holds the order of turns. The break-even of keeping
    against evicting where the device is full; an idle device keeps for free.

    Examples
    --------
    >>> float(retention_break_even(0.5, 40))
    20.0
    """
    return as_floats(restore_s) * as_floats(places)


@formula(
    name="two_queue_wait",
    quantity="time",
    equation=r"w = \frac{R}{1 - \rho_s}, \quad R = \frac{\lambda_s t_s^2 + \lambda_l t_l^2}{2}",
    source="Cobham 1954, priorities without preemption; LAPS (arXiv:2601.11589) has a queue for short prompts",
)
def two_queue_wait(
    short_s: Floats, long_s: Floats, short_rate: Floats, long_rate: Floats, *, long: Floats = 0.0
) -> Floats:
    r"""Mean wait of short or of long prompts where short ones have a queue that goes first.

    .. math:: w_s = \frac{R}{1 - \rho_s}, \qquad w_l = \frac{R}{(1 - \rho_s)(1 - \rho_s - \rho_l)}

    In one common queue both wait for :math:`R / (1 - \rho_s - \rho_l)`.

    Parameters
    ----------
    short_s, long_s : float or array
        Device time of a short and of a long prompt [s].
    short_rate, long_rate : float or array
        Prompts of either kind that arrive per second [1/s].
    long : float or array
        0 for the wait of short prompts, 1 for that of long ones.

    Returns
    -------
    float or array
        Wait; infinite where prompts come faster than they are worked off [s].

    References
    ----------
    Cobham 1954, Operations Research 2(1). LAPS (arXiv:2601.11589) further waits for short prompts to fill a batch,
    which is not part of it.

    Examples
    --------
    >>> [round(float(two_queue_wait(0.05, 1.0, 4.0, 0.4, long=x)), 3) for x in (0, 1)]
    [0.256, 0.641]
    """
    short_load = as_floats(short_rate) * short_s
    both = short_load + as_floats(long_rate) * long_s
    residual = (as_floats(short_rate) * np.square(short_s) + as_floats(long_rate) * np.square(long_s)) / 2.0
    last = as_floats(long) > 0
    stable = np.where(last, both, short_load) < 1
    spare = np.where(stable, 1.0 - short_load, 1.0)
    return np.where(stable, residual / spare / np.where(stable & last, 1.0 - both, 1.0), np.inf)[()]
