"""Caches that are shared, fetched from the host or kept; queues by length; load of the experts."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.api import target
from perfmodel.cli.main import main
from perfmodel.costs.reuse import retention_break_even, shared_prefix_saving, two_queue_wait
from perfmodel.errors import PlanError

shares = st.floats(0.0, 1.0)
times = st.floats(1e-3, 10.0)
ASKED = {"isl": 8000, "osl": 256}
GRID = pm.plans(tp=8, concurrency=[8, 64])


def predict(**load):
    return pm.predict("llama-3.1-70b", "hgx-h100", GRID, load=load, **ASKED)


@given(shared=shares, sharers=st.integers(1, 1000), more=st.integers(0, 1000))
def test_larger_groups_save_more_and_never_all_of_the_prefix(shared, sharers, more):
    saved = shared_prefix_saving(shared, sharers)
    assert 0 <= saved <= shared
    assert shared_prefix_saving(shared, sharers + more) >= saved
    # A group computes its prefix once, and each of its members the rest.
    assert sharers * (1 - saved) == pytest.approx(shared + sharers * (1 - shared))


@given(short=times, long=times, load=st.floats(0.01, 0.95), split=st.floats(0.05, 0.95))
def test_a_queue_for_short_prompts_moves_waits_and_does_not_make_them(short, long, load, split):
    rates = load * split / short, load * (1 - split) / long
    first, last = (two_queue_wait(short, long, *rates, long=which) for which in (0, 1))
    residual = (rates[0] * short**2 + rates[1] * long**2) / 2
    common = residual / (1 - load)
    assert first <= common * (1 + 1e-9) <= last * (1 + 1e-6)
    # Kleinrock's conservation law: waits weighted by load are the same in every order without preemption.
    loads = load * split, load * (1 - split)
    assert loads[0] * first + loads[1] * last == pytest.approx(load * common, rel=1e-6)
    assert two_queue_wait(short, long, 1.1 / short, 0.0) == np.inf


def test_two_queues_against_a_simulation():
    random = np.random.default_rng(5)
    rates, service = (4.0, 0.4), (0.05, 1.0)
    arrivals = sorted(
        (t, kind) for kind in (0, 1) for t in np.cumsum(random.exponential(1 / rates[kind], int(20_000 * rates[kind])))
    )
    queues, waits, now, coming = ([], []), ([], []), 0.0, 0
    while coming < len(arrivals) or any(queues):
        while coming < len(arrivals) and arrivals[coming][0] <= now:
            queues[arrivals[coming][1]].append(arrivals[coming][0])
            coming += 1
        kind = 0 if queues[0] else 1
        if not queues[kind]:
            now = arrivals[coming][0]
            continue
        waits[kind].append(now - queues[kind].pop(0))
        now += service[kind]
    for kind in (0, 1):
        predicted = two_queue_wait(*service, *rates, long=kind)
        assert np.mean(waits[kind]) == pytest.approx(predicted, rel=0.1)


@given(restore=times, places=st.integers(1, 1000))
def test_a_cache_is_kept_for_as_long_as_its_place_is_worth(restore, places):
    assert retention_break_even(restore, places) == pytest.approx(restore * places)


def test_a_shared_prefix_saves_prompts_and_memory():
    plain, shared = predict(), predict(shared_prefix=0.75, sharers=16)
    assert np.all(shared["prefill_s"] < 0.5 * plain["prefill_s"])
    assert np.all(shared["ttft_s"] < plain["ttft_s"])
    assert np.all(shared["capacity_requests"] > 2.5 * plain["capacity_requests"])
    # What is read in a decode step is not less.
    np.testing.assert_allclose(shared["decode_s"], plain["decode_s"])
    alone = predict(shared_prefix=0.75, sharers=1)
    np.testing.assert_allclose(alone["ttft_s"], plain["ttft_s"])


def test_a_cache_in_host_memory_is_fetched_over_the_host_link():
    device, host, plain = predict(prefix_hit=0.9), predict(host_hit=0.9), predict()
    assert np.all(device["ttft_s"] <= host["ttft_s"])
    assert np.all(host["ttft_s"] < plain["ttft_s"])
    np.testing.assert_allclose(host["prefill_s"], device["prefill_s"])
    on = target("hgx-h100")
    slow = dataclasses.replace(
        on, system=dataclasses.replace(on.system, device=dataclasses.replace(on.device, host_bandwidth=1e8))
    )
    late = pm.predict("llama-3.1-70b", slow, GRID, load={"host_hit": 0.9}, **ASKED)
    # A link that is the bottleneck sets the rate, and no request is quicker than its own fetch.
    fetch = 0.9 * 8000 * 327680 / 8 / 1e8
    assert np.all(late["ttft_s"] >= 0.9 * fetch)
    assert np.all(late["requests_per_s"] <= 1.001 / fetch)
    none = dataclasses.replace(
        on, system=dataclasses.replace(on.system, device=dataclasses.replace(on.device, host_bandwidth=None))
    )
    with pytest.raises(PlanError, match="no link to the host"):
        pm.predict("llama-3.1-70b", none, GRID, load={"host_hit": 0.9}, **ASKED)


def test_keeping_a_cache_pays_for_longer_where_more_of_them_fit():
    e = predict()
    assert np.all(e["cache_keep_s"] > e["prefill_s"])
    smaller = pm.predict("llama-3.1-70b", "hgx-h100", pm.plans(tp=8, concurrency=8), isl=1000, osl=256)
    assert smaller["cache_keep_s"][0] > 0


@pytest.mark.parametrize(
    "load",
    [
        {"host_hit": -0.1},
        {"host_hit": 1.5},
        {"shared_prefix": 2.0},
        {"sharers": 0.5},
        {"sharers": float("inf")},
        {"prefix_hit": 0.6, "host_hit": 0.6},
    ],
)
def test_shares_that_make_no_sense_are_refused(load):
    with pytest.raises(PlanError):
        pm.Workload(100.0, 10.0, **load)


def test_uneven_loads_of_experts_cost_prompts_and_large_batches():
    # Few tokens that visit the same experts read fewer weights: at small batches an even load is the slower one.
    grid = pm.plans(tp=1, dp=8, ep=8, concurrency=[512, 1024])
    even, usual, skewed = (
        pm.predict("deepseek-v3", target("hgx-h200", expert_skew=skew), grid, isl=2000, osl=256)["prefill_s"]
        for skew in (0.0, None, 2.0)
    )
    assert np.all(even <= usual * (1 + 1e-9))
    assert np.all(usual <= skewed * (1 + 1e-9))
    with pytest.raises(PlanError, match="expert_skew"):
        target("hgx-h200", expert_skew=-1.0)


def test_commands_take_them_all(capsys):
    arguments = ["rank", "serving", "--model", "deepseek-v3", "--system", "hgx-h200", "--gpus", "8", "--isl", "4k"]
    arguments += ["--osl", "256", "--shared-prefix", "0.5", "--sharers", "8", "--host-hit", "0.3", "--expert-skew", "0"]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert "Best: " in capsys.readouterr().out


def test_explain_takes_the_same_load(capsys):
    arguments = ["explain", "serving", "--model", "llama-3.1-70b", "--system", "hgx-h100", "--tp", "8", "--isl", "4k"]
    arguments += ["--osl", "256", "--prefix-hit", "0.5", "--draft-tokens", "1"]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert "prefill of one prompt of 4,000 tokens, 2,000 of them computed" in out
    assert "longest decode stage over 1.7 tokens of 2 verified" in out
