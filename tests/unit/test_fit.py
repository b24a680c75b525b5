"""Fits of a form to synthetic measurements whose coefficients are known."""

import numpy as np
import pytest

from perfmodel.calibrate.cross_validation import cross_validate, folds_by_shape
from perfmodel.calibrate.fit import fit_form
from perfmodel.calibrate.fit_errors import errors_of
from perfmodel.costs.gemm import gemm_tiled
from perfmodel.costs.registry import Coefficient, Formula
from perfmodel.errors import CalibrationError, UnknownNameError


def line(work, *, rate, gap, efficiency, bend):
    return gap + work / (efficiency * rate) * (1 + bend * work / (work + 1e10))


LINE = Formula(
    "line",
    "time",
    "a + x/b",
    "made up",
    line,
    coefficients=(
        Coefficient("gap", "s", 2e-6, 1e-8, 1e-3, "gap"),
        Coefficient("efficiency", "1", 0.7, 0.05, 1.0, "efficiency"),
        Coefficient("bend", "1", 0.3, 0.0, 1.0, "bend"),
    ),
)
TRUE = {"gap": 5e-6, "efficiency": 0.5, "bend": 0.8}


def measurements(points, noise=0.02, seed=0):
    rng = np.random.default_rng(seed)
    work = 10 ** rng.uniform(5, 12, points)
    return {"work": work}, line(work, rate=1e12, **TRUE) * np.exp(rng.normal(0.0, noise, points))


@pytest.mark.parametrize(("points", "tolerance"), [(400, 0.03), (50, 0.10)])
def test_recovers_known_coefficients(points, tolerance):
    sizes, measured = measurements(points)
    result = fit_form(LINE, sizes, {"rate": 1e12}, measured)
    for name, value in TRUE.items():
        assert result.coefficients[name] == pytest.approx(value, rel=tolerance)
    assert result.mape < 0.025
    assert result.median <= result.p90
    assert result.points == points


def test_outliers_do_not_pull():
    sizes, measured = measurements(300)
    measured[::10] *= 3.0
    result = fit_form(LINE, sizes, {"rate": 1e12}, measured)
    assert result.coefficients["efficiency"] == pytest.approx(0.5, rel=0.05)


def test_weights_choose_what_matters():
    sizes, measured = measurements(200, noise=0.0)
    long = sizes["work"] > 1e9
    measured = np.where(long, measured * 1.5, measured)
    result = fit_form(LINE, sizes, {"rate": 1e12}, measured, weights=np.where(long, 1.0, 1e-6))
    error = np.abs(line(sizes["work"], rate=1e12, **result.coefficients) / measured - 1)
    assert error[long].mean() < 0.02


def test_stays_within_bounds_and_on_the_prior_without_evidence():
    work = np.geomspace(1, 10, 30)  # nothing but the gap can be seen
    result = fit_form(LINE, {"work": work}, {"rate": 1e12}, np.full(30, 5e-6))
    assert result.coefficients["gap"] == pytest.approx(5e-6, rel=1e-3)
    assert result.coefficients["efficiency"] == pytest.approx(0.7, rel=1e-2)
    low = fit_form(LINE, {"work": work}, {"rate": 1e12}, np.full(30, 5e-9))
    assert low.coefficients["gap"] == pytest.approx(1e-8, rel=1e-3)


def test_kept_and_fixed_coefficients():
    sizes, measured = measurements(100)
    result = fit_form(LINE, sizes, {"rate": 1e12}, measured, free=["gap"], priors={"efficiency": 0.5, "bend": 0.8})
    assert result.coefficients["efficiency"] == 0.5
    assert result.coefficients["gap"] == pytest.approx(5e-6, rel=0.03)
    fixed = fit_form(LINE, sizes, {"rate": 1e12, "bend": 0.8}, measured)
    assert "bend" not in fixed.coefficients


def test_same_seed_same_fit():
    sizes, measured = measurements(400)
    first = fit_form(LINE, sizes, {"rate": 1e12}, measured, max_points=100, seed=3)
    assert first == fit_form(LINE, sizes, {"rate": 1e12}, measured, max_points=100, seed=3)
    assert first.points == 400


def test_per_point_hardware_numbers_are_subsampled_too():
    sizes, _ = measurements(300)
    rate = np.where(np.arange(300) % 2, 1e12, 4e12)
    measured = line(sizes["work"], rate=rate, **TRUE)
    result = fit_form(LINE, sizes, {"rate": rate}, measured, max_points=100)
    assert result.mape < 0.01


def test_recovers_gemm_coefficients():
    rng = np.random.default_rng(1)
    m, n, k = (np.round(2 ** rng.uniform(low, high, 500)) for low, high in ((0, 14), (7, 14), (7, 14)))
    sizes = {"tokens": m, "out_features": n, "in_features": k}
    fixed = {"peak_flops": 989e12, "memory_bandwidth": 3.35e12, "cache_bytes": 52e6, "cores": 132}
    fixed |= {"weight_bytes": 2.0, "activation_bytes": 2.0}
    true = {"launch_s": 4e-6, "compute_efficiency": 0.65, "memory_efficiency": 0.7, "split_s": 4e-6}
    measured = gemm_tiled(m, n, k, **fixed, **true) * np.exp(rng.normal(0.0, 0.03, 500))
    result = fit_form("gemm_tiled", sizes, fixed, measured, free=list(true), starts=1)
    for name, value in true.items():
        assert result.coefficients[name] == pytest.approx(value, rel=0.03)


def test_refuses_what_cannot_be_fitted():
    sizes, measured = measurements(9)
    with pytest.raises(CalibrationError, match="9 measured points are too few"):
        fit_form(LINE, sizes, {"rate": 1e12}, measured)
    sizes, measured = measurements(20)
    measured[7] = 0.0
    with pytest.raises(CalibrationError, match="row 7"):
        fit_form(LINE, sizes, {"rate": 1e12}, measured)
    with pytest.raises(UnknownNameError):
        fit_form("gemm_tild", sizes, {}, np.ones(20))


def test_splits_keep_shapes_together():
    n, k = np.repeat([1, 2, 3, 4, 5, 6], 4), np.tile([7, 7, 8, 8], 6)
    fold = folds_by_shape([n, k], 3)
    for shape in {*zip(n, k, strict=True)}:
        rows = (n == shape[0]) & (k == shape[1])
        assert len(set(fold[rows])) == 1
    assert sorted(set(fold)) == [0, 1, 2]


def test_held_out_errors_notice_a_wrong_form():
    sizes, measured = measurements(200)
    good = cross_validate(LINE, sizes, {"rate": 1e12}, measured, [sizes["work"]])
    bad = cross_validate(LINE, sizes, {"rate": 1e12}, measured, [sizes["work"]], free=[])
    assert good.mape < 0.03 < bad.mape


def test_errors_of_known_numbers():
    errors = errors_of([1.1, 0.8, 1.0], [1.0, 1.0, 1.0])
    assert errors.mape == pytest.approx(0.1)
    assert errors.median == pytest.approx(0.1)
    assert errors.bias == pytest.approx(-0.1 / 3)
