"""Calculon on a case file of training steps, for a comparison on the same rows.

Runs with a checkout of Calculon on the path, in a process of its own::

    PYTHONPATH=CHECKOUT python calculon_training.py training.csv CHECKOUT/systems/a100_80g.json --output calculon.csv

Writes `id,step_s,peak_bytes,reason`, the layout that `perfmodel predict training` writes. Rows that it has no words
for (experts, latent attention, context parallelism, another device than the system file's) are answered with a reason.
"""

import argparse
import csv
import json
import logging
import sys
import time

SAME = {"none": "none", "selective": "attn_only", "full": "full"}


def request(row: dict[str, str]) -> tuple[dict[str, object], dict[str, object]]:
    """Application and execution of a row, in Calculon's words."""
    if row["model"] or row["experts"] not in ("", "0") or row["attention"] not in ("mha", ""):
        raise ValueError("a model that is not a plain transformer with as many key heads as query heads")
    if row["cp"] not in ("", "1") or row["gated"] == "1":
        raise ValueError("context parallelism or a gated MLP")
    number = {name: int(row[name]) for name in ("tp", "pp", "dp", "vp", "micro_batch", "global_batch", "gpus")}
    application = {
        "hidden": int(row["hidden"]),
        "feedforward": int(row["ffn"]),
        "seq_size": int(row["seq"]),
        "attn_heads": int(row["heads"]),
        "attn_size": int(row["hidden"]) // int(row["heads"]),
        "num_blocks": int(row["layers"]),
    }
    inside = number["tp"] * number["dp"] <= int(row["gpus_per_node"])
    execution = {
        "num_procs": number["gpus"],
        "tensor_par": number["tp"],
        "pipeline_par": number["pp"],
        "data_par": number["dp"],
        "tensor_par_net": 0,
        "pipeline_par_net": 0 if number["gpus"] <= int(row["gpus_per_node"]) else 1,
        "data_par_net": 0 if inside else 1,
        "batch_size": number["global_batch"],
        "microbatch_size": number["micro_batch"],
        "datatype": "float16",
        "fused_activation": False,
        "attention_type": "multihead",
        "activation_recompute": SAME[row["recompute"] or "none"],
        "pipeline_interleaving": number["vp"],
        "optimizer_sharding": row["zero"] not in ("", "0"),
        "tensor_par_comm_type": "rs_ag" if row["sequence_parallel"] == "1" else "ar",
        "tensor_par_overlap": "none",
        "seq_par_ag_redo": row["sequence_parallel"] == "1",
        "data_par_overlap": row["grad_overlap"] == "1",
        "weight_offload": False,
        "activations_offload": False,
        "optimizer_offload": False,
        "training": True,
    }
    return application, execution


def main() -> int:
    """Read cases, write predictions, say how many were answered and how long one took."""
    from calculon.llm import Llm
    from calculon.system import System

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases")
    parser.add_argument("system")
    parser.add_argument("--device", default="a100-sxm", help="device of the system file")
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    with open(options.cases, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with open(options.system, encoding="utf-8") as file:
        description = json.load(file)
    # Memory is not the question here: a step that was measured did fit.
    description["mem1"]["GiB"] = 1e6
    quiet, answered, spent = logging.getLogger("calculon"), 0, 0.0
    quiet.addHandler(logging.NullHandler())
    with open(options.output, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["id", "step_s", "peak_bytes", "reason"])
        for row in rows:
            try:
                if row["hardware"] != options.device:
                    raise ValueError(f"{row['hardware']} is not the device of the system file")
                application, execution = request(row)
                start = time.perf_counter()
                system = System(description)
                model = Llm(Llm.Application(application), quiet)
                model.compile(system, Llm.Execution.from_json(execution))
                model.run(system)
                spent += time.perf_counter() - start
                out.writerow([row["id"], model.get_total_time(), model.get_mem_tier1_cap_req(), ""])
                answered += 1
            except (ValueError, KeyError, AssertionError, Llm.Error) as error:
                out.writerow([row["id"], "", "", f"{type(error).__name__}: {str(error)[:120]}"])
    print(f"{answered} of {len(rows)} answered, {spent / max(answered, 1):.4f} s per row", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
