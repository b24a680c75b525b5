"""Laws of recorded calculations: whatever is repeated gives the bits that NumPy gives without a recording."""

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.api_training import train, training_target
from perfmodel.estimate.compiled import compile_model
from perfmodel.estimate.target import Target
from perfmodel.hardware import list_systems
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.training_grid import training_plans
from perfmodel.recording import FEW

MODELS = ("llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3")
TARGETS = [
    ("hgx-h200", "trtllm"),
    ("hgx-h100", "sglang"),
    ("hgx-h100", "vllm"),
    ("hgx-b200", "neutral"),
    ("gb200-nvl72", "trtllm"),
    ("cloudmatrix384", "cloudmatrix-infer"),
]


def together(spec: ModelSpec, on: Target, grid: PlanGrid) -> dict[str, np.ndarray]:
    """Columns of plans in one call that is too large to be recorded."""
    times = -(-(FEW + 1) // grid.size)
    many = pm.plans(**{name: np.concatenate([np.broadcast_to(v, grid.shape)] * times) for name, v in grid.knobs()})
    estimate = pm.predict(spec, on, many, isl=4096, osl=512)
    return {name: estimate[name][: grid.size] for name in COLUMNS}


COLUMNS = ("ttft_s", "tpot_s", "tokens_per_s", "memory_bytes", "decode_s", "prefill_s", "bound")


def check(spec: ModelSpec, on: Target, grid: PlanGrid) -> None:
    """Predict every plan alone, plain, recorded and repeated, and compare with all of them in one call."""
    expected = together(spec, on, grid)
    for _ in range(4):
        for i in range(grid.size):
            alone = pm.predict(spec, on, grid.take([i]), isl=4096, osl=512)
            for name in COLUMNS:
                np.testing.assert_array_equal(alone[name], expected[name][[i]], err_msg=f"{name} of plan {i}")
    known = compile_model(spec, on, pm.precision_of(spec, None, None, on)).programs.values()
    assert any(found.ways for found in known), "nothing was recorded"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("system", "engine"), TARGETS)
def test_repeated_steps_are_those_without_a_recording(system: str, engine: str, model: str) -> None:
    """One plan after the other gives the same bits as all of them in one call, whichever way they go."""
    spec, on = pm.load_model(model), pm.target(system, engine)
    knobs = {"tp": [1.0, 2, 8, 4, 1, 8, 2], "pp": [1.0, 1, 1, 2, 4, 1, 1], "dp": [1.0, 1, 1, 2, 8, 2, 4]}
    if spec.is_moe:
        stage = np.multiply(knobs["tp"], knobs["dp"])
        knobs |= {"ep": list(np.array([1.0, 2, 1, 8, 8, 16, 4])), "moe_tp": list(stage / [1.0, 2, 1, 8, 8, 16, 4])}
    grid = pm.plans(**knobs, concurrency=[1.0, 64, 3, 700, 8, 16, 2000])
    check(spec, on, grid)


@pytest.mark.parametrize("model", MODELS)
def test_as_many_plans_as_are_recorded_at_once(model: str) -> None:
    """The largest call that is recorded gives what a larger one gives, and one plan alone."""
    spec, on = pm.load_model(model), pm.target("hgx-h200", "trtllm")
    few, more = (
        pm.plans(tp=8.0, ep=8.0 if spec.is_moe else 1.0, concurrency=np.arange(8.0, 8.0 + number))
        for number in (FEW, FEW + 1)
    )
    expected = pm.predict(spec, on, more, isl=4096, osl=512)
    for _ in range(4):
        found = pm.predict(spec, on, few, isl=4096, osl=512)
        alone = pm.predict(spec, on, few.take([FEW - 1]), isl=4096, osl=512)
        for name in COLUMNS:
            np.testing.assert_array_equal(found[name], expected[name][:FEW], err_msg=name)
            np.testing.assert_array_equal(alone[name], expected[name][[FEW - 1]], err_msg=name)


@pytest.mark.parametrize("system", list_systems())
def test_steps_of_every_system_can_be_recorded(system: str) -> None:
    """No formula that any system needs leaves the calls that can be repeated."""
    on = pm.target(system)
    grid = pm.plans(tp=[1.0, 2.0], dp=[2.0, 1.0], ep=[2.0, 1.0], moe_tp=[1.0, 2.0], concurrency=32)
    check(pm.load_model("qwen3-30b-a3b"), on, grid)


TRAINED = ("step_s", "compute_s", "tp_s", "dp_s", "bubble_s", "peak_bytes", "activations_bytes", "mfu", "hfu")


@pytest.mark.parametrize("model", ["llama-3.1-8b", "deepseek-v3"])
@pytest.mark.parametrize("system", ["hgx-h100", "gb200-nvl72", "tpu-v5p-pod"])
def test_repeated_training_plans_are_those_without_a_recording(system: str, model: str) -> None:
    """Whatever a plan does, it takes the time and the memory alone that it takes among many."""
    spec, on = pm.load_model(model), training_target(system)
    number = FEW + 5
    random = np.random.default_rng(7)
    knobs = {
        "pp": random.choice([1, 2, 4], number),
        "zero": random.choice([0, 1, 3], number),
        "recompute": random.choice(["none", "selective", "full"], number),
        "schedule": random.choice(["1f1b", "zb-h1"], number),
        "offload_optimizer": random.choice([0.0, 0.5], number),
    }
    grid = training_plans(tp=8, dp=8, sequence_parallel=1, ep=8 if spec.is_moe else 1, **knobs)
    expected = train(spec, on, grid, seq=4096, global_batch=64)
    for _ in range(4):
        for i in range(grid.size):
            alone = train(spec, on, grid.take([i]), seq=4096, global_batch=64)
            for name in TRAINED:
                np.testing.assert_array_equal(alone[name], expected[name][[i]], err_msg=f"{name} of plan {i}")
    assert alone.activations(0) == expected.activations(number - 1)
