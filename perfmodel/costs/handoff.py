"""Hand-over of a prompt's cache from one worker to another: seconds that the request sees of it."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.collectives import point_to_point
from perfmodel.costs.registry import formula


@formula(
    name="layerwise_transfer",
    quantity="time",
    equation=r"t = \max\left(\tau,\ l\,\tau - \frac{l - 1}{l}\,t_p\right), \quad \tau = \alpha + \frac{D}{l\,B}",
    source="Splitwise (arXiv:2311.18677), section IV.C: each layer's cache is sent while the next layer is computed",
)
def layerwise_transfer(
    nbytes: Floats, prefill_s: Floats, layers: Floats, *, bandwidth: Floats, latency: Floats
) -> Floats:
    r"""Visible time of sending a cache layer by layer, while the layers after it are computed.

    .. math:: t = \max\left(\tau,\ l\,\tau - \frac{l - 1}{l}\,t_p\right), \quad \tau = \alpha + \frac{D}{l\,B}

    A line of two machines, computation and link, through which l equal pieces pass: the last piece is always seen,
    and more of them where the link is the slower machine.

    Parameters
    ----------
    nbytes : float or array
        Cache D of the prompt [B].
    prefill_s : float or array
        Time t_p to compute the prompt [s].
    layers : float or array
        Layers l of the model.
    bandwidth : float or array
        Bandwidth B of the link [B/s].
    latency : float or array
        Time alpha to start one transfer [s].

    Returns
    -------
    float or array
        Time from the end of the prompt until its cache is complete on the other side [s].

    References
    ----------
    Splitwise (arXiv:2311.18677), section IV.C; the makespan of a two-machine flow shop with equal jobs (Johnson
    1954). Differs from the measured 5 to 8 ms, most of which is synchronisation that the paper does not take apart.

    Examples
    --------
    A link that keeps up shows one layer's transfer, one that does not shows the rest too:

    >>> round(float(layerwise_transfer(8e9, 0.5, 80, bandwidth=50e9, latency=0.0)) * 1e3, 3)
    2.0
    >>> round(float(layerwise_transfer(8e9, 0.1, 80, bandwidth=50e9, latency=0.0)) * 1e3, 3)
    61.25
    """
    once = as_floats(point_to_point(as_floats(nbytes) / layers, bandwidth=bandwidth, latency=latency))
    whole = as_floats(layers) * once
    return np.maximum(once, whole - (as_floats(layers) - 1.0) / layers * prefill_s)[()]
