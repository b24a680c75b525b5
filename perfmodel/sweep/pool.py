"""Pool: worker processes that say which point they are on, and that end when the process that started them does."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

from perfmodel.sweep import evaluate


class InlineExecutor(Executor):
    """Runs everything at once where it is submitted: one worker, no process beside this one."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run a call and return its finished future.

        Parameters
        ----------
        fn : callable
            What to run.
        *args
            Its arguments.
        **kwargs
            Its keyword arguments.

        Returns
        -------
        Future
            Finished.
        """
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Workers:
    """Processes on this machine; a context manager that leaves none behind.

    Parameters
    ----------
    count : int
        Processes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        # Forked from a server that has no threads, or started afresh where there are no forks.
        methods = multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            self._context.set_forkserver_preload([evaluate.__name__])
        # Per worker: its process id, and the point that it is on plus one.
        self._board = self._context.Array("q", 2 * count, lock=False)
        self._seats = self._context.Value("q", 0)
        self._before = {child.pid for child in multiprocessing.active_children()}
        self._children: dict[int, BaseProcess] = {}
        self.executor: Executor = ProcessPoolExecutor(
            count, self._context, initializer=_begin, initargs=(self._board, self._seats)
        )

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.note()
            for child in self._children.values():
                child.terminate()
        self.executor.shutdown(wait=True, cancel_futures=True)

    def note(self) -> None:
        """Remember the processes that there are, to be able to ask later how they ended."""
        for child in multiprocessing.active_children():
            if child.pid is not None and child.pid not in self._before:
                self._children[child.pid] = child

    def died(self) -> list[tuple[int, str]]:
        """Points that processes were on which ended by themselves, and how those ended.

        Returns
        -------
        list of tuple
            Point and "signal 9" or "exit code 1", for every worker that was not ended by the pool.
        """
        self.executor.shutdown(wait=True, cancel_futures=True)
        found = []
        for seat in range(self.count):
            pid, point = int(self._board[2 * seat]), int(self._board[2 * seat + 1])
            child = self._children.get(pid)
            code = None if child is None else child.exitcode
            # The pool ends the others itself once one has died.
            if point and code not in (None, 0, -signal.SIGTERM):
                found.append((point - 1, f"signal {-code}" if code < 0 else f"exit code {code}"))
        return found


def _begin(board: Any, seats: Any) -> None:
    """Set up a worker: take a seat, leave Ctrl-C to the parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with seats.get_lock():
        seat = int(seats.value)
        seats.value += 1
    board[2 * seat] = os.getpid()

    def watch(point: int | None) -> None:
        board[2 * seat + 1] = 0 if point is None else point + 1

    evaluate.watcher = watch
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
