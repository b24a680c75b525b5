"""Places: the directories in which profile files are looked for, in the order in which they win."""

import importlib.resources
import os
import sys
from pathlib import Path

from perfmodel.errors import ProfileError

ENVIRONMENT_VARIABLE = "PERFMODEL_PROFILES"
"""Name of the variable that lists further directories, separated as in PATH."""


def builtin_directory() -> Path:
    """Directory of the profiles that come with the package.

    Returns
    -------
    Path
        ``perfmodel/_profiles`` of an installed wheel, ``hardware_profiles`` of a checkout or an editable install.

    Raises
    ------
    ProfileError
        If neither exists, which means a broken installation.
    """
    package = Path(str(importlib.resources.files("perfmodel")))
    for candidate in (package / "_profiles", package.parent / "hardware_profiles"):
        if (candidate / "devices").is_dir():
            return candidate
    raise ProfileError(f"{package}: the built-in profiles are missing; install perfmodel again")


def user_directory() -> Path:
    """Directory for the user's own profiles, by the platform's convention; it need not exist.

    Returns
    -------
    Path
        For instance ``~/.config/perfmodel/profiles``.
    """
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "perfmodel" / "profiles"


def profile_directories(profiles: str | os.PathLike[str] | None = None) -> tuple[Path, ...]:
    """Directories that are searched for profiles; the first that has a name wins.

    Parameters
    ----------
    profiles : path, optional
        Directory given by the caller, for instance with ``--profiles``.

    Returns
    -------
    tuple of Path
        The given directory, those of ``$PERFMODEL_PROFILES``, the user's configuration, the built-in one.

    Raises
    ------
    ProfileError
        If a directory that was asked for does not exist.
    """
    given = [] if profiles is None else [_existing(Path(profiles), "the directory of profiles")]
    listed = os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep)
    given += [_existing(Path(entry), f"${ENVIRONMENT_VARIABLE}") for entry in listed if entry]
    if user_directory().is_dir():
        given.append(user_directory())
    return (*given, builtin_directory())


def _existing(directory: Path, what: str) -> Path:
    if not directory.is_dir():
        raise ProfileError(f"{directory}: {what} does not exist or is no directory; create it or leave it out")
    return directory
