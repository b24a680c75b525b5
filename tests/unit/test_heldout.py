"""Held-out errors: what a fit may see, what it chooses, and that the command says the same."""

import csv
import io

import numpy as np
import pandas as pd
import pytest

from perfmodel.calibrate.families import device_case
from perfmodel.calibrate.selection import ALWAYS, fit_selected, menu
from perfmodel.cli.main import main
from perfmodel.costs.gemm import gemm_tiled
from perfmodel.costs.registry import get_formula
from perfmodel.errors import PerfmodelError
from perfmodel.estimate.timing import device_numbers
from perfmodel.hardware.catalog import load_device
from perfmodel.hardware.kernels import KernelCalibration
from perfmodel.validate.heldout import known_attributes, predict_held_out

H100 = load_device("h100-sxm")
SIDES = (512, 1536, 4096, 12288)
GROUP = dict.fromkeys(("version", "kernel", "mode", "kv_dtype", "system"), "")
GROUP |= {"op": "gemm", "hardware": "h100-sxm", "engine": "mine", "dtype": "bf16"}


def cases(noise=0.02, **attributes):
    """Products of an H100 that launches slowly and multiplies at two thirds of its peak."""
    frame = pd.DataFrame([(m, n, k) for m in (1, 64, 512, 8192) for n in SIDES for k in SIDES], columns=["m", "n", "k"])
    truth = {"launch_s": 8e-6, "compute_efficiency": 0.66, **attributes}
    sizes = (frame[name].to_numpy(float) for name in "mnk")
    seconds = gemm_tiled(*sizes, **device_numbers(H100, "bf16"), weight_copies=6.0, **truth)
    seconds = seconds * np.exp(noise * np.random.default_rng(1).standard_normal(len(frame)))
    frame = frame.assign(op="gemm", hardware="h100-sxm", engine="mine", dtype="bf16", measured_s=seconds)
    return frame.assign(id=[f"c{i}" for i in range(len(frame))])


def kernel(format="bf16", **attributes):
    return KernelCalibration("gemm", "any", "", format, "", "1", "gemm_tiled", {}, attributes)


def test_unseen_shapes_of_a_lawful_kernel_are_predicted_within_its_noise():
    frame = cases()
    found = predict_held_out(frame)
    error = np.abs(found["time_s"] / frame["measured_s"] - 1.0)
    assert error.mean() < 0.06
    assert (found["roofline_s"] < frame["measured_s"]).all()
    assert found["coefficients"].between(2, 12).all()
    assert (found["reason"] == "").all()


def test_a_prediction_does_not_know_the_measurements_of_its_own_shape():
    frame = cases()
    shape = (frame["n"] == 4096) & (frame["k"] == 1536)
    spoilt = frame.assign(measured_s=frame["measured_s"].where(~shape, 7.0 * frame["measured_s"]))
    before, after = predict_held_out(frame), predict_held_out(spoilt)
    np.testing.assert_array_equal(before.loc[shape, "time_s"], after.loc[shape, "time_s"])
    assert (before.loc[~shape, "time_s"] != after.loc[~shape, "time_s"]).any()


def test_rows_that_cannot_be_read_have_a_reason_and_the_others_a_number():
    frame = cases().astype({"m": object})
    frame.loc[3, "m"] = "many"
    found = predict_held_out(pd.concat([frame, frame.iloc[:1].assign(op="copy")]))
    assert found["time_s"].isna().sum() == 2
    assert found.loc[3, "reason"] == "m must be a positive number"
    assert "op 'copy' is none of" in found["reason"].iloc[-1]


def test_the_menu_is_what_kernels_of_these_formats_do_the_commonest_first():
    library, rows = {"tiles": "library"}, {"tiles": "rows_256"}
    known = [kernel(**rows), kernel(**library), kernel(**library), kernel("fp8", tiles="square")]
    assert [start.attributes for start in menu(GROUP, known)] == [library, rows]
    assert next(start.attributes for start in menu({**GROUP, "dtype": "sq"}, known)) == library
    assert all(not start.coefficients for start in menu(GROUP, known_attributes()))
    (exchange,) = menu({**GROUP, "op": "combine", "mode": "normal"}, known)
    assert (exchange.form.name, exchange.attributes["element_bytes"]) == ("deepep_normal", 2.0)
    assert {s.form.name for s in menu({**GROUP, "op": "all_reduce"}, known)} == {"custom_all_reduce"}
    assert {s.form.name for s in menu({**GROUP, "op": "all_reduce", "engine": "nccl"}, known)} == {"nccl_collective"}


def test_attributes_are_chosen_by_the_rows_and_coefficients_that_do_nothing_are_left():
    frame = cases(tiles="rows_128", split_k=False)
    case = device_case(frame, GROUP)
    known = [kernel(tiles="library", split_k=True), kernel(tiles="rows_128", split_k=False)]
    measured = frame["measured_s"].to_numpy()
    found = fit_selected(
        menu(GROUP, known), case.sizes, case.numbers, measured, [frame["n"].to_numpy(), frame["k"].to_numpy()]
    )
    assert found.start.attributes["tiles"] == "rows_128"
    unused = {"split_s", "reduce_bandwidth", "quantise_efficiency", "quantise_row_s", "wave_softness"}
    assert not unused & set(found.needed)
    assert set(found.needed) >= set(ALWAYS) & {c.name for c in get_formula("gemm_tiled").coefficients}
    assert found.result.coefficients["compute_efficiency"] == pytest.approx(0.66, rel=0.1)
    np.testing.assert_allclose(found.seconds(case.sizes, case.numbers), measured, rtol=0.25)


def test_a_host_in_the_loop_that_takes_a_hundred_launches_is_found():
    frame = cases(launch_s=3e-4, host="constant", split_k=False)
    case = device_case(frame, GROUP)
    tried = menu(GROUP, [kernel(host="hidden", split_k=False), kernel(host="constant", split_k=False)])
    keys = [frame["n"].to_numpy(), frame["k"].to_numpy()]
    found = fit_selected(tried, case.sizes, case.numbers, frame["measured_s"].to_numpy(), keys)
    assert found.start.attributes["host"] == "constant"
    assert found.result.coefficients["launch_s"] == pytest.approx(3e-4, rel=0.02)


def test_a_case_of_an_unknown_device_is_refused():
    with pytest.raises(PerfmodelError, match="unknown device"):
        device_case(cases(), {**GROUP, "hardware": "h1000"})


def test_the_command_scores_the_held_out_predictions(capsys, tmp_path):
    frame = cases()
    frame.to_csv(tmp_path / "cases.csv", index=False)
    with pytest.raises(SystemExit) as stop:
        main(["validate", "operators", str(tmp_path / "cases.csv"), "--held-out", "--format", "csv"])
    assert not stop.value.code
    row = next(iter(csv.DictReader(io.StringIO(capsys.readouterr().out))))
    expected = 100.0 * np.abs(predict_held_out(frame)["time_s"] / frame["measured_s"] - 1.0).mean()
    assert float(row["mape"]) == pytest.approx(expected, abs=0.01)
    assert float(row["coverage"]) == 100.0
