"""Study files: reading a study from TOML, every key and value checked at the door (no quantity of its own)."""

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from perfmodel.errors import StudyError, suggest
from perfmodel.hardware.what_if import NUMBERS
from perfmodel.sweep.axes import TASKS, Value, read_value, read_what_if
from perfmodel.sweep.study import Block, Rows, Study

_SETTINGS: Mapping[str, type] = {"top": int, "front": bool, "partition": int}


def read_study(path: str | os.PathLike[str]) -> Study:
    """Read a study file.

    Parameters
    ----------
    path : path
        TOML file.

    Returns
    -------
    Study
        The study.

    Raises
    ------
    StudyError
        If the file cannot be read or something in it is wrong; the message names file, key and fix.
    """
    file = Path(path)
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{file}: no such file; give the path of a study in TOML") from None
    except OSError as error:
        raise StudyError(f"{file}: cannot be read ({error.strerror or error}); check the path and its rights") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"{file}: is not TOML or was cut off: {error}") from None
    try:
        return replace(make_study(tables, folder=file.parent), source=str(file))
    except StudyError as error:
        raise StudyError(f"{file}: {error}") from None


def make_study(tables: Mapping[str, Any], *, folder: str | os.PathLike[str] = "") -> Study:
    """Make a study of the tables that a study file holds.

    Parameters
    ----------
    tables : mapping
        "serving" and "training" -> axes; "top", "front" and "partition".
    folder : path
        Where the files lie that it names by a path.

    Returns
    -------
    Study
        The study.

    Raises
    ------
    StudyError
        If something is wrong; the message names the key.

    Examples
    --------
    >>> load = {"gpus": [8, 16], "isl": "4k", "osl": "1k", "tpot": ["default", "50ms"]}
    >>> study = make_study({"serving": {"model": "llama-3.1-70b", "system": ["hgx-h100", "hgx-h200"], **load}})
    >>> len(study), study.block("serving").point(1).values["tpot"]
    (8, 0.05)
    """
    settings: dict[str, Any] = {}
    blocks = []
    for key, value in tables.items():
        if key in TASKS:
            if not isinstance(value, Mapping):
                raise StudyError(f"{key}: must be a table, [{key}]")
            blocks.append(_block(key, value, Path(folder)))
        elif key in _SETTINGS:
            kind = _SETTINGS[key]
            if not isinstance(value, int) or type(value) is not kind or (kind is int and value < 1):
                wanted = "true or false" if kind is bool else "a whole number of at least 1"
                raise StudyError(f"{key}: {value!r} is not {wanted}")
            settings[key] = value
        else:
            raise StudyError(f"{key}: unknown key; {_fix(key, (*TASKS, *_SETTINGS))}")
    if not blocks:
        raise StudyError("has neither [serving] nor [training]; add one with model, system, gpus and lengths")
    return Study(tuple(blocks), **settings)


def _fix(key: str, known: Sequence[str]) -> str:
    near = suggest(key, known)
    return f"did you mean {near!r}?" if near else f"the keys here are {', '.join(known)}"


def _block(task: str, table: Mapping[str, Any], folder: Path) -> Block:
    factors: list[tuple[tuple[str, ...], Rows]] = []
    for key, value in table.items():
        place = f"{task}.{key}"
        if key == "what_if":
            for name, changes in _table(place, value).items():
                if name not in NUMBERS:
                    raise StudyError(f"{place}.{name}: unknown number of hardware; {_fix(name, tuple(NUMBERS))}")
                factors.append(((name,), _column(task, f"{place}.{name}", name, changes, folder)))
        elif key == "together":
            for label, rows in _table(place, value).items():
                factors.append(_together(task, f"{place}.{label}", rows, folder))
        elif key in NUMBERS:
            raise StudyError(f"{place}: belongs in a table of its own, [{task}.what_if]")
        elif key not in TASKS[task]:
            raise StudyError(f"{place}: unknown key; {_fix(key, (*TASKS[task], 'what_if', 'together'))}")
        else:
            factors.append(((key,), _column(task, place, key, value, folder)))
    names = [name for group, _ in factors for name in group]
    for name in names:
        if names.count(name) > 1:
            raise StudyError(f"{task}.{name}: is named twice")
    for name, axis in TASKS[task].items():
        if axis.required and name not in names:
            raise StudyError(f"{task}.{name}: is missing")
    return Block(task, tuple(factors))


def _table(place: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise StudyError(f"{place}: must be a table, [{place}]")
    return value


def _column(task: str, place: str, name: str, values: Any, folder: Path) -> Rows:
    """Read the values of one axis: a list, or one value alone."""
    if not isinstance(values, list):
        return ((_value(task, place, name, values, folder),),)
    if not values:
        raise StudyError(f"{place}: is empty; give at least one value")
    return _each_once(place, [(_value(task, f"{place}[{i}]", name, raw, folder),) for i, raw in enumerate(values)])


def _together(task: str, place: str, rows: Any, folder: Path) -> tuple[tuple[str, ...], Rows]:
    """Read axes that do not cross but go along with each other, one table per step."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) and row for row in rows):
        raise StudyError(f'{place}: must be a list of tables, for instance [{{ isl = "4k", osl = "1k" }}]')
    names = tuple(rows[0])
    for i, row in enumerate(rows):
        if set(row) != set(names):
            raise StudyError(f"{place}[{i}]: has the keys {', '.join(row)}, and the first has {', '.join(names)}")
    for name in names:
        if name not in TASKS[task] and name not in NUMBERS:
            raise StudyError(f"{place}: unknown key {name!r}; {_fix(name, (*TASKS[task], *NUMBERS))}")
    steps = [
        tuple(_value(task, f"{place}[{i}].{name}", name, row[name], folder) for name in names)
        for i, row in enumerate(rows)
    ]
    return names, _each_once(place, steps)


def _each_once(place: str, steps: list[tuple[Value, ...]]) -> Rows:
    seen: set[tuple[Value, ...]] = set()
    for i, step in enumerate(steps):
        if step in seen:
            raise StudyError(f"{place}[{i}]: {', '.join(map(str, step))} stands there twice")
        seen.add(step)
    return tuple(steps)


def _value(task: str, place: str, name: str, raw: object, folder: Path) -> Value:
    try:
        value = read_what_if(name, raw) if name in NUMBERS else read_value(TASKS[task][name], raw)
    except StudyError as error:
        # A message about a number of the hardware names it already.
        raise StudyError(f"{place}: {str(error).removeprefix(f'{name}: ')}") from None
    if isinstance(value, str) and name not in NUMBERS and ("/" in value or value.endswith((".toml", ".json"))):
        beside = folder / value
        return str(beside.resolve()) if beside.exists() else value
    return value
