"""Defaults of a device that nobody calibrated, scaled to the rates that it was measured to reach."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.errors import ProfileError
from perfmodel.estimate.kernel_checks import check_kernel, load_kernels
from perfmodel.estimate.sustained import LARGE, at_sustained_rates
from perfmodel.estimate.timing import call_form, default_cores, device_numbers
from perfmodel.hardware import load_device, load_system
from perfmodel.hardware.catalog import read_profile
from perfmodel.hardware.places import builtin_directory


@pytest.mark.parametrize("name", ["mi300x", "mi325x", "mi355x", "gaudi3"])
def test_a_large_product_reaches_the_measured_rate(name: str) -> None:
    device = load_device(name)
    row = at_sustained_rates(load_kernels(name, device.architecture), device).find("gemm", "bf16")
    assert row is not None
    numbers = device_numbers(device, "bf16") | {"cores": default_cores(device)}
    rate = 2.0 * np.prod(list(LARGE.values())) / float(call_form(row, LARGE, numbers))
    assert rate == pytest.approx(device.sustained_flops["bf16"], rel=0.01)


def test_scaled_defaults_are_still_calibrations_that_their_formulas_take() -> None:
    for name in ("mi300x", "gaudi2"):
        device = load_device(name)
        for row in at_sustained_rates(load_kernels(name, device.architecture), device).defaults:
            check_kernel(row)


def test_a_device_without_measured_rates_and_its_own_calibrations_are_left_alone() -> None:
    device = load_device("h100-sxm")
    table = load_kernels("h100-sxm", "hopper")
    assert at_sustained_rates(table, device) is table
    pretended = replace(device, sustained_flops={"bf16": 1e14}, sustained_bandwidth=1e12)
    assert at_sustained_rates(table, pretended).measured is table.measured


def test_no_default_is_above_the_measured_bandwidth() -> None:
    device = load_device("mi300x")
    share = 4.33 / 5.3
    for row in at_sustained_rates(load_kernels("mi300x", "cdna3"), device).defaults:
        for name in ("memory_efficiency", "bandwidth_efficiency"):
            assert row.coefficients.get(name, 0.0) <= share + 1e-12, row.operator


def test_a_slower_measured_rate_never_makes_a_prefill_faster() -> None:
    system = load_system("mi300x-8")
    slower = replace(system, device=replace(system.device, sustained_flops={"bf16": 300e12}))
    plan = pm.plans(tp=8, concurrency=8)
    times = [
        pm.predict("llama-3.1-70b", pm.target(each), plan, isl=4096, osl=128)["prefill_s"] for each in (system, slower)
    ]
    assert times[1] > times[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('bf16      = { value = "668.4 TFLOP/s"', 'bf16      = { value = "2000 TFLOP/s"', "is more than peak.bf16"),
        ('bf16      = { value = "668.4', 'fp4       = { value = "668.4', "has no peak of that format"),
        ('bandwidth = { value = "4.33 TB/s"', 'bandwidth = { value = "6 TB/s"', "is more than memory.bandwidth"),
    ],
)
def test_a_rate_above_the_peak_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (builtin_directory() / "devices" / "mi300x.toml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mi300x.toml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ProfileError, match=message):
        read_profile(path)


def test_a_board_with_little_power_for_its_peak_does_not_reach_the_rate_of_one_with_more():
    shares = {}
    for name in ("l4", "l40s", "rtx-4090"):
        device = load_device(name)
        given = next(row for row in load_kernels(name, "ada").defaults if row.flop_energy_j)
        scaled = next(
            row for row in at_sustained_rates(load_kernels(name, "ada"), device).defaults if row.flop_energy_j
        )
        check_kernel(scaled)
        shares[name] = scaled.coefficients["compute_efficiency"]
        assert shares[name] <= given.coefficients["compute_efficiency"]
        assert shares[name] * device.peak_flops["bf16"] * given.flop_energy_j <= device.power_w * (1 + 1e-9)
        assert scaled.coefficients["memory_efficiency"] == given.coefficients["memory_efficiency"]
    assert shares["l4"] < 0.5 < shares["l40s"] < 0.75 < 0.9 < shares["rtx-4090"]
    without = at_sustained_rates(load_kernels("l4", "ada"), replace(load_device("l4"), power_w=None))
    assert without.defaults == load_kernels("l4", "ada").defaults


def test_relatives_stand_in_before_what_serves_every_architecture():
    found = [row.architecture for row in load_kernels("rtx-4090", "ada").defaults]
    order = list(dict.fromkeys(found))
    assert order == ["ada", "blackwell-pcie", "generic"]
