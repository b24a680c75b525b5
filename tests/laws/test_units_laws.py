"""Laws of the unit vocabulary: what is written is read back, and order survives."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import UnitError
from perfmodel.units import (
    EXAMPLES,
    format_bandwidth,
    format_compute,
    format_quantity,
    format_size,
    format_time,
    parse,
    units,
)

WRITERS = {
    "time": format_time,
    "size": format_size,
    "bandwidth": format_bandwidth,
    "compute": format_compute,
}
magnitudes = st.floats(1e-12, 1e20)
digits = st.integers(3, 15)


@given(magnitudes, digits, st.sampled_from(sorted(WRITERS)))
def test_round_trip_to_the_digits_that_were_asked_for(value, digits, dimension):
    read = parse(WRITERS[dimension](value, digits), dimension)
    assert math.isclose(read, value, rel_tol=0.51 * 10 ** (1 - digits))


@given(magnitudes, digits)
def test_binary_sizes_round_trip(value, digits):
    assert math.isclose(
        parse(format_size(value, digits, binary=True), "size"), value, rel_tol=0.51 * 10 ** (1 - digits)
    )


@given(st.integers(0, 10**14))
def test_counts_round_trip_and_small_ones_exactly(value):
    read = parse(format_quantity(value, "count"), "count")
    assert math.isclose(read, value, rel_tol=0.0051)
    assert parse(format_quantity(value, "count", 15), "count") == value
    if value < 1000:
        assert read == value


@given(st.floats(0, 1), digits)
def test_fractions_round_trip(value, digits):
    read = parse(format_quantity(value, "fraction", digits), "fraction")
    assert math.isclose(read, value, rel_tol=0.51 * 10 ** (1 - digits), abs_tol=1e-300)


@given(st.integers(0, 10**9), st.sampled_from(sorted(EXAMPLES)), st.data())
def test_parsing_is_linear_in_the_number(number, dimension, data):
    unit = data.draw(st.sampled_from(units(dimension)))
    if dimension == "fraction":
        number %= 2
    assert parse(f"{number}{unit}", dimension) == pytest.approx(number * parse(f"1{unit}", dimension), rel=1e-15)


@given(st.lists(magnitudes, min_size=2, max_size=2).map(sorted), st.sampled_from(sorted(WRITERS)))
def test_writing_keeps_the_order(pair, dimension):
    low, high = (parse(WRITERS[dimension](value), dimension) for value in pair)
    assert low <= high


@given(st.text(max_size=12), st.sampled_from(sorted(EXAMPLES)))
def test_any_text_is_a_quantity_or_a_unit_error_in_one_line(text, dimension):
    try:
        value = parse(text, dimension)
    except UnitError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        assert math.isfinite(value)
        assert value >= 0
