"""Sizes of two pools of workers that keep each other busy under a budget."""

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula


@formula(
    name="matched_workers",
    quantity="count",
    equation=r"n = \frac{B}{c + c'\,\lambda / \mu}",
    source="derived: n workers at c and the n lambda / mu that feed them at c' take all of a budget",
)
def matched_workers(budget: Floats, cost: Floats, feeder_cost: Floats, demand: Floats, supply: Floats) -> Floats:
    r"""Workers of a pool that a budget pays for together with the workers that feed them, both busy all the time.

    .. math:: n = \frac{B}{c + c'\,\lambda / \mu}

    Not a whole number: with whole workers one of the two pools waits for the other.

    Parameters
    ----------
    budget : float or array
        Budget B: devices, money per hour or power.
    cost : float or array
        What one worker takes of it, c.
    feeder_cost : float or array
        What one feeding worker takes of it, c'.
    demand : float or array
        Requests per second lambda that one worker takes in [1/s].
    supply : float or array
        Requests per second mu that one feeding worker hands over [1/s].

    Returns
    -------
    float or array
        Workers.

    References
    ----------
    Derived from n c + (n lambda / mu) c' = B. DistServe (arXiv:2401.09670), section 4.1 matches the rates of its two
    phases in the same way, and rounds up.

    Examples
    --------
    Decode workers of 4 devices that take in 2 prompts per second each, and prefill workers of 2 that finish 3:

    >>> float(matched_workers(64, 4, 2, 2.0, 3.0))
    12.0
    """
    return as_floats(budget) / (as_floats(cost) + as_floats(feeder_cost) * demand / supply)
