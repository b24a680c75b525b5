"""Fit of an engine's constants to deployments, and predictions of those that were left out of it."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import perfmodel as pm
from perfmodel.api import precision_of
from perfmodel.calibrate.handoff import fit_handoff
from perfmodel.calibrate.serving import CONSTANTS, bare, fit_engine, loss, measured_deployments, predicted
from perfmodel.errors import CalibrationError
from perfmodel.estimate.serving.disaggregated import HANDOFF
from perfmodel.estimate.serving.predict import predict_serving
from perfmodel.estimate.serving.workload import Workload
from perfmodel.models.catalog import load_model
from perfmodel.validate.leave_out import predict_left_out
from perfmodel.validate.serving import predict_serving_cases

LOADS = {"concurrency": [1, 4, 16, 64, 128]}


def deployments(model, engine, constants, osl=256.0):
    """Deployments as they would be measured if an engine had the given constants."""
    target = pm.target("hgx-h100", engine)
    spec, grid, workload = load_model(model), pm.plans(tp=4, **LOADS), Workload(1024.0, osl, waves=10.0)
    precision = precision_of(spec, None, None, target)
    true = dataclasses.replace(target, engine=dataclasses.replace(target.engine, **constants))
    measured = predict_serving(spec, true, grid, workload, precision)
    return measured_deployments(
        spec, target, grid, workload, precision, ttft_s=measured["ttft_s"], tpot_s=measured["tpot_s"]
    )


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_composed_latencies_are_those_of_a_prediction(engine):
    group = deployments("llama-3.1-8b", engine, {})
    own = {name: getattr(group.target.engine, name) for name in CONSTANTS}
    ttft, tpot = predicted(group, own)
    assert ttft == pytest.approx(group.ttft_s, rel=1e-12)
    assert tpot == pytest.approx(group.tpot_s, rel=1e-12)
    assert loss([group], own) == pytest.approx(0.0, abs=1e-9)


def test_a_fit_finds_the_constants_that_made_the_latencies():
    true = {"decode_step_s": 2e-3, "decode_request_s": 4e-5, "prefill_layer_s": 8e-4, "stream_steps": 6.0}
    groups = [deployments(m, "vllm", true, osl) for m in ("llama-3.1-8b", "qwen3-32b") for osl in (64.0, 512.0)]
    assert fit_engine(groups) == pytest.approx(true)


def test_what_an_engine_does_not_do_is_not_fitted():
    group = deployments("llama-3.1-8b", "trtllm", {"decode_step_s": 2e-3})
    assert set(fit_engine([group])) == {"prefill_layer_s", "stream_steps", "balance_steps"}
    assert all(getattr(bare(group.target.engine), name) == 0 for name in CONSTANTS)


def test_nothing_to_fit_to_is_said():
    with pytest.raises(CalibrationError, match="no measured deployment"):
        fit_engine([])


def rows(models, wait, lengths=(1024,)):
    """Cases whose measured latencies are predictions, with a longer wait for the first token of some models."""
    cases = pd.DataFrame(
        [
            {"id": f"{m}-{c}-{isl}", "model": m, "hardware": "h100-sxm", "engine": "vllm", "isl": isl, "osl": 256}
            | {"tp": 4, "pp": 1, "dp": 1, "concurrency": c, "shortest": 0.8}
            for m in models
            for c in (1, 8, 64)
            for isl in lengths
        ]
    )
    out = predict_serving_cases(cases)
    slow = cases["model"].map(wait).fillna(0.0)
    return cases.assign(measured_ttft_s=out["ttft_s"] + slow * out["tpot_s"], measured_tpot_s=out["tpot_s"])


def test_a_model_is_predicted_without_its_own_measurements():
    cases = rows(("llama-3.1-8b", "qwen3-32b"), {"qwen3-32b": 40.0}, (256, 8192))
    out, fits = predict_left_out(cases, "model")
    steps = {fit["model"]: fit["stream_steps"] for fit in fits}
    assert steps["llama-3.1-8b"] > 20 > steps["qwen3-32b"]
    late = out["ttft_s"].to_numpy(float) > cases["measured_ttft_s"].to_numpy(float)
    assert late.tolist() == [True] * 6 + [False] * 6


def test_a_case_that_cannot_run_stays_without_a_prediction():
    cases = rows(("llama-3.1-8b", "qwen3-32b"), {})
    cases.loc[1, "tp"] = 3
    out, _ = predict_left_out(cases, "model")
    assert np.isnan(out["ttft_s"]).tolist() == [False, True, False, False, False, False]
    with pytest.raises(CalibrationError, match="none is left"):
        predict_left_out(cases, "hardware")


def separate_rows(models, wait):
    """Cases with separate workers, their TTFT as predicted with longer hand-overs of some models."""
    knobs = {f"{p}_{k}": v for p in ("prefill", "decode") for k, v in {"num_workers": 1, "tp_size": 4}.items()}
    cases = pd.DataFrame(
        [
            {"id": f"{m}-{c}", "model": m, "hardware": "h200-sxm", "engine": "trtllm", "isl": 1024, "osl": 512}
            | {**knobs, "prefill_batch_size": 1, "decode_batch_size": 64, "concurrency": c}
            for m in models
            for c in (1, 8, 48)
        ]
    )
    out = predict_serving_cases(cases)
    late = cases["model"].map(wait).fillna(0.0)
    return cases.assign(measured_ttft_s=out["ttft_s"] + late * out["tpot_s"], measured_tpot_s=out["tpot_s"])


def test_separate_workers_are_predicted_without_their_own_measurements():
    cases = separate_rows(("llama-3.1-8b", "qwen3-32b"), {"qwen3-32b": 20.0})
    out, fits = predict_left_out(cases, "model")
    assert {fit["model"]: fit["steps"] for fit in fits} == {"llama-3.1-8b": 30.0, "qwen3-32b": HANDOFF.steps}
    late = out["ttft_s"].to_numpy(float) / cases["measured_ttft_s"].to_numpy(float)
    assert np.all(late[:3] > 1.05)
    assert np.all(late[3:] < 0.95)
    assert out["tpot_s"].to_numpy(float) == pytest.approx(cases["measured_tpot_s"].to_numpy(float))
    with pytest.raises(CalibrationError, match="none is left"):
        predict_left_out(cases, "hardware")


def test_both_kinds_of_workers_in_one_file_are_fitted_apart():
    models = ("llama-3.1-8b", "qwen3-32b")
    cases = pd.concat([rows(models, {}), separate_rows(models, {})], ignore_index=True)
    out, fits = predict_left_out(cases, "model")
    assert out["ttft_s"].notna().all()
    assert [("steps" in fit, fit["model"]) for fit in fits] == [(s, m) for s in (False, True) for m in models]
    assert all((fit["steps"], fit["lockstep"]) == dataclasses.astuple(HANDOFF) for fit in fits if "steps" in fit)


def test_a_handover_without_deployments_is_not_fitted():
    with pytest.raises(CalibrationError, match="no measured deployment"):
        fit_handoff([])
