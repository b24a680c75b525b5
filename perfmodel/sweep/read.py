"""Reading: a sweep's directory as tables, every partition checked before a number of it is believed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel.errors import SweepError
from perfmodel.sweep.columns import table_columns
from perfmodel.sweep.parquet import from_bytes, require_pyarrow
from perfmodel.sweep.partitions import Written, damage, partitions, read_journal
from perfmodel.sweep.store import read_manifest
from perfmodel.sweep.study import Study, study_from_document

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Sweep:
    """A directory with the results of a sweep, finished or not.

    Parameters
    ----------
    directory : pathlib.Path
        Where they are.
    study : Study
        What it is about.
    parts : tuple of Written
        Partitions that are there.
    inputs : dict
        Digest of everything that the results depend on beside the study.
    """

    directory: Path
    study: Study
    parts: tuple[Written, ...]
    inputs: dict[str, str]

    def __len__(self) -> int:
        return len(self.study)

    @property
    def done(self) -> int:
        """Points that are finished."""
        return sum(part.last - part.first + 1 for part in self.parts)

    @property
    def feasible(self) -> int:
        """Finished points of which a plan is feasible."""
        return sum(part.feasible for part in self.parts)

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the study is about: serving, training or both."""
        return tuple(block.task for block in self.study.blocks)

    def task(self, name: str | None = None) -> str:
        """The task that is meant.

        Parameters
        ----------
        name : str, optional
            serving or training; may be left out where the study has only one.

        Returns
        -------
        str
            The task.

        Raises
        ------
        SweepError
            If there are two and none was named, or the study has none of that name.
        """
        if name is None and len(self.tasks) > 1:
            raise SweepError(f"{self.directory}: is about serving and training; say which (--task)")
        if name is not None and name not in self.tasks:
            raise SweepError(f"{self.directory}: has no {name} points; it is about {' and '.join(self.tasks)}")
        return name or self.tasks[0]

    def table(self, task: str | None = None, columns: Sequence[str] | None = None) -> Any:
        """Read the results of a task.

        Parameters
        ----------
        task : str, optional
            serving or training, where the study has both.
        columns : sequence of str, optional
            Columns to read; all by default.

        Returns
        -------
        pyarrow.Table
            One row per point and plan, in the order of the points.

        Raises
        ------
        SweepError
            If a partition is missing or is not as it was written.
        """
        which = self.task(task)
        pyarrow = require_pyarrow()
        tables = []
        for part in sorted((p for p in self.parts if p.file.startswith(f"{which}/")), key=lambda p: p.first):
            problem = damage(self.directory, part)
            if problem:
                raise SweepError(
                    f"{self.directory / part.file}: {problem}; run 'perfmodel sweep' on its study again, which computes"
                    " it anew"
                )
            tables.append(from_bytes((self.directory / part.file).read_bytes(), part.file, columns))
        if not tables:
            raise SweepError(f"{self.directory}: no partition of {which} is finished yet")
        return pyarrow.concat_tables(tables)

    def frame(self, task: str | None = None, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """Read the results of a task as a DataFrame.

        Parameters
        ----------
        task : str, optional
            serving or training, where the study has both.
        columns : sequence of str, optional
            Columns to read; all by default.

        Returns
        -------
        pandas.DataFrame
            One row per point and plan; counts are nullable integers.

        Raises
        ------
        SweepError
            If a partition is missing or is not as it was written.
        """
        import pandas as pd

        pyarrow = require_pyarrow()
        kinds = {pyarrow.int64(): pd.Int64Dtype(), pyarrow.bool_(): pd.BooleanDtype()}
        frame: pd.DataFrame = self.table(task, columns).to_pandas(types_mapper=kinds.get)
        return frame

    def columns(self, task: str | None = None) -> dict[str, str]:
        """Columns of the results of a task and their kinds.

        Parameters
        ----------
        task : str, optional
            serving or training, where the study has both.

        Returns
        -------
        dict
            Column -> "int64", "float64", "string" or "bool".
        """
        return table_columns(self.study.block(self.task(task)))


def open_sweep(directory: str | os.PathLike[str]) -> Sweep:
    """Open the directory of a sweep, whether it is finished or not.

    Parameters
    ----------
    directory : path
        As given to `run_sweep`.

    Returns
    -------
    Sweep
        What is there.

    Raises
    ------
    SweepError
        If the directory holds no sweep or its manifest is damaged.
    """
    folder = Path(directory)
    manifest = read_manifest(folder)
    study = study_from_document(manifest["study"])
    known = {part.file for part in partitions(study)}
    entries = [Written(**entry) for entry in manifest["partitions"]] or read_journal(folder)
    parts = {entry.file: entry for entry in entries if entry.file in known}
    return Sweep(folder, study, tuple(parts.values()), dict(manifest["inputs"]))
