"""Time of a dispatch or combine whose cores write straight into the memory of other devices [s]."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import Coefficient, formula

CLOUDMATRIX = "Zuo et al. 2025, arXiv:2506.12708, section 4.2.1 (fused dispatch and combine over the unified bus)"


@formula(
    name="store_exchange",
    quantity="time",
    equation=(
        r"t = t_0 + \left\lceil \frac{T k}{w C} \right\rceil \left(\bar{\lambda} + H t_q\right)"
        r" + \gamma V\left(\frac{n_1 - 1}{n B_1} + \frac{n - n_1}{n B_2}\right) + \bar{\lambda} + \frac{u V}{f B_m},"
        r" \quad V = T k (H b + o)"
    ),
    source=f"derived from the steps of the kernels in {CLOUDMATRIX}",
    valid={"ranks": (1.0, 768.0), "tokens": (1.0, 8192.0)},
    coefficients=(
        Coefficient("launch_s", "s", 2e-6, 0.0, 1e-4, "launch of one vector kernel"),
        Coefficient("writers_per_core", "1", 2.0, 0.1, 16.0, "vector cores beside each matrix core"),
        Coefficient("near_ranks", "1", 16.0, 1.0, 1024.0, "devices of one node"),
        Coefficient("near_latency_s", "s", 1.3e-6, 1e-7, 1e-4, "small write to a device of the node"),
        Coefficient("far_latency_s", "s", 2.1e-6, 1e-7, 1e-4, "small write to a device of another node"),
        Coefficient("near_bandwidth", "B/s", 1.37e11, 1e9, 1e13, "large writes to a device of the node"),
        Coefficient("far_bandwidth", "B/s", 1.35e11, 1e9, 1e13, "large writes to a device of another node"),
        Coefficient("memory_efficiency", "1", 0.84, 0.01, 1.0, "sustained part of the memory bandwidth"),
        Coefficient("element_bytes", "B", 2.0, 0.25, 4.0, "bytes of an element on the wire"),
        Coefficient(
            "scale_bytes", "B", 0.0, 0.0, 4096.0, "bytes that go with each copy of a token: scales and padding"
        ),
        Coefficient("quantise_s", "s", 0.0, 0.0, 1e-8, "time of a vector core per element that it reads and quantises"),
        Coefficient("unpack_passes", "1", 1.0, 0.0, 4.0, "passes of the receiver over what has arrived"),
    ),
    attributes={"dma": (False, True)},
)
def store_exchange(
    tokens: Floats,
    hidden: Floats,
    topk: Floats,
    ranks: Floats,
    *,
    cores: Floats,
    memory_bandwidth: Floats,
    imbalance: Floats = 1.0,
    launch_s: Floats = 2e-6,
    writers_per_core: Floats = 2.0,
    near_ranks: Floats = 16.0,
    near_latency_s: Floats = 1.3e-6,
    far_latency_s: Floats = 2.1e-6,
    near_bandwidth: Floats = 1.37e11,
    far_bandwidth: Floats = 1.35e11,
    memory_efficiency: Floats = 0.84,
    element_bytes: Floats = 2.0,
    scale_bytes: Floats = 0.0,
    quantise_s: Floats = 0.0,
    unpack_passes: Floats = 1.0,
    dma: bool = False,
) -> Floats:
    r"""Time of a dispatch or combine over a fabric that lets every core write to the memory of any device.

    .. math::
       t = t_0 + \left\lceil \frac{T k}{w C} \right\rceil \left(\bar{\lambda} + H t_q\right)
       + \gamma V\left(\frac{n_1 - 1}{n B_1} + \frac{n - n_1}{n B_2}\right) + \bar{\lambda} + \frac{u V}{f B_m},
       \qquad V = T k (H b + o)

    Every vector core takes its share of the copies (a token goes to each of its experts by itself), one after the
    other: it writes the row and waits for the write; a plain copy streams through, but a row that is quantised has to
    be read whole before its scale is known. All copies share the link. A flag to every rank ends the sending, and the
    receiver passes over what has arrived.

    Parameters
    ----------
    tokens : float or array
        Tokens T per rank.
    hidden : float or array
        Elements H per token.
    topk : float or array
        Copies k of a token.
    ranks : float or array
        Members n of the group, n_1 of them in one node.
    cores : float or array
        Matrix cores C of the device, or the share of them that the kernel runs beside.
    memory_bandwidth : float or array
        Memory bandwidth B_m of the device [B/s].
    imbalance : float or array
        Copies that the busiest rank receives over the mean [1].
    launch_s : float or array
        Launch t_0 [s].
    writers_per_core : float or array
        Vector cores w beside each matrix core.
    near_ranks : float or array
        Devices of one node.
    near_latency_s, far_latency_s : float or array
        Time of a small write inside a node and between nodes; their mean over the peers is the bar [s].
    near_bandwidth, far_bandwidth : float or array
        Rate B_1, B_2 of large writes inside a node and between nodes [B/s].
    memory_efficiency : float or array
        Sustained part f of the memory bandwidth [1].
    element_bytes : float or array
        Bytes b of an element on the wire [B].
    scale_bytes : float or array
        Bytes o beside each copy [B].
    quantise_s : float or array
        Time t_q of a vector core per element that it reads and quantises, zero where it copies [s].
    unpack_passes : float or array
        Passes u of the receiver [1].
    dma : bool
        Whether engines of the fabric move the data, so that no core waits for a write of its own.

    Returns
    -------
    float or array
        Time, zero for one rank [s].

    References
    ----------
    Zuo et al. 2025, arXiv:2506.12708, section 4.2.1; latencies and bandwidths from its table 1.

    Examples
    --------
    The combine of 128 tokens in 16 bits among 256 dies (149 us measured):

    >>> t = store_exchange(128, 7168, 8, 256, cores=24, memory_bandwidth=1.6e12)
    >>> round(float(t) * 1e6)
    168
    """
    n = as_floats(ranks)
    near = np.minimum(n, as_floats(near_ranks))
    writers = as_floats(writers_per_core) * as_floats(cores)
    memory = as_floats(memory_efficiency) * as_floats(memory_bandwidth)
    copies = as_floats(tokens) * as_floats(topk)
    sent = copies * (as_floats(hidden) * as_floats(element_bytes) + as_floats(scale_bytes))
    peers = np.maximum(n - 1.0, 1.0)
    latency = ((near - 1.0) * as_floats(near_latency_s) + (n - near) * as_floats(far_latency_s)) / peers
    turn = as_floats(hidden) * as_floats(quantise_s) + (0.0 if dma else latency)
    links = (near - 1.0) / n / as_floats(near_bandwidth) + (n - near) / n / as_floats(far_bandwidth)
    time = np.ceil(copies / writers) * turn + as_floats(imbalance) * sent * links
    time = time + as_floats(launch_s) + latency + as_floats(unpack_passes) * as_floats(imbalance) * sent / memory
    return np.where(n > 1.0, time, 0.0)[()]
