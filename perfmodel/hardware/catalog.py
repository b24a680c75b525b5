"""Catalogue: devices and systems by name, id, alias or path (no quantity of its own)."""

import os
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel.errors import ProfileError, UnknownNameError, suggest
from perfmodel.hardware.device import Device
from perfmodel.hardware.fabric import System
from perfmodel.hardware.places import profile_directories

if TYPE_CHECKING:
    from perfmodel.hardware.schema_device import DeviceFile
    from perfmodel.hardware.schema_system import SystemFile

_FOLDERS = {"device": "devices", "system": "systems"}
_HINT = "perfmodel hardware list"


def load_device(name: str | os.PathLike[str], profiles: str | os.PathLike[str] | None = None) -> Device:
    """Load a device by id, alias or path of its file.

    Parameters
    ----------
    name : str or path
        For instance "h100-sxm", "H100" or "my/device.toml".
    profiles : path, optional
        Directory that is searched first.

    Returns
    -------
    Device
        The device, with the source of every number.

    Raises
    ------
    UnknownNameError
        If no directory has it.
    ProfileError
        If its file is broken.

    Examples
    --------
    >>> load_device("H100").id
    'h100-sxm'
    """
    from perfmodel.hardware.schema_device import DeviceFile

    profile = read_profile(find_profile("device", name, profiles))
    if not isinstance(profile, DeviceFile):
        raise ProfileError(f"{name}: is a {profile.kind}, and a device is wanted")
    return profile.build()


def load_system(name: str | os.PathLike[str], profiles: str | os.PathLike[str] | None = None) -> System:
    """Load a system and its device by id, alias or path of its file.

    Parameters
    ----------
    name : str or path
        For instance "hgx-h100", "DGX H100" or "my/cluster.toml".
    profiles : path, optional
        Directory that is searched first.

    Returns
    -------
    System
        The system, with the source of every number.

    Raises
    ------
    UnknownNameError
        If no directory has it, or has the device it is made of.
    ProfileError
        If a file is broken.

    Examples
    --------
    >>> [tier.name for tier in load_system("hgx-h100").tiers]
    ['nvlink', 'infiniband']
    """
    from perfmodel.hardware.schema_system import SystemFile

    path = find_profile("system", name, profiles)
    profile = read_profile(path)
    if not isinstance(profile, SystemFile):
        raise ProfileError(f"{name}: is a {profile.kind}, and a system is wanted")
    # A file that was given by its path may have its device beside it, wherever that is.
    beside = (path.parent, path.parent.parent) if _is_path(name) else ()
    device_path = _search("device", profile.device, (*beside, *profile_directories(profiles)))
    if device_path is None:
        known = list_devices(profiles)
        raise ProfileError(f"{path}: device: {UnknownNameError('device', profile.device, known, _HINT)}")
    return profile.build(load_device(device_path))


def list_devices(profiles: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Ids of every device there is.

    Parameters
    ----------
    profiles : path, optional
        Directory that is searched as well.

    Returns
    -------
    tuple of str
        Sorted ids.
    """
    return _names("device", profiles)


def list_systems(profiles: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Ids of every system there is.

    Parameters
    ----------
    profiles : path, optional
        Directory that is searched as well.

    Returns
    -------
    tuple of str
        Sorted ids.
    """
    return _names("system", profiles)


def validate_file(path: str | os.PathLike[str]) -> Device | System:
    """Check one profile file, and for a system that its device exists.

    Parameters
    ----------
    path : path
        The TOML file.

    Returns
    -------
    Device or System
        What the file describes.

    Raises
    ------
    ProfileError
        If it does not satisfy the schema; the message names file, key and fix in one line.
    """
    profile = read_profile(Path(path))
    return load_device(Path(path)) if profile.kind == "device" else load_system(Path(path))


def find_profile(kind: str, name: str | os.PathLike[str], profiles: str | os.PathLike[str] | None = None) -> Path:
    """Find the file of a profile.

    Parameters
    ----------
    kind : str
        "device" or "system".
    name : str or path
        Id or alias (case and separators do not matter), or a path.
    profiles : path, optional
        Directory that is searched first.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UnknownNameError
        If no directory has it; the message suggests the nearest name.
    ProfileError
        If a path was given and there is no such file.
    """
    name = name if isinstance(name, os.PathLike) else str(name)
    if _is_path(name):
        path = Path(name)
        if not path.is_file():
            raise ProfileError(f"{path}: no such file; give a {kind}'s name or the path of its .toml file")
        return path
    directories = profile_directories(profiles)
    path_or_none = _search(kind, str(name), directories)
    if path_or_none is None:
        files = [path for folder in directories for path in _profiles_in(folder, kind)]
        known = {path.stem for path in files}
        if suggest(str(name), known) is None:  # no id is near; perhaps an alias is
            near = suggest(str(name), {alias for path in files for alias in _answers_to(path)})
            known |= {near} if near else set()
        # A device alone is no system, and its own is meant.
        device = _search("device", str(name), directories) if kind == "system" else None
        own = _peek(device).get("default_system") if device else None
        raise UnknownNameError(kind, str(name), known, _HINT, own if own in known else None)
    return path_or_none


def read_profile(path: Path) -> "DeviceFile | SystemFile":
    """Read and check one profile file.

    Parameters
    ----------
    path : Path
        The TOML file.

    Returns
    -------
    DeviceFile or SystemFile
        The checked tables.

    Raises
    ------
    ProfileError
        If the file cannot be read, is not TOML or does not satisfy the schema.
    """
    from perfmodel.hardware.schema import check

    return check(_tables(path), path)


def _is_path(name: str | os.PathLike[str]) -> bool:
    return isinstance(name, os.PathLike) or name.endswith(".toml") or "/" in name or os.sep in name


def _names(kind: str, profiles: str | os.PathLike[str] | None) -> tuple[str, ...]:
    paths = (path for folder in profile_directories(profiles) for path in _profiles_in(folder, kind))
    return tuple(sorted({path.stem for path in paths}))


def _search(kind: str, name: str, directories: tuple[Path, ...]) -> Path | None:
    wanted = _fold(name)
    for folder in directories:
        paths = list(_profiles_in(folder, kind))
        # A file's name is its id, so most look-ups open no other file.
        for path in paths:
            if _fold(path.stem) == wanted:
                return path
        for path in paths:
            if wanted in map(_fold, _answers_to(path)):
                return path
    return None


def _profiles_in(folder: Path, kind: str) -> Iterator[Path]:
    """Files of one kind: those in the kind's own folder, and any others that lie directly in the directory."""
    yield from sorted((folder / _FOLDERS[kind]).glob("*.toml"))
    for path in sorted(folder.glob("*.toml")):
        if folder.name == _FOLDERS[kind] or _looks_like(path, kind):
            yield path


def _looks_like(path: Path, kind: str) -> bool:
    tables = _peek(path)
    if not tables:
        return True  # broken: whoever asks for it by name shall hear why
    guess = "system" if "tier" in tables else "device" if "peak" in tables else ""
    return bool(tables.get("kind", guess) == kind)


def _answers_to(path: Path) -> tuple[str, ...]:
    aliases = _peek(path).get("aliases", ())
    return (
        (path.stem, *(alias for alias in aliases if isinstance(alias, str)))
        if isinstance(aliases, list)
        else (path.stem,)
    )


def _fold(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")


def _peek(path: Path) -> dict[str, Any]:
    """Tables of a file, or nothing where it is broken: looking for another file must not fail because of it."""
    try:
        return _tables(path)
    except ProfileError:
        return {}


def _tables(path: Path) -> dict[str, Any]:
    try:
        stat = path.stat()
        return _parse(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise ProfileError(
            f"{path}: cannot be read ({error.strerror or error}); check the path and its rights"
        ) from None


@lru_cache(maxsize=512)
def _parse(path: Path, modified: int, size: int) -> dict[str, Any]:  # noqa: ARG001  (part of the cache's key)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{path}: is not TOML or was cut off: {error}; mend that line") from None
    except UnicodeDecodeError:
        raise ProfileError(f"{path}: is not a text file in UTF-8; save it as such") from None
