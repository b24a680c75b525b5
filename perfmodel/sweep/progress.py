"""Progress: how far a sweep is, how fast it goes and how long it still takes [s]."""

import os
import shutil
import time
import warnings
from collections.abc import Callable
from typing import TextIO

from perfmodel.units import format_time


class Silent:
    """Says nothing of the progress; what went wrong becomes a warning."""

    def begin(self, total: int, done: int) -> None:
        """Hear how much there is to do.

        Parameters
        ----------
        total, done : int
            Points in all, and those that an earlier run finished.
        """

    def advance(self, points: int, infeasible: int) -> None:
        """Hear of points that are finished.

        Parameters
        ----------
        points, infeasible : int
            Points, and those of them without a feasible plan.
        """

    def note(self, text: str) -> None:
        """Pass on something that the user must know.

        Parameters
        ----------
        text : str
            One line.
        """
        warnings.warn(text, UserWarning, stacklevel=3)

    def end(self) -> None:
        """Hear that nothing more will come."""


class Progress(Silent):
    """Writes to a stream: one line that is rewritten on a terminal, a plain line now and then elsewhere.

    Parameters
    ----------
    stream : text stream
        Where to write, for instance stderr.
    clock : callable, optional
        Time that has passed since some moment [s].
    """

    _EVERY_TERMINAL, _EVERY_PLAIN = 0.1, 10.0

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._terminal = stream.isatty()
        self._total = self._done = self._before = self._infeasible = 0
        self._began = self._shown = clock()
        self._open = False

    def begin(self, total: int, done: int) -> None:
        """Begin to count.

        Parameters
        ----------
        total, done : int
            Points in all, and those that an earlier run finished.
        """
        self._total, self._done, self._before = total, done, done
        self._began = self._clock()
        self._shown = self._began
        if done == total:
            self.note(f"all {total:,} points are there already")
        elif done:
            self.note(f"going on: {done:,} of {total:,} points are there already")

    def advance(self, points: int, infeasible: int) -> None:
        """Count points, and show it if the last time was long enough ago.

        Parameters
        ----------
        points, infeasible : int
            Points, and those of them without a feasible plan.
        """
        self._done += points
        self._infeasible += infeasible
        now = self._clock()
        if now - self._shown >= (self._EVERY_TERMINAL if self._terminal else self._EVERY_PLAIN):
            self._shown = now
            self._show()

    def note(self, text: str) -> None:
        """Write a line of its own.

        Parameters
        ----------
        text : str
            The line.
        """
        self._erase()
        self._stream.write(f"perfmodel: {text}\n")
        self._stream.flush()

    def end(self) -> None:
        """Remove the line that is rewritten, or write a last plain one."""
        self._erase()
        if not self._terminal and self._done > self._before:
            self._show()

    def line(self, width: int) -> str:
        """How far the sweep is, in as many words as there is room for.

        Parameters
        ----------
        width : int
            Columns of the terminal.

        Returns
        -------
        str
            A line that fits.
        """
        passed, done = self._clock() - self._began, self._done - self._before
        rate = done / passed if passed > 0 else 0.0
        left = format_time((self._total - self._done) / rate, 2) if rate > 0 else "?"
        share = f"{100 * self._done // max(self._total, 1)}%"
        count = f"{self._done:,} of {self._total:,} points"
        infeasible = f"{self._infeasible:,} infeasible"
        speed = f"{rate:.3g} points/s"
        best = ""
        for words in ([share, f"{left} left"], [count, f"{left} left"], [count, speed, f"{left} left"]):
            text = ", ".join(words)
            best = text if len(text) <= width or not best else best
        full = ", ".join([count, infeasible, speed, f"{left} left"])
        return full if len(full) <= width else best[:width]

    def _show(self) -> None:
        if self._terminal:
            width = _width(self._stream)
            self._stream.write(f"\r{self.line(width - 1):{width - 1}}")
            self._open = True
        else:
            self._stream.write(f"perfmodel: {self.line(200)}\n")
        self._stream.flush()

    def _erase(self) -> None:
        if self._open:
            self._stream.write("\r" + " " * (_width(self._stream) - 1) + "\r")
            self._stream.flush()
            self._open = False


def _width(stream: TextIO) -> int:
    try:
        return max(os.get_terminal_size(stream.fileno()).columns, 20)
    except (OSError, ValueError, AttributeError):
        return shutil.get_terminal_size().columns
