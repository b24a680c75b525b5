"""Pareto fronts: the plans that no other plan beats in every objective at once."""

import numpy as np
import numpy.typing as npt


def pareto_front(*objectives: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Positions of the points that no other point dominates.

    A point dominates another if it is nowhere worse and somewhere better. Points with NaN are never on the front; of
    equal points the first stays.

    Parameters
    ----------
    *objectives : array_like
        One value per point and objective, smaller is better (negate what should be large).

    Returns
    -------
    numpy.ndarray
        Positions on the front, in increasing order of the first objective.

    Examples
    --------
    >>> pareto_front([1.0, 2.0, 3.0], [3.0, 3.0, 1.0]).tolist()
    [0, 2]
    """
    table = np.stack([np.asarray(values, dtype=np.float64).ravel() for values in objectives], axis=1)
    known = np.flatnonzero(np.isfinite(table).all(axis=1))
    order = known[np.lexsort((known, *table[known].T[::-1]))]
    if table.shape[1] == 2:
        # Sorted by the first objective, a point is on the front where it undercuts all before it in the second.
        second = table[order, 1]
        lowest = np.minimum.accumulate(np.append(np.inf, second))[:-1]
        return np.asarray(order[second < lowest], dtype=np.int64)
    front: list[int] = []
    best = np.empty((0, table.shape[1]))
    for i in order:
        # Sorted by the first objective, so only earlier points can dominate this one.
        if not np.any(np.all(best <= table[i], axis=1)):
            front.append(int(i))
            best = np.vstack([best, table[i]])
    return np.asarray(front, dtype=np.int64)
