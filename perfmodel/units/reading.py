"""Reads a quantity with its unit into a float in SI units."""

import math
import re
from decimal import Decimal
from typing import Final

from perfmodel.errors import UnitError
from perfmodel.units.hints import why_not
from perfmodel.units.vocabulary import EXAMPLES, UNITS, units

_NUMBER: Final = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


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
    known = UNITS[dimension] if dimension in UNITS else dict.fromkeys(units(dimension), Decimal(1))
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
        raise UnitError(f"{written!r}: {why_not(number, unit, dimension)}")
    value = float(Decimal(number) * known[unit])
    if not math.isfinite(value):
        raise UnitError(f"{written!r} is too large a number; write for instance {EXAMPLES[dimension]!r}")
    if dimension == "count" and not value.is_integer():
        raise UnitError(f"{written!r} is not a whole number; write for instance {EXAMPLES[dimension]!r}")
    if dimension == "fraction" and value > 1:
        hint = f"; write {number + ' %'!r} for a percentage" if not unit and value <= 100 else ""
        raise UnitError(f"{written!r} is more than 1, and a fraction lies between 0 and 1{hint}")
    return value
