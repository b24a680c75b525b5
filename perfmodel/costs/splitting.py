"""Splitting a step so that it overlaps with itself: seconds of a batch cut in two."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import formula


@formula(
    name="token_split_time",
    quantity="time",
    equation=r"t = \max(t_d, t_n) + \frac{\min(t_d, t_n)}{2\,l}",
    source="TokenWeave (arXiv:2505.11329), section 3: one half of the tokens computes while the other is reduced",
)
def token_split_time(device_s: Floats, network_s: Floats, layers: Floats) -> Floats:
    r"""Time of a step whose tokens are split in two, so that collectives of one half hide behind the other.

    .. math:: t = \max(t_d, t_n) + \frac{\min(t_d, t_n)}{2\,l}

    The first half of the first layer has nothing to hide behind.

    Parameters
    ----------
    device_s : float or array
        Computation t_d of both halves, one after the other [s].
    network_s : float or array
        Collectives t_n of both halves [s].
    layers : float or array
        Layers l of the model.

    Returns
    -------
    float or array
        Time of the step [s].

    References
    ----------
    TokenWeave (arXiv:2505.11329), section 3; the fusion of all-reduce and norm is not part of it.

    Examples
    --------
    >>> round(float(token_split_time(0.08, 0.02, 80)), 6)
    0.080125
    """
    device, network = as_floats(device_s), as_floats(network_s)
    return np.maximum(device, network) + np.minimum(device, network) / (2.0 * as_floats(layers))


@formula(
    name="nano_batch_time",
    quantity="time",
    equation=r"t = t_{\max} + \frac{t_c + t_m + t_n - t_{\max}}{2\,l}",
    source="NanoFlow (arXiv:2408.12757), section 4: arithmetic, memory and network of one device at work at once",
)
def nano_batch_time(arithmetic_s: Floats, traffic_s: Floats, network_s: Floats, layers: Floats) -> Floats:
    r"""Time of a step whose two nano-batches use arithmetic, memory and network at once, without disturbing each other.

    .. math:: t = t_{\max} + \frac{t_c + t_m + t_n - t_{\max}}{2\,l}

    Parameters
    ----------
    arithmetic_s : float or array
        Operators t_c bound by arithmetic, of both nano-batches [s].
    traffic_s : float or array
        Operators t_m bound by memory or by their latency [s].
    network_s : float or array
        Collectives t_n [s].
    layers : float or array
        Layers l of the model.

    Returns
    -------
    float or array
        Time of the step: a lower bound of what can be reached [s].

    References
    ----------
    NanoFlow (arXiv:2408.12757), section 4. Differs by leaving out interference: kernels that share a device get less
    than their share of it (table 3 there), which costs NanoFlow about a quarter.

    Examples
    --------
    >>> round(float(nano_batch_time(0.06, 0.03, 0.01, 80)), 6)
    0.06025
    """
    parts = as_floats(arithmetic_s), as_floats(traffic_s), as_floats(network_s)
    longest = np.maximum(np.maximum(parts[0], parts[1]), parts[2])
    return longest + (parts[0] + parts[1] + parts[2] - longest) / (2.0 * as_floats(layers))
