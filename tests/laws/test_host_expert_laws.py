"""Laws of experts in host memory: nothing changes without them, more of them cost time and free memory."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.costs.expert_pipelining import missed_experts
from perfmodel.costs.overlap import HOST_LINK_EFFICIENCY
from perfmodel.errors import NothingFeasibleError, PlanError
from perfmodel.estimate.serving.disaggregated import predict_disaggregated
from perfmodel.estimate.serving.pools import Pool

ON = pm.target("hgx-h200", "vllm")
SPLITS = pm.plans(tp=[1, 2, 4, 4], ep=[1, 2, 1, 4], moe_tp=[1, 1, 4, 1], pp=[1, 1, 2, 1], concurrency=[1, 8, 16, 32])
TIMES = ("decode_s", "prefill_s", "prompt_s", "tpot_s")
LOADS = ({}, {"host_experts": 1.0})
shares = st.floats(0.0, 1.0)


def predict(load, on=ON):
    return pm.predict("qwen3-30b-a3b", on, SPLITS, isl=1024, osl=256, load=load)


@given(share=shares, more=shares, hit=st.none() | shares, skew=st.sampled_from([0.0, 0.8, 1.2]))
@settings(max_examples=25)
def test_more_experts_on_the_host_are_never_faster_and_never_take_more_of_the_device(share, more, hit, skew):
    on = pm.target("hgx-h200", "vllm", expert_skew=skew)
    few, many = (predict({"host_experts": s, "expert_hit": hit}, on) for s in sorted((share, more)))
    for name in TIMES:
        assert np.all(many[name] >= few[name] * (1 - 1e-9)), name
    assert np.all(many["memory_bytes"] <= few["memory_bytes"] * (1 + 1e-12))
    assert np.all(many["capacity_requests"] >= few["capacity_requests"])


@given(share=shares, hits=st.tuples(shares, shares), faster=st.floats(1.0, 8.0))
@settings(max_examples=25)
def test_more_hits_and_a_faster_link_are_never_slower(share, hits, faster):
    worse, better = (predict({"host_experts": share, "expert_hit": h}) for h in sorted(hits))
    device = dataclasses.replace(ON.device, host_bandwidth=ON.device.host_bandwidth * faster)
    quick = dataclasses.replace(ON, system=dataclasses.replace(ON.system, device=device))
    linked = predict({"host_experts": share, "expert_hit": min(hits)}, quick)
    for name in TIMES:
        assert np.all(better[name] <= worse[name] * (1 + 1e-9)), name
        assert np.all(linked[name] <= worse[name] * (1 + 1e-9)), name


def test_without_experts_on_the_host_nothing_changes():
    plain, none = predict({}), predict({"host_experts": 0.0, "expert_hit": 0.3})
    for name in plain.columns:
        np.testing.assert_array_equal(plain[name], none[name], err_msg=name)


def test_all_hits_cost_no_time():
    plain, found = predict({}), predict({"host_experts": 0.5, "expert_hit": 1.0})
    np.testing.assert_allclose(found["decode_s"], plain["decode_s"], rtol=1e-12)
    assert np.all(found["weights_bytes"] < plain["weights_bytes"])


def test_a_decode_step_of_one_request_waits_for_its_own_experts():
    plain, hosted = (pm.predict("qwen3-30b-a3b", ON, pm.plans(tp=1), isl=64, osl=8, load=load) for load in LOADS)
    # 48 layers, 8 experts of 3 x 2048 x 768 weights in 16 bits each; draws with repetition find 7.78 different ones.
    nbytes = 48 * 128 * (1 - (1 - 1 / 128) ** 8) * 3 * 2048 * 768 * 2
    waited = nbytes / (HOST_LINK_EFFICIENCY * ON.device.host_bandwidth)
    assert hosted["decode_s"][0] - plain["decode_s"][0] == pytest.approx(waited, rel=1e-9)
    assert plain["weights_bytes"][0] - hosted["weights_bytes"][0] == pytest.approx(48 * 128 * 3 * 2048 * 768 * 2)
    assert hosted["bound_decode"][0] == 2


@given(picks=st.integers(0, 10**6), hosted=st.floats(0, 512), hit=shares)
def test_no_more_experts_are_fetched_than_are_missed_or_hosted(picks, hosted, hit):
    found = float(missed_experts(picks, hosted, hit))
    assert -1e-9 <= found <= hosted * (1 + 1e-12)
    if hosted >= 1.0:
        assert found <= picks * (1 - hit) * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize(
    ("model", "load", "on", "says"),
    [
        ("llama-3.1-70b", {"host_experts": 0.5}, ON, "no routed experts"),
        ("qwen3-30b-a3b", {"host_experts": 1.5}, ON, "host_experts must lie between"),
        ("qwen3-30b-a3b", {"host_experts": 0.5, "expert_hit": -1.0}, ON, "expert_hit must lie between"),
        ("qwen3-30b-a3b", {"host_experts": float("nan")}, ON, "host_experts must lie between"),
    ],
)
def test_what_cannot_be_predicted_is_refused(model, load, on, says):
    with pytest.raises(PlanError, match=says):
        pm.predict(model, on, pm.plans(tp=8), isl=1024, osl=64, load=load)


SCHEDULES = {name: pm.target("hgx-h200", "vllm", schedule=name, chunk=512) for name in ("chunked", "layered")}


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(share=shares, more=shares, hit=shares)
@settings(max_examples=8)
def test_prompts_that_share_steps_fetch_too(schedule, share, more, hit):
    on = SCHEDULES[schedule]
    plain, none = predict({}, on), predict({"host_experts": 0.0, "expert_hit": hit}, on)
    for name in TIMES:
        np.testing.assert_array_equal(plain[name], none[name], err_msg=name)
    few, many = (predict({"host_experts": s, "expert_hit": hit}, on) for s in sorted((share, more)))
    for name in ("decode_s", "prefill_s", "tpot_s"):
        assert np.all(few[name] >= plain[name] * (1 - 1e-9)), name
        assert np.all(many[name] >= few[name] * (1 - 1e-9)), name
    found = predict({"host_experts": share, "expert_hit": 1.0}, on)
    np.testing.assert_allclose(found["ttft_s"], plain["ttft_s"], rtol=1e-9)


def test_smaller_chunks_fetch_more_often():
    small, large = (
        predict({"host_experts": 1.0}, pm.target("hgx-h200", "vllm", schedule="chunked", chunk=chunk))["prompt_s"]
        for chunk in (128, 1024)
    )
    assert np.all(small > large)


MODEL = pm.load_model("qwen3-30b-a3b")
FORMATS = pm.api.precision_of(MODEL, None, None, ON)
OPEN = np.array([np.inf])


def apart(load, on=ON):
    workload = pm.Workload(1024.0, 256.0, **load)
    pools = [Pool(on, pm.plans(tp=2, ep=2), np.array([count]), OPEN) for count in (1.0, 2.0)]
    return predict_disaggregated(MODEL, *pools, workload, FORMATS, np.array([16.0]))


@given(share=shares, more=shares, hit=st.none() | shares)
@settings(max_examples=15)
def test_separate_workers_wait_for_their_own_hosts(share, more, hit):
    few, many = (apart({"host_experts": s, "expert_hit": hit}) for s in sorted((share, more)))
    for name in ("ttft_s", "tpot_s"):
        assert np.all(getattr(many, name) >= getattr(few, name) * (1 - 1e-9)), name
    for name in ("prefill_rate", "requests_per_s"):
        assert np.all(getattr(many, name) <= getattr(few, name) * (1 + 1e-9)), name
    assert np.all(many.capacity_requests >= few.capacity_requests)


def test_a_decode_worker_waits_as_long_as_a_common_one():
    grid = pm.plans(tp=2, ep=2, concurrency=8)
    for load in LOADS:
        common = pm.predict("qwen3-30b-a3b", ON, grid, isl=1024, osl=256, load=load)
        assert apart(load).tpot_s[0] == pytest.approx(common["decode_s"][0], rel=1e-9)


def test_separate_workers_are_ranked_with_experts_on_the_host():
    asked = {"gpus": 4, "isl": 512, "osl": 64, "together": False}
    plain, hosted = (pm.compare("qwen3-30b-a3b", "hgx-h100", load=load, **asked).rows(1)[0] for load in LOADS)
    assert hosted["tokens_per_s"] < plain["tokens_per_s"]
    # What does not fit on two devices fits with its experts on their hosts.
    with pytest.raises(NothingFeasibleError):
        pm.compare("deepseek-v3", "hgx-h200", **asked)
    assert pm.compare("deepseek-v3", "hgx-h200", load={"host_experts": 0.95}, **asked).rows(1)[0]["gpus"] <= 4


@given(hit=st.floats(0.01, 0.99), faster=st.floats(1.0, 8.0))
@settings(max_examples=10)
def test_a_cache_on_the_host_of_a_prefill_worker_saves_no_more_than_one_that_is_found(hit, faster):
    device = dataclasses.replace(ON.device, host_bandwidth=ON.device.host_bandwidth * faster)
    quick = dataclasses.replace(ON, system=dataclasses.replace(ON.system, device=device))
    fetched, sooner, found = apart({"host_hit": hit}), apart({"host_hit": hit}, quick), apart({"prefix_hit": hit})
    assert found.ttft_s[0] <= sooner.ttft_s[0] <= fetched.ttft_s[0] * (1 + 1e-12)
    assert fetched.prefill_rate[0] <= sooner.prefill_rate[0] * (1 + 1e-12) <= found.prefill_rate[0] * (1 + 1e-9)
