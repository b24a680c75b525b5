"""Ranking of deployments with separate workers for prompts and tokens: pools, their sizes, their balance."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import as_floats
from perfmodel.costs.economy import optimal_throughput, token_energy, token_price
from perfmodel.errors import NothingFeasibleError, PlanError
from perfmodel.estimate.disaggregated import first_token, hand_over
from perfmodel.estimate.footprint import serving_footprint
from perfmodel.estimate.pools import Link, Prompts, Tokens, outermost, prompt_work, token_work
from perfmodel.estimate.result import BOUNDS
from perfmodel.estimate.serving import arithmetic_peak
from perfmodel.estimate.serving_rules import serving_rules
from perfmodel.estimate.step import RESOURCES
from perfmodel.estimate.target import Target
from perfmodel.estimate.workload import Workload
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import KNOBS, PlanGrid, concurrency_ladder, plans, serving_splits
from perfmodel.parallel.rules import Rule, judge
from perfmodel.ranking.pareto import pareto_front
from perfmodel.ranking.serving import MOST_REQUESTS, Limits, plan_name
from perfmodel.ranking.ties import fewer_stages_first
from perfmodel.units import format_time

SPLIT = tuple(name for name in KNOBS if name != "concurrency")

RANKED_BY = {"gpu": "tokens_per_s_per_gpu", "cost": "usd_per_million_tokens", "energy": "energy_per_token_j"}
"""What deployments can be ranked by, and the column that says it."""

AROUND_BALANCE = (0.0, 1.0, 2.0)
"""Prefill workers tried, beyond the whole number below the point where both pools are busy all the time."""


@dataclass(frozen=True, slots=True)
class SeparateRanking:
    """Ranked deployments with separate workers: of every decode split the best, with the pools that suit it.

    Parameters
    ----------
    columns : mapping
        Column name -> one value per ranked deployment, best first; SI units.
    gpus : int
        Devices that were to be used.
    limits : Limits
        What was asked for.
    link : Link
        What the cache crosses.
    systems : tuple of str
        System of the prefill workers and of the decode workers.
    searched : int
        Deployments evaluated.
    seconds : float
        Time the search took [s].
    infeasible : mapping
        Reason -> number of deployments.
    """

    columns: Mapping[str, npt.NDArray[np.float64]]
    gpus: int
    limits: Limits
    link: Link
    systems: tuple[str, str]
    searched: int
    seconds: float
    infeasible: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["ttft_s"])

    def row(self, rank: int) -> dict[str, Any]:
        """One ranked deployment.

        Parameters
        ----------
        rank : int
            1 for the best.

        Returns
        -------
        dict
            Workers and split of both pools, and the columns of an estimate; rates per device count idle devices too.
        """
        whole = {
            "prefill_workers",
            "decode_workers",
            "prefill_gpus",
            "decode_gpus",
            "gpus",
            "concurrency",
            *_pool_names("prefill"),
        }
        whole |= set(_pool_names("decode"))
        row: dict[str, Any] = {"rank": rank, "workers": "separate"}
        for name, values in self.columns.items():
            value = float(values[rank - 1])
            if name == "usd_per_million_tokens" and not np.isfinite(value):
                continue
            row[name] = int(value) if name in whole else BOUNDS[int(value)] if name.startswith("bound") else value
        return row | {"feasible": True, "reason": ""}


def _pool_names(phase: str) -> tuple[str, ...]:
    return tuple(f"{phase}_{name}" for name in SPLIT)


def pool_plan(row: Mapping[str, Any], phase: str) -> str:
    """Write the split of one pool in the field's short form.

    Parameters
    ----------
    row : mapping
        A ranked deployment.
    phase : str
        prefill or decode.

    Returns
    -------
    str
        For instance "3 x TP2".

    Examples
    --------
    >>> sizes = {f"decode_{name}": 1 for name in SPLIT} | {"decode_tp": 4, "decode_workers": 2}
    >>> pool_plan(sizes, "decode")
    '2 x TP4'
    """
    return f"{row[f'{phase}_workers']} x {plan_name({name: row[f'{phase}_{name}'] for name in SPLIT})}"


def rank_separate(
    model: ModelSpec,
    prefill: Target,
    decode: Target,
    gpus: int,
    workload: Workload,
    precision: Precision,
    limits: Limits | None = None,
    *,
    link: Link | None = None,
    prices: tuple[float, float] = (np.nan, np.nan),
    by: str = "gpu",
    chosen: Mapping[str, int] | None = None,
) -> SeparateRanking:
    """Rank deployments of separate prefill and decode workers by output tokens per second and device.

    Every split of a prefill worker meets every split of a decode worker at every concurrency. The number of prefill
    workers is the one at which both pools are busy all the time, and its neighbours; decode workers take what is
    left. Devices that no worker uses count in the rate per device.

    Parameters
    ----------
    model : ModelSpec
        Model.
    prefill, decode : Target
        What the workers of each kind run on; the same or different.
    gpus : int
        Devices of both pools together.
    workload : Workload
        Lengths of the requests.
    precision : Precision
        Number formats.
    limits : Limits, optional
        Latency limits and request rate.
    link : Link, optional
        What the cache crosses; by default the outermost tier of the prefill workers' system.
    prices : tuple of float
        Price of one device of either kind for one hour; by default none is reckoned with [USD/h].
    by : str
        What tokens are ranked per: one of `RANKED_BY`.
    chosen : mapping, optional
        Knobs of both kinds of workers held at one value (tp, pp, dp, ep, moe_tp).

    Returns
    -------
    SeparateRanking
        Ranked deployments, never empty.

    Raises
    ------
    NothingFeasibleError
        If no deployment fits and meets the limits; the message names the nearest miss.
    PlanError
        If the request itself makes no sense.
    """
    start = time.perf_counter()
    limits = limits or Limits()
    if by not in RANKED_BY:
        raise PlanError(f"deployments are ranked by {', '.join(RANKED_BY)}, not by {by!r}")
    if by == "cost" and not np.isfinite(prices).all():
        raise PlanError("ranking by cost needs the price of a GPU-hour of both kinds of workers")
    if by == "energy" and None in (prefill.device.power_w, decode.device.power_w):
        raise PlanError("ranking by energy needs devices whose power limit is published")
    if gpus < 2:
        raise PlanError(f"separate workers need at least 2 GPUs, not {gpus}")
    if workload.arrivals != "closed" or np.isfinite(limits.ttft_p99_s):
        raise PlanError("separate workers are predicted in a closed loop only; Poisson arrivals need common workers")
    if workload.host_hit:
        raise PlanError("a cache in host memory is predicted for common workers only")
    chosen = {k: v for k, v in (chosen or {}).items() if k != "concurrency"}
    splits = _worker_splits(model, gpus - 1, chosen)
    link = link or outermost(prefill)
    pool, prompts = _prefill_pool(model, prefill, splits, workload, precision)
    grid, tokens, rules = _decode_pool(model, decode, splits, workload, precision, limits)
    mesh = _balance(model, pool, prompts, grid, tokens, workload, gpus, link)
    every = (*rules, *_deployment_rules(mesh, limits))
    verdicts = judge(mesh["ttft_s"].shape, every)
    mesh |= _economy(mesh, pool, grid, prices, (prefill.device.power_w, decode.device.power_w))
    value = mesh[RANKED_BY[by]] if by == "gpu" else 1.0 / mesh[RANKED_BY[by]]
    rate = np.where(verdicts.feasible.reshape(mesh["ttft_s"].shape), value, -np.inf)
    # One entry per decode split: the best prefill split, concurrency and number of workers for it.
    by_split = np.moveaxis(rate, 1, 0).reshape(splits.size, -1)
    best = by_split.argmax(axis=1)
    found = np.flatnonzero(np.isfinite(by_split[np.arange(splits.size), best]))
    if not len(found):
        raise NothingFeasibleError(_nearest_miss(mesh, limits, verdicts.code, every, gpus))
    ties = [grid.column(name).reshape(grid.shape)[found, 0] for name in reversed(SPLIT)]
    found = found[np.lexsort((*ties, -by_split[found, best[found]]))]
    found = found[fewer_stages_first(by_split[found, best[found]], grid.pp[found, 0])]
    p, b, k = np.unravel_index(best[found], (rate.shape[0], *rate.shape[2:]))
    columns = _columns(mesh, (p, found, b, k), pool, prompts, grid, tokens)
    share = columns["prefill_workers"] * columns["prefill_gpus"] / columns["gpus"]
    peaks = [arithmetic_peak(target, precision) for target in (prefill, decode)]
    columns["optimal_tokens_per_s_per_gpu"] = as_floats(
        optimal_throughput(
            model.active_parameters(),
            workload.new_tokens,
            workload.osl,
            peak_flops=share * peaks[0] + (1.0 - share) * peaks[1],
        )
    )
    return SeparateRanking(
        columns,
        gpus,
        limits,
        link,
        (prefill.system.id, decode.system.id),
        rate.size,
        time.perf_counter() - start,
        verdicts.counts(),
    )


def _worker_splits(model: ModelSpec, most: int, chosen: Mapping[str, int]) -> PlanGrid:
    """Splits of one worker: those of the largest power of two, and those of the whole number of devices."""
    sizes = model.divisors()
    tables = []
    for devices in sorted({2 ** int(np.log2(most)), most}):
        try:
            grid = serving_splits(
                devices,
                tensor_limit=sizes.get("heads", devices),
                layers=model.layers,
                experts=sizes.get("experts", 0),
                chosen=chosen,
            )
        except PlanError:
            continue
        tables.append(np.stack([grid.column(name) for name in SPLIT]))
    if not tables:
        held = ", ".join(f"{k}={v}" for k, v in chosen.items())
        raise PlanError(f"no worker of at most {most} devices has {held}")
    table = np.unique(np.concatenate(tables, axis=1), axis=1)
    return plans(**dict(zip(SPLIT, table, strict=True)))


def _prefill_pool(
    model: ModelSpec, target: Target, splits: PlanGrid, workload: Workload, precision: Precision
) -> tuple[PlanGrid, Prompts]:
    """Prefill workers worth having: none is beaten in latency, devices per prompt rate and size at once."""
    grid = plans(**{name: getattr(splits, name) for name in SPLIT}, concurrency=splits.dp)
    footprint = serving_footprint(
        model,
        target,
        grid,
        precision,
        context=as_floats(workload.isl),
        requests=as_floats(1.0),
        step_tokens=np.minimum(as_floats(workload.new_tokens), target.engine.step_tokens),
    )
    verdicts = judge(grid.shape, serving_rules(model, target, grid, footprint))
    if not verdicts.feasible.any():
        reason, _ = next(iter(verdicts.counts().items()))
        raise NothingFeasibleError(
            f"no prefill worker of at most {int(grid.devices.max())} GPUs fits: {reason}. Ask for more GPUs."
        )
    prompts = prompt_work(model, target, grid, workload, precision)
    seconds, rate = (np.broadcast_to(as_floats(v), grid.shape) for v in (prompts.step.seconds, prompts.rate))
    known = np.where(verdicts.feasible, 1.0, np.nan)
    kept = pareto_front(seconds * known, grid.devices / rate, grid.devices)
    few = grid.take(kept)
    return few, prompt_work(model, target, few, workload, precision)


def _decode_pool(
    model: ModelSpec,
    target: Target,
    splits: PlanGrid,
    workload: Workload,
    precision: Precision,
    limits: Limits,
) -> tuple[PlanGrid, Tokens, tuple[Rule, ...]]:
    """Decode workers at every concurrency, and what rules them out."""
    room = serving_footprint(
        model,
        target,
        splits,
        precision,
        context=workload.stored_tokens + target.engine.reserved_output * as_floats(workload.osl),
        requests=as_floats(1.0),
        step_tokens=as_floats(1.0),
    )
    most = np.max(np.broadcast_to(as_floats(room.requests) * splits.dp, splits.shape))
    ladder = concurrency_ladder(int(np.clip(most, 1.0, MOST_REQUESTS)))
    grid = plans(**{name: getattr(splits, name)[:, None] for name in SPLIT}, concurrency=ladder)
    tokens = token_work(model, target, grid, workload, precision, per_rank=np.ceil(grid.concurrency / grid.dp))
    token_s = np.broadcast_to(tokens.token_s, grid.shape)
    full = np.broadcast_to(grid.concurrency > as_floats(tokens.places) * grid.dp, grid.shape)
    late = (
        Rule("KV cache exceeds memory", full, lambda _: "the KV cache exceeds memory"),
        Rule(
            f"TPOT above {format_time(limits.tpot_s)}" if np.isfinite(limits.tpot_s) else "TPOT",
            token_s > limits.tpot_s,
            lambda _: f"TPOT is above {format_time(limits.tpot_s)}",
        ),
    )
    rules = (*serving_rules(model, target, grid, tokens.footprint), *late)
    # On the mesh of deployments: prefill split, decode split, concurrency, number of workers.
    shape = grid.shape
    spread = tuple(
        Rule(rule.category, np.broadcast_to(rule.broken, shape)[None, :, :, None], rule.describe) for rule in rules
    )
    return grid, tokens, spread


def _balance(
    model: ModelSpec,
    pool: PlanGrid,
    prompts: Prompts,
    grid: PlanGrid,
    tokens: Tokens,
    workload: Workload,
    gpus: int,
    link: Link,
) -> dict[str, npt.NDArray[np.float64]]:
    """Latency and rate of every deployment, an array over prefill split, decode split, concurrency, workers."""

    def first(values: object) -> npt.NDArray[np.float64]:
        return np.broadcast_to(as_floats(values), pool.shape)[:, None, None, None]

    def second(values: object) -> npt.NDArray[np.float64]:
        return np.broadcast_to(as_floats(values), grid.shape)[None, :, :, None]

    osl = as_floats(workload.osl)
    prompt_s, one_rate, small = first(prompts.step.seconds), first(prompts.rate), first(pool.devices)
    token_s, each, large = second(tokens.token_s), second(grid.concurrency), second(grid.devices)
    moved = np.maximum(first(prompts.sent_bytes), second(tokens.received_bytes)[:, :, :1])
    transfer_s = as_floats(hand_over(model, prompt_s, moved, link))
    asked = each / (prompt_s + transfer_s + osl * token_s)  # prompts per second that one decode worker can take
    balanced = gpus * asked / (large * one_rate + small * asked)
    prefill_workers = np.maximum(np.floor(balanced), 1.0) + np.array(AROUND_BALANCE)
    decode_workers = np.floor((gpus - prefill_workers * small) / large)
    enough = decode_workers >= 1
    decode_workers = np.maximum(decode_workers, 1.0)
    requests = decode_workers * each
    per_rank = np.ceil(each / second(grid.dp))
    ttft = first_token(
        workload,
        prompt_s=prompt_s,
        transfer_s=transfer_s,
        token_s=token_s,
        stream_s=second(tokens.stream_s),
        rate=prefill_workers * one_rate,
        requests=requests,
        per_rank=per_rank,
        places=np.maximum(second(tokens.places), per_rank),
    )
    rate = requests / (as_floats(ttft) + (osl - 1.0) * token_s)
    out = {
        "ttft_s": ttft,
        "tpot_s": token_s,
        "transfer_s": transfer_s,
        "requests_per_s": rate,
        "tokens_per_s": rate * osl,
        "tokens_per_s_per_gpu": rate * osl / gpus,
        "input_tokens_per_s_per_gpu": rate * workload.isl / gpus,
        "prefill_busy": np.minimum(rate / (prefill_workers * one_rate), 1.0),
        "concurrency": requests,
        "gpus": prefill_workers * small + decode_workers * large,
        "prefill_workers": prefill_workers,
        "decode_workers": decode_workers,
        "enough": enough,
    }
    shape = np.broadcast_shapes(*(as_floats(values).shape for values in out.values()))
    return {name: np.broadcast_to(as_floats(values), shape) for name, values in out.items()}


def _economy(
    mesh: Mapping[str, npt.NDArray[np.float64]],
    pool: PlanGrid,
    grid: PlanGrid,
    prices: tuple[float, float],
    powers: tuple[float | None, float | None],
) -> dict[str, npt.NDArray[np.float64]]:
    """Price and energy of a token: what the devices of each kind cost together, those in use only."""
    prompts = mesh["prefill_workers"] * np.broadcast_to(pool.devices, pool.shape)[:, None, None, None]
    tokens = mesh["decode_workers"] * np.broadcast_to(grid.devices, grid.shape)[None, :, :, None]
    hourly = prompts * prices[0] + tokens * prices[1]
    watts = prompts * (powers[0] or np.nan) + tokens * (powers[1] or np.nan)
    return {
        "usd_per_million_tokens": 1e6 * as_floats(token_price(1.0, hourly, mesh["tokens_per_s"])),
        "energy_per_token_j": as_floats(token_energy(1.0, watts, mesh["tokens_per_s"])),
    }


def _deployment_rules(mesh: Mapping[str, npt.NDArray[np.float64]], limits: Limits) -> tuple[Rule, ...]:
    return (
        Rule("too few GPUs for one worker of each kind", mesh["enough"] < 1, lambda _: "too few GPUs"),
        Rule(
            f"TTFT above {format_time(limits.ttft_s)}" if np.isfinite(limits.ttft_s) else "TTFT",
            mesh["ttft_s"] > limits.ttft_s,
            lambda i: f"TTFT {format_time(float(mesh['ttft_s'].ravel()[i]))} is above {format_time(limits.ttft_s)}",
        ),
        Rule(
            f"fewer than {limits.rate:g} requests/s",
            mesh["requests_per_s"] < limits.rate,
            lambda i: f"{mesh['requests_per_s'].ravel()[i]:.3g} requests/s are fewer than {limits.rate:g}",
        ),
    )


def _columns(
    mesh: Mapping[str, npt.NDArray[np.float64]],
    at: tuple[npt.NDArray[np.int64], ...],
    pool: PlanGrid,
    prompts: Prompts,
    grid: PlanGrid,
    tokens: Tokens,
) -> dict[str, npt.NDArray[np.float64]]:
    """Columns of the chosen deployments: the mesh, both splits, memory and the parts of both steps."""
    p, d, b, _ = at

    def first(values: object) -> npt.NDArray[np.float64]:
        return np.broadcast_to(as_floats(values), pool.shape)[p]

    def second(values: object) -> npt.NDArray[np.float64]:
        return np.broadcast_to(as_floats(values), grid.shape)[d, b]

    columns = {name: values[at] for name, values in mesh.items() if name != "enough"}
    columns |= {f"prefill_{name}": first(getattr(pool, name)) for name in SPLIT}
    columns |= {f"decode_{name}": second(getattr(grid, name)) for name in SPLIT}
    columns |= {"prefill_gpus": first(pool.devices), "decode_gpus": second(grid.devices)}
    footprint = tokens.footprint
    columns |= {
        "memory_bytes": second(footprint.total),
        "memory_capacity_bytes": second(footprint.capacity),
        "cache_bytes": second(footprint.cache),
        "capacity_requests": second(tokens.places) * second(grid.dp) * columns["decode_workers"],
    }
    for phase, step, take in (("decode", tokens.step, second), ("prefill", prompts.step, first)):
        columns[f"{phase}_s"] = take(step.seconds)
        columns |= {f"{phase}_{part}_s": take(step.parts[i]) for i, part in enumerate(RESOURCES)}
        columns[f"{phase}_measured_share"] = take(as_floats(step.basis.get("measured", 0.0)) / step.seconds)
        columns[f"bound_{phase}"] = take(step.bound())
    full = columns["concurrency"] + columns["decode_workers"] * columns["decode_dp"] > columns["capacity_requests"]
    columns["bound"] = np.where(full, float(BOUNDS.index("capacity")), columns["bound_decode"])
    return columns


def _nearest_miss(
    mesh: Mapping[str, npt.NDArray[np.float64]],
    limits: Limits,
    code: npt.NDArray[np.int16],
    rules: tuple[Rule, ...],
    gpus: int,
) -> str:
    """Say which deployment comes nearest to the limits, or why none fits."""
    late = ("TPOT", "TTFT", "fewer than")
    reached = np.isin(code, [i for i, rule in enumerate(rules, start=1) if rule.category.startswith(late)])
    if not reached.any():
        counts = np.bincount(code, minlength=len(rules) + 1)[1:]
        return f"no decode worker fits on {gpus} GPUs: {rules[int(counts.argmax())].category}. Ask for more GPUs."
    excess = np.maximum(mesh["ttft_s"] / limits.ttft_s, mesh["tpot_s"] / limits.tpot_s)
    excess = np.maximum(excess, limits.rate / mesh["requests_per_s"])
    i = int(np.argmin(np.where(reached & (mesh["enough"].ravel() > 0), excess.ravel(), np.inf)))
    return (
        "no deployment with separate workers meets the limits. Nearest:"
        f" {mesh['prefill_workers'].ravel()[i]:.0f} prefill and {mesh['decode_workers'].ravel()[i]:.0f} decode workers"
        f" with TTFT {format_time(float(mesh['ttft_s'].ravel()[i]))},"
        f" TPOT {format_time(float(mesh['tpot_s'].ravel()[i]))}, {mesh['requests_per_s'].ravel()[i]:.3g} requests/s."
    )
