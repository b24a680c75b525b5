"""Answers from a sweep against answers that can be worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import SweepError
from perfmodel.sweep.answers import axes_of, best, find_column, pareto, read_conditions, select
from perfmodel.sweep.break_even import break_even, leader_changes
from perfmodel.sweep.evaluate import ranking_of
from perfmodel.sweep.read import open_sweep
from perfmodel.sweep.run import run_sweep
from perfmodel.sweep.sensitivity import sensitivity, sweep_sensitivity
from perfmodel.sweep.study import Point
from perfmodel.sweep.study_files import make_study

RATES = ("peak_flops", "memory_bandwidth", "cache_bandwidth", "scale_up_bandwidth", "scale_out_bandwidth")


def table(rows, axes=("system", "gpus")):
    """A sweep's table from rows of axes, rate and TPOT; a rate of None is an infeasible point."""
    records = []
    for point, (*values, rate, tpot) in enumerate(rows):
        record = {"point": point, **dict(zip(axes, values, strict=True)), "feasible": rate is not None}
        record |= {"reason": "" if rate else "too large", "rank": 1, "tokens_per_s_per_gpu": rate, "tpot_s": tpot}
        records.append(record)
    frame = pd.DataFrame(records)
    return frame.astype({"tokens_per_s_per_gpu": float, "tpot_s": float, "feasible": "boolean", "point": "Int64"})


FRAME = table(
    [
        ("a", 1, 10.0, 0.1),
        ("a", 2, 30.0, 0.2),
        ("a", 4, 20.0, 0.4),
        ("b", 1, None, None),
        ("b", 2, 15.0, 0.1),
        ("b", 4, 60.0, 0.4),
        ("c", 1, None, None),
    ]
)


def test_best_per_point_per_group_and_overall():
    assert best(FRAME)["tokens_per_s_per_gpu"].tolist()[:3] == [10.0, 30.0, 20.0]
    assert best(FRAME)["point"].tolist() == list(range(7))
    assert best(FRAME)["reason"].tolist()[3] == "too large"
    by = best(FRAME, ["system"])
    assert by["system"].tolist() == ["a", "b", "c"]
    assert by["point"].tolist() == [1, 5, 6]
    assert by["feasible"].tolist() == [True, True, False]
    assert best(FRAME, [])["point"].tolist() == [5]
    assert best(FRAME, ["system"], "tpot_s")["point"].tolist() == [0, 4, 6]
    assert best(FRAME, ["gpus"], where={"system": "b"})["point"].tolist() == [3, 4, 5]


def test_ties_go_to_the_earlier_point_in_any_order_of_rows():
    tied = table([("a", 1, 5.0, 0.1), ("b", 1, 5.0, 0.1)])
    assert best(tied, ["gpus"])["point"].tolist() == [0]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=30))
def test_no_plan_beats_one_on_the_front_and_one_on_it_beats_each_that_is_not(rows):
    frame = table([("a", i, float(rate), float(tpot)) for i, (rate, tpot) in enumerate(rows)])
    front = set(pareto(frame)["point"])

    def beats(one, other):
        return one[0] >= other[0] and one[1] <= other[1] and one != other

    for point, row in enumerate(rows):
        beaten = any(beats(other, row) for other in rows)
        assert not (point in front and beaten)
        if point not in front:
            assert beaten or row in [rows[other] for other in front]


def test_every_group_has_its_own_front():
    fronts = pareto(FRAME, ("tpot_s", "tokens_per_s_per_gpu"), ["system"])
    assert fronts.groupby("system")["point"].apply(list).to_dict() == {"a": [0, 1], "b": [4, 5]}
    assert pareto(FRAME, ("gpus", "tokens_per_s_per_gpu"))["point"].tolist() == [0, 1, 5]
    with pytest.raises(SweepError, match="no number that could be"):
        pareto(FRAME, ("tpot_s", "system"))


@given(
    st.floats(0.1, 10.0),
    st.floats(-2.0, 2.0),
    st.floats(-2.0, 2.0),
    st.lists(st.floats(0.05, 50.0), min_size=2, max_size=9, unique=True),
)
def test_power_laws_cross_exactly_where_they_do(even, slope_a, slope_b, values):
    x = np.array(sorted(values))
    a, b = (x / even) ** slope_a, (x / even) ** slope_b
    changes = leader_changes(x, a, b, larger=True)
    crossed = abs(slope_a - slope_b) > 0.01 and x[0] < even * 0.999 and x[-1] > even * 1.001 and even not in x
    if crossed and not np.any(np.isclose(x, even, rtol=1e-3)):
        (change,) = changes
        assert change["below"] <= even <= change["above"]
        assert change["break_even"] == pytest.approx(even, rel=1e-6)
        assert (change["ahead_below"], change["ahead_above"]) == (("b", "a") if slope_a > slope_b else ("a", "b"))
        assert leader_changes(x, a, b, larger=False)[0]["ahead_below"] == change["ahead_above"]
    for change in changes:
        if math.isfinite(change["break_even"]):
            assert change["below"] <= change["break_even"] <= change["above"]


def test_break_even_is_bracketed_and_says_who_is_ahead():
    found = break_even(FRAME, "gpus", {"system": "a"}, {"system": "b"})
    assert found[["below", "above", "ahead_below", "ahead_above", "how"]].values.tolist() == [
        [2.0, 4.0, "a", "b", "crossing"]
    ]
    # log2: +1 at 2 devices, -1.585 at 4, so the lead is lost 1 / 2.585 of an octave above 2.
    assert found["break_even"][0] == pytest.approx(2 * 2 ** (1 / (1 + math.log2(3))))
    # Where one of the two was not studied nothing is said about it.
    alone = break_even(FRAME, "gpus", {"system": "b"}, {"system": "c"})
    assert alone[["above", "ahead_below", "how"]].values.tolist() == [[1.0, "neither", "throughout"]]
    fits = table([("a", 1, 5.0, 0.1), ("a", 2, 4.0, 0.1), ("b", 1, None, None), ("b", 2, 9.0, 0.1)])
    found = break_even(fits, "gpus", {"system": "a"}, {"system": "b"})
    assert found[["ahead_below", "ahead_above", "how"]].values.tolist() == [["a", "b", "feasibility"]]
    assert math.isnan(found["break_even"][0])
    first = FRAME[FRAME["gpus"] > 1]
    later = break_even(
        first.assign(tokens_per_s_per_gpu=[1.0, 1.0, 2.0, 3.0]), "gpus", {"system": "a"}, {"system": "b"}
    )
    assert later[["below", "above", "ahead_below", "ahead_above", "how"]].values.tolist() == [
        [2.0, 4.0, "b", "b", "throughout"]
    ]


def test_a_tie_at_a_point_is_level_there():
    changes = leader_changes(
        np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0]), larger=True
    )
    assert [(c["ahead_below"], c["ahead_above"], c["break_even"]) for c in changes] == [
        ("b", "level", 2.0),
        ("level", "a", 2.0),
    ]


def test_groups_of_a_break_even_are_every_combination_of_the_other_axes():
    rows = [(s, m, g, 10.0 * g if s == "a" else 20.0, 0.1) for m in ("z", "y") for s in "ab" for g in (1, 4)]
    frame = table(rows, ("system", "model", "gpus"))
    found = break_even(frame, "gpus", {"system": "a"}, {"system": "b"})
    assert found["model"].tolist() == ["z", "y"]
    assert found["break_even"].tolist() == pytest.approx([2.0, 2.0])


def test_what_goes_along_with_a_choice_is_part_of_it():
    rows = [(s, price, g, 10.0 * g if s == "a" else 20.0, 0.1) for s, price in (("a", 1.0), ("b", 2.0)) for g in (1, 4)]
    found = break_even(table(rows, ("system", "price", "gpus")), "gpus", {"system": "a"}, {"system": "b"})
    assert found["break_even"].tolist() == pytest.approx([2.0])
    assert "price" not in found


WRONG = [
    (lambda: best(FRAME, ["sytem"]), "unknown column 'sytem'; did you mean 'system'"),
    (lambda: best(FRAME, of="system"), "no number that could be best"),
    (lambda: select(FRAME, {"gpus": 3}), "no point has gpus=3; there are 1, 2, 4"),
    (lambda: break_even(FRAME, "system", {"gpus": 1}, {"gpus": 2}), "no axis with numbers"),
    (lambda: break_even(FRAME, "tpot_s", {"gpus": 1}, {"gpus": 2}), "no axis with numbers"),
    (lambda: break_even(FRAME, "gpus", {}, {"system": "b"}), "name both"),
    (lambda: break_even(FRAME, "gpus", {"system": "a", "point": 0}, {"system": "b"}), "point is named for one choice"),
    (lambda: read_conditions(FRAME, "serving", ["gpus"]), "write axis=value"),
    (lambda: read_conditions(FRAME, "serving", ["tpot_s=fast"]), "is a number in SI units"),
    (lambda: pareto(FRAME, ()), "at least one objective"),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=range(len(WRONG)))
def test_what_cannot_be_answered_is_said(call, message):
    with pytest.raises(SweepError, match=message):
        call()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    load = {"model": "llama-3.1-8b", "gpus": 8, "isl": "1k", "osl": 200, "concurrency": 16}
    study = make_study(
        {
            "serving": load
            | {
                "system": ["hgx-h100", "hgx-a100"],
                "tpot": ["default", "1us"],
                "what_if": {"memory_bandwidth": ["x0.5", "x1", "x2"], "scale_up_bandwidth": ["100GB/s", "450GB/s"]},
            }
        }
    )
    return run_sweep(study, tmp_path_factory.mktemp("answers") / "sweep", workers=1)


def test_a_changed_number_counts_once_as_the_study_crossed_it(sweep):
    frame = sweep.frame()
    assert axes_of(frame) == [
        "model", "system", "gpus", "isl", "osl", "tpot_limit_s", "memory_bandwidth_x", "scale_up_bandwidth",
    ]  # fmt: skip
    assert find_column(frame, "memory_bandwidth") == "memory_bandwidth_x"
    assert find_column(frame, "tpot") == "tpot_limit_s"
    values = select(frame, read_conditions(frame, "serving", ["memory_bandwidth=x2", "tpot=default"]))
    assert set(values["memory_bandwidth_x"]) == {2.0}
    assert values["tpot_limit_s"].isna().all()
    assert set(select(frame, {"tpot": 1e-6})["feasible"]) == {False}
    assert len(best(frame)) == len(sweep) == 24


def test_a_frame_has_the_values_of_its_points(sweep):
    row = best(sweep.frame(), where={"memory_bandwidth": 1.0, "scale_up_bandwidth": 450e9, "tpot": None}).iloc[0]
    assert (row["system"], row["gpus"], row["isl"]) == ("hgx-h100", 8, 1000)
    assert row["memory_bandwidth"] == 3.35e12
    import perfmodel as pm

    again = pm.rank("llama-3.1-8b", "hgx-h100", gpus=8, isl=1000, osl=200, concurrency=16).row(1)
    for name in ("ttft_s", "tpot_s", "tokens_per_s_per_gpu", "memory_bytes", "tp", "pp", "replicas"):
        assert row[name] == again[name]
    assert sweep.frame(columns=["point", "tp"]).columns.tolist() == ["point", "tp"]
    with pytest.raises(SweepError, match=r"nope"):
        sweep.frame(columns=["nope"])


BASE = Point(0, "serving", {"model": "llama-3.1-8b", "system": "hgx-h100", "gpus": 2, "isl": 1000, "osl": 200})


def test_elasticities_of_a_held_plan_add_up_to_no_more_than_one():
    found = sensitivity(BASE).set_index("number")
    assert set(found.columns) >= {"value", "held", "reoptimised", "loss", "gain", "plan", "plan_below", "plan_above"}
    assert found.loc["memory_bandwidth", "value"] == 3.35e12
    rates = found.loc[[name for name in RATES if name in found.index], "held"]
    assert (rates >= -1e-9).all()
    # All rates doubled can at most double the rate; what does not scale is host time and latency.
    assert 0.5 < rates.sum() <= 1 + 1e-6
    assert found.loc["memory_capacity", "held"] == 0
    assert found["reoptimised"].tolist() == sorted(found["reoptimised"], key=abs, reverse=True)


@settings(max_examples=12)
@given(st.sampled_from(RATES), st.sampled_from([0.05, 0.3]), st.sampled_from([1, 4]))
def test_a_plan_that_may_change_gains_no_less_and_loses_no_more_than_one_that_may_not(number, step, gpus):
    point = Point(0, "serving", BASE.values | {"gpus": gpus})
    row = sensitivity(point, [number], step=step).iloc[0]
    pinned = Point(0, "serving", point.values | {"tp": gpus, "pp": 1, "dp": 1})
    assert row["gain"] >= -1e-9
    assert row["loss"] >= -1e-9
    assert row["reoptimised"] == pytest.approx((row["gain"] + row["loss"]) / 2)
    held = sensitivity(pinned, [number], step=step).iloc[0]
    assert held["plan"] == f"TP{gpus}"


def test_limits_do_not_make_steps_of_the_search_for_a_concurrency():
    values = BASE.values | {"gpus": 1, "tpot": 0.02}
    found = [
        sensitivity(Point(0, "serving", values), ["memory_bandwidth"], step=step).iloc[0]["reoptimised"]
        for step in (0.02, 0.04)
    ]
    # A ladder of concurrencies with steps of a tenth would be five times as coarse as the bandwidth's smaller step.
    assert found[0] == pytest.approx(found[1], rel=0.3)
    assert 0.5 < found[0] < 3


def test_a_held_plan_is_not_held_to_a_quantile_either():
    values = BASE.values | {"gpus": 1, "arrivals": "poisson"}
    best = ranking_of(Point(0, "serving", values)).row(1)
    values |= {"concurrency": best["concurrency"]}
    free, tight = (
        sensitivity(Point(0, "serving", values | limit), ["memory_bandwidth"]).iloc[0]
        for limit in ({}, {"ttft_p99": 1.001 * best["ttft_p99_s"]})
    )
    assert tight["held"] == free["held"]
    assert math.isnan(tight["loss"])  # re-optimised, it is


def test_training_and_other_columns_have_sensitivities():
    point = Point(
        0, "training", {"model": "llama-3.1-8b", "system": "hgx-h100", "gpus": 8, "seq": 4096, "global_batch": 64}
    )
    found = sensitivity(point, ["peak_flops", "scale_out_bandwidth"], of="step_s").set_index("number")
    assert -1 < found.loc["peak_flops", "held"] < -0.5
    assert found.loc["scale_out_bandwidth", "held"] == 0


def test_a_point_at_a_wall_has_a_one_sided_answer_and_a_reason():
    point = Point(0, "serving", {"model": "llama-3.1-70b", "system": "hgx-h100", "gpus": 2, "isl": 1000, "osl": 100})
    row = sensitivity(point, ["memory_capacity"], step=0.25).iloc[0]
    assert "nothing fits" in row["reason"]
    assert math.isnan(row["loss"])
    assert row["gain"] > 0
    assert row["reoptimised"] == row["gain"]
    nothing = Point(0, "serving", point.values | {"gpus": 1})
    assert "nothing fits" in sensitivity(nothing).iloc[0]["reason"]


def test_sensitivities_of_a_sweep_and_what_is_refused(sweep, monkeypatch):
    found = sweep_sensitivity(sweep, ["memory_bandwidth"], points=[0, 4])
    assert found["point"].tolist() == [0, 4]
    assert found["memory_bandwidth_x"].tolist() == [0.5, 2.0]
    assert found["held"][0] > found["held"][1]  # the slower the memory, the more of the time it is
    with pytest.raises(SweepError, match="unknown number of hardware 'memory_bandwith'; did you mean"):
        sensitivity(BASE, ["memory_bandwith"])
    with pytest.raises(SweepError, match="unknown column 'tpot'; did you mean 'tpot_s'"):
        sensitivity(BASE, ["memory_bandwidth"], of="tpot")
    for step in (0.0, -1.0, math.nan, 2.0):
        with pytest.raises(SweepError, match="step must lie"):
            sensitivity(BASE, step=step)
    stale = open_sweep(sweep.directory)
    stale.inputs["system hgx-h100"] = "0" * 64
    with pytest.raises(SweepError, match="before a change of system hgx-h100"):
        sweep_sensitivity(stale, points=[0])
