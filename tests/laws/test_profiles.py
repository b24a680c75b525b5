"""Laws that every profile of the catalogue satisfies."""

import math
import tomllib

import numpy as np
import pytest

from perfmodel.estimate.links import links_of_group
from perfmodel.hardware import FORMATS, TOPOLOGIES, list_devices, list_systems, load_device, load_system, validate_file
from perfmodel.hardware.places import builtin_directory
from perfmodel.parallel.groups import RankGroup
from perfmodel.units import format_quantity, parse

ROOT = builtin_directory()
DEVICES = sorted(path.stem for path in (ROOT / "devices").glob("*.toml"))
SYSTEMS = sorted(path.stem for path in (ROOT / "systems").glob("*.toml"))
FILES = [*(ROOT / "devices").glob("*.toml"), *(ROOT / "systems").glob("*.toml")]
BASES = {"datasheet", "measured", "vendor statement", "derived", "unverified"}
# Parts whose int8 units were cut, or that have none on the tensor cores: their int8 may lie below bf16.
SLOW_INT8 = {"b300-sxm", "gb300", "v100-sxm", "mi210", "mi250x", "tpu-v4"}


@pytest.fixture(autouse=True)
def only_built_in_profiles(monkeypatch, tmp_path):
    monkeypatch.delenv("PERFMODEL_PROFILES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_the_catalogue_is_what_lies_in_the_folders():
    assert set(list_devices()) == set(DEVICES)
    assert set(list_systems()) == set(SYSTEMS)
    assert len(DEVICES) >= 36
    assert len(SYSTEMS) >= 30


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_valid_and_every_source_is_used(path):
    validate_file(path)
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    text = path.read_text(encoding="utf-8")
    for key, source in tables["sources"].items():
        assert f'source = "{key}"' in text, f"{path.name}: [sources.{key}] serves no number"
        assert len(source["title"]) > 10
        assert len(source["reference"]) > 10


def test_names_and_aliases_are_unique():
    for folder in ("devices", "systems"):
        seen = {}
        for path in (ROOT / folder).glob("*.toml"):
            for name in (path.stem, *tomllib.loads(path.read_text(encoding="utf-8")).get("aliases", ())):
                assert name == name.lower()
                assert name not in seen, f"{name} means {seen.get(name)} and {path.stem}"
                seen[name] = path.stem


@pytest.mark.parametrize("name", [*DEVICES, *SYSTEMS])
def test_every_number_has_a_source_with_reference_and_date(name):
    profile = load_device(name) if name in DEVICES else load_system(name)
    assert profile.provenance
    for fact in profile.provenance:
        assert fact.basis in BASES
        assert fact.source.strip()
        assert fact.reference.strip()
        assert fact.date[:2] == "20"
        assert math.isfinite(fact.value)
        assert fact.value > 0


@pytest.mark.parametrize("name", DEVICES)
def test_devices_are_physical(name):
    device = load_device(name)
    peaks = device.peak_flops
    assert set(peaks) <= set(FORMATS)
    assert "bf16" in peaks or "fp16" in peaks
    assert all(1e11 < peak < 1e17 for peak in peaks.values())
    assert 8e9 < device.memory_bytes < 1e12
    assert 1e11 < device.memory_bandwidth < 1e14
    assert 1 <= device.cores <= 1000
    assert 1 <= device.dies <= 16
    assert device.architecture
    if device.clock_hz:
        assert 5e8 < device.clock_hz < 4e9
    if device.power_w:
        assert 50 < device.power_w < 3000
    if device.host_bandwidth:
        assert device.host_bandwidth < device.memory_bandwidth
    if device.cache_bytes:
        assert device.cache_bytes < device.memory_bytes / 50


@pytest.mark.parametrize("name", DEVICES)
def test_narrower_formats_are_not_slower(name):
    peaks = load_device(name).peak_flops
    for wide, narrow in [
        ("fp32", "tf32"),
        ("tf32", "bf16"),
        ("bf16", "fp8"),
        ("fp8", "fp6"),
        ("fp8", "fp4"),
        ("fp6", "fp4"),
    ]:
        if wide in peaks and narrow in peaks:
            assert peaks[narrow] >= peaks[wide], f"{narrow} below {wide}"
    if "int8" in peaks and "bf16" in peaks and name not in SLOW_INT8:
        assert peaks["int8"] >= 2 * peaks["bf16"] * 0.99


@pytest.mark.parametrize("name", DEVICES)
def test_peaks_are_dense(name):
    # A dense step from one format to the next narrower one doubles at most; a sparse number would make it four.
    peaks = load_device(name).peak_flops
    for wide, narrow, most in [("bf16", "fp8", 2.05), ("fp8", "fp4", 4.05), ("tf32", "bf16", 4.05)]:
        if wide in peaks and narrow in peaks:
            assert peaks[narrow] <= most * peaks[wide]


@pytest.mark.parametrize("name", DEVICES)
def test_caches_are_faster_than_memory(name):
    device = load_device(name)
    if device.cache_bandwidth is not None:
        assert device.cache_bytes is not None
        assert device.cache_bandwidth > 1.5 * device.memory_bandwidth


@pytest.mark.parametrize("name", DEVICES)
def test_the_default_system_exists_and_is_made_of_the_device(name):
    device = load_device(name)
    system = load_system(device.default_system)
    assert system.device == device


@pytest.mark.parametrize("name", SYSTEMS)
def test_tiers_grow_outwards_and_slow_down(name):
    system = load_system(name)
    assert system.tiers
    assert system.max_devices == system.tiers[-1].devices
    assert system.device.memory_bandwidth > system.tiers[0].bandwidth
    for inner, outer in zip(system.tiers, system.tiers[1:], strict=False):
        assert outer.devices > inner.devices
        assert outer.devices % inner.devices == 0
        assert outer.bandwidth <= inner.bandwidth
        assert outer.latency_s >= inner.latency_s
    for tier in system.tiers:
        assert tier.topology in TOPOLOGIES
        assert 1e9 < tier.bandwidth < 1e13
        assert 1e-7 <= tier.latency_s <= 1e-4
        assert tier.oversubscription >= 1
        if tier.shape:
            assert math.prod(tier.shape) == tier.devices
        if tier.link_bandwidth is not None:
            assert tier.link_bandwidth <= tier.bandwidth


@pytest.mark.parametrize("name", SYSTEMS)
def test_larger_groups_never_see_less_of_a_tier(name):
    system = load_system(name)
    group = RankGroup(np.array([2.0, 3.0, 4.0, 8.0, 64.0]), 1.0)
    for tier, seen in zip(system.tiers, links_of_group(system, group).exact(), strict=True):
        rates = np.broadcast_to(seen, group.ranks.shape)[group.ranks <= tier.devices]
        assert np.all(np.diff(rates) >= 0)
        assert np.all(rates <= tier.bandwidth)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_pair_in_a_mesh_sees_the_link_between_them_and_all_see_all_links(name):
    system = load_system(name)
    tier = system.tiers[0]
    if tier.topology == "mesh" and tier.devices > 1:
        pair, whole = (links_of_group(system, RankGroup(ranks, 1.0)).exact()[0] for ranks in (2.0, float(tier.devices)))
        assert pair == pytest.approx(tier.link_bandwidth)
        assert whole == pytest.approx(tier.bandwidth)


@pytest.mark.parametrize("name", DEVICES)
def test_numbers_survive_being_shown(name):
    for fact in load_device(name).provenance:
        dimension = {
            "peak": "compute",
            "memory.capacity": "size",
            "memory.cache": "size",
            "memory.bandwidth": "bandwidth",
            "memory.cache_bandwidth": "bandwidth",
            "chip.power": "power",
            "chip.clock": "frequency",
        }.get(fact.key.split(".")[0] if fact.key.startswith("peak") else fact.key)
        if dimension:
            assert parse(format_quantity(fact.value, dimension, 6), dimension) == pytest.approx(fact.value, rel=1e-5)
