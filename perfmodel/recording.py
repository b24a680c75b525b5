"""Recorded values: they note every NumPy call that a function does to small arrays, so that it can be repeated.

A prediction of one plan is a thousand NumPy calls on arrays of a few elements. The Python between them, which finds
kernels, builds operators and places groups, takes several times as long and gives the same list of calls for every plan
of a model on a target. Here that list is made once, by running the function on values that note what is done to them;
`perfmodel.programs` writes it down and repeats it with other values: the same calls in the same order, so the results
are the same bits. Functions stay ordinary NumPy code and know nothing of it (no quantity of its own).
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

Columns = Mapping[str, Any]

FEW = 16
"""Up to so many plans the Python around a calculation takes longer than its calls, and finding equal plans longer than
computing them again."""

KNOWN = frozenset(
    {
        np.all,
        np.any,
        np.argmax,
        np.argmin,
        np.broadcast_to,
        np.concatenate,
        np.count_nonzero,
        np.max,
        np.min,
        np.ravel,
        np.repeat,
        np.reshape,
        np.stack,
        np.take_along_axis,
        np.where,
    }
)
"""Functions of NumPy that may be recorded: those whose result has a shape that no value decides."""

SHAPED = frozenset({np.shape, np.ndim, np.size, np.ones_like, np.zeros_like})
"""Functions of NumPy whose result the shape and the type of their argument decide, the same in every run."""

_METHODS = frozenset({"argmax", "argmin", "astype", "clip", "copy", "ravel", "reshape"})
_REDUCTIONS: Mapping[Any, np.ufunc] = {
    **{np.all: np.logical_and, np.any: np.logical_or, np.max: np.maximum, np.min: np.minimum},
    **{"all": np.logical_and, "any": np.logical_or, "max": np.maximum, "min": np.minimum},
}
# What these functions and methods reduce with, by way of functions in Python that take longer than the reduction.


class RecordingError(TypeError):
    """A recorded value was given to something whose result may depend on it in a way that cannot be repeated."""


class Departed(Exception):  # noqa: N818 - says where the calculation went, which is no error
    """A repeated calculation takes another way than the recorded one."""


def _noted(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *others: self.tape.call(function, (self, *others))


def _reflected(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, other: self.tape.call(function, (other, self))


class Recorded:
    """A value that a recorded function works on: it holds the value and notes whatever is done to it.

    Parameters
    ----------
    tape : Tape
        Where it is noted.
    place : int
        Its place there.
    value : array, number or tuple
        The value in this run; its shape and type are those of every run, its contents are not.
    """

    __slots__ = ("place", "tape", "value")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, tape: "Tape", place: int, value: Any) -> None:
        self.tape, self.place, self.value = tape, place, value

    def __array_ufunc__(self, function: np.ufunc, method: str, *inputs: Any, **more: Any) -> Any:
        """Note a call of a universal function, or of one of its methods."""
        if "out" in more:
            raise RecordingError(f"{function.__name__} would change an array in place")
        return self.tape.call(function if method == "__call__" else getattr(function, method), inputs, more)

    def __array_function__(self, function: Any, types: Any, args: tuple[Any, ...], more: dict[str, Any]) -> Any:
        """Note a call of another function of NumPy."""
        if function in SHAPED:
            return function(self.value, *args[1:], **more)
        if function not in KNOWN:
            raise RecordingError(f"numpy.{function.__name__} is not among the functions that can be repeated")
        if function in _REDUCTIONS and len(args) == 1:
            return self._reduced(_REDUCTIONS[function], **more)
        # The function itself, without the way around it that asks its arguments whether they are recorded.
        return self.tape.call(getattr(function, "_implementation", function), args, more)

    def __array__(self, *args: Any, **more: Any) -> Any:
        """Refuse to become a plain array, which would forget where it came from."""
        raise RecordingError("a recorded value cannot become a plain array")

    def __getattr__(self, name: str) -> Any:
        """Attributes that every run shares, and methods that can be repeated."""
        if name in ("shape", "size", "ndim", "dtype"):
            return getattr(self.value, name)
        if name in _REDUCTIONS:
            return partial(self._reduced, _REDUCTIONS[name])
        if name in _METHODS:
            return lambda *args, **more: self.tape.call(operator.methodcaller(name, *args, **more), (self,))
        if name.startswith("_"):  # protocols that NumPy asks for
            raise AttributeError(name)
        raise RecordingError(f".{name} of a recorded value cannot be repeated")

    def tobytes(self) -> bytes:
        """What tells it from values that are calculated otherwise; its contents are not those of every run."""
        return f"recorded {self.place}".encode()

    def _reduced(self, function: np.ufunc, axis: int | None = None) -> Any:
        return self.tape.call(function.reduce, (self,), {"axis": axis})

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return self.tape.decide(bool, self)  # type: ignore[no-any-return]

    def __float__(self) -> float:
        return self.tape.decide(float, self)  # type: ignore[no-any-return]

    def __int__(self) -> int:
        return self.tape.decide(int, self)  # type: ignore[no-any-return]

    # What is noted is the operator of the language, because NumPy's `**` is not always its `power`.
    __getitem__ = _noted(operator.getitem)
    __neg__, __abs__, __invert__ = _noted(operator.neg), _noted(operator.abs), _noted(operator.invert)
    __lt__, __le__, __gt__, __ge__ = (_noted(of) for of in (operator.lt, operator.le, operator.gt, operator.ge))
    __eq__, __ne__ = _noted(operator.eq), _noted(operator.ne)
    __add__, __radd__ = _noted(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _noted(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _noted(operator.mul), _reflected(operator.mul)
    __truediv__, __rtruediv__ = _noted(operator.truediv), _reflected(operator.truediv)
    __floordiv__, __rfloordiv__ = _noted(operator.floordiv), _reflected(operator.floordiv)
    __mod__, __rmod__ = _noted(operator.mod), _reflected(operator.mod)
    __pow__, __rpow__ = _noted(operator.pow), _reflected(operator.pow)
    __and__, __rand__ = _noted(operator.and_), _reflected(operator.and_)
    __or__, __ror__ = _noted(operator.or_), _reflected(operator.or_)


@dataclass(frozen=True, slots=True, eq=False)
class Extended:
    """A function with arguments that no run changes, after those that are recorded.

    Parameters
    ----------
    function : callable
        The function.
    joined : bool
        Whether what is recorded is one argument, a tuple.
    rest : tuple
        Further arguments by position.
    more : mapping
        Further arguments by name.
    """

    function: Callable[..., Any]
    joined: bool
    rest: tuple[Any, ...]
    more: Mapping[str, Any]

    def __call__(self, *parts: Any) -> Any:
        """Call it while it is recorded."""
        return self.function(*((parts,) if self.joined else parts), *self.rest, **self.more)

    def written(self, name: str, parts: Sequence[str]) -> tuple[str, dict[str, Any]]:
        """Text of a call, and what its names stand for.

        Parameters
        ----------
        name : str
            Name of the function there.
        parts : sequence of str
            Names of what is recorded.

        Returns
        -------
        text : str
            The call.
        names : dict
            Name -> function or argument.
        """
        fixed = {name: self.function} | {f"{name}_{i}": value for i, value in enumerate(self.rest)}
        text = [f"({', '.join(parts)},)"] if self.joined else list(parts)
        text += [each for each in fixed if each != name] + [f"{key}={name}_{key}" for key in self.more]
        return f"{name}({', '.join(text)})", fixed | {f"{name}_{key}": value for key, value in self.more.items()}


@dataclass(frozen=True, slots=True)
class _Decision:
    """A place where a function takes its way by a value."""

    kind: Callable[[Any], Any]
    expected: Any

    def __call__(self, value: Any) -> None:
        if self.kind(value) != self.expected:
            raise Departed


Call = tuple[Callable[..., Any], tuple[int, ...], int]
"""A function, the places of its arguments and that of its result."""


class Tape:
    """Calls that are done to recorded values, while a function runs.

    Parameters
    ----------
    inputs : sequence of numpy.ndarray
        Values that the function starts from.
    """

    def __init__(self, inputs: Sequence[Any]) -> None:
        self.start: list[Any] = list(inputs)
        self.calls: list[Call] = []
        self.inputs = [Recorded(self, place, value) for place, value in enumerate(inputs)]
        self._done: dict[Any, Recorded] = {}
        self._constants: dict[Any, int] = {}

    def call(self, function: Callable[..., Any], args: Sequence[Any], more: Mapping[str, Any] | None = None) -> Any:
        """Call a function with the values of its arguments, and note that.

        Parameters
        ----------
        function : callable
            The function.
        args : sequence
            Its arguments, some of them recorded; the first may be a sequence of such.
        more : mapping, optional
            Keywords; none of them recorded.

        Returns
        -------
        Recorded
            The result; the one that is there already where the same was done before.
        """
        if args and isinstance(args[0], list | tuple):
            function, args = Extended(function, True, tuple(args[1:]), dict(more or {})), args[0]
        elif more:
            function = Extended(function, False, (), more)
        exact = function is operator.pow or isinstance(function, Extended | operator.methodcaller)
        if not exact:  # NumPy converts a number in every call, and an array never
            args = [np.array(arg) if type(arg) is float else arg for arg in args]
            if function is operator.mul and (same := _times_one(*args)) is not None:
                return same
        places = tuple(arg.place if isinstance(arg, Recorded) else self._constant(arg) for arg in args)
        key = (function, places)
        plain = not isinstance(function, Extended | operator.methodcaller)
        if plain and key in self._done:
            return self._done[key]
        value = function(*(arg.value if isinstance(arg, Recorded) else arg for arg in args))
        out = Recorded(self, self._place(None), value)
        self.calls.append((function, places, out.place))
        if plain:
            self._done[key] = out
        return out

    def decide(self, kind: Callable[[Any], Any], on: Recorded) -> Any:
        """Take a value out of the recording, so that the function can go one way or another.

        Parameters
        ----------
        kind : callable
            bool, float or int.
        on : Recorded
            The value.

        Returns
        -------
        bool, float or int
            Its value in this run; a run in which it differs departs there.
        """
        expected = kind(on.value)
        self.calls.append((_Decision(kind, expected), (on.place,), self._place(None)))
        return expected

    def needed(self, results: Sequence[Columns]) -> tuple[list[Call], list[dict[str, int]]]:
        """Close the recording: the calls that results need, and where they lie.

        Parameters
        ----------
        results : sequence of mapping
            What the function returned.

        Returns
        -------
        calls : list of Call
            In their order, with the decisions.
        places : list of dict
            For every mapping, name -> place.
        """
        named = [
            {name: v.place if isinstance(v, Recorded) else self._constant(v) for name, v in result.items()}
            for result in results
        ]
        needed = {place for result in named for place in result.values()}
        calls: list[Call] = []
        for call in reversed(self.calls):
            function, places, out = call
            if out in needed or isinstance(function, _Decision):
                needed.update(places)
                calls.append(call)
        return calls[::-1], named

    def _place(self, value: Any) -> int:
        self.start.append(value)
        return len(self.start) - 1

    def _constant(self, value: Any) -> int:
        # Equal numbers share a place; arrays and other objects are known by identity, and kept alive by theirs.
        key: Any = id(value)
        if isinstance(value, float | int):
            key = (type(value), repr(value))
        elif type(value) is np.ndarray and value.ndim == 0:
            key = (value.dtype, value.tobytes())
        if key not in self._constants:
            self._constants[key] = self._place(value)
        return self._constants[key]


def _times_one(first: Any, second: Any) -> Recorded | None:
    """The other factor of a product with 1.0, where there is one; the product is the same bits."""
    for one, other in ((first, second), (second, first)):
        if type(one) is np.ndarray and one.ndim == 0 and one == 1.0 and other.dtype == np.float64:
            return other  # type: ignore[no-any-return]
    return None
