"""Coefficients of a registered formula from measured times: robust fit, shape-wise hold-out, choice of attributes."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from perfmodel.arrays import as_floats
from perfmodel.costs.registry import Coefficient, Formula, get_formula
from perfmodel.errors import CalibrationError

Array: TypeAlias = npt.NDArray[np.float64]

MINIMUM_POINTS = 10
"""Fewest measured points from which anything is fitted."""

RESIDUAL_SCALE = 0.05
"""Log residual from which a point counts linearly and no longer squared (soft L1)."""

DIFFERENCE = 1e-3
"""Step of the numerical derivative in the fit's coordinates."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of predictions against measurements.

    Parameters
    ----------
    mape, median, p90 : float
        Mean, median and 90th percentile of the absolute relative error [1].
    bias : float
        Summed prediction over summed measurement, minus one [1].
    points : int
        Measured points.
    """

    mape: float
    median: float
    p90: float
    bias: float
    points: int


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a fit found.

    Parameters
    ----------
    coefficients : dict
        Every coefficient of the formula, fitted or kept, in its SI unit.
    mape, median, p90, bias : float
        Errors on all points given, as in `Errors` [1].
    points : int
        Measured points given.
    """

    coefficients: dict[str, float]
    mape: float
    median: float
    p90: float
    bias: float
    points: int


def errors_of(predicted_s: npt.ArrayLike, measured_s: npt.ArrayLike) -> Errors:
    """Relative errors of predictions.

    Parameters
    ----------
    predicted_s, measured_s : array_like
        Times of the same cases [s].

    Returns
    -------
    Errors
        Mean, median and 90th percentile of the absolute relative error, bias and count.

    Examples
    --------
    >>> errors_of([1.1, 0.9], [1.0, 1.0]).mape
    0.1
    """
    predicted, measured = as_floats(predicted_s), as_floats(measured_s)
    error = np.abs(predicted / measured - 1.0)
    return Errors(
        float(error.mean()),
        float(np.median(error)),
        float(np.quantile(error, 0.9)),
        float(predicted.sum() / measured.sum() - 1.0),
        int(error.size),
    )


def _to_free(c: Coefficient, value: float) -> float:
    """Map a coefficient to the fit's coordinate: its logarithm, or its place in the range where zero is allowed."""
    value = min(max(value, c.low), c.high)
    return float(np.log(value)) if c.low > 0 else (value - c.low) / (c.high - c.low) * 2.0


def _from_free(c: Coefficient, x: float) -> float:
    """Map the fit's coordinate back to the coefficient, never leaving its range."""
    value = float(np.exp(x)) if c.low > 0 else c.low + x / 2.0 * (c.high - c.low)
    return min(max(value, c.low), c.high)


def _take(values: Mapping[str, Any], index: Any, points: int) -> dict[str, Any]:
    """Select points from every per-point array and leave constants alone."""
    return {
        name: np.asarray(value)[index] if np.ndim(value) == 1 and np.size(value) == points else value
        for name, value in values.items()
    }


def _checked(formula: Formula | str, measured_s: npt.ArrayLike) -> tuple[Formula, Array]:
    form = get_formula(formula) if isinstance(formula, str) else formula
    measured = as_floats(measured_s).reshape(-1)
    if not np.all(np.isfinite(measured) & (measured > 0)):
        bad = int(np.flatnonzero(~(np.isfinite(measured) & (measured > 0)))[0])
        raise CalibrationError(f"measured time {measured[bad]!r} in row {bad}: a time must be positive and finite")
    if measured.size < MINIMUM_POINTS:
        raise CalibrationError(
            f"{form.name}: {measured.size} measured points are too few for a fit;"
            f" give at least {MINIMUM_POINTS} (50 is good)"
        )
    return form, measured


def fit_form(
    formula: Formula | str,
    sizes: Mapping[str, Any],
    fixed: Mapping[str, Any],
    measured_s: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    starts: int = 2,
    seed: int = 0,
    free: Sequence[str] | None = None,
    priors: Mapping[str, float] | None = None,
    prior_weight: float = 1.0,
    max_points: int = 1000,
    max_evaluations: int = 60,
) -> FitResult:
    r"""Fit the coefficients of a registered form to measured times.

    .. math:: \min_c \sum_i w_i \rho\left(\ln \frac{t_i(c)}{\hat t_i}\right) + \lambda \sum_j (x_j - x_j^0)^2

    with a soft-L1 loss, coefficients as logarithms within their bounds, and a weak prior at the defaults so that
    a few dozen points are enough: one e-fold away from the default costs as much as one point that is 5 % off.

    Parameters
    ----------
    formula : Formula or str
        The form, or the name it is registered under.
    sizes : mapping
        Per-point arguments of the form, one-dimensional arrays of the points' length.
    fixed : mapping
        Constant arguments: hardware numbers and attributes (arrays of the points' length are allowed too).
        A coefficient given here is not fitted.
    measured_s : array_like
        Measured time of every point [s].
    weights : array_like, optional
        Weight of every point.
    starts : int
        Starting points: the priors, then random ones around them.
    seed : int
        Seed of the starting points and of the subsample.
    free : sequence of str, optional
        Coefficients to fit; all of them by default. The others keep their prior.
    priors : mapping, optional
        Starting values and centres of the priors that replace the registered defaults.
    prior_weight : float
        Strength of the priors; zero switches them off.
    max_points : int
        Points used in the fit, drawn at random where there are more. Errors are always of all points.
    max_evaluations : int
        Jacobians per start.

    Returns
    -------
    FitResult
        Coefficients in SI units and their errors on all points.

    Raises
    ------
    CalibrationError
        If there are too few points, or times that are not positive.
    """
    form, measured = _checked(formula, measured_s)
    points = measured.size
    kept = {c.name: (priors or {}).get(c.name, c.default) for c in form.coefficients if c.name not in fixed}
    fitted = [c for c in form.coefficients if c.name in kept and (free is None or c.name in free)]
    rng = np.random.default_rng(seed)
    index: Any = slice(None)
    if points > max_points:
        index = np.sort(rng.choice(points, max_points, replace=False))
    some_sizes, some_fixed = _take(sizes, index, points), _take(fixed, index, points)
    log_measured = np.log(measured[index])
    root_weight = 1.0 if weights is None else np.sqrt(as_floats(weights).reshape(-1)[index])
    origin = np.array([_to_free(c, kept[c.name]) for c in fitted])
    low = np.array([_to_free(c, c.low) for c in fitted])
    high = np.array([_to_free(c, c.high) for c in fitted])
    span = 1e-6 * (high - low)

    def coefficients_at(x: Array) -> dict[str, float]:
        return kept | {c.name: _from_free(c, float(v)) for c, v in zip(fitted, x, strict=True)}

    def residuals(x: Array) -> Array:
        predicted = as_floats(form.function(**some_sizes, **some_fixed, **coefficients_at(x)))
        ratio = root_weight * (np.log(predicted) - log_measured)
        return np.concatenate([ratio, prior_weight * RESIDUAL_SCALE * (x - origin)])

    def jacobian(x: Array) -> Array:
        # Forward differences of one fixed size in every coordinate, turned around at the upper bound.
        here = residuals(x)
        steps = np.where(x + DIFFERENCE > high, -DIFFERENCE, DIFFERENCE)
        columns = [(residuals(x + step * unit) - here) / step for step, unit in zip(steps, np.eye(x.size), strict=True)]
        return np.stack(columns, axis=1)

    best, best_cost = origin, np.inf
    for start in range(max(1, starts) if fitted else 0):
        x0 = origin if start == 0 else origin + rng.normal(0.0, 0.35, origin.size)
        found = least_squares(
            residuals,
            jac=jacobian,
            x0=np.clip(x0, low + span, high - span),
            bounds=(low, high),
            loss="soft_l1",
            f_scale=RESIDUAL_SCALE,
            max_nfev=max_evaluations,
            xtol=1e-5,
            ftol=1e-5,
        )
        if found.cost < best_cost:
            best, best_cost = found.x, float(found.cost)
    coefficients = coefficients_at(best)
    e = errors_of(form.function(**sizes, **fixed, **coefficients), measured)
    return FitResult(coefficients, e.mape, e.median, e.p90, e.bias, e.points)


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


def holdout_by_shape(keys: Sequence[npt.ArrayLike], fraction: float = 0.3, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Mark the rows of a random part of the shapes for testing.

    Parameters
    ----------
    keys : sequence of array_like
        The columns that make a shape.
    fraction : float
        Part of the shapes that is held out.
    seed : int
        Seed of the draw.

    Returns
    -------
    numpy.ndarray
        True for held-out rows.

    Examples
    --------
    >>> int(holdout_by_shape([[1, 1, 2, 2]], 0.5).sum())
    2
    """
    table = np.stack([as_floats(key).reshape(-1) for key in keys], axis=1)
    shapes, inverse = np.unique(table, axis=0, return_inverse=True)
    held = np.arange(len(shapes)) < round(fraction * len(shapes))
    np.random.default_rng(seed).shuffle(held)
    return np.asarray(held[inverse.reshape(-1)], dtype=np.bool_)


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
    form, measured = _checked(formula, measured_s)
    fold = folds_by_shape(keys, folds, seed)
    predicted = np.empty_like(measured)
    for held in range(folds):
        test, train = np.flatnonzero(fold == held), np.flatnonzero(fold != held)
        if not test.size:
            continue
        result = fit_form(
            form,
            _take(sizes, train, measured.size),
            _take(fixed, train, measured.size),
            measured[train],
            seed=seed,
            **options,
        )
        seen = _take(sizes, test, measured.size) | _take(fixed, test, measured.size)
        predicted[test] = as_floats(form.function(**seen, **result.coefficients))
    return errors_of(predicted, measured)


def choose_attributes(
    formula: Formula | str,
    sizes: Mapping[str, Any],
    fixed: Mapping[str, Any],
    measured_s: npt.ArrayLike,
    keys: Sequence[npt.ArrayLike],
    *,
    candidates: Iterable[Mapping[str, Any]] | None = None,
    tolerance: float = 0.02,
    **options: Any,
) -> tuple[dict[str, Any], Errors]:
    """Choose the discrete attributes of a kernel by cross-validated error.

    Parameters
    ----------
    formula, sizes, fixed, measured_s
        As for `fit_form`.
    keys : sequence of array_like
        The columns that make a shape.
    candidates : iterable of mapping, optional
        Attribute sets to try, the simplest first; every combination of the registered values by default.
    tolerance : float
        A later candidate must be better than the best before it by this part of its error [1].
    **options
        Further options of `cross_validate` and `fit_form`.

    Returns
    -------
    tuple
        The attributes and their held-out errors.
    """
    form, measured = _checked(formula, measured_s)
    if candidates is None:
        names = list(form.attributes)
        candidates = [dict(zip(names, values, strict=True)) for values in itertools.product(*form.attributes.values())]
    best: tuple[dict[str, Any], Errors] | None = None
    for candidate in candidates:
        errors = cross_validate(form, sizes, {**fixed, **candidate}, measured, keys, **options)
        if best is None or errors.mape < (1.0 - tolerance) * best[1].mape:
            best = dict(candidate), errors
    if best is None:
        raise CalibrationError(f"{form.name}: no attribute sets to choose from")
    return best
