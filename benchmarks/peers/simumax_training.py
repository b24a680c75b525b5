"""SimuMax's own predictions of the steps that its authors measured, for a comparison on the same rows.

    python simumax_training.py training.csv CHECKOUT/docs/b200/b200_release_v1.2_summary.json --output simumax.csv

Writes `id,step_s,peak_bytes,reason`, the layout that `perfmodel predict training` writes. What its authors publish is
taken as it is: their switches are not ours to choose.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

SOURCE = "simumax-b200"


def main() -> int:
    """Read cases and published predictions, write those of the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("summary", type=Path)
    parser.add_argument("--output", required=True, type=Path)
    options = parser.parse_args()
    published = {row["case"]: row for row in json.loads(options.summary.read_text(encoding="utf-8"))["rows"]}
    with options.cases.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == SOURCE]
    with options.output.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["id", "step_s", "peak_bytes", "reason"])
        for row in rows:
            case = published.get(row["note"].rpartition("case ")[2])
            known = case is not None
            values = (case["perf_ms"] / 1e3, case["perf_alloc_gib"] * 2**30, "") if known else ("", "", "not published")
            out.writerow([row["id"], *values])
    return 0


if __name__ == "__main__":
    sys.exit(main())
