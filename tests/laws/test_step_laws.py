"""Laws of steps: a plan's numbers depend on nothing beside it, to the last bit, however operators are joined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.costs import chunks
from perfmodel.estimate.serving import predict as serving
from perfmodel.estimate.serving.predict import predict_serving
from perfmodel.estimate.serving.steps import serving_steps
from perfmodel.estimate.serving.workload import Workload
from perfmodel.layers.merging import kind_of, merge
from perfmodel.layers.operators import Attention, Exchange, Gemm
from perfmodel.parallel.distinct import FEW, distinct

MODELS = ("llama-3.1-70b", "deepseek-v3", "google/gemma-3-27b-it", "Qwen/Qwen3-Next-80B-A3B-Instruct")
TARGETS = {name: pm.target(*name) for name in (("hgx-h200", "trtllm"), ("gb200-nvl72", "sglang"), ("mi300x-8", "vllm"))}


def some_plans(model, seed, number):
    random = np.random.default_rng(seed)
    knobs = {
        name: random.choice(values, number)
        for name, values in {"tp": [1, 2, 4, 8], "dp": [1, 2, 4], "cp": [1, 1, 2], "pp": [1, 2, 3, 8]}.items()
    }
    if model.is_moe:
        stage = knobs["tp"] * knobs["dp"] * knobs["cp"]
        knobs["ep"] = np.array([random.choice([d for d in range(1, s + 1) if s % d == 0]) for s in stage])
    return pm.plans(**knobs, concurrency=np.ceil(np.exp(random.uniform(0.0, 8.0, number))))


@pytest.mark.parametrize("target", TARGETS.values(), ids=[" on ".join(reversed(names)) for names in TARGETS])
@given(name=st.sampled_from(MODELS), seed=st.integers(0, 2**32))
def test_a_plan_in_a_grid_is_exactly_the_plan_alone(target, name, seed):
    model = pm.load_model(name)
    grid = some_plans(model, seed, 4 * FEW)
    random = np.random.default_rng(seed)
    isl, osl = np.ceil(np.exp(random.uniform(0.0, 8.5, (2, grid.size))))
    whole = predict_serving(model, target, grid, Workload(isl, osl), model.weights)
    for i in random.choice(grid.size, 4, replace=False):
        alone = predict_serving(model, target, grid.take([i]), Workload(isl[i], osl[i]), model.weights)
        assert {n: v[0] for n, v in alone.columns.items()} == pytest.approx(
            {n: v[i] for n, v in whole.columns.items()}, rel=0.0, abs=0.0, nan_ok=True
        )


@pytest.mark.parametrize("most", [1, 7, 100])
@pytest.mark.parametrize("name", MODELS)
def test_results_are_the_same_for_any_size_of_parts(monkeypatch, name, most):
    model, target = pm.load_model(name), TARGETS["hgx-h200", "trtllm"]
    widths = np.array([1, 3, 16])[:, None, None]
    ranks = {"ep": widths} if model.is_moe else {}
    grid = pm.plans(tp=widths, pp=[[1], [3]], concurrency=np.arange(1, 900, 61), **ranks)
    workload = Workload(512.0, np.where(np.arange(grid.shape[-1]) % 2, 64.0, 128.0))
    whole = predict_serving(model, target, grid, workload, model.weights)
    monkeypatch.setattr(serving, "MOST_AT_ONCE", most)
    monkeypatch.setattr(chunks, "CHUNK", most)
    pieces = predict_serving(model, target, grid, workload, model.weights)
    for column, values in whole.columns.items():
        np.testing.assert_array_equal(pieces[column], values, err_msg=column)
        assert pieces.columns.at(column, 17) == values[17] or np.isnan(values[17])
    np.testing.assert_array_equal(pieces.verdicts.code, whole.verdicts.code)
    reasons = [whole.verdicts.reason(i) for i in range(grid.size)]
    assert [pieces.verdicts.reason(i) for i in range(grid.size)] == reasons
    assert any(reasons)
    assert repr(pieces.row(17)) == repr(whole.row(17))


@given(name=st.sampled_from(MODELS), seed=st.integers(0, 2**32))
def test_permuting_a_grid_permutes_its_results(name, seed):
    model, target = pm.load_model(name), TARGETS["hgx-h200", "trtllm"]
    grid = some_plans(model, seed, 3 * FEW)
    order = np.random.default_rng(seed).permutation(grid.size)
    straight = predict_serving(model, target, grid, Workload(256.0, 64.0), model.weights)
    shuffled = predict_serving(model, target, grid.take(order), Workload(256.0, 64.0), model.weights)
    for column, values in straight.columns.items():
        np.testing.assert_array_equal(shuffled[column], values[order], err_msg=column)


@given(name=st.sampled_from(MODELS), seed=st.integers(0, 2**32))
def test_operators_timed_apart_add_up_to_the_same_step(name, seed):
    model, target = pm.load_model(name), TARGETS["hgx-h200", "trtllm"]
    grid = some_plans(model, seed, 3)
    joined = serving_steps(model, target, grid, Workload(512.0, 128.0), model.weights)
    apart = serving_steps(model, target, grid, Workload(512.0, 128.0), model.weights, keep_lines=True)
    for phase in ("decode", "prefill"):
        np.testing.assert_array_equal(getattr(joined, phase).seconds, getattr(apart, phase).seconds)
        np.testing.assert_array_equal(getattr(joined, phase).lower_s, getattr(apart, phase).lower_s)
    assert not joined.decode.lines
    assert apart.decode.lines


@given(
    first=st.lists(st.integers(-5, 5), min_size=1, max_size=60),
    second=st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=5),
    third=st.sampled_from([1.0, 2.5, 1e18]),
)
def test_distinct_rows_give_every_row_back(first, second, third):
    columns = {
        "a": np.array(first, float)[:, None],
        "b": np.array(second),
        "c": third,
        "d": 2.0 ** np.arange(5)[:, None, None],
    }
    shape = (5, len(first), len(second))
    found = distinct(columns)
    assert found.where.shape == shape
    for name, column in columns.items():
        np.testing.assert_array_equal(found.columns[name][found.where], np.broadcast_to(column, shape))
    rows = set(zip(*found.columns.values(), strict=True))
    assert found.rows == len(rows) or found.where.size <= FEW
    fewer = found.over(["a", "c"])
    np.testing.assert_array_equal(fewer.columns["a"][fewer.where], found.columns["a"])
    assert fewer.rows == len(set(found.columns["a"])) or found.rows <= FEW


def test_only_operators_of_one_kind_are_joined():
    def attention(decode, window):
        return Attention("a", 1.0, 1.0, 8.0, 8.0, 1.0, 128.0, 128.0, window, "bf16", "fp8", decode)

    assert kind_of(Gemm("a", 1.0, 2.0, 3.0, "bf16")) == kind_of(Gemm("b", np.ones(3), 5.0, 3.0, "bf16"))
    kinds = [kind_of(attention(decode, window)) for decode in (True, False) for window in (0.0, 512.0)]
    assert len(set(kinds)) == 4
    joined = merge([Exchange(np.array([1.0, 2.0]), 7.0, 8.0, 2.0, True), Exchange(3.0, 7.0, 8.0, 2.0, True)], [2, 1])
    assert joined.tokens.tolist() == [1.0, 2.0, 3.0]
    assert joined.hidden == 7.0
