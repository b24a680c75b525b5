"""Predictions of plans: one alone, a million in one call, and rankings of whole training spaces."""

import time
from typing import Any

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.api_training import rank_training_plans, train, training_target
from perfmodel.estimate.compiled import forget
from perfmodel.estimate.target import Target
from perfmodel.parallel.training_grid import training_plans

MODELS = ("llama-3.1-70b", "deepseek-v3")

CHOICES = {
    "recompute": ["none", "selective", "full"],
    "recompute_share": [twelfth / 12 for twelfth in range(1, 13)],
    "zero": [0, 1, 2, 3],
    "sequence_parallel": [0, 1],
    "grad_overlap": [0, 1],
    "tp_overlap": [0, 1],
    "schedule": ["1f1b", "zb-h1", "zb-h2"],
    "offload_activations": [0.0, 0.25, 0.5, 1.0],
    "offload_optimizer": [0.0, 0.5, 1.0],
}
"""What is tried beside every tp, pp, dp, microbatch and number of chunks that 4,096 devices allow."""

TRAINING = {
    "gpt-3-175b": {"gpus": 4096, "seq": 2048, "global_batch": 1536, **CHOICES},
    "deepseek-v3": {
        "gpus": 2048,
        "seq": 4096,
        "global_batch": 15360,
        **CHOICES,
        "recompute_share": [0.5, 1.0],
        "schedule": ["1f1b", "dualpipe"],
        "offload_activations": [0.0, 0.5],
        "offload_optimizer": [0.0, 0.5],
    },
}
"""Spaces of two published models, on H100."""


def grid(*, experts: bool) -> Any:
    """Four widths, eight depths and 31,250 concurrencies: a million plans as an open mesh."""
    width = np.array([1, 2, 4, 8])[:, None, None]
    knobs = {"tp": width, "pp": np.arange(1, 9)[:, None], "concurrency": np.arange(1, 31251)}
    return pm.plans(**knobs, **({"ep": width} if experts else {}))


def scattered(*, experts: bool) -> Any:
    """A million plans drawn at random, with nothing that says what they have in common."""
    random = np.random.default_rng(0)
    count = 1_000_000
    width = random.choice([1, 2, 4, 8], count)
    more = {"dp": random.choice([1, 2, 4], count), "ep": width} if experts else {}
    return pm.plans(tp=width, pp=random.integers(1, 9, count), concurrency=random.integers(1, 31251, count), **more)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.benchmark(group="serving, one plan", timer=time.process_time)
def test_one_plan(benchmark: Any, machine: Target, model: str) -> None:
    """Time a prediction of one plan, the model read and compiled already."""
    spec = pm.load_model(model)
    plan = pm.plans(tp=8, ep=8 if spec.is_moe else 1, concurrency=64)
    estimate = benchmark(pm.predict, spec, machine, plan, isl=4096, osl=1024)
    benchmark.extra_info |= {"name": f"one plan of {model}", "items": 1, "unit": "plans"}
    assert estimate["tpot_s"].item() > 0


@pytest.mark.parametrize("plans_of", [grid, scattered])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.benchmark(group="serving, a million plans in one call", timer=time.process_time)
def test_a_million_plans(benchmark: Any, machine: Target, peak_memory: Any, model: str, plans_of: Any) -> None:
    """Time a prediction of a million plans, its model compiled anew every time."""
    spec = pm.load_model(model)
    plans = plans_of(experts=spec.is_moe)

    def setup() -> tuple[Any, Any]:
        forget()
        return (spec, machine, plans), {"isl": 4096, "osl": 1024}

    estimate = benchmark.pedantic(pm.predict, setup=setup, rounds=5, warmup_rounds=1)
    name = f"a million {'scattered ' if plans_of is scattered else ''}plans of {model}"
    benchmark.extra_info |= {"name": name, "items": plans.size, "unit": "plans"}
    benchmark.extra_info["peak_bytes"] = peak_memory(
        f"from benchmarks.bench_plans import *; spec = pm.load_model({model!r}); on = pm.target('hgx-h200', 'trtllm');"
        f" pm.predict(spec, on, {plans_of.__name__}(experts=spec.is_moe), isl=4096, osl=1024)"
    )
    assert plans.size == 1_000_000
    assert np.isfinite(estimate["tpot_s"][estimate.feasible]).all()


@pytest.mark.parametrize("model", TRAINING)
@pytest.mark.benchmark(group="training, one plan", timer=time.process_time)
def test_one_training_plan(benchmark: Any, model: str) -> None:
    """Time a prediction of one training plan."""
    spec, target = pm.load_model(model), training_target("hgx-h100")
    plan = training_plans(tp=8, pp=8, dp=8, ep=8 if spec.is_moe else 1, zero=1, sequence_parallel=1)
    estimate = benchmark(train, spec, target, plan, seq=4096, global_batch=512)
    benchmark.extra_info |= {"name": f"one training plan of {model}", "items": 1, "unit": "plans"}
    assert estimate["step_s"].item() > 0


@pytest.mark.parametrize("model", TRAINING)
@pytest.mark.benchmark(group="training, a whole space", timer=time.process_time)
def test_a_training_space(benchmark: Any, peak_memory: Any, model: str) -> None:
    """Time the ranking of millions of training plans."""
    spec, target = pm.load_model(model), training_target("hgx-h100")
    ranking = benchmark.pedantic(rank_training_plans, (spec, target), TRAINING[model], rounds=2)
    size = ranking.searched
    name = f"{size / 1e6:.1f} million training plans of {model} on {TRAINING[model]['gpus']:,} GPUs, ranked"
    benchmark.extra_info |= {"name": name, "items": size, "unit": "plans"}
    benchmark.extra_info["peak_bytes"] = peak_memory(
        f"from benchmarks.bench_plans import *; rank_training_plans({model!r}, 'hgx-h100', **TRAINING[{model!r}])"
    )
    assert ranking.row(1)["mfu"] > 0.1
