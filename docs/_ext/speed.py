"""Table of docs/speed.md: ``python docs/_ext/speed.py BENCHMARKS.json`` writes it anew from a run's figures."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "speed.md"
_BLOCK = re.compile(r"(?<=<!-- figures, written by docs/_ext/speed.py -->\n).*?(?=<!-- end of figures -->)", re.DOTALL)


def duration(seconds: float) -> str:
    """Write a time with three digits."""
    unit, scale = ("s", 1.0) if seconds >= 1.0 else ("ms", 1e-3)
    return f"{seconds / scale:.3g} {unit}"


def rounded(rate: float) -> str:
    """Write a rate with three digits."""
    return f"{rate / 1e6:.3g} million" if rate >= 1e6 else f"{float(f'{rate:.3g}'):,.12g}"


def figures(run: Mapping[str, Any]) -> str:
    """Write date, software and the table of one run of pytest-benchmark.

    The best round is shown, because other work on the machine only ever adds to it, and the median beside it.
    """
    machine = run["machine_info"]
    rows = []
    for each in run["benchmarks"]:
        info, stats = each["extra_info"], each["stats"]
        rate = f"{rounded(info['items'] / stats['min'])} {info['unit']}/s"
        peak = f"{info['peak_bytes'] / 1e6:.0f} MB" if "peak_bytes" in info else ""
        rows.append(f"| {info['name']} | {duration(stats['min'])} | {duration(stats['median'])} | {rate} | {peak} |")
    lines = [
        "",
        f"Measured on {run['datetime'][:10]} with Python {machine['python_version']} on two shared cores"
        f" ({machine['machine']}), one thread, processor time:",
        "",
        "| what | best round | median | best rate | peak memory |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python docs/_ext/speed.py BENCHMARKS.json")
    block = figures(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_BLOCK.sub(lambda _: block, page, count=1), encoding="utf-8")
