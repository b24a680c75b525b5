"""Operators of one kind joined into a single one, whose sizes lie one after the other (no quantity of its own)."""

from collections.abc import Sequence
from dataclasses import Field, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from perfmodel.arrays import Floats, in_rows

T = TypeVar("T")


def kind_of(item: Any) -> tuple[Any, ...]:
    """Everything about an operator but its name, its group and what varies over plans.

    Operators of equal kind are timed in one call.

    Parameters
    ----------
    item : Operator
        Operator, or a part of one.

    Returns
    -------
    tuple
        Its type, and its formats, switches and fixed sizes in the order of its fields.
    """
    kind: list[Any] = [type(item)]
    for each in fields(item):
        value = getattr(item, each.name)
        if is_dataclass(value):
            kind.append(kind_of(value))
        elif each.name not in ("name", "group") and not _varies(each):
            kind.append((each.name, value))
    return tuple(kind)


def sizes_of(item: Any) -> list[Any]:
    """List the sizes of an operator that vary over plans, those of its parts included.

    Parameters
    ----------
    item : Operator
        Operator, or a part of one.

    Returns
    -------
    list of float or array
        In the order of its fields.
    """
    sizes: list[Any] = []
    for each in fields(item):
        value = getattr(item, each.name)
        if is_dataclass(value):
            sizes += sizes_of(value)
        elif _varies(each):
            sizes.append(value)
    return sizes


def merge(items: Sequence[T], lengths: Sequence[int]) -> T:
    """Join operators of one kind.

    Parameters
    ----------
    items : sequence of Operator
        Operators whose `kind_of` is the same.
    lengths : sequence of int
        Plans that each is over: its sizes are numbers, or arrays of this length.

    Returns
    -------
    Operator
        One operator over all plans of all; a size that is the same number everywhere stays a number.

    Examples
    --------
    >>> from perfmodel.layers.operators import Pass
    >>> merge([Pass("a", np.array([1.0, 2.0])), Pass("b", 5.0)], [2, 1]).moved.tolist()
    [1.0, 2.0, 5.0]
    """
    first: Any = items[0]
    if len(items) == 1:
        return items[0]
    changed: dict[str, Any] = {}
    of: type = type(first)
    sizes, others = _names(of)
    for name in sizes:
        changed[name] = chained([getattr(item, name) for item in items], lengths)
    for name in others:
        if is_dataclass(getattr(first, name)):
            changed[name] = merge([getattr(item, name) for item in items], lengths)
    return replace(first, **changed)  # type: ignore[no-any-return]


@lru_cache(maxsize=64)
def _names(of: type) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the fields of an operator: sizes that vary over plans, and what may have such sizes itself."""
    sizes = tuple(each.name for each in fields(of) if _varies(each))
    plain = (bool, int, float, str)
    return sizes, tuple(each.name for each in fields(of) if each.name not in sizes and each.type not in plain)


def _varies(each: Field[Any]) -> bool:
    """Whether a field is a size that may differ from plan to plan; a plain float is the same for all of them."""
    return each.type == Floats


def chained(values: Sequence[Floats], lengths: Sequence[int]) -> Floats:
    """Put arrays one after the other.

    Parameters
    ----------
    values : sequence of float or array
        Numbers, or arrays of the given lengths.
    lengths : sequence of int
        Plans that each is over.

    Returns
    -------
    float or array
        One value per plan of all; a number where all are the same number.

    Examples
    --------
    >>> chained([1.0, np.array([2.0, 3.0])], [1, 2]).tolist(), chained([4.0, 4.0], [1, 2])
    ([1.0, 2.0, 3.0], 4.0)
    """
    if len(values) == 1:
        return values[0]
    if all(isinstance(value, float | int) for value in values) and len(set(values)) == 1:
        return values[0]
    return np.concatenate([in_rows(value, length) for value, length in zip(values, lengths, strict=True)])
