"""The catalogue: which directory wins, names and aliases, near misses."""

import os
import shutil

import pytest

from perfmodel.errors import ProfileError, UnknownNameError
from perfmodel.hardware import (
    find_profile,
    list_devices,
    list_systems,
    load_device,
    load_system,
    profile_directories,
)
from perfmodel.hardware.places import builtin_directory, user_directory


@pytest.fixture(autouse=True)
def nothing_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("PERFMODEL_PROFILES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def profile(folder, name, cores):
    """Write a device file that differs from the built-in L4 by its number of cores."""
    folder.mkdir(parents=True, exist_ok=True)
    text = (builtin_directory() / "devices" / "l4.toml").read_text(encoding="utf-8")
    text = text.replace('id = "l4"', f'id = "{name}"').replace("value = 58", f"value = {cores}")
    if name != "l4":
        text = text.replace("aliases = [", f'aliases = ["{name}-alias", ').replace('"l4-24gb", "nvidia-l4"', "")
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder / f"{name}.toml"


def test_precedence(tmp_path, monkeypatch):
    assert load_device("l4").cores == 58
    profile(user_directory() / "devices", "l4", 1)
    assert load_device("l4").cores == 1
    profile(tmp_path / "env" / "devices", "l4", 2)
    monkeypatch.setenv("PERFMODEL_PROFILES", str(tmp_path / "env"))
    assert load_device("l4").cores == 2
    profile(tmp_path / "given", "l4", 3)
    assert load_device("l4", tmp_path / "given").cores == 3
    assert load_device("L4", str(tmp_path / "given")).cores == 3
    explicit = profile(tmp_path / "elsewhere", "l4", 4)
    assert load_device(explicit, tmp_path / "given").cores == 4
    assert load_device(str(explicit)).cores == 4
    assert profile_directories(tmp_path / "given") == (
        tmp_path / "given",
        tmp_path / "env",
        user_directory(),
        builtin_directory(),
    )


def test_the_variable_lists_directories_and_the_first_wins(tmp_path, monkeypatch):
    profile(tmp_path / "a", "l4", 1)
    profile(tmp_path / "b", "l4", 2)
    profile(tmp_path / "b", "acme", 3)
    monkeypatch.setenv("PERFMODEL_PROFILES", f"{tmp_path / 'a'}{os.pathsep}{os.pathsep}{tmp_path / 'b'}")
    assert load_device("l4").cores == 1
    assert load_device("acme").cores == 3
    assert load_device("acme-alias").cores == 3
    assert "acme" in list_devices()


def test_a_directory_that_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(ProfileError, match="nowhere"):
        load_device("l4", tmp_path / "nowhere")
    monkeypatch.setenv("PERFMODEL_PROFILES", str(tmp_path / "gone"))
    with pytest.raises(ProfileError, match=r"gone: \$PERFMODEL_PROFILES does not exist"):
        load_device("l4")


def test_a_system_finds_the_device_beside_it(tmp_path):
    profile(tmp_path / "devices", "acme", 7)
    system = (builtin_directory() / "systems" / "l4-8.toml").read_text(encoding="utf-8")
    (tmp_path / "systems").mkdir()
    path = tmp_path / "systems" / "acme-8.toml"
    path.write_text(system.replace('id = "l4-8"', 'id = "acme-8"').replace('device = "l4"', 'device = "acme"'))
    assert load_system(path).device.cores == 7
    assert load_system("acme-8", tmp_path).device.cores == 7
    flat = tmp_path / "flat"
    profile(flat, "acme", 8)
    shutil.copy(path, flat / "acme-8.toml")
    assert load_system(flat / "acme-8.toml").device.cores == 8
    assert list_systems(flat) == tuple(sorted({*list_systems(), "acme-8"}))


def test_a_users_device_replaces_the_built_in_one_inside_systems(tmp_path):
    profile(tmp_path / "devices", "l4", 9)
    assert load_system("l4-8").device.cores == 58
    assert load_system("l4-8", tmp_path).device.cores == 9


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("h100", "h100-sxm"),
        ("H100", "h100-sxm"),
        ("H100-SXM", "h100-sxm"),
        ("h100_sxm", "h100-sxm"),
        (" h100 sxm5 ", "h100-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("h100-pcie", "h100-pcie"),
        ("a100", "a100-sxm"),
        ("a100-40gb", "a100-sxm-40gb"),
        ("RTX PRO 6000", "rtx-pro-6000"),
        ("NVIDIA B200", "b200-sxm"),
        ("Trillium", "tpu-v6e"),
        ("ironwood", "tpu-ironwood"),
        ("910C", "ascend-910c"),
    ],
)
def test_aliases_in_any_spelling(name, id):
    assert load_device(name).id == id


@pytest.mark.parametrize(
    ("name", "id"),
    [("DGX H100", "hgx-h100"), ("dgx-1", "dgx-v100"), ("nvl72", "gb200-nvl72"), ("cm384", "cloudmatrix384")],
)
def test_aliases_of_systems(name, id):
    assert load_system(name).id == id


@pytest.mark.parametrize(
    ("load", "name", "near"),
    [
        (load_device, "h100-smx", "h100-sxm"),
        (load_device, "mi300", None),
        (load_device, "tpu-v5", "tpu-v5"),
        (load_device, "b20-sxm", "b200-sxm"),
        (load_system, "hgx-h10", "hgx-h100"),
        (load_system, "gb200-nvl27", "gb200-nvl72"),
        (load_system, "cloudmatrix-38", "cloudmatrix"),
    ],
)
def test_near_misses(load, name, near):
    if near is None:
        assert load(name).id == "mi300x"
        return
    with pytest.raises(UnknownNameError) as error:
        load(name)
    assert f"Did you mean '{near}" in str(error.value)
    assert "perfmodel hardware list" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["", "quantum-9000", "../../etc/passwd"])
def test_names_that_are_nothing_like_any(name):
    with pytest.raises((UnknownNameError, ProfileError)):
        load_device(name)


def test_a_path_that_does_not_exist_is_a_missing_file_not_an_unknown_name(tmp_path):
    with pytest.raises(ProfileError, match="no such file"):
        load_device(str(tmp_path / "mine.toml"))
    with pytest.raises(ProfileError, match="no such file"):
        find_profile("system", "mine.toml")


def test_a_broken_file_elsewhere_does_not_hinder_other_names(tmp_path):
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "broken.toml").write_text("id = ", encoding="utf-8")
    (tmp_path / "flat-broken.toml").write_text("id = ", encoding="utf-8")
    assert load_device("nvidia-b200", tmp_path).id == "b200-sxm"
    assert {"broken", "flat-broken"} <= set(list_devices(tmp_path))
    for name in ("broken", "flat-broken"):
        with pytest.raises(ProfileError, match=f"{name}.toml: is not TOML"):
            load_device(name, tmp_path)


def test_a_file_that_changes_is_read_again(tmp_path):
    path = profile(tmp_path, "l4", 11)
    assert load_device(path).cores == 11
    profile(tmp_path, "l4", 1234)
    assert load_device(path).cores == 1234


def test_lists_are_sorted_and_complete():
    devices, systems = list_devices(), list_systems()
    assert list(devices) == sorted(devices)
    assert list(systems) == sorted(systems)
    assert {"h100-sxm", "mi355x", "tpu-v5p", "ascend-910c", "rtx-5090"} <= set(devices)
    assert {"hgx-h100", "gb300-nvl72", "mi325x-8", "cloudmatrix384"} <= set(systems)


@pytest.mark.parametrize(
    ("platform", "parts"),
    [
        ("linux", ("config", "perfmodel", "profiles")),
        ("darwin", ("Library", "Application Support", "perfmodel", "profiles")),
        ("win32", ("config", "perfmodel", "profiles")),
    ],
)
def test_the_users_directory_follows_the_platform(monkeypatch, platform, parts):
    monkeypatch.setattr("sys.platform", platform)
    assert user_directory().parts[-len(parts) :] == parts
