"""Partitions: how a study is divided into files, what is known about a finished one, and whether it is still so."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfmodel.errors import OutputError
from perfmodel.sweep.study import Study

JOURNAL = "journal.jsonl"
"""File with one line per partition that is finished, while the sweep is not."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Some neighbouring points of one task and the file that their rows go into.

    Parameters
    ----------
    task : str
        serving or training.
    number : int
        Position among the partitions of the task.
    first, last : int
        Points, the last one included.
    """

    task: str
    number: int
    first: int
    last: int

    @property
    def file(self) -> str:
        """Path inside the directory."""
        return f"{self.task}/part-{self.number:06d}.parquet"


@dataclass(frozen=True, slots=True)
class Written:
    """What is known about a finished partition.

    Parameters
    ----------
    file : str
        Path inside the directory.
    first, last : int
        Points, the last one included.
    feasible : int
        Points of which a plan is feasible.
    rows : int
        Rows of the file.
    nbytes : int
        Size of the file [B].
    sha256 : str
        Checksum of the file.
    """

    file: str
    first: int
    last: int
    feasible: int
    rows: int
    nbytes: int
    sha256: str

    def document(self) -> dict[str, Any]:
        """As the manifest and the journal write it."""
        return {name: getattr(self, name) for name in self.__slots__}


def partitions(study: Study) -> Iterator[Partition]:
    """Divide a study into partitions.

    Parameters
    ----------
    study : Study
        The study.

    Yields
    ------
    Partition
        One after the other; none crosses from one task to the next.
    """
    for block in study.blocks:
        for number, first in enumerate(range(0, len(block), study.partition)):
            yield Partition(block.task, number, first, min(first + study.partition, len(block)) - 1)


def read_journal(directory: Path) -> list[Written]:
    """Read what was finished so far.

    Parameters
    ----------
    directory : pathlib.Path
        Directory of the sweep.

    Returns
    -------
    list of Written
        Finished partitions; a last line that was cut off is left out.
    """
    try:
        lines = (directory / JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(Written(**json.loads(line)))
        except (ValueError, TypeError):
            continue  # killed while it was written: its partition is computed again
    return found


def damage(directory: Path, written: Written) -> str:
    """Say what is wrong with the file of a partition.

    Parameters
    ----------
    directory : pathlib.Path
        Directory of the sweep.
    written : Written
        What it should be.

    Returns
    -------
    str
        What is wrong, empty where nothing is.
    """
    try:
        data = (directory / written.file).read_bytes()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if len(data) != written.nbytes:
        return f"has {len(data):,} bytes instead of {written.nbytes:,}"
    return "" if hashlib.sha256(data).hexdigest() == written.sha256 else "does not have the checksum of its journal"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and see it onto the disk.

    Parameters
    ----------
    path : pathlib.Path
        File to write; an existing one is replaced.
    data : bytes
        Content.

    Raises
    ------
    OutputError
        If the directory cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None


def _sync_directory(folder: Path) -> None:
    """See a renamed file's name onto the disk too, where directories can be opened for that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
