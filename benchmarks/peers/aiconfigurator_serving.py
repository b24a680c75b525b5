"""AIConfigurator on a case file of deployments, for a comparison on the same rows.

Runs in a virtual environment of its own that has `aiconfigurator` and not perfmodel::

    python aiconfigurator_serving.py serving_agg.csv --output aiconfigurator.csv [--mode SILICON|HYBRID]

Writes `id,ttft_s,tpot_s,reason`, the layout that `perfmodel predict serving` writes, so that one scorer reads both.
Every aggregated row is asked for as AIConfigurator's own single-point estimate: its batch is the concurrency of one
attention data-parallel rank, its formats are the checkpoint's, everything else is its default.
"""

import argparse
import csv
import logging
import sys
import time
import warnings

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)

SYSTEMS = {"h100-sxm": "h100_sxm", "h200-sxm": "h200_sxm", "b200-sxm": "b200_sxm", "gb200": "gb200", "gb300": "gb300"}
# Names under which it ships the configurations of models that it would otherwise download.
MODELS = {"meta-llama/Llama-3.1-70B-Instruct": "meta-llama/Meta-Llama-3.1-70B"}
# Formats that the precision of a checkpoint means there: matrices, experts.
FORMATS = {
    "bf16": ("bfloat16", "bfloat16"),
    "fp8": ("fp8", "fp8"),
    "nvfp4": ("nvfp4", "nvfp4"),
    "mxfp4": ("bfloat16", "w4a16_mxfp4"),
    "int4": ("int4_wo", "int4_wo"),
}


def formats(row: dict[str, str]) -> tuple[str, str]:
    """Matrix and expert format of a row."""
    if row["precision"] == "fp8" and row["model"].startswith("deepseek-ai/"):
        return "fp8_block", "fp8_block"
    return FORMATS.get(row["precision"], (row["precision"], row["precision"]))


def estimate(row: dict[str, str], mode: str) -> tuple[float, float]:
    """TTFT and TPOT of a row in seconds."""
    from aiconfigurator.cli.api import cli_estimate

    dp = int(row["dp"])
    dense, experts = formats(row)
    groups = {f"moe_{k}_size": int(row[f"moe_{k}"]) for k in ("tp", "ep") if row.get(f"moe_{k}")}
    result = cli_estimate(
        MODELS.get(row["model"], row["model"]),
        SYSTEMS.get(row["hardware"], row["hardware"].replace("-", "_")),
        backend_name=row["engine"],
        database_mode=mode,
        isl=int(row["isl"]),
        osl=int(row["osl"]),
        batch_size=max(-(-int(row["concurrency"]) // dp), 1),
        tp_size=int(row["tp"]),
        pp_size=int(row["pp"]),
        attention_dp_size=dp,
        gemm_quant_mode=dense,
        moe_quant_mode=experts,
        **groups,
    )
    return result.ttft / 1e3, result.tpot / 1e3


def main() -> int:
    """Read cases, write predictions, say how many were answered and how long one took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases")
    parser.add_argument("--output", required=True)
    parser.add_argument("--mode", default="SILICON")
    options = parser.parse_args()
    with open(options.cases, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    answered, start = 0, time.perf_counter()
    with open(options.output, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["id", "ttft_s", "tpot_s", "reason"])
        for row in rows:
            try:
                ttft, tpot = estimate(row, options.mode)
                out.writerow([row["id"], ttft, tpot, ""])
                answered += 1
            except (Exception, SystemExit) as error:  # whatever a peer may raise or exit with, the row says so
                out.writerow([row["id"], "", "", f"{type(error).__name__}: {str(error)[:120]}"])
    seconds = time.perf_counter() - start
    print(f"{answered} of {len(rows)} answered, {seconds / max(len(rows), 1):.3f} s per row", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
