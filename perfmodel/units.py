"""Quantities with units: reads and writes the closed unit vocabulary ("4k", "50 ms", "80 GiB", "3.35 TB/s").

Units stand at the door only. `parse` turns text into a float in SI units (seconds, bytes, FLOP, B/s, FLOP/s, W, Hz),
the ``format_*`` functions turn such floats back into text that `parse` reads again. Unit names are case-sensitive,
because `Mi` and `mi`, `Gbit` and `GB`, `ms` and `MS` must never be guessed at.
"""

import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from perfmodel.errors import UnitError

_DECIMAL: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_BINARY: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def _prefixed(unit: str, prefixes: Iterable[str], scale: Decimal = Decimal(1)) -> dict[str, Decimal]:
    factors = _DECIMAL | _BINARY
    return {prefix + unit: factors[prefix] * scale for prefix in prefixes}


_UNITS: Final[dict[str, dict[str, Decimal]]] = {
    "count": _prefixed("", ["", "k", "M", "G", "T", *_BINARY]),
    "time": {
        "ns": Decimal("1e-9"),
        "us": Decimal("1e-6"),
        "µs": Decimal("1e-6"),
        "ms": Decimal("1e-3"),
        "s": Decimal(1),
        "min": Decimal(60),
        "h": Decimal(3600),
    },
    "size": _prefixed("B", ["", "k", "M", "G", "T", "P", *_BINARY]),
    "bandwidth": _prefixed("B/s", ["", "k", "M", "G", "T", "P", *_BINARY])
    | _prefixed("bit/s", ["", "k", "M", "G", "T"], Decimal(1) / 8),
    "compute": _prefixed("FLOP/s", _DECIMAL),
    "power": _prefixed("W", ["", "k", "M"]),
    "frequency": _prefixed("Hz", ["", "k", "M", "G"]),
    "fraction": {"": Decimal(1), "%": Decimal("0.01")},
    "price": {"USD/h": Decimal(1)},
}

EXAMPLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "count": "4k",
        "time": "50 ms",
        "size": "80 GiB",
        "bandwidth": "3.35 TB/s",
        "compute": "989 TFLOP/s",
        "power": "700 W",
        "frequency": "1.83 GHz",
        "fraction": "85 %",
        "price": "2.50 USD/h",
    }
)
"""One good spelling of every dimension; its keys are the dimensions that `parse` knows."""

_NUMBER: Final = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_BITS_AS_BYTES: Final = re.compile(r"([kMGT]?)(b/s|bps|Bps|bits/s|bit)")


def units(dimension: str) -> tuple[str, ...]:
    """Names of the units in which a dimension can be written.

    Parameters
    ----------
    dimension : str
        One of the keys of `EXAMPLES`.

    Returns
    -------
    tuple of str
        Unit names; the empty one means that a bare number is allowed.

    Raises
    ------
    ValueError
        If there is no such dimension.

    Examples
    --------
    >>> units("time")
    ('ns', 'us', 'µs', 'ms', 's', 'min', 'h')
    """
    try:
        return tuple(_UNITS[dimension])
    except KeyError:
        raise ValueError(f"no dimension {dimension!r}; there are {', '.join(_UNITS)}") from None


def parse(text: str | float, dimension: str) -> float:
    """Read a quantity of one dimension.

    A number, an optional space and a unit: prefixes `k`, `M`, `G`, `T` are decimal and `Ki`, `Mi`, `Gi`, `Ti` binary,
    bytes are `B` and bits `bit`. Only counts and fractions may be bare numbers.

    Parameters
    ----------
    text : str or number
        What the user wrote, for instance ``"3.35TB/s"``.
    dimension : str
        One of the keys of `EXAMPLES`: count, time, size, bandwidth, compute, power, frequency, fraction, price.

    Returns
    -------
    float
        The value: s, B, B/s, FLOP/s, W, Hz, a whole number (count), a number from 0 to 1 (fraction) or USD/h (price).

    Raises
    ------
    UnitError
        If the text is no such quantity; the message says how to write it.

    Examples
    --------
    >>> parse("4k", "count"), parse("4Ki", "count"), parse("50ms", "time"), parse("400Gbit/s", "bandwidth")
    (4000.0, 4096.0, 0.05, 50000000000.0)
    """
    known = _UNITS[dimension] if dimension in _UNITS else dict.fromkeys(units(dimension), Decimal(1))
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise UnitError(f"{text!r} is not a {dimension}; write for instance {EXAMPLES[dimension]!r}")
    written = text if isinstance(text, str) else repr(text)
    stripped = written.strip()
    if not stripped:
        raise UnitError(f"an empty text is not a {dimension}; write for instance {EXAMPLES[dimension]!r}")
    if stripped.startswith(("-", "−")):
        raise UnitError(f"{written!r} is negative; a {dimension} is zero or more, for instance {EXAMPLES[dimension]!r}")
    match = _NUMBER.match(stripped)
    if match is None:
        raise UnitError(f"{written!r} does not begin with a number; write for instance {EXAMPLES[dimension]!r}")
    number, unit = match.group(), stripped[match.end() :].strip()
    if unit not in known:
        raise UnitError(f"{written!r}: {_why_not(number, unit, dimension)}")
    value = float(Decimal(number) * known[unit])
    if not math.isfinite(value):
        raise UnitError(f"{written!r} is too large a number; write for instance {EXAMPLES[dimension]!r}")
    if dimension == "count" and not value.is_integer():
        raise UnitError(f"{written!r} is not a whole number; write for instance {EXAMPLES[dimension]!r}")
    if dimension == "fraction" and value > 1:
        hint = f"; write {number + ' %'!r} for a percentage" if not unit and value <= 100 else ""
        raise UnitError(f"{written!r} is more than 1, and a fraction lies between 0 and 1{hint}")
    return value


def _why_not(number: str, unit: str, dimension: str) -> str:
    """Say what is wrong with a unit and what to write instead."""
    known = _UNITS[dimension]
    if not unit:
        return f"a {dimension} needs a unit, for instance {EXAMPLES[dimension]!r}"
    bits = _BITS_AS_BYTES.fullmatch(unit)
    if dimension == "bandwidth" and bits:
        prefix = bits.group(1)
        return (
            f"{unit!r} does not tell bits from bytes clearly; "
            f"write '{number} {prefix}bit/s' for bits or '{number} {prefix}B/s' for bytes"
        )
    if unit[:1] == "K" and unit[1:2] != "i" and "k" + unit[1:] in known:
        return f"unknown unit {unit!r}; write '{number} k{unit[1:]}' (x 1000) or '{number} Ki{unit[1:]}' (x 1024)"
    other = next((name for name, table in _UNITS.items() if unit in table and name != dimension), None)
    if other is not None and not (dimension in ("size", "bandwidth", "compute") and other == "count"):
        return f"{unit!r} is a unit of {other}, and a {dimension} is wanted, for instance {EXAMPLES[dimension]!r}"
    guess = _guess(unit, dimension)
    fix = f"did you mean '{number} {guess}'?" if guess else f"write it {_listing(known)}, like {EXAMPLES[dimension]!r}"
    return f"unknown unit {unit!r} of {dimension}; {fix}"


def _guess(unit: str, dimension: str) -> str | None:
    """Return the unit that was probably meant: other case, a missing tail, or a common misspelling."""
    known = _UNITS[dimension]
    word = re.sub(r"(?i)(fl)?ops?(/s)?$", "FLOP/s", unit)
    spelt = {"sec": "s", "secs": "s", "second": "s", "seconds": "s", "msec": "ms", "usec": "us", "μs": "us",
             "minutes": "min", "hour": "h", "hours": "h", "percent": "%", "bytes": "B"}  # fmt: skip
    for candidate in (spelt.get(unit.lower(), ""), word, unit + "B", unit + "B/s", unit + "/s", unit + "FLOP/s"):
        if candidate and candidate in known:
            return candidate
    folded = [name for name in known if name.lower() in (unit.lower(), word.lower())]
    return folded[0] if len(folded) == 1 else None


def _listing(known: Iterable[str]) -> str:
    names = [name or "a bare number" for name in known]
    return "in " + ", ".join(names[:-1]) + " or " + names[-1] if len(names) > 1 else f"in {names[0]}"


# Units in which results are written, small to large. Parsing knows more of them.
_SHOWN: Final[dict[str, tuple[str, ...]]] = {
    "count": ("", "k", "M", "G", "T"),
    "time": ("ns", "us", "ms", "s", "min", "h"),
    "size": ("B", "kB", "MB", "GB", "TB", "PB"),
    "binary size": ("B", "KiB", "MiB", "GiB", "TiB"),
    "bandwidth": ("B/s", "kB/s", "MB/s", "GB/s", "TB/s", "PB/s"),
    "compute": tuple(_prefixed("FLOP/s", _DECIMAL)),
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
    table = _UNITS[dimension] if dimension in _UNITS else dict.fromkeys(units(dimension), Decimal(1))
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


def format_count(value: float, digits: int = 3) -> str:
    """Write a count with a decimal prefix.

    Parameters
    ----------
    value : float
        Count [1]; below a thousand it is rounded to a whole number.
    digits : int, optional
        Significant digits [1].

    Returns
    -------
    str
        For instance ``"4k"``.

    Examples
    --------
    >>> format_count(4000), format_count(512), format_count(70.6e9)
    ('4k', '512', '70.6G')
    """
    return format_quantity(value, "count", max(digits, 3))
