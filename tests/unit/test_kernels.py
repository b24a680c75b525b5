"""Kernel calibrations: which one is nearest, and which files are refused."""

import shutil

import pytest

from perfmodel.api import target
from perfmodel.errors import ProfileError
from perfmodel.estimate.kernel_checks import check_kernel, load_kernels
from perfmodel.estimate.timing import time_operator
from perfmodel.hardware.kernel_files import read_calibrations, read_kernel_table
from perfmodel.hardware.kernels import NEAR_FORMATS, KernelCalibration, KernelTable
from perfmodel.hardware.places import builtin_directory
from perfmodel.layers.operators import Gemm

FILE = """schema_version = 1
device = "h100-sxm"
engine = "mine"

[[kernel]]
operator = "gemm"
format = "bf16"
form = "gemm_tiled"
attributes = { tiles = "library" }
coefficients = { launch_s = 2.5e-6, compute_efficiency = 0.8 }

[kernel.provenance]
dataset = "made up"
date = "2026-01-01"
points = 60
fit_mape = 5.0
"""


def row(name, operator="gemm", format="bf16", kv="", engine="", kernel="", **more):
    """A kernel that is told apart by its version."""
    return KernelCalibration(operator, engine, kernel, format, kv, name, "roofline_time", {}, **more)


def found(measured, defaults=(), *asked, **named):
    result = KernelTable(tuple(measured), tuple(defaults)).find(*asked, **named)
    return result.version if result else None


def test_an_operator_without_kernels_has_none():
    assert found([row("a")], [row("b")], "moe", "bf16") is None
    assert found([], [], "gemm") is None


def test_the_exact_format_comes_first_even_as_a_default():
    assert found([row("near", format="fp8")], [row("exact", format="fp8_block")], "gemm", "fp8_block") == "exact"


def test_a_measured_kernel_comes_before_a_default_of_the_same_format():
    assert found([row("measured")], [row("default", engine="x")], "gemm", "bf16", engine="x") == "measured"


@pytest.mark.parametrize("format", NEAR_FORMATS)
def test_neighbouring_formats_come_in_their_order_and_others_never(format):
    near = NEAR_FORMATS[format]
    rows = [row(name, format=name) for name in reversed(near)]
    assert found(rows, (), "gemm", format) == near[0]
    far = next(name for name in NEAR_FORMATS if name not in near and name != format)
    assert found([row("far", format=far)], (), "gemm", format) is None


def test_a_kernel_without_a_format_serves_all():
    assert found([row("any", format="")], (), "gemm", "nvfp4") == "any"
    assert found([row("some")], (), "gemm", "") == "some"


def test_the_cache_format_weighs_more_than_engine_and_kernel():
    rows = [row("engine", kv="bf16", engine="x", kernel="k"), row("cache", kv="fp8", engine="y")]
    assert found(rows, (), "gemm", "bf16", kv_format="fp8", engine="x", kernel="k") == "cache"
    assert found(rows, (), "gemm", "bf16", engine="x") == "engine"


def test_engines_come_in_the_order_own_all_other():
    rows = [row("other", engine="y"), row("all"), row("own", engine="x")]
    assert found(rows, (), "gemm", "bf16", engine="x") == "own"
    assert found(rows[:2], (), "gemm", "bf16", engine="x") == "all"
    assert found(rows[:1], (), "gemm", "bf16", engine="x") == "other"


def test_the_engine_weighs_more_than_the_named_kernel():
    rows = [row("kernel", engine="y", kernel="k"), row("engine", engine="x"), row("both", engine="x", kernel="k")]
    assert found(rows, (), "gemm", "bf16", engine="x", kernel="k") == "both"
    assert found(rows[:2], (), "gemm", "bf16", engine="x", kernel="k") == "engine"


def test_among_equals_the_first_counts():
    rows = [row("first", engine="x", kernel="a"), row("second", engine="x", kernel="b")]
    assert found(rows, (), "gemm", "bf16", engine="x") == "first"
    assert found(rows[::-1], (), "gemm", "bf16", engine="x") == "second"


def test_captured_steps_take_no_kernel_that_was_timed_with_the_host():
    rows = [row("host", engine="x", host_timed=True), row("other", engine="y")]
    assert found(rows, (), "gemm", "bf16", engine="x") == "host"
    assert found(rows, (), "gemm", "bf16", engine="x", captured=True) == "other"
    assert found(rows[:1], [row("default")], "gemm", "bf16", engine="x", captured=True) == "default"


def basis(measured, *asked, **named):
    return KernelTable((measured,)).find(*asked, **named).basis


def test_what_was_measured_for_something_else_only_stands_in():
    own = row("own", kv="bf16", engine="x", kernel="k")
    assert basis(own, "gemm", "bf16", kv_format="bf16", engine="x", kernel="k") == "measured"
    assert basis(own, "gemm", "") == "measured"
    assert basis(own, "gemm", "fp16") == "default"
    assert basis(own, "gemm", "bf16", kv_format="fp8") == "default"
    assert basis(own, "gemm", "bf16", engine="y") == "default"
    assert basis(own, "gemm", "bf16", kernel="l") == "default"
    assert basis(row("for all engines"), "gemm", "bf16", engine="x") == "measured"
    assert own.basis == "measured"


def written(tmp_path, old="", new=""):
    assert old in FILE
    path = tmp_path / "mine.toml"
    path.write_text(FILE.replace(old, new, 1) if old else FILE, encoding="utf-8")
    return path


def test_a_kernel_knows_where_it_was_read(tmp_path):
    path = written(tmp_path)
    (kernel,) = read_calibrations(path)
    assert kernel.place == f"{path}: kernel.0"
    assert (kernel.engine, kernel.basis, kernel.coefficients["launch_s"]) == ("mine", "measured", 2.5e-6)
    check_kernel(kernel)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema_version = 1", "schema_version = ", "is not TOML or was cut off"),
        ("schema_version = 1", "schema_version = 2", "schema_version"),
        ('operator = "gemm"\n', "", r"kernel\.0\.operator"),
        ('form = "gemm_tiled"', 'form = "gemm_tiled"\nfrom = 1', r"kernel\.0\.from"),
        ("launch_s = 2.5e-6", 'launch_s = "2.5 us"', r"kernel\.0\.coefficients\.launch_s"),
        ('dataset = "made up"\n', "", r"kernel\.0\.provenance\.dataset"),
        ('dataset = "made up"', 'dataset = ""', r"kernel\.0\.provenance\.dataset"),
        ("points = 60", "points = 0", r"kernel\.0\.provenance\.points"),
        ("fit_mape = 5.0", "fit_mape = 5.0\nmape = 5.0", r"kernel\.0\.provenance\.mape"),
        ('format = "bf16"', 'format = "bf16"\nbasis = "guessed"', r"kernel\.0\.basis"),
        (FILE[FILE.index("\n[kernel.provenance]") :], "\n", r"kernel\.0\.provenance"),
    ],
)
def test_a_file_that_breaks_the_schema_is_refused_by_file_and_key(tmp_path, old, new, message):
    path = written(tmp_path, old, new)
    with pytest.raises(ProfileError, match=message) as caught:
        read_calibrations(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"gemm_tiled"', '"gemm_tilled"', "form: unknown formula 'gemm_tilled'. Did you mean 'gemm_tiled'?"),
        ("launch_s", "lunch_s", "coefficients.lunch_s: unknown coefficient of gemm_tiled 'lunch_s'."
         " Did you mean 'launch_s'?"),
        ("compute_efficiency = 0.8", "compute_efficiency = 1.7", "coefficients.compute_efficiency: 1.7 is outside"),
        ("compute_efficiency = 0.8", "compute_efficiency = nan", "coefficients.compute_efficiency: nan is outside"),
        ("{ tiles =", "{ tile =", "attributes.tile: unknown attribute of gemm_tiled 'tile'. Did you mean 'tiles'?"),
        ('"library"', '"libary"', "attributes.tiles: 'libary' is none of 'library', 'narrow'"),
        ('{ tiles = "library" }', "{ split_k = 1 }", "attributes.split_k: 1 is none of False, True"),
    ],
)  # fmt: skip
def test_what_the_formula_does_not_take_is_refused_when_a_target_is_built(tmp_path, old, new, message):
    folder = tmp_path / "profiles" / "calibrations" / "h100-sxm"
    folder.mkdir(parents=True)
    path = written(folder, old, new)
    with pytest.raises(ProfileError) as caught:
        target("hgx-h100", profiles=str(tmp_path / "profiles"))
    assert str(caught.value).startswith(f"{path}: kernel.0: gemm bf16: {message}")
    assert "\n" not in str(caught.value)


def test_figures_that_stand_in_are_the_device_s_own_and_count_as_defaults(tmp_path):
    times = []
    for basis in ("", 'basis = "default"\n'):
        profiles = tmp_path / (basis[:5] or "plain")
        folder = profiles / "calibrations" / "tpu-v6e"
        folder.mkdir(parents=True)
        written(folder, "[[kernel]]\n", f"[[kernel]]\n{basis}")
        on = target("tpu-v6e-pod", profiles=str(profiles))
        kernel = on.kernels.find("gemm", "bf16")
        assert (kernel.engine, kernel.owner("tpu-v6e")) == ("mine", "tpu-v6e")
        times.append(time_operator(Gemm("product", 64.0, 4096.0, 4096.0, "bf16"), on.device, on.kernels))
    # Coarse cores are counted as multiprocessors for the defaults of an architecture, not for what the device has.
    assert float(times[0].seconds) == float(times[1].seconds)
    assert [time.bases[time.first] for time in times] == ["measured", "default"]


def test_a_file_of_the_user_comes_before_the_built_in_ones(tmp_path):
    folder = tmp_path / "calibrations" / "h100-sxm"
    folder.mkdir(parents=True)
    written(folder)
    table = load_kernels("h100-sxm", "hopper", tmp_path)
    assert table.measured[0].engine == "mine"
    assert table.find("gemm", "bf16", engine="vllm").engine == "vllm"


def test_defaults_of_the_architecture_come_before_the_generic_ones(tmp_path):
    folder = tmp_path / "calibrations" / "defaults"
    folder.mkdir(parents=True)
    for name in ("hopper", "generic"):
        shutil.copy(builtin_directory() / "calibrations" / "defaults" / f"{name}.toml", folder)
    table = read_kernel_table(tmp_path, "unheard-of", "hopper")
    assert not table.measured
    assert {kernel.basis for kernel in table.defaults} == {"default"}
    assert "hopper.toml" in table.find("gemm", "bf16").place
