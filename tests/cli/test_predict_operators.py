"""`perfmodel predict operators` and `validate operators` on small files, and their agreement with plain arithmetic."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perfmodel.cli.main import main

CASES = pd.DataFrame(
    [
        {
            "id": "a",
            "op": "gemm",
            "hardware": "h100-sxm",
            "engine": "trtllm",
            "dtype": "bf16",
            "m": 64,
            "n": 4096,
            "k": 4096,
        },
        {"id": "b", "op": "gemm", "hardware": "tpu-v5p", "engine": "", "dtype": "bf16", "m": 64, "n": 4096, "k": 4096},
        {
            "id": "c",
            "op": "decode_attention",
            "hardware": "h200-sxm",
            "engine": "vllm",
            "dtype": "bf16",
            "kv_dtype": "bf16",
            "batch": 8,
            "tokens": 1,
            "context": 4096,
            "heads": 32,
            "kv_heads": 8,
            "head_dim": 128,
            "window": 0,
        },
        {
            "id": "d",
            "op": "prefill_mla",
            "hardware": "b200-sxm",
            "engine": "trtllm",
            "dtype": "bf16",
            "kv_dtype": "fp8",
            "batch": 1,
            "tokens": 4096,
            "context": 4096,
            "heads": 16,
        },
        {
            "id": "e",
            "op": "moe",
            "hardware": "h100-sxm",
            "engine": "trtllm",
            "dtype": "fp8",
            "tokens": 256,
            "hidden": 4096,
            "intermediate": 1536,
            "topk": 8,
            "experts": 128,
            "tp": 1,
            "ep": 4,
            "routing": "balanced",
        },
        {
            "id": "f",
            "op": "all_reduce",
            "hardware": "h100-sxm",
            "engine": "nccl",
            "dtype": "fp16",
            "ranks": 8,
            "nbytes": 2**24,
        },
        {
            "id": "g",
            "op": "dispatch",
            "hardware": "h100-sxm",
            "engine": "deepep",
            "mode": "normal",
            "nodes": 1,
            "tokens": 512,
            "hidden": 7168,
            "topk": 8,
            "experts": 256,
            "sms": 20,
        },
    ]
)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


def predict(capsys, frame, tmp_path):
    file, result = tmp_path / "cases.csv", tmp_path / "out.csv"
    frame.to_csv(file, index=False)
    code, _, err = run(capsys, "predict", "operators", file, "--output", result)
    return code, pd.read_csv(result) if result.exists() else None, err


def test_every_family_gets_a_time_and_says_what_it_rests_on(capsys, tmp_path):
    code, table, err = predict(capsys, CASES, tmp_path)
    assert code == 0
    assert err == ""
    assert table["id"].tolist() == list("abcdefg")
    assert (table["time_s"] > 0).all()
    assert (table["time_s"] >= 0.999 * table["roofline_s"]).all()
    assert table["basis"].isin(["measured", "default", "datasheet"]).all()
    assert table["reason"].isna().all()


def test_sizes_beyond_those_of_the_fit_are_named_by_row(capsys, tmp_path):
    large = CASES.copy()
    large.loc[0, ["m", "n"]] = 2**17, 2**18
    large.loc[2, "context"] = 2**20
    code, table, err = predict(capsys, large, tmp_path)
    assert code == 0
    assert table["beyond"].fillna("").tolist() == ["tokens out_features", "", "context", "", "", "", ""]
    assert table["time_s"].notna().all()
    assert "2 of 7 rows are beyond the sizes" in err
    assert "a: tokens out_features" in err


def test_rows_that_cannot_be_predicted_carry_a_reason_and_lose_no_other_row(capsys, tmp_path):
    bad = CASES.astype(object)
    bad.loc[0, "m"] = -4
    bad.loc[1, "hardware"] = "h101-sxm"
    bad.loc[3, "dtype"] = "fp5"
    bad.loc[4, "routing"] = "lumpy"
    bad.loc[5, "op"] = "all_shuffle"
    code, table, err = predict(capsys, bad, tmp_path)
    assert code == 0
    assert "5 of 7 rows have no number" in err
    assert table["time_s"].isna().tolist() == [True, True, False, True, True, True, False]
    reasons = table["reason"].tolist()
    assert reasons[0] == "m must be a positive number"
    assert "unknown device 'h101-sxm'" in reasons[1]
    assert "fp5" in reasons[3]
    assert "lumpy" in reasons[4]
    assert "all_shuffle" in reasons[5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is not a CSV table"),
        ("id,op,hardware\n", "has a header and no cases"),
        ("id,op\na,gemm\n", "column 'hardware' is missing"),
        ("id,op,hardware\na,gemm,h100-sxm\na,gemm,h100-sxm\n", "line 3: id 'a' is there twice"),
    ],
)
def test_unreadable_files_are_one_line(capsys, tmp_path, text, expected):
    file = tmp_path / "cases.csv"
    file.write_text(text)
    code, out, err = run(capsys, "predict", "operators", file)
    assert code == 2
    assert out == ""
    assert expected in err
    assert err.count("\n") == 1


def test_a_missing_file_is_one_line(capsys, tmp_path):
    code, _, err = run(capsys, "predict", "operators", tmp_path / "none.csv")
    assert (code, err.count("\n")) == (2, 1)
    assert "no such file" in err


def test_predictions_never_read_measured_columns(capsys, tmp_path):
    first = predict(capsys, CASES, tmp_path)[1]
    second = predict(capsys, CASES.assign(measured_s=np.arange(1.0, 8.0)), tmp_path)[1]
    pd.testing.assert_frame_equal(first, second)


def test_validate_reports_the_errors_of_the_predictions(capsys, tmp_path):
    table = predict(capsys, CASES, tmp_path)[1]
    factors = np.array([1.1, 0.9, 1.0, 1.25, 0.8, 1.0, 2.0])
    measured = CASES.assign(measured_s=table["time_s"] * factors)
    file = tmp_path / "measured.csv"
    measured.to_csv(file, index=False)
    code, out, _ = run(capsys, "validate", "operators", file, "--format", "json")
    assert code == 0
    rows = {row["group"]: row for row in json.loads(out)["errors_percent"]}
    expected = 100 * np.abs(1 / factors - 1)
    assert rows["ALL"]["cases"] == 7
    assert rows["ALL"]["coverage"] == 100.0
    assert rows["ALL"]["mape"] == pytest.approx(expected.mean(), abs=0.01)
    assert rows["ALL"]["median"] == pytest.approx(np.median(expected), abs=0.01)
    assert rows["gemm h100-sxm trtllm bf16"]["mape"] == pytest.approx(expected[0], abs=0.01)
    assert "roofline_mape" in rows["ALL"]


def test_the_public_scorer_agrees_with_validate(capsys, tmp_path, cases_dir):
    scorer = Path(cases_dir).parent / "tools" / "score.py"
    if not scorer.is_file():
        pytest.skip("the scorer is not beside the case files")
    sample = pd.read_csv(Path(cases_dir) / "operators" / "collectives.csv").iloc[::7]
    cases, predictions = tmp_path / "cases.csv", tmp_path / "predictions.csv"
    sample.to_csv(cases, index=False)
    assert run(capsys, "predict", "operators", cases, "-o", predictions)[0] == 0
    out = run(capsys, "validate", "operators", cases, "--format", "json")[1]
    ours = {row["group"]: row for row in json.loads(out)["errors_percent"]}
    theirs = json.loads(
        subprocess.run(
            [sys.executable, scorer, "operators", cases, predictions, "--json"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ,
        ).stdout
    )
    for name, row in {**theirs["by"], "ALL": theirs["all"]}.items():
        for key in ("mape", "median", "p90", "bias", "coverage"):
            assert ours[name][key] == pytest.approx(row["time"][key], abs=0.011), (name, key)


def test_predictions_go_to_stdout_without_an_output(capsys, tmp_path):
    file = tmp_path / "cases.csv"
    CASES.to_csv(file, index=False)
    code, out, _ = run(capsys, "predict", "operators", file)
    assert code == 0
    assert len(pd.read_csv(io.StringIO(out))) == 7


@pytest.mark.parametrize("label", ["zipf", "inf", "power_law_nan"])
def test_a_routing_that_nobody_knows_costs_its_row_alone(tmp_path, capsys, label):
    path = tmp_path / "cases.csv"
    path.write_text(
        "id,op,hardware,engine,dtype,tokens,hidden,intermediate,experts,topk,tp,ep,routing\n"
        f"a,moe,h100-sxm,trtllm,fp8,512,4096,1536,128,8,1,8,{label}\n"
        "b,moe,h100-sxm,trtllm,fp8,512,4096,1536,128,8,1,8,balanced\n"
    )
    with pytest.raises(SystemExit) as stop:
        main(["predict", "operators", str(path)])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert stop.value.code == 0
    assert rows[0]["time_s"] == ""
    assert rows[0]["reason"].startswith(f"routing '{label}': use 'balanced'")
    assert float(rows[1]["time_s"]) > 0
    assert rows[1]["reason"] == ""
