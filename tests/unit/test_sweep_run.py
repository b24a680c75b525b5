"""Running a sweep: the same files whoever computes them, in whatever order, however often it is stopped."""

import errno
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from perfmodel.errors import MissingExtraError, OutputError, SweepError, SweepInterruptedError
from perfmodel.sweep import evaluate, partitions, pool, store
from perfmodel.sweep.inputs import digest_of, inputs_of
from perfmodel.sweep.progress import Progress
from perfmodel.sweep.read import open_sweep
from perfmodel.sweep.run import run_sweep
from perfmodel.sweep.study_files import make_study

pytest.importorskip("pyarrow", reason="partitions are Parquet files")

LOAD = {"model": "llama-3.1-8b", "system": "hgx-h100", "isl": "1k", "osl": 200, "concurrency": 8}
TRAINING = {"model": "llama-3.1-8b", "system": "hgx-h100", "gpus": 8, "seq": "4Ki", "global_batch": 64, "tp": 8}
TABLES = {
    "partition": 3,
    "serving": LOAD | {"gpus": [1, 2, 100_000], "what_if": {"memory_bandwidth": ["x0.5", "x1", "x2"]}},
    "training": TRAINING,
}
FILES = [f"serving/part-{i:06d}.parquet" for i in range(3)] + ["training/part-000000.parquet"]


@pytest.fixture(scope="module")
def study():
    return make_study(TABLES)


@pytest.fixture(scope="module")
def whole(study, tmp_path_factory):
    """Contents of the directory of a sweep that nothing disturbed."""
    directory = tmp_path_factory.mktemp("whole") / "sweep"
    run_sweep(study, directory, workers=1)
    return contents(directory)


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


class Shuffled(Executor):
    """Finishes what it was given in a random order, several at a time."""

    def __init__(self, seed):
        self.random, self.now, self.most = random.Random(seed), 0, 0

    def submit(self, fn, /, *args, **kwargs):
        future = Future()

        def work():
            result = fn(*args, **kwargs)
            self.now -= 1
            future.set_result(result)

        self.now += 1
        self.most = max(self.most, self.now)
        threading.Timer(self.random.uniform(0, 0.2), work).start()
        return future


def test_a_sweep_writes_a_manifest_and_whole_partitions(study, whole):
    manifest = json.loads(whole["manifest.json"])
    assert list(whole) == ["manifest.json", *FILES]
    assert [part["file"] for part in manifest["partitions"]] == FILES
    assert manifest["complete"] is True
    assert manifest["points"] == 10
    assert manifest["study_sha256"] == study.digest()
    assert set(manifest["inputs"]) == {
        "code", "model llama-3.1-8b", "system hgx-h100", "engine neutral", "stack neutral",
    }  # fmt: skip
    assert sum(part["feasible"] for part in manifest["partitions"]) == 7
    assert {path.name for path in Path().glob("*.tmp")} == set()


@pytest.mark.parametrize("how", ["threads", "shuffled", "chunks of 2", "chunks of 99", "processes"])
def test_results_do_not_depend_on_who_computes_them(study, whole, tmp_path, how):
    arguments = {
        "threads": {"executor": ThreadPoolExecutor(3)},
        "shuffled": {"executor": Shuffled(1), "in_flight": 3},
        "chunks of 2": {"workers": 1, "chunk": 2},
        "chunks of 99": {"workers": 1, "chunk": 99},
        "processes": {"workers": 2},
    }[how]
    sweep = run_sweep(study, tmp_path / "sweep", **arguments)
    assert contents(tmp_path / "sweep") == whole
    assert (len(sweep), sweep.done, sweep.feasible) == (10, 10, 7)


def test_the_size_of_partitions_changes_files_and_no_values(study, whole, tmp_path):
    sweep = run_sweep(study, tmp_path / "threes", workers=1)
    other = run_sweep(make_study(TABLES | {"partition": 100}), tmp_path / "hundred", workers=1)
    assert len(other.parts) == 2
    for task in ("serving", "training"):
        assert sweep.table(task).equals(other.table(task))


def test_dask_on_a_real_cluster_gives_the_same(study, whole, tmp_path):
    distributed = pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        run_sweep(study, tmp_path / "sweep", executor=client.get_executor(), in_flight=4)
    assert contents(tmp_path / "sweep") == whole


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("after", range(5))
def test_stopped_anywhere_it_goes_on_and_the_files_are_the_same(study, whole, tmp_path, monkeypatch, after):
    directory, replaced = tmp_path / "sweep", os.replace
    count = 0

    def stop(source, target):
        nonlocal count
        if Path(target).suffix == ".parquet":
            if count == after:
                raise StoppedError
            count += 1
        replaced(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        if after < 4:
            with pytest.raises(StoppedError):
                run_sweep(study, directory, workers=1)
            assert open_sweep(directory).done == [0, 3, 6, 9][after]
        else:
            run_sweep(study, directory, workers=1)
    computed = []
    monkeypatch.setattr(evaluate, "watcher", computed.append)
    run_sweep(study, directory, workers=1)
    assert contents(directory) == whole
    assert len([point for point in computed if point is not None]) == [10, 7, 4, 1, 0][after]


def test_a_journal_that_was_cut_off_loses_only_its_last_partition(study, whole, tmp_path, monkeypatch):
    directory = tmp_path / "sweep"
    monkeypatch.setattr(store.Store, "finish", lambda *_: None)
    run_sweep(study, directory, workers=1)
    monkeypatch.undo()
    journal = directory / "journal.jsonl"
    journal.write_text(journal.read_text()[:-20])
    (directory / "serving" / ".part-000001.parquet.tmp").write_bytes(b"half a file")
    assert open_sweep(directory).done == 9
    run_sweep(study, directory, workers=1)
    assert contents(directory) == whole


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), r"has [\d,]+ bytes instead of"),
        (lambda path: path.write_bytes(bytes(len(path.read_bytes()))), "does not have the checksum"),
        (lambda path: path.unlink(), "is missing"),
    ],
    ids=["cut off", "changed", "deleted"],
)
def test_a_damaged_partition_is_named_and_computed_again(study, whole, tmp_path, spoil, what):
    directory = tmp_path / "sweep"
    sweep = run_sweep(study, directory, workers=1)
    spoil(directory / FILES[1])
    with pytest.raises(SweepError, match=rf"part-000001.parquet: {what}.*again"):
        sweep.frame("serving")
    assert len(sweep.frame("training")) == 1
    with pytest.warns(UserWarning, match=rf"part-000001.parquet: {what}.*it is computed again") as caught:
        run_sweep(study, directory, workers=1)
    assert len(caught) == 1
    assert contents(directory) == whole


def test_another_study_profile_or_version_is_refused_until_it_may_start_over(study, whole, tmp_path, monkeypatch):
    directory = tmp_path / "sweep"
    run_sweep(study, directory, workers=1)
    other = make_study(TABLES | {"serving": TABLES["serving"] | {"gpus": [1, 2]}, "top": 2})
    with pytest.raises(
        SweepError, match=r"top was 1 and is 2; serving.gpus was 1, 2, 100000 and is 1, 2\. .*--restart"
    ):
        run_sweep(other, directory, workers=1)
    with monkeypatch.context() as patch:
        patch.setattr("perfmodel.__version__", "9.9.9")
        with pytest.raises(SweepError, match=r"perfmodel was .* and is 9\.9\.9"):
            run_sweep(study, directory, workers=1)
    with monkeypatch.context() as patch:
        changed = {"system hgx-h100": "0" * 64}
        patch.setattr("perfmodel.sweep.run.inputs_of", lambda *_: inputs_of(study) | changed)
        with pytest.raises(SweepError, match="system hgx-h100 has changed"):
            run_sweep(study, directory, workers=1)
    assert contents(directory) == whole
    sweep = run_sweep(other, directory, workers=1, restart=True)
    assert sweep.done == len(other) == 7
    assert not (directory / FILES[2]).exists()
    run_sweep(study, directory, workers=1, restart=True)
    assert contents(directory) == whole


def test_a_directory_with_other_things_and_a_damaged_manifest_are_refused(study, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SweepError, match=r"is not empty and holds no sweep .thesis.txt."):
        run_sweep(study, tmp_path, workers=1)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(SweepError, match=r"manifest.json: is damaged"):
        run_sweep(study, tmp_path, workers=1)
    with pytest.raises(SweepError, match="holds no sweep"):
        open_sweep(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written: Not a directory"):
        run_sweep(study, tmp_path / "file" / "sweep", workers=1)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_full_or_broken_disk_is_reported_and_nothing_half_is_left(study, whole, tmp_path, monkeypatch, code):
    directory, synced = tmp_path / "sweep", os.fsync
    count = 0

    def fail(handle):
        nonlocal count
        count += 1
        if count == 8:  # some way into the sweep: manifest, partitions, directories and journal are all synced
            raise OSError(code, os.strerror(code))
        synced(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OutputError, match=f"cannot be written: {os.strerror(code)}"):
            run_sweep(study, directory, workers=1)
    assert not list(directory.rglob("*.tmp"))
    done = open_sweep(directory)
    assert 0 < done.done < 10
    assert len(done.frame("serving")) > 0
    run_sweep(study, directory, workers=1)
    assert contents(directory) == whole


def test_two_sweeps_do_not_write_into_one_directory(study, tmp_path):
    code = (
        "import fcntl, sys\nstream = open(sys.argv[1], 'a')\nfcntl.lockf(stream, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\nsys.stdin.read()"
    )
    directory = tmp_path / "sweep"
    directory.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(directory / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(SweepError, match="another sweep is writing into it"):
            run_sweep(study, directory, workers=1)
        other.kill()
    run_sweep(study, directory, workers=1)


@pytest.mark.parametrize("step", ["mkdir", "replace"])
def test_stopped_before_it_has_begun_it_begins(study, whole, tmp_path, monkeypatch, step):
    directory, count = tmp_path / "sweep", 0

    def stop(*_, **__):
        nonlocal count
        count += 1
        if count > 1:
            raise StoppedError
        return original(*_, **__)

    owner = {"mkdir": Path, "replace": os}[step]
    original = getattr(owner, step)
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, stop)
        with pytest.raises(StoppedError):
            run_sweep(study, directory, workers=1)
    run_sweep(study, directory, workers=1)
    assert contents(directory) == whole


def test_nothing_is_computed_without_pyarrow(study, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"needs pyarrow, which is not installed: pip install 'perfmodel\[parq"):
        run_sweep(study, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_no_more_is_in_flight_than_allowed(study, tmp_path):
    executor = Shuffled(3)
    run_sweep(study, tmp_path / "sweep", executor=executor, in_flight=3)
    assert executor.most == 3
    for wrong in ({"in_flight": 0}, {"chunk": 0}, {"workers": 0}):
        with pytest.raises(SweepError, match="at least 1"):
            run_sweep(study, tmp_path / "other", **wrong)


class Failing(Executor):
    def __init__(self, error):
        self.error, self.calls = error, 0

    def submit(self, fn, /, *args, **kwargs):
        self.calls += 1
        future = Future()
        if self.calls == 5:
            future.set_exception(self.error)
        else:
            future.set_result(fn(*args, **kwargs))
        return future


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (BrokenExecutor("a process ended"), r"died on one of: serving point 4 .*the same command goes on"),
        (MemoryError("worker lost"), r"serving point 4 \(model=llama-3.1-8b, .*MemoryError: worker lost.*goes on"),
    ],
)
def test_a_lost_worker_is_reported_with_its_point(study, whole, tmp_path, error, message):
    directory = tmp_path / "sweep"
    with pytest.raises(SweepError, match=message):
        run_sweep(study, directory, executor=Failing(error), in_flight=1)
    assert open_sweep(directory).done == 3
    run_sweep(study, directory, workers=1)
    assert contents(directory) == whole


def test_an_error_that_no_point_should_raise_is_reported_with_its_point(study, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("in a formula")

    monkeypatch.setattr(evaluate, "ranking_of", broken)
    with pytest.raises(SweepError, match=r"serving point 0 \(.*\): ZeroDivisionError: in a formula"):
        run_sweep(study, tmp_path / "sweep", workers=1)


def test_the_pool_knows_which_point_a_worker_died_on():
    die = (
        "import os, signal\nfrom perfmodel.sweep import evaluate\nevaluate.watcher(7)\nos.kill(os.getpid(), signal.{})"
    )
    with pool.Workers(2) as workers:
        workers.executor.submit(exec, "import time; time.sleep(0)", {}).result()
        workers.note()
        future = workers.executor.submit(exec, die.format("SIGKILL"), {})
        workers.note()
        with pytest.raises(BrokenExecutor):
            future.result()
        assert workers.died() == [(7, "signal 9")]


def test_a_worker_with_other_files_is_refused(study):
    point = study.blocks[0].point(0)
    name = "system hgx-h100"
    good = {name: digest_of(name)}
    assert len(evaluate.evaluate(evaluate.Chunk((point,), good))[0]) >= 1
    with pytest.raises(SweepError, match=r"serving point 0 .*another system hgx-h100 than the sweep began with"):
        evaluate.evaluate(evaluate.Chunk((point,), {name: "0" * 64}))
    with pytest.raises(SweepError, match="another version of perfmodel"):
        evaluate.evaluate(evaluate.Chunk((point,), {"code": "0" * 64}))


def test_an_interrupt_keeps_what_is_finished(study, whole, tmp_path, monkeypatch):
    def interrupt(point):
        if point == 4:
            raise KeyboardInterrupt

    directory = tmp_path / "sweep"
    monkeypatch.setattr(evaluate, "watcher", interrupt)
    with pytest.raises(SweepInterruptedError, match="interrupted; 1 partitions are written and 3 are not"):
        run_sweep(study, directory, workers=1)
    assert SweepInterruptedError.exit_code == 130
    monkeypatch.undo()
    run_sweep(study, directory, workers=1)
    assert contents(directory) == whole


COMMAND = [sys.executable, "-c", "import sys; from perfmodel.cli.main import main; main(sys.argv[1:])", "sweep"]
SLOW = """
partition = 1
front = false
[serving]
model = "deepseek-v3"
system = "hgx-h200"
gpus = 512
isl = "1k"
osl = 200
[serving.what_if]
memory_bandwidth = ["x0.5", "x1", "x2", "x4"]
peak_flops = ["x0.5", "x1", "x2"]
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slow")
    (folder / "study.toml").write_text(SLOW)
    run_sweep(folder / "study.toml", folder / "sweep", workers=1)
    return contents(folder / "sweep")


def begin(path, directory):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [*COMMAND, str(path), "-o", str(directory), "--processes", "2"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def running(pids):
    return [pid for pid in pids if Path(f"/proc/{pid}/stat").exists() and " Z " not in _stat(pid)]


def _stat(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return " Z "


def family(pid):
    """Children of a process and theirs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(re.sub(r"\(.*\)", "", path.read_text()).split()[2])
        except (OSError, IndexError):
            continue
        if parent == pid:
            found += [int(path.parent.name), *family(int(path.parent.name))]
    return found


def lines(directory):
    path = directory / "journal.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_a_sweep_killed_in_the_middle_leaves_nobody_and_goes_on(undisturbed, tmp_path, how, code):
    path, directory = tmp_path / "study.toml", tmp_path / "sweep"
    path.write_text(SLOW)
    with begin(path, directory) as process:
        try:
            wait_for(lambda: lines(directory) >= 2)
            children = family(process.pid)
            process.send_signal(how)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == code
    assert len(children) >= 2
    wait_for(lambda: not running(children), 20)
    assert "Traceback" not in errors
    if how == signal.SIGINT:
        assert re.search(r"^perfmodel: interrupted; \d+ partitions are written and \d+ are not: the same", errors, re.M)
    there = open_sweep(directory)
    assert 2 <= there.done < 12
    with begin(path, directory) as process:
        out, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert f"perfmodel: going on: {there.done} of 12 points are there already\n" in errors
    assert out == f"12 points in 12 partitions of {directory}. See: perfmodel sweep best {directory}\n"
    assert contents(directory) == undisturbed


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_is_one_line_that_fits_and_plain_lines_elsewhere(monkeypatch):
    now = 0.0
    for stream in (Terminal(), io.StringIO()):
        now = 0.0
        monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((40, 20)))
        progress = Progress(stream, clock=lambda: now)  # noqa: B023
        progress.begin(1000, 200)
        for _ in range(80):
            now += 0.5
            progress.advance(5, 1)
        progress.note("something happened")
        progress.end()
        text = stream.getvalue()
        assert "perfmodel: going on: 200 of 1,000 points are there already\n" in text
        assert "perfmodel: something happened\n" in text
        if stream.isatty():
            assert max(map(len, re.split(r"[\r\n]", text.replace("perfmodel: ", "")))) <= 70
            shown = [part for part in text.split("\r") if "points" in part and "going on" not in part]
            assert len(shown) == 80
            assert all(len(part) == 39 for part in shown)
            assert shown[-1].strip() == "600 of 1,000 points, 40 s left"
        else:
            assert "\r" not in text
            assert text.count("points/s") == 5
            assert "perfmodel: 600 of 1,000 points, 80 infeasible, 10 points/s, 40 s left\n" in text
        wide, narrow = progress.line(120), progress.line(15)
        assert wide == "600 of 1,000 points, 80 infeasible, 10 points/s, 40 s left"
        assert narrow == "60%, 40 s left"


def test_partitions_cover_every_point_once(study):
    parts = list(partitions.partitions(study))
    assert [(part.task, part.first, part.last) for part in parts] == [
        ("serving", 0, 2), ("serving", 3, 5), ("serving", 6, 8), ("training", 0, 0),
    ]  # fmt: skip
