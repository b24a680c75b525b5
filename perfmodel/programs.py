"""Programs: recorded calculations written down as functions of Python, and repeated with other values.

See `perfmodel.recording` for what they are for and how they are made (no quantity of its own).
"""

import operator
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perfmodel.recording import Columns, Departed, Extended, Recorded, RecordingError, Tape

_SEEN = 2  # what is called so often only is not worth writing down, which takes as long as ten later ones
_VARIANTS = 16  # ways through one function that are kept
_MOST = 64  # programs that are kept in all, a megabyte each

_TEXTS: Mapping[Any, str] = {
    **{operator.add: "{} + {}", operator.sub: "{} - {}", operator.mul: "{} * {}", operator.truediv: "{} / {}"},
    **{operator.floordiv: "{} // {}", operator.mod: "{} % {}", operator.pow: "{} ** {}", operator.neg: "-{}"},
    **{operator.lt: "{} < {}", operator.le: "{} <= {}", operator.gt: "{} > {}", operator.ge: "{} >= {}"},
    **{operator.eq: "{} == {}", operator.ne: "{} != {}", operator.and_: "{} & {}", operator.or_: "{} | {}"},
    **{operator.invert: "~{}", operator.getitem: "{}[{}]"},
}


@dataclass(frozen=True, slots=True)
class Program:
    """A recorded calculation, as a function of Python that does nothing else.

    Parameters
    ----------
    source : str
        Its text: one line for every call.
    repeat : callable
        Takes inputs of the recorded shapes and returns a list of mappings; raises `Departed` where the recorded
        function would take another way with them.
    """

    source: str
    repeat: Callable[..., list[dict[str, Any]]]


def _written(tape: Tape, returned: Sequence[Columns]) -> Program:
    """Write down what a tape holds; its first values are those of the inputs, the others constants or results."""
    calls, results = tape.needed(returned)
    values, inputs = tape.start, len(tape.inputs)
    kept = {place for result in results for place in result.values()}
    last = {place: number for number, (_, places, _) in enumerate(calls) for place in places}
    scope: dict[str, Any] = {}
    names = {place: f"v{place}" for place in range(inputs)}
    free: list[str] = []
    lines = []

    def name(place: int) -> str:
        if place not in names:
            names[place] = f"c{place}"
            scope[names[place]] = values[place]
        return names[place]

    for number, (function, places, out) in enumerate(calls):
        arguments = [name(place) for place in places]
        # A value that nothing needs any more makes room for the next: few variables, and memory that is warm.
        free += [names[p] for p in dict.fromkeys(places) if last[p] == number and p not in kept and names[p][0] == "v"]
        text = _TEXTS.get(function)
        if text is not None:
            text = text.format(*arguments)
        elif isinstance(function, Extended):
            text, more = function.written(f"f{out}", arguments)
            scope |= more
        else:
            scope[f"f{out}"] = function
            text = f"f{out}({', '.join(arguments)})"
        names[out] = free.pop() if free else f"v{out}"
        lines.append(f"    {names[out]} = {text}")
    given = ", ".join(f"v{place}" for place in range(inputs))
    mappings = ", ".join("{" + ", ".join(f"{n!r}: {name(p)}" for n, p in result.items()) + "}" for result in results)
    source = "\n".join([f"def repeat({given}):", *lines, f"    return [{mappings}]\n"])
    exec(compile(source, "<recorded calculation>", "exec"), scope)
    return Program(source, scope["repeat"])


@dataclass(slots=True)
class Recordings:
    """What is known of a function with inputs of some shapes.

    Parameters
    ----------
    seen : int
        Times that it was called without a recording.
    ways : list of Program
        Recorded ways through it.
    refused : bool
        Whether it does what cannot be repeated.
    """

    seen: int = 0
    ways: list[Program] = field(default_factory=list)
    refused: bool = False


_kept: deque[list[Program]] = deque()
# Where every program is, the oldest first.

Programs = dict[Any, Recordings]
"""Recordings by what decides about a calculation beside its inputs, and by the shapes of these."""


def repeated(
    programs: Programs, key: Any, function: Callable[[Sequence[Any]], Sequence[Columns]], inputs: Sequence[Any]
) -> Sequence[Columns]:
    r"""Call a function, or repeat what it did before: what comes a third time is recorded.

    Parameters
    ----------
    programs : dict
        What was recorded; this call may add to it.
    key : hashable
        What decides about the calculation beside the values of the inputs, their shapes apart.
    function : callable
        Takes the inputs and returns mappings from name to array. It must neither change an array in place nor let
        anything but its inputs decide about its results.
    inputs : sequence of numpy.ndarray
        Arrays of float64.

    Returns
    -------
    sequence of mapping
        What the function returns for the inputs.

    Warns
    -----
    RuntimeWarning
        Once, if the function does what cannot be repeated; it is called as it is from then on.

    Examples
    --------
    >>> import numpy as np
    >>> def rate(inputs):
    ...     total, seconds = inputs
    ...     return [{"rate": total / seconds if np.all(seconds > 0) else total * np.inf}]
    >>> programs = {}
    >>> for total, seconds in ((6.0, 2.0), (7.0, 2.0), (8.0, 2.0), (9.0, 2.0), (8.0, 0.0)):
    ...     print(repeated(programs, "rate", rate, [np.array([total]), np.array([seconds])])[0]["rate"])
    [3.]
    [3.5]
    [4.]
    [4.5]
    [inf]
    >>> [program.source.count("\n") for program in programs["rate", ((1,), (1,))].ways]
    [6, 6]
    """
    found = programs.setdefault((key, tuple(value.shape for value in inputs)), Recordings())
    if found.seen < _SEEN or found.refused:
        found.seen += 1
        return function(inputs)
    for program in found.ways:
        try:
            return program.repeat(*inputs)
        except Departed:
            continue
    if len(found.ways) >= _VARIANTS:
        return function(inputs)
    tape = Tape(inputs)
    try:
        results = function(tape.inputs)
    except RecordingError as error:
        warnings.warn(f"a calculation is not recorded and stays slow: {error}", RuntimeWarning, stacklevel=2)
        found.refused = True
        return function(inputs)
    found.ways.append(_written(tape, results))
    _kept.append(found.ways)
    if len(_kept) > _MOST:
        oldest = _kept.popleft()
        del oldest[:1]
    return [{name: v.value if isinstance(v, Recorded) else v for name, v in result.items()} for result in results]
