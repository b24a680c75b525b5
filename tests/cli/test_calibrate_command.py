"""`perfmodel calibrate` from the file to the prediction: what it writes, says and refuses."""

import csv
import io
import tomllib

import numpy as np
import pandas as pd
import pytest

from perfmodel.cli.main import main
from perfmodel.costs.gemm import gemm_tiled
from perfmodel.estimate.timing import device_numbers
from perfmodel.hardware.catalog import load_device

DEVICE = "a100-pcie"  # nobody's kernels were measured on it


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


@pytest.fixture
def cases():
    """GEMMs of a machine that launches slowly and multiplies at two thirds of its peak, measured with 2 % noise."""
    sides = (1024, 2560, 6144, 16384)
    frame = pd.DataFrame(
        [(m, n, k) for m in (1, 16, 128, 1024, 8192) for n in sides for k in sides], columns=["m", "n", "k"]
    )
    frame = frame.assign(op="gemm", hardware=DEVICE, engine="torch", version="2.13.0", dtype="bf16")
    numbers = device_numbers(load_device(DEVICE), "bf16")
    seconds = gemm_tiled(
        frame.m.to_numpy(), frame.n.to_numpy(), frame.k.to_numpy(), **numbers,
        launch_s=1e-5, compute_efficiency=0.65, memory_efficiency=0.6,
    )  # fmt: skip
    noise = np.exp(0.02 * np.random.default_rng(1).standard_normal(len(frame)))
    frame.insert(0, "id", [f"c{i}" for i in frame.index])
    return frame.assign(measured_s=seconds * noise)


def written(frame, path):
    frame.to_csv(path, index=False)
    return path


def predicted(capsys, frame, path, *arguments):
    file = written(frame.drop(columns="measured_s"), path)
    code, out, err = run(capsys, "predict", "operators", file, *arguments)
    assert code == 0
    assert err == ""
    return pd.read_csv(io.StringIO(out))


def test_from_measurements_to_better_predictions(capsys, tmp_path, cases):
    fitted, held_out = cases[(cases.n != 2560) & (cases.k != 2560)], cases[(cases.n == 2560) | (cases.k == 2560)]
    before = predicted(capsys, held_out, tmp_path / "held-out.csv")
    assert not set(before["basis"]) & {"measured"}

    folder = tmp_path / "mine" / "calibrations" / DEVICE
    folder.mkdir(parents=True)
    code, out, err = run(
        capsys, "calibrate", written(fitted, tmp_path / "bench.csv"), "--hardware", DEVICE, "--engine", "torch",
        "-o", folder / "torch.toml", "--dataset", "my bench",
    )  # fmt: skip
    assert (code, out) == (0, "")
    header, row = err.splitlines()
    assert header.split("  ")[0].strip() == "operator"
    assert row.split()[:3] == ["gemm", "bf16", "45"]
    errors = [float(word) for word in row.split()[3:] if word != "%"]
    assert errors[0] > 20 > 5 > errors[2]
    assert [path.name for path in folder.iterdir()] == ["torch.toml"]
    assert 'dataset = "my bench"' in (folder / "torch.toml").read_text()

    after = predicted(capsys, held_out, tmp_path / "held-out.csv", "--profiles", tmp_path / "mine")
    assert set(after["basis"]) == {"measured"}
    assert set(after["kernel"]) == {"torch/2.13.0/bf16"}
    truth = held_out["measured_s"].to_numpy()
    error_before, error_after = (np.abs(table["time_s"] / truth - 1).mean() for table in (before, after))
    assert error_after < 0.05
    assert error_after < 0.3 * error_before


def test_without_an_output_file_the_calibration_goes_to_stdout_alone(capsys, tmp_path, cases):
    file = written(cases, tmp_path / "bench.csv")
    code, out, err = run(capsys, "calibrate", file, "--hardware", "A100 PCIe", "--engine", "torch")
    assert code == 0
    document = tomllib.loads(out)
    assert (document["device"], document["engine"]) == (DEVICE, "torch")
    (kernel,) = document["kernel"]
    assert kernel["provenance"]["dataset"] == "bench.csv"
    assert kernel["provenance"]["points"] == 80
    assert kernel["coefficients"]["launch_s"] == pytest.approx(1e-5, rel=0.3)
    assert "on held-out shapes" in err


def test_a_fit_that_knows_no_better_says_so(capsys, tmp_path, cases):
    code, out, _ = run(capsys, "predict", "operators", written(cases, tmp_path / "bench.csv"))
    assert code == 0
    known = [float(row["time_s"]) for row in csv.DictReader(io.StringIO(out))]
    file = written(cases.assign(measured_s=known), tmp_path / "bench.csv")
    code, _, err = run(capsys, "calibrate", file, "--hardware", DEVICE, "--engine", "torch")
    assert code == 0
    assert "1 of 1 predict held-out shapes no better than what was known before" in err


BAD = {
    "no file": (None, [], "no such file"),
    "no cases": (lambda f: f.iloc[:0], [], "has a header and no cases"),
    "no op": (lambda f: f.drop(columns="op"), [], "column 'op' is missing"),
    "no times": (lambda f: f.drop(columns="measured_s"), [], "column 'measured_s' is missing"),
    "few": (lambda f: f.iloc[:12], [], "12 cases are too few"),
    "milliseconds": (lambda f: f.assign(measured_s=f.measured_s * 1e3), [], "measured_s must be in seconds"),
    "id twice": (lambda f: f.assign(id="x"), [], "line 3: id 'x' is there twice"),
    "copies": (lambda f: f.assign(op="copy"), [], "op 'copy' is none of"),
    "hardware": (lambda f: f, ["--hardware", "a100-pcei"], "unknown device 'a100-pcei'. Did you mean"),
    "other hardware": (lambda f: f, ["--hardware", "l4"], "no case has hardware 'l4'; the file has a100-pcie"),
    "engine": (lambda f: f, ["--engine", "vllm"], "no case has engine 'vllm'; the file has torch"),
    "output": (lambda f: f, ["-o", "/nonexistent/x.toml"], "cannot be written"),
}


@pytest.mark.parametrize(("change", "arguments", "expected"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_with_exit_2_and_writes_nothing(
    capsys, tmp_path, cases, change, arguments, expected
):  # fmt: skip
    file = tmp_path / "bench.csv"
    if change:
        written(change(cases), file)
    defaults = ["--hardware", DEVICE, "--engine", "torch", "-o", tmp_path / "out.toml"]
    code, out, err = run(capsys, "calibrate", file, *defaults, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("perfmodel: ")
    assert err.count("\n") == 1
    assert expected in err
    assert not (tmp_path / "out.toml").exists()
