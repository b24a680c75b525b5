"""Broken profile files: every kind of mistake names the file, the key and the fix, in one line."""

import copy
import pickle
import re
import subprocess
import sys

import pytest

from perfmodel.errors import PlanError, ProfileError
from perfmodel.estimate.links import links_of_group
from perfmodel.hardware import Device, System, Tier, load_device, load_system, validate_file
from perfmodel.hardware.places import builtin_directory
from perfmodel.parallel.groups import RankGroup

DEVICE = """\
schema_version = 1
kind = "device"
id = "acme-x1"
name = "Acme X1"
vendor = "Acme"
architecture = "hopper"
default_system = "acme-8"

[peak]
bf16 = { value = "100 TFLOP/s", source = "datasheet" }
fp8 = { value = "200 TFLOP/s", source = "datasheet", note = "dense" }

[memory]
capacity = { value = "79 GiB", source = "datasheet" }
bandwidth = { value = "2 TB/s", source = "datasheet", basis = "unverified" }

[chip]
cores = { value = 100, source = "datasheet" }

[sources.datasheet]
title = "Acme X1 datasheet"
reference = "https://acme.example/x1.pdf"
date = "2025-06"
basis = "datasheet"
"""

SYSTEM = """\
schema_version = 1
kind = "system"
id = "acme-8"
name = "8 x Acme X1"
device = "acme-x1"

[[tier]]
name = "board"
devices = { value = 8, source = "manual" }
topology = "mesh"
bandwidth = { value = "700 GB/s", source = "manual" }
link_bandwidth = { value = "100 GB/s", source = "manual" }
latency = { value = "1 us", source = "manual" }

[[tier]]
name = "network"
devices = { value = "4Ki", source = "manual" }
topology = "fat-tree"
bandwidth = { value = "400 Gbit/s", source = "manual" }
latency = { value = "5 us", source = "manual" }
oversubscription = 2.0

[sources.manual]
title = "Acme manual"
reference = "https://acme.example/manual"
date = 2025-06-01
basis = "vendor statement"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "devices").mkdir()
    (tmp_path / "systems").mkdir()
    (tmp_path / "devices" / "acme-x1.toml").write_text(DEVICE, encoding="utf-8")
    (tmp_path / "systems" / "acme-8.toml").write_text(SYSTEM, encoding="utf-8")
    return tmp_path


def test_a_good_device_becomes_plain_floats(folder):
    device = validate_file(folder / "devices" / "acme-x1.toml")
    assert isinstance(device, Device)
    assert dict(device.peak_flops) == {"bf16": 100e12, "fp8": 200e12}
    assert device.memory_bytes == 79 * 2**30
    assert device.memory_bandwidth == 2e12
    assert device.cores == 100
    assert device.cache_bytes is None
    assert device.price_per_hour is None
    basis = {p.key: p.basis for p in device.provenance}
    assert basis["memory.bandwidth"] == "unverified"
    assert basis["peak.fp8"] == "datasheet"
    assert next(p for p in device.provenance if p.key == "peak.fp8").note == "dense"


def test_a_good_system_becomes_plain_floats(folder):
    system = validate_file(folder / "systems" / "acme-8.toml")
    assert isinstance(system, System)
    assert system.device.id == "acme-x1"
    assert system.tiers[0] == Tier("board", 8, 700e9, 1e-6, "mesh", link_bandwidth=100e9)
    assert system.tiers[1].bandwidth == 50e9
    assert system.tiers[1].oversubscription == 2.0
    assert system.max_devices == 4096
    assert {p.date for p in system.provenance} == {"2025-06-01"}


DIES = """\
[[tier]]
name = "package"
devices = { value = 2, source = "manual" }
topology = "ring"
bandwidth = { value = "900 GB/s", source = "manual" }
link_bandwidth = { value = "900 GB/s", source = "manual" }
latency = { value = "0.5 us", source = "manual" }

"""


def test_the_dies_of_a_package_lie_inside_the_scale_up_domain(folder):
    path = folder / "systems" / "acme-8.toml"
    text = SYSTEM.replace("[[tier]]", DIES + "[[tier]]\nscale_up = true\nplanes = 7", 1)
    path.write_text(text, encoding="utf-8")
    system = validate_file(path)
    assert (system.domain, system.scale_up.name, system.scale_up_devices) == (1, "board", 8)
    wider = system.with_scale_up(16)
    assert [tier.devices for tier in wider.tiers] == [2, 16, 4096]
    assert wider.scale_up.devices == 16
    assert [tier.devices for tier in system.with_scale_up(1).tiers] == [1, 4096]
    with pytest.raises(PlanError, match="1 to 4096 devices per node"):
        system.with_scale_up(5000)
    some = system.scale_up.with_planes(6)
    assert (some.bandwidth, some.link_bandwidth, some.planes) == pytest.approx((600e9, 600e9 / 7, 6))
    for planes in (0, 8):
        with pytest.raises(PlanError, match="has 1 to 7 planes"):
            system.scale_up.with_planes(planes)
    seen = [float(links_of_group(system, RankGroup(n, 1.0)).inside()) for n in (2.0, 4.0, 8.0, 16.0)]
    # Four packages: a device sees one of three others, then all three.
    assert seen == pytest.approx([900e9, 700e9 / 3, 700e9, 700e9])


def test_another_processor_in_a_device(folder):
    path = folder / "devices" / "acme-x1.toml"
    unit = (
        '[[unit]]\nname = "pim"\nbandwidth = { value = "8 TB/s", source = "datasheet" }\n'
        '[unit.peak]\nbf16 = { value = "64 TFLOP/s", source = "datasheet" }\n\n'
    )
    path.write_text(DEVICE.replace("[sources.datasheet]", unit + "[sources.datasheet]"), encoding="utf-8")
    device = validate_file(path)
    (found,) = device.units
    assert (found.name, dict(found.peak_flops), found.memory_bandwidth) == ("pim", {"bf16": 64e12}, 8e12)
    assert pickle.loads(pickle.dumps(device)) == copy.deepcopy(device) == device
    assert {p.key for p in device.provenance} >= {"unit[0].bandwidth", "unit[0].peak.bf16"}


MISTAKES = {
    "missing source": (
        '"2 TB/s", source = "datasheet", basis = "unverified"',
        '"2 TB/s"',
        "memory.bandwidth",
        "source",
    ),
    "empty source": ('"2 TB/s", source = "datasheet"', '"2 TB/s", source = ""', "memory.bandwidth", "has no source"),
    "bare text": (
        '{ value = "79 GiB", source = "datasheet" }',
        '"79 GiB"',
        "memory.capacity",
        "has no source; write {",
    ),
    "no value": ('{ value = "79 GiB", source', "{ source", "memory.capacity", "has no value; write {"),
    "unknown source": (
        '"79 GiB", source = "datasheet"',
        '"79 GiB", source = "datashet"',
        "memory.capacity",
        "'datasheet'",
    ),
    "source of nothing": (
        '"79 GiB", source = "datasheet"',
        '"79 GiB", source = "zzz"',
        "memory.capacity",
        "add [sources.zzz]",
    ),
    "negative number": ('"2 TB/s"', '"-2 TB/s"', "memory.bandwidth", "negative"),
    "zero": ('"2 TB/s"', '"0 TB/s"', "memory.bandwidth", "not more than zero"),
    "no unit": ('"2 TB/s"', "2", "memory.bandwidth", "needs a unit, for instance '3.35 TB/s'"),
    "wrong unit": ('"79 GiB"', '"79 ms"', "memory.capacity", "a size is wanted"),
    "bits or bytes": ('"2 TB/s"', '"2 Tb/s"', "memory.bandwidth", "'2 Tbit/s' for bits or '2 TB/s' for bytes"),
    "misspelt unit": ('"100 TFLOP/s"', '"100 TFLOPS"', "peak.bf16", "did you mean '100 TFLOP/s'"),
    "not a number": ('"2 TB/s"', '"fast"', "memory.bandwidth", "does not begin with a number"),
    "infinite": ('"2 TB/s"', "inf", "memory.bandwidth", "does not begin with a number"),
    "half a core": ("value = 100,", "value = 100.5,", "chip.cores", "not a whole number"),
    "extra key": ("[chip]", '[chip]\nclok = { value = "1 GHz" }', "chip.clok", "did you mean 'clock'"),
    "extra key at the top": ('vendor = "Acme"', 'vendor = "Acme"\ncolour = "red"', "colour", "the keys here are"),
    "extra key in a value": ('note = "dense"', 'nota = "dense"', "peak.fp8.nota", "did you mean 'note'"),
    "reserved key in a value": ('note = "dense"', 'text = "dense"', "peak.fp8", "unknown key 'text'"),
    "extra key in a source": ('date = "2025-06"', 'date = "2025-06"\nurl = ""', "sources.datasheet.url", "unknown key"),
    "unknown format": ("fp8 =", "fp7 =", "peak.fp7", "did you mean 'fp"),
    "missing key": (
        'capacity = { value = "79 GiB", source = "datasheet" }\n',
        "",
        "memory.capacity",
        'add capacity = { value = "80 GiB"',
    ),
    "missing table": ("[chip]\ncores", "[clip]\ncores", "chip", "a table [chip]"),
    "missing text": ('vendor = "Acme"\n', "", "vendor", 'add vendor = "..."'),
    "no peak": ("bf16 =", "#", "peak", "at least one of"),
    "wrong kind": ('kind = "device"', 'kind = "devise"', "kind", "'device'"),
    "no kind": ('kind = "device"\n', "", "kind", 'add kind = "device"'),
    "wrong version": ("schema_version = 1", "schema_version = 2", "schema_version", "1"),
    "unknown architecture": ('"hopper"', '"hoper"', "architecture", "did you mean 'hopper'"),
    "unknown basis": ('basis = "unverified"', 'basis = "guess"', "memory.bandwidth.basis", "'datasheet'"),
    "bad date": ('date = "2025-06"', 'date = "June"', "sources.datasheet.date", 'write "2024"'),
    "empty reference": ('"https://acme.example/x1.pdf"', '""', "sources.datasheet.reference", "at least 1 character"),
    "bad id": ('id = "acme-x1"', 'id = "Acme X1"', "id", "small letters"),
    "id is not the file's name": ('id = "acme-x1"', 'id = "acme-x2"', "id", "call the file acme-x2.toml"),
    "text for a number": ("[chip]", '[chip]\ndies = "two"', "chip.dies", "integer"),
    "a unit without peaks": (
        "[sources.datasheet]",
        '[[unit]]\nname = "pim"\nbandwidth = { value = "8 TB/s", source = "datasheet" }\n[unit.peak]\n\n'
        "[sources.datasheet]",
        "unit[0].peak",
        "has no peak",
    ),
    "a unit without bandwidth": (
        "[sources.datasheet]",
        '[[unit]]\nname = "pim"\n[unit.peak]\nbf16 = { value = "9 TFLOP/s", source = "datasheet" }\n\n'
        "[sources.datasheet]",
        "unit[0].bandwidth",
        "is missing",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_device_mistakes(folder, mistake):
    old, new, key, fix = MISTAKES[mistake]
    path = folder / "devices" / "acme-x1.toml"
    text = DEVICE.replace(old, new, 1)
    if mistake == "no peak":
        text = text.replace("fp8 =", "#", 1)
    assert text != DEVICE
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProfileError) as error:
        validate_file(path)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    assert f"{key}: " in message
    assert fix in message


SYSTEM_MISTAKES = {
    "tiers inwards": ('"4Ki"', '"4"', "tier 'network' has 4 devices, which must be a larger multiple of the 8"),
    "no multiple": ('"4Ki"', '"4100"', "must be a larger multiple of the 8"),
    "unknown topology": ('"mesh"', '"messh"', "did you mean 'mesh'"),
    "links missing": ('link_bandwidth = { value = "100 GB/s", source = "manual" }\n', "", "needs link_bandwidth"),
    "link above the sum": ('"100 GB/s"', '"800 GB/s"', "link_bandwidth is more than bandwidth"),
    "shape": ('topology = "mesh"', 'topology = "torus2d"\nshape = [4, 4]', "does not multiply to 8 devices"),
    "no latency": ('latency = { value = "1 us", source = "manual" }\n', "", 'add latency = { value = "50 ms"'),
    "size for latency": ('"1 us"', '"1 GB"', "a time is wanted"),
    "undersubscribed": ("oversubscription = 2.0", "oversubscription = 0.5", "greater than or equal to 1"),
    "nan": ("oversubscription = 2.0", "oversubscription = nan", "oversubscription"),
    "no planes": ("oversubscription = 2.0", "planes = 0", "greater than or equal to 1"),
    "two scale-up domains": (
        'topology = "fat-tree"',
        'scale_up = true\ntopology = "fat-tree"',
        "only one is the scale-up domain",
    ),
    "no tier": ("[[tier]]", "[[tir]]", "tier: is missing; add a table [[tier]]"),
    "unknown device": ('device = "acme-x1"', 'device = "acme-x2"', "Did you mean 'acme-x1'?"),
}


@pytest.mark.parametrize("mistake", SYSTEM_MISTAKES)
def test_system_mistakes(folder, mistake, monkeypatch):
    monkeypatch.setenv("PERFMODEL_PROFILES", str(folder))
    old, new, fix = SYSTEM_MISTAKES[mistake]
    path = folder / "systems" / "acme-8.toml"
    text = SYSTEM.replace(old, new) if mistake == "no tier" else SYSTEM.replace(old, new, 1)
    if mistake == "two scale-up domains":
        text = text.replace('topology = "mesh"', 'scale_up = true\ntopology = "mesh"', 1)
    assert text != SYSTEM
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProfileError) as error:
        validate_file(path)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    assert fix in message


@pytest.mark.parametrize("length", range(60, len(DEVICE) - 20, 97))
def test_a_truncated_file_never_loads(folder, length):
    path = folder / "devices" / "acme-x1.toml"
    path.write_text(DEVICE[:length], encoding="utf-8")
    with pytest.raises(ProfileError) as error:
        load_device(path)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_files_that_are_no_toml(folder):
    path = folder / "devices" / "acme-x1.toml"
    path.write_text("{ json: 1 }", encoding="utf-8")
    with pytest.raises(ProfileError, match="is not TOML"):
        load_device(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match="UTF-8"):
        load_device(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ProfileError, match="no such file"):
        load_device(path)


def test_several_problems_are_counted(folder):
    path = folder / "devices" / "acme-x1.toml"
    path.write_text(DEVICE.replace("TB/s", "Tb/s").replace("GiB", "Gib"), encoding="utf-8")
    with pytest.raises(ProfileError, match=r"\(and 1 more\)$"):
        load_device(path)


def test_a_system_is_no_device_and_the_other_way_round(folder):
    with pytest.raises(ProfileError, match="is a system, and a device is wanted"):
        load_device(folder / "systems" / "acme-8.toml")
    with pytest.raises(ProfileError, match="is a device, and a system is wanted"):
        load_system(folder / "devices" / "acme-x1.toml")


def test_devices_are_values():
    device = load_device("h100-sxm")
    assert device == load_device("h100")
    assert hash(device) == hash(load_device("h100"))
    for twin in (pickle.loads(pickle.dumps(device)), copy.deepcopy(device)):
        assert twin == device
        assert twin.provenance == device.provenance
    with pytest.raises(TypeError):
        device.peak_flops["bf16"] = 1.0
    with pytest.raises(AttributeError):
        device.memory_bytes = 1.0


def test_a_format_without_hardware_is_refused_with_the_ones_there_are():
    device = load_device("h100-sxm")
    assert device.supports("fp8")
    assert not device.supports("fp4")
    assert device.peak("bf16") == 989e12
    with pytest.raises(PlanError, match=r"h100-sxm does not compute in fp4; its formats are .*fp8"):
        device.peak("fp4")


def test_the_scale_up_domain_can_be_overridden():
    system = load_system("hgx-b200").with_scale_up(4)
    assert system.scale_up_devices == 4
    assert [tier.devices for tier in system.tiers] == [4, 65536]
    for devices in (0, -1, 10**9):
        with pytest.raises(PlanError, match="devices per node"):
            system.with_scale_up(devices)


def test_importing_devices_and_fabrics_does_not_import_pydantic():
    code = "import sys, perfmodel.hardware.device, perfmodel.hardware.fabric; print('pydantic' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_the_examples_of_the_readme_are_valid_profiles(tmp_path):
    readme = (builtin_directory() / "README.md").read_text(encoding="utf-8")
    device, system = re.findall(r"```toml\n(.*?)```", readme, flags=re.DOTALL)
    (tmp_path / "acme-x1.toml").write_text(device, encoding="utf-8")
    (tmp_path / "acme-x1-8.toml").write_text(system, encoding="utf-8")
    assert validate_file(tmp_path / "acme-x1-8.toml").device == validate_file(tmp_path / "acme-x1.toml")
