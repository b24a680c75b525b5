"""Ranking of deployments with separate workers for prompts and tokens."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import as_floats
from perfmodel.costs.economy import optimal_throughput
from perfmodel.errors import NothingFeasibleError
from perfmodel.estimate.result import BOUNDS
from perfmodel.estimate.serving.pools import Link, Tokens
from perfmodel.estimate.serving.predict import arithmetic_peak
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.estimate.timed_step import RESOURCES
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid
from perfmodel.ranking.limits import Limits, plan_name
from perfmodel.ranking.separate_pools import SPLIT
from perfmodel.ranking.separate_request import fewest_devices, nearest_miss, prepared
from perfmodel.ranking.separate_search import Search
from perfmodel.ranking.ties import fewer_stages_first


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
        Reason -> number of deployments or, where one of their workers cannot be, of workers.
    fewest_gpus : int, optional
        Fewest devices that sustain the rate that was asked for, where one was.
    """

    columns: Mapping[str, npt.NDArray[np.float64]]
    gpus: int
    limits: Limits
    link: Link
    systems: tuple[str, str]
    searched: int
    seconds: float
    infeasible: Mapping[str, int] = field(default_factory=dict)
    fewest_gpus: int | None = None

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
            "idle_gpus",
            "concurrency",
            *_pool_names("prefill"),
        }
        whole |= set(_pool_names("decode"))
        row: dict[str, Any] = {"rank": rank, "workers": "separate"}
        for name, values in self.columns.items():
            value = float(values[rank - 1])
            if name in ("usd_per_hour", "usd_per_million_tokens", "power_w") and not np.isfinite(value):
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
    """Rank deployments of separate prefill and decode workers by output tokens per second.

    Every split of a prefill worker meets every split of a decode worker, and each pair gets the concurrency and the
    numbers of workers that suit it (`Search`). Devices that no worker uses count in the rate per device, unless a
    budget of money or power keeps them out.

    Parameters
    ----------
    model : ModelSpec
        Model.
    prefill, decode : Target
        What the workers of each kind run on; the same or different.
    gpus : int
        Devices of both pools together, at most.
    workload : Workload
        Lengths of the requests.
    precision : Precision
        Number formats.
    limits : Limits, optional
        Latency limits, request rate, and what all devices may cost or draw.
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
        Ranked deployments, never empty: of the best decode splits the best deployment each.

    Raises
    ------
    NothingFeasibleError
        If no deployment fits and meets the limits; the message names the nearest miss.
    PlanError
        If the request itself makes no sense.
    """
    start = time.perf_counter()
    limits = limits or Limits()
    search = prepared(model, prefill, decode, gpus, workload, precision, limits, link, prices, by, chosen)
    candidates = search.candidates()
    found, tally = search.best(candidates)
    if found is None:
        raise NothingFeasibleError(nearest_miss(search))
    grid, tokens, _ = search.decode.at(found["decode"].astype(int), found["held"][:, None])
    splits = grid.take(np.arange(grid.size))
    ties = [splits.column(name) for name in reversed(SPLIT)]
    order = np.lexsort((*ties, -found["value"]))
    order = order[fewer_stages_first(found["value"][order], splits.pp[order])]
    columns = {name: values[order] for name, values in _columns(search, found, grid, tokens).items()}
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
        search.link,
        (prefill.system.id, decode.system.id),
        tally.searched,
        time.perf_counter() - start,
        tally.infeasible,
        fewest_devices(lambda some: search.within(some).suffices(candidates), gpus) if limits.rate else None,
    )


def _columns(
    search: Search, found: Mapping[str, npt.NDArray[np.float64]], grid: PlanGrid, tokens: Tokens
) -> dict[str, npt.NDArray[np.float64]]:
    """Columns of the chosen deployments: what the search found, both splits, memory and the parts of both steps."""
    pool, prompts, prefill = search.pool, search.prompts, found["prefill"].astype(int)

    def first(values: object) -> npt.NDArray[np.float64]:
        return as_floats(np.broadcast_to(as_floats(values), pool.shape)[prefill])

    def second(values: object) -> npt.NDArray[np.float64]:
        return as_floats(np.broadcast_to(as_floats(values), grid.shape)[:, 0])

    unshown = ("enough", "prefill", "decode", "held", "value")
    columns = {name: values for name, values in found.items() if name not in unshown}
    if len(search.budget.totals) > 1:
        # What a budget keeps out is not idle.
        for name in ("tokens_per_s_per_gpu", "input_tokens_per_s_per_gpu"):
            columns[name] = columns[name] * search.gpus / columns["gpus"]
    columns["idle_gpus"] = search.gpus - columns["gpus"] if len(search.budget.totals) == 1 else 0.0 * columns["gpus"]
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
