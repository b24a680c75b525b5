"""Relative errors of predictions against measurements [1]."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import as_floats


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
