"""Problems: what is wrong with a profile file, in one line that names key and fix (no quantity of its own)."""

import re
from functools import partial
from typing import Any, get_args

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from perfmodel.errors import suggest
from perfmodel.units import EXAMPLES


def example(dimension: str) -> str:
    """A sourced number as a file writes it.

    Parameters
    ----------
    dimension : str
        Dimension of the number.

    Returns
    -------
    str
        An inline table.

    Examples
    --------
    >>> print(example("bandwidth"))
    { value = "3.35 TB/s", source = "datasheet" }
    """
    return f'{{ value = "{EXAMPLES[dimension]}", source = "datasheet" }}'


def explain(detail: ErrorDetails, model: type[BaseModel]) -> str:
    """Write one validation error as "key: what is wrong; what to write".

    Parameters
    ----------
    detail : dict
        Error of pydantic.
    model : type
        Model of the whole file.

    Returns
    -------
    str
        One line.
    """
    location, kind = detail["loc"], detail["type"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if kind == "extra_forbidden":
        known = _keys(_table_at(model, location[:-1]))
        near = suggest(str(location[-1]), known)
        fix = f"did you mean {near!r}?" if near else f"the keys here are {', '.join(known)}"
        return f"{key}: unknown key; {fix}"
    if kind == "missing":
        return f"{key}: is missing; add {_how_to_add(model, location)}"
    if kind == "literal_error":
        allowed = str(detail.get("ctx", {}).get("expected", ""))
        near = suggest(str(detail["input"]), re.findall(r"'([^']*)'", allowed))
        return f"{key}: {detail['input']!r} is not {allowed}" + (f"; did you mean {near!r}?" if near else "")
    if kind == "string_pattern_mismatch":
        return f"{key}: {detail['input']!r} is not an id; use small letters, digits and single hyphens"
    if kind == "value_error":
        message = str(detail.get("ctx", {}).get("error", detail["msg"]))
        return f"{key}: {message}" if key else message
    return f"{key}: {detail['msg'][:1].lower()}{detail['msg'][1:]} (the file has {detail['input']!r})"


def _how_to_add(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    name = location[-1]
    table = _table_at(model, location[:-1])
    field = None if table is None else table.model_fields.get(str(name))
    dimension = None if field is None else _dimension(field)
    if dimension is not None:
        return f"{name} = {example(dimension)}"
    inner = None if field is None else _table_of(field.annotation)
    if inner is not None:
        several = "[[{}]]" if "tuple" in str(getattr(field, "annotation", "")) else "[{}]"
        return "a table " + several.format(".".join(str(part) for part in location))
    return f'{name} = "..."'


def _dimension(field: FieldInfo) -> str | None:
    """Dimension of a sourced number, from the validator that reads it."""
    for item in field.metadata:
        if isinstance(item, BeforeValidator) and isinstance(item.func, partial):
            return str(item.func.args[0])
    return None


def _keys(table: type[BaseModel] | None) -> list[str]:
    hidden = ("text",)  # made from value, never written
    return [] if table is None else [name for name in table.model_fields if name not in hidden]


def _table_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Model of the table at a place in the file."""
    here: type[BaseModel] | None = model
    for part in location:
        if here is None or isinstance(part, int):
            continue
        field = here.model_fields.get(part)
        # A key of a mapping (the name of a source) stays in the mapping's value model.
        here = here if field is None else _table_of(field.annotation)
    return here


def _table_of(annotation: Any) -> type[BaseModel] | None:
    """Model class inside an annotation such as ``tuple[TierTable, ...]`` or ``Fact | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _table_of(argument)
        if found is not None:
            return found
    return None
