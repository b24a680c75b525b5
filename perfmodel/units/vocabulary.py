"""The closed vocabulary of units: every dimension, its units and what they are worth in SI."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final

DECIMAL: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
BINARY: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def prefixed(unit: str, prefixes: Iterable[str], scale: Decimal = Decimal(1)) -> dict[str, Decimal]:
    """A unit with prefixes.

    Parameters
    ----------
    unit : str
        Name of the unit.
    prefixes : iterable of str
        Decimal and binary prefixes, the empty one for none.
    scale : Decimal
        What the unit is worth without a prefix, in SI.

    Returns
    -------
    dict
        Prefixed name -> its worth in SI.

    Examples
    --------
    >>> {name: int(worth) for name, worth in prefixed("B", ["k", "Ki"]).items()}
    {'kB': 1000, 'KiB': 1024}
    """
    factors = DECIMAL | BINARY
    return {prefix + unit: factors[prefix] * scale for prefix in prefixes}


UNITS: Final[dict[str, dict[str, Decimal]]] = {
    "count": prefixed("", ["", "k", "M", "G", "T", *BINARY]),
    "time": {
        "ns": Decimal("1e-9"),
        "us": Decimal("1e-6"),
        "µs": Decimal("1e-6"),
        "ms": Decimal("1e-3"),
        "s": Decimal(1),
        "min": Decimal(60),
        "h": Decimal(3600),
    },
    "size": prefixed("B", ["", "k", "M", "G", "T", "P", *BINARY]),
    "bandwidth": prefixed("B/s", ["", "k", "M", "G", "T", "P", *BINARY])
    | prefixed("bit/s", ["", "k", "M", "G", "T"], Decimal(1) / 8),
    "compute": prefixed("FLOP/s", DECIMAL),
    "power": prefixed("W", ["", "k", "M"]),
    "frequency": prefixed("Hz", ["", "k", "M", "G"]),
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
        return tuple(UNITS[dimension])
    except KeyError:
        raise ValueError(f"no dimension {dimension!r}; there are {', '.join(UNITS)}") from None
