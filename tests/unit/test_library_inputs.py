"""Wrong input of the library ends in one error of its own that says what is wrong and what would be right."""

import pytest

import perfmodel as pm

SERVING = {"isl": "1k", "osl": 128}
TRAINING = {"seq": "4Ki", "global_batch": 64}


def predict(model="llama-3.1-8b", system="hgx-h100", plan=None, **more):
    return pm.predict(model, system, pm.plans() if plan is None else plan, **(SERVING | more))


def rank(**more):
    return pm.rank("llama-3.1-8b", "hgx-h100", **({"gpus": 8} | SERVING | more))


def rank_training(model="llama-3.1-8b", system="hgx-h100", **more):
    return pm.rank_training_plans(model, system, **({"gpus": 8} | TRAINING | more))


WRONG = [
    (lambda: pm.plans(tp="two"), "tp must be a number"),
    (lambda: pm.plans(tpp=2), "unknown plan knob 'tpp'"),
    (lambda: pm.training_plans(tp="x"), "tp must be a number"),
    (lambda: predict(None), "model: None is neither a name"),
    (lambda: predict(3), "model: 3 is neither a name"),
    (lambda: predict(""), r"unknown model ''\. +\(perfmodel model list"),
    (lambda: predict(system=None), "system: None is neither a name"),
    (lambda: predict(system="h100"), "Did you mean 'hgx-h100'"),
    (lambda: predict(engine=None), "unknown engine 'None'"),
    (lambda: predict(plan={"tp": 2}), r"no grid of plans; perfmodel\.plans"),
    (lambda: predict(isl=None), "isl: None is no number; write for instance '4k'"),
    (lambda: predict(isl="4x"), "isl: '4x': unknown unit"),
    (lambda: predict(load={"prefix": 1}), "unknown field of a workload 'prefix'. Did you mean 'prefix_hit'"),
    (lambda: predict(load=3), "load: 3 holds no fields"),
    (lambda: predict()["tpt_s"], "unknown column 'tpt_s'. Did you mean 'tpot_s'"),
    (lambda: rank(gpus=1.5), "gpus must be a whole number of at least 1, not 1.5"),
    (lambda: rank(gpus="8"), "gpus must be a whole number"),
    (lambda: rank(gpus=float("nan")), "gpus must be a whole number"),
    (lambda: rank(tpp=2), "unknown plan knob 'tpp'; a plan has tp"),
    (lambda: rank(tp="x"), "tp: 'x' does not begin with a number"),
    (lambda: rank(tpot=[1]), r"tpot: \[1\] is no number; write for instance '50 ms'"),
    (lambda: rank(tpot="50"), "tpot: '50': a time needs a unit"),
    (lambda: rank(rate=None), "rate: None is no number"),
    (lambda: rank(price="free"), "price: 'free' does not begin with a number"),
    (lambda: rank().row(0), "rank must lie between 1 and"),
    (lambda: rank().row(10**6), "rank must lie between 1 and"),
    (lambda: pm.target("hgx-h100", expert_skew="a"), "expert_skew: 'a' does not begin"),
    (lambda: pm.target("hgx-h100", chunk="abc"), "chunk: 'abc' does not begin"),
    (lambda: pm.load_device(None), "unknown device 'None'"),
    (
        lambda: pm.train("llama-3.1-8b", "hgx-h100", pm.training_plans(tp=8), **TRAINING)["stp_s"],
        "unknown column 'stp_s'. Did you mean 'step_s'",
    ),
    (lambda: rank_training(3), "model: 3 is neither a name"),
    (lambda: rank_training(system=None), "system: None is neither a name"),
    (lambda: rank_training(gpus=1.5), "gpus must be a whole number"),
    (lambda: rank_training(seq=None), "seq: None is no number"),
    (lambda: rank_training(global_batch=[8]), r"global_batch: \[8\] is no number"),
    (lambda: rank_training(tp="x"), "tp must be a whole number at least 1, not x"),
    (lambda: rank_training(tpp=2), "unknown plan knob 'tpp'"),
    (lambda: rank_training(precision=3), "unknown training precision '3'"),
    (lambda: rank_training(method=None), "unknown training method 'None'"),
    (lambda: rank_training().row(0), "rank must lie between 1 and"),
]


@pytest.mark.parametrize(("asked", "words"), WRONG)
def test_wrong_input_is_named_in_one_line(asked, words):
    with pytest.raises(pm.PerfmodelError, match=words) as found:
        asked()
    assert "\n" not in str(found.value)


def test_a_limit_that_nothing_can_reach_warns_of_nothing():
    with pytest.raises(pm.NothingFeasibleError, match=r"requests/s are fewer than 1e\+308"):
        rank(rate=1e308)


@pytest.mark.parametrize("knob", ["tp", "pp", "dp", "ep"])
@pytest.mark.parametrize("value", [10**6, 1e30])
def test_more_ranks_than_can_be_counted_are_a_reason(knob, value):
    estimate = predict("mixtral-8x7b", plan=pm.plans(**{knob: value}))
    assert not estimate.feasible.any()
    assert estimate.row(0)["reason"]
