"""The exception tree: every message names the thing, the place and the fix."""

import difflib
from collections.abc import Iterable


class PerfmodelError(Exception):
    """Base of every error that perfmodel raises on purpose.

    Attributes
    ----------
    exit_code : int
        What the command line exits with when this error ends a command.
    """

    exit_code = 2


class UnitError(PerfmodelError):
    """A quantity that cannot be read: unknown unit, missing unit, wrong dimension."""


class UnknownNameError(PerfmodelError):
    """A name that is in no catalogue; the message suggests the nearest one.

    Parameters
    ----------
    kind : str
        What was looked up, for instance "system".
    name : str
        The name that was not found.
    known : iterable of str
        Every name there is.
    hint : str, optional
        How to see them all.
    near : str, optional
        The name that was meant, where that is known better than by its spelling.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "", near: str | None = None) -> None:
        known = sorted(set(known))
        near = near or suggest(name, known)
        message = f"unknown {kind} {name!r}."
        if near:
            message += f" Did you mean {near!r}?"
        elif known and len(known) <= 12:
            message += f" Known: {', '.join(known)}."
        if hint:
            message += f"  ({hint} shows all {len(known)})"
        super().__init__(message)


class ProfileError(PerfmodelError):
    """A hardware, calibration or engine profile that does not satisfy its schema."""


class ModelConfigError(PerfmodelError):
    """A model description that cannot be read or places a field nowhere."""


class PlanError(PerfmodelError):
    """A parallel plan or workload that cannot exist."""


class CaseFileError(PerfmodelError):
    """A case file that cannot be read: not a table, a column missing, a value that is no number."""


class CalibrationError(PerfmodelError):
    """Measurements from which no calibration can be fitted."""


class OutputError(PerfmodelError):
    """A result that could not be written."""


class StudyError(PerfmodelError):
    """A study file that cannot be read or asks for something that does not exist."""


class SweepError(PerfmodelError):
    """A sweep that cannot go on, or a directory that holds none, another one or a damaged one."""


class SweepInterruptedError(SweepError):
    """A sweep that was stopped on purpose; what is finished is kept."""

    exit_code = 130


class MissingExtraError(PerfmodelError):
    """A library that only some users need and that is not installed.

    Parameters
    ----------
    what : str
        What cannot be done without it.
    library : str
        The library.
    extra : str
        Extra of perfmodel that installs it.
    """

    def __init__(self, what: str, library: str, extra: str) -> None:
        super().__init__(f"{what} needs {library}, which is not installed: pip install 'perfmodel[{extra}]'")


class NothingFeasibleError(PerfmodelError):
    """No plan satisfies the request; the message names the nearest miss."""

    exit_code = 1


def suggest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is nearest to a misspelt one.

    Parameters
    ----------
    name : str
        What was typed.
    known : iterable of str
        The names that exist.

    Returns
    -------
    str or None
        The nearest name, or None when nothing is near.

    Examples
    --------
    >>> suggest("hgx-h10", ["hgx-h100", "gb200-nvl72"])
    'hgx-h100'
    """
    typed = name.strip().lower()
    if not typed:
        return None

    def nearness(candidate: str) -> float:
        # People leave out the ending ("h101" for "h100-sxm"), so a beginning that matches counts nearly as much.
        whole = difflib.SequenceMatcher(None, typed, candidate).ratio()
        start = difflib.SequenceMatcher(None, typed, candidate[: len(typed)]).ratio()
        return max(whole, 0.9 * start)

    scored = [(nearness(k.lower()), k) for k in sorted(known)]
    best = max(scored, key=lambda pair: pair[0], default=(0.0, ""))
    return best[1] if best[0] >= 0.6 else None
