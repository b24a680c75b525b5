"""Named files: finding one TOML file by name or path, and reading it into its schema with errors of one line."""

import os
import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from perfmodel.errors import ProfileError, UnknownNameError
from perfmodel.hardware.places import profile_directories

Schema = TypeVar("Schema", bound=BaseModel)


def list_named(kind: str, profiles: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Names of every profile of one kind.

    Parameters
    ----------
    kind : str
        engine or stack; its files lie in the folder of that name in the plural.
    profiles : path, optional
        Directory that is searched as well.

    Returns
    -------
    tuple of str
        Sorted names.
    """
    folders = profile_directories(profiles)
    return tuple(sorted({path.stem for folder in folders for path in (folder / f"{kind}s").glob("*.toml")}))


def find_named(kind: str, name: str, profiles: str | os.PathLike[str] | None = None) -> Path:
    """Find a profile by name or path.

    Parameters
    ----------
    kind : str
        engine or stack.
    name : str
        A name, or the path of a .toml file.
    profiles : path, optional
        Directory that is searched first.

    Returns
    -------
    pathlib.Path
        Its file.

    Raises
    ------
    UnknownNameError
        If no profile has that name.
    ProfileError
        If there is no file at that path.
    """
    name = str(name)
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise ProfileError(f"{name}: no such file; give the {kind}'s name or the path of its .toml file")
        return Path(name)
    for folder in profile_directories(profiles):
        path = folder / f"{kind}s" / f"{name.lower()}.toml"
        if path.is_file():
            return path
    raise UnknownNameError(kind, name, list_named(kind, profiles))


def read_schema(path: Path, schema: type[Schema]) -> Schema:
    """Read a TOML file into its schema.

    Parameters
    ----------
    path : pathlib.Path
        File.
    schema : type
        Pydantic model of the whole file.

    Returns
    -------
    Schema
        What the file says.

    Raises
    ------
    ProfileError
        If the file cannot be read, is not TOML or does not satisfy the schema; the message names file and key.
    """
    try:
        return schema.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read ({error.strerror}); check the path and its rights") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: is not TOML or was cut off: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ProfileError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
