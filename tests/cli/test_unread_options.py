"""No option is taken in silence: each changes the answer, or is refused with a sentence that says what it needs."""

import json

import pandas as pd
import pytest

import perfmodel as pm
from perfmodel.cli.main import main
from perfmodel.errors import PlanError
from perfmodel.estimate.serving.disaggregated import predict_disaggregated
from perfmodel.validate.serving import predict_serving_cases

RANK = ["rank", "serving", "--system", "hgx-h100", "--gpus", "4", "--isl", "4k", "--osl", "256", "--format", "json"]
MOE, DENSE = ["--model", "qwen3-30b-a3b"], ["--model", "llama-3.1-8b"]
SEPARATE = ["--workers", "separate"]

OPTIONS = {
    "--rate": "2",
    "--arrivals": "poisson",
    "--ttft": "80ms",
    "--ttft-p99": "200ms",
    "--tpot": "6ms",
    "--precision": "fp8",
    "--kv": "fp8",
    "--engine": "trtllm",
    "--schedule": "chunked",
    "--chunk": "300",
    "--split": "nano",
    "--expert-skew": "1.0",
    "--prefix-hit": "0.5",
    "--host-hit": "0.5",
    "--shared-prefix": "0.5",
    "--sharers": "8",
    "--host-experts": "0.5",
    "--expert-hit": "0.9",
    "--draft-tokens": "2",
    "--acceptance": "0.9",
    "--draft-cost": "0.2",
    "--pareto": None,
    "--prefill-system": "hgx-h200",
    "--link": "10Gbit/s",
    "--layerwise": None,
    "--price": "2",
    "--prefill-price": "3",
    "--objective": "energy",
    "--budget": "6",
    "--power": "1.5kW",
    "--tp": "2",
    "--pp": "2",
    "--dp": "2",
    "--ep": "2",
    "--concurrency": "7",
    "--top": "1",
    "--collectives": "nccl",
    "--what-if": "memory_bandwidth=x2",
}
UNSEEN = {"--collectives"}
"""Options that have nothing to choose on so few devices."""


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([*RANK, *arguments])
    out = capsys.readouterr()
    document = json.loads(out.out) if stop.value.code == 0 else {}
    document.get("provenance", {}).pop("search_seconds", None)
    return stop.value.code, document, out.err


@pytest.mark.parametrize("mode", [[], SEPARATE, [*SEPARATE, "--arrivals", "poisson"]], ids=" ".join)
@pytest.mark.parametrize("model", [MOE, DENSE], ids=["experts", "dense"])
def test_every_option_changes_the_answer_or_is_refused(capsys, model, mode):
    code, plain, err = run(capsys, *model, *mode)
    assert (code, err) == (0, "")
    for option, value in OPTIONS.items():
        if option in mode or option in UNSEEN:
            continue
        code, changed, err = run(capsys, *model, *mode, option, *([value] if value else []))
        assert code in (0, 1, 2), option
        if code:
            assert err.startswith("perfmodel: "), option
            assert err.count("\n") == 1, option
        else:
            assert changed != plain, option


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*MOE, "--shared-prefix", "0.5"], "--shared-prefix needs --sharers above 1"),
        ([*DENSE, "--expert-skew", "1"], "--expert-skew needs a mixture of experts"),
        ([*MOE, *SEPARATE, "--schedule", "layered"], "schedule layered is predicted for common workers only"),
        ([*MOE, *SEPARATE, "--prefill-price", "2"], "price is missing"),
        ([*MOE, *SEPARATE, "--prefill-system", "hgx-h200", "--price", "2"], "prefill_price is missing"),
        ([*MOE, *SEPARATE, "--isl", "300k"], "exceeds the"),
        ([*MOE, "--budget", "6"], "needs the price of a GPU-hour"),
        ([*MOE, "--price", "2", "--budget", "1"], "does not suffice for one GPU"),
    ],
)
def test_what_nothing_would_read_is_one_sentence(capsys, arguments, says):
    code, _, err = run(capsys, *arguments)
    assert code in (1, 2)
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("load", "says"),
    [
        ({"prefix_hit": "x"}, "prefix_hit: 'x' is not one number"),
        ({"prefix_hit": None}, "prefix_hit: None is not one number"),
        ({"host_experts": [0.1, 0.2]}, "is not one number, which it is for all plans"),
        ({"waves": "a"}, "waves: 'a'"),
        ({"rate": "x"}, "rate: 'x' holds what is no number"),
        ({"draft_tokens": 1.5}, "draft_tokens must be a whole number"),
        ({"draft_tokens": True}, "draft_tokens: True"),
        ({"equal_lengths": "no"}, "equal_lengths must be true or false"),
        ({"sharers": 4}, "sharers is read only beside shared_prefix"),
        ({"expert_hit": 0.5}, "expert_hit is read only beside host_experts"),
        ({"acceptance": 0.5}, "acceptance is read only beside draft_tokens"),
    ],
)
def test_loads_that_are_no_numbers_or_unread_are_named(load, says):
    for call in (
        lambda: pm.predict("llama-3.1-8b", "hgx-h100", pm.plans(), isl=100, osl=10, load=load),
        lambda: pm.compare("llama-3.1-8b", "hgx-h100", gpus=2, isl=100, osl=10, load=load),
    ):
        with pytest.raises(PlanError) as error:
            call()
        assert says in str(error.value)


def test_separate_workers_of_the_library_refuse_what_they_do_not_predict():
    model, mixed = pm.load_model("llama-3.1-8b"), pm.target("hgx-h100", schedule="chunked")
    plain = pm.target("hgx-h100")
    one = pm.api_compare.np.ones(1)
    pool = pm.estimate.serving.pools.Pool
    for first, second, workload, says in (
        (mixed, plain, pm.Workload(100.0, 10.0), "common workers only"),
        (plain, mixed, pm.Workload(100.0, 10.0), "common workers only"),
        (plain, plain, pm.Workload(2e5, 10.0), "exceeds the"),
    ):
        pools = [pool(on, pm.plans(), one, one) for on in (first, second)]
        with pytest.raises(PlanError, match=says):
            predict_disaggregated(model, *pools, workload, model.weights, one)
    with pytest.raises(PlanError, match="common workers only"):
        pm.compare(model, plain, gpus=2, isl=100, osl=10, load={"equal_lengths": True})


AGGREGATED = {"model": "qwen3-30b-a3b", "hardware": "h100-sxm", "isl": 1000, "osl": 100, "tp": 2, "pp": 1, "dp": 2}
AGGREGATED |= {"moe_tp": 1, "moe_ep": 4, "concurrency": 8}
APART = {"model": "qwen3-30b-a3b", "hardware": "h100-sxm", "isl": 1000, "osl": 100, "concurrency": 8}
for _phase in ("prefill", "decode"):
    APART |= {f"{_phase}_{name}": 1 for name in ("num_workers", "batch_size")}
    APART |= {f"{_phase}_{name}_size": 2 for name in ("tp", "moe_ep")}
    APART |= {f"{_phase}_{name}_size": 1 for name in ("pp", "attention_dp", "moe_tp")}


@pytest.mark.parametrize("case", [AGGREGATED, APART], ids=["together", "apart"])
@pytest.mark.parametrize("wrong", ["abc", "-3", "inf", "1e400", "2.5"])
def test_a_wrong_number_in_any_column_of_a_case_loses_its_row_alone(case, wrong):
    columns = [name for name in case if name not in ("model", "hardware")]
    rows = [case, *({**case, name: wrong} for name in columns), case]
    out = predict_serving_cases(pd.DataFrame(rows, dtype=object).assign(id=range(len(rows))))
    assert out["reason"].iloc[0] == out["reason"].iloc[-1] == ""
    assert out["tpot_s"].iloc[0] == out["tpot_s"].iloc[-1] > 0
    for name, reason in zip(columns, out["reason"].iloc[1:-1], strict=True):
        assert reason.startswith(f"{name} must be a whole number"), name
        assert wrong in reason


@pytest.mark.parametrize(
    ("case", "change", "says"),
    [
        (AGGREGATED, {"moe_ep": 2}, "moe_tp x moe_ep = 2 must be the 4 ranks of tp x dp"),
        (APART, {"decode_moe_ep_size": 4}, "decode_moe_tp_size x decode_moe_ep_size = 4 must be the 2 ranks"),
        (APART, {"prefill_tp_size": 3, "prefill_moe_ep_size": 3}, "prefill workers: tp=3 does not divide"),
        (APART, {"isl": 300_000}, "exceeds the"),
    ],
)
def test_a_case_that_contradicts_itself_has_a_reason(case, change, says):
    rows = pd.DataFrame([case, case | change]).assign(id=range(2))
    reasons = predict_serving_cases(rows)["reason"].tolist()
    assert reasons[0] == ""
    assert says in reasons[1]
