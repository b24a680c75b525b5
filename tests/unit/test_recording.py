"""Recorded calculations: what is noted, what is refused, and which way a repetition takes."""

from typing import Any

import numpy as np
import pytest

from perfmodel.programs import Program, Programs, repeated

TWO = np.array([3.0, 5.0])


def run(function: Any, *inputs: Any, times: int = 4) -> tuple[list[Any], Programs]:
    """Results of calling a function several times, and what was recorded."""
    programs: Programs = {}

    def calculate(given: Any) -> list[dict[str, Any]]:
        return [{"out": function(*given)}]

    return [repeated(programs, "key", calculate, inputs)[0]["out"] for _ in range(times)], programs


def only(programs: Programs) -> Program:
    """The one program there is."""
    ((program,),) = (found.ways for found in programs.values())
    return program


def calls(program: Program) -> int:
    """Calls that a program makes."""
    return program.source.count("\n") - 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x: 2.0 * x + 1.0 / x - x**2 + x**0.5 + 2.0**x,
        lambda x: np.where(x > 4.0, np.maximum(x, 4.5), -x) % 3.0 // 1.0,
        lambda x: np.stack([x, x * 2.0]).min(axis=0) + x.max() + np.add.accumulate(x)[-1],
        lambda x: np.concatenate([x[None], np.ones_like(x)[None]]).reshape(-1).astype(np.int64) & 3,
        lambda x: abs(x - 4.0) * np.sqrt(x) * (~(x > 3.0)) + np.frexp(x)[1] + (x != 3.0) + np.broadcast_to(x, (2, 2)),
        lambda x: sum(float(np.shape(x)[0]) * each for each in x) + len(x),
    ],
)
def test_a_repetition_does_the_same(function: Any) -> None:
    """Plain, recorded and repeated calls give the same bits, and new inputs give theirs."""
    results, programs = run(function, TWO)
    for result in results:
        np.testing.assert_array_equal(result, function(TWO))
    (again,) = only(programs).repeat(TWO * 1.7)
    np.testing.assert_array_equal(again["out"], function(TWO * 1.7))


def test_what_no_result_needs_is_not_repeated() -> None:
    """Calls without effect are left out, equal ones are made once, and a product with one is none."""

    def wasteful(x: Any) -> Any:
        _ = np.exp(x)
        return (x + 1.0) * (x + 1.0) * 1.0

    _, programs = run(wasteful, TWO)
    assert calls(only(programs)) == 2


def test_a_calculation_done_twice_is_not_recorded() -> None:
    """The first calls are plain."""
    _, programs = run(lambda x: x + 1.0, TWO, times=2)
    assert [found.ways for found in programs.values()] == [[]]


@pytest.mark.parametrize("kind", [bool, float, int])
def test_another_way_is_recorded_beside_the_first(kind: Any) -> None:
    """A value that decides sends a repetition to the recording in which it was the same."""

    def forked(inputs: Any) -> list[dict[str, Any]]:
        (x,) = inputs
        return [{"out": x * 2.0 if kind(x[0]) else x + 100.0}]

    programs: Programs = {}
    for first in (0.0, 0.0, 0.0, 1.0, 0.0, 1.0):
        x = np.array([first, 7.0])
        np.testing.assert_array_equal(repeated(programs, "", forked, [x])[0]["out"], forked([x])[0]["out"])
    ((one, other),) = (found.ways for found in programs.values())
    assert calls(one) == calls(other) == 3


def test_ways_are_not_kept_without_end() -> None:
    """A calculation that goes another way for every input is done without recordings in the end."""
    programs: Programs = {}
    for number in range(40):
        (result,) = repeated(programs, "", lambda given: [{"out": given[0] + float(given[0][0])}], [np.array([number])])
        assert result["out"].item() == 2.0 * number
    assert sum(len(found.ways) for found in programs.values()) == 16


def test_the_oldest_programs_go() -> None:
    """However many calculations are recorded, no more than 64 are kept, and those that went are recorded again."""
    programs: Programs = {}
    for number in range(80):
        for _ in range(3):
            repeated(programs, number, lambda given: [{"out": given[0] + 1.0}], [TWO])
    assert sum(len(found.ways) for found in programs.values()) == 64
    assert repeated(programs, 0, lambda given: [{"out": given[0] + 1.0}], [TWO])[0]["out"].tolist() == [4.0, 6.0]
    assert len(programs[0, ((2,),)].ways) == 1


def test_other_shapes_have_recordings_of_their_own() -> None:
    """A recording is for inputs of its shapes alone."""
    programs: Programs = {}
    for shape in ((2,), (3,), (2, 3)):
        for _ in range(4):
            (result,) = repeated(programs, "", lambda given: [{"out": given[0] * given[0].size}], [np.ones(shape)])
            assert result["out"].sum() == np.prod(shape) ** 2
    assert len(programs) == 3


def in_place(x: Any) -> Any:
    """Change an array to which a recorded value is added."""
    total = np.zeros(2)
    total += x
    return total


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (in_place, "in place"),
        (np.unique, "unique"),
        (np.asarray, "plain array"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: np.maximum(x, 1.0, out=np.zeros(2)), "in place"),
    ],
)
def test_what_cannot_be_repeated_is_refused(function: Any, what: str) -> None:
    """Nothing leaves a recording unnoticed, to be the same in every repetition; the results stay right."""
    programs: Programs = {}

    def calculate(given: Any) -> list[dict[str, Any]]:
        return [{"out": function(*given)}]

    for number in range(2):
        repeated(programs, "key", calculate, [TWO + number])
    with pytest.warns(RuntimeWarning, match=what):
        repeated(programs, "key", calculate, [TWO])
    (result,) = repeated(programs, "key", calculate, [TWO * 3.0])  # said once
    np.testing.assert_array_equal(result["out"], function(TWO * 3.0))
    assert [found.ways for found in programs.values()] == [[]]
