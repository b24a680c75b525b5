"""Operator calibration: what is refused and why, and what synthetic measurements with known coefficients give back."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

from perfmodel.calibrate.families import FAMILY_OF, link_numbers
from perfmodel.calibrate.files import calibration_toml
from perfmodel.calibrate.operators import FEWEST_POINTS, FEWEST_SHAPES, calibrate_operators
from perfmodel.costs.registry import get_formula
from perfmodel.errors import CalibrationError
from perfmodel.estimate.timing import call_form, device_numbers
from perfmodel.hardware.catalog import find_profile, load_device, load_system
from perfmodel.hardware.kernel_files import load_kernel_table, read_calibrations
from perfmodel.hardware.kernels import KernelCalibration, KernelTable

H100 = load_device("h100-sxm")
KNOWN = load_kernel_table(H100.id, H100.architecture)


def grid(**columns):
    """Every combination of the columns' values."""
    values = [column if isinstance(column, (list, tuple)) else [column] for column in columns.values()]
    return pd.DataFrame(itertools.product(*values), columns=list(columns))


def gemms(dtype="bf16", sides=(512, 2048, 6144, 16384)):
    return grid(op="gemm", dtype=dtype, m=[1, 16, 100, 1024, 8192], n=sides, k=sides)


def attentions(op):
    heads = pd.DataFrame([(8, 1), (16, 2), (32, 8), (32, 4), (16, 16), (64, 8)], columns=["heads", "kv_heads"])
    sizes = {"batch": [1, 8, 32], "context": [512, 2048, 8192]}
    frame = grid(op=op, dtype="bf16", kv_dtype="bf16", head_dim=128, window=0, **sizes).merge(heads, how="cross")
    return frame.assign(tokens=frame["context"] if op == "prefill_attention" else 1)


def collectives(op):
    return grid(op=op, dtype="bf16", ranks=[2, 4, 8], nbytes=[2**power for power in range(10, 30)])


def experts():
    shapes = pd.DataFrame(
        [(4096, 1536, 8, 128), (7168, 2048, 8, 256), (2048, 768, 8, 128), (4096, 14336, 2, 8), (2880, 2880, 4, 128),
         (5120, 8192, 1, 16)],
        columns=["hidden", "intermediate", "topk", "experts"],
    )  # fmt: skip
    sizes = {"tokens": [1, 16, 128, 1024, 8192], "tp": [1, 2], "routing": ["balanced", "power_law_1.2"]}
    return grid(op="moe", dtype="bf16", ep=1, **sizes).merge(shapes, how="cross")


def measured(frame, scale=None, *, device=H100, noise=0.03, seed=3, **attributes):
    """Cases with the times of their family's formula, some coefficients scaled, and log-normal noise."""
    frame = frame.assign(engine="mine", hardware=device.id, version="1")
    first = frame.iloc[0]
    family = FAMILY_OF[first["op"]]
    numbers = {**device_numbers(device, first["dtype"]), **link_numbers(load_system(device.default_system))}
    form = get_formula(family.form)
    changed = {name: value * (scale or {}).get(name, 1.0) for name, value in form.defaults().items()}
    kernel = KernelCalibration(
        first["op"], "mine", "", first["dtype"], "", "1", form.name, changed, {"op": first["op"], **attributes}
    )
    sizes = {name: value for name, value in family.sizes(frame, device).items() if value is not None}
    times = call_form(kernel, sizes, numbers)
    return frame.assign(measured_s=times * np.exp(noise * np.random.default_rng(seed).standard_normal(len(frame))))


def calibrate(frame, kernels=KNOWN, *, device=H100, engine="mine"):
    return calibrate_operators(frame, device, engine, kernels, source="synthetic")[0]


# What is refused, each with its reason. One good file, spoilt in one way at a time.

GOOD = measured(gemms())


def test_the_file_that_is_spoilt_below_is_good():
    (item,) = calibrate(GOOD)
    assert item.kernel["provenance"]["points"] == len(GOOD)


FOUR_SHAPES = GOOD.query("n < 4096 and k < 4096")
SECONDS = GOOD["measured_s"]
SCATTER = np.exp(np.random.default_rng(0).uniform(0.0, 4.0, len(GOOD)))


def spoilt(column, row, value):
    """The good file with one wrong value."""
    frame = GOOD.astype({column: object})
    frame.loc[row, column] = value
    return frame


REFUSED = {
    "too few points": (GOOD.iloc[: FEWEST_POINTS - 1], f"gemm bf16 1: 19 cases are too few; .* {FEWEST_POINTS}"),
    "too few shapes": (FOUR_SHAPES, f"4 distinct shapes are too few to hold any out; {FEWEST_SHAPES} are needed"),
    "column missing": (GOOD.drop(columns="k"), "gemm bf16 1: column 'k' is missing"),
    "column empty": (GOOD.assign(k=np.nan), "column 'k' is missing"),
    "times missing": (GOOD.drop(columns="measured_s"), "column 'measured_s' is missing"),
    "milliseconds": (GOOD.assign(measured_s=SECONDS * 1e3), "times the least time .* milliseconds"),
    "microseconds": (GOOD.assign(measured_s=SECONDS * 1e6), "times the least time .* must be in seconds"),
    "kiloseconds": (GOOD.assign(measured_s=SECONDS * 1e-3), "of the least time .* must be in seconds"),
    "scattered": (GOOD.assign(measured_s=SECONDS * SCATTER), "is off by .* in the median case"),
    "no number": (spoilt("m", 4, "x"), "1 of 80 values of m are no positive numbers, the first in data row 5"),
    "negative time": (spoilt("measured_s", 7, -1.0), "1 of 80 values of measured_s .* data row 8"),
    "no time": (GOOD.assign(measured_s=SECONDS.where(GOOD.index > 2)), "3 of 80 values of measured_s .* row 1"),
    "infinite time": (spoilt("measured_s", 5, np.inf), "1 of 80 values of measured_s .* row 6"),
    "size of zero": (spoilt("n", 9, 0), "1 of 80 values of n .* data row 10"),
    "unknown op": (GOOD.assign(op="copy"), "op 'copy' is none of gemm, "),
    "unknown dtype": (GOOD.assign(dtype="fp9"), "dtype 'fp9' is none of "),
    "other hardware": (GOOD.assign(hardware="l4"), "no case has hardware 'h100-sxm'; the file has l4"),
    "other engine": (GOOD.assign(engine="vllm"), "no case has engine 'mine'; the file has vllm"),
}


@pytest.mark.parametrize(("cases", "reason"), REFUSED.values(), ids=REFUSED)
def test_nonsense_is_refused_with_the_reason(cases, reason):
    with pytest.raises(CalibrationError, match=reason):
        calibrate(cases)


def test_the_row_named_is_that_of_the_file_and_not_of_the_selection():
    others = GOOD.iloc[:10].assign(hardware="l4")
    spoilt = pd.concat([others, GOOD.assign(measured_s=GOOD.measured_s.where(GOOD.index != 4, -1.0))])
    with pytest.raises(CalibrationError, match="data row 15"):
        calibrate(spoilt)


@pytest.mark.parametrize(
    ("frame", "column", "value", "reason"),
    [
        (experts(), "routing", None, "column 'routing' is missing"),
        (experts(), "routing", "even", "routing 'even': use 'balanced'"),
        (attentions("decode_attention"), "kv_dtype", None, "attention cases need the column kv_dtype"),
        (attentions("decode_attention"), "kv_dtype", "fp7", "kv_dtype 'fp7' is not one of"),
        (collectives("all_reduce"), "ranks", None, "column 'ranks' is missing"),
    ],
)
def test_columns_of_words_are_refused_too(frame, column, value, reason):
    cases = measured(frame)
    cases = cases.drop(columns=column) if value is None else cases.assign(**{column: value})
    with pytest.raises(CalibrationError, match=reason):
        calibrate(cases)


def test_a_format_that_the_device_cannot_multiply_is_refused_by_name():
    device = dataclasses.replace(H100, peak_flops={"fp64": 1e13})
    with pytest.raises(Exception, match="bf16"):
        calibrate(GOOD, device=device)


def test_small_messages_are_far_from_the_roofline_and_still_seconds():
    small = grid(op="all_reduce", dtype="bf16", ranks=[2, 4, 8], nbytes=[2**power for power in range(0, 14)])
    cases = measured(small)
    assert calibrate(cases)[0].kernel["provenance"]["points"] == len(small)
    with pytest.raises(CalibrationError, match="must be in seconds"):
        calibrate(cases.assign(measured_s=cases.measured_s * 1e3))
    # A thousandth of a launch is still above the roofline of a message of a few bytes.
    with pytest.raises(CalibrationError, match="of what known kernels take; measured_s must be in seconds"):
        calibrate(cases.assign(measured_s=cases.measured_s * 1e-3).query("nbytes < 500"), KNOWN)


# What is found. The truth lies off the priors, which are the coefficients measured on other software.

TRUTHS = {
    "gemm": (gemms(), {"launch_s": 3, "compute_efficiency": 0.6, "memory_efficiency": 0.7, "split_s": 2}, 6),
    "prefill": (attentions("prefill_attention"), {"launch_s": 2, "mma_efficiency": 0.5, "query_passes": 0.1}, 8),
    "decode": (attentions("decode_attention"), {"launch_s": 2, "memory_efficiency": 0.6, "fill_bandwidth": 0.4}, 8),
    "all_reduce": (collectives("all_reduce"), {"floor_s": 3, "efficiency": 0.5, "hop_s": 2}, 8),
    "all_to_all": (collectives("all_to_all"), {"floor_s": 3, "efficiency": 0.5, "hop_s": 2}, 8),
    "moe": (experts(), {"launch_s": 3, "flops_efficiency": 0.6, "bandwidth_efficiency": 0.7}, 12),
}  # fmt: skip


@pytest.mark.parametrize(("frame", "scale", "limit"), TRUTHS.values(), ids=TRUTHS)
def test_a_kernel_that_differs_is_learnt(frame, scale, limit):
    (item,) = calibrate(measured(frame, scale))
    provenance = item.kernel["provenance"]
    assert provenance["heldout_mape"] < limit
    assert provenance["heldout_mape"] < 0.6 * item.before_mape
    assert provenance["points"] == len(frame)


def test_without_noise_and_priors_the_coefficients_themselves_come_back():
    scale = {"launch_s": 2.0, "compute_efficiency": 0.7, "memory_efficiency": 0.8}
    (item,) = calibrate(measured(gemms(sides=(512, 1536, 3072, 6144, 16384)), scale, noise=1e-6), KernelTable())
    defaults = get_formula("gemm_tiled").defaults()
    assert item.kernel["provenance"]["fit_mape"] < 1.0
    for name, factor in scale.items():
        assert item.kernel["coefficients"][name] == pytest.approx(factor * defaults[name], rel=0.05)


def kernel_of(name, **attributes):
    return KernelCalibration("gemm", name, "", "fp8", "", "1", "gemm_tiled", {}, attributes)


def test_attributes_come_from_the_known_kernel_that_fits_best():
    library, rows = {"tiles": "library", "split_k": True}, {"tiles": "rows_256", "split_k": False}
    known = KernelTable((kernel_of("a", **library), kernel_of("b", **rows)))
    for truth in (library, rows):
        (item,) = calibrate(measured(gemms("fp8"), **truth), known)
        assert {name: item.kernel["attributes"][name] for name in truth} == truth


def test_kernels_of_other_devices_are_tried_after_the_own_ones():
    own = KernelTable((kernel_of("a", tiles="rows_256", split_k=False, quantise=False),))
    library = {"tiles": "library", "split_k": True, "quantise": False}
    cases = measured(gemms("fp8"), **library)
    (alone,), ((item,), _) = calibrate(cases, own), calibrate_operators(
        cases, H100, "mine", own, source="synthetic", elsewhere=[kernel_of("b", **library)]
    )  # fmt: skip
    assert alone.kernel["attributes"]["tiles"] == "rows_256"
    assert item.kernel["attributes"] == library
    assert item.kernel["provenance"]["heldout_mape"] < alone.kernel["provenance"]["heldout_mape"]
    assert item.before_mape == alone.before_mape


def test_a_bare_product_need_not_quantise_though_every_known_kernel_does():
    known = KernelTable((kernel_of("a", tiles="library", split_k=True, quantise=True),))
    for truth in (False, True):
        (item,) = calibrate(measured(gemms("fp8"), tiles="library", split_k=True, quantise=truth), known)
        assert item.kernel["attributes"]["quantise"] is truth


def test_families_of_a_file_are_fitted_apart():
    cases = pd.concat([measured(gemms()), measured(gemms("fp8")), measured(gemms()).assign(version="2")])
    kernels = [item.kernel for item in calibrate(cases, KernelTable())]
    assert [(k["operator"], k["format"], k["version"]) for k in kernels] == [
        ("gemm", "bf16", "1"), ("gemm", "fp8", "1"), ("gemm", "bf16", "2"),
    ]  # fmt: skip


def test_a_family_with_too_little_is_left_out_by_name_and_the_others_are_fitted():
    few, narrow = measured(gemms("fp8")).iloc[:12], measured(gemms("nvfp4")).query("n < 4096 and k < 4096")
    fitted, left_out = calibrate_operators(pd.concat([few, GOOD, narrow]), H100, "mine", KNOWN, source="synthetic")
    assert [item.kernel["format"] for item in fitted] == ["bf16"]
    assert fitted == calibrate(GOOD)
    assert "gemm fp8 1: 12 cases are too few" in left_out[0].reason
    assert "gemm nvfp4 1: 4 distinct shapes are too few" in left_out[1].reason
    with pytest.raises(CalibrationError, match=r"gemm fp8 1: 12 cases .*; nor can the other 1 families of the file"):
        calibrate(pd.concat([few, narrow]))
    with pytest.raises(CalibrationError, match="must be in seconds"):  # nonsense is not left out but refused
        calibrate(pd.concat([GOOD, measured(gemms("fp8")).assign(measured_s=1.0)]))


def test_the_same_file_gives_the_same_coefficients():
    first, second = (calibrate(GOOD.copy(), KernelTable())[0] for _ in range(2))
    assert first == second


def test_columns_that_follow_from_the_question_may_be_missing():
    bare = GOOD.drop(columns=["hardware", "engine", "version", "dtype"])
    (item,), (full,) = calibrate(bare, KernelTable()), calibrate(GOOD, KernelTable())
    assert item.kernel["format"] == "bf16"
    assert item.kernel["coefficients"] == full.kernel["coefficients"]


def test_the_copies_that_a_file_names_are_believed():
    # One copy of these weights stays in the cache, two hundred do not: half of the cases are cold.
    frame = gemms(sides=(512, 768, 1024, 1536))
    frame = frame.assign(weight_copies=np.where(np.arange(len(frame)) % 2, 200, 1))
    coefficients = {**get_formula("gemm_tiled").defaults(), "weight_speedup": 4.0, "memory_efficiency": 0.4}
    kernel = KernelCalibration("gemm", "mine", "", "bf16", "", "1", "gemm_tiled", coefficients)
    sizes = FAMILY_OF["gemm"].sizes(frame, H100)
    np.testing.assert_array_equal(sizes["weight_copies"], frame["weight_copies"])
    cases = frame.assign(measured_s=call_form(kernel, sizes, device_numbers(H100, "bf16")))
    told, untold = (calibrate(some, KernelTable())[0] for some in (cases, cases.drop(columns="weight_copies")))
    assert told.kernel["provenance"]["fit_mape"] < 0.5 * untold.kernel["provenance"]["fit_mape"]


@pytest.mark.parametrize("mode", ["normal", "low_latency"])
def test_exchanges_are_fitted_with_the_formula_of_their_mode(mode):
    shapes = pd.DataFrame(
        [(2048, 8, 128), (4096, 8, 128), (7168, 8, 256), (5120, 4, 64), (7168, 4, 128)],
        columns=["hidden", "topk", "experts"],
    )
    sms = 24 if mode == "normal" else 0
    frame = grid(op="dispatch", mode=mode, nodes=1, tokens=[16, 64, 128, 512, 1024], sms=sms).merge(shapes, how="cross")
    times = 3e-5 + frame["tokens"] * frame["hidden"] * frame["topk"] / 100e9
    for kernels in (KNOWN, KernelTable()):
        (item,) = calibrate(frame.assign(measured_s=times, version="1"), kernels)
        assert item.kernel["form"] == f"deepep_{mode}"
        assert item.kernel["kernel"] == mode
        assert item.kernel["attributes"]["element_bytes"] == pytest.approx(1.031, abs=1e-3)
        assert item.kernel["provenance"]["heldout_mape"] < 25.0


def test_a_system_of_the_users_own_is_found(tmp_path):
    (tmp_path / "systems").mkdir()
    text = find_profile("system", "hgx-h100").read_text()
    (tmp_path / "systems" / "my-box.toml").write_text(text.replace('id = "hgx-h100"', 'id = "my-box"'))
    device = dataclasses.replace(H100, default_system="my-box")
    assert calibrate_operators(GOOD, device, "mine", KNOWN, source="x", profiles=tmp_path)[0]


def test_what_is_written_is_read_back(tmp_path):
    cases = pd.concat(
        [measured(gemms()), measured(collectives("all_gather")), measured(attentions("decode_attention"))]
    )
    fitted = calibrate(cases)
    file = tmp_path / "mine.toml"
    owner = {"device": H100.id, "engine": "mine"}
    file.write_text(calibration_toml((item.kernel for item in fitted), owner=owner))
    for row, item in zip(read_calibrations(file), fitted, strict=True):
        assert (row.operator, row.engine, row.format, row.version) == (item.kernel["operator"], "mine", "bf16", "1")
        assert row.form == item.kernel["form"]
        assert dict(row.attributes) == item.kernel["attributes"]
        assert row.coefficients == pytest.approx(item.kernel["coefficients"], rel=1e-4)
        assert row.provenance["points"] == item.kernel["provenance"]["points"]
        assert row.provenance["dataset"] == "synthetic"
        low, high = row.provenance["range"][{"gemm": "tokens", "all_gather": "nbytes"}.get(row.operator, "context")]
        assert 0 < low < high
