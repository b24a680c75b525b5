"""Laws of serving under every schedule, split and arrival process: broadcasting, permutation, bounds, monotony."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.api import target
from perfmodel.estimate.serving.predict import predict_serving
from perfmodel.hardware.engine import SCHEDULES, SPLITS

MODELS = {name: pm.load_model(name) for name in ("llama-3.1-70b", "qwen3-30b-a3b")}
TARGETS = {
    (schedule, split): target("hgx-h200", schedule=schedule, split=split) for schedule in SCHEDULES for split in SPLITS
}

mechanisms = st.tuples(st.sampled_from(sorted(TARGETS)), st.sampled_from(["closed", "poisson"]))
loads = st.fixed_dictionaries(
    {
        "prefix_hit": st.sampled_from([0.0, 0.3]),
        "host_hit": st.sampled_from([0.0, 0.2]),
        "shared_prefix": st.sampled_from([0.0, 0.5]),
        "sharers": st.sampled_from([1.0, 8.0]),
        "draft_tokens": st.sampled_from([0, 2]),
    }
)


@st.composite
def grids(draw, model):
    size = draw(st.integers(1, 4))
    knobs = {k: np.array([draw(st.sampled_from([1, 2, 4, 8])) for _ in range(size)]) for k in ("tp", "pp")}
    if model == "qwen3-30b-a3b":
        knobs["ep"] = knobs["tp"]
    return pm.plans(**knobs, concurrency=[draw(st.integers(1, 400)) for _ in range(size)])


def predict(model, mechanism, grid, load, isl=3000.0, osl=200.0):
    (key, arrivals), spec = mechanism, MODELS[model]
    workload = pm.Workload(isl, osl, arrivals=arrivals, **load)
    return predict_serving(spec, TARGETS[key], grid, workload, spec.weights)


@pytest.mark.parametrize("model", sorted(MODELS))
@given(data=st.data(), mechanism=mechanisms, load=loads)
@settings(max_examples=15)
def test_a_grid_gives_what_each_of_its_plans_gives_alone(model, data, mechanism, load):
    grid = data.draw(grids(model))
    whole = predict(model, mechanism, grid, load)
    for i in range(grid.size):
        alone = predict(model, mechanism, grid.take([i]), load)
        for name, values in whole.columns.items():
            np.testing.assert_allclose(values[i], alone[name][0], rtol=1e-9, equal_nan=True, err_msg=name)


@pytest.mark.parametrize("model", sorted(MODELS))
@given(data=st.data(), mechanism=mechanisms, load=loads)
@settings(max_examples=15)
def test_latencies_are_no_shorter_than_their_steps(model, data, mechanism, load):
    grid = data.draw(grids(model))
    e = predict(model, mechanism, grid, load)
    good = e.feasible & np.isfinite(e["ttft_s"])
    assert np.all(e["ttft_s"][good] >= e["prompt_s"][good] * (1 - 1e-9))
    assert np.all(e["itl_max_s"] >= e["decode_s"] * (1 - 1e-9))
    for phase in ("decode", "prefill"):
        parts = sum(e[f"{phase}_{part}_s"] for part in ("compute", "memory", "network", "latency", "host"))
        np.testing.assert_allclose(parts, e[f"{phase}_s"], rtol=1e-9)
        assert np.all(e[f"{phase}_lower_s"] <= e[f"{phase}_s"] * (1 + 1e-9))
        assert np.all(e[f"{phase}_s"] <= e[f"{phase}_upper_s"] * (1 + 1e-9))
    assert np.all(
        e["tokens_per_s_per_gpu"][good] <= e["optimal_tokens_per_s_per_gpu"][good] * (load["draft_tokens"] + 1)
    )


@given(mechanism=mechanisms, factor=st.floats(1.0, 3.0), concurrency=st.integers(2, 300))
@settings(max_examples=15)
def test_faster_memory_and_arithmetic_never_lower_the_rate(mechanism, factor, concurrency):
    key, arrivals = mechanism
    spec, on = MODELS["llama-3.1-70b"], TARGETS[key]
    device = dataclasses.replace(
        on.device,
        memory_bandwidth=on.device.memory_bandwidth * factor,
        peak_flops={name: factor * peak for name, peak in on.device.peak_flops.items()},
    )
    faster = dataclasses.replace(on, system=dataclasses.replace(on.system, device=device))
    workload, grid = pm.Workload(3000.0, 200.0, arrivals=arrivals), pm.plans(tp=8, concurrency=concurrency)
    before, after = (predict_serving(spec, each, grid, workload, spec.weights) for each in (on, faster))
    assert after["requests_per_s"][0] >= before["requests_per_s"][0] * (1 - 1e-6)
