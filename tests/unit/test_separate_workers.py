"""Separate workers for prompts and tokens: the hand-over of the cache, the ranking against brute force, the screens."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.api import precision_of
from perfmodel.api_compare import link_of
from perfmodel.cli.main import main
from perfmodel.costs.arrivals import poisson_wait, several_servers_quantile, several_servers_wait
from perfmodel.costs.collectives import point_to_point
from perfmodel.costs.handoff import layerwise_transfer
from perfmodel.errors import NothingFeasibleError, PlanError
from perfmodel.estimate.serving.disaggregated import predict_disaggregated
from perfmodel.estimate.serving.pools import Pool
from perfmodel.ranking.separate import rank_separate
from perfmodel.ranking.separate_pools import SPLIT, worker_splits
from perfmodel.ranking.ties import NEAR_TIE, fewer_stages_first

MODEL = pm.load_model("llama-3.1-8b")
H100, H200 = pm.target("hgx-h100"), pm.target("hgx-h200")
WORKLOAD = pm.Workload(4000.0, 500.0)
FORMATS = precision_of(MODEL, None, None, H100)
LIMITS = pm.Limits(ttft_s=1.0, tpot_s=0.03)

sizes = st.floats(1e3, 1e11)
times = st.floats(1e-4, 10.0)
layers = st.integers(1, 200)
rates = st.floats(1e9, 1e12)
delays = st.floats(0.0, 1e-4)


def rank(gpus, prefill=H100, decode=H100, limits=LIMITS, **more):
    return rank_separate(MODEL, prefill, decode, gpus, WORKLOAD, FORMATS, limits, **more)


@given(nbytes=sizes, prompt=times, count=layers, bandwidth=rates, latency=delays)
def test_a_layerwise_transfer_shows_at_least_one_layer_and_at_most_all(nbytes, prompt, count, bandwidth, latency):
    seen = layerwise_transfer(nbytes, prompt, count, bandwidth=bandwidth, latency=latency)
    one = point_to_point(nbytes / count, bandwidth=bandwidth, latency=latency)
    assert one * (1 - 1e-12) <= seen <= count * one * (1 + 1e-12)
    # Without start-up times it is never worse than sending everything at the end, and slower prompts hide more.
    at_once = point_to_point(nbytes, bandwidth=bandwidth)
    assert layerwise_transfer(nbytes, prompt, count, bandwidth=bandwidth, latency=0.0) <= at_once * (1 + 1e-12)
    assert layerwise_transfer(nbytes, 2 * prompt, count, bandwidth=bandwidth, latency=latency) <= seen * (1 + 1e-12)


@given(nbytes=sizes, prompt=times, count=layers, bandwidth=rates, latency=delays)
def test_a_layerwise_transfer_is_the_makespan_of_two_machines(nbytes, prompt, count, bandwidth, latency):
    link, computed = 0.0, 0.0
    for _ in range(count):
        computed += prompt / count
        link = max(link, computed) + latency + nbytes / count / bandwidth
    seen = layerwise_transfer(nbytes, prompt, count, bandwidth=bandwidth, latency=latency)
    assert seen == pytest.approx(link - computed, rel=1e-6, abs=1e-9 * (link + computed))


def pools_of(row, prefill=H100, decode=H100):
    def pool(phase, target):
        grid = pm.plans(**{name: row[f"{phase}_{name}"] for name in SPLIT})
        return Pool(target, grid, np.array([float(row[f"{phase}_workers"])]), np.array([np.inf]))

    return pool("prefill", prefill), pool("decode", decode)


def test_every_row_is_what_the_prediction_of_that_deployment_gives():
    ranking = rank(8, prefill=H200)
    assert len(ranking) > 3
    for i in range(1, len(ranking) + 1):
        row = ranking.row(i)
        load = np.array([float(row["concurrency"])])
        alone = predict_disaggregated(MODEL, *pools_of(row, H200), WORKLOAD, FORMATS, load)
        for name in ("ttft_s", "tpot_s", "transfer_s", "requests_per_s"):
            assert row[name] == pytest.approx(float(np.ravel(getattr(alone, name))[0]), rel=1e-9), name
        assert row["gpus"] == float(alone.devices[0]) <= 8
        assert row["ttft_s"] <= 1.0
        assert row["tpot_s"] <= 0.03
        assert row["memory_bytes"] <= row["memory_capacity_bytes"]


def test_no_deployment_that_was_left_out_is_better():
    gpus = 6
    best = rank(gpus).row(1)["tokens_per_s_per_gpu"]
    found = 0.0
    for prefill_tp in (1, 2, 4):
        for decode_tp in (1, 2, 4):
            for workers in range(1, gpus):
                left = (gpus - workers * prefill_tp) // decode_tp
                if left < 1:
                    continue
                load = np.arange(1.0, 1200.0) * left
                first = Pool(H100, pm.plans(tp=prefill_tp), np.array([float(workers)]), np.array([np.inf]))
                second = Pool(H100, pm.plans(tp=decode_tp), np.array([float(left)]), np.array([np.inf]))
                e = predict_disaggregated(MODEL, first, second, WORKLOAD, FORMATS, load)
                good = (e.ttft_s <= 1.0) & (e.tpot_s <= 0.03) & (load <= e.capacity_requests)
                found = max(found, float(np.max(np.where(good, e.requests_per_s, 0.0))) * 500.0 / gpus)
    # Eight concurrencies per doubling are tried, so the last few per cent below a limit can be missed.
    assert best >= 0.96 * found


def test_better_hardware_for_prompts_alone_is_never_worse():
    assert rank(8, prefill=H200).row(1)["tokens_per_s"] >= 0.999 * rank(8).row(1)["tokens_per_s"]


def test_a_slower_link_costs_and_layers_hide_it():
    slow = link_of(H100.system, "1GB/s")
    hidden = link_of(H100.system, "1GB/s", layerwise=True)
    fast, at_once, layerwise = (rank(8, limits=None, link=link).row(1)["transfer_s"] for link in (None, slow, hidden))
    assert fast < at_once
    assert layerwise < at_once


def test_separate_workers_need_two_devices_and_a_model_that_fits():
    with pytest.raises(PlanError, match="at least 2"):
        rank(1)
    large = pm.load_model("llama-3.1-70b")
    with pytest.raises(NothingFeasibleError, match="no prefill worker"):
        rank_separate(large, H100, H100, 2, WORKLOAD, precision_of(large, "bf16"))
    with pytest.raises(NothingFeasibleError, match=r"Nearest: \d+ prefill and \d+ decode workers with TTFT"):
        rank(4, limits=pm.Limits(tpot_s=1e-4))
    with pytest.raises(PlanError, match="no worker of at most 3 devices has tp=16"):
        rank(4, chosen={"tp": 16})


def test_copies_of_experts_widen_the_groups_of_the_workers_whose_engine_has_them():
    model = pm.load_model("gpt-oss-20b")
    formats = precision_of(model, None, None, H100)
    copying = replace(H100, engine=replace(H100.engine, redundant_experts=32))  # 32 experts, and a copy of each
    for prefill, decode, widest in ((H100, H100, 32.0), (copying, H100, 32.0), (H100, copying, 64.0)):
        splits = {"tp": 1, "pp": 1, "moe_tp": 1}
        ranking = rank_separate(model, prefill, decode, 65, WORKLOAD, formats, pm.Limits(), chosen=splits)
        assert max(ranking.columns["decode_ep"]) == widest
    groups = [max(worker_splits(model, on.engine, 64, {}).ep) for on in (H100, copying)]
    assert groups == [32.0, 64.0]


def test_links_are_tiers_or_rates():
    assert link_of(H100.system).name == "infiniband"
    assert link_of(H100.system, "nvlink").bandwidth == 450e9
    for wrong in ("nvlnk", "0GB/s", "-1GB/s"):
        with pytest.raises(PlanError, match="link"):
            link_of(H100.system, wrong)


@given(data=st.lists(st.tuples(st.floats(1.0, 100.0), st.integers(1, 16)), min_size=1, max_size=30))
def test_a_near_tie_goes_to_fewer_stages_and_nothing_else_moves(data):
    rate, stages = np.array(sorted(data, key=lambda pair: -pair[0])).T
    order = fewer_stages_first(rate, stages)
    assert sorted(order.tolist()) == list(range(len(rate)))
    for place, i in enumerate(order):
        left = order[place:]
        assert rate[i] >= (1 - NEAR_TIE) * rate[left].max()
        level = left[rate[left] >= (1 - NEAR_TIE) * rate[left].max()]
        assert stages[i] == stages[level].min()


RANK = ["rank", "serving", "--model", "llama-3.1-70b", "--system", "hgx-h100", "--gpus", "16"]
RANK += ["--isl", "4k", "--osl", "1k", "--tpot", "50ms"]


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([*RANK, *arguments])
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


def test_both_kinds_stand_in_one_table_no_wider_than_a_terminal(capsys):
    code, out, err = run(capsys, "--workers", "both", "--ttft", "2s")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("Best: ")
    assert "the best plan" in " ".join(out.split())
    rows = [line for line in lines if line[4:5].isdigit()]
    assert any(" > " in line for line in rows)
    assert any(line.split()[1:4] == ["4", "x", "TP4"] for line in rows)
    assert "the cache crosses infiniband (50 GB/s per GPU) at once after the prompt." in " ".join(out.split())
    assert max(map(len, lines)) <= 120


def test_json_and_csv_hold_both_kinds(capsys):
    _, out, _ = run(capsys, "--workers", "both", "--format", "json", "--top", "6")
    document = json.loads(out)
    assert list(document) == ["verdict", "plans", "infeasible", "provenance"]
    assert {plan["workers"] for plan in document["plans"]} == {"together", "separate"}
    rates = [plan["tokens_per_s_per_gpu"] for plan in document["plans"]]
    assert all(rate >= (1 - NEAR_TIE) * max(rates[i:]) for i, rate in enumerate(rates))
    _, out, _ = run(capsys, "--workers", "both", "--format", "csv", "--top", "6")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert all((row["transfer_s"] != "") == (row["workers"] == "separate") for row in rows)


def test_software_is_the_same_on_both_kinds_of_workers(capsys):
    asked = ["--workers", "separate", "--split", "nano", "--collectives", "nccl", "--format", "csv", "--top", "3"]
    _, same, _ = run(capsys, *asked)
    _, named, _ = run(capsys, *asked, "--prefill-system", "hgx-h100")
    assert named == same
    assert run(capsys, *asked[:2], *asked[6:])[1] != same


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--link", "nvlink"], "need --workers separate or both"),
        (["--workers", "both", "--link", "nvlnk"], "unknown link 'nvlnk'"),
        (["--workers", "both", "--pareto"], "--pareto"),
        (["--workers", "separate", "--prefill-system", "hgx-h10"], "hgx-h100"),
        (["--workers", "separate", "--tpot", "1ms"], "Nearest"),
        (["--workers", "separate", "--gpus", "65537"], "hgx-h100 connect at most 65536 devices, and 65537 are wanted"),
    ],
)
def test_what_does_not_go_together_is_one_line(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert code in (1, 2)
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_the_fewest_gpus_for_a_rate_are_named_for_both_kinds(capsys):
    both = pm.compare(MODEL, H100, gpus=16, isl=4000, osl=500, ttft="1s", tpot="30ms", rate=6.0)
    for kind, gpus in both.fewest.items():
        assert 1 <= gpus <= 16, kind
    enough = both.fewest["separate"]
    assert rank(enough, limits=pm.Limits(1.0, 0.03, 6.0)).row(1)["requests_per_s"] >= 6.0
    with pytest.raises((NothingFeasibleError, PlanError)):
        rank(enough - 1, limits=pm.Limits(1.0, 0.03, 6.0))
    _, out, _ = run(capsys, "--workers", "both", "--ttft", "2s", "--rate", "2")
    assert "2 requests/s need at least " in out
    assert " GPUs with separate ones" in out


def simulate_prompts(rate, service, servers, count=20_000):
    random = np.random.default_rng(11)
    free, waits = np.zeros(servers), []
    for arrival in np.cumsum(random.exponential(1 / rate, count)):
        first = int(np.argmin(free))
        begun = max(arrival, free[first])
        waits.append(begun - arrival)
        free[first] = begun + service
    return np.array(waits[count // 10 :])


@pytest.mark.parametrize(("load", "servers"), [(0.5, 1), (0.7, 2), (0.8, 4), (0.9, 16)])
def test_waits_for_one_of_several_workers_against_a_simulation(load, servers):
    rate = load * servers / 0.1
    waits = simulate_prompts(rate, 0.1, servers)
    assert several_servers_wait(0.1, rate, servers) == pytest.approx(waits.mean(), rel=0.25)
    found, predicted = np.quantile(waits, 0.99), several_servers_quantile(0.1, rate, servers, quantile=0.99)
    assert 0.9 * found <= predicted <= 1.4 * found + 0.02
    assert several_servers_wait(0.1, 1.01 * servers / 0.1, servers) == np.inf


def test_one_server_is_the_queue_of_a_single_worker():
    for load in (0.1, 0.5, 0.9):
        assert several_servers_wait(0.1, load / 0.1, 1) == pytest.approx(poisson_wait(0.1, load / 0.1, 0.0))


def test_requests_that_arrive_at_random_are_ranked_too(capsys):
    both = pm.compare(MODEL, H100, gpus=8, isl=4000, osl=500, tpot="30ms", ttft_p99="2s", load={"arrivals": "poisson"})
    for row in both.rows(20):
        assert row["ttft_s"] <= row["ttft_p99_s"] <= 2.0
        assert row["tpot_s"] <= 0.03
    closed = pm.compare(MODEL, H100, gpus=8, isl=4000, osl=500, tpot="30ms", ttft="2s", together=False).rows(1)[0]
    best = next(row for row in both.rows(20) if row["workers"] == "separate")
    # Random arrivals cost some of what a closed loop of the same limits does.
    assert 0.5 * closed["tokens_per_s"] < best["tokens_per_s"] < 1.1 * closed["tokens_per_s"]
    code, out, _ = run(capsys, "--workers", "both", "--arrivals", "poisson", "--ttft-p99", "3s")
    assert code == 0
    assert " p99 " in out
    assert max(map(len, out.splitlines())) <= 120


def test_a_ranking_says_what_separate_workers_would_give(capsys):
    code, out, err = run(capsys, "--ttft", "2s")
    assert (code, err) == (0, "")
    _, _, note = " ".join(out.split()).partition("Separate workers for prompts and tokens, ")
    assert " > " in note.split(". See: ")[0]
    assert note.split(". See: ")[1].startswith("--workers both")
    # Nothing is said where there is but one device, or where the front or one concurrency was asked for.
    for more in (["--gpus", "1", "--precision", "int4"], ["--pareto"], ["--concurrency", "8"]):
        _, out, _ = run(capsys, *more)
        assert "Separate workers" not in out
