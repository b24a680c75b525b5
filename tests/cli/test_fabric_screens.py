"""Fabrics on the screen: tiers in `hardware show`, algorithms in `explain` and `rank`, `--collectives`."""

import json

import pytest

from perfmodel.cli.main import main
from perfmodel.costs.registry import get_formula
from perfmodel.hardware.catalog import list_systems, load_system

PLAN = ["--model", "llama-3.1-405b", "--system", "hgx-h200", "--isl", "4k", "--osl", "1k"]


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in arguments])
    out = capsys.readouterr()
    return done.value.code, out.out, out.err


@pytest.mark.parametrize("name", list_systems())
def test_every_system_shows_its_tiers_and_what_groups_get_of_them(capsys, name):
    code, out, _ = run(capsys, "hardware", "show", name)
    assert code == 0
    system = load_system(name)
    rows = out.splitlines()
    for tier in system.tiers:
        assert any(row.strip().startswith(tier.name) and f"{tier.devices:,}" in row for row in rows)
    assert out.count("(scale-up domain)") == (len(system.tiers) > 1)
    largest = max((2**p for p in range(1, 11) if 2**p <= system.max_devices), default=0)
    assert not largest or any(row.split()[:1] == [f"{largest:,}"] for row in rows)


@pytest.mark.parametrize(
    ("which", "algorithm"),
    [
        ("fastest", "nccl_model + nccl_collective"),
        ("flat", "nccl_model + nccl_collective"),
        ("hierarchical", "hierarchical_all_reduce + nccl_collective"),
        ("nccl", "nccl_model"),
    ],
)
def test_explain_names_the_algorithm_and_its_source(capsys, which, algorithm):
    code, out, _ = run(capsys, "explain", "serving", *PLAN, "--tp", 16, "--phase", "decode", "--collectives", which)
    assert code == 0
    lines = [line for line in out.splitlines() if "all_reduce" in line and "over tp" in line]
    assert lines
    assert all(f" {algorithm} [" in line for line in lines)
    formulas = " ".join(out.partition("\nformulas\n")[2].split())
    for name in algorithm.split(" + "):
        assert f"{name}: {get_formula(name).source}" in formulas


def test_rankings_name_the_algorithms_of_every_plan(capsys):
    code, out, _ = run(capsys, "rank", "serving", *PLAN, "--gpus", 16, "--format", "json", "--top", 5)
    assert code == 0
    plans = json.loads(out)["plans"]
    for plan in plans:
        assert bool(plan["collectives"]) == (plan["tp"] > 1 or plan["pp"] > 1)
        for where, algorithm in plan["collectives"].items():
            assert where.split()[0] in ("decode", "prefill")
            assert all(get_formula(name) for name in algorithm.split(" + "))
    code, out, _ = run(capsys, "rank", "serving", *PLAN, "--gpus", 16, "--tp", 16, "--format", "json")
    assert code == 0
    (whole,) = json.loads(out)["plans"]
    assert whole["collectives"]["decode all_reduce over tp"] == "nccl_model + nccl_collective"
    code, out, _ = run(capsys, "rank", "serving", *PLAN, "--gpus", 16, "--tp", 16, "--collectives", "hierarchical")
    assert code == 0
    assert "Collectives of the best plan: decode all_reduce over tp" in " ".join(out.split())
    assert "hierarchical_all_reduce + nccl_collective" in " ".join(out.split())


def test_unknown_collectives_are_named(capsys):
    code, out, err = run(capsys, "rank", "serving", *PLAN, "--gpus", 8, "--collectives", "best")
    assert (code, out) == (2, "")
    assert err == "perfmodel: unknown collectives 'best'; choose from fastest, flat, hierarchical, nccl\n"
