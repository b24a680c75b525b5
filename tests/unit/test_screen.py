"""What a width does to a report: sentences are wrapped, rows stay rows, nothing is lost in a pipe."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.cli import screen
from perfmodel.cli.main import main
from perfmodel.reports.screen import fitted
from perfmodel.reports.tables import plain_table

RANK = ["rank", "serving", "--model", "llama-3.1-70b", "--system", "hgx-h100", "--gpus", "16", "--isl", "4k", "--osl"]
RANK += ["1k", "--ttft", "2s", "--tpot", "50ms"]
words = st.lists(st.text("abc[]:.,%/", min_size=1, max_size=12), min_size=1, max_size=40)


@given(words, st.integers(20, 160), st.sampled_from(["", " ", "      ", "Best: "]))
def test_prose_keeps_its_words_and_fits(words, width, lead):
    line = lead + " ".join(words)
    found = fitted(line, width)
    assert found.split() == line.split()
    assert all(len(each) <= width for each in found.split("\n"))


def test_a_number_stays_with_its_unit():
    line = " Separate workers: +7%, TTFT 1.96 s, TPOT 43.5 ms, 80 GiB, 12.5 GB/s, 3 requests."
    for width in range(24, 90):
        for each in fitted(line, width).split("\n"):
            assert not re.match(r"\s*(s|ms|GiB|GB/s),", each), (width, each)


def test_rows_are_wrapped_on_a_terminal_only():
    row = " peak.bf16  989 TFLOP/s  datasheet  NVIDIA H100 Tensor Core GPU specifications, 2024 (dense)"
    assert fitted(row, 60) == row
    hung = fitted(row, 60, hang=True).split("\n")
    assert hung[0].startswith(" peak.bf16  989 TFLOP/s  datasheet")
    assert all(len(line) <= 60 for line in hung)
    assert " ".join(hung).split() == row.split()
    leaf = "│  └─ query projection   GEMM 32 x 2,112 x 7,168  12.3 us   latency  gemm_tiled [h200-sxm/sglang default]"
    assert fitted(leaf, 80, hang=True).split("\n")[1].startswith("│        gemm_tiled")


def test_columns_that_do_not_fit_are_named():
    header, row = ["rank", "TTFT", "TPOT", "bound in decode"], ["1", "511 ms", "50 ms", "memory 86%, network 8%"]
    assert plain_table(header, [row], 200) == plain_table(header, [row])
    narrow = plain_table(header, [row], 30)
    assert max(map(len, narrow.split("\n")[:-1])) <= 30
    assert narrow.endswith("Not shown for want of width: bound in decode.")


def run(capsys, *more):
    with pytest.raises(SystemExit) as stop:
        main([*RANK, *more])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 100, 160])
@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_ranking_fits_the_terminal(monkeypatch, capsys, columns, no_color):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    # What is printed loses its colours where stdout is no terminal, as here, so it is caught before.
    said = []
    monkeypatch.setattr(screen, "on_terminal", lambda output=None: output is None)
    monkeypatch.setattr(screen.options, "deliver", lambda text, output: said.append(text))
    run(capsys)
    assert said[0].startswith("\x1b[1mBest: ") == (not no_color)
    plain = re.sub(r"\x1b\[\d+m", "", said[0])
    assert "\x1b" not in plain
    assert max(map(len, plain.split("\n"))) <= columns
    assert ("bound in decode." in plain) == (columns < 104)


def test_a_pipe_and_a_file_hold_every_column_and_no_colour(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    out = run(capsys)
    assert "\x1b" not in out
    assert "headroom  bound in decode\n" in out
    assert max(len(line) for line in out.split("\n") if "  " not in line.strip()) <= 80
    run(capsys, "-o", str(tmp_path / "ranking.txt"))
    written = (tmp_path / "ranking.txt").read_text()
    assert "headroom  bound in decode\n" in written
    assert 80 < max(map(len, written.split("\n"))) <= screen.WIDTH
