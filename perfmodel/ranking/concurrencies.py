"""Concurrencies between the steps of a ladder: the best of every split, closed in on for all splits at once."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Array

TRIED = 9
"""Concurrencies of one pass: each leaves a quarter of what lay open, so three passes find one of a hundred."""


def between_steps(
    score: Callable[[npt.NDArray[np.int64], Array], Array], ladder: Array, scores: Array, unit: npt.ArrayLike = 1.0
) -> Array:
    """Best concurrency of every split, to the last request where the score has one peak between two steps.

    From the neighbours of the best step inwards, each pass tries some concurrencies and goes on between the neighbours
    of the best so far. What is found for a split does not depend on the others.

    Parameters
    ----------
    score : callable
        Positions of splits, and concurrencies of each in a row -> their scores, larger is better; -inf for what cannot
        be.
    ladder : numpy.ndarray
        Concurrencies tried already, increasing.
    scores : numpy.ndarray
        Their scores, a row per split.
    unit : array_like
        Multiples that are tried, per split: those of attention-data-parallel ranks, which share requests evenly.

    Returns
    -------
    numpy.ndarray
        One concurrency per split; the first of the ladder where all scores are -inf.

    Examples
    --------
    >>> steps = np.array([1.0, 10.0, 100.0])
    >>> def score(splits, tried):
    ...     return np.where(tried <= 73.0, tried, -np.inf)
    >>> between_steps(score, steps, score(0, steps)[None]).tolist()
    [73.0]
    """
    step, rows = scores.argmax(axis=1), np.arange(len(scores))
    ends = np.concatenate([[0.0], ladder, [ladder[-1]]])
    best: Array = ladder[step]
    reached = scores[rows, step]
    unit = np.broadcast_to(np.asarray(unit, dtype=np.float64), best.shape)
    # Steps may be narrower than multiples lie apart, and then the best of them says little of its neighbours.
    low = np.maximum(np.minimum(ends[step], best - unit), 0.0)
    high = np.minimum(np.maximum(ends[step + 2], best + 2.0 * unit), ladder[-1] + 1.0)
    first, last = np.floor(low / unit) + 1.0, np.ceil(high / unit) - 1.0
    part = np.linspace(0.0, 1.0, TRIED)
    left = np.flatnonzero(np.isfinite(reached) & (last >= first))
    while left.size:
        lowest, highest = first[left, None], last[left, None]
        tried = np.round(lowest + (highest - lowest) * part) * unit[left, None]
        found = score(left, tried)
        at = found.argmax(axis=1)[:, None]
        top, where = (np.take_along_axis(values, at, axis=1)[:, 0] for values in (found, tried))
        # Of equals the smallest.
        better = (top > reached[left]) | ((top == reached[left]) & (where < best[left]))
        best[left], reached[left] = np.where(better, where, best[left]), np.maximum(top, reached[left])
        # Between multiples alone: what is none of them may be worse than both of its neighbours.
        low[left] = np.max(np.where(tried < best[left, None], tried, low[left, None]), axis=1)
        high[left] = np.min(np.where(tried > best[left, None], tried, high[left, None]), axis=1)
        first, last = np.floor(low / unit) + 1.0, np.ceil(high / unit) - 1.0
        # Where a pass has tried every multiple nothing lies open.
        left = left[(highest - lowest)[:, 0] >= TRIED]
    return best
