"""Check of profile files at the door: the schema of their kind, and the file's name (no quantity of its own)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from perfmodel.errors import ProfileError, suggest
from perfmodel.hardware.problems import explain
from perfmodel.hardware.schema_device import DeviceFile
from perfmodel.hardware.schema_system import SystemFile

KINDS: dict[str, type[DeviceFile] | type[SystemFile]] = {"device": DeviceFile, "system": SystemFile}


def check(data: Mapping[str, Any], path: Path) -> DeviceFile | SystemFile:
    """Check the tables of a profile file.

    Parameters
    ----------
    data : mapping
        What the TOML file holds.
    path : Path
        The file, for messages.

    Returns
    -------
    DeviceFile or SystemFile
        The checked tables.

    Raises
    ------
    ProfileError
        If they do not satisfy the schema; the message names file, key and fix in one line.
    """
    if "kind" not in data:
        raise ProfileError(f'{path}: kind: is missing; add kind = "device" or kind = "system"')
    model = KINDS.get(str(data["kind"]))
    if model is None:
        near = suggest(str(data["kind"]), KINDS)
        raise ProfileError(f"{path}: kind: {data['kind']!r} is not a profile; write {near or 'device or system'!r}")
    try:
        profile = model.model_validate(data)
    except ValidationError as error:
        problems = [explain(detail, model) for detail in error.errors()]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ProfileError(f"{path}: {problems[0]}{more}") from None
    if profile.id != path.stem:
        raise ProfileError(f"{path}: id: {profile.id!r} is not the file's name; call the file {profile.id}.toml")
    return profile
