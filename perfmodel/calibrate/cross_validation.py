"""Errors of a fit on shapes that it has not seen [1]: folds of whole shapes, each predicted by a fit without it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import as_floats
from perfmodel.calibrate.fit import checked_times, fit_form, take_points
from perfmodel.calibrate.fit_errors import Errors, errors_of
from perfmodel.costs.registry import Formula


def folds_by_shape(keys: Sequence[npt.ArrayLike], folds: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Deal whole shapes into folds, so that no shape is on both sides of a split.

    Parameters
    ----------
    keys : sequence of array_like
        The columns that make a shape, for instance ``(n, k)``.
    folds : int
        Number of folds.
    seed : int
        Seed of the deal.

    Returns
    -------
    numpy.ndarray
        Fold of every row, from 0 to ``folds - 1``.

    Examples
    --------
    >>> folds_by_shape([[1, 1, 2, 2]], 2).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    True
    """
    table = np.stack([as_floats(key).reshape(-1) for key in keys], axis=1)
    shapes, inverse = np.unique(table, axis=0, return_inverse=True)
    dealt = np.arange(len(shapes)) % folds
    np.random.default_rng(seed).shuffle(dealt)
    return np.asarray(dealt[inverse.reshape(-1)], dtype=np.int64)


def cross_validate(
    formula: Formula | str,
    sizes: Mapping[str, Any],
    fixed: Mapping[str, Any],
    measured_s: npt.ArrayLike,
    keys: Sequence[npt.ArrayLike],
    *,
    folds: int = 3,
    seed: int = 0,
    **options: Any,
) -> Errors:
    """Errors on shapes that the fit has not seen.

    Parameters
    ----------
    formula, sizes, fixed, measured_s
        As for `fit_form`.
    keys : sequence of array_like
        The columns that make a shape.
    folds : int
        Folds of shapes.
    seed : int
        Seed of the deal and of the fits.
    **options
        Further options of `fit_form`.

    Returns
    -------
    Errors
        Of all points, each predicted by the fit that did not see its shape.
    """
    form, measured = checked_times(formula, measured_s)
    fold = folds_by_shape(keys, folds, seed)
    predicted = np.empty_like(measured)
    for held in range(folds):
        test, train = np.flatnonzero(fold == held), np.flatnonzero(fold != held)
        if not test.size:
            continue
        result = fit_form(
            form,
            take_points(sizes, train, measured.size),
            take_points(fixed, train, measured.size),
            measured[train],
            seed=seed,
            **options,
        )
        seen = take_points(sizes, test, measured.size) | take_points(fixed, test, measured.size)
        predicted[test] = as_floats(form.function(**seen, **result.coefficients))
    return errors_of(predicted, measured)
