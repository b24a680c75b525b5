"""Ranking of deployments with separate workers for prompts and tokens: pools, their sizes, their balance."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import as_floats
from perfmodel.costs.economy import optimal_throughput
from perfmodel.errors import NothingFeasibleError, PlanError
from perfmodel.estimate.result import BOUNDS
from perfmodel.estimate.serving.pools import Link, Prompts, Tokens, outermost
from perfmodel.estimate.serving.predict import arithmetic_peak
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.estimate.timed_step import RESOURCES
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.rules import Rule, judge
from perfmodel.ranking.limits import Limits, plan_name
from perfmodel.ranking.separate_mesh import balance, deployment_rules, economy
from perfmodel.ranking.separate_pools import SPLIT, decode_pool, prefill_pool, worker_splits
from perfmodel.ranking.ties import NEAR_TIE, fewer_stages_first
from perfmodel.units import format_time

RANKED_BY = {"gpu": "tokens_per_s_per_gpu", "cost": "usd_per_million_tokens", "energy": "energy_per_token_j"}
"""What deployments can be ranked by, and the column that says it."""


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
    room = {target.system.id: target.system.max_devices for target in (prefill, decode)}
    if gpus > sum(room.values()):
        names = " and ".join(room)
        raise PlanError(f"{names} connect at most {sum(room.values())} devices, and {gpus} are wanted")
    if workload.arrivals == "closed" and np.isfinite(limits.ttft_p99_s):
        raise PlanError("a limit for 99 % of requests needs Poisson arrivals: a closed loop has no distribution")
    if workload.host_hit:
        raise PlanError("a cache in host memory is predicted for common workers only")
    if workload.host_experts:
        raise PlanError("experts in host memory are predicted for common workers only")
    chosen = {k: v for k, v in (chosen or {}).items() if k != "concurrency"}
    splits = worker_splits(model, decode.engine, gpus - 1, chosen)
    link = link or outermost(prefill)
    senders = worker_splits(model, prefill.engine, gpus - 1, chosen)
    pool, prompts = prefill_pool(model, prefill, senders, workload, precision)
    grid, tokens, rules = decode_pool(model, decode, splits, workload, precision, limits)
    mesh = balance(model, pool, prompts, grid, tokens, workload, gpus, link)
    every = (*rules, *deployment_rules(mesh, limits))
    verdicts = judge(mesh["ttft_s"].shape, every)
    mesh |= economy(mesh, pool, grid, prices, (prefill.device.power_w, decode.device.power_w))
    value = mesh[RANKED_BY[by]] if by == "gpu" else 1.0 / mesh[RANKED_BY[by]]
    rate = np.where(verdicts.feasible.reshape(mesh["ttft_s"].shape), value, -np.inf)
    # One entry per decode split: the prefill split that suits it best (of near-ties the one with the fewest pipeline
    # stages), with the best concurrency and number of workers.
    by_pair = np.moveaxis(rate, 1, 0).reshape(splits.size, pool.size, -1)
    most = by_pair.max(axis=2)
    level = most >= (1.0 - NEAR_TIE) * most.max(axis=1, keepdims=True)
    fewest = np.where(level, pool.column("pp"), np.inf)
    suited = np.where(fewest == fewest.min(axis=1, keepdims=True), most, -np.inf).argmax(axis=1)
    best = most[np.arange(splits.size), suited]
    found = np.flatnonzero(np.isfinite(best))
    if not len(found):
        raise NothingFeasibleError(_nearest_miss(mesh, limits, verdicts.code, every, gpus))
    ties = [grid.column(name).reshape(grid.shape)[found, 0] for name in reversed(SPLIT)]
    found = found[np.lexsort((*ties, -best[found]))]
    found = found[fewer_stages_first(best[found], grid.pp[found, 0])]
    p = suited[found]
    b, k = np.unravel_index(by_pair[found, p].argmax(axis=1), rate.shape[2:])
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
    excess = np.maximum(excess, mesh.get("ttft_p99_s", mesh["ttft_s"]) / limits.ttft_p99_s)
    excess = np.nan_to_num(np.maximum(excess, limits.rate / mesh["requests_per_s"]), nan=np.inf)
    i = int(np.argmin(np.where(reached & (mesh["enough"].ravel() > 0), excess.ravel(), np.inf)))
    return (
        "no deployment with separate workers meets the limits. Nearest:"
        f" {mesh['prefill_workers'].ravel()[i]:.0f} prefill and {mesh['decode_workers'].ravel()[i]:.0f} decode workers"
        f" with TTFT {format_time(float(mesh['ttft_s'].ravel()[i]))},"
        f" TPOT {format_time(float(mesh['tpot_s'].ravel()[i]))}, {mesh['requests_per_s'].ravel()[i]:.3g} requests/s."
    )
