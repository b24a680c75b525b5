"""Lengths of training sequences: how they are read, cut and counted, and what is refused."""

import re

import pandas as pd
import pytest

from perfmodel.api_training import rank_training_plans, train
from perfmodel.errors import NothingFeasibleError, PlanError
from perfmodel.estimate.training.mixture import kinds_of
from perfmodel.estimate.training.workload import TrainingWorkload
from perfmodel.models.lengths import Lengths, lengths_of, read_lengths
from perfmodel.parallel.training_grid import training_plans
from perfmodel.validate.training import predict_training_cases

LONG = "90:512, 9:2Ki, 1:32Ki"


def test_lengths_are_read_from_words_and_from_a_file(tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("tokens,sequences,note\n32Ki,10,long\n512,900,\n2Ki,90,\n2048,0,\n")
    assert read_lengths(path) == read_lengths(LONG) == lengths_of([(512, 0.9), (2048, 0.09), (32768, 0.01)])
    assert read_lengths(LONG).mean == pytest.approx(0.9 * 512 + 0.09 * 2048 + 0.01 * 32768)


def test_longer_sequences_are_cut():
    cut = read_lengths(LONG).cut(1024)
    assert cut.tokens == (512, 1024)
    assert cut.shares == pytest.approx((0.9, 0.1))
    assert TrainingWorkload(1024, 8, read_lengths(LONG)).drawn == cut


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none.csv", "cannot be read from none.csv"),
        ("a:1Ki", "lengths, 'a:1Ki': could not convert"),
        ("1:x", "lengths, '1:x': 'x' does not begin with a number"),
        ("1:0", "whole number of tokens"),
        ("0:1Ki", "name no sequence"),
        ("-1:1Ki", "name no sequence"),
        ("-1:1Ki, 2:2Ki", "-1 is no number of sequences"),
        ("nan:1Ki, 2:2Ki", "nan is no number of sequences"),
    ],
)
def test_lengths_that_make_no_sense(text, message):
    with pytest.raises(PlanError, match=re.escape(message)):
        read_lengths(text)


def test_a_file_without_the_columns_is_named(tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("length,count\n1,1\n")
    with pytest.raises(PlanError, match="columns tokens and sequences"):
        read_lengths(path)
    path.write_text("tokens,sequences\n1Ki,1\nKi,1\n")
    with pytest.raises(PlanError, match=r"lengths\.csv row 3: 'Ki'"):
        read_lengths(path)


@pytest.mark.parametrize(
    ("tokens", "shares", "message"),
    [
        ((), (), "at least one length"),
        ((1.5,), (1.0,), "whole number"),
        ((2.0, 1.0), (0.5, 0.5), "ascend"),
        ((1.0, 2.0), (0.5, 0.6), "sum to one"),
    ],
)
def test_distributions_that_are_none(tokens, shares, message):
    with pytest.raises(PlanError, match=message):
        Lengths(tokens, shares)


@pytest.mark.parametrize(
    "wrong", [{"chunk": -1}, {"chunk": 1.5}, {"retained": 0}, {"retained": float("nan")}, {"seq": 0}]
)
def test_workloads_that_make_no_sense(wrong):
    with pytest.raises(PlanError, match=f"{next(iter(wrong))} must be a whole number of at least"):
        TrainingWorkload(**{"seq": 1024.0, "global_batch": 8} | wrong)


def test_kinds_of_microbatches():
    plain = kinds_of(TrainingWorkload(32768, 8, read_lengths(LONG)), "full")
    assert [kind.share for kind in plain] == [kind.drawn for kind in plain] == pytest.approx([0.9, 0.09, 0.01])
    chunked = kinds_of(TrainingWorkload(32768, 8, read_lengths(LONG), 8192, 3), "full")
    assert [kind.sequences for kind in chunked] == [16, 4, 0.25]
    assert sum(kind.share for kind in chunked) == pytest.approx(1.0)
    assert [kind.again for kind in chunked] == [0.0, 0.0, 0.25]  # the first of four chunks, where three are kept
    forward = kinds_of(TrainingWorkload(32768, 8, read_lengths(LONG), 8192, 3), "forward")
    assert [kind.again for kind in forward] == [0.0, 0.0, 0.0]


def test_a_chunk_of_a_long_sequence_costs_what_its_part_of_the_sequence_does():
    # Four chunks of 8Ki together attend as one sequence of 32Ki does, and multiply as many rows.
    plan = training_plans(tp=2)
    whole = train("llama-3.1-8b", "hgx-h100", plan, seq="32Ki", global_batch=8)["step_s"][0]
    chunks = train("llama-3.1-8b", "hgx-h100", plan, seq="32Ki", global_batch=8, chunk="8Ki", retained=4)["step_s"][0]
    assert chunks == pytest.approx(whole, rel=0.02)


def test_rankings_put_one_sequence_or_chunk_into_a_microbatch():
    job = {"gpus": 8, "seq": "32Ki", "global_batch": 64, "lengths": LONG}
    for chunk in (0, "8Ki"):
        best = rank_training_plans("llama-3.1-8b", "hgx-h100", chunk=chunk, **job).row(1)
        assert best["micro_batch"] == 1
    with pytest.raises(NothingFeasibleError, match="every chunk is a microbatch of its own"):
        rank_training_plans("llama-3.1-8b", "hgx-h100", chunk="8Ki", micro_batch=2, **job)
    with pytest.raises(NothingFeasibleError, match="which keeps attention scores"):
        rank_training_plans("llama-3.1-8b", "hgx-a100", stack="megatron-2021", chunk="8Ki", **job)


def test_cases_have_columns_for_lengths_and_chunks():
    row = {"model": "meta-llama/Llama-3.1-8B-Instruct", "hardware": "h100-sxm", "seq": 32768, "global_batch": 64}
    row |= {"tp": 4, "pp": 2, "dp": 2, "micro_batch": 1}
    cases = pd.DataFrame(
        [
            row | {"id": "plain"},
            row | {"id": "mixed", "lengths": LONG},
            row | {"id": "chunks", "lengths": LONG, "chunk": 8192, "retained": 2},
            row | {"id": "wrong", "lengths": "1:none"},
            row | {"id": "chunk", "chunk": "many"},
            row | {"id": "tp", "tp": "x"},
        ]
    )
    found = predict_training_cases(cases).set_index("id")
    assert found.loc["chunks", "step_s"] < found.loc["mixed", "step_s"] < found.loc["plain", "step_s"]
    assert found.loc["chunks", "peak_bytes"] < found.loc["mixed", "peak_bytes"]
    assert "lengths, '1:none'" in found.loc["wrong", "reason"]
    # What is no number is not taken for an empty cell.
    for name in ("chunk", "tp"):
        assert found.loc[name, "reason"].startswith(f"{name} must be a whole number")
