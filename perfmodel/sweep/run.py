"""Run: a study's points on any executor, into partitions that are written as soon as they are whole."""

import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from perfmodel.errors import PerfmodelError, SweepError, SweepInterruptedError
from perfmodel.sweep.columns import table_columns
from perfmodel.sweep.evaluate import Chunk, evaluate
from perfmodel.sweep.inputs import inputs_of
from perfmodel.sweep.parquet import require_pyarrow, to_bytes
from perfmodel.sweep.partitions import Partition, Written, partitions
from perfmodel.sweep.pool import InlineExecutor, Workers
from perfmodel.sweep.progress import Silent
from perfmodel.sweep.read import Sweep, open_sweep
from perfmodel.sweep.store import Store
from perfmodel.sweep.study import Point, Study
from perfmodel.sweep.study_files import read_study

_IN_FLIGHT = 64
"""Points handed to an executor of the user's at a time, where nothing else is said."""


def run_sweep(
    study: Study | str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    in_flight: int | None = None,
    chunk: int = 1,
    profiles: str | None = None,
    restart: bool = False,
    progress: Silent | None = None,
) -> Sweep:
    """Evaluate every point of a study, or those that an earlier run did not get to.

    Partitions are written whole, one after the other, and what is written does not depend on the executor, on the
    number of its workers, or on how often the sweep was stopped and begun again.

    Parameters
    ----------
    study : Study or path
        What to find out.
    directory : path
        Where the results go.
    executor : Executor, optional
        Any `concurrent.futures.Executor`: what runs the points. It is not shut down. By default processes here.
    workers : int, optional
        Processes where no executor is given; as many as this machine has processors by default, 1 for none.
    in_flight : int, optional
        Chunks that are submitted and not yet finished at any time.
    chunk : int
        Points per call of a worker.
    profiles : str, optional
        Directory of profiles that is searched first.
    restart : bool
        Begin anew in a directory that holds another sweep.
    progress : Silent, optional
        Hears how far it is.

    Returns
    -------
    Sweep
        The finished sweep.

    Raises
    ------
    SweepError
        If the directory holds another sweep, or a worker died; the message names the point that it was on.
    SweepInterruptedError
        If it was interrupted.
    OutputError
        If the disk is full or the directory cannot be written.
    """
    require_pyarrow()
    wanted = study if isinstance(study, Study) else read_study(study)
    if chunk < 1 or (in_flight is not None and in_flight < 1) or (workers is not None and workers < 1):
        raise SweepError("chunk, in_flight and workers must be at least 1")
    listener = progress or Silent()
    inputs = inputs_of(wanted, profiles)
    with Store(Path(directory), wanted, inputs) as store:
        sound, problems = store.resume(restart=restart)
        for problem in problems:
            listener.note(f"{problem}; it is computed again")
        finished = {entry.file for entry in sound}
        missing = [part for part in partitions(wanted) if part.file not in finished]
        listener.begin(len(wanted), sum(entry.last - entry.first + 1 for entry in sound))
        try:
            if missing:
                run = _Run(store, wanted, listener, Chunk((), inputs, wanted.top, wanted.front, profiles), chunk)
                run.everything(missing, executor, workers, in_flight)
                store.finish([*sound, *run.written])
            elif not store.complete:
                store.finish(sound)
        except KeyboardInterrupt:
            left = len(list(partitions(wanted))) - store.count
            raise SweepInterruptedError(
                f"interrupted; {store.count} partitions are written and {left} are not: the same command goes on from"
                " there"
            ) from None
        finally:
            listener.end()
    return open_sweep(directory)


class _Run:
    """One run over the partitions that are missing: results come in any order, partitions leave whole."""

    def __init__(self, store: Store, study: Study, listener: Silent, settings: Chunk, chunk: int) -> None:
        self._store, self._study, self._listener = store, study, listener
        self._settings, self._chunk = settings, chunk
        self._open: dict[Partition, dict[int, list[dict[str, Any]]]] = {}
        self.written: list[Written] = []

    def everything(
        self, missing: list[Partition], executor: Executor | None, workers: int | None, in_flight: int | None
    ) -> None:
        """Run all chunks of some partitions.

        Parameters
        ----------
        missing : list of Partition
            Partitions to compute.
        executor : Executor, optional
            The user's own.
        workers, in_flight : int, optional
            As in `run_sweep`.
        """
        points = sum(part.last - part.first + 1 for part in missing)
        count = min(workers or os.cpu_count() or 1, -(-points // self._chunk))
        with ExitStack() as stack:
            pool: Workers | None = None
            if executor is not None:
                limit = in_flight or _IN_FLIGHT
            elif count == 1:
                executor, limit = InlineExecutor(), 1
            else:
                pool = stack.enter_context(Workers(count))
                executor, limit = pool.executor, in_flight or 2 * count
            self._loop(executor, self._chunks(missing), limit, pool)

    def _chunks(self, missing: list[Partition]) -> Iterator[tuple[Partition, tuple[Point, ...]]]:
        for part in missing:
            block = self._study.block(part.task)
            for first in range(part.first, part.last + 1, self._chunk):
                last = min(first + self._chunk - 1, part.last)
                yield part, tuple(block.point(index) for index in range(first, last + 1))

    def _loop(
        self,
        executor: Executor,
        chunks: Iterator[tuple[Partition, tuple[Point, ...]]],
        limit: int,
        pool: Workers | None,
    ) -> None:
        pending: dict[Future[Any], tuple[Partition, tuple[Point, ...]]] = {}
        settings = self._settings
        more = True
        try:
            while more or pending:
                while more and len(pending) < limit:
                    part, points = next(chunks, (None, ()))
                    more = part is not None
                    if part is not None:
                        work = Chunk(points, settings.inputs, settings.top, settings.front, settings.profiles)
                        pending[executor.submit(evaluate, work)] = (part, points)
                if pool is not None:
                    pool.note()
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    self._take(future, *pending[future])
                    del pending[future]
        except BrokenExecutor as error:
            raise SweepError(
                _who_died(error, pool, [point for _, points in pending.values() for point in points])
            ) from None
        finally:
            for future in pending:
                future.cancel()

    def _take(self, future: "Future[Any]", part: Partition, points: tuple[Point, ...]) -> None:
        """Put the results of a chunk where they belong, and write their partition if they are its last."""
        try:
            results = future.result()
        except (PerfmodelError, BrokenExecutor):
            raise
        except Exception as error:
            # What the executor itself reports, for instance that a worker was lost.
            names = "; ".join(map(str, points))
            raise SweepError(
                f"{names}: {type(error).__name__}: {error}. Finished partitions are kept: the same command goes on"
                " from there"
            ) from error
        held = self._open.setdefault(part, {})
        held |= {point.index: rows for point, rows in zip(points, results, strict=True)}
        self._listener.advance(len(points), sum(not rows[0]["feasible"] for rows in results))
        if len(held) == part.last - part.first + 1:
            del self._open[part]
            rows = [row for index in range(part.first, part.last + 1) for row in held[index]]
            feasible = sum(bool(found[0]["feasible"]) for found in held.values())
            data = to_bytes(rows, table_columns(self._study.block(part.task)))
            self.written.append(self._store.write(part, data, rows=len(rows), feasible=feasible))


def _who_died(error: BrokenExecutor, pool: Workers | None, pending: list[Point]) -> str:
    """Say which point a worker died on, as exactly as that is known."""
    found = [] if pool is None else pool.died()
    culprits = [f"{point} ended with {how}" for index, how in found for point in pending if point.index == index]
    if culprits:
        what = f"a worker on {'; '.join(culprits)}"
    else:
        what = f"{error or type(error).__name__}; a worker died on one of: {'; '.join(map(str, pending[:8]))}"
    return (
        f"{what}. Finished partitions are kept: the same command goes on from there; with fewer processes each has"
        " more memory"
    )
