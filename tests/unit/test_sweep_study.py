"""Studies: what a file crosses, in which order, and what is refused at the door with its place."""

import itertools

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.cli.main import app
from perfmodel.errors import StudyError
from perfmodel.sweep.axes import TASKS
from perfmodel.sweep.columns import PLAN_COLUMNS, table_columns
from perfmodel.sweep.evaluate import rows_of
from perfmodel.sweep.inputs import digest_of, inputs_of
from perfmodel.sweep.study import study_from_document
from perfmodel.sweep.study_files import make_study, read_study

SERVING = """
[serving]
model = "llama-3.1-8b"
system = ["hgx-h100", "hgx-h200"]
gpus = 1
tpot = ["default", "50ms"]
[serving.together]
lengths = [{ isl = "1k", osl = 200 }, { isl = 200, osl = "1Ki" }]
[serving.what_if]
memory_bandwidth = ["x0.5", "6 TB/s"]
"""
TRAINING = """
[training]
model = "llama-3.1-8b"
system = "hgx-h100"
gpus = 8
seq = "4Ki"
global_batch = [64, 128]
"""


def write(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(text)
    return path


def test_a_study_is_a_cross_product_in_the_order_of_its_file(tmp_path):
    study = read_study(write(tmp_path, SERVING + TRAINING))
    assert len(study) == 2 * 2 * 2 * 2 + 2
    points = list(study.points())
    assert [point.index for point in points] == [*range(16), 0, 1]
    wanted = itertools.product(["hgx-h100", "hgx-h200"], [None, 0.05], [(1000, 200), (200, 1024)], ["x0.5", "6 TB/s"])
    for point, (system, tpot, lengths, change) in zip(points, wanted, strict=False):
        assert point.values["system"] == system
        assert point.values["tpot"] == tpot
        assert (point.values["isl"], point.values["osl"]) == lengths
        assert point.what_if == {"memory_bandwidth": change}
    assert points[-1].values["global_batch"] == 128


def test_spelling_does_not_change_a_study_and_meaning_does(tmp_path):
    text = SERVING + TRAINING
    study = read_study(write(tmp_path, text))
    same = read_study(write(tmp_path, "# said\n" + text.replace('"50ms"', '"0.05 s"').replace('"1k"', "1000")))
    assert same.digest() == study.digest()
    assert study_from_document(study.document()) == study
    for old, new in (("gpus = 1", "gpus = 2"), ("x0.5", "x0.6"), ("[serving]", "top = 2\n[serving]")):
        assert read_study(write(tmp_path, text.replace(old, new, 1))).digest() != study.digest()


LOAD = {"model": "llama-3.1-8b", "system": "hgx-h100", "gpus": 1, "isl": "1k", "osl": 200}
BAD = [
    ("top = 0\n" + SERVING, "study.toml: top: 0 is not a whole number of at least 1"),
    ("front = 1\n" + SERVING, "front: 1 is not true or false"),
    ("tpo = 3\n" + SERVING, "tpo: unknown key; did you mean 'top'?"),
    ("", "has neither .serving. nor .training."),
    ("[serving]\nmodel = ", "is not TOML"),
    (SERVING.replace("model =", "modle ="), "serving.modle: unknown key; did you mean 'model'?"),
    (SERVING.replace("gpus = 1", ""), "serving.gpus: is missing"),
    (SERVING.replace("gpus = 1", "gpus = [1, 0]"), r"serving.gpus\[1\]: 0 must be at least 1"),
    (SERVING.replace("gpus = 1", "gpus = [1, true]"), r"serving.gpus\[1\]: True is not a count"),
    (SERVING.replace("gpus = 1", "gpus = []"), "serving.gpus: is empty"),
    (SERVING.replace("gpus = 1", 'gpus = [1000, "1k"]'), r"serving.gpus\[1\]: 1000 stands there twice"),
    (SERVING.replace("gpus = 1", "gpus = 1\nisl = 5"), "serving.isl: is named twice"),
    (SERVING.replace('"50ms"', "50"), r"serving.tpot\[1\]: '50': a time needs a unit"),
    (SERVING.replace('"50ms"', '"50 parsecs"'), r"serving.tpot\[1\]: .*unknown unit 'parsecs'"),
    (SERVING.replace("gpus = 1", "gpus = 1\nmemory_bandwidth = 'x2'"), r"\[serving.what_if\]"),
    (SERVING.replace("memory_bandwidth =", "memory_bandwith ="), "did you mean 'memory_bandwidth'?"),
    (SERVING.replace('"x0.5"', "0.5"), r"serving.what_if.memory_bandwidth\[0\]: 0.5 is no change; write a factor"),
    (SERVING.replace('"x0.5"', '"x0"'), r"memory_bandwidth\[0\]: 'x0' must be above zero"),
    (
        SERVING.replace("osl = 200 }", "olss = 200 }"),
        r"together.lengths\[1\]: has the keys isl, osl, and the first has",
    ),
    (SERVING.replace("osl =", "olss ="), "together.lengths: unknown key 'olss'"),
    (SERVING.replace("[{ isl", "[5, { isl"), "must be a list of tables"),
    ("serving = 5", "serving: must be a table"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_is_wrong_is_named_with_file_and_key(tmp_path, text, message):
    with pytest.raises(StudyError, match=message) as raised:
        read_study(write(tmp_path, text))
    assert str(raised.value).startswith(f"{tmp_path / 'study.toml'}: ")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(StudyError, match="no such file"):
        read_study(tmp_path / "nope.toml")
    with pytest.raises(StudyError, match="cannot be read"):
        read_study(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudyError, match="not TOML"):
        read_study(tmp_path / "binary.toml")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["x2", "1k", "50ms"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*LOAD, "tpot", "tp", "x"]), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [*LOAD, "tpot", "rate", "tp", "zero", "precision", "what_if", "together", "memory_bandwidth", "x"]
)


@given(
    st.sampled_from(["serving", "training", "top", "front", "partition", "x"]),
    st.dictionaries(KEYS, VALUES, max_size=4) | VALUES,
    st.booleans(),
)
def test_rubbish_is_refused_and_never_more_than_that(key, value, complete):
    tables = {key: LOAD | value if complete and isinstance(value, dict) else value}
    try:
        points = list(make_study(tables).points())
    except StudyError:
        return
    for point in points:
        for number in point.values.values():
            assert number is None or isinstance(number, str) or 0 <= number < 2**62


NAMES = [
    ("serving", {"system": "hgx-h10"}, "serving.system: unknown system 'hgx-h10'. Did you mean 'hgx-h100'"),
    ("serving", {"model": ["llama-3.1-8b", "llama-3.1-9b"]}, "serving.model: unknown model 'llama-3.1-9b'"),
    ("serving", {"engine": "vlm"}, "serving.engine: unknown engine 'vlm'. Did you mean 'vllm'"),
    ("serving", {"precision": "fp9"}, "serving.precision: unknown precision 'fp9'; did you mean 'fp8'"),
    ("serving", {"kv": "int3"}, "serving.kv: unknown number format 'int3'"),
    ("serving", {"schedule": "chunky"}, "serving.schedule: unknown schedule 'chunky'; did you mean 'chunked'"),
    ("serving", {"arrivals": "at random"}, "serving.arrivals: .*choose from closed, poisson"),
    ("serving", {"collectives": "ncl"}, "serving.collectives: .*did you mean 'nccl'"),
    ("training", {"schedule": "1f2b"}, "training.schedule: unknown schedule '1f2b'; did you mean '1f1b'"),
    ("training", {"recompute": "ful"}, "training.recompute: .*did you mean 'full'"),
    ("training", {"precision": "fp9"}, "training.precision: unknown"),
    ("training", {"stack": "megatron"}, "training.stack: unknown stack"),
]


@pytest.mark.parametrize(("task", "wrong", "message"), NAMES)
def test_names_are_checked_before_anything_runs(task, wrong, message):
    lengths = {"isl": "1k", "osl": 200} if task == "serving" else {"seq": "4Ki", "global_batch": 64}
    base = {name: LOAD[name] for name in ("model", "system", "gpus")}
    with pytest.raises(StudyError, match=message):
        inputs_of(make_study({task: base | lengths | wrong}))


def test_paths_are_those_beside_the_study(tmp_path):
    from perfmodel.hardware.places import builtin_directory

    device = (builtin_directory() / "devices" / "h100-sxm.toml").read_text()
    system = (builtin_directory() / "systems" / "hgx-h100.toml").read_text()
    (tmp_path / "h100-sxm.toml").write_text(device)
    (tmp_path / "mine.toml").write_text(system.replace('"hgx-h100"', '"mine"', 1))
    study = make_study({"serving": LOAD | {"system": "mine.toml"}}, folder=tmp_path)
    assert study.blocks[0].values("system") == (str(tmp_path / "mine.toml"),)
    name = f"system {tmp_path / 'mine.toml'}"
    before = inputs_of(study)[name]
    # What a file says about its numbers may change, its numbers may not.
    (tmp_path / "h100-sxm.toml").write_text(device + "\n# a remark\n")
    assert inputs_of(study)[name] == before
    (tmp_path / "h100-sxm.toml").write_text(device.replace("3.35 TB/s", "3.36 TB/s"))
    assert inputs_of(study)[name] != before


def test_digests_differ_where_results_may():
    names = ("system hgx-h100", "system hgx-h200", "model llama-3.1-8b", "engine vllm", "stack neutral", "code")
    assert len({digest_of(name) for name in names}) == len(names)


@pytest.mark.parametrize("task", ["serving", "training"])
def test_rows_have_the_columns_of_their_table_and_no_others(task):
    lengths = {"isl": "1k", "osl": 200} if task == "serving" else {"seq": "4Ki", "global_batch": 64, "tokens": "1T"}
    if task == "serving":
        lengths |= {"arrivals": "poisson", "rate": 1, "price": 2.5}
    base = {"model": "llama-3.1-8b", "system": "hgx-h100", "gpus": [8, 100_000]}
    study = make_study({task: base | lengths | {"tp": ["default", 2], "what_if": {"peak_flops": ["x1", "x2"]}}})
    block = study.blocks[0]
    columns = table_columns(block)
    for index in (0, 1, 2, 4):
        rows = rows_of(block.point(index), top=2)
        for row in rows:
            assert set(row) <= set(columns)
            assert row["feasible"] is (index < 4)
            assert bool(row["reason"]) is (index >= 4)
        if index < 4:
            assert [row["rank"] for row in rows if row["rank"]] == [1, 2]
            assert set(PLAN_COLUMNS[task]) - {"days"} <= {name for name, value in rows[0].items() if value is not None}
            assert rows[0]["peak_flops_x"] == (2.0 if index % 2 else 1.0)
        if index == 2:
            assert {row["tp"] for row in rows} == {2}


def test_every_axis_of_serving_reaches_the_ranking():
    point = make_study({"serving": LOAD | {"gpus": 8}}).blocks[0].point(0)
    base = rows_of(point, front=False)[0]
    others = {"precision": "fp8", "kv": "fp8", "engine": "trtllm", "schedule": "chunked", "tp": 8, "concurrency": 3}
    others |= {"ttft": "90ms", "tpot": "10ms", "rate": 60, "prefix_hit": "50%", "draft_tokens": 1, "host_hit": "50%"}
    for name, value in others.items():
        study = make_study({"serving": LOAD | {"gpus": 8, name: value}})
        row = rows_of(study.blocks[0].point(0), front=False)[0]
        same = ("tp", "pp", "concurrency", "ttft_s", "tpot_s")
        assert name == "rate" or any(row.get(column) != base[column] for column in same), name
    assert rows_of(make_study({"serving": LOAD | {"rate": 10_000}}).blocks[0].point(0))[0]["feasible"] is False


def test_shared_prefixes_and_skews_reach_the_ranking():
    def tpot(**more):
        row = rows_of(make_study({"serving": LOAD | {"gpus": 8, "concurrency": 64, **more}}).blocks[0].point(0))[0]
        return row["tpot_s"]

    assert tpot(shared_prefix="75%", sharers=16) < tpot(shared_prefix="75%", sharers="default") == tpot()
    fed = rows_of(make_study({"serving": LOAD | {"gpus": 8, "power": "3kW"}}).blocks[0].point(0))[0]
    assert fed["replicas"] * fed["tp"] * fed["pp"] == 4
    alone = rows_of(make_study({"serving": LOAD | {"gpus": 8, "shared_prefix": "75%"}}).blocks[0].point(0))[0]
    assert "shared_prefix is read only beside sharers" in alone["reason"]
    moe = {"model": "mixtral-8x7b", "tp": 1, "ep": 8, "dp": 8}
    assert tpot(expert_skew=0, **moe) < tpot(expert_skew=1.5, **moe)


def test_lengths_and_chunks_reach_the_ranking():
    plan = {"model": "llama-3.1-8b", "system": "hgx-h100", "gpus": 8, "global_batch": 64, "tp": 4, "dp": 2, "pp": 1}
    asked = plan | {"seq": "32Ki", "lengths": ["default", "3:1Ki, 1:32Ki"], "chunk": ["default", "8Ki"], "retained": 2}

    def step(number):
        (row,) = rows_of(make_study({"training": asked}).blocks[0].point(number))[:1]
        return row["step_s"]

    whole, _, mixed, chunked = (step(number) for number in range(4))
    assert chunked < mixed < whole


# What says how results are shown or kept, and what `perfmodel sweep` does not answer.
SHOWN = {"top", "format", "output", "profiles", "what_if"}
BEYOND = {
    "serving": {"pareto", "workers", "prefill_system", "link", "layerwise", "prefill_price", "objective"},
    "training": {
        *("islands", "between", "links"),
        *("mtbf", "checkpoint", "restart", "elastic", "repair", "recovery"),
    },
}


@pytest.mark.parametrize("task", ["serving", "training"])
def test_what_a_ranking_can_be_asked_a_study_can_cross(task):
    command = typer.main.get_command(app).commands["rank"].commands[task]
    asked = {option.name for option in command.params} - {"help"} - SHOWN - BEYOND[task]
    assert asked - set(TASKS[task]) == set()


def test_a_number_that_a_machine_does_not_have_is_a_reason():
    load = LOAD | {"system": ["hgx-h100", "tpu-v5e-pod"], "what_if": {"cache_bandwidth": ["default", "x2"]}}
    study = make_study({"serving": load})
    rows = [rows_of(point, front=False)[0] for point in study.points()]
    assert [row["cache_bandwidth_x"] for row in rows] == [1.0, 2.0, 1.0, 2.0]
    assert rows[2]["cache_bandwidth"] is None
    # As it is, it needs no such number, even where the model does not fit.
    assert ["has no cache_bandwidth" in row["reason"] for row in rows] == [False, False, False, True]


SERVED = LOAD | {"gpus": 2}
TRAINED = {"model": "llama-3.1-8b", "system": "hgx-h100", "gpus": 8, "seq": "4Ki", "global_batch": 64}
ODD = [
    *(("serving", {name: 0}) for name in ("tp", "pp", "ep", "concurrency", "waves", "price", "rate", "draft_cost")),
    *(("training", {name: 0}) for name in ("tp", "pp", "cp", "ep", "vp", "micro_batch", "shard_copies", "zero")),
    *(("serving", {name: "1T"}) for name in ("gpus", "isl", "osl", "chunk")),
    *(("training", {name: "1T"}) for name in ("gpus", "global_batch", "tokens")),
    ("serving", {"tp": 2**50}),
    ("serving", {"tpot": "0s"}),
    ("training", {"edge_layers": 99}),
    ("serving", {"what_if": {"memory_bandwidth": "x1e-30"}}),
    ("serving", {"what_if": {"peak_flops": "x1e30"}}),
    ("training", {"what_if": {"memory_capacity": "x1e-9"}}),
]


@pytest.mark.parametrize(("task", "odd"), ODD, ids=str)
def test_odd_values_give_rows_with_a_plan_or_with_a_reason(task, odd):
    study = make_study({task: (SERVED if task == "serving" else TRAINED) | odd})
    rows = rows_of(study.blocks[0].point(0), front=False)
    assert bool(rows[0]["reason"]) is not rows[0]["feasible"]
