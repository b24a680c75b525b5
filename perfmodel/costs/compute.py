"""Roofline time: how long arithmetic and memory traffic take on one device."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import Coefficient, formula

ROOFLINE_COEFFICIENTS = (
    Coefficient("launch_s", "s", 2.5e-6, 0.0, 1e-4, "time of a kernel that does nothing, launches back to back"),
    Coefficient("compute_efficiency", "1", 0.75, 0.01, 1.0, "sustained share of the dense datasheet peak"),
    Coefficient("memory_efficiency", "1", 0.80, 0.01, 1.0, "sustained share of the datasheet memory bandwidth"),
)


@formula(
    name="roofline_bound",
    quantity="time",
    equation=r"t = \max\left(\frac{F}{P}, \frac{D}{B}\right)",
    source="Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785",
)
def roofline_bound(flops: Floats, nbytes: Floats, *, peak_flops: Floats, memory_bandwidth: Floats) -> Floats:
    r"""Exact lower bound of an operator's time: all arithmetic at peak, all compulsory bytes at full bandwidth.

    .. math:: t = \max\left(\frac{F}{P}, \frac{D}{B}\right)

    Parameters
    ----------
    flops : float or array
        Arithmetic F [FLOP].
    nbytes : float or array
        Compulsory traffic D [B].
    peak_flops : float or array
        Dense peak P [FLOP/s].
    memory_bandwidth : float or array
        Memory bandwidth B [B/s].

    Returns
    -------
    float or array
        Lower bound [s].

    References
    ----------
    Williams, Waterman, Patterson 2009, Communications of the ACM 52(4), doi:10.1145/1498765.1498785.

    Examples
    --------
    The weights of a 70B model in bf16 without its embedding table, over 8 devices of 3.35 TB/s:

    >>> round(float(roofline_bound(1.4e11, 139e9 / 8, peak_flops=989e12, memory_bandwidth=3.35e12)) * 1e3, 3)
    5.187
    """
    return np.maximum(as_floats(flops) / peak_flops, as_floats(nbytes) / memory_bandwidth)


@formula(
    name="roofline_time",
    quantity="time",
    equation=r"t = t_0 + \max\left(\frac{F}{e P}, \frac{D}{f B}\right)",
    source="Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785, with a launch floor and two efficiencies",
    coefficients=ROOFLINE_COEFFICIENTS,
)
def roofline_time(
    flops: Floats,
    nbytes: Floats,
    *,
    peak_flops: Floats,
    memory_bandwidth: Floats,
    launch_s: Floats = 2.5e-6,
    compute_efficiency: Floats = 0.75,
    memory_efficiency: Floats = 0.80,
) -> Floats:
    r"""Roofline with a launch floor and separate compute and memory efficiencies.

    .. math:: t = t_0 + \max\left(\frac{F}{e P}, \frac{D}{f B}\right)

    Parameters
    ----------
    flops : float or array
        Arithmetic F [FLOP].
    nbytes : float or array
        Traffic D [B].
    peak_flops : float or array
        Dense peak P [FLOP/s].
    memory_bandwidth : float or array
        Memory bandwidth B [B/s].
    launch_s : float or array
        Launch floor t_0 [s].
    compute_efficiency, memory_efficiency : float or array
        Sustained shares e and f of the two rates, at most 1 [1].

    Returns
    -------
    float or array
        Time [s].

    References
    ----------
    Williams, Waterman, Patterson 2009. Differs by the launch floor and by efficiencies, which keep datasheet
    peaks and achieved rates apart.

    Examples
    --------
    >>> t = roofline_time(2e9, 1e6, peak_flops=1e15, memory_bandwidth=3e12, launch_s=2e-6, compute_efficiency=0.5)
    >>> round(float(t) * 1e6, 3)
    6.0
    """
    arithmetic = as_floats(flops) / (as_floats(compute_efficiency) * peak_flops)
    traffic = as_floats(nbytes) / (as_floats(memory_efficiency) * memory_bandwidth)
    return launch_s + np.maximum(arithmetic, traffic)


@formula(
    name="overlapped",
    quantity="time",
    equation=r"t = \max(a, b) + (1 - o)\,\min(a, b)",
    source="Definition: o = 1 hides the shorter of two activities behind the longer, o = 0 runs one after the other",
)
def overlapped(first_s: Floats, second_s: Floats, *, overlap: Floats) -> Floats:
    r"""Time of two activities that overlap partly.

    .. math:: t = \max(a, b) + (1 - o)\,\min(a, b)

    Parameters
    ----------
    first_s, second_s : float or array
        Times a and b of either alone [s].
    overlap : float or array
        Share o of the shorter one that is hidden, between 0 and 1 [1].

    Returns
    -------
    float or array
        Time of both [s].

    References
    ----------
    Definition; the two ends are the bounds of every overlap scheme.

    Examples
    --------
    >>> float(overlapped(3.0, 2.0, overlap=0.5))
    4.0
    """
    a, b = as_floats(first_s), as_floats(second_s)
    return np.maximum(a, b) + (1.0 - as_floats(overlap)) * np.minimum(a, b)
