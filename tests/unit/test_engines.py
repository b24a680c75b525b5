"""Engine profiles: the shipped ones load, and every way to break one is a single line that names file and key."""

import dataclasses
import shutil
import tomllib

import pytest

from perfmodel.errors import PerfmodelError, ProfileError, UnknownNameError
from perfmodel.hardware.engine import Engine
from perfmodel.hardware.engine_files import load_engine
from perfmodel.hardware.kernel_files import load_kernel_table
from perfmodel.hardware.named_files import list_named
from perfmodel.hardware.places import builtin_directory

FOLDER = builtin_directory() / "engines"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
TEXT = (FOLDER / "vllm.toml").read_text(encoding="utf-8")
TABLES = [key for key, value in tomllib.loads(TEXT).items() if isinstance(value, dict)]
SHARES = ("memory_fraction", "reserved_output", "overlap")


def table(key):
    """The lines of one table of the file that the broken ones are made from."""
    start = TEXT.index(f"[{key}]")
    end = TEXT.find("\n[", start)
    return TEXT[start : end if end > 0 else len(TEXT)]


def written(folder, old="", new="", name="mine"):
    assert old in TEXT
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(TEXT.replace(old, new, 1) if old else TEXT, encoding="utf-8")
    return path


def refused(path):
    """The message with which a file is refused."""
    with pytest.raises(ProfileError) as caught:
        load_engine(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_the_catalogue_is_what_lies_in_the_folder():
    assert {"neutral", "sglang", "trtllm", "vllm"} <= set(NAMES)
    assert list_named("engine") == tuple(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_engines_load_and_make_sense(name):
    engine = load_engine(name)
    assert engine.id == name
    for share in SHARES:
        assert 0 <= getattr(engine, share) <= 1, share
    assert 0.5 < engine.memory_fraction < 1
    assert 1e8 < engine.framework_bytes < 1e10
    assert 1024 <= engine.step_tokens <= 65536
    for field in dataclasses.fields(Engine):
        value = getattr(engine, field.name)
        assert not isinstance(value, float) or 0 <= value < float("inf"), field.name
    assert max(engine.decode_step_s, engine.decode_request_s, engine.prefill_layer_s, engine.request_s) < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_source(name):
    tables = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    values = {key: value for key, value in tables.items() if isinstance(value, dict)}
    assert len(values) >= 10
    for key, value in values.items():
        assert len(value["source"]) >= 7, key


@pytest.mark.parametrize("name", NAMES)
def test_the_preferred_kernels_exist(name):
    devices = ("h100-sxm", "h800-sxm", "ascend-910c")
    kernels = [row for device in devices for row in load_kernel_table(device, "").measured]
    assert load_engine(name).kernels in {kernel.engine for kernel in kernels}


def test_names_are_found_whatever_their_case_and_near_misses_named():
    assert load_engine("vLLM") == load_engine("vllm")
    with pytest.raises(UnknownNameError, match=r"unknown engine 'vlm'\. Did you mean 'vllm'\?"):
        load_engine("vlm")
    with pytest.raises(ProfileError, match=r"gone\.toml: no such file"):
        load_engine("gone.toml")


def test_the_directory_that_is_given_comes_first(tmp_path):
    written(tmp_path / "engines", "value = 0.90", "value = 0.5", name="vllm")
    written(tmp_path / "engines", "value = 0.90", "value = 0.6", name="mine")
    assert load_engine("vllm", tmp_path).memory_fraction == 0.5
    assert load_engine("mine", tmp_path).memory_fraction == 0.6
    assert "mine" in list_named("engine", tmp_path)
    assert load_engine(str(tmp_path / "engines" / "mine.toml")).id == "mine"


def test_a_copy_of_a_shipped_file_is_the_same_engine(tmp_path):
    path = shutil.copy(FOLDER / "trtllm.toml", tmp_path / "mine.toml")
    assert dataclasses.replace(load_engine(str(path)), id="trtllm") == load_engine("trtllm")


@pytest.mark.parametrize("key", TABLES)
def test_a_constant_that_is_missing_is_named(tmp_path, key):
    assert refused(written(tmp_path, table(key), "")).startswith(f"{key}: ")


@pytest.mark.parametrize("key", TABLES)
def test_a_constant_without_a_source_is_named(tmp_path, key):
    kept = [line for line in table(key).splitlines() if not line.startswith("source")]
    assert refused(written(tmp_path, table(key), "\n".join(kept))).startswith(f"{key}.source: ")


@pytest.mark.parametrize("key", TABLES)
@pytest.mark.parametrize("value", ['"a lot"', "-1", "nan", "{ x = 1 }"])
def test_a_value_that_is_none_is_refused_by_key(tmp_path, key, value):
    lines = [f"value = {value}" if line.startswith("value") else line for line in table(key).splitlines()]
    assert refused(written(tmp_path, table(key), "\n".join(lines))).startswith(key)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema_version = 1", "schema_version = ", "is not TOML or was cut off"),
        ("schema_version = 1", "schema_version = 7", "schema_version: "),
        ('kind = "engine"', 'kind = "device"', "kind: "),
        ('name = "vLLM"\n', "", "name: "),
        ("[overlap]", "[overlapp]", "overlap"),
        ('value = "8192"', 'value = "8192 B"', "step_tokens: "),
        ('value = "1.79 GiB"', "value = 1.79", "framework_bytes: "),
        ('value = "1.79 GiB"', 'value = "1.79 GiB/s"', "framework_bytes: "),
        ('value = "15 us"', "value = 15", "decode_request: "),
        ('value = "15 us"', 'value = "15 furlongs"', "decode_request: "),
        ("value = 4\n", 'value = "3"\n', "stream_steps: "),
        ("value = 4\n", "value = inf\n", "stream_steps: "),
        ("value = 0.90", "value = 1.7", "memory_fraction: "),
        (
            "[overlap]",
            '[prefill_waits]\ngate = "3 ells"\nranks = 8\nsource = "a trace"\n\n[overlap]',
            "prefill_waits: ",
        ),
        ("[overlap]", '[prefill_waits]\ngate = "-1 ms"\nranks = 8\nsource = "a trace"\n\n[overlap]', "prefill_waits: "),
        ("[overlap]", '[prefill_waits]\ngate = "1 ms"\nranks = 8\n\n[overlap]', "prefill_waits.source: "),
        ("[overlap]", '[prefill_waits]\ngate = "1 ms"\nsource = "a trace"\n\n[overlap]', "prefill_waits.ranks: "),
        ("[overlap]", '[prefill_waits]\nranks = 1\nsource = "a trace"\n\n[overlap]', "prefill_waits.ranks: "),
        ("value = 0.90", "vale = 0.90", "memory_fraction.va"),
    ],
)
def test_broken_files_are_refused_by_key(tmp_path, old, new, message):
    assert refused(written(tmp_path, old, new)).startswith(message)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"name = '\xff\xfe'")
    assert "is not TOML" in refused(path)
    assert issubclass(ProfileError, PerfmodelError)


def test_a_file_that_may_not_be_read_is_refused_by_name(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "mine.toml").touch()
    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    with pytest.raises(ProfileError, match=r"mine\.toml: cannot be read \(Permission denied\); check the path"):
        load_engine(str(tmp_path / "mine.toml"))
