"""Columns of a sweep's results: names, kinds and order, the same for every partition."""

from collections.abc import Mapping

from perfmodel.hardware.what_if import NUMBERS
from perfmodel.sweep.axes import TASKS, TRAINING, axis_column, what_if_columns
from perfmodel.sweep.study import Block

_KINDS = {"text": "string", "integer": "int64", "count": "int64"}

_SERVING: Mapping[str, str] = {
    **dict.fromkeys(("replicas", "tp", "pp", "dp", "cp", "ep", "moe_tp", "concurrency"), "int64"),
    **dict.fromkeys(
        (
            "ttft_s",
            "ttft_p50_s",
            "ttft_p90_s",
            "ttft_p99_s",
            "tpot_s",
            "itl_max_s",
            "tokens_per_s_per_gpu",
            "optimal_tokens_per_s_per_gpu",
            "usd_per_million_tokens",
            "energy_per_token_j",
            "input_tokens_per_s_per_gpu",
            "requests_per_s",
            "in_flight",
            "utilisation",
            "deployment_tokens_per_s",
            "memory_bytes",
            "memory_capacity_bytes",
            "decode_s",
            "decode_compute_s",
            "decode_memory_s",
            "decode_network_s",
            "decode_latency_s",
            "decode_host_s",
            "decode_measured_share",
            "prefill_s",
            "prefill_measured_share",
        ),
        "float64",
    ),
    **dict.fromkeys(("bound", "bound_decode", "bound_prefill"), "string"),
}

_TRAINING: Mapping[str, str] = {
    **{name: _KINDS.get(axis.kind, "float64") for name, axis in TRAINING.items() if axis.knob},
    **dict.fromkeys(
        (
            "step_s",
            "tokens_per_s_per_gpu",
            "tokens_per_s",
            "mfu",
            "hfu",
            "days",
            "peak_bytes",
            "device_bytes",
            "compute_s",
            "pointwise_s",
            "tp_s",
            "cp_s",
            "ep_s",
            "pp_s",
            "bubble_s",
            "dp_s",
            "optimizer_s",
            "offload_s",
            "host_s",
        ),
        "float64",
    ),
}

PLAN_COLUMNS: Mapping[str, Mapping[str, str]] = {"serving": _SERVING, "training": _TRAINING}
"""Task -> column of a plan -> its kind."""

LARGER_IS_BETTER = frozenset(
    (
        "tokens_per_s_per_gpu",
        "optimal_tokens_per_s_per_gpu",
        "input_tokens_per_s_per_gpu",
        "requests_per_s",
        "deployment_tokens_per_s",
        "tokens_per_s",
        "concurrency",
        "mfu",
        "hfu",
        "decode_measured_share",
        "prefill_measured_share",
    )
)
"""Columns of which more is better; of every other number less is."""


def table_columns(block: Block) -> dict[str, str]:
    """Columns of the results of a block, in their order.

    Parameters
    ----------
    block : Block
        Points of one task.

    Returns
    -------
    dict
        Column -> "int64", "float64", "string" or "bool".

    Examples
    --------
    >>> from perfmodel.sweep.study_files import make_study
    >>> load = {"gpus": 8, "isl": "4k", "osl": "1k", "what_if": {"memory_bandwidth": ["x1", "x2"]}}
    >>> study = make_study({"serving": {"model": "llama-3.1-70b", "system": "hgx-h100", **load}})
    >>> list(table_columns(study.blocks[0]))[:8]
    ['point', 'model', 'system', 'gpus', 'isl', 'osl', 'memory_bandwidth', 'memory_bandwidth_x']
    """
    named = block.names
    columns = {"point": "int64"}
    for name, axis in TASKS[block.task].items():
        if name in named and not axis.knob:
            columns[axis_column(block.task, name)] = _KINDS.get(axis.kind, "float64")
    for name in NUMBERS:
        if name in named:
            columns |= dict.fromkeys(what_if_columns(name), "float64")
    columns |= {"feasible": "bool", "reason": "string", "rank": "int64", "on_front": "bool", "plans_searched": "int64"}
    return {**columns, **PLAN_COLUMNS[block.task]}
