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


TRAFFIC_EXPONENT = 0.748
"""Power of the share of a device to which a kernel bound by memory keeps its rate beside a matrix product.

NanoFlow (arXiv:2408.12757), table 3, on A100: 0.3 of the rate with 0.2 of the device; 0.85 with 0.8, as published.
"""

NETWORK_EXPONENT = 0.431
"""The same of a collective: 0.5 of the rate with 0.2 of the device; 0.91 with 0.8, where 0.9 is published."""

_STEPS = 6
"""Newton steps to the time of a mixed step, which leave 1e-12 of it at most."""


@formula(
    name="shared_performance",
    quantity="fraction",
    equation=r"p = r^x",
    source="NanoFlow (arXiv:2408.12757), table 3: performance of kernels that share an A100 with a matrix product",
    valid={"share": (0.0, 1.0)},
)
def shared_performance(share: Floats, *, exponent: Floats = TRAFFIC_EXPONENT) -> Floats:
    r"""Performance of a kernel that has a share of a device, over what it reaches with all of it.

    .. math:: p = r^x

    A matrix product loses what it gives away (x = 1). Memory and links are saturated by fewer cores than there are.

    Parameters
    ----------
    share : float or array
        Share r of the device, 0 to 1 [1].
    exponent : float or array
        Power x: `TRAFFIC_EXPONENT`, `NETWORK_EXPONENT` or 1.

    Returns
    -------
    float or array
        Share of its performance [1].

    References
    ----------
    NanoFlow (arXiv:2408.12757), table 3; a power law through its points at a share of 0.2.

    Examples
    --------
    >>> [round(float(shared_performance(share)), 2) for share in (0.2, 0.8)]
    [0.3, 0.85]
    >>> [round(float(shared_performance(share, exponent=NETWORK_EXPONENT)), 2) for share in (0.2, 0.8)]
    [0.5, 0.91]
    """
    return as_floats(share) ** exponent


@formula(
    name="nano_batch_time",
    quantity="time",
    equation=(
        r"t = \tau + \frac{t_c + t_m + t_n - \tau}{2\,l}, \quad \frac{t_c}{\tau}"
        r" + \left(\frac{t_m}{\tau}\right)^{1 / x_m} + \left(\frac{t_n}{\tau}\right)^{1 / x_n} = 1"
    ),
    source="NanoFlow (arXiv:2408.12757), sections 3 and 4: arithmetic, memory and network of a device at work at once",
)
def nano_batch_time(arithmetic_s: Floats, traffic_s: Floats, network_s: Floats, layers: Floats) -> Floats:
    r"""Time of a step whose two nano-batches use arithmetic, memory and network at once.

    .. math::
       t = \tau + \frac{t_c + t_m + t_n - \tau}{2\,l}, \qquad \frac{t_c}{\tau}
       + \left(\frac{t_m}{\tau}\right)^{1 / x_m} + \left(\frac{t_n}{\tau}\right)^{1 / x_n} = 1

    Kernels of all three kinds run from beginning to end, each with the share of the device with which it ends in time;
    the shares add up to the device (`shared_performance`).

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
        Time of the step: at least the longest of the three, at most their sum [s].

    References
    ----------
    NanoFlow (arXiv:2408.12757), sections 3 and 4, with the interference of its table 3; the kernels that it divides
    the device among are picked one by one there.

    Examples
    --------
    >>> round(float(nano_batch_time(0.06, 0.03, 0.01, 80)), 6)
    0.082114
    """
    c, m, n = as_floats(arithmetic_s), as_floats(traffic_s), as_floats(network_s)
    longest = np.maximum(np.maximum(c, m), n)
    unit = np.where(longest > 0, longest, 1.0)
    c, m, n = c / unit, m / unit, n / unit
    power = 1.0 / TRAFFIC_EXPONENT, 1.0 / NETWORK_EXPONENT
    # Shares grow with the rate 1 / t faster than linearly, so that Newton's steps come down to the root from above.
    rate = np.ones_like(c + m + n)
    for _ in range(_STEPS):
        parts = c * rate, (m * rate) ** power[0], (n * rate) ** power[1]
        slope = (parts[0] + power[0] * parts[1] + power[1] * parts[2]) / rate
        rate = rate - np.maximum(parts[0] + parts[1] + parts[2] - 1.0, 0.0) / np.where(slope > 0, slope, 1.0)
    mixed = np.minimum(1.0 / rate, c + m + n)
    return unit * np.where(longest > 0, mixed + (c + m + n - mixed) / (2.0 * as_floats(layers)), 0.0)
