"""Derivation of one plan: every operator with its sizes, time, bound, formula and source; every byte of memory."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from perfmodel.arrays import as_floats
from perfmodel.costs.registry import get_formula
from perfmodel.costs.serving import speculated_tokens
from perfmodel.errors import PlanError
from perfmodel.estimate.result import BOUNDS
from perfmodel.estimate.serving.latencies import decode_token_s, kept_in_order, streaming_delay, wave_lockstep
from perfmodel.estimate.serving.mixed_steps import decoding_requests
from perfmodel.estimate.serving.open_loop import QUANTILES
from perfmodel.estimate.serving.predict import predict_serving
from perfmodel.estimate.serving.steps import serving_steps
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.estimate.timed_step import RESOURCES, Line, StepTime, StreamTimes
from perfmodel.estimate.timing import beyond_range
from perfmodel.layers.operators import Attention, Collective, Experts, Gemm, Operator, Wait
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid
from perfmodel.ranking.limits import plan_name
from perfmodel.units import format_size, format_time

FETCHING = ("missed_experts", "offloaded_experts")
"""Formulas of experts in host memory."""


def derivation(
    model: ModelSpec,
    target: Target,
    grid: PlanGrid,
    workload: Workload,
    precision: Precision,
    *,
    phases: Iterable[str] = ("decode", "prefill"),
) -> str:
    """Write out where every millisecond and every byte of one plan comes from.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System, kernels and engine.
    grid : PlanGrid
        Exactly one plan.
    workload : Workload
        Lengths.
    precision : Precision
        Number formats.
    phases : iterable of str
        decode, prefill.

    Returns
    -------
    str
        The derivation as text.

    Raises
    ------
    PlanError
        If the grid holds more than one plan or the plan cannot be.
    """
    if grid.size != 1:
        raise PlanError(f"one plan is explained at a time, not {grid.size}")
    flat = grid.take([0])
    estimate = predict_serving(model, target, flat, workload, precision)
    row = estimate.row(0)
    if not row["feasible"] and "exceed" not in row["reason"]:
        raise PlanError(f"this plan cannot be: {row['reason']}")
    steps = serving_steps(model, target, flat, workload, precision, keep_lines=True)
    # Requests that find no room in the cache wait, so they are in no step.
    running = max(min(np.ceil(row["concurrency"] / row["dp"]), row["capacity_requests"] / row["dp"]), 1.0)
    decoding = float(np.max(decoding_requests(model, target, workload, running)))
    per_rank = int(np.ceil(decoding / row["pp"]))
    several = "s" if row["concurrency"] != 1 else ""
    lines = [
        f"{model.id} on {target.system.id}, {plan_name(row)}, {row['concurrency']} request{several} in flight,"
        f" {workload.isl:,.0f} tokens in, {workload.osl:,.0f} out",
        "",
    ]
    titles = {
        "decode": f"decode step, {per_rank} requests on a rank, context {workload.isl + workload.osl / 2:,.0f}",
        "prefill": f"prefill of one prompt of {workload.isl:,.0f} tokens{_reused(workload)}",
    }
    timed = {"decode": (steps.decode, steps.decode_experts_s), "prefill": (steps.prefill, steps.prefill_experts_s)}
    for phase in phases:
        step, fetch_s = timed[phase]
        lines += [*_tree(titles[phase], step, _scalar(fetch_s)), ""]
    if row["feasible"]:
        engine = target.engine
        decode_s = decode_token_s(model, flat, workload, steps)
        seen = float(np.ravel(streaming_delay(engine, flat, workload, steps, decode_s, row["tpot_s"]))[0])
        passing = engine.stream_steps + (engine.balance_steps if row["dp"] > 1 else 0.0)
        passing = min(passing * (1.0 - float(wave_lockstep(engine, workload)) / 2.0), float(workload.osl))
        others = max(int(decoding) - 1, 0)
        alone = engine.schedule == "prefill-first"
        own = "" if alone else f" over {_scalar(steps.riding_steps):,.0f} steps shared with running requests"
        queue = "closed_loop_wait" if alone else "balanced_wait"
        queue = "staggered_wait" if kept_in_order(engine, workload) else queue
        waited = f"first_wave_wait, {queue}, pool_limited_ttft, slot_wait"
        drafted = workload.draft_tokens
        verified = speculated_tokens(drafted, workload.acceptance)
        over = f" over {verified:.3g} tokens of {drafted + 1} verified" if drafted else ""
        spread = f"{others} prefills of others spread over {workload.osl:,.0f} tokens   [interleaved_tpot]"
        if workload.arrivals == "poisson":
            waited = "poisson_wait"
            spread = f"the prompts that arrive meanwhile, {row['prefill_busy']:.0%} of the time   [poisson_tpot]"
        lines += [
            f"TPOT {format_time(row['tpot_s'])} = longest decode stage{over}, and {spread}",
            f"TTFT {format_time(row['ttft_s'])} = own prefill {format_time(row['prompt_s'])}{own},"
            f" {passing:g} steps until it is seen {_zero(seen)}, host {_zero(engine.request_s)},"
            f" waiting for others {_zero(max(row['ttft_s'] - row['prompt_s'] - seen - engine.request_s, 0.0))}"
            f"   [{waited}]",
            *_arriving(row),
            f"rate {row['tokens_per_s_per_gpu']:,.1f} output tokens per second and GPU, bound by {row['bound']}",
            "",
        ]
    else:
        lines += [f"not feasible: {row['reason']}", ""]
    lines += _memory(row, target)
    lines += ["", "formulas"]
    shown = (line for phase in phases for line in getattr(steps, phase).lines if _scalar(line.time.seconds) > 0)
    fetched = FETCHING if workload.host_experts else ()
    used = sorted({*fetched, *(name for line in shown for name in line.time.formulas())})
    lines += [f"  {name}: {get_formula(name).source}" for name in used]
    return "\n".join(lines)


def _reused(workload: Workload) -> str:
    """How many tokens of a prompt are computed, where it is not all of them."""
    return f", {workload.new_tokens:,.0f} of them computed" if np.any(workload.new_tokens < workload.isl) else ""


def _arriving(row: Mapping[str, Any]) -> list[str]:
    """What only requests that arrive at random have: quantiles, and a mean number in flight."""
    if "ttft_p99_s" not in row:
        return []
    within = ", ".join(f"{100 * QUANTILES[name]:.0f} % within {format_time(row[name])}" for name in QUANTILES)
    return [
        f"TTFT of {within}   [poisson_wait_quantile]",
        f"{row['requests_per_s']:.3g} requests/s arrive, {row['in_flight']:.3g} are in flight on average"
        " (Little's law); a request sees that many, and itself   [poisson_rate]",
    ]


def _tree(title: str, step: StepTime, fetch_s: float) -> list[str]:
    total = float(np.ravel(step.seconds)[0])
    rows: list[tuple[str, str, float, str]] = [("", title, total, "")]
    for heading, spent, members in _groups(step):
        rows.append(("├─ ", heading, spent, ""))
        shown = [line for line in members if _scalar(line.time.seconds) > 0]
        for line in shown:
            branch = "│  └─ " if line is shown[-1] else "│  ├─ "
            rows.append(
                (branch, f"{line.operator.name:33s} {_sizes(line.operator)}", _scalar(line.time.seconds), _why(line))
            )
    if fetch_s:
        rows.append(("├─ ", "experts fetched from host memory", fetch_s, f"network  {', '.join(FETCHING)}"))
    host = _scalar(step.parts[RESOURCES.index("host")])
    rest = total - host - sum(row[2] for row in rows if row[0] == "├─ ")
    rest = rest if abs(rest) > 1e-9 * total else 0.0  # what is left of the sum's rounding is nothing
    rows.append(("├─ ", "host, which the device waits for", host, ""))
    rows.append(("└─ ", "between stages, less what is hidden beside others", rest, ""))
    width = max(len(prefix) + len(text) for prefix, text, _, _ in rows) + 2
    out = []
    for prefix, text, seconds, why in rows:
        share = f"{100 * seconds / total:5.1f} %" if not prefix.startswith("│") else " " * 7
        out.append(
            f"{(prefix + text).ljust(width)}{format_time(seconds) if seconds else '0 s':>9s} {share}  {why}".rstrip()
        )
    parts = ", ".join(
        f"{name} {format_time(_scalar(s))}" for name, s in zip(RESOURCES, step.parts, strict=True) if _scalar(s) > 0
    )
    out.append(f"charged to: {parts}")
    if step.streams is not None:
        out += _streams(step.streams)
    out.append(
        f"bounds: roofline {format_time(_scalar(step.lower_s))} (everything hidden behind the busiest resource) ..."
        f" estimate {format_time(total)} ... serial {format_time(_scalar(step.upper_s))}"
    )
    seconds_by_basis = {name: _scalar(value) for name, value in step.basis.items() if _scalar(value) > 0}
    whole = sum(seconds_by_basis.values())
    out.append("rests on: " + ", ".join(f"{n} {100 * s / whole:.0f} %" for n, s in sorted(seconds_by_basis.items())))
    beyond_s = sum(line.repeat * _scalar(line.time.seconds) for line in step.lines if _beyond(line))
    if beyond_s > 0:
        out.append(f"beyond the sizes that its kernels were measured at: {100 * beyond_s / whole:.0f} %")
    return out


def _groups(step: StepTime) -> Iterable[tuple[str, float, tuple[Line, ...]]]:
    """Blocks of a step in their order: heading, time and operators; those on streams are two groups."""
    streams = step.streams if step.streams is not None and bool(np.ravel(step.streams.cut)[0]) else None
    on_streams = {line.block for line in streams.first} if streams else set()
    order = dict.fromkeys(line.block for line in step.lines)
    for block in order:
        members = tuple(line for line in step.lines if line.block == block)
        repeat = members[0].repeat
        if streams is None or block not in on_streams:
            yield f"{repeat:.0f} x {block}", repeat * sum(_scalar(line.time.seconds) for line in members), members
            continue
        both = [tuple(line for line in lines if line.block == block) for lines in (streams.first, streams.second)]
        sums = [2.0 * repeat * sum(_scalar(line.time.seconds) for line in lines) for lines in both]
        hidden = _scalar(streams.hidden_s) if len(on_streams) == 1 else 0.0
        # What overlaps is taken off the less busy stream.
        behind = int(sums[1] <= sums[0])
        for i, name in enumerate(("first", "second")):
            beside = f", {format_time(min(hidden, sums[i]))} of it beside the other" if i == behind and hidden else ""
            left = max(sums[i] - (hidden if i == behind else 0.0), 0.0)
            yield f"2 x {repeat:.0f} x {block}, {name} stream{beside}", left, both[i]


def _streams(streams: StreamTimes) -> list[str]:
    if not bool(np.ravel(streams.cut)[0]):
        return []
    share = _scalar(streams.share)
    cores = f"{share:.0%} and {1 - share:.0%} of the cores" if share < 1 else "all cores in turn"
    return [
        f"streams: {format_time(_scalar(streams.first_s))} and {format_time(_scalar(streams.second_s))} for one of two"
        f" microbatches, {cores}; {format_time(_scalar(streams.hidden_s))} hidden, the busier stream alone"
        f" {format_time(_scalar(streams.lower_s))}"
    ]


def _zero(seconds: float) -> str:
    return format_time(seconds) if seconds > 1e-9 else "0 s"


def _scalar(value: Any) -> float:
    return float(np.ravel(as_floats(value))[0])


def _why(line: Line) -> str:
    bound = BOUNDS[int(np.ravel(line.time.bound())[0])]
    beyond = _beyond(line)
    return f"{bound:8s} {line.time.formula} [{line.time.source}]{f' beyond {beyond}' if beyond else ''}"


def _beyond(line: Line) -> str:
    """Sizes of an operator outside the range that its coefficients were fitted to."""
    chosen = int(_scalar(line.time.choice))
    call = line.time.calls[chosen] if line.time.calls else None
    if call is None:
        return ""
    outside = beyond_range(*call)
    return ", ".join(name for name, where in outside.items() if np.ravel(where)[0])


def _sizes(op: Operator) -> str:
    def n(value: Any) -> str:
        return f"{_scalar(value):,.0f}"

    times = f" x{_scalar(op.count):.0f}" if _scalar(op.count) != 1 else ""
    if isinstance(op, Gemm):
        return f"GEMM {n(op.tokens)} x {n(op.out_features)} x {n(op.in_features)} {op.format}{times}"
    if isinstance(op, Attention):
        window = f" window {op.window:,.0f}" if op.window else ""
        return (
            f"{n(op.batch)} x {n(op.tokens)} of {n(op.context)} x {n(op.heads)}q/{n(op.kv_heads)}kv x"
            f" {op.qk_head_dim:.0f}{window} {op.format}/{op.kv_format}{times}"
        )
    if isinstance(op, Experts):
        return (
            f"{n(op.tokens)} x top {n(op.topk)} of {n(op.experts)} x {op.hidden:.0f} x {op.intermediate:.0f}"
            f" over ep {n(op.ep)} x tp {n(op.moe_tp)} {op.format}{times}"
        )
    if isinstance(op, Collective):
        return f"{op.kind} {format_size(_scalar(op.payload), binary=True)} over {op.group}{times}"
    if isinstance(op, Wait):
        return f"in every {op.during}{times}"
    return f"{format_size(_scalar(op.moved), binary=True)} moved{times}"


def _memory(row: dict[str, Any], target: Target) -> list[str]:
    parts = {
        "weights": row["weights_bytes"],
        f"KV cache of {-(-row['concurrency'] // row['dp'])} requests": row["cache_bytes"],
        "activations": row["activation_bytes"],
        "buffers": row["buffer_bytes"],
        "framework": row["framework_bytes"],
    }
    lines = ["memory of the fullest GPU"]
    lines += [
        f"  {name:28s} {format_size(value, binary=True) if value else '0 B':>10s}" for name, value in parts.items()
    ]
    lines.append(
        f"  {'total':28s} {format_size(row['memory_bytes'], binary=True):>10s} of"
        f" {format_size(row['memory_capacity_bytes'], binary=True)}"
        f" ({target.engine.memory_fraction:.0%} of {format_size(target.device.memory_bytes, binary=True)});"
        f" room for {row['capacity_requests']:,.0f} requests"
        f" at {format_size(row['cache_per_request_bytes'], binary=True)} each"
    )
    return lines
