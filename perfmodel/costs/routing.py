"""Distribution of rows over experts under top-k routing: active experts, quantiles of the load, imbalance of ranks."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.arrays import Floats, as_floats, clipped
from perfmodel.costs.registry import formula

SOURCE = "Derived: moments of a truncated power law, order statistics of sums; checked against sampled routings."


def normal_quantile(p: Any) -> Any:
    """Quantile of the standard normal distribution, within 0.01 for 0.01 < p < 0.99 (Tukey's lambda).

    Parameters
    ----------
    p : float or array
        Probability [1].

    Returns
    -------
    float or array
        Quantile [1].
    """
    return (p**0.135 - (1.0 - p) ** 0.135) / 0.1975


def largest_of(ranks: Any) -> Any:
    """Expected largest of so many standard normal values: Blom's score, zero for one.

    Parameters
    ----------
    ranks : float or array
        Values, at least 1.

    Returns
    -------
    float or array
        Standard deviations above the mean [1].

    Examples
    --------
    >>> [round(float(largest_of(n)), 2) for n in (1, 2, 32, 320)]
    [0.0, 0.59, 2.08, 2.88]
    """
    return normal_quantile((ranks - 0.375) / (ranks + 0.25))


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Truncated power law of one expert's load, up to a factor.

    Parameters
    ----------
    smallest, largest : array
        Ends of the law.
    low, high : array
        Ends to the power of the exponent.
    exponent : array
        One minus the exponent of the density.
    """

    smallest: Any
    largest: Any
    low: Any
    high: Any
    exponent: Any

    def moment(self, order: float) -> Any:
        """Mean of a power of the load.

        Parameters
        ----------
        order : float
            Power.

        Returns
        -------
        numpy.ndarray
            Moment about zero.
        """
        # The general form ((span u + low) ** s) / (span s) at both ends, without taking powers again.
        ends = self.largest**order * self.high - self.smallest**order * self.low
        return ends / ((self.high - self.low) * (order / self.exponent + 1.0))


def power_law_of(tokens: Any, experts: Any, topk: Any, skew: Any) -> PowerLaw:
    """Truncated power law from which the loads of a layer's experts are drawn.

    Parameters
    ----------
    tokens, experts, topk : array
        Tokens before top-k, routed experts, experts per token.
    skew : array
        Exponent; where it is not positive any law is returned.

    Returns
    -------
    PowerLaw
        Law with its ends.
    """
    # The moments have poles at exponents 1, 2, 3 and 4; a nudge of 0.001 is far below what can be measured.
    a = np.where(skew > 0.0, skew, 1.01)
    a = np.where(np.abs(a - np.rint(a)) < 1e-3, np.rint(a) + 1e-3, a)
    many = tokens * topk > experts
    smallest = np.where(many, 1.0, 0.01)
    largest = np.where(many, np.maximum(0.8 * tokens, 1.001), 2.0)
    exponent = 1.0 - a
    return PowerLaw(smallest, largest, np.where(many, 1.0, 0.01**exponent), largest**exponent, exponent)


@formula(
    name="power_law_tokens",
    quantity="count",
    equation=r"N(u) = \frac{T k}{E} \frac{q(u)}{\bar q},\quad "
    r"q(u) = \left((x_1^{1-\alpha} - x_0^{1-\alpha}) u + x_0^{1-\alpha}\right)^{1/(1-\alpha)}",
    source=SOURCE,
    valid={"tokens": (0, 2**24), "skew": (0.05, 3.95)},
)
def power_law_tokens(quantile: Floats, tokens: Floats, experts: Floats, topk: Floats, skew: Floats) -> Floats:
    r"""Tokens of the expert at a quantile of the load, when the loads follow a truncated power law.

    .. math:: N(u) = \frac{T k}{E} \frac{q(u)}{\bar q},\quad
        q(u) = \left((x_1^{1-\alpha} - x_0^{1-\alpha}) u + x_0^{1-\alpha}\right)^{1/(1-\alpha)}

    The law spans 1 to 0.8 T, or 0.01 to 2 where there are fewer picks than experts: the way in which public
    operator benchmarks draw skewed routings. No expert has more than T tokens.

    Parameters
    ----------
    quantile : float or array
        Part of the experts with less load, 0 to 1 [1].
    tokens, experts, topk : float or array
        Tokens before top-k, routed experts, experts per token.
    skew : float or array
        Exponent of the power law [1].

    Returns
    -------
    float or array
        Tokens of that expert.

    References
    ----------
    Derived: inverse distribution function of a power law between two ends, divided by its mean.

    Examples
    --------
    >>> round(float(power_law_tokens(0.99, 1024, 128, 8, 1.2)), 0)
    632.0
    """
    t, e, k = as_floats(tokens), as_floats(experts), as_floats(topk)
    law = power_law_of(t, e, k, as_floats(skew))
    q = ((law.high - law.low) * as_floats(quantile) + law.low) ** (1.0 / law.exponent)
    return np.minimum(t, t * k / e * q / law.moment(1.0))  # type: ignore[no-any-return]


@formula(
    name="imbalance_factor",
    quantity="fraction",
    equation=r"f = 1 + \frac{\sigma}{\sqrt{n}} \left(z_R + \frac{\gamma (z_R^2 - 1)}{6 \sqrt{n}}\right),\quad "
    r"n = E / R,\ 1 \le f \le \min(R, E / k)",
    source=SOURCE + " Third-order Cornish-Fisher expansion; Blom's score for the largest of R sums.",
    valid={"tokens": (0, 2**24), "expert_ranks": (1, 2**12), "skew": (0, 3.95)},
)
def imbalance_factor(
    tokens: Floats, experts: Floats, topk: Floats, expert_ranks: Floats, skew: Floats = 0.0, *, random: Any = False
) -> Floats:
    r"""Load of the busiest rank over the mean load of a rank, in expectation.

    .. math:: f = 1 + \frac{\sigma}{\sqrt{n}} \left(z_R + \frac{\gamma (z_R^2 - 1)}{6 \sqrt{n}}\right),\quad n = E / R

    with the relative deviation and skewness of one expert's load, between 1 and min(R, E/k).

    Parameters
    ----------
    tokens, experts, topk : float or array
        Tokens before top-k on all ranks, routed experts, experts per token.
    expert_ranks : float or array
        Ranks over which the experts are split.
    skew : float or array
        Exponent of the power law of the loads; 0 is an even spread [1].
    random : bool or array
        Tokens pick independently and uniformly instead.

    Returns
    -------
    float or array
        Busiest over mean [1].

    References
    ----------
    Derived: the largest of R sums of n independent loads.

    Examples
    --------
    >>> round(float(imbalance_factor(4096, 256, 8, 8, 1.2)), 2)
    1.68
    """
    t, e, k = as_floats(tokens), as_floats(experts), as_floats(topk)
    ranks, a = as_floats(expert_ranks), as_floats(skew)
    return imbalance_of(t, e, k, ranks, a, np.asarray(random, dtype=bool), power_law_of(t, e, k, a))  # type: ignore[no-any-return]


def imbalance_of(t: Any, e: Any, k: Any, ranks: Any, a: Any, chance: Any, law: PowerLaw) -> Any:
    """Imbalance factor of arrays whose power law is known, see `imbalance_factor`.

    Parameters
    ----------
    t, e, k, ranks : array
        Tokens, experts, experts per token, ranks.
    a : array
        Exponent of the power law [1].
    chance : array of bool
        Where tokens pick at random.
    law : PowerLaw
        Law of the loads.

    Returns
    -------
    numpy.ndarray
        Busiest over mean [1].
    """
    m1 = law.moment(1.0)
    m2, m3 = law.moment(2.0) / (m1 * m1), law.moment(3.0) / (m1 * m1 * m1)
    deviation = np.sqrt(np.maximum(m2 - 1.0, 1e-12))
    skewness = (m3 - 3.0 * m2 + 2.0) / (deviation * deviation * deviation)
    binomial = np.sqrt(np.maximum(1.0 - k / e, 0.0) / np.maximum(t * k / e, 1e-12))
    deviation = np.where(chance, binomial, np.where(a > 0.0, deviation, 0.0))
    skewness = np.where(chance, binomial, skewness)
    z, n = largest_of(ranks), np.sqrt(e / ranks)
    factor = 1.0 + deviation / n * (z + skewness * (z * z - 1.0) * (ranks > 1.5) / (6.0 * n))
    return clipped(factor, 1.0, np.maximum(1.0, np.minimum(ranks, e / k)))
