"""Time that NCCL itself expects of a collective [s]: its published table of algorithms and protocols."""

from collections.abc import Mapping

import numpy as np

from perfmodel.arrays import Array, Floats, as_floats, stacked
from perfmodel.costs.registry import Coefficient, formula

SOURCE = "NVIDIA NCCL at 5067397, src/graph/tuning.cc: latencies and bandwidths from which the library chooses"

PROTOCOLS = ("ll", "ll128", "simple")
"""Low latency (flag with every 4 bytes), low latency with 128-byte lines, and synchronised blocks."""

# Microseconds by protocol: start, step over NVLink, step over the network.
_LATENCY: Mapping[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]] = {
    "ring": ((6.6, 14.0, 8.4), (0.6, 1.9, 3.4), (2.7, 4.0, 14.0)),
    "tree": ((6.8, 14.0, 8.4), (0.6, 1.25, 4.0), (5.0, 8.5, 14.0)),
    "nvls": ((0.0, 0.0, 0.0), (25.0, 25.0, 25.0), (18.0, 18.0, 18.0)),
    "nvls_tree": ((0.0, 0.0, 0.0), (25.0, 25.0, 25.0), (20.9, 20.9, 20.9)),
}
# Most that the first protocol reaches, GB/s: inside one node by the devices, on two nodes and on more by the processors
# of the hosts. The library's table has a row for every generation but asks those after the second for one node only.
_LOW_LATENCY_RATE: Mapping[str, float] = {"volta": 39.0, "ampere": 87.7, "hopper": 141.0, "blackwell": 282.0}
_HOST_RATE: Mapping[str, tuple[float, float]] = {"amd": (22.5, 19.0), "arm": (39.0, 20.4), "intel": (39.0, 20.4)}
_POSTING_S: Mapping[str, float] = {"amd": 2e-6, "arm": 1e-6, "intel": 1e-6}
"""What the host takes to post a message to the network, three times as long with the last protocol [s]."""

UNKNOWN_HOST = "intel"
"""Whose figures stand for processors that nobody names, as in the library."""
_FLAGGED_BYTES = 16384.0
"""Largest message between two devices that is sent with the low-latency protocol."""

_SWITCH_EFFICIENCY: Mapping[str, float] = {"hopper": 0.85, "blackwell": 0.74}


def _rates(
    algorithm: str, inside: Array, network: Array, nodes: Array, architecture: str, host_cpu: str
) -> tuple[Array, Array, Array]:
    """Bus bandwidth of an algorithm by protocol, from those of a node's links and of its adapters together."""
    bus = np.where(nodes > 1.0, np.minimum(inside, network), inside)
    one, (two, more) = _LOW_LATENCY_RATE[architecture], _HOST_RATE[host_cpu or UNKNOWN_HOST]
    cap = np.where(nodes <= 1.0, one, np.where(nodes <= 2.0, two, more)) * 1e9
    if algorithm == "ring":
        return np.minimum(cap, 0.5 * bus), 0.92 * bus, bus
    if algorithm == "tree":
        return (
            np.minimum(cap, 0.92 * bus / 3.8),
            bus * np.where(nodes <= 1.0, 7.0 / 9.0, 120.0 / 128.0) * 0.92,
            0.92 * bus,
        )
    # A switch that adds halves what the links carry, and leaves to the network what a tree carries.
    switched = 2.0 * inside * _SWITCH_EFFICIENCY.get(architecture, 0.0)
    none = np.zeros_like(bus)
    return none, none, np.where(nodes > 1.0, np.minimum(switched, network), switched)


def _wait(
    algorithm: str,
    protocol: int,
    ranks: Array,
    nodes: Array,
    rounds: float,
    latency: Floats,
    network_latency: Floats,
    host_cpu: str,
) -> Array:
    """Latency of an algorithm [s]: the library's steps, longer or shorter as a link's shortest message is."""
    rows = _LATENCY[algorithm]
    start = rows[0][protocol] * 1e-6
    inside = rows[1][protocol] / _LATENCY["ring"][1][0] * as_floats(latency)
    network = rows[2][protocol] / _LATENCY["ring"][2][0] * as_floats(network_latency)
    depth = np.ceil(np.log2(nodes))
    if algorithm == "ring":
        posting = _POSTING_S[host_cpu or UNKNOWN_HOST] * (3.0 if PROTOCOLS[protocol] == "simple" else 1.0)
        inside = np.where(nodes > 1.0, np.maximum(inside, posting), inside)
        hops = rounds * (nodes - 1.0)
        return start + (rounds * (ranks - 1.0) - hops) * inside + hops * network
    if algorithm == "tree":
        return start + 2.0 * ((ranks / nodes - 1.0) * inside + depth * network)
    if algorithm == "nvls":
        return start + inside + np.where(nodes > 1.0, network, 0.0)
    return start + inside + 2.0 * depth * network


def nccl_table(
    nbytes: Floats,
    ranks: Floats,
    nodes: Floats = 1.0,
    *,
    bandwidth: Floats,
    network_bandwidth: Floats = np.inf,
    latency: Floats = 0.6e-6,
    network_latency: Floats = 2.7e-6,
    op: str = "all_reduce",
    architecture: str = "hopper",
    reducing: bool = False,
    host_cpu: str = "",
    link_efficiency: Floats = 0.8,
) -> dict[str, Array]:
    """Time of every algorithm and protocol that NCCL weighs against each other.

    Parameters
    ----------
    nbytes : float or array
        Total buffer [B].
    ranks : float or array
        Members of the group.
    nodes : float or array
        Nodes over which they are spread.
    bandwidth : float or array
        One-way link bandwidth per device inside a node [B/s].
    network_bandwidth : float or array
        One-way network bandwidth per device [B/s].
    latency, network_latency : float or array
        Time of the shortest message inside a node and between nodes, by which the library's latencies are scaled [s].
    op : str
        all_reduce, all_gather or reduce_scatter.
    architecture : str
        volta, ampere, hopper or blackwell.
    reducing : bool
        Whether the switch of a node can add.
    host_cpu : str
        Processors of the hosts: amd, arm or intel; empty where nobody knows.
    link_efficiency : float or array
        Part of the link bandwidth with which the library reckons [1].

    Returns
    -------
    dict
        "algorithm protocol" -> time [s].

    Examples
    --------
    >>> table = nccl_table(2**20, 8, bandwidth=450e9)
    >>> min(table, key=lambda name: float(table[name]))
    'ring ll'
    """
    size, n, k = as_floats(nbytes), as_floats(ranks), as_floats(nodes)
    rounds = 2.0 if op == "all_reduce" else 1.0
    inside = as_floats(link_efficiency) * as_floats(bandwidth)
    network = n / k * as_floats(network_bandwidth)
    algorithms = ["ring"]
    if op == "all_reduce":
        algorithms += ["tree", *(["nvls", "nvls_tree"] if reducing and architecture in _SWITCH_EFFICIENCY else [])]
    out: dict[str, Array] = {}
    for algorithm in algorithms:
        rates = _rates(algorithm, inside, network, k, architecture, host_cpu)
        ratio = 0.5 if algorithm == "tree" else n / (rounds * np.maximum(n - 1.0, 1.0))
        for protocol, name in enumerate(PROTOCOLS):
            if algorithm.startswith("nvls") and name != "simple":
                continue
            wait = _wait(algorithm, protocol, n, k, rounds, latency, network_latency, host_cpu)
            time = wait + size / (rates[protocol] * ratio)
            # One switch spans one node, a tree of switches at least two.
            fits = k <= 1.0 if algorithm == "nvls" else k > 1.0 if algorithm == "nvls_tree" else n > 0.0
            out[f"{algorithm} {name}"] = np.where(fits, time, np.inf)
    return out


@formula(
    name="network_messages",
    quantity="time",
    equation=(
        r"t = n\,\alpha + \frac{2 n m}{B} \text{ for } m \le 16\,\mathrm{KiB},"
        r" \quad n\,\frac{14}{2.7}\,\alpha + \frac{n m}{B} \text{ beyond}"
    ),
    source="NVIDIA NCCL at 5067397: NCCL_P2P_LL_THRESHOLD in src/enqueue.cc, latencies of src/graph/tuning.cc",
)
def network_messages(nbytes: Floats, messages: Floats, *, bandwidth: Floats, latency: Floats) -> Floats:
    r"""Time of messages that one device sends to as many others over a network, one after the other.

    .. math::
       t = n\,\alpha + \frac{2 n m}{B} \text{ for } m \le 16\,\mathrm{KiB}, \qquad
       n\,\frac{14}{2.7}\,\alpha + \frac{n m}{B} \text{ beyond}

    Parameters
    ----------
    nbytes : float or array
        One message m [B].
    messages : float or array
        Messages n.
    bandwidth : float or array
        What one device reaches on the network [B/s].
    latency : float or array
        Time of the shortest message [s].

    Returns
    -------
    float or array
        Time [s].

    Notes
    -----
    Small messages carry a flag beside every word, twice the bytes; larger ones wait for a block to be ready. The time
    steps up where the library changes from one to the other.

    References
    ----------
    NVIDIA NCCL at 5067397, src/enqueue.cc and src/graph/tuning.cc.

    Examples
    --------
    >>> [round(1e6 * float(network_messages(s, 8, bandwidth=50e9, latency=2.7e-6)), 1) for s in (16384, 65536)]
    [26.8, 122.5]
    """
    size, start = as_floats(nbytes), _LATENCY["ring"][2]
    flagged = size <= _FLAGGED_BYTES
    wait = as_floats(latency) * np.where(flagged, 1.0, start[2] / start[0])
    moved = size * np.where(flagged, 2.0, 1.0) / as_floats(bandwidth)
    return (as_floats(messages) * (wait + moved))[()]


@formula(
    name="nccl_model",
    quantity="time",
    equation=(
        r"t = \min_{a, p}\left[t_{a,p} + \frac{S}{r_a B_{a,p}}\right],"
        r" \quad r_{\rm ring} = r_{\rm switch} = \frac{n}{c(n-1)}, \quad r_{\rm tree} = \frac{1}{2}"
    ),
    source=SOURCE,
    coefficients=(
        Coefficient("link_efficiency", "1", 0.8, 0.05, 1.0, "achieved part of the link bandwidth inside a node"),
    ),
    attributes={
        "op": ("all_reduce", "all_gather", "reduce_scatter"),
        "architecture": tuple(_LOW_LATENCY_RATE),
        "reducing": (False, True),
        "host_cpu": ("", *_HOST_RATE),
    },
)
def nccl_model(
    nbytes: Floats,
    ranks: Floats,
    nodes: Floats = 1.0,
    *,
    bandwidth: Floats,
    network_bandwidth: Floats = np.inf,
    latency: Floats = 0.6e-6,
    network_latency: Floats = 2.7e-6,
    op: str = "all_reduce",
    architecture: str = "hopper",
    reducing: bool = False,
    host_cpu: str = "",
    link_efficiency: Floats = 0.8,
) -> Floats:
    r"""Time that NCCL expects of its fastest algorithm and protocol.

    .. math::
       t = \min_{a, p}\left[t_{a,p} + \frac{S}{r_a B_{a,p}}\right],
       \qquad r_{\rm ring} = r_{\rm switch} = \frac{n}{c(n-1)}, \quad r_{\rm tree} = \frac{1}{2}

    Parameters
    ----------
    nbytes : float or array
        Total buffer S [B].
    ranks : float or array
        Members n of the group.
    nodes : float or array
        Nodes over which they are spread.
    bandwidth : float or array
        One-way link bandwidth per device inside a node [B/s].
    network_bandwidth : float or array
        One-way network bandwidth per device [B/s].
    latency, network_latency : float or array
        Time of the shortest message inside a node and between nodes, by which the library's latencies are scaled [s].
    op : str
        all_reduce (c = 2), all_gather or reduce_scatter (c = 1).
    architecture : str
        volta, ampere, hopper or blackwell.
    reducing : bool
        Whether the switch of a node can add (NVLS).
    host_cpu : str
        Processors of the hosts, which post messages to the network and write the flags of the first protocol: amd, arm
        or intel; empty where nobody knows.
    link_efficiency : float or array
        Part of the link bandwidth with which the library reckons: 12 x 20 of 300 GB/s, 18 x 20.6 of 450,
        18 x 40.1 of 900.

    Returns
    -------
    float or array
        Time, zero for one rank [s].

    Notes
    -----
    What a library chooses by is not what it takes: its latencies are tuned to get the choice right. Left out: the
    limits per channel, the correction of trees for middle sizes, and the plateau of rings over several nodes. The
    latencies are those of NVLink and InfiniBand; other links are taken to be slower or faster in every protocol alike.

    References
    ----------
    NVIDIA NCCL at 5067397, src/graph/tuning.cc; link rates from src/graph/topo.h.

    Examples
    --------
    >>> round(float(nccl_model(2**30, 8, bandwidth=450e9)) * 1e3, 2)
    5.28
    """
    table = nccl_table(
        nbytes,
        ranks,
        nodes,
        bandwidth=bandwidth,
        network_bandwidth=network_bandwidth,
        latency=latency,
        network_latency=network_latency,
        op=op,
        architecture=architecture,
        reducing=reducing,
        host_cpu=host_cpu,
        link_efficiency=link_efficiency,
    )
    best = stacked(list(table.values())).min(axis=0)
    return np.where(as_floats(ranks) > 1.0, best, 0.0)[()]
