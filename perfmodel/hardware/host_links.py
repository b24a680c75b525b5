"""Links between a device and its host by name: one-way bandwidth of one device [B/s]."""

from collections.abc import Mapping

from perfmodel.errors import PlanError, UnknownNameError
from perfmodel.units import parse

HOST_LINKS: Mapping[str, float] = {
    "pcie3": 15.75e9,
    "pcie4": 31.5e9,
    "pcie5": 63e9,
    "pcie6": 121e9,
    "nvlink-c2c": 450e9,
}
"""Sixteen lanes of PCI Express after line coding (PCI-SIG base specifications 3.0 to 6.0: 8, 16, 32 and 64 GT/s), and
NVLink-C2C (NVIDIA Grace Hopper data sheet: 900 GB/s in both directions)."""


def host_bandwidth(link: str | float) -> float:
    """Bandwidth of a link to the host.

    Parameters
    ----------
    link : str or float
        Name, bandwidth with its unit, or a number [B/s].

    Returns
    -------
    float
        One-way bandwidth [B/s].

    Raises
    ------
    UnknownNameError
        If there is no link of that name.
    UnitError
        If it begins with a digit and is no bandwidth.
    PlanError
        If it is not above zero.

    Examples
    --------
    >>> host_bandwidth("pcie5") == host_bandwidth("63 GB/s") == 63e9
    True
    """
    if isinstance(link, str):
        if link.lower() in HOST_LINKS:
            return HOST_LINKS[link.lower()]
        if not link[:1].isdigit():
            raise UnknownNameError("link to the host", link, HOST_LINKS)
    value = parse(link, "bandwidth") if isinstance(link, str) else float(link)
    if not 0.0 < value < 1e15:
        raise PlanError(f"a link to the host must have a bandwidth above zero, not {link}")
    return value
