"""Time of collectives between devices of one tier [s]: the textbook forms."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.collective_bounds import THAKUR
from perfmodel.costs.registry import formula


@formula(
    name="ring_all_gather",
    quantity="time",
    equation=r"t = (n-1)\alpha + \frac{n-1}{n}\frac{S}{B}",
    source=THAKUR,
)
def ring_all_gather(nbytes: Floats, ranks: Floats, *, bandwidth: Floats, latency: Floats = 0.0) -> Floats:
    r"""Time of an all-gather around a ring.

    .. math:: t = (n-1)\alpha + \frac{n-1}{n}\frac{S}{B}

    Parameters
    ----------
    nbytes : float or array
        Gathered result [B].
    ranks : float or array
        Members of the group.
    bandwidth : float or array
        One-way bandwidth per device [B/s].
    latency : float or array
        Time of an empty step between neighbours [s].

    Returns
    -------
    float or array
        Time, zero for one rank [s].

    References
    ----------
    Thakur, Rabenseifner, Gropp 2005.

    Examples
    --------
    >>> round(float(ring_all_gather(450e6, 10, bandwidth=450e9, latency=1e-6)), 9)
    0.000909
    """
    n = as_floats(ranks)
    return ((n - 1.0) * (as_floats(latency) + as_floats(nbytes) / n / as_floats(bandwidth)))[()]


@formula(
    name="ring_reduce_scatter",
    quantity="time",
    equation=r"t = (n-1)\alpha + \frac{n-1}{n}\frac{S}{B}",
    source=f"{THAKUR} (the reduction itself not counted)",
)
def ring_reduce_scatter(nbytes: Floats, ranks: Floats, *, bandwidth: Floats, latency: Floats = 0.0) -> Floats:
    r"""Time of a reduce-scatter around a ring.

    .. math:: t = (n-1)\alpha + \frac{n-1}{n}\frac{S}{B}

    Parameters
    ----------
    nbytes : float or array
        Input vector of every rank [B].
    ranks : float or array
        Members of the group.
    bandwidth : float or array
        One-way bandwidth per device [B/s].
    latency : float or array
        Time of an empty step between neighbours [s].

    Returns
    -------
    float or array
        Time, zero for one rank [s].

    Notes
    -----
    The source adds the time of the additions; on accelerators memory hides it behind the link.

    References
    ----------
    Thakur, Rabenseifner, Gropp 2005.

    Examples
    --------
    >>> round(float(ring_reduce_scatter(450e6, 10, bandwidth=450e9, latency=1e-6)), 9)
    0.000909
    """
    return ring_all_gather(nbytes, ranks, bandwidth=bandwidth, latency=latency)


@formula(
    name="ring_all_reduce",
    quantity="time",
    equation=r"t = 2(n-1)\alpha + 2\frac{n-1}{n}\frac{S}{B}",
    source="Patarasuk, Yuan 2009, Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations",
)
def ring_all_reduce(nbytes: Floats, ranks: Floats, *, bandwidth: Floats, latency: Floats = 0.0) -> Floats:
    r"""Time of an all-reduce around a ring: a reduce-scatter, then an all-gather.

    .. math:: t = 2(n-1)\alpha + 2\frac{n-1}{n}\frac{S}{B}

    Parameters
    ----------
    nbytes : float or array
        Reduced vector [B].
    ranks : float or array
        Members of the group.
    bandwidth : float or array
        One-way bandwidth per device [B/s].
    latency : float or array
        Time of an empty step between neighbours [s].

    Returns
    -------
    float or array
        Time, zero for one rank [s].

    References
    ----------
    Patarasuk, Yuan 2009.

    Examples
    --------
    >>> round(float(ring_all_reduce(450e6, 10, bandwidth=450e9, latency=1e-6)), 9)
    0.001818
    """
    scatter = ring_reduce_scatter(nbytes, ranks, bandwidth=bandwidth, latency=latency)
    return (as_floats(scatter) + ring_all_gather(nbytes, ranks, bandwidth=bandwidth, latency=latency))[()]


@formula(
    name="tree_all_reduce",
    quantity="time",
    equation=r"t = 2\alpha\lceil\log_2 n\rceil + 2\frac{S}{B}",
    source="Sanders, Speck, Traeff 2009, Two-tree algorithms for full bandwidth broadcast, reduction and scan",
)
def tree_all_reduce(nbytes: Floats, ranks: Floats, *, bandwidth: Floats, latency: Floats = 0.0) -> Floats:
    r"""Time of an all-reduce up and down a pipelined double binary tree.

    .. math:: t = 2\alpha\lceil\log_2 n\rceil + 2\frac{S}{B}

    Parameters
    ----------
    nbytes : float or array
        Reduced vector [B].
    ranks : float or array
        Members of the group.
    bandwidth : float or array
        One-way bandwidth per device [B/s].
    latency : float or array
        Time of an empty step between neighbours [s].

    Returns
    -------
    float or array
        Time, zero for one rank [s].

    Notes
    -----
    Fill and drain of the pipeline are left out: they vanish for small chunks.

    References
    ----------
    Sanders, Speck, Traeff 2009.

    Examples
    --------
    >>> round(float(tree_all_reduce(450e6, 16, bandwidth=450e9, latency=1e-6)), 9)
    0.002008
    """
    n = as_floats(ranks)
    depth = np.ceil(np.log2(np.maximum(n, 1.0)))
    stream = 2.0 * as_floats(nbytes) / as_floats(bandwidth)
    return np.where(n > 1.0, 2.0 * depth * as_floats(latency) + stream, 0.0)[()]


@formula(
    name="in_switch_all_reduce",
    quantity="time",
    equation=r"t = 2\alpha + \frac{n+1}{n}\frac{S}{B}",
    source="Graham et al. 2016, SHARP; NVIDIA NCCL 2.17 NVLink SHARP (NVLS): load-reduce one slice, store it to all",
)
def in_switch_all_reduce(nbytes: Floats, ranks: Floats, *, bandwidth: Floats, latency: Floats = 0.0) -> Floats:
    r"""Time of an all-reduce in which the switch adds and copies.

    .. math:: t = 2\alpha + \frac{n+1}{n}\frac{S}{B}

    Parameters
    ----------
    nbytes : float or array
        Reduced vector [B].
    ranks : float or array
        Members of the group.
    bandwidth : float or array
        One-way bandwidth per device [B/s].
    latency : float or array
        Time of an empty trip through the switch [s].

    Returns
    -------
    float or array
        Time, zero for one rank [s].

    Notes
    -----
    Every rank uploads its whole vector to be reduced and its own reduced slice to be copied: (n+1)/n S.

    References
    ----------
    Graham et al. 2016; NVIDIA NCCL, src/device/all_reduce.h.

    Examples
    --------
    >>> round(float(in_switch_all_reduce(450e6, 10, bandwidth=450e9, latency=1e-6)), 9)
    0.001102
    """
    n = as_floats(ranks)
    stream = (n + 1.0) / n * as_floats(nbytes) / as_floats(bandwidth)
    return np.where(n > 1.0, 2.0 * as_floats(latency) + stream, 0.0)[()]


@formula(
    name="pairwise_all_to_all",
    quantity="time",
    equation=r"t = (n-1)\alpha + \frac{n-1}{n}\frac{S}{B}",
    source=f"{THAKUR} (pairwise exchange)",
)
def pairwise_all_to_all(nbytes: Floats, ranks: Floats, *, bandwidth: Floats, latency: Floats = 0.0) -> Floats:
    r"""Time of an all-to-all as n-1 exchanges with one peer after the other.

    .. math:: t = (n-1)\alpha + \frac{n-1}{n}\frac{S}{B}

    Parameters
    ----------
    nbytes : float or array
        Bytes that one rank holds; the n-th part of them stays [B].
    ranks : float or array
        Members of the group.
    bandwidth : float or array
        One-way bandwidth per device [B/s].
    latency : float or array
        Time of an empty exchange [s].

    Returns
    -------
    float or array
        Time, zero for one rank [s].

    References
    ----------
    Thakur, Rabenseifner, Gropp 2005.

    Examples
    --------
    >>> round(float(pairwise_all_to_all(450e6, 10, bandwidth=450e9, latency=1e-6)), 9)
    0.000909
    """
    return ring_all_gather(nbytes, ranks, bandwidth=bandwidth, latency=latency)


@formula(
    name="point_to_point",
    quantity="time",
    equation=r"t = \alpha + \frac{S}{B}",
    source="Hockney 1994, The communication challenge for MPP, equation 1",
    valid={"nbytes": (1.0, 2.0**40)},
)
def point_to_point(nbytes: Floats, *, bandwidth: Floats, latency: Floats = 0.0) -> Floats:
    r"""Time of one message between two devices.

    .. math:: t = \alpha + \frac{S}{B}

    Parameters
    ----------
    nbytes : float or array
        Message [B].
    bandwidth : float or array
        One-way bandwidth per device [B/s].
    latency : float or array
        Time of an empty message [s].

    Returns
    -------
    float or array
        Time [s].

    References
    ----------
    Hockney 1994, equation 1.

    Examples
    --------
    >>> round(float(point_to_point(50e6, bandwidth=50e9, latency=5e-6)), 9)
    0.001005
    """
    return (as_floats(latency) + as_floats(nbytes) / as_floats(bandwidth))[()]
