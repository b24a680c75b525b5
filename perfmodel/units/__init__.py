"""Quantities with units: reads and writes the closed unit vocabulary ("4k", "50 ms", "80 GiB", "3.35 TB/s").

Units stand at the door only. `parse` turns text into a float in SI units (seconds, bytes, FLOP, B/s, FLOP/s, W, Hz),
the ``format_*`` functions turn such floats back into text that `parse` reads again. Unit names are case-sensitive,
because `Mi` and `mi`, `Gbit` and `GB`, `ms` and `MS` must never be guessed at.
"""

from perfmodel.units.reading import parse
from perfmodel.units.vocabulary import EXAMPLES, units
from perfmodel.units.writing import format_bandwidth, format_compute, format_quantity, format_size, format_time

__all__ = [
    "EXAMPLES",
    "format_bandwidth",
    "format_compute",
    "format_quantity",
    "format_size",
    "format_time",
    "parse",
    "units",
]
