"""Ranking of serving plans: the best concurrency of every split that meets the limits, fastest per GPU first."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.costs.economy import token_price
from perfmodel.errors import NothingFeasibleError, PlanError
from perfmodel.estimate.result import Estimate, join_columns
from perfmodel.estimate.serving.open_loop import SPARE_DEVIATIONS
from perfmodel.estimate.serving.predict import predict_serving
from perfmodel.estimate.serving.rules import expert_places
from perfmodel.estimate.serving.steps import workload_footprint
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import KNOBS, PlanGrid, concurrency_ladder, plans, serving_splits
from perfmodel.parallel.rules import joined
from perfmodel.ranking.collectives import collectives_of
from perfmodel.ranking.concurrencies import between_steps
from perfmodel.ranking.limits import Limits, affordable, limit_rules
from perfmodel.ranking.nearest import nearest_miss
from perfmodel.ranking.pareto import pareto_front
from perfmodel.ranking.separate_pools import MOST_REQUESTS
from perfmodel.ranking.ties import fewer_stages_first, plan_at


@dataclass(frozen=True, slots=True)
class Ranking:
    """Ranked plans and why the rest is not among them.

    Parameters
    ----------
    estimate : Estimate
        Every plan that was searched.
    order : numpy.ndarray
        Positions of the best plan of each split, best first.
    gpus : int
        Devices of the whole deployment.
    limits : Limits
        What was asked for.
    searched : int
        Plans evaluated.
    seconds : float
        Time the search took [s].
    infeasible : mapping
        Reason -> number of plans.
    algorithms : callable
        Position of a plan in the grid -> the algorithm of each of its collectives.
    price : float
        Price of one device for one hour, where one was given [USD/h].
    """

    estimate: Estimate
    order: npt.NDArray[np.int64]
    gpus: int
    limits: Limits
    searched: int
    seconds: float
    infeasible: Mapping[str, int] = field(default_factory=dict)
    algorithms: Callable[[int], Mapping[str, str]] = lambda _: {}
    price: float = np.nan

    def __len__(self) -> int:
        return len(self.order)

    def collectives(self, rank: int) -> Mapping[str, str]:
        """Algorithms that the collectives of one ranked plan use.

        Parameters
        ----------
        rank : int
            1 for the best.

        Returns
        -------
        mapping
            For instance "decode all_reduce over tp" -> name of the registered formula.
        """
        return self.algorithms(int(self.order[rank - 1]))

    def front(self) -> "Ranking":
        """Keep the plans that no other beats in both TPOT and rate per GPU, all concurrencies considered.

        Returns
        -------
        Ranking
            The Pareto front, highest rate first.
        """
        known = np.where(self.estimate.feasible, 1.0, np.nan)
        rate = self.estimate["tokens_per_s_per_gpu"]
        return replace(self, order=pareto_front(-rate * known, self.estimate["tpot_s"] * known))

    def fewest_gpus(self, rate: float) -> tuple[int, int] | None:
        """Fewest devices that sustain a request rate, with as many replicas of one plan as that takes.

        Parameters
        ----------
        rate : float
            Requests per second [1/s].

        Returns
        -------
        tuple of int or None
            Devices, and the position of the plan in the grid; None where nothing is feasible.
        """
        each = np.where(self.estimate.feasible, self.estimate["requests_per_s"], np.nan)
        devices = np.broadcast_to(self.estimate.grid.devices, self.estimate.grid.shape).ravel()
        needed = np.ceil(rate / each) * devices
        if not np.isfinite(needed).any():
            return None
        # Of plans with equally many devices the one with the most room to spare.
        best = np.lexsort((-each / devices, needed))[0]
        return int(needed[best]), int(best)

    def row(self, rank: int) -> dict[str, Any]:
        """One ranked plan.

        Parameters
        ----------
        rank : int
            1 for the best.

        Returns
        -------
        dict
            The estimate's row with rank, replicas, gpus and the tokens per second of the whole deployment.
        """
        row = self.estimate.row(plan_at(self.order, rank))
        size = row["tp"] * row["pp"] * row["dp"] * row["cp"]
        replicas = self.gpus // size
        whole = {"deployment_tokens_per_s": row["tokens_per_s"] * replicas}
        if np.isfinite(self.price):
            price = token_price(self.gpus, self.price, whole["deployment_tokens_per_s"])
            whole["usd_per_million_tokens"] = 1e6 * float(price)
        return {"rank": rank, "replicas": replicas, "gpus": self.gpus} | row | whole


def rank_serving(
    model: ModelSpec,
    target: Target,
    gpus: int,
    workload: Workload,
    precision: Precision,
    limits: Limits | None = None,
    *,
    price: float = np.nan,
    chosen: Mapping[str, int] | None = None,
) -> Ranking:
    """Rank every split of a number of devices by output tokens per second and device.

    Each split is taken at the concurrency that gives it the highest rate within the limits: the best of a ladder of
    concurrencies, and then of those between its neighbours (`between_steps`). Where rates are within
    2 % of each other, fewer pipeline stages come first. Ties go to the smaller tp, pp, dp, ep and concurrency, so the
    order does not depend on how the plans were enumerated.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System, kernels and engine.
    gpus : int
        Devices of the deployment: replicas x replica size; under a budget those that it pays for.
    workload : Workload
        Lengths of the requests.
    precision : Precision
        Number formats.
    limits : Limits, optional
        Latency limits, request rate, and what all devices may cost or draw.
    price : float, optional
        Price of one device for one hour; by default none is reckoned with [USD/h].
    chosen : mapping, optional
        Knobs held at one value (tp, pp, dp, ep, moe_tp, concurrency).

    Returns
    -------
    Ranking
        Ranked plans, never empty.

    Raises
    ------
    NothingFeasibleError
        If no plan fits and meets the limits; the message names the nearest miss.
    PlanError
        If the request itself makes no sense.
    """
    start = time.perf_counter()
    limits = limits or Limits()
    held = dict(chosen or {})
    if gpus < 1:
        raise PlanError(f"gpus must be at least 1, not {gpus}")
    if gpus > target.system.max_devices:
        raise PlanError(
            f"{target.system.id} connects at most {target.system.max_devices} devices, and {gpus} are wanted"
        )
    gpus = affordable(target, gpus, limits, price)
    if np.isfinite(limits.ttft_p99_s) and workload.arrivals != "poisson":
        raise PlanError("a limit for 99 % of requests needs Poisson arrivals: a closed loop has no distribution")
    concurrency = held.pop("concurrency", None)
    if concurrency is not None and concurrency < 1:
        raise PlanError(f"concurrency must be a whole number of at least 1, not {concurrency}")
    sizes = model.divisors()
    splits = serving_splits(
        gpus,
        tensor_limit=sizes.get("heads", gpus),
        layers=model.layers,
        experts=max(expert_places(sizes.get("experts", 0), target.engine)),
        chosen=held,
    )

    def estimated(some: PlanGrid, concurrencies: npt.NDArray[np.float64]) -> Estimate:
        knobs = {name: value[..., None] for name, value in some.knobs() if name != "concurrency"}
        found = predict_serving(model, target, plans(**knobs, concurrency=concurrencies), workload, precision)
        return replace(found, verdicts=found.verdicts.and_then(found.grid.shape, limit_rules(found, limits, gpus)))

    if concurrency is not None:
        estimate, split = estimated(splits, np.array([float(concurrency)])), np.arange(splits.size)
    else:
        ladder = concurrency_ladder(_largest_concurrency(model, target, splits, workload, precision))
        estimate = estimated(splits, ladder)
        scores = _scores(estimate)
        best = between_steps(
            lambda some, tried: _scores(estimated(splits.take(some), tried)),
            ladder,
            scores,
            # Ranks share requests evenly, so what is no multiple of them waits for the fullest.
            splits.dp if workload.arrivals == "closed" else 1.0,
        )
        better = np.flatnonzero(best != ladder[scores.argmax(axis=1)])
        split = np.concatenate([np.repeat(np.arange(splits.size), len(ladder)), better])
        if better.size:
            estimate = _joined(estimate, estimated(splits.take(better), best[better, None]))
    if workload.arrivals == "poisson":
        # Of a single concurrency nothing is known of the largest rate.
        used = _utilisation(estimate, split) if concurrency is None else np.full(len(estimate), np.nan)
        estimate = replace(estimate, columns=estimate.columns.plus(utilisation=used))
    order = _best_of_each_split(estimate, split)
    if not len(order):
        raise NothingFeasibleError(nearest_miss(model, target, gpus, workload, precision, limits, estimate))
    return Ranking(
        estimate,
        order,
        gpus,
        limits,
        len(estimate),
        time.perf_counter() - start,
        estimate.verdicts.counts(),
        collectives_of(model, target, estimate.grid, workload, precision),
        price,
    )


def _largest_concurrency(
    model: ModelSpec, target: Target, splits: PlanGrid, workload: Workload, precision: Precision
) -> int:
    """Most requests that any replica can hold, which is where the search for a concurrency ends."""
    footprint = workload_footprint(model, target, splits, workload, precision)
    room = np.broadcast_to(footprint.requests * splits.dp, splits.shape)
    finite = room[np.isfinite(room)]
    return int(np.clip(finite.max() if finite.size else 1.0, 1.0, MOST_REQUESTS))


def _joined(first: Estimate, second: Estimate) -> Estimate:
    """Estimates of one request one after the other."""
    both = (first, second)
    return Estimate(
        plans(**{name: np.concatenate([each.grid.column(name) for each in both]) for name in KNOBS}),
        join_columns([each.columns for each in both]),
        joined([each.verdicts for each in both]),
        first.context,
    )


def _scores(estimate: Estimate) -> npt.NDArray[np.float64]:
    """Rate of each plan, -inf of what breaks a rule.

    Too low a rate, the last of the rules, does not count: what is best may reach it.
    """
    kept = (estimate.verdicts.code == 0) | (estimate.verdicts.code == len(estimate.verdicts.rules))
    return np.where(kept, estimate["tokens_per_s_per_gpu"], -np.inf).reshape(estimate.grid.shape)


def _utilisation(estimate: Estimate, split: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Rate of each plan over the largest that its split sustains at any concurrency that the cache holds."""
    concurrency, rate = estimate.grid.column("concurrency"), estimate["requests_per_s"]
    held = concurrency + SPARE_DEVIATIONS * np.sqrt(concurrency) <= estimate["capacity_requests"]
    most = np.zeros(int(split.max()) + 1)
    np.maximum.at(most, split, np.where(held & np.isfinite(rate), rate, 0.0))
    most = most[split]
    return np.where(most > 0, rate / np.where(most > 0, most, 1.0), np.nan)


def _best_of_each_split(estimate: Estimate, split: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Position of the best feasible plan of each split, best split first; `split` says which one a plan belongs to."""
    found = np.flatnonzero(estimate.feasible)
    rate, concurrency = estimate["tokens_per_s_per_gpu"], estimate.grid.column("concurrency")
    found = found[np.lexsort((concurrency[found], -rate[found], split[found]))]
    positions = found[np.unique(split[found], return_index=True)[1]]
    ties = [estimate.grid.column(name)[positions] for name in reversed(KNOBS)]
    order = positions[np.lexsort((*ties, -rate[positions]))]
    order = order[fewer_stages_first(rate[order], estimate.grid.column("pp")[order])]
    return np.asarray(order, dtype=np.int64)
