"""Price, energy and the optimum: what a token costs and how near arithmetic a plan comes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.api import target
from perfmodel.cli.main import main
from perfmodel.costs.economy import optimal_throughput, token_energy, token_price
from perfmodel.errors import PlanError

positive = st.floats(1e-3, 1e6)


@given(gpus=st.integers(1, 10_000), price=positive, rate=positive, factor=st.floats(1.0, 10.0))
def test_price_and_energy_scale_with_devices_and_fall_with_rate(gpus, price, rate, factor):
    for cost, unit in ((token_price, 3600.0), (token_energy, 1.0)):
        once = cost(gpus, price, rate)
        assert once * rate * unit == pytest.approx(gpus * price)
        assert cost(factor * gpus, price, factor * rate) == pytest.approx(once)
        assert cost(gpus, price, factor * rate) <= once * (1 + 1e-12)


@given(
    parameters=st.floats(1e8, 1e13), isl=st.integers(0, 10**6), osl=st.integers(1, 10**5), peak=st.floats(1e12, 1e17)
)
def test_the_optimum_pays_for_prompts_with_output(parameters, isl, osl, peak):
    rate = optimal_throughput(parameters, isl, osl, peak_flops=peak)
    assert rate * (isl + osl) / osl * 2 * parameters == pytest.approx(peak)


@pytest.mark.parametrize(("system", "precision"), [("hgx-h100", None), ("hgx-h200", "fp8"), ("gb200-nvl72", "nvfp4")])
def test_no_plan_beats_the_optimum(system, precision):
    ranking = pm.rank("llama-3.1-70b", system, gpus=8, isl=2000, osl=500, precision=precision)
    e = ranking.estimate
    good = e.feasible
    assert np.all(e["tokens_per_s_per_gpu"][good] < e["optimal_tokens_per_s_per_gpu"][good])


def test_rows_carry_price_and_energy():
    row = pm.rank("llama-3.1-70b", "hgx-h100", gpus=16, isl=2000, osl=500, price=2.5).row(1)
    assert row["usd_per_million_tokens"] == pytest.approx(16 * 2.5 / 3600 / row["deployment_tokens_per_s"] * 1e6)
    assert row["energy_per_token_j"] == pytest.approx(700.0 / row["tokens_per_s_per_gpu"])
    assert "usd_per_million_tokens" not in pm.rank("llama-3.1-70b", "hgx-h100", gpus=16, isl=2000, osl=500).row(1)
    for price in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(PlanError, match="price"):
            pm.rank("llama-3.1-70b", "hgx-h100", gpus=16, isl=2000, osl=500, price=price)


def test_dear_prompts_go_to_fewer_devices_of_the_dear_kind():
    asked = {"gpus": 32, "isl": 2000, "osl": 200, "prefill_system": "hgx-h100", "ttft": "4s", "tpot": "100ms"}
    kinds = [
        pm.compare("llama-3.1-70b", "hgx-a100", **asked, by="cost", price=1.0, prefill_price=price).rows(1)[0]
        for price in (1.0, 50.0)
    ]
    share = [
        row["prefill_workers"] * row["prefill_gpus"] / row["gpus"] if row["workers"] == "separate" else 0.0
        for row in kinds
    ]
    assert share[1] <= share[0]
    row = kinds[0]
    hourly = row["prefill_workers"] * row["prefill_gpus"] + row["decode_workers"] * row["decode_gpus"]
    assert row["usd_per_million_tokens"] == pytest.approx(1e6 * hourly / 3600 / row["tokens_per_s"])


def test_what_cannot_be_ranked_by_is_refused():
    asked = {"gpus": 8, "isl": 2000, "osl": 200}
    with pytest.raises(PlanError, match="needs the price"):
        pm.compare("llama-3.1-8b", "hgx-h100", **asked, by="cost")
    with pytest.raises(PlanError, match="only one has a price: prefill_price is missing"):
        pm.compare("llama-3.1-8b", "hgx-h100", prefill_system="hgx-h200", **asked, by="cost", price=1.0)
    with pytest.raises(PlanError, match="not by 'speed'"):
        pm.compare("llama-3.1-8b", "hgx-h100", **asked, by="speed")
    on = target("hgx-h100")
    unknown = dataclasses.replace(
        on, system=dataclasses.replace(on.system, device=dataclasses.replace(on.device, power_w=None))
    )
    with pytest.raises(PlanError, match="power limit"):
        pm.compare("llama-3.1-8b", unknown, **asked, by="energy")
    assert np.isnan(pm.rank("llama-3.1-8b", unknown, **asked).row(1)["energy_per_token_j"])


def test_the_screen_names_price_energy_and_optimum(capsys):
    arguments = ["rank", "serving", "--model", "llama-3.1-8b", "--system", "hgx-h100", "--gpus", "8"]
    arguments += ["--isl", "2k", "--osl", "200"]
    with pytest.raises(SystemExit):
        main([*arguments, "--price", "2.5"])
    out = " ".join(capsys.readouterr().out.split())
    assert "USD/Mtok" in out
    assert "tok/s/GPU that arithmetic allows, at " in out
    assert " J per token or less." in out
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--objective", "cost"])
    assert stop.value.code == 2
