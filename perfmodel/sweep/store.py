"""Store: the directory of a sweep: a manifest, a journal of what is finished, and partitions that are written whole."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import perfmodel
from perfmodel.errors import OutputError, SweepError
from perfmodel.reports.export import write_whole
from perfmodel.sweep.axes import TASKS
from perfmodel.sweep.partitions import JOURNAL, Partition, Written, damage, partitions, read_journal, write_bytes
from perfmodel.sweep.study import Study

MANIFEST, LOCK = "manifest.json", ".lock"
FORMAT = 1
"""Version of the directory's layout."""


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest of a sweep.

    Parameters
    ----------
    directory : pathlib.Path
        Directory of the sweep.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    SweepError
        If there is none or it is damaged.
    """
    path = directory / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise SweepError(f"{path}: was written in format {document['format']}, and this version reads {FORMAT}")
    except FileNotFoundError:
        raise SweepError(
            f"{directory}: holds no sweep; 'perfmodel sweep STUDY.toml -o {directory}' makes one"
        ) from None
    except OSError as error:
        raise SweepError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError):
        raise SweepError(
            f"{path}: is damaged; give another directory, or start over in this one with --restart"
        ) from None
    return dict(document)


class Store:
    """A directory that one sweep writes into; a context manager, so that no two sweeps write at once.

    Parameters
    ----------
    directory : pathlib.Path
        Where everything goes.
    study : Study
        What the sweep is about.
    inputs : mapping
        Digest of everything else that its results depend on.

    Notes
    -----
    `complete` says whether a manifest of the whole sweep was found, `count` how many partitions are there.
    """

    def __init__(self, directory: Path, study: Study, inputs: Mapping[str, str]) -> None:
        self.directory = directory
        self.study = study
        self._head: dict[str, Any] = {
            "format": FORMAT,
            "perfmodel": perfmodel.__version__,
            "study": study.document(),
            "study_sha256": study.digest(),
            "inputs": dict(inputs),
            "points": len(study),
        }
        self._lock: Any = None
        self.complete = False
        self.count = 0

    def __enter__(self) -> "Store":
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            strange = [p.name for p in self.directory.iterdir() if not p.name.startswith(".") and p.name != JOURNAL]
            if strange and not (self.directory / MANIFEST).exists():
                raise SweepError(
                    f"{self.directory}: is not empty and holds no sweep ({sorted(strange)[0]}); give a directory"
                    " of its own"
                )
            self._lock = _locked(self.directory / LOCK)
        except OSError as error:
            raise OutputError(f"{self.directory}: cannot be written: {error.strerror or error}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def resume(self, *, restart: bool = False) -> tuple[list[Written], list[str]]:
        """Find out what is finished, and make everything ready for the rest.

        Parameters
        ----------
        restart : bool
            Forget what is there and begin anew.

        Returns
        -------
        tuple
            Partitions that are finished and sound, and one line about each that is damaged.

        Raises
        ------
        SweepError
            If the directory holds the sweep of another study, of other profiles or of another version.
        """
        path = self.directory / MANIFEST
        found: list[Written] = []
        if path.exists() and not restart:
            manifest = read_manifest(self.directory)
            self._compare(manifest)
            self.complete = bool(manifest["partitions"])
            known = {part.file: part for part in partitions(self.study)}
            entries = [Written(**entry) for entry in manifest["partitions"]] or read_journal(self.directory)
            found = [entry for entry in {e.file: e for e in entries}.values() if entry.file in known]
        problems = {entry.file: damage(self.directory, entry) for entry in found}
        sound = [entry for entry in found if not problems[entry.file]]
        for task in TASKS:
            for pattern in (".*.tmp", *(["part-*.parquet"] if restart else [])):
                for stale in (self.directory / task).glob(pattern):
                    stale.unlink(missing_ok=True)
        if len(sound) < len(list(partitions(self.study))):
            write_whole(self.directory / JOURNAL, "".join(_line(entry) for entry in sound))
            self._write_manifest([])
            for block in self.study.blocks:
                (self.directory / block.task).mkdir(exist_ok=True)
        self.count = len(sound)
        return sound, [f"{self.directory / file}: {what}" for file, what in problems.items() if what]

    def _compare(self, manifest: Mapping[str, Any]) -> None:
        """Refuse to mix results that rest on different things."""
        reasons = []
        if manifest.get("perfmodel") != self._head["perfmodel"]:
            reasons.append(f"perfmodel was {manifest.get('perfmodel')} and is {self._head['perfmodel']}")
        if manifest.get("study_sha256") != self._head["study_sha256"]:
            reasons += _study_changes(manifest.get("study", {}), self.study.document())
        before, now = manifest.get("inputs", {}), self._head["inputs"]
        if not reasons:
            changed = [name for name in now if before.get(name) != now[name]]
            reasons += [f"{'the code' if name == 'code' else name} has changed" for name in changed]
        if reasons:
            raise SweepError(
                f"{self.directory}: holds another sweep: {'; '.join(reasons)}. Give another directory with -o, or start"
                " over in this one with --restart"
            )

    def write(self, part: Partition, data: bytes, *, rows: int, feasible: int) -> Written:
        """Write a finished partition, then the journal's line about it.

        Parameters
        ----------
        part : Partition
            Which one.
        data : bytes
            Its file.
        rows : int
            Rows in it.
        feasible : int
            Points of which a plan is feasible.

        Returns
        -------
        Written
            What the journal says about it.

        Raises
        ------
        OutputError
            If the disk is full or the directory cannot be written.
        """
        write_bytes(self.directory / part.file, data)
        entry = Written(part.file, part.first, part.last, feasible, rows, len(data), hashlib.sha256(data).hexdigest())
        path = self.directory / JOURNAL
        try:
            with open(path, "a", encoding="utf-8") as stream:
                stream.write(_line(entry))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
        self.count += 1
        return entry

    def finish(self, entries: list[Written]) -> None:
        """Write the manifest of a sweep that is complete; the journal has done its duty.

        Parameters
        ----------
        entries : list of Written
            Every partition.
        """
        order = {part.file: i for i, part in enumerate(partitions(self.study))}
        self._write_manifest(sorted(entries, key=lambda entry: order[entry.file]))
        (self.directory / JOURNAL).unlink(missing_ok=True)

    def _write_manifest(self, entries: list[Written]) -> None:
        document = self._head | {"complete": bool(entries), "partitions": [entry.document() for entry in entries]}
        write_bytes(self.directory / MANIFEST, (json.dumps(document, indent=1) + "\n").encode())


def _line(entry: Written) -> str:
    return json.dumps(entry.document()) + "\n"


def _study_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Name what differs between two studies."""

    def flat(document: Mapping[str, Any]) -> dict[str, str]:
        found = {name: str(document.get(name)) for name in ("top", "front", "partition")}
        factors = [(task, factor) for task, block in dict(document.get("blocks", {})).items() for factor in block]
        for task, factor in factors:
            for i, name in enumerate(factor["names"]):
                values = ("default" if step[i] is None else str(step[i]) for step in factor["steps"])
                found[f"{task}.{name}"] = ", ".join(values)
        return found

    old, new = flat(before), flat(after)
    reasons = [
        f"{name} was {old.get(name, 'not there')} and is {new.get(name, 'gone')}"
        for name in (old | new)
        if old.get(name) != new.get(name)
    ]
    return reasons or ["the order of the study's keys has changed"]


def _locked(path: Path) -> Any:
    """Hold a lock that the system drops with the process, however that ends."""
    stream = open(path, "a")  # noqa: SIM115  (held until the sweep ends)
    try:
        import fcntl
    except ImportError:  # no such locks on this system: two sweeps in one directory are the user's own doing
        return stream
    try:
        # A lock of the process, which children do not inherit: a worker that outlives us must not keep it.
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        stream.close()
        raise SweepError(
            f"{path.parent}: another sweep is writing into it; wait for it, or give another directory"
        ) from None
    return stream
