"""Coefficients of a registered formula from measured times: a robust fit within bounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from perfmodel.arrays import Array, as_floats
from perfmodel.calibrate.fit_errors import errors_of
from perfmodel.costs.chunks import CHUNK
from perfmodel.costs.registry import Coefficient, Formula, get_formula
from perfmodel.errors import CalibrationError

MINIMUM_POINTS = 10
"""Fewest measured points from which anything is fitted."""

RESIDUAL_SCALE = 0.05
"""Log residual from which a point counts linearly and no longer squared (soft L1)."""

DIFFERENCE = 1e-3
"""Step of the numerical derivative in the fit's coordinates."""


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


def _to_free(c: Coefficient, value: float) -> float:
    """Map a coefficient to the fit's coordinate: its logarithm, or its place in the range where zero is allowed."""
    value = min(max(value, c.low), c.high)
    return float(np.log(value)) if c.low > 0 else (value - c.low) / (c.high - c.low) * 2.0


def _from_free(c: Coefficient, x: float) -> float:
    """Map the fit's coordinate back to the coefficient, never leaving its range."""
    value = float(np.exp(x)) if c.low > 0 else c.low + x / 2.0 * (c.high - c.low)
    return min(max(value, c.low), c.high)


def take_points(values: Mapping[str, Any], index: Any, points: int) -> dict[str, Any]:
    """Select points from every per-point array and leave constants alone.

    Parameters
    ----------
    values : mapping
        Arguments of a form.
    index : array_like or slice
        Points that are wanted.
    points : int
        Length of a per-point array.

    Returns
    -------
    dict
        The arguments of those points.

    Examples
    --------
    >>> {name: list(map(int, v)) for name, v in take_points({"tokens": [1, 2, 4]}, [0, 2], 3).items()}
    {'tokens': [1, 4]}
    """
    return {
        name: np.asarray(value)[index] if np.ndim(value) == 1 and np.size(value) == points else value
        for name, value in values.items()
    }


def checked_times(formula: Formula | str, measured_s: npt.ArrayLike) -> tuple[Formula, Array]:
    """Look a form up, and check that there is enough to fit it to.

    Parameters
    ----------
    formula : Formula or str
        The form, or the name it is registered under.
    measured_s : array_like
        Measured time of every point [s].

    Returns
    -------
    tuple
        The form, and the times as a flat array.

    Raises
    ------
    CalibrationError
        If there are too few points, or times that are not positive.
    """
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


def _times(
    form: Formula, sizes: Mapping[str, Any], fixed: Mapping[str, Any], sets: Sequence[Mapping[str, float]], points: int
) -> Array:
    """Times of all points with several sets of coefficients: a call costs more than what it computes for so few."""
    out = np.empty((len(sets), points))
    at_once = max(CHUNK // points, 1)
    for start in range(0, len(sets), at_once):
        some = sets[start : start + at_once]
        given = {
            name: np.tile(value, len(some)) if np.ndim(value) == 1 and np.size(value) == points else value
            for name, value in {**sizes, **fixed}.items()
        }
        varied = {name: np.repeat([each[name] for each in some], points) for name in some[0]}
        out[start : start + at_once] = as_floats(form.function(**given, **varied)).reshape(len(some), points)
    return out


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
    form, measured = checked_times(formula, measured_s)
    points = measured.size
    kept = {c.name: (priors or {}).get(c.name, c.default) for c in form.coefficients if c.name not in fixed}
    fitted = [c for c in form.coefficients if c.name in kept and (free is None or c.name in free)]
    rng = np.random.default_rng(seed)
    index: Any = slice(None)
    if points > max_points:
        index = np.sort(rng.choice(points, max_points, replace=False))
    some_sizes, some_fixed = take_points(sizes, index, points), take_points(fixed, index, points)
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
        steps = np.where(x + DIFFERENCE > high, -DIFFERENCE, DIFFERENCE)
        sets = [coefficients_at(y) for y in (x, *(x + np.diag(steps)))]
        here, *moved = root_weight * np.log(_times(form, some_sizes, some_fixed, sets, log_measured.size))
        slopes = np.stack([(there - here) / step for there, step in zip(moved, steps, strict=True)], axis=1)
        return np.concatenate([slopes, prior_weight * RESIDUAL_SCALE * np.eye(x.size)])

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
