"""Inputs of a sweep: everything that its results depend on beside the study, each with a digest (no quantity)."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import perfmodel
from perfmodel import api
from perfmodel.costs.formats import get_format
from perfmodel.errors import PerfmodelError, StudyError, suggest
from perfmodel.estimate.target import COLLECTIVES
from perfmodel.estimate.training.target import training_target
from perfmodel.hardware.catalog import load_system
from perfmodel.hardware.engine import SCHEDULES, SPLITS
from perfmodel.hardware.fabric import System
from perfmodel.hardware.host_links import host_bandwidth
from perfmodel.hardware.what_if import scaled
from perfmodel.hardware.what_if_flags import factor_of
from perfmodel.layers.training_recipe import METHODS, get_recipe
from perfmodel.models.catalog import load_model
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.training_grid import NAMES
from perfmodel.sweep.study import Block, Point, Study

_APART = ("provenance", "notes", "place", "source")
"""Fields that say where a value comes from and change no result."""
SOFTWARE: Mapping[str, tuple[str, ...]] = {
    "serving": ("engine", "schedule", "chunk", "split", "expert_skew", "collectives"),
    "training": ("stack", "host_link"),
}
"""Axes that belong to what a plan runs on and not to the ranking."""
_WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "serving": {
        "precision": tuple(api.PRECISIONS),
        "schedule": SCHEDULES,
        "split": SPLITS,
        "collectives": COLLECTIVES,
        "arrivals": ("closed", "poisson"),
    },
    "training": {"method": METHODS, **NAMES},
}
"""Axes that take one of a few words."""
_COMPUTING = ("costs", "estimate", "hardware", "layers", "models", "parallel", "ranking")


@lru_cache(maxsize=256)
def model_of(name: str) -> ModelSpec:
    """Load a model once.

    Parameters
    ----------
    name : str
        Name or path.

    Returns
    -------
    ModelSpec
        The model.
    """
    return load_model(name)


@lru_cache(maxsize=64)
def _system(name: str, profiles: str | None) -> System:
    return load_system(name, profiles)


@lru_cache(maxsize=256)
def _target(
    task: str,
    system: str,
    software: tuple[tuple[str, Any], ...],
    what_if: tuple[tuple[str, str], ...],
    profiles: str | None,
) -> tuple[Any, Mapping[str, float]]:
    base = _system(system, profiles)
    factors = {name: factor_of(base, name, text) for name, text in what_if}
    bring = api.target if task == "serving" else training_target
    return bring(scaled(base, factors), profiles=profiles, **dict(software)), factors


def target_of(point: Point, profiles: str | None) -> tuple[Any, Mapping[str, float]]:
    """Bring together what a point runs on, once for all points that share it.

    Parameters
    ----------
    point : Point
        The point.
    profiles : str, optional
        Directory of profiles that is searched first.

    Returns
    -------
    tuple
        A `Target` or a `TrainingTarget`, and the factor of every changed number.
    """
    software = tuple((name, point.values[name]) for name in SOFTWARE[point.task] if point.values.get(name) is not None)
    return _target(point.task, str(point.values["system"]), software, tuple(point.what_if.items()), profiles)


def names_of(point: Point) -> tuple[str, ...]:
    """Keys of the inputs that a point depends on.

    Parameters
    ----------
    point : Point
        The point.

    Returns
    -------
    tuple of str
        Keys of `inputs_of`.
    """
    software = "engine" if point.task == "serving" else "stack"
    return (
        "code",
        f"model {point.values['model']}",
        f"system {point.values['system']}",
        f"{software} {point.values.get(software) or 'neutral'}",
    )


@lru_cache(maxsize=512)
def digest_of(name: str, profiles: str | None = None) -> str:
    """SHA-256 of one input: of its numbers, not of how its file writes them.

    Parameters
    ----------
    name : str
        "code", or kind and name, for instance "system hgx-h100" (device and kernel calibrations included).
    profiles : str, optional
        Directory of profiles that is searched first.

    Returns
    -------
    str
        The digest.

    Raises
    ------
    PerfmodelError
        If there is no such thing.
    """
    kind, _, which = name.partition(" ")
    found: Any
    if kind == "code":
        return _code()
    if kind == "model":
        found = load_model(which)
    elif kind == "system":
        base = api.target(which, profiles=profiles)
        found = (base.system, base.kernels)
    elif kind == "engine":
        from perfmodel.hardware.engine_files import load_engine

        found = load_engine(which, profiles)
    else:
        from perfmodel.hardware.stack_files import load_stack

        found = load_stack(which, profiles)
    sha = hashlib.sha256()
    for part in _spell(found):
        sha.update(part.encode())
    return sha.hexdigest()


def forget() -> None:
    """Read every file anew, because it may have changed since this process read it."""
    for cached in (digest_of, model_of, _system, _target):
        cached.cache_clear()


def _code() -> str:
    """Digest of the code that computes, so that results of two versions never stand in one sweep."""
    root = Path(perfmodel.__file__).parent
    files = [path for folder in _COMPUTING for path in (root / folder).rglob("*.py")]
    sha = hashlib.sha256(perfmodel.__version__.encode())
    for path in sorted([*files, *root.glob("*.py"), root / "sweep" / "evaluate.py", root / "sweep" / "columns.py"]):
        sha.update(path.relative_to(root).as_posix().encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()


def _spell(value: Any) -> Iterator[str]:
    """Spell a value out with everything that a result can depend on, floats to the last digit."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield f"{type(value).__name__}("
        for each in dataclasses.fields(value):
            if each.name not in _APART:
                yield f"{each.name}="
                yield from _spell(getattr(value, each.name))
        yield ")"
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield f"{key}:"
            yield from _spell(value[key])
    elif isinstance(value, tuple | list):
        yield "["
        for item in value:
            yield from _spell(item)
        yield "]"
    elif isinstance(value, np.ndarray):
        yield repr(value.tolist())
    else:
        yield f"{value!r};"


def inputs_of(study: Study, profiles: str | None = None) -> dict[str, str]:
    """Digest of everything that the results of a study depend on, which checks every name in it.

    Parameters
    ----------
    study : Study
        The study.
    profiles : str, optional
        Directory of profiles that is searched first.

    Returns
    -------
    dict
        Input -> SHA-256.

    Raises
    ------
    StudyError
        If a model, machine, software or format does not exist; the message names the key.
    """
    forget()
    digests = {"code": digest_of("code")}
    for block in study.blocks:
        software = "engine" if block.task == "serving" else "stack"
        for axis in ("model", "system", software):
            for value in block.values(axis) or ("neutral",):
                with _place(study, block, axis):
                    name = f"{axis} {value or 'neutral'}"
                    digests[name] = digest_of(name, profiles)
        _check_words(study, block)
    return dict(sorted(digests.items()))


def _check_words(study: Study, block: Block) -> None:
    """Check the values of axes that take one of a few words, so that a typing error is none of the results."""
    for axis, known in _WORDS[block.task].items():
        for value in block.values(axis):
            with _place(study, block, axis):
                if value is not None and value not in known:
                    near = suggest(str(value), known)
                    fix = f"did you mean {near!r}?" if near else f"choose from {', '.join(known)}"
                    raise StudyError(f"unknown {axis} {value!r}; {fix}")
    serving = block.task == "serving"
    readers: Mapping[str, Callable[[str], Any]]
    readers = {"kv": get_format} if serving else {"precision": get_recipe, "host_link": host_bandwidth}
    for axis, read in readers.items():
        for value in block.values(axis):
            with _place(study, block, axis):
                if value is not None:
                    read(str(value))


@contextlib.contextmanager
def _place(study: Study, block: Block, axis: str) -> Iterator[None]:
    """Put file and key in front of what is wrong with a value."""
    try:
        yield
    except PerfmodelError as error:
        where = f"{study.source}: {block.task}.{axis}" if study.source else f"{block.task}.{axis}"
        raise StudyError(f"{where}: {error}") from None
