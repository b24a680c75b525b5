"""What is wrong with a unit, and what to write instead."""

import re
from collections.abc import Iterable
from typing import Final

from perfmodel.units.vocabulary import EXAMPLES, UNITS

_BITS_AS_BYTES: Final = re.compile(r"([kMGT]?)(b/s|bps|Bps|bits/s|bit)")


def why_not(number: str, unit: str, dimension: str) -> str:
    """Say what is wrong with a unit and what to write instead.

    Parameters
    ----------
    number, unit : str
        What was written, in its two parts.
    dimension : str
        What is wanted, one of the keys of `EXAMPLES`.

    Returns
    -------
    str
        Half a sentence.

    Examples
    --------
    >>> why_not("80", "gb", "size")
    "unknown unit 'gb' of size; did you mean '80 GB'?"
    """
    known = UNITS[dimension]
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
    other = next((name for name, table in UNITS.items() if unit in table and name != dimension), None)
    if other is not None and not (dimension in ("size", "bandwidth", "compute") and other == "count"):
        return f"{unit!r} is a unit of {other}, and a {dimension} is wanted, for instance {EXAMPLES[dimension]!r}"
    guess = _guess(unit, dimension)
    fix = f"did you mean '{number} {guess}'?" if guess else f"write it {_listing(known)}, like {EXAMPLES[dimension]!r}"
    return f"unknown unit {unit!r} of {dimension}; {fix}"


def _guess(unit: str, dimension: str) -> str | None:
    """Return the unit that was probably meant: other case, a missing tail, or a common misspelling."""
    known = UNITS[dimension]
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
