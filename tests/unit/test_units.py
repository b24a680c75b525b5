"""The unit grammar, walked from end to end."""

import pytest

from perfmodel import units
from perfmodel.errors import UnitError
from perfmodel.units import EXAMPLES, format_quantity, format_size, format_time, parse

DECIMAL = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
BYTES = {prefix: DECIMAL[prefix] for prefix in ("", "k", "M", "G", "T", "P")} | BINARY

VOCABULARY = {
    "count": {prefix: DECIMAL[prefix] for prefix in ("", "k", "M", "G", "T")} | BINARY,
    "time": {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0},
    "size": {f"{prefix}B": factor for prefix, factor in BYTES.items()},
    "bandwidth": {f"{prefix}B/s": factor for prefix, factor in BYTES.items()}
    | {f"{prefix}bit/s": DECIMAL[prefix] / 8 for prefix in ("", "k", "M", "G", "T")},
    "compute": {f"{prefix}FLOP/s": factor for prefix, factor in DECIMAL.items()},
    "power": {"W": 1.0, "kW": 1e3, "MW": 1e6},
    "frequency": {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9},
    "fraction": {"": 1.0, "%": 0.01},
    "price": {"USD/h": 1.0},
}
WORDS = [(dimension, unit, factor) for dimension, table in VOCABULARY.items() for unit, factor in table.items()]
ALL_UNITS = sorted({unit for table in VOCABULARY.values() for unit in table})


def test_the_vocabulary_is_closed():
    assert {dimension: set(units.units(dimension)) for dimension in EXAMPLES} == {
        dimension: set(table) for dimension, table in VOCABULARY.items()
    }


@pytest.mark.parametrize(("dimension", "unit", "factor"), WORDS)
@pytest.mark.parametrize("number", ["1", "4", "0", "0.5", ".5", "4.", "4e1", "2E-1", "1.25e+2"])
@pytest.mark.parametrize("space", ["", " ", "  "])
def test_every_number_with_every_unit(dimension, unit, factor, number, space):
    value = float(number) * factor
    text = f" {number}{space}{unit} "
    if dimension == "count" and value != int(value):
        with pytest.raises(UnitError, match="not a whole number"):
            parse(text, dimension)
    elif dimension == "fraction" and value > 1:
        with pytest.raises(UnitError, match="more than 1"):
            parse(text, dimension)
    else:
        assert parse(text, dimension) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("dimension", VOCABULARY)
@pytest.mark.parametrize("unit", ALL_UNITS)
def test_units_of_another_dimension_are_refused_and_the_message_shows_how(dimension, unit):
    if unit in VOCABULARY[dimension]:
        parse(f"1{unit}", dimension)
        return
    with pytest.raises(UnitError) as error:
        parse(f"1{unit}", dimension)
    message = str(error.value)
    assert "\n" not in message
    assert f"'1{unit}'" in message
    assert EXAMPLES[dimension] in message or "did you mean" in message or "write '" in message


@pytest.mark.parametrize("dimension", EXAMPLES)
def test_examples_are_read(dimension):
    assert parse(EXAMPLES[dimension], dimension) > 0


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("4k", "count", 4000),
        ("4Ki", "count", 4096),
        ("131072", "count", 131072),
        (131072, "count", 131072),
        (16.0, "count", 16),
        ("1.1k", "count", 1100),
        ("15T", "count", 15e12),
        ("50ms", "time", 0.05),
        ("2s", "time", 2),
        ("80GB", "size", 80e9),
        ("80GiB", "size", 80 * 2**30),
        ("3.35TB/s", "bandwidth", 3.35e12),
        ("400Gbit/s", "bandwidth", 50e9),
        ("989 TFLOP/s", "compute", 989e12),
        ("15 PFLOP/s", "compute", 15e15),
        ("85 %", "fraction", 0.85),
        ("0.85", "fraction", 0.85),
        (0.85, "fraction", 0.85),
        ("1.83 GHz", "frequency", 1.83e9),
        ("120 kW", "power", 120e3),
    ],
)
def test_exact_values(text, dimension, value):
    assert parse(text, dimension) == value


@pytest.mark.parametrize(
    ("text", "dimension", "says"),
    [
        ("50", "time", "a time needs a unit, for instance '50 ms'"),
        (50, "time", "a time needs a unit"),
        ("80", "size", "a size needs a unit, for instance '80 GiB'"),
        ("3.35", "bandwidth", "a bandwidth needs a unit, for instance '3.35 TB/s'"),
        ("989", "compute", "a compute needs a unit, for instance '989 TFLOP/s'"),
        ("400Gb/s", "bandwidth", "'400 Gbit/s' for bits or '400 GB/s' for bytes"),
        ("400 Gbps", "bandwidth", "'400 Gbit/s' for bits or '400 GB/s' for bytes"),
        ("80 GBps", "bandwidth", "'80 Gbit/s' for bits or '80 GB/s' for bytes"),
        ("80G", "size", "did you mean '80 GB'"),
        ("80gb", "size", "did you mean '80 GB'"),
        ("80 gib", "size", "did you mean '80 GiB'"),
        ("64KB", "size", "'64 kB' (x 1000) or '64 KiB' (x 1024)"),
        ("4K", "count", "'4 k' (x 1000) or '4 Ki' (x 1024)"),
        ("50 MS", "time", "did you mean '50 ms'"),
        ("2 sec", "time", "did you mean '2 s'"),
        ("989 TFLOPS", "compute", "did you mean '989 TFLOP/s'"),
        ("989 TFLOPs/s", "compute", "did you mean '989 TFLOP/s'"),
        ("1979 TOPS", "compute", "did you mean '1979 TFLOP/s'"),
        ("3.35 TB", "bandwidth", "'TB' is a unit of size, and a bandwidth is wanted"),
        ("50 ms", "size", "'ms' is a unit of time, and a size is wanted"),
        ("80 parsec", "size", "unknown unit 'parsec'"),
        ("1.5", "count", "not a whole number"),
        ("0.3", "count", "not a whole number"),
        ("85", "fraction", "write '85 %'"),
        ("150 %", "fraction", "between 0 and 1"),
        ("-50 ms", "time", "negative"),
        (-3, "count", "negative"),
        ("−5 s", "time", "negative"),
        ("nan", "time", "does not begin with a number"),
        (float("nan"), "count", "does not begin with a number"),
        (float("inf"), "count", "does not begin with a number"),
        ("-inf s", "time", "negative"),
        ("inf s", "time", "does not begin with a number"),
        ("", "time", "empty"),
        ("   ", "size", "empty"),
        ("fast", "bandwidth", "does not begin with a number"),
        ("1,000 tokens", "count", "unknown unit ',000 tokens'"),
        ("1 000", "count", "unknown unit '000'"),
        ("٤k", "count", "does not begin with a number"),
        ("1e400 s", "time", "too large"),
        ("1e999999999 s", "time", "unknown unit"),
        ("0x10", "count", "unknown unit"),
        (True, "count", "not a count"),
        (None, "size", "not a size"),
        ([1], "size", "not a size"),
    ],
)
def test_mistakes_are_explained(text, dimension, says):
    with pytest.raises(UnitError) as error:
        parse(text, dimension)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_dimension_is_a_programming_error():
    with pytest.raises(ValueError, match="no dimension"):
        parse("1 m", "length")
    with pytest.raises(ValueError, match="no dimension"):
        format_quantity(1.0, "length")


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (0, "time", "0 s"),
        (0, "size", "0 B"),
        (0, "count", "0"),
        (1.234e-9, "time", "1.23 ns"),
        (0.9996e-3, "time", "1 ms"),
        (59.9, "time", "59.9 s"),
        (59.99, "time", "1 min"),
        (86400, "time", "24 h"),
        (999.96e6, "size", "1 GB"),
        (3.35e12, "bandwidth", "3.35 TB/s"),
        (1979e12, "compute", "1.98 PFLOP/s"),
        (999, "count", "999"),
        (12.6, "count", "13"),
        (999.7, "count", "1k"),
        (131072, "count", "131k"),
        (0.85, "fraction", "85 %"),
        (0.8512, "fraction", "85.1 %"),
        (-12.3e9, "size", "-12.3 GB"),
        (float("nan"), "size", "nan"),
        (float("inf"), "time", "inf"),
    ],
)
def test_formatting(value, dimension, text):
    assert format_quantity(value, dimension) == text


def test_digits_and_binary_sizes():
    assert format_time(1 / 3, 5) == "333.33 ms"
    assert format_time(1234e-6, 1) == "1 ms"
    assert format_size(143771 * 2**20, binary=True) == "140 GiB"
    assert format_size(143771 * 2**20, 5, binary=True) == "140.4 GiB"
