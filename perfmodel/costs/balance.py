"""How uneven the load of expert-parallel ranks stays after balancing, from the spread of one place's load [1]."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula
from perfmodel.costs.routing import normal_quantile


@formula(
    name="busiest_rank",
    quantity="fraction",
    equation=r"\gamma = 1 + z_n\, s \sqrt{\frac{n}{S}}, \quad z_n = \Phi^{-1}\left(\frac{8 n - 3}{8 n + 2}\right)",
    source="derived: largest of n normal loads, Blom 1958, each the mean of S/n places",
)
def busiest_rank(ranks: Floats, slots: Floats, *, slot_spread: Floats) -> Floats:
    r"""Rows of the busiest rank over the mean, where places for experts keep a spread of their loads.

    .. math::
       \gamma = 1 + z_n\, s \sqrt{\frac{n}{S}}, \qquad z_n = \Phi^{-1}\left(\frac{8 n - 3}{8 n + 2}\right)

    Parameters
    ----------
    ranks : float or array
        Expert-parallel ranks n.
    slots : float or array
        Places S for experts on all ranks, copies included.
    slot_spread : float or array
        Standard deviation s of a place's load over its mean [1].

    Returns
    -------
    float or array
        Factor, 1 for one rank [1].

    References
    ----------
    Blom 1958, Statistical Estimates and Transformed Beta Variables: expected largest of n normal variables.
    TensorRT-LLM, examples/ep_load_balancer: DeepSeek-R1 on 36 ranks with 288 places has a standard deviation of 54 in
    1024 tokens per rank, and a busiest rank 11.5 % above the mean.

    Examples
    --------
    >>> spread = 53.976 / 1024 * 8**0.5
    >>> [round(float(busiest_rank(ranks, 288, slot_spread=spread)), 2) for ranks in (36, 288)]
    [1.11, 1.42]
    """
    n = np.maximum(as_floats(ranks), 1.0)
    highest = normal_quantile((n - 0.375) / (n + 0.25))
    spread = as_floats(slot_spread) * np.sqrt(n / np.maximum(as_floats(slots), n))
    return np.where(n > 1.0, 1.0 + highest * spread, 1.0)[()]
