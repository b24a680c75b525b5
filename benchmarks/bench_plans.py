"""Serving predictions: one plan alone, and a grid of a million plans in one call."""

from typing import Any

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.estimate.target import Target

MODELS = ("llama-3.1-70b", "deepseek-v3")


def grid(*, experts: bool) -> Any:
    """Four widths, eight depths and 31,250 concurrencies: a million plans as an open mesh."""
    width = np.array([1, 2, 4, 8])[:, None, None]
    knobs = {"tp": width, "pp": np.arange(1, 9)[:, None], "concurrency": np.arange(1, 31251)}
    return pm.plans(**knobs, **({"ep": width} if experts else {}))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.benchmark(group="serving, one plan")
def test_one_plan(benchmark: Any, machine: Target, model: str) -> None:
    """Time a prediction of one plan, the model read already."""
    spec = pm.load_model(model)
    plan = pm.plans(tp=8, ep=8 if spec.is_moe else 1, concurrency=64)
    estimate = benchmark(pm.predict, spec, machine, plan, isl=4096, osl=1024)
    benchmark.extra_info |= {"name": f"one plan of {model}", "items": 1, "unit": "plans"}
    assert estimate["tpot_s"].item() > 0


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.benchmark(group="serving, a million plans in one call")
def test_a_million_plans(benchmark: Any, machine: Target, model: str) -> None:
    """Time a prediction of a million plans."""
    spec = pm.load_model(model)
    plans = grid(experts=spec.is_moe)
    call = {"isl": 4096, "osl": 1024}
    estimate = benchmark.pedantic(pm.predict, (spec, machine, plans), call, rounds=2, warmup_rounds=0)
    benchmark.extra_info |= {"name": f"a million plans of {model}", "items": plans.size, "unit": "plans"}
    assert plans.size == 1_000_000
    assert np.isfinite(estimate["tpot_s"][estimate.feasible]).all()
