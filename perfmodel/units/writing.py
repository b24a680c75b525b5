"""Writes a float in SI units with the unit that keeps its number short."""

import math
from decimal import Decimal
from typing import Final

from perfmodel.units.vocabulary import DECIMAL, UNITS, prefixed, units

# Units in which results are written, small to large. Parsing knows more of them.
_SHOWN: Final[dict[str, tuple[str, ...]]] = {
    "count": ("", "k", "M", "G", "T"),
    "time": ("ns", "us", "ms", "s", "min", "h"),
    "size": ("B", "kB", "MB", "GB", "TB", "PB"),
    "binary size": ("B", "KiB", "MiB", "GiB", "TiB"),
    "bandwidth": ("B/s", "kB/s", "MB/s", "GB/s", "TB/s", "PB/s"),
    "compute": tuple(prefixed("FLOP/s", DECIMAL)),
    "power": ("W", "kW", "MW"),
    "frequency": ("Hz", "kHz", "MHz", "GHz"),
    "fraction": ("%",),
    "price": ("USD/h",),
}


def _plain(value: float, digits: int) -> str:
    """Round to significant digits (a float holds 15) without an exponent where that stays short."""
    if value == 0:
        return "0"
    digits = min(max(digits, 1), 15)
    rounded = float(f"{value:.{digits - 1}e}")
    if not 1e-4 <= rounded < 1e15:
        return f"{rounded:.{digits - 1}e}"
    decimals = max(digits - 1 - math.floor(math.log10(rounded)), 0)
    text = f"{rounded:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_quantity(value: float, dimension: str, digits: int = 3, *, binary: bool = False) -> str:
    """Write a quantity in the unit that keeps its number short; `parse` reads the result back.

    Parameters
    ----------
    value : float
        Value in the SI unit of the dimension; a negative one (a shortfall) is written with a minus sign.
    dimension : str
        One of the keys of `EXAMPLES`.
    digits : int, optional
        Significant digits [1].
    binary : bool, optional
        Write sizes in KiB, MiB, GiB, TiB instead of kB, MB, GB, TB.

    Returns
    -------
    str
        Number and unit; "nan" or "inf" for values that are no number.

    Examples
    --------
    >>> format_quantity(3.35e12, "bandwidth"), format_quantity(80 * 2**30, "size", binary=True)
    ('3.35 TB/s', '80 GiB')
    """
    value = float(value)
    if not math.isfinite(value):
        return str(value)
    table = UNITS[dimension] if dimension in UNITS else dict.fromkeys(units(dimension), Decimal(1))
    shown = _SHOWN["binary size" if binary and dimension == "size" else dimension]
    sign, magnitude = ("-", -value) if value < 0 else ("", value)
    if dimension == "count" and magnitude < 1000:
        magnitude = float(round(magnitude))
    unit = shown[0]
    for candidate in shown:
        # A value that rounds up to the next unit is written in it: 999.96 MB is "1 GB", not "1000 MB".
        scaled = float(_plain(magnitude / float(table[candidate]), digits)) if magnitude else 0.0
        if scaled >= 1:
            unit = candidate
    if dimension == "time" and magnitude == 0:
        unit = "s"
    text = _plain(magnitude / float(table[unit]), digits)
    return f"{sign}{text}{unit}" if dimension == "count" else f"{sign}{text} {unit}"


def format_time(value: float, digits: int = 3) -> str:
    """Write a time.

    Parameters
    ----------
    value : float
        Time [s].
    digits : int, optional
        Significant digits [1].

    Returns
    -------
    str
        For instance ``"50 ms"``.

    Examples
    --------
    >>> format_time(0.05), format_time(5400)
    ('50 ms', '1.5 h')
    """
    return format_quantity(value, "time", digits)


def format_size(value: float, digits: int = 3, *, binary: bool = False) -> str:
    """Write a size, decimal unless asked otherwise.

    Parameters
    ----------
    value : float
        Size [B].
    digits : int, optional
        Significant digits [1].
    binary : bool, optional
        Use KiB, MiB, GiB, TiB.

    Returns
    -------
    str
        For instance ``"80 GB"``.

    Examples
    --------
    >>> format_size(80e9), format_size(80e9, binary=True)
    ('80 GB', '74.5 GiB')
    """
    return format_quantity(value, "size", digits, binary=binary)


def format_bandwidth(value: float, digits: int = 3) -> str:
    """Write a data rate in bytes per second.

    Parameters
    ----------
    value : float
        Data rate [B/s].
    digits : int, optional
        Significant digits [1].

    Returns
    -------
    str
        For instance ``"3.35 TB/s"``.

    Examples
    --------
    >>> format_bandwidth(450e9)
    '450 GB/s'
    """
    return format_quantity(value, "bandwidth", digits)


def format_compute(value: float, digits: int = 3) -> str:
    """Write an arithmetic rate.

    Parameters
    ----------
    value : float
        Arithmetic rate [FLOP/s].
    digits : int, optional
        Significant digits [1].

    Returns
    -------
    str
        For instance ``"989 TFLOP/s"``.

    Examples
    --------
    >>> format_compute(989e12)
    '989 TFLOP/s'
    """
    return format_quantity(value, "compute", digits)
