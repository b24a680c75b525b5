"""Bytes and seconds of data-parallel gradient and weight exchange, by ZeRO stage and over nodes."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import Coefficient, formula


@formula(
    name="zero_volume",
    quantity="bytes",
    equation=r"V = \frac{n-1}{n}\,(2, 2, 2, 3)\,\Psi",
    source="Rajbhandari et al. 2020, ZeRO (arXiv:1910.02054), section 7: 2 Psi for stages 0 to 2, 3 Psi for stage 3",
)
def zero_volume(nbytes: Floats, ranks: Floats, zero: Floats = 0.0) -> Floats:
    r"""Bytes that one device sends in a step without gradient accumulation, weights and gradients of equal width.

    .. math:: V = \frac{n-1}{n}\,c\,\Psi, \quad c = 2 \text{ for ZeRO 0, 1 and 2}, \; 3 \text{ for ZeRO 3}

    Parameters
    ----------
    nbytes : float or array
        Weights Psi of the device before they are divided [B].
    ranks : float or array
        Data-parallel ranks n.
    zero : float or array
        ZeRO stage, 0 to 3.

    Returns
    -------
    float or array
        Bytes sent, and as many received [B].

    References
    ----------
    Rajbhandari et al. 2020, ZeRO (arXiv:1910.02054), section 7.

    Examples
    --------
    >>> float(zero_volume(2e9, 64, 1)) / 1e9, float(zero_volume(2e9, 64, 3)) / 1e9
    (3.9375, 5.90625)
    """
    n = as_floats(ranks)
    return (n - 1.0) / n * np.where(as_floats(zero) >= 3, 3.0, 2.0) * nbytes


@formula(
    name="ring_over_nodes",
    quantity="time",
    equation=r"t = t_0 + c\left(\left(\tfrac{n}{g}-1\right)l_o + \left(n-\tfrac{n}{g}\right)l_i\right)"
    r" + c\,\frac{n-1}{n}\,\frac{S}{\min(e\,g\,B_o,\; i\,B_i)}",
    source="Patarasuk, Yuan 2009 (doi:10.1016/j.jpdc.2008.09.002): a ring whose g members per node drive g adapters",
    coefficients=(
        Coefficient("network_efficiency", "1", 0.85, 0.05, 1.0, "achieved part of the network bandwidth between nodes"),
        Coefficient("link_efficiency", "1", 0.75, 0.05, 1.0, "achieved part of the link bandwidth inside a node"),
        Coefficient("start_s", "s", 3e-5, 0.0, 1e-2, "start-up of one collective over several nodes"),
        Coefficient("latency", "s", 0.0, 0.0, 1e-3, "latency of a step of the ring inside a node"),
        Coefficient("network_latency", "s", 0.0, 0.0, 1e-3, "latency of a step of the ring to the next node"),
    ),
)
def ring_over_nodes(
    nbytes: Floats,
    ranks: Floats,
    members: Floats,
    rounds: Floats = 1.0,
    *,
    bandwidth: Floats,
    inner_bandwidth: Floats,
    network_efficiency: Floats = 0.85,
    link_efficiency: Floats = 0.75,
    start_s: Floats = 3e-5,
    latency: Floats = 0.0,
    network_latency: Floats = 0.0,
) -> Floats:
    r"""Time of a ring collective of a group that has several members in each node.

    .. math:: t = t_0 + c\left(\left(\tfrac{n}{g}-1\right)l_o + \left(n-\tfrac{n}{g}\right)l_i\right)
              + c\,\frac{n-1}{n}\,\frac{S}{\min(e\,g\,B_o,\; i\,B_i)}

    Parameters
    ----------
    nbytes : float or array
        Whole buffer S [B].
    ranks : float or array
        Members n of the group.
    members : float or array
        Members g inside one node: as many network adapters serve the group there.
    rounds : float or array
        Passes c around the ring: 2 for all-reduce, 1 for all-gather and reduce-scatter.
    bandwidth : float or array
        Network bandwidth B_o of one device [B/s].
    inner_bandwidth : float or array
        Link bandwidth B_i of one device inside the node [B/s].
    network_efficiency, link_efficiency : float or array
        Achieved parts e and i of the two bandwidths.
    start_s : float or array
        Start-up t_0 [s].
    latency, network_latency : float or array
        Latencies l_i and l_o of the ring's steps inside a node and to the next one [s].

    Returns
    -------
    float or array
        Time, zero for a group of one [s].

    References
    ----------
    Patarasuk, Yuan 2009, "Bandwidth optimal all-reduce algorithms", doi:10.1016/j.jpdc.2008.09.002.

    Examples
    --------
    >>> t = ring_over_nodes(8e9, 64, 8, 2, bandwidth=25e9, inner_bandwidth=300e9)
    >>> round(float(t) * 1e3, 1)
    92.7
    """
    n = as_floats(ranks)
    rate = np.minimum(as_floats(network_efficiency) * members * bandwidth, as_floats(link_efficiency) * inner_bandwidth)
    nodes = n / members
    steps = (nodes - 1.0) * network_latency + (n - nodes) * latency
    seconds = start_s + as_floats(rounds) * (steps + (n - 1.0) / n * nbytes / rate)
    return np.where(n > 1.0, seconds, 0.0)
