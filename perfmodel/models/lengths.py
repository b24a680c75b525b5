"""Lengths of the sequences that a model is trained on [tokens], and how often each occurs."""

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perfmodel.errors import PlanError, UnitError
from perfmodel.units import parse


@dataclass(frozen=True, slots=True)
class Lengths:
    """Distribution of sequence lengths.

    Parameters
    ----------
    tokens : tuple of float
        Lengths, ascending.
    shares : tuple of float
        Part of the sequences that has each length; they sum to one [1].
    """

    tokens: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.tokens or len(self.tokens) != len(self.shares):
            raise PlanError("lengths of sequences need at least one length, and a share for each")
        if any(not np.isfinite(n) or n < 1 or n != np.floor(n) for n in self.tokens):
            raise PlanError("the length of a sequence must be a whole number of tokens of at least 1")
        if list(self.tokens) != sorted(set(self.tokens)):
            raise PlanError("lengths of sequences must ascend, each of them once")
        if any(not np.isfinite(share) or share <= 0 for share in self.shares) or abs(sum(self.shares) - 1) > 1e-9:
            raise PlanError("shares of lengths must be above zero and sum to one")

    @property
    def mean(self) -> float:
        """Tokens of a sequence on average."""
        return sum(n * share for n, share in zip(self.tokens, self.shares, strict=True))

    @property
    def longest(self) -> float:
        """Tokens of the longest sequence."""
        return self.tokens[-1]

    def cut(self, limit: float) -> "Lengths":
        """Cut longer sequences off.

        Parameters
        ----------
        limit : float
            Most tokens of a sequence.

        Returns
        -------
        Lengths
            The same with no sequence above the limit.
        """
        return lengths_of((min(n, limit), share) for n, share in zip(self.tokens, self.shares, strict=True))


def lengths_of(pairs: Iterable[tuple[float, float]]) -> Lengths:
    """Build a distribution from counts or shares of lengths, in any order and of any sum.

    Parameters
    ----------
    pairs : iterable of (float, float)
        Tokens, and how many sequences have so many.

    Returns
    -------
    Lengths
        The distribution.

    Raises
    ------
    PlanError
        If a length or a count makes no sense.

    Examples
    --------
    >>> found = lengths_of([(32768, 1), (1024, 9)])
    >>> found.tokens, found.shares, found.mean
    ((1024, 32768), (0.9, 0.1), 4198.4)
    """
    counts: dict[float, float] = {}
    for tokens, count in pairs:
        if not np.isfinite(count) or count < 0:
            raise PlanError(f"{count:g} is no number of sequences")
        if count > 0:
            counts[tokens] = counts.get(tokens, 0.0) + count
    total = sum(counts.values())
    ordered = sorted(counts)
    return Lengths(tuple(ordered), tuple(counts[n] / total for n in ordered))


def read_lengths(text: str | os.PathLike[str]) -> Lengths:
    """Read a distribution from a file, or from the words of an option.

    Parameters
    ----------
    text : str or path
        A CSV file with the columns tokens and sequences (counts or shares), or "90:1Ki, 9:8Ki, 1:256Ki", sequences
        before tokens.

    Returns
    -------
    Lengths
        The distribution.

    Raises
    ------
    PlanError
        If it cannot be read; the message says where.

    Examples
    --------
    >>> read_lengths("3:1Ki, 1:4Ki").shares
    (0.75, 0.25)
    """
    words = str(text)
    rows = _of_file(Path(words)) if ":" not in words or Path(words).is_file() else _of_words(words)
    pairs: list[tuple[float, float]] = []
    for place, tokens, count in rows:
        try:
            pairs.append((parse(tokens, "count"), float(count)))
        except (UnitError, ValueError) as error:
            raise PlanError(f"lengths, {place}: {error}") from None
    if not any(count > 0 for _, count in pairs):
        raise PlanError("lengths name no sequence")
    return lengths_of(pairs)


def _of_words(text: str) -> list[tuple[str, str, str]]:
    rows = []
    for item in text.split(","):
        count, _, tokens = item.partition(":")
        rows.append((f"'{item.strip()}'", tokens.strip(), count.strip()))
    return rows


def _of_file(path: Path) -> list[tuple[str, str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PlanError(f"lengths of sequences cannot be read from {path}: {error}") from None
    if not table or not {"tokens", "sequences"} <= set(table[0]):
        raise PlanError(f"{path}: lengths need the columns tokens and sequences, and at least one row")
    return [
        (f"{path} row {i}", str(row["tokens"]).strip(), str(row["sequences"]).strip())
        for i, row in enumerate(table, start=2)
    ]
