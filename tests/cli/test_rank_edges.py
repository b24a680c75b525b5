"""Ranking at its edges: numbers that make no sense, loads that do not fit, machines with few large cores."""

import json
import re

import pytest

from perfmodel.cli.main import main
from perfmodel.estimate.timing import default_cores
from perfmodel.hardware.catalog import load_system

LENGTHS = ["--isl", "4k", "--osl", "1k"]


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


def rank(capsys, *more, system="hgx-h100", gpus=8, model="llama-3.1-70b"):
    return run(capsys, "rank", "serving", "--model", model, "--system", system, "--gpus", gpus, *LENGTHS, *more)


@pytest.mark.parametrize("option", [("--rate", "nan"), ("--rate", "inf"), ("--concurrency", 0)])
def test_a_load_that_is_no_number_is_refused(capsys, option):
    code, out, err = rank(capsys, *option)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert option[0].lstrip("-") in err


def test_more_requests_than_any_cache_holds_names_the_plan_that_holds_most(capsys):
    code, _, err = rank(capsys, "--concurrency", 100000)
    assert code == 1
    assert "which holds" in err
    # The devices that were asked for are no way out.
    assert "Nearest: 8 GPUs" not in err


def test_explain_titles_the_decode_step_with_the_requests_that_run(capsys):
    where = ["explain", "serving", "--model", "llama-3.1-8b", "--system", "hgx-h100", *LENGTHS, "--phase", "decode"]
    _, few, _ = run(capsys, *where, "--concurrency", 50)
    code, many, _ = run(capsys, *where, "--concurrency", 1000)
    assert code == 0
    assert "decode step, 50 requests on a rank" in few
    running = int(re.search(r"decode step, (\d+) requests on a rank", many)[1])
    assert running < 200


def test_a_calibration_that_is_a_directory_is_one_line(capsys, tmp_path):
    (tmp_path / "calibrations" / "h100-sxm" / "mine.toml").mkdir(parents=True)
    code, _, err = rank(capsys, "--profiles", tmp_path)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "mine.toml" in err


@pytest.mark.parametrize("system", ["tpu-v5p-pod", "trn2-ultraserver", "gaudi3-8"])
def test_few_large_cores_still_reach_the_memory(capsys, system):
    code, out, _ = rank(capsys, "--format", "json", system=system, gpus=1, model="llama-3.1-8b")
    assert code == 0
    best = json.loads(out)["plans"][0]
    assert best["decode_s"] < 2.5 * best["decode_lower_s"]


def test_many_cores_are_taken_as_they_are():
    for system in ("hgx-h100", "mi300x-8"):
        device = load_system(system).device
        assert default_cores(device) == device.cores


def test_verdict_writes_many_requests_without_an_exponent(capsys):
    model = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"
    code, out, _ = rank(capsys, system="hgx-h200", gpus=16, model=model)
    assert code == 0
    assert not re.search(r"\de\+\d", out)


def test_what_if_changes_the_answer_and_says_so(capsys):
    command = ["rank", "serving", "--model", "llama-3.1-8b", "--system", "hgx-h100", "--gpus", "1", "--top", "1"]
    _, plain, _ = run(capsys, *command, *LENGTHS)
    code, faster, _ = run(capsys, *command, *LENGTHS, "--what-if", "memory_bandwidth=x2")
    assert not code
    assert "What if" not in plain
    assert "What if: memory bandwidth 6.7 TB/s (x2 of 3.35 TB/s)" in faster
    assert faster.splitlines()[0] != plain.splitlines()[0]
    code, out, err = run(capsys, *command, *LENGTHS, "--what-if", "memory=x2")
    assert (code, out) == (2, "")
    assert err.startswith("perfmodel: --what-if: unknown number of hardware 'memory'")


def test_a_plan_explained_at_a_rate_has_no_concurrency_of_its_own(capsys):
    where = ["explain", "serving", "--model", "llama-3.1-8b", "--system", "hgx-h100", *LENGTHS]
    code, out, err = run(capsys, *where, "--arrival-rate", 1, "--concurrency", 8)
    assert (code, out) == (2, "")
    assert "--concurrency follows from --arrival-rate" in err


@pytest.mark.parametrize(
    ("option", "needs"),
    [
        (("--chunk", "512"), "--schedule chunked"),
        (("--sharers", "4"), "--shared-prefix"),
        (("--acceptance", "0.5"), "--draft-tokens"),
        (("--draft-cost", "0.1"), "--draft-tokens"),
        (("--expert-hit", "0.5"), "--host-experts"),
    ],
)
def test_an_option_that_nothing_would_read_is_refused(capsys, option, needs):
    for command in (("rank", "serving", "--gpus", "1"), ("explain", "serving")):
        code, out, err = run(capsys, *command, "--model", "llama-3.1-8b", "--system", "hgx-h100", *LENGTHS, *option)
        assert (code, out) == (2, "")
        assert err == f"perfmodel: {option[0]} needs {needs}\n"


def test_what_if_changes_one_machine(capsys):
    both = ("--workers", "both", "--prefill-system", "hgx-h200", "--what-if", "memory_bandwidth=x2")
    code, _, err = run(
        capsys, "rank", "serving", "--gpus", "4", "--model", "llama-3.1-8b", "--system", "hgx-h100", *LENGTHS, *both
    )
    assert code == 2
    assert err.startswith("perfmodel: --what-if changes one machine")
