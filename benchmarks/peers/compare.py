"""Errors of several tools on the same cases, as the table that docs/peers.md shows.

::

    python benchmarks/peers/compare.py serving CASES.csv perfmodel=ours.csv "AIConfigurator=theirs.csv" -o docs/_ext/scores/peers_serving.csv
    python benchmarks/peers/compare.py training CASES.csv perfmodel=ours.csv Calculon=theirs.csv -o docs/_ext/scores/peers_training.csv

The first tool named is scored on all cases and then beside every other on the cases that the other one answers.
"""  # noqa: E501

import argparse
import sys
from pathlib import Path

import pandas as pd

from perfmodel.validate.scores import errors

METRICS = {
    "serving": {"ttft_s": "measured_ttft_s", "tpot_s": "measured_tpot_s"},
    "training": {"step_s": "measured_step_s", "peak_bytes": "measured_peak_bytes"},
}
GROUPS = {"serving": "engine", "training": "source"}


def compare(kind: str, cases: pd.DataFrame, tools: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Score every tool by group of cases and metric, and the first tool on what each other one answers."""
    ours, *peers = tools
    rows = []
    for peer in peers:
        table = cases
        for name in (ours, peer):
            known = tools[name].set_index("id")[list(METRICS[kind])].add_suffix(f" {name}")
            table = table.join(known, on="id")
        groups = [*table.groupby(GROUPS[kind], sort=True), ("all", table)]
        for group, part in groups:
            for metric, measured in METRICS[kind].items():
                answered = part[pd.to_numeric(part[f"{metric} {peer}"], errors="coerce").notna()]
                for name, chosen in ((peer, part), (ours, answered)):
                    score = errors(pd.to_numeric(chosen[f"{metric} {name}"], errors="coerce"), chosen[measured])
                    rows.append({"peer": peer, "group": group, "metric": metric, "tool": name, **score})
    return pd.DataFrame(rows)


def main() -> int:
    """Read cases and predictions, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(METRICS))
    parser.add_argument("cases")
    parser.add_argument("tools", nargs="+", help="NAME=PREDICTIONS.csv, the own tool first")
    parser.add_argument("-o", "--output", required=True)
    options = parser.parse_args()
    tools = {name: pd.read_csv(path) for name, _, path in (each.partition("=") for each in options.tools)}
    table = compare(options.kind, pd.read_csv(options.cases), tools)
    Path(options.output).write_text(table.to_csv(index=False), encoding="utf-8")
    print(table.to_string(index=False), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
