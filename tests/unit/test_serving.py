"""The serving model: laws of its parts, limits of memory, engines, separate workers, case files."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.api import precision_of, target
from perfmodel.costs.serving import (
    closed_loop_wait,
    first_wave_wait,
    interleaved_tpot,
    pool_limited_ttft,
    slot_wait,
    speculated_tokens,
    staggered_wait,
)
from perfmodel.errors import PlanError
from perfmodel.estimate.serving.disaggregated import predict_disaggregated
from perfmodel.estimate.serving.latencies import decode_token_s
from perfmodel.estimate.serving.pools import Pool
from perfmodel.estimate.serving.predict import predict_serving
from perfmodel.estimate.serving.steps import serving_steps
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.step import step_time
from perfmodel.estimate.timed_step import hosted, launched_ahead
from perfmodel.layers.base import Step
from perfmodel.layers.moe import SHARED
from perfmodel.models.catalog import load_model
from perfmodel.parallel.grid import plans
from perfmodel.validate.serving import predict_serving_cases

MODEL = pm.load_model("meta-llama/Llama-3.1-70B-Instruct")
TARGET = pm.target("hgx-h100", "vllm")
times = st.floats(1e-4, 10.0)
counts = st.integers(1, 2000)


def predict(grid, workload, target=TARGET, model=MODEL, precision=None):
    return predict_serving(model, target, grid, workload, precision or precision_of(model, None, None, target))


@given(decode=times, prefill=times, n=counts, more=counts, osl=counts)
def test_interference_grows_with_requests_and_vanishes_for_one(decode, prefill, n, more, osl):
    assert interleaved_tpot(decode, prefill, 1, osl) == decode
    assert interleaved_tpot(decode, prefill, n + more, osl) >= interleaved_tpot(decode, prefill, n, osl) >= decode


@given(prefill=times, n=counts, cycle=times)
def test_nobody_waits_for_more_than_everybody_else(prefill, n, cycle):
    wait = closed_loop_wait(prefill, n, cycle)
    assert 0.0 <= wait <= (n - 1) * prefill + 1e-12
    assert closed_loop_wait(prefill, 1, cycle) == 0.0


@given(prefill=times, n=counts, waves=st.floats(1.0, 1e6), lockstep=st.floats(0.0, 1.0))
def test_the_first_wave_is_between_never_and_always(prefill, n, waves, lockstep):
    wait = first_wave_wait(prefill, n, waves, lockstep=lockstep)
    assert first_wave_wait(prefill, n, np.inf) == 0.0
    assert 0.0 <= wait <= n / 2 * prefill * (1 + 1e-12)


@given(requests=counts, places=counts, hold=times)
def test_requests_wait_only_where_places_are_fewer(requests, places, hold):
    wait = slot_wait(requests, places, hold)
    assert (wait == 0.0) == (requests <= places)
    # Little's law: the waiting requests leave at the rate at which places become free.
    assert wait * places / hold == pytest.approx(max(requests - places, 0), abs=1e-9)


@given(start=times, token=st.floats(1e-4, 0.2), osl=counts, n=counts, rate=st.floats(0.1, 1e4))
def test_no_loop_is_faster_than_its_bottleneck(start, token, osl, n, rate):
    ttft = pool_limited_ttft(start, token, osl, n, rate)
    assert ttft >= start
    assert n / (ttft + osl * token) <= rate * (1 + 1e-9)


@given(gamma=st.integers(0, 16), a=st.floats(0.0, 1.0))
def test_speculation_gives_between_one_token_and_all(gamma, a):
    expected = sum(a**i for i in range(gamma + 1))  # the i-th drafted token counts if all before it were accepted
    assert speculated_tokens(gamma, a) == pytest.approx(expected, rel=1e-9)
    assert 1.0 - 1e-12 <= speculated_tokens(gamma, a) <= gamma + 1.0 + 1e-12


def test_speculation_pays_at_small_batches_and_less_at_large_ones():
    grid = pm.plans(tp=8, concurrency=[1, 512])
    plain = predict(grid, Workload(1000.0, 200.0))["decode_s"]
    drafted = predict(grid, Workload(1000.0, 200.0, draft_tokens=3, acceptance=0.8))["decode_s"]
    assert np.all(drafted >= plain)
    gain = plain / drafted * speculated_tokens(3, 0.8)
    assert gain[0] > 2.0
    assert gain[1] < gain[0]
    useless = predict(grid, Workload(1000.0, 200.0, draft_tokens=3, acceptance=0.0, draft_cost=0.1))
    assert np.all(useless["tpot_s"] > predict(grid, Workload(1000.0, 200.0))["tpot_s"])


def test_a_prefix_found_saves_prefill_and_no_cache():
    grid = pm.plans(tp=8, concurrency=32)
    cold, warm = (predict(grid, Workload(8000.0, 200.0, prefix_hit=h)) for h in (0.0, 0.9))
    assert 4.0 < cold["prefill_s"][0] / warm["prefill_s"][0] < 12.0
    assert warm["ttft_s"][0] < cold["ttft_s"][0]
    assert warm["cache_bytes"][0] == cold["cache_bytes"][0]


@pytest.mark.parametrize("field", ["prefix_hit", "acceptance", "draft_cost", "draft_tokens"])
def test_mechanisms_out_of_range_are_refused(field):
    with pytest.raises(PlanError, match=field):
        Workload(8.0, 8.0, **{field: -1})


def test_the_front_and_the_fewest_gpus_follow_from_the_plans():
    ranking = pm.rank(MODEL, TARGET, gpus=16, isl="4k", osl="1k")
    front = ranking.front()
    rows = [front.row(i) for i in range(1, len(front) + 1)]
    assert len(rows) > 3
    assert np.all(np.diff([r["tokens_per_s_per_gpu"] for r in rows]) < 0)
    assert np.all(np.diff([r["tpot_s"] for r in rows]) < 0)
    gpus, position = ranking.fewest_gpus(2.0)
    row = ranking.estimate.row(position)
    size = row["tp"] * row["pp"]
    assert gpus % size == 0
    assert gpus / size * row["requests_per_s"] >= 2.0
    assert (gpus / size - 1) * row["requests_per_s"] < 2.0


def test_outputs_of_one_token_run_at_the_rate_of_prefill():
    estimate = predict(pm.plans(tp=8, concurrency=[64, 512]), Workload(100.0, 1.0))
    # Whole prefill steps of 8,192 tokens: no slower than a third of the arithmetic of 70B parameters on eight H100.
    assert np.all(estimate["tokens_per_s"] > 8 * 989e12 / 3 / (2 * 70e9 * 100) / 3)
    assert np.all(estimate["ttft_s"] >= estimate["prefill_s"])


def test_a_full_cache_makes_requests_wait_and_keeps_the_rate():
    estimate = predict(pm.plans(tp=4, concurrency=[20, 2000]), Workload(4000.0, 1000.0))
    room = estimate["capacity_requests"][1]
    assert 20 < room < 2000
    at_room = predict(pm.plans(tp=4, concurrency=int(room)), Workload(4000.0, 1000.0))
    assert estimate["ttft_s"][1] > 10 * at_room["ttft_s"][0]
    assert estimate["tpot_s"][1] == pytest.approx(at_room["tpot_s"][0], rel=1e-9)
    assert estimate["tokens_per_s"][1] == pytest.approx(at_room["tokens_per_s"][0], rel=0.05)
    assert estimate.row(1)["bound"] == "capacity"


def test_a_benchmark_of_few_waves_waits_longer_for_its_first_token():
    grid = pm.plans(tp=8, concurrency=64)
    steady, burst = (predict(grid, Workload(2000.0, 500.0, waves=w)) for w in (np.inf, 10.0))
    assert burst["ttft_s"][0] > steady["ttft_s"][0]
    assert burst["tpot_s"][0] == steady["tpot_s"][0]


def test_those_ahead_in_a_wave_decode_while_others_wait_for_their_prompts():
    first = dataclasses.replace(TARGET, engine=dataclasses.replace(TARGET.engine, drains_prompts=True))
    waits, n, load = [], 64, Workload(2000.0, 500.0)
    for on in (TARGET, first):
        all_at_once, one_by_one = (
            predict(pm.plans(tp=8, concurrency=n), dataclasses.replace(load, waves=w), on)["ttft_s"][0]
            for w in (5.0, np.inf)
        )
        waits.append(all_at_once - one_by_one)
    steps = serving_steps(MODEL, TARGET, pm.plans(tp=8, concurrency=n), load, precision_of(MODEL, None, None, TARGET))
    step_s = np.ravel(decode_token_s(MODEL, pm.plans(tp=8, concurrency=n), load, steps))[0]
    # A fifth of the requests waits for half of the others, four prompts of 2,000 tokens in a step of 8,192.
    assert waits[0] - waits[1] == pytest.approx(n / 2 / 5 * step_s * 2000 / 8192, rel=0.05)


@pytest.mark.parametrize("engine", ["neutral", "trtllm", "vllm", "sglang"])
def test_every_engine_answers_and_its_constants_matter(engine):
    target = pm.target("hgx-h100", engine)
    grid = pm.plans(tp=8, concurrency=32)
    bare = dataclasses.replace(
        target, engine=dataclasses.replace(target.engine, prefill_layer_s=0.0, stream_steps=0.0, drains_prompts=False)
    )
    with_host, without = (predict(grid, Workload(1000.0, 200.0), t) for t in (target, bare))
    assert np.isfinite(with_host["ttft_s"][0])
    assert with_host["ttft_s"][0] > without["ttft_s"][0]


def test_trtllm_takes_an_8_bit_cache_with_8_bit_weights_and_vllm_on_hopper_does_not():
    kv = {e: precision_of(MODEL, "fp8", None, pm.target("hgx-h100", e)).kv for e in ("trtllm", "vllm")}
    assert kv == {"trtllm": "fp8", "vllm": "bf16"}
    assert precision_of(MODEL, "fp8", "bf16", pm.target("hgx-h100", "trtllm")).kv == "bf16"


@pytest.mark.parametrize(("isl", "osl", "waves"), [(0, 1, 10), (1, 0.5, 10), (np.nan, 1, 10), (8, 8, 0.5)])
def test_workloads_that_cannot_be(isl, osl, waves):
    with pytest.raises(PlanError):
        Workload(isl, osl, waves=waves)


def pools(prefill_workers, decode_workers):
    grid = pm.plans(tp=4)
    many = np.array([float(prefill_workers)]), np.array([float(decode_workers)])
    return (Pool(TARGET, grid, n, np.array([512.0])) for n in many)


def test_separate_workers_free_decoding_from_prompts():
    workload = Workload(4000.0, 500.0)
    prefill, decode = pools(1, 1)
    apart = predict_disaggregated(MODEL, prefill, decode, workload, MODEL.weights, np.array([32.0]))
    together = predict(pm.plans(tp=4, concurrency=32), workload, precision=MODEL.weights)
    assert apart.tpot_s[0] < together["tpot_s"][0]
    assert apart.transfer_s > 0


def test_more_prefill_workers_help_until_decoding_binds():
    workload = Workload(8000.0, 100.0)
    rates = []
    for workers in (1, 2, 4, 8):
        prefill, decode = pools(workers, 2)
        result = predict_disaggregated(MODEL, prefill, decode, workload, MODEL.weights, np.array([64.0]))
        rates.append(float(result.requests_per_s[0]))
        assert rates[-1] <= float(result.prefill_rate[0]) * (1 + 1e-9)
    assert np.all(np.diff(rates) >= -1e-9)
    assert rates[1] == pytest.approx(2 * rates[0], rel=0.02)


ROW = {
    "id": "a",
    "model": MODEL.id,
    "hardware": "h100-sxm",
    "engine": "vllm",
    "precision": "fp8",
    "isl": 1024,
    "osl": 128,
    **dict.fromkeys(("pp", "dp", "moe_tp", "moe_ep"), 1),
    "tp": 4,
    "concurrency": 16,
}


def test_bad_rows_carry_a_reason_and_lose_no_other():
    changes = [{}, {"model": "llama-9"}, {"engine": "vlm"}, {"tp": 7}, {"isl": -5}, {"osl": 1e6}, {"precision": "fp9"},
               {"hardware": "h1000"}, {"concurrency": 0}]  # fmt: skip
    cases = pd.DataFrame([ROW | change | {"id": str(i)} for i, change in enumerate(changes)])
    table = predict_serving_cases(cases)
    assert table["id"].tolist() == [str(i) for i in range(len(changes))]
    assert table["tpot_s"].notna().tolist() == [True] + [False] * (len(changes) - 1)
    expected = ["", "unknown model", "Did you mean 'vllm'", "tp=7 does not divide", "isl must be", "exceeds the 131072",
                "unknown precision", "unknown device", "concurrency must be"]  # fmt: skip
    for reason, text in zip(table["reason"], expected, strict=True):
        assert text in reason


def test_rows_are_predicted_together_as_they_are_alone():
    cases = pd.DataFrame(
        [ROW | {"id": str(i), "tp": tp, "concurrency": c} for i, (tp, c) in enumerate([(2, 4), (8, 64)])]
    )
    whole = predict_serving_cases(cases)
    for i in range(2):
        alone = predict_serving_cases(cases.iloc[[i]])
        assert whole["ttft_s"][i] == pytest.approx(alone["ttft_s"][0], rel=1e-12)
    measured = predict_serving_cases(cases.assign(measured_ttft_s=1.0, measured_tpot_s=2.0))
    pd.testing.assert_frame_equal(whole, measured)


def test_measured_deployments_are_predicted_within_the_stated_errors(cases_dir):
    """Aggregated: the scores that docs/accuracy states; a change that loses them must say so."""
    cases = pd.read_csv(cases_dir / "serving" / "serving_agg.csv", dtype={"engine_version": str})
    table = predict_serving_cases(cases)
    assert table["tpot_s"].notna().all()
    tpot = (table["tpot_s"] / cases["measured_tpot_s"] - 1).abs()
    ttft = (table["ttft_s"] / cases["measured_ttft_s"] - 1).abs()
    assert tpot.mean() < 0.18
    assert tpot.median() < 0.12
    assert ttft.mean() < 0.35
    assert ttft.median() < 0.26
    full = cases["concurrency"] > table["capacity_requests"].astype(float)
    assert full.mean() < 0.1


def first_tokens(prefill, decode, n, osl, late, cycles=4):
    """Play a loop of equal requests: each step holds one prompt, and is scheduled as the step before it starts.

    A request that ends is replaced by the next one at once, or a moment later, when a step has just been scheduled.
    """
    ends, arrived, waits = {}, {}, []
    scheduled = [[request] for request in range(n)]
    waiting, coming, clock, step = [], [], 0.0, 0
    while len(waits) < n * cycles:
        in_time = [*waiting, *(() if late else coming)]
        if len(scheduled) <= step + 1:
            scheduled.append(in_time[:1])
            in_time = in_time[1:]
        waiting, coming = [*in_time, *(coming if late else ())], []
        clock += decode + len(scheduled[step]) * prefill
        for request in scheduled[step]:
            if request in arrived:
                waits.append(clock - arrived[request])
            ends.setdefault(step + osl, []).append(request)
        for request in ends.pop(step, []):
            arrived[request] = clock
            coming.append(request)
        step += 1
    return np.array(waits[n:]).reshape(cycles - 1, n)


@pytest.mark.parametrize("osl", [64, 256, 1024])
def test_equal_requests_wait_for_one_or_two_prompts_whatever_the_output(osl):
    prefill, decode, n = 0.1, 0.02, 16
    in_time, late = (first_tokens(prefill, decode, n, osl, late) for late in (False, True))
    # The first of a cycle has nobody before it, the second only one.
    assert in_time[:, 1:] == pytest.approx(2 * prefill + 2 * decode, rel=1e-9)
    assert late[:, 2:] == pytest.approx(3 * prefill + 3 * decode, rel=1e-9)
    mean = (in_time + late)[:, 2:] / 2
    assert mean == pytest.approx(staggered_wait(prefill, n) + prefill + 2.5 * decode, rel=1e-9)
    assert staggered_wait(prefill, 1) == 0.0
    assert staggered_wait(prefill, 2) == prefill


def test_lengths_that_vary_let_prompts_of_others_fall_anywhere():
    grid = pm.plans(tp=8, concurrency=64)
    loads = {osl: [Workload(2000.0, osl, equal_lengths=equal) for equal in (True, False)] for osl in (100.0, 1000.0)}
    firsts = {osl: [predict(grid, load)["ttft_s"][0] for load in each] for osl, each in loads.items()}
    assert firsts[100.0][0] == pytest.approx(firsts[1000.0][0], rel=0.02)
    assert firsts[100.0][1] > firsts[1000.0][1]
    assert firsts[1000.0][0] > firsts[1000.0][1]
    mixed = Workload(2000.0, np.array([100.0, 1000.0]), equal_lengths=np.array([True, False]))
    together = predict(pm.plans(tp=8, concurrency=[64, 64]), mixed)["ttft_s"]
    assert together.tolist() == pytest.approx([firsts[100.0][0], firsts[1000.0][1]], rel=1e-9)
    for wrong in ({"equal_lengths": True, "arrivals": "poisson"}, {"equal_lengths": "no"}, {"equal_lengths": 0.5}):
        with pytest.raises(PlanError, match="equal_lengths"):
            Workload(2000.0, 100.0, **wrong)


def test_prompts_first_hold_up_first_tokens_and_spare_the_others_where_lengths_are_equal():
    grid = pm.plans(tp=8, concurrency=64)
    first = dataclasses.replace(TARGET, engine=dataclasses.replace(TARGET.engine, drains_prompts=True))
    for equal in (True, False):
        beside, before = (predict(grid, Workload(2000.0, 100.0, equal_lengths=equal), t) for t in (TARGET, first))
        assert (before["ttft_s"][0] > beside["ttft_s"][0]) == equal
        assert (before["tpot_s"][0] < beside["tpot_s"][0]) == equal


def test_cases_have_equal_lengths_but_at_load_points_that_are_known_to_draw_them():
    rows = [ROW | {"id": "even"}, ROW | {"id": "drawn", "shortest": 0.8}, ROW | {"id": "rubbish", "shortest": "x"},
            ROW | {"id": "inferencex", "osl": 1024}, ROW | {"id": "said", "osl": 1024, "shortest": 1.0}]  # fmt: skip
    table = predict_serving_cases(pd.DataFrame(rows)).set_index("id")
    assert "shortest must lie" in table["reason"]["rubbish"]
    assert table["ttft_s"]["drawn"] < table["ttft_s"]["even"]
    assert table["ttft_s"]["inferencex"] < table["ttft_s"]["said"]
    mean = predict(
        pm.plans(tp=4, concurrency=16),
        Workload(922.0, 115.0, waves=10.0),
        precision=precision_of(MODEL, "fp8", None, TARGET),
    )
    assert table["ttft_s"]["drawn"] == pytest.approx(mean["ttft_s"][0], rel=1e-12)


def test_a_prompt_waits_for_balance_only_where_attention_is_data_parallel():
    even = dataclasses.replace(TARGET, engine=dataclasses.replace(TARGET.engine, balance_steps=30.0))
    for dp, waits in ((1, False), (2, True)):
        grid = pm.plans(tp=4, dp=dp, concurrency=64)
        plain, balanced = (predict(grid, Workload(2000.0, 100.0), t) for t in (TARGET, even))
        assert (balanced["ttft_s"][0] > plain["ttft_s"][0]) == waits


def test_shared_experts_show_only_what_the_routed_ones_leave():
    deepseek, target, grid = load_model("deepseek-v3"), pm.target("hgx-h200", "sglang"), pm.plans(tp=8)
    for step, hidden in ((Step(4.0, 1.0, 1000.0, decode=True), True), (Step(8.0, 4096.0, 4096.0, decode=False), False)):
        timed = step_time(deepseek, target, grid, step, deepseek.weights, keep_lines=True)
        shared = [line for line in timed.lines if line.operator.name.startswith(SHARED)]
        whole = sum(line.repeat * line.time.seconds for line in shared)
        work = sum(line.repeat * np.maximum(line.time.compute_s, line.time.memory_s) for line in shared)
        rest = sum(line.repeat * line.time.seconds for line in timed.lines if line not in shared)
        seen = float(np.ravel(timed.seconds - timed.parts[-1] - rest)[0])
        assert np.ravel(work)[0] <= seen * (1 + 1e-6)
        assert (seen < 0.5 * np.ravel(whole)[0]) == hidden
        assert hidden or seen == pytest.approx(np.ravel(whole)[0])
        assert sum(timed.parts) == pytest.approx(timed.seconds)
        assert timed.upper_s >= timed.seconds


def test_launches_hide_behind_a_long_prompt_where_they_run_ahead_of_it():
    slow = dataclasses.replace(TARGET.engine, prefill_layer_s=1e-3)
    engines = [dataclasses.replace(slow, launches_ahead=ahead) for ahead in (False, True)]
    grid, load = pm.plans(tp=8, concurrency=[1, 1]), Workload(np.array([100.0, 16000.0]), 100.0)
    plain, ahead = (predict(grid, load, dataclasses.replace(TARGET, engine=engine)) for engine in engines)
    seen, hidden = plain["prefill_s"], ahead["prefill_s"]
    assert hidden[0] == pytest.approx(MODEL.layers * 1e-3)
    assert hidden[1] == pytest.approx(seen[1] - MODEL.layers * 1e-3)
    assert plain["ttft_s"] - ahead["ttft_s"] == pytest.approx(seen - hidden)


def test_launches_show_only_where_they_outlast_the_device():
    step = step_time(
        MODEL, pm.target("hgx-h100", "trtllm"), pm.plans(tp=8), Step(1.0, 1.0, 1.0, decode=False), MODEL.weights
    )
    short, long = hosted(step, 1e-9), hosted(step, 10.0)
    assert launched_ahead(short).seconds == pytest.approx(short.seconds - 1e-9)
    assert launched_ahead(long).seconds == pytest.approx(10.0)
    assert sum(launched_ahead(long).parts) == pytest.approx(10.0)


@pytest.mark.parametrize(("system", "engine", "apart"), [("hgx-h200", "sglang", True), ("hgx-b200", "sglang", False)])
def test_block_scaled_products_are_quantised_apart_where_they_are_timed_so(system, engine, apart):
    model, target = load_model("deepseek-v3"), pm.target(system, engine)
    step = Step(4.0, 1.0, 1000.0, decode=True)
    timed = step_time(model, target, pm.plans(tp=8), step, model.weights, keep_lines=True)
    names = [line.operator.name for line in timed.lines]
    products = [line.operator for line in timed.lines if getattr(line.operator, "format", "") == "fp8_block"]
    found = [line.operator for line in timed.lines if line.operator.name.endswith("quantisation")]
    if not apart:
        assert not found
        return
    gemms = [op for op in products if hasattr(op, "out_features")]
    places = [i for i, name in enumerate(names) if name.endswith("quantisation")]
    assert [names[i + 1] for i in places] == [op.name for op in gemms]
    assert all(names[i].startswith(SHARED) == names[i + 1].startswith(SHARED) for i in places)
    assert [np.ravel(op.nbytes())[0] for op in found] == [np.ravel(4 * op.in_features * 3)[0] for op in gemms]


def test_drafting_costs_what_the_models_own_blocks_take():
    model, on, plan = load_model("deepseek-v3"), target("hgx-h200"), plans(dp=8, ep=8, concurrency=64)
    precision = precision_of(model)

    def token(**draft):
        load = Workload(1000.0, 200.0, draft_tokens=1, **draft)
        steps = serving_steps(model, on, plan, load, precision)
        return float(np.ravel(decode_token_s(model, plan, load, steps))[0])

    # One layer of 61 and the head: between 1 and 10 % of a step.
    assert 1.01 < token() / token(draft_cost=0.0) < 1.10
    dense = load_model("llama-3.1-8b")
    load = Workload(1000.0, 200.0, draft_tokens=1)
    assert serving_steps(dense, on, plans(tp=1, concurrency=8), load, precision_of(dense)).drafting == 1.0


def test_a_load_that_was_not_recorded_is_midway_between_idle_and_full():
    row = {"id": "a", "model": MODEL.id, "hardware": "h100-sxm", "engine": "vllm", "isl": 4000, "osl": 500}
    for phase, workers, batch in (("prefill", 1, 1), ("decode", 3, 25)):
        row |= {f"{phase}_num_workers": workers, f"{phase}_tp_size": 4, f"{phase}_batch_size": batch}
    loads = (0, 38, 75)
    out = predict_serving_cases(pd.DataFrame([row | {"id": str(n), "concurrency": n} for n in loads]))
    assert out["concurrency"].astype(float).tolist() == [38.0, 38.0, 75.0]
    assert out["tpot_s"][0] == out["tpot_s"][1] < out["tpot_s"][2]
