"""What-if hardware: what changes, what stays, what is said about it, and what is refused."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.errors import PlanError
from perfmodel.hardware.catalog import list_systems, load_system
from perfmodel.hardware.fabric import System, Tier
from perfmodel.hardware.what_if import NUMBERS, changes, scaled
from perfmodel.hardware.what_if_flags import changed, factor_of, read_change
from perfmodel.parallel.grid import plans
from perfmodel.reports.what_if import what_if_lines

H100 = load_system("hgx-h100")
PLANS = plans(tp=[1, 2, 4, 8], pp=np.array([[1], [2]]), concurrency=np.array([1.0, 32.0]).reshape(2, 1, 1))
RATES = ("peak_flops", "memory_bandwidth", "cache_bandwidth", "scale_up_bandwidth", "scale_out_bandwidth")


@pytest.mark.parametrize("name", list_systems())
@pytest.mark.parametrize("number", NUMBERS)
def test_every_number_of_every_system_is_multiplied_alone_and_marked(name, number):
    system = load_system(name)
    if NUMBERS[number].read(system) is None:
        with pytest.raises(PlanError, match=f"has no {number}"):
            scaled(system, {number: 2.0})
        return
    if number == "scale_up_devices" and system.tiers[0].topology not in ("switched", "fat-tree"):
        with pytest.raises(PlanError, match="cannot be multiplied"):
            scaled(system, {number: 2.0})
        return
    other = scaled(system, {number: 2.0})
    for each, spec in NUMBERS.items():
        before, after = spec.read(system), spec.read(other)
        assert after == (2 * before if each == number else before), each
    assert (other.device.id, other.device.architecture) == (system.device.id, system.device.architecture)
    assert other.id == f"{name} [{number} x2]"
    marks = changes(other)
    assert [mark.note for mark in marks] == [number]
    assert all(mark.basis == "derived" and "(x2 of " in mark.text for mark in marks)
    originals = {row.key: row for row in (*system.device.provenance, *system.provenance)}
    rows = (*other.device.provenance, *other.provenance)
    assert [row.key for row in rows] == list(originals)
    assert all(row.value in (originals[row.key].value, 2 * originals[row.key].value) for row in rows)
    assert changes(system) == ()


def test_every_outer_tier_and_every_link_is_scaled():
    system = load_system("mi300x-8")
    inner = scaled(system, {"scale_up_bandwidth": 3.0}).tiers[0]
    assert inner.link_bandwidth == 3 * system.tiers[0].link_bandwidth
    assert inner.bandwidth == 3 * system.tiers[0].bandwidth
    outer = scaled(system, {"scale_out_bandwidth": 3.0, "scale_out_latency": 0.5}).tiers
    assert [tier.bandwidth for tier in outer[1:]] == [3 * tier.bandwidth for tier in system.tiers[1:]]
    assert [tier.latency_s for tier in outer[1:]] == [tier.latency_s / 2 for tier in system.tiers[1:]]
    assert outer[0] == system.tiers[0]


@pytest.mark.parametrize("name", list_systems())
def test_a_kernel_reaches_the_same_share_of_what_was_changed(name):
    system = load_system(name)
    plan = plans(tp=1, concurrency=1)
    everything = {number: 2.0 for number in RATES if NUMBERS[number].read(system) is not None}
    base, double = (
        pm.predict("llama-3.1-8b", pm.target(on), plan, isl=1000, osl=200)
        for on in (system, scaled(system, everything))
    )
    assert double["decode_lower_s"][0] == pytest.approx(base["decode_lower_s"][0] / 2)
    if system.device.sustained_bandwidth:
        # What was measured goes along, or the faster memory would only be used to a smaller share.
        assert double["decode_memory_s"][0] < 0.52 * base["decode_memory_s"][0]


def test_what_was_measured_and_other_processors_go_along():
    system = load_system("mi300x-8")
    device = scaled(system, {"memory_bandwidth": 2.0, "peak_flops": 3.0}).device
    assert device.sustained_bandwidth == 2 * system.device.sustained_bandwidth
    assert device.sustained_flops["bf16"] == 3 * system.device.sustained_flops["bf16"]
    system = load_system("duplex-8")
    (before,), (after,) = system.device.units, scaled(system, {"memory_bandwidth": 2.0, "peak_flops": 3.0}).device.units
    assert after.memory_bandwidth == 2 * before.memory_bandwidth
    assert after.peak_flops["bf16"] == 3 * before.peak_flops["bf16"]


def test_scale_up_is_the_domain_and_not_the_dies_inside_it():
    inner = Tier("package", 2, 1e12, 1e-7, "switched")
    system = System("x", "X", H100.device, (inner, *H100.tiers), domain=1)
    other = scaled(system, {"scale_up_bandwidth": 2.0, "scale_out_bandwidth": 3.0, "scale_up_devices": 2.0})
    assert [tier.bandwidth for tier in other.tiers] == [1e12, 900e9, 150e9]
    assert [tier.devices for tier in other.tiers] == [2, 16, 65536]
    assert scaled(system, {"scale_up_devices": 0.25}).scale_up_devices == 2


def test_nothing_changed_is_the_same_system_and_order_does_not_matter():
    assert scaled(H100, {}) is H100
    assert scaled(H100, {"memory_bandwidth": 1}) is H100
    assert changed(load_system("tpu-v5e-pod"), ["cache_bandwidth=x1"]) is not None
    one = scaled(H100, {"memory_bandwidth": 2.0, "peak_flops": 0.5})
    other = scaled(H100, {"peak_flops": 0.5, "memory_bandwidth": 2.0})
    assert one == other
    assert pickle.loads(pickle.dumps(one)) == one


@settings(max_examples=25)
@given(
    st.sampled_from(RATES),
    st.floats(1.0, 8.0),
    st.sampled_from(["hgx-h100", "hgx-a100", "gb200-nvl72", "mi300x-8"]),
)
def test_faster_hardware_never_takes_longer_for_a_step_or_a_token(number, factor, name):
    system = load_system(name)
    if NUMBERS[number].read(system) is None:
        return
    slow, fast = (
        pm.predict("llama-3.1-70b", pm.target(on), PLANS, isl=2000, osl=500)
        for on in (system, scaled(system, {number: factor}))
    )
    both = slow.feasible & fast.feasible
    assert (fast.feasible == slow.feasible).all()
    # Not so the first token: in a closed loop faster decoding sends more prompts into the queue.
    for column in ("decode_s", "prefill_s", "tpot_s"):
        assert (fast[column][both] <= slow[column][both] * (1 + 1e-12)).all()


@settings(max_examples=20)
@given(st.floats(1.0, 8.0))
def test_more_memory_never_loses_a_plan(factor):
    less, more = (
        pm.predict("llama-3.1-70b", pm.target(on), PLANS, isl=2000, osl=500)
        for on in (H100, scaled(H100, {"memory_capacity": factor}))
    )
    assert not (less.feasible & ~more.feasible).any()


def test_a_faster_memory_moves_a_memory_bound_step_by_its_share():
    plan = plans(tp=8, concurrency=1)
    base, double = (
        pm.predict("llama-3.1-70b", pm.target(on), plan, isl=2000, osl=500)
        for on in (H100, scaled(H100, {"memory_bandwidth": 2.0}))
    )
    assert double["decode_s"][0] < base["decode_s"][0]
    # Twice the bandwidth can at most halve what was bound by memory.
    assert base["decode_s"][0] - double["decode_s"][0] <= 0.5 * base["decode_memory_s"][0] * (1 + 1e-9)


def test_flags_are_read_with_units_and_factors():
    assert changed(H100, []) is H100
    assert changed(H100, ["memory-bandwidth=x2"]).device.memory_bandwidth == 6.7e12
    assert changed(H100, ["memory_capacity = 192GB"]).device.memory_bytes == pytest.approx(192e9)
    assert changed(H100, ["scale_up_devices=72"]).scale_up_devices == 72
    assert factor_of(H100, "scale_up_devices", 16) == 2.0
    assert read_change("memory_bandwidth", "×1.5") == ("factor", 1.5)


BAD = [
    ("memory_bandwith=x2", "did you mean 'memory_bandwidth'"),
    ("memory_bandwidth", "number=factor"),
    ("memory_bandwidth=", "number=factor"),
    ("memory_bandwidth=2", "needs a unit"),
    ("memory_bandwidth=3TB", "unit of size"),
    ("memory_bandwidth=x0", "above zero"),
    ("memory_bandwidth=0TB/s", "above zero"),
    ("memory_bandwidth=x1e999", "above zero"),
    ("scale_up_devices=x1.3", "not a whole number"),
    ("scale_up_devices=1M", "can have 1 to 65536 devices per node"),
    ("peak_flops=2PFLOP/s", "write a factor like x2$"),
]


@pytest.mark.parametrize(("flag", "message"), BAD)
def test_what_makes_no_sense_is_refused_with_a_way_out(flag, message):
    with pytest.raises(PlanError, match=message):
        changed(H100, [flag])


def test_a_number_twice_and_factors_that_are_none():
    with pytest.raises(PlanError, match="changed twice"):
        changed(H100, ["memory_bandwidth=x2", "memory-bandwidth=x3"])
    for factor in (True, float("nan"), -1.0, "2"):
        with pytest.raises(PlanError, match="factor must be"):
            scaled(H100, {"memory_bandwidth": factor})
    with pytest.raises(PlanError, match="write a factor"):
        read_change("memory_bandwidth", 2.0)


def test_a_rack_without_an_outer_tier_grows_as_a_whole():
    system = load_system("gb200-nvl72")
    single = type(system)(system.id, system.name, system.device, system.tiers[:1])
    assert scaled(single, {"scale_up_devices": 2.0}).max_devices == 144


def test_the_report_names_what_was_changed():
    assert what_if_lines(H100) == []
    (line,) = what_if_lines(scaled(H100, {"peak_flops": 2.0, "scale_up_devices": 2.0}))
    assert "peak flops" in line
    assert "scale up devices 16 (x2 of 8)" in line
