"""Bytes and bandwidth of collectives [B, B/s], and the exact bounds on their time [s]."""

import numpy as np

from perfmodel.arrays import Floats, as_floats, clipped
from perfmodel.costs.registry import formula
from perfmodel.errors import UnknownNameError

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
"""Collectives with a traffic count and a bound."""

THAKUR = "Thakur, Rabenseifner, Gropp 2005, Optimization of Collective Communication Operations in MPICH"


@formula(
    name="collective_traffic",
    quantity="bytes",
    equation=r"V = c \frac{n-1}{n} S, \quad c = 2 \text{ for all-reduce, else } 1",
    source=f"{THAKUR}, sections 3 and 4",
)
def collective_traffic(nbytes: Floats, ranks: Floats, *, op: str = "all_reduce") -> Floats:
    r"""Bytes that every rank sends when no switch reduces or copies on the way.

    .. math:: V = c \frac{n-1}{n} S

    Parameters
    ----------
    nbytes : float or array
        Total buffer: reduced vector, gathered result, scattered input, or what one rank holds in all-to-all [B].
    ranks : float or array
        Members of the group.
    op : str
        One of `OPERATIONS`.

    Returns
    -------
    float or array
        Bytes per rank and direction [B].

    Notes
    -----
    Algorithm bandwidth times V / S is what nccl-tests prints as bus bandwidth.

    References
    ----------
    Thakur, Rabenseifner, Gropp 2005, sections 3 and 4.

    Examples
    --------
    >>> float(collective_traffic(8e6, 8))
    14000000.0
    """
    n = as_floats(ranks)
    factor = 2.0 if op == "all_reduce" else 1.0
    return (factor * (n - 1.0) / n * as_floats(nbytes))[()]


@formula(
    name="collective_bound",
    quantity="time",
    equation=r"t \ge \frac{S}{B} \text{ (all-reduce)}, \quad t \ge \frac{n-1}{n}\frac{S}{B} \text{ (others)}",
    source="derived: every byte of a rank's contribution leaves it once and every byte of its result enters once",
)
def collective_bound(nbytes: Floats, ranks: Floats, *, bandwidth: Floats, op: str = "all_reduce") -> Floats:
    r"""Shortest time in which the bytes of a collective can cross a rank's link, whatever the algorithm.

    .. math:: t \ge \frac{S}{B} \text{ for all-reduce}, \qquad t \ge \frac{n-1}{n}\frac{S}{B} \text{ for the others}

    Parameters
    ----------
    nbytes : float or array
        Total buffer [B].
    ranks : float or array
        Members of the group.
    bandwidth : float or array
        One-way link bandwidth per device [B/s].
    op : str
        One of `OPERATIONS`.

    Returns
    -------
    float or array
        Lower bound, zero for one rank [s].

    Notes
    -----
    Without reduction in the switch an all-reduce needs 2 (n-1)/n S/B, up to twice as long: that is the
    bandwidth term of `ring_all_reduce`. A switch that reduces still has to receive every rank's whole vector
    and to send it the whole result, hence S/B. Both agree for two ranks.

    References
    ----------
    Derived; compare Graham et al. 2016, Scalable Hierarchical Aggregation Protocol (SHARP).

    Examples
    --------
    >>> float(collective_bound(450e6, 8, bandwidth=450e9))
    0.001
    """
    n = as_floats(ranks)
    share = np.where(n > 1.0, 1.0, 0.0) if op == "all_reduce" else (n - 1.0) / n
    return (share * as_floats(nbytes) / as_floats(bandwidth))[()]


TOPOLOGIES = ("switch", "ring", "mesh", "torus2d", "torus3d", "dragonfly")
"""Names that `effective_bandwidth` knows."""

PATTERNS = ("ring", "all_to_all", "pair")
"""Who talks to whom: neighbours around the group, everybody to everybody, or one device to one other."""


def _axes(topology: str, ranks: np.ndarray, domain: np.ndarray) -> tuple[float, np.ndarray]:
    """Axes of the domain, and how many of them a group extends along."""
    dimensions = {"torus2d": 2.0, "torus3d": 3.0}.get(topology, 1.0)
    # The tolerance keeps exact powers (8 of 64 in two dimensions) from rounding up to one axis more.
    axes = np.ceil(dimensions * np.log(ranks) / np.log(domain) - 1e-9)
    return dimensions, clipped(axes, 1.0, dimensions)


@formula(
    name="effective_bandwidth",
    quantity="rate",
    equation=(
        r"B_{\rm eff} = B, \quad B\frac{n-1}{D-1} \text{ (mesh)}, \quad B\frac{a}{d} \text{ (d-torus)},"
        r" \quad \frac{B}{2} \text{ (dragonfly)};"
        r" \quad B\frac{a}{d}\min\left(1, \frac{4 (n-1)}{a\, n^{1+1/a}}\right) \text{ (all-to-all on a torus)}"
    ),
    source=(
        "derived from the links: a full mesh has one link per peer, a d-torus two links per axis and n^(1/a)/4 hops"
        " along each of the a axes of a group; dragonfly: Kim, Dally, Scott, Abts 2008, doi:10.1145/1394608.1382129"
    ),
)
def effective_bandwidth(
    topology: str, ranks: Floats, domain_size: Floats, bandwidth: Floats, *, pattern: str = "ring"
) -> Floats:
    r"""Bandwidth per device that a group can use inside a domain.

    .. math::
       B_{\rm switch} = B, \qquad B_{\rm mesh} = B\frac{\min(n, D)-1}{D-1}, \qquad
       B_{\rm torus} = B\frac{a}{d}, \quad a = \min\left(d, \left\lceil\frac{d \ln n}{\ln D}\right\rceil\right)

    Parameters
    ----------
    topology : str
        "switch" gives all links to any group; in a "mesh" n members see n-1 of the D-1 links; a "ring" has two links;
        a group along one axis of a "torus2d" or "torus3d" sees two of its 4 or 6 links.
    ranks : float or array
        Members of the group.
    domain_size : float or array
        Devices D in the domain.
    bandwidth : float or array
        One-way bandwidth per device over all its links [B/s].
    pattern : str
        "ring": neighbours in the group. "all_to_all": on rings and tori every byte crosses links on the way, on
        average a quarter of each axis. "pair": one link of a mesh, ring or torus.

    Returns
    -------
    float or array
        One-way bandwidth per device inside the group [B/s].

    Raises
    ------
    UnknownNameError
        If there is no such topology or pattern.

    Notes
    -----
    A dragonfly serves even traffic at full rate; where groups of routers talk to their neighbours only, one
    link joins them, and the detours that relieve it use every byte's bandwidth twice. Rings and tori are taken as
    closed: a part of an axis without the link that closes it has half of this for all-to-all.

    References
    ----------
    Derived; MI300X: 7 links per device, measured all-reduce bus bandwidth grows with n-1. Dragonfly: Kim et al. 2008.

    Examples
    --------
    >>> float(effective_bandwidth("mesh", 2, 8, 448e9))
    64000000000.0
    >>> float(effective_bandwidth("torus3d", 4, 64, 600e9))
    200000000000.0
    >>> round(float(effective_bandwidth("ring", 16, 16, 90e9, pattern="all_to_all")) / 1e9, 2)
    21.09
    """
    if topology not in TOPOLOGIES:
        raise UnknownNameError("topology", topology, TOPOLOGIES)
    if pattern not in PATTERNS:
        raise UnknownNameError("pattern", pattern, PATTERNS)
    if topology == "switch":
        return np.multiply(as_floats(bandwidth), np.ones_like(as_floats(ranks)))
    size = np.maximum(as_floats(domain_size), 2.0)
    n = clipped(as_floats(ranks), 2.0, size)
    part = np.ones_like(n)
    if topology == "mesh":
        part = (1.0 if pattern == "pair" else n - 1.0) / (size - 1.0)
    elif topology == "dragonfly":
        part = part * (1.0 if pattern == "all_to_all" else 0.5)
    elif topology in ("ring", "torus2d", "torus3d"):
        dimensions, axes = _axes(topology, n, size)
        part = axes / dimensions
        if pattern == "pair":
            part = 0.5 / dimensions * np.ones_like(n)
        elif pattern == "all_to_all":
            # Mean way of a byte that leaves: a quarter of a side along each axis, n / (n - 1) without those that stay.
            hops = axes * np.power(n, 1.0 / axes) / 4.0 * n / (n - 1.0)
            part = part / np.maximum(hops, 1.0)
    return np.multiply(as_floats(bandwidth), part)
