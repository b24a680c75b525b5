"""Devices predicted from others: whose cases count, what carries over, and that the command says the same."""

import csv
import io

import numpy as np
import pandas as pd
import pytest

from perfmodel.cli.main import main
from perfmodel.costs.gemm import gemm_tiled
from perfmodel.errors import CalibrationError
from perfmodel.estimate.timing import device_numbers
from perfmodel.hardware.catalog import load_device
from perfmodel.validate.other_devices import nearest_devices, predict_from_others

SIDES = (512, 1536, 4096, 12288)


def cases(efficiency):
    """The same products on several devices, each with a matrix efficiency of its own."""
    frames = []
    for name, share in efficiency.items():
        frame = pd.DataFrame(
            [(m, n, k) for m in (1, 64, 512, 8192) for n in SIDES for k in SIDES], columns=["m", "n", "k"]
        )
        sizes = (frame[side].to_numpy(float) for side in "mnk")
        seconds = gemm_tiled(
            *sizes, **device_numbers(load_device(name), "bf16"), weight_copies=6.0, compute_efficiency=share
        )
        frames.append(frame.assign(op="gemm", hardware=name, engine="mine", dtype="bf16", measured_s=seconds))
    frame = pd.concat(frames, ignore_index=True)
    return frame.assign(id=[f"c{i}" for i in range(len(frame))])


def errors(frame):
    error = np.abs(predict_from_others(frame)["time_s"] / frame["measured_s"] - 1.0)
    return error.groupby(frame["hardware"]).mean()


def test_the_same_architecture_counts_before_a_relative_and_that_before_all_others():
    names = ("h100-sxm", "h200-sxm", "l40s", "rtx-pro-6000", "a100-sxm", "b200-sxm")
    devices = [load_device(name) for name in names]
    nearest = {d.id: [other.id for other in nearest_devices(d, devices)] for d in devices}
    assert nearest["h100-sxm"] == ["h200-sxm"]
    assert nearest["l40s"] == ["rtx-pro-6000"]
    assert nearest["rtx-pro-6000"] == ["l40s"]
    assert set(nearest["a100-sxm"]) == {*names} - {"a100-sxm"}
    assert [d.id for d in nearest_devices(load_device("rtx-4090"), devices)] == ["l40s"]
    with pytest.raises(CalibrationError, match="no device but l40s"):
        nearest_devices(devices[2], [devices[2]])


def test_a_prediction_does_not_know_the_measurements_of_its_own_device():
    frame = cases({"h100-sxm": 0.8, "h200-sxm": 0.8})
    own = frame["hardware"] == "h100-sxm"
    before = predict_from_others(frame)
    after = predict_from_others(frame.assign(measured_s=frame["measured_s"].where(~own, 7.0 * frame["measured_s"])))
    np.testing.assert_array_equal(before.loc[own, "time_s"], after.loc[own, "time_s"])
    assert (before.loc[~own, "time_s"] != after.loc[~own, "time_s"]).any()
    assert errors(frame).max() < 0.06


def test_between_relatives_the_matrix_rate_goes_with_the_power():
    share = {name: load_device(name) for name in ("l40s", "rtx-pro-6000")}
    watts = {name: device.power_w / device.peak_flops["bf16"] for name, device in share.items()}
    lawful = {"l40s": 0.7, "rtx-pro-6000": 0.7 * watts["rtx-pro-6000"] / watts["l40s"]}
    assert errors(cases(lawful)).max() < 0.06
    assert errors(cases(dict.fromkeys(lawful, 0.7))).max() > 0.06


def test_a_device_without_others_has_a_reason_and_a_roofline():
    found = predict_from_others(cases({"h100-sxm": 0.8}))
    assert found["time_s"].isna().all()
    assert found["reason"].str.contains("no device but h100-sxm").all()
    assert (found["roofline_s"] > 0.0).all()


def test_the_command_scores_them_and_refuses_what_contradicts_itself(capsys, tmp_path):
    frame = cases({"h100-sxm": 0.8, "h200-sxm": 0.7})
    frame.to_csv(tmp_path / "cases.csv", index=False)
    command = ["validate", "operators", str(tmp_path / "cases.csv"), "--by", "hardware", "--format", "csv"]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--leave-out", "hardware"])
    assert not stop.value.code
    rows = {row["group"]: float(row["mape"]) for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    for name, error in errors(frame).items():
        assert rows[name] == pytest.approx(100.0 * error, abs=0.01)
    for wrong, message in ((["engine"], "hardware, not"), (["hardware", "--held-out"], "give one of them")):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--leave-out", *wrong])
        assert stop.value.code
        assert message in " ".join(capsys.readouterr().err.split())
