"""`perfmodel experts`: a layer of experts against ranks, copies, affinity and host memory."""

import json

import numpy as np
import pytest

from perfmodel.cli.main import main

ASK = ["experts", "--model", "deepseek-v3", "--system", "hgx-h800"]


def run(capsys, *more, code=0):
    with pytest.raises(SystemExit) as done:
        main([*ASK, *more])
    out = capsys.readouterr()
    assert done.value.code == code, out.err
    return out.out if code == 0 else out.err


def rows(capsys, *more):
    return json.loads(run(capsys, *more, "--format", "json"))


def test_more_ranks_reach_more_of_them_and_are_busier(capsys):
    found = rows(capsys, "--ep", "8,16,32,64,128", "--redundant", "32")["layers"]
    assert [row["ranks"] for row in found] == [8, 16, 32, 64, 128]
    assert [row["domains"] for row in found] == [1, 2, 4, 8, 16]
    for name in ("ranks_per_token", "dispatch_s", "combine_s", "imbalance"):
        values = [row[name] for row in found]
        assert values == sorted(values), name
    for row in found:
        assert (256 + row["copies"]) % row["ranks"] == 0
        assert row["copies"] >= 32
        assert 1 <= row["levelled_imbalance"] < row["imbalance"]
        assert row["domains_per_token"] <= min(max(4, row["domains"] / 2), row["domains"])
        assert max(row["experts_s"], row["dispatch_s"] + row["combine_s"]) <= row["layer_s"] * 1.0001
        assert row["layer_s"] <= row["serial_s"] * 1.0001
        assert row["algorithm"] == "deepep_low_latency"


def test_copies_make_places_divide(capsys):
    (row,) = rows(capsys, "--ep", "144", "--redundant", "32")["layers"]
    assert (row["copies"], row["places_per_rank"], row["imbalance"]) == (32, 2, None)
    assert 1 <= row["levelled_imbalance"] < 5


def test_prompts_use_the_throughput_kernels(capsys):
    text = run(capsys, "--ep", "16", "--tokens-per-rank", "4k", "--prefill")
    assert "deepep_normal" in text
    assert "4,000 prefill tokens" in text


def test_measured_picks(capsys, tmp_path):
    file = tmp_path / "picks.csv"
    file.write_text("picks\n" + "\n".join("9" if i < 8 else "1" for i in range(256)) + "\n")
    (row,) = rows(capsys, "--ep", "32", "--loads", str(file))["layers"]
    assert row["imbalance"] == pytest.approx(72 / (320 / 32))  # the first rank holds all busy experts
    assert row["levelled_imbalance"] == pytest.approx(16 / 10)
    file.write_text("picks\n" + "\n".join(["1"] * 255) + "\n")
    assert "255 loads" in run(capsys, "--ep", "32", "--loads", str(file), code=2)
    file.write_text("picks\n" + "\n".join(["1"] * 255) + "\n-1\n")
    assert "line 257" in run(capsys, "--ep", "32", "--loads", str(file), code=2)


def test_affinity_from_a_file(capsys, tmp_path):
    draw = np.random.default_rng(3)
    follow = draw.permutation(256)
    lines = [f"{layer},{e},{follow[e]},10" for layer in range(2) for e in range(256)]
    file = tmp_path / "moves.csv"
    file.write_text("layer,expert,next,tokens\n" + "\n".join(lines) + "\n")
    (found,) = rows(capsys, "--ep", "8", "--routing", str(file))["affinity"]
    assert found["local_share"] > 0.9 > 0.3 > found["in_order"]
    file.write_text("layer,expert,next,tokens\n0,1,256,3\n")
    assert "line 2: next" in run(capsys, "--ep", "8", "--routing", str(file), code=2)


def test_experts_in_host_memory(capsys):
    found = rows(capsys, "--ep", "8", "--resident", "2", "--tokens-per-rank", "1", "--expert-hit", "0.5")["offload"][0]
    # 30 of 32 experts of 44 MB in each of 58 layers.
    assert found["saved_bytes"] == pytest.approx(30 * 3 * 7168 * 2048 * 58, rel=0.01)
    assert found["saved_share"] == pytest.approx(0.9375)
    assert found["offloaded_s"] > found["experts_s"]
    assert "37.5%" in run(capsys, "--ep", "8", "--resident", "20", "--expert-skew", "0")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ep", "24"], "24 ranks do not divide 256 experts"),
        (["--ep", "8,x"], "ep"),
        (["--ep", "8", "--expert-skew", "9"], "--expert-skew"),
        (["--ep", "8", "--expert-skew", "nan"], "--expert-skew"),
        (["--ep", "8", "--resident", "33"], "1 to 32 experts"),
        (["--ep", "8", "--resident", "3", "--expert-hit", "2"], "between 0 and 1"),
        (["--ep", "8", "--expert-hit", "0.5"], "needs --resident"),
        (["--ep", "8", "--resident", "3", "--format", "csv"], "table or json"),
        (["--ep", "8", "--loads", "no-such.csv"], "no such file"),
        (["--ep", "8", "--collectives", "best"], "choose from"),
        (["--ep", "8", "--model", "llama-3.1-8b"], "has no experts"),
    ],
)
def test_what_makes_no_sense_is_named(capsys, more, said):
    error = run(capsys, *more, code=2)
    assert said in error
    assert error.count("\n") == 1
