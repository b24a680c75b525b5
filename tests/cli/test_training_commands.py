"""Training commands as a user types them: output, exit codes, one-line errors."""

import csv
import io
import json

import pytest

from perfmodel.cli.main import main
from perfmodel.parallel.training_grid import TRAINING_KNOBS

RANK = ["rank", "training", "--model", "meta-llama/Llama-3.1-8B-Instruct", "--system", "hgx-h100", "--gpus", "16"]
RANK += ["--global-batch", "64", "--seq", "4Ki"]
HEADER = (
    "id,model,hardware,gpus_per_node,seq,tp,pp,dp,cp,micro_batch,global_batch,precision,recompute,measured_step_s\n"
)
ROW = "a,meta-llama/Llama-3.1-8B-Instruct,h100-sxm,8,4096,2,1,4,1,1,32,bf16,none,2.0\n"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


@pytest.fixture
def cases(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text(HEADER + ROW + ROW.replace("a,", "b,", 1).replace(",32,", ",31,"))
    return path


def test_rank_prints_verdict_table_memory_and_conventions(capsys):
    code, out, err = run(capsys, *RANK, "--tokens", "15T", "--top", 3)
    assert (code, err) == (0, "")
    assert out.startswith("Best: ")
    assert "days for 15T tokens" in " ".join(out.split())
    for part in ("weights", "optimizer", "activations", "mlp activation input", "infeasible", "MFU: 6 FLOP per token"):
        assert part in out
    assert "HFU: as MFU" in out


def test_rank_json_keeps_the_contract(capsys):
    code, out, _ = run(capsys, *RANK, "--format", "json", "--top", 2)
    document = json.loads(out)
    assert code == 0
    assert list(document) == ["verdict", "plans", "infeasible", "provenance"]
    best = document["plans"][0]
    assert {"step_s", "peak_bytes", "mfu", "hfu", "tokens_per_s_per_gpu", "tp", "recompute"} <= set(best)
    assert best["step_s"] <= document["plans"][1]["step_s"]
    assert document["provenance"]["conventions"]["mfu"]


def test_rank_csv_goes_to_a_file(capsys, tmp_path):
    path = tmp_path / "plans.csv"
    code, out, _ = run(capsys, *RANK, "--format", "csv", "-o", path, "--tp", 2, "--recompute", "full")
    assert (code, out) == (0, "")
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert {row["tp"] for row in rows} == {"2"}
    assert {row["recompute"] for row in rows} == {"full"}


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["--seq", "4 parsecs"], 2, "--seq"),
        (["--precision", "bf61"], 2, "unknown training precision 'bf61'"),
        (["--stack", "megatron"], 2, "unknown stack 'megatron'"),
        (["--recompute", "ful"], 2, "Did you mean 'full'?"),
        (["--tp", "3"], 2, "no plan of 16 devices"),
        (["--global-batch", "0"], 2, "--global-batch must be a whole number"),
        (["--model", "meta-llama/Meta-Llama-3.1-405B"], 1, "nearest is"),
    ],
)
def test_rank_says_what_is_wrong_in_one_line(capsys, change, code, message):
    found, out, err = run(capsys, *RANK, *change)
    assert (found, out) == (code, "")
    assert err.startswith("perfmodel: ")
    assert message in err
    assert err.count("\n") == 1


def test_knobs_take_several_values(capsys):
    several = ["--zero", "0,1,3", "--tp", "1, 2,2", "--recompute", "none,full", "--schedule", "1f1b,zb-h1"]
    code, out, err = run(capsys, *RANK, *several, "--top", 100_000, "--format", "json")
    assert (code, err) == (0, "")
    plans = json.loads(out)["plans"]
    for knob, values in {"zero": {0, 1, 3}, "tp": {1, 2}, "recompute": {"none", "full"}}.items():
        assert {plan[knob] for plan in plans} == values
    split = [tuple(value for name, value in plan.items() if name in TRAINING_KNOBS) for plan in plans]
    assert len(set(split)) == len(split)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--zero", "0,,1"], "--zero takes one value or several separated by commas, not '0,,1'"),
        (["--tp", ""], "--tp takes one value or several separated by commas, not ''"),
        (["--pp", "2,1.5"], "--pp takes whole numbers separated by commas, not '1.5'"),
        (["--micro-batch", "9" * 5000], "--micro-batch takes whole numbers separated by commas, not '999"),
        (["--zero", "1,7"], "zero must be a whole number between 0 and 3, not 7"),
        (["--dp", "8,0"], "dp must be a whole number at least 1, not 8,0"),
        (["--recompute", "none,nil"], "unknown recompute 'nil'"),
    ],
)
def test_values_that_are_none_are_refused_in_one_line(capsys, extra, message):
    code, out, err = run(capsys, *RANK, *extra)
    assert (code, out) == (2, "")
    assert err.startswith(f"perfmodel: {message}")
    assert err.count("\n") == 1


def test_predict_keeps_the_contract(capsys, cases, tmp_path):
    path = tmp_path / "out.csv"
    code, out, err = run(capsys, "predict", "training", cases, "--output", path)
    assert (code, out) == (0, "")
    assert "1 of 2 rows have no number" in err
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert list(rows[0])[:3] == ["id", "step_s", "peak_bytes"]
    assert float(rows[0]["step_s"]) > 0
    assert rows[1]["step_s"] == ""
    assert "not a multiple of dp=4" in rows[1]["reason"]


def test_validate_prints_errors(capsys, cases):
    code, out, _ = run(capsys, "validate", "training", cases, "--by", "hardware")
    assert code == 0
    assert "h100-sxm" in out
    assert "mape" in out
    code, out, _ = run(capsys, "validate", "training", cases, "--format", "json")
    assert json.loads(out)["errors_percent"][-1]["coverage"] == 50.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,seq\n1,2\n", "column 'hardware' is missing"),
        ("", "is not a CSV table"),
        (HEADER, "has a header and no cases"),
    ],
)
def test_broken_case_files(capsys, tmp_path, text, message):
    path = tmp_path / "broken.csv"
    path.write_text(text)
    code, out, err = run(capsys, "predict", "training", path)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_explain_derives_time_and_memory(capsys):
    arguments = ["--model", "meta-llama/Llama-3.1-8B-Instruct", "--system", "hgx-h100", "--seq", "4Ki"]
    code, out, _ = run(
        capsys, "explain", "training", *arguments, "--global-batch", 64, "--tp", 2, "--dp", 4, "--recompute", "full"
    )
    assert code == 0
    for part in (
        "microbatches per rank",
        "matrix products and attention",
        "layer inputs",
        "numbers of the stack neutral",
    ):
        assert part in out


def test_rank_sequences_of_many_lengths(capsys):
    lengths = ["--lengths", "90:512, 9:1Ki, 1:4Ki"]
    code, out, err = run(capsys, *RANK, *lengths, "--chunk", "2Ki", "--retained", 2, "--top", 2)
    assert (code, err) == (0, "")
    said = " ".join(out.split())
    assert "sequences of 512 to 4,096 tokens, 594 on average, in chunks of 2,048; of a longer sequence 2" in said
    code, out, _ = run(capsys, *RANK, *lengths, "--top", 1, "--format", "json")
    facts = json.loads(out)["provenance"]
    assert [each["tokens"] for each in facts["lengths"]] == [512, 1024, 4096]
    assert "chunk" not in facts
    plan = ["explain", *RANK[1:6], "--global-batch", "64", "--seq", "4Ki", "--tp", 2, "--pp", 2, *lengths]
    code, out, err = run(capsys, *plan)
    assert (code, err) == (0, "")
    assert "waits for it are in bubble and dp" in " ".join(out.split())


def test_rank_on_islands(capsys):
    islands = ["--islands", "1x50GB/s, 1x50GB/s", "--between", "1GB/s"]
    code, out, err = run(capsys, *RANK, *islands, "--top", 2)
    assert (code, err) == (0, "")
    assert out.startswith("Best: ")
    for part in ("nodes in the order given", "as given", "stage", "a1", "placed on 2 nodes"):
        assert part in out
    code, out, _ = run(capsys, *RANK, *islands, "--top", 2, "--format", "json")
    document = json.loads(out)
    assert list(document) == ["verdict", "plans", "infeasible", "provenance"]
    assert document["plans"][0]["step_s"] <= document["plans"][0]["given_step_s"]
    assert sorted(name for names in document["plans"][0]["stage_nodes"] for name in names) == ["a1", "b1"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--islands", "1x50GB/s"], "needs --between"),
        (["--islands", "4x50GB/s", "--between", "1GB/s"], "not --gpus 16"),
        (["--islands", "2x50", "--between", "1GB/s"], "island '2x50'"),
        (["--links", "none.csv"], "none.csv"),
        (["--islands", "2x5GB/s", "--links", "none.csv"], "give one of them"),
        (["--between", "5GB/s", "--links", "none.csv"], "--between belongs to --islands"),
        (["--between", "5GB/s"], "needs --islands"),
        (["--islands", "1x5GB/s, 1x5GB/s", "--between", "1GB/s", "--tokens", "1T"], "--tokens and --mtbf"),
        (["--islands", "1x5GB/s, 1x5GB/s", "--between", "1GB/s", "--mtbf", "50000h"], "--tokens and --mtbf"),
        (["--host-link", "pcie9"], "unknown link to the host 'pcie9'"),
        (["--host-link", "0GB/s"], "above zero"),
        (["--offload-weights", "2"], "offload_weights must be"),
        (["--sequence-chunks", "0"], "sequence_chunks must be"),
        (["--retained", "2"], "--retained needs --chunk"),
        (["--chunk", "none"], "--chunk"),
        (["--lengths", "none.csv"], "none.csv"),
        (["--islands", "1x5GB/s, 1x5GB/s", "--between", "1GB/s", "--chunk", "1Ki"], "--lengths and --chunk"),
    ],
)
def test_bad_clusters_and_knobs_are_one_line(capsys, extra, message):
    code, out, err = run(capsys, *RANK, *extra)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("knob", ["tp", "pp", "dp", "cp", "ep", "vp"])
def test_a_knob_of_zero_is_one_line(capsys, knob):
    code, out, err = run(capsys, *RANK, f"--{knob}", 0)
    assert (code, out) == (2, "")
    assert f"{knob} must be a whole number at least 1, not 0" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "needs"),
    [
        (("--restart", "5min"), "--mtbf, the mean time between failures of one device"),
        (("--mtbf", "50000h", "--repair", "1h"), "--elastic"),
        (("--adapters", "2"), "--method lora"),
        (("--adapter-rank", "8"), "--method lora"),
    ],
)
def test_an_option_that_nothing_would_read_is_refused(capsys, option, needs):
    code, out, err = run(capsys, *RANK, *option)
    assert (code, out) == (2, "")
    assert err == f"perfmodel: {option[-2]} needs {needs}\n"


@pytest.mark.parametrize(("old", "new"), [(",32,bf16", ",inf,bf16"), (",4096,", ",1e400,"), (",4096,", ",0.5,")])
def test_sizes_that_no_step_has_are_a_reason(capsys, tmp_path, old, new):
    path = tmp_path / "cases.csv"
    path.write_text(HEADER + ROW.replace(old, new) + ROW.replace("a,", "b,", 1))
    code, out, err = run(capsys, "predict", "training", path)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert rows[0]["step_s"] == ""
    assert rows[0]["reason"]
    assert float(rows[1]["step_s"]) > 0
    assert err.count("\n") == 1
