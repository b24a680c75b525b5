"""`perfmodel sweep` from end to end: screens, formats, exit codes, and one line for everything that goes wrong."""

import csv
import io
import json

import pytest

from perfmodel.cli.main import main
from perfmodel.sweep.run import run_sweep

pytest.importorskip("pyarrow", reason="partitions are Parquet files")

STUDY = """
partition = 4
[serving]
model = "llama-3.1-8b"
system = ["hgx-a100", "hgx-h100"]
gpus = [1, 2]
isl = "1k"
osl = 200
tpot = ["default", "1us"]
concurrency = 32
[serving.what_if]
memory_bandwidth = ["x0.5", "x1", "x2"]
"""
TRAINING = """
[training]
model = "llama-3.1-8b"
system = "hgx-h100"
gpus = [8, 16]
seq = "4Ki"
global_batch = 64
tp = 8
"""
NOTHING = STUDY.replace('"default", ', "").replace("[1, 2]", "1")


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out = capsys.readouterr()
    return stop.value.code or 0, out.out, out.err


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.toml").write_text(STUDY)
    run_sweep(folder / "study.toml", folder / "sweep", workers=1)
    return folder / "sweep"


def test_a_sweep_runs_and_goes_on_and_says_what_there_is(capsys, tmp_path):
    study, directory = tmp_path / "study.toml", tmp_path / "sweep"
    study.write_text(STUDY + TRAINING)
    code, out, err = run(capsys, "sweep", study, "--dry-run", "-o", directory)
    assert (code, out) == (0, f"26 points in 7 partitions; every name in {study} is known.\n")
    assert not directory.exists()
    code, out, err = run(capsys, "sweep", study, "-o", directory, "--processes", 1)
    assert code == 0
    assert out.startswith("26 points, 12 of them infeasible, in 7 partitions of")
    assert err.splitlines()[-1].startswith("perfmodel: 26 of 26 points, 12 infeasible, ")
    assert "\r" not in err
    code, out, err = run(capsys, "sweep", "run", study, "-o", directory, "--processes", 1)
    assert code == 0
    assert err == "perfmodel: all 26 points are there already\n"
    code, out, _ = run(capsys, "sweep", "show", directory)
    assert code == 0
    assert "26 of 26 points, 12 of them infeasible" in out
    assert "serving.memory_bandwidth = x0.5, x1, x2" in out
    assert "serving.tpot = default, 1e-06" in out
    code, out, err = run(capsys, "sweep", "best", directory)
    assert (code, out) == (2, "")
    assert "say which (--task)" in err
    code, out, _ = run(capsys, "sweep", "best", directory, "--task", "training")
    assert code == 0
    assert "tp8" in out
    (directory / "training" / "part-000000.parquet").write_bytes(b"x")
    code, out, err = run(capsys, "sweep", "best", directory, "--task", "training")
    assert code == 2
    assert "part-000000.parquet: has 1 bytes instead of" in err
    code, _, err = run(capsys, "sweep", study, "-o", directory, "--processes", 1)
    assert code == 0
    assert "part-000000.parquet: has 1 bytes instead of" in err
    assert "it is computed again" in err
    study.write_text(STUDY)
    code, _, err = run(capsys, "sweep", study, "-o", directory, "--processes", 1)
    assert code == 2
    assert err.count("\n") == 1
    assert "training.gpus was 8, 16 and is gone" in err
    code, out, _ = run(capsys, "sweep", study, "-o", directory, "--processes", 1, "--restart")
    assert code == 0
    assert out.startswith("24 points")


def test_best_says_once_what_all_rows_share(capsys, directory):
    code, out, err = run(capsys, "sweep", "best", directory, "--where", "gpus=1", "--where", "system=hgx-h100")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == " model llama-3.1-8b, system hgx-h100, gpus 1, isl 1,000, osl 200"
    assert lines[2].split("  ")[0].strip() == "TPOT limit"
    assert len(lines) == 3 + 6
    assert "\x1b[" not in out
    assert max(map(len, lines)) <= 200


def test_best_as_json_and_csv_have_everything(capsys, directory, tmp_path):
    command = ["sweep", "best", directory, "--by", "system"]
    rows = json.loads(run(capsys, *command, "--format", "json")[1])["rows"]
    assert [row["system"] for row in rows] == ["hgx-a100", "hgx-h100"]
    assert rows[0]["tpot_limit_s"] is None
    assert all(row["feasible"] is True and row["rank"] == 1 for row in rows)
    file = tmp_path / "best.csv"
    code, out, _ = run(capsys, *command, "--format", "csv", "--output", file)
    assert (code, out) == (0, "")
    table = list(csv.DictReader(io.StringIO(file.read_text())))
    assert [float(row["tokens_per_s_per_gpu"]) for row in table] == [row["tokens_per_s_per_gpu"] for row in rows]
    assert table[0]["tp"] == "1"


def test_infeasible_points_are_rows_with_their_reason(capsys, directory):
    code, out, _ = run(capsys, "sweep", "best", directory, "--where", "tpot=1us", "--top", 3)
    assert code == 0
    assert "TPOT" in out
    assert "nothing meets the limits" in out
    assert "9 more rows: --top 12" in out


def test_the_front_of_all_points(capsys, directory):
    command = ["sweep", "pareto", directory, "--where", "memory_bandwidth=x1"]
    code, out, _ = run(capsys, *command, "--format", "json")
    rows = json.loads(out)["rows"]
    assert code == 0
    tpot, rate = zip(*((row["tpot_s"], row["tokens_per_s_per_gpu"]) for row in rows), strict=True)
    assert list(tpot) == sorted(tpot)
    assert list(rate) == sorted(rate)
    assert "on_front" in rows[0]
    code, out, _ = run(capsys, *command, "--objectives", "gpus,ttft", "--by", "system")
    assert code == 2
    code, out, _ = run(capsys, *command, "--objectives", "gpus,ttft_s", "--by", "system")
    assert code == 0


def test_break_even_and_sensitivity_screens(capsys, directory):
    where = ["--where", "tpot=default", "--where", "gpus=1"]
    choice = ["--a", "system=hgx-a100", "--b", "system=hgx-h100"]
    code, out, _ = run(capsys, "sweep", "break-even", directory, "--along", "memory_bandwidth", *choice, *where)
    assert code == 0
    assert out.startswith(" along memory bandwidth, a: system=hgx-a100; b: system=hgx-h100\n")
    assert "throughout" in out
    choice = ["--a", "system=hgx-a100", "--a", "memory_bandwidth=x2", "--b", "system=hgx-h100"]
    code, _, err = run(capsys, "sweep", "break-even", directory, "--along", "gpus", *choice, *where)
    assert code == 2
    assert "memory_bandwidth_x is named for one choice only; name it for both" in err
    command = ["sweep", "sensitivity", directory, "--where", "memory_bandwidth=x1", *where]
    code, out, _ = run(capsys, *command, "--number", "memory_bandwidth", "--number", "scale_out_latency")
    assert code == 0
    assert any(line.split()[-5:] == ["held", "reoptimised", "loss", "gain", "plan"] for line in out.splitlines())
    rows = json.loads(run(capsys, *command, "--number", "memory_bandwidth", "--format", "json")[1])["rows"]
    assert [row["system"] for row in rows] == ["hgx-a100", "hgx-h100"]
    assert all(0.3 < row["held"] <= 1 for row in rows)


def test_nothing_feasible_is_exit_code_1_and_the_rows_are_there(capsys, tmp_path):
    (tmp_path / "study.toml").write_text(NOTHING)
    command = ["sweep", tmp_path / "study.toml", "-o", tmp_path / "sweep", "--processes", 1]
    code, out, err = run(capsys, *command)
    assert (code, out) == (1, "")
    assert "none of 6 points is feasible; " in err.splitlines()[-1]
    assert "nothing meets the limits. Nearest:" in err.splitlines()[-1]
    code, _, err = run(capsys, "sweep", "best", tmp_path / "sweep")
    assert code == 1
    assert "no serving point is feasible" in err


def test_answers_of_a_sweep_that_is_not_finished_say_so(capsys, tmp_path, monkeypatch):
    from perfmodel.sweep import evaluate

    def stop(point):
        if point == 5:
            raise KeyboardInterrupt

    (tmp_path / "study.toml").write_text(STUDY)
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "watcher", stop)
        code, out, err = run(capsys, "sweep", tmp_path / "study.toml", "-o", tmp_path / "sweep", "--processes", 1)
    assert (code, out) == (130, "")
    assert "interrupted; 1 partitions are written and 5 are not: the same command goes on from there" in err
    code, out, err = run(capsys, "sweep", "best", tmp_path / "sweep")
    assert code == 0
    assert err == f"perfmodel: {tmp_path / 'sweep'} is not finished: 4 of 24 points\n"


BAD = [
    (["bset", "DIR"], "bset: no such command, and no such file. Did you mean 'perfmodel sweep best'?"),
    (["nope.toml", "-o", "DIR"], "nope.toml: no such file"),
    (["best", "nope"], "nope: holds no sweep"),
    (["best", "DIR", "--by", "modle"], "unknown column 'modle'; did you mean 'model'?"),
    (["best", "DIR", "--where", "gpus=3"], "no point has gpus=3; there are 1, 2"),
    (["best", "DIR", "--where", "isl=4x"], "unknown unit 'x'"),
    (["best", "DIR", "--of", "speed"], "unknown column 'speed'"),
    (["best", "DIR", "--task", "training"], "has no training points"),
    (["best", "DIR", "--format", "xml"], "xml"),
    (["sensitivity", "DIR", "--step", "ten"], "--step: 'ten' does not begin with a number"),
    (["sensitivity", "DIR", "--number", "memory"], "unknown number of hardware 'memory'"),
    (["break-even", "DIR", "--along", "gpus"], "Missing option '--a'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=range(len(BAD)))
def test_mistakes_are_one_line_and_exit_code_2(capsys, directory, arguments, message):
    code, out, err = run(capsys, "sweep", *(directory if word == "DIR" else word for word in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_missing_extra_is_one_line_with_the_way_out(capsys, directory, tmp_path, monkeypatch):
    import sys

    (tmp_path / "study.toml").write_text(STUDY)
    monkeypatch.setitem(sys.modules, "distributed", None)
    command = ["sweep", tmp_path / "study.toml", "-o", tmp_path / "sweep"]
    code, _, err = run(capsys, *command, "--dask", "tcp://127.0.0.1:1")
    assert (code, err) == (
        2,
        "perfmodel: --dask needs distributed, which is not installed: pip install 'perfmodel[dask]'\n",
    )
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for words in (command, ["sweep", "best", directory]):
        code, _, err = run(capsys, *words)
        assert (code, err.count("\n")) == (2, 1)
        assert "pip install 'perfmodel[parquet]'" in err
