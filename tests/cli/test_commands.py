"""Commands as a user types them: output, exit codes, one-line errors."""

import csv
import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import typer

from perfmodel.cli.main import app, main

SYSTEM = ["--system", "hgx-h100", "--gpus", "16"]
LENGTHS = ["--isl", "4k", "--osl", "1k"]
RANK = ["rank", "serving", "--model", "meta-llama/Llama-3.1-70B-Instruct", *SYSTEM, *LENGTHS]


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


def test_rank_prints_verdict_table_and_reasons(capsys):
    code, out, err = run(capsys, *RANK, "--ttft", "2s", "--tpot", "50ms")
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("Best: ")
    assert "output tok/s" in lines[0]
    assert "infeasible" in out
    assert "rank" in out
    assert "headroom" in out
    assert "\x1b[" not in out


def test_rank_json_keeps_the_contract(capsys):
    code, out, _ = run(capsys, *RANK, "--format", "json", "--top", 3)
    document = json.loads(out)
    assert code == 0
    assert list(document) == ["verdict", "plans", "infeasible", "provenance"]
    assert len(document["plans"]) == 3
    plan = document["plans"][0]
    for name in ("ttft_s", "tpot_s", "tokens_per_s_per_gpu", "concurrency", "memory_bytes", "replicas", "tp", "pp"):
        assert isinstance(plan[name], (int, float)), name
    assert plan["bound"] in {"compute", "memory", "network", "latency", "host", "capacity"}
    assert plan["feasible"] is True
    assert plan["reason"] == ""


def test_rank_csv_and_output_file(capsys, tmp_path):
    file = tmp_path / "plans.csv"
    code, out, _ = run(capsys, *RANK, "--format", "csv", "-o", file)
    assert code == 0
    assert out == ""
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert [row["rank"] for row in rows] == [str(i + 1) for i in range(len(rows))]
    assert list(tmp_path.iterdir()) == [file]


def test_output_into_a_missing_directory_is_one_line(capsys, tmp_path):
    code, out, err = run(capsys, *RANK, "-o", tmp_path / "no" / "plans.txt")
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert "cannot be written" in err


def test_output_follows_a_link_and_does_not_replace_a_pipe(capsys, tmp_path):
    real, link, pipe = tmp_path / "real.csv", tmp_path / "link.csv", tmp_path / "pipe"
    real.write_text("old")
    link.symlink_to(real)
    assert run(capsys, *RANK, "--format", "csv", "-o", link)[0] == 0
    assert link.is_symlink()
    assert real.read_text().startswith("rank,")
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        assert run(capsys, *RANK, "--format", "csv", "-o", pipe)[0] == 0
        assert read.result(timeout=60) == real.read_text()
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.csv", "pipe", "real.csv"]


def test_output_to_a_dash_is_stdout(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, *RANK, "-o", "-")
    assert code == 0
    assert out.startswith("Best: ")
    assert not list(tmp_path.iterdir())


def shell(line, **more):
    """Run a command line of its own process, as a shell does."""
    code = "import sys; from perfmodel.cli.main import main; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more.pop("env", {})}
    return subprocess.run([sys.executable, "-c", code, *line.split()], env=environment, check=False, **more)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_stdout_that_is_full_is_one_line():
    with open("/dev/full", "w") as full:
        done = shell("model list", stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("perfmodel: stdout: cannot be written")
    assert done.stderr.count("\n") == 1


def test_a_terminal_without_unicode_gets_question_marks():
    line = "explain serving --model llama-3.1-8b --system hgx-h100 --isl 1k --osl 128 --phase decode"
    done = shell(line, capture_output=True, env={"PYTHONIOENCODING": "latin-1"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"?? 1 x embedding" in done.stdout


def test_nothing_fits_exits_1_with_the_nearest_miss(capsys):
    arguments = "rank serving --model meta-llama/Meta-Llama-3.1-405B --system hgx-h100 --gpus 2 --isl 4k --osl 1k"
    code, out, err = run(capsys, *arguments.split())
    assert code == 1
    assert out == ""
    assert err.count("\n") == 1
    assert "nothing fits" in err
    assert "Nearest: 16 GPUs" in err
    assert "--precision" in err


def test_limits_that_nothing_meets_exit_1_with_the_nearest_plan(capsys):
    code, _, err = run(capsys, *RANK, "--tpot", "1ms")
    assert code == 1
    assert "nothing meets the limits" in err
    assert "above 1 ms" in err


BAD = [
    (
        [
            "rank",
            "serving",
            "--model",
            "llama-3.1-70b",
            "--system",
            "hgx-h10",
            "--gpus",
            "8",
            "--isl",
            "4k",
            "--osl",
            "1k",
        ],
        "unknown system 'hgx-h10'. Did you mean 'hgx-h100'?",
    ),
    ([*RANK[:3], "llama-3.1-71b", *RANK[4:]], "unknown model"),
    ([*RANK, "--tpot", "50"], "a time needs a unit"),
    ([*RANK, "--tpot", "0ms"], "must be above zero"),
    ([*RANK, "--isl", "4x"], "--isl"),
    ([*RANK, "--isl", "400k"], "exceeds the 131072"),
    ([*RANK, "--gpus", "0"], "at least 1"),
    ([*RANK, "--gpus", "-3"], "--gpus"),
    ([*RANK, "--gpus", "1M"], "connects at most"),
    ([*RANK, "--tp", "3"], "no split of 16 devices has tp=3"),
    ([*RANK, "--precision", "fp9"], "unknown precision 'fp9'"),
    ([*RANK, "--kv", "int3"], "unknown number format 'int3'"),
    ([*RANK, "--engine", "vlm"], "unknown engine 'vlm'. Did you mean 'vllm'?"),
    ([*RANK, "--profiles", "/nonexistent"], "does not exist"),
    ([*RANK, "--format", "xml"], "Invalid value for '--format': 'xml' is not one of"),
    ([*RANK, "--system", "h100"], "unknown system 'h100'. Did you mean 'hgx-h100'?"),
    ([*RANK, "--model", ""], "unknown model ''. (perfmodel model list"),
    ([*RANK, "--osl", "1e300"], "--osl must be at most 1e+15, not 1e300"),
    ([*RANK, "--objective", "cost"], "need --workers separate or both"),
    (["predict", "operators", "."], "is no file; give the path of a CSV table"),
    ("experts --model mixtral-8x7b --system hgx-h100 --tokens-per-rank 1e300", "--tokens-per-rank must be at most"),
    ("explain serving --model llama-3.1-8b --system hgx-h100 --isl 4k --osl 1k --ep 2", "has none"),
    (
        "explain training --model llama-3.1-8b --system hgx-h100 --global-batch 64 --seq 4Ki --tp 3",
        "this plan cannot be: tp=3 does not divide 32 query heads",
    ),
    ([*RANK, "--rate", "-1"], "rate"),
    ([*RANK, "--top", "0"], "--top"),
    (["rank", "serving"], "Missing option"),
    (["rank", "serving", "--nonsense"], "No such option"),
    (["frobnicate"], "No such command"),
    (["hardware", "show", "h101"], "Did you mean"),
    (["model", "show", "nope.json"], "nope.json"),
    (
        [
            "explain",
            "serving",
            "--model",
            "llama-3.1-70b",
            "--system",
            "hgx-h100",
            "--isl",
            "4k",
            "--osl",
            "1k",
            "--tp",
            "7",
        ],
        "tp=7 does not divide 64 query heads",
    ),
]


@pytest.mark.parametrize(("arguments", "expected"), BAD, ids=lambda v: None if isinstance(v, str) else " ".join(v[-3:]))
def test_bad_input_is_one_line_with_exit_2(capsys, arguments, expected):
    code, out, err = run(capsys, *(arguments.split() if isinstance(arguments, str) else arguments))
    assert code == 2
    assert out == ""
    assert err.startswith("perfmodel: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert expected in err


def test_explain_says_what_is_beyond_the_measured_sizes(capsys):
    arguments = "explain serving --model llama-3.1-70b --system hgx-h100 --isl {} --osl 1k --tp 8 --concurrency 2"
    code, out, _ = run(capsys, *arguments.format("4k").split())
    assert code == 0
    assert "beyond" not in out
    code, out, _ = run(capsys, *arguments.format("100k").split(), "--phase", "prefill")
    assert code == 0
    (projection,) = (line for line in out.splitlines() if "qkv projection" in line)
    assert projection.endswith("measured] beyond tokens")
    share = next(line for line in out.splitlines() if line.startswith("beyond the sizes that its kernels"))
    assert 50 < float(share.split()[-2]) < 100


def test_explain_adds_up_and_names_its_formulas(capsys):
    arguments = "explain serving --model llama-3.1-70b --system hgx-h100 --isl 4k --osl 1k --tp 8 --concurrency 64"
    code, out, _ = run(capsys, *arguments.split())
    assert code == 0
    for text in (
        "decode step",
        "qkv projection",
        "all-reduce",
        "KV cache",
        "bounds: roofline",
        "formulas",
        "TPOT",
        "TTFT",
    ):
        assert text in out


@pytest.mark.parametrize(
    "command",
    [
        "hardware list",
        "model list",
        "hardware show h100-sxm",
        "hardware show hgx-h100",
        "model show deepseek-v3",
        "--version",
        "--help",
        "rank serving --help",
    ],
)
def test_listings_work(capsys, command):
    code, out, err = run(capsys, *command.split())
    assert code == 0
    assert err == ""
    assert len(out) > 10


def test_models_from_a_file(capsys, tmp_path):
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 1024,
        "vocab_size": 32000,
        "intermediate_size": 2816,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    code, out, _ = run(
        capsys, "rank", "serving", "--model", file, "--system", "hgx-h100", "--gpus", 2, "--isl", 512, "--osl", 64
    )
    assert code == 0
    assert out.startswith("Best: ")
    file.write_text(json.dumps(config)[:100])
    code, _, err = run(capsys, "model", "show", file)
    assert code == 2
    assert "config.json" in err
    assert err.count("\n") == 1


def commands(group, words=()):
    for name, command in group.commands.items():
        yield from commands(command, (*words, name)) if hasattr(command, "commands") else [(*words, name)]


@pytest.mark.parametrize("words", list(commands(typer.main.get_command(app))), ids=" ".join)
def test_help_names_what_a_list_or_a_count_is_of(capsys, words):
    code, out, _ = run(capsys, *words, "--help")
    assert code == 0
    options = [line for line in out.splitlines() if line.startswith("  -")]
    assert options
    assert not [line for line in options if "list[" in line or " range>" in line]
