"""Laws of large searches: how a space is cut changes nothing, no plan is listed twice, and all of it is searched."""

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.api_training import rank_training_plans, train, training_target
from perfmodel.errors import NothingFeasibleError
from perfmodel.estimate.training import predict as training
from perfmodel.parallel.training_grid import TRAINING_KNOBS, training_plans
from perfmodel.parallel.training_splits import listed, training_meshes
from perfmodel.ranking import training as ranking
from perfmodel.ranking import training_search

MODEL, TARGET = pm.load_model("llama-3.1-8b"), training_target("hgx-a100", "megatron-2021")
CHOICES = {
    "zero": [0, 1, 3],
    "recompute_share": [0.5, 1.0],
    "sequence_parallel": [0, 1],
    "schedule": ["1f1b", "zb-h1"],
}
REQUEST = {"gpus": 16, "seq": 4096, "global_batch": 32, **CHOICES}


def cut(monkeypatch, most):
    for module in (training, ranking):
        monkeypatch.setattr(module, "MOST_AT_ONCE", most)


@pytest.mark.parametrize(("most", "kept"), [(64, 100), (1000, 100), (997, 100_000)])
def test_a_search_in_blocks_finds_the_ranking_of_all_plans(monkeypatch, most, kept):
    whole = rank_training_plans(MODEL, TARGET, **REQUEST)
    assert whole.searched == len(whole.estimate) > 1000
    cut(monkeypatch, most)
    monkeypatch.setitem(training_search.search_training.__kwdefaults__, "most", kept)
    blocks = rank_training_plans(MODEL, TARGET, **REQUEST)
    assert len(blocks) == min(kept, len(whole))
    assert blocks.searched == whole.searched
    assert blocks.infeasible == whole.infeasible
    for rank in range(1, len(blocks) + 1, 7):
        assert repr(blocks.row(rank)) == repr(whole.row(rank))


def test_blocks_name_the_same_nearest_miss(monkeypatch):
    request = {**REQUEST, "gpus": 1, "global_batch": 2}
    with pytest.raises(NothingFeasibleError) as whole:
        rank_training_plans("llama-3.1-70b", TARGET, **request)
    cut(monkeypatch, 5)
    with pytest.raises(NothingFeasibleError) as blocks:
        rank_training_plans("llama-3.1-70b", TARGET, **request)
    assert str(whole.value) == str(blocks.value)
    assert "which needs" in str(whole.value)


@pytest.mark.parametrize("most", [1, 7, 50])
def test_training_predictions_are_the_same_for_any_size_of_parts(monkeypatch, most):
    axes = {"tp": [1, 3, 8], "pp": [1, 2], "recompute": ["none", "selective", "full"], "zero": [0, 3], "vp": [1, 2]}
    knobs = {n: np.array(v, object).reshape((-1, *(1,) * (4 - i))) for i, (n, v) in enumerate(axes.items())}
    plans = training_plans(**{n: v if n == "recompute" else v.astype(float) for n, v in knobs.items()})
    batch = np.array([16, 24])
    whole = train(MODEL, TARGET, plans, seq=2048, global_batch=batch)
    cut(monkeypatch, most)
    pieces = train(MODEL, TARGET, plans, seq=2048, global_batch=batch)
    for column, values in whole.columns.items():
        np.testing.assert_array_equal(pieces[column], values, err_msg=column)
    for i in range(plans.size):
        assert pieces.verdicts.reason(i) == whole.verdicts.reason(i)
        assert pieces.activations(i) == whole.activations(i)
    assert any(whole.verdicts.reason(i) for i in range(plans.size))


def test_no_plan_is_listed_twice():
    chosen = {**CHOICES, "recompute": ["none", "full"]}
    grid = listed(training_meshes(16, global_batch=32, tensor_limit=8, layers=32, chosen=chosen))
    table = np.stack([grid.column(name) for name in TRAINING_KNOBS], axis=1)
    assert len(np.unique(table, axis=0)) == grid.size
    assert set(grid.recompute_share[grid.recompute == 0]) == {1.0}
    assert set(grid.recompute_share[grid.recompute == 2]) == {0.5, 1.0}
    assert set(grid.sequence_parallel[grid.tp == 1]) == {0.0}
    assert set(grid.zero) == {0.0, 1.0, 3.0}
