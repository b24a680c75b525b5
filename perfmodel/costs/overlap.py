"""Seconds that a transfer still costs beside computation: decomposed collectives, streams from the host."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import Coefficient, formula

HOST_LINK_EFFICIENCY = 0.85
"""Achieved part of the bandwidth between host and device."""


@formula(
    name="beside_exchange",
    quantity="time",
    equation=r"t = \max\left(t_x,\; t_c + s\, t_x\right)",
    source="derived: while a collective runs, the cores that it occupies are missing to the computation",
)
def beside_exchange(compute_s: Floats, exchange_s: Floats, *, taken_share: Floats = 0.0) -> Floats:
    r"""Time of a computation beside a collective that occupies some of its cores.

    .. math:: t = \max\left(t_x,\; t_c + s\, t_x\right)

    Parameters
    ----------
    compute_s : float or array
        Time of the computation alone on all cores [s].
    exchange_s : float or array
        Time of the collective [s].
    taken_share : float or array
        Share s of the cores that the collective occupies: 20 of 132 for DeepEP's throughput kernels on an H100, 0 where
        copy engines or switches do the work [1].

    Returns
    -------
    float or array
        Time of both, at most their sum [s].

    References
    ----------
    Derived; DeepSeek-V3 technical report 2024 (arXiv:2412.19437), section 3.2.1: 20 of 132 multiprocessors communicate.

    Examples
    --------
    >>> round(float(beside_exchange(3e-3, 2e-3, taken_share=20 / 132)) * 1e3, 2)
    3.3
    """
    exchange = as_floats(exchange_s)
    return np.maximum(exchange, as_floats(compute_s) + as_floats(taken_share) * exchange)


@formula(
    name="decomposed_exchange",
    quantity="time",
    equation=r"t = \max\left(0,\; t_c - \frac{n-1}{n}\,t_p\right)",
    source="Wang et al. 2023 (doi:10.1145/3567955.3567959), section 4: a collective in pieces beside its product",
)
def decomposed_exchange(exchange_s: Floats, product_s: Floats, ranks: Floats) -> Floats:
    r"""Exposed time of a gather or scatter that is cut into pieces beside the product that it feeds or follows.

    .. math:: t = \max\left(0,\; t_c - \frac{n-1}{n}\,t_p\right)

    A rank begins with the piece that it has, and each of the other :math:`n - 1` pieces travels while the product of
    the one before it runs.

    Parameters
    ----------
    exchange_s : float or array
        Time t_c of the exchange alone [s].
    product_s : float or array
        Time t_p of the product beside it [s].
    ranks : float or array
        Ranks n of the group, and pieces.

    Returns
    -------
    float or array
        Time that the exchange adds to the product [s].

    Notes
    -----
    Smaller products and shared memory bandwidth cost something that the source measures and this leaves out.

    References
    ----------
    Wang et al. 2023, Overlap Communication with Dependent Computation via Decomposition in Large Deep Learning Models,
    ASPLOS, doi:10.1145/3567955.3567959.

    Examples
    --------
    >>> float(decomposed_exchange(1.0, 0.8, 8)), float(decomposed_exchange(1.0, 2.0, 8))
    (0.29999999999999993, 0.0)
    """
    n = as_floats(ranks)
    return np.maximum(as_floats(exchange_s) - (n - 1.0) / n * product_s, 0.0)


@formula(
    name="host_stream",
    quantity="time",
    equation=r"t = \max\left(0,\; \frac{\max(D_{in}, D_{out})}{f B_h} - t_c\right)",
    source="Ren et al. 2021, ZeRO-Offload (arXiv:2101.06840), section 4: transfers beside computation",
    coefficients=(
        Coefficient(
            "host_link_efficiency",
            "1",
            HOST_LINK_EFFICIENCY,
            0.05,
            1.0,
            "achieved part of the bandwidth between host and device",
        ),
    ),
)
def host_stream(
    nbytes_in: Floats,
    nbytes_out: Floats,
    hiding_s: Floats,
    *,
    bandwidth: Floats,
    host_link_efficiency: Floats = HOST_LINK_EFFICIENCY,
) -> Floats:
    r"""Exposed time of moving data between a device and its host while the device computes.

    .. math:: t = \max\left(0,\; \frac{\max(D_{in}, D_{out})}{f B_h} - t_c\right)

    Parameters
    ----------
    nbytes_in, nbytes_out : float or array
        Bytes to the device and from it; the link carries both directions at once [B].
    hiding_s : float or array
        Time t_c of the computation beside it [s].
    bandwidth : float or array
        Bandwidth B_h of the link in one direction [B/s].
    host_link_efficiency : float or array
        Achieved part f of it: packets of 256 bytes on PCI Express carry 20 to 30 bytes of headers besides.

    Returns
    -------
    float or array
        Time that the transfer adds [s].

    References
    ----------
    Ren et al. 2021, ZeRO-Offload (arXiv:2101.06840).

    Examples
    --------
    >>> float(host_stream(6.3e9, 0.0, 0.05, bandwidth=63e9, host_link_efficiency=1.0))
    0.05
    """
    moved = np.maximum(as_floats(nbytes_in), nbytes_out) / (as_floats(host_link_efficiency) * bandwidth)
    return np.maximum(moved - hiding_s, 0.0)
