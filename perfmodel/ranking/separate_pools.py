"""Pools of separate workers: splits of one, the prefill workers worth having, decode workers at any concurrency."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import as_floats
from perfmodel.errors import NothingFeasibleError, PlanError
from perfmodel.estimate.serving.disaggregated import hand_over
from perfmodel.estimate.serving.open_loop import SPARE_DEVIATIONS
from perfmodel.estimate.serving.pools import (
    Link,
    Prompts,
    Tokens,
    prompt_footprint,
    prompt_work,
    token_footprint,
    token_work,
)
from perfmodel.estimate.serving.rules import expert_places, serving_rules
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.hardware.engine import Engine
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import KNOBS, PlanGrid, concurrency_ladder, plans
from perfmodel.parallel.rules import Rule, judge
from perfmodel.ranking.limits import Limits
from perfmodel.units import format_time

MOST_REQUESTS = 8192
"""Largest concurrency of one replica or worker that is searched."""

SPLIT = tuple(name for name in KNOBS if name != "concurrency")
"""Knobs of one worker."""


def worker_splits(model: ModelSpec, engine: Engine, most: int, chosen: Mapping[str, int]) -> PlanGrid:
    """Splits of one worker into whole pieces of the model, whatever the number of devices that they take.

    Parameters
    ----------
    model : ModelSpec
        Model.
    engine : Engine
        Serving software: its copies of experts widen the groups they can be spread over.
    most : int
        Devices of a worker at most.
    chosen : mapping
        Knobs held at one value.

    Returns
    -------
    PlanGrid
        One-dimensional: tp among the heads, ep among the experts and their copies, moe_tp up to 8 or a power of two,
        and of numbers of pipeline stages whose longest holds as many layers the smallest, and powers of two.

    Raises
    ------
    PlanError
        If no worker has the chosen values.
    """
    sizes, layers = model.divisors(), model.layers
    heads, experts = sizes.get("heads", 0), sizes.get("experts", 0)
    kv_heads = sizes.get("kv_heads", heads)
    widths = [tp for tp in _divisors(heads, most) if not heads or kv_heads % tp == 0 or tp % kv_heads == 0]
    even = {-(-layers // -(-layers // pp)) for pp in range(1, layers + 1)}
    depths = sorted({pp for pp in even | {2**i for i in range(12)} | {chosen.get("pp", 1)} if pp <= min(layers, most)})
    groups = [(1, 1)]
    if experts:
        places = {ep for count in expert_places(experts, engine) for ep in _divisors(count, most)}
        parts = [n for n in _divisors(sizes["expert_intermediate"], most) if n <= 8 or n & (n - 1) == 0]
        parts = sorted({*parts, chosen.get("moe_tp", 1)})
        groups = [(ep, part) for ep in sorted(places) for part in parts if ep * part <= most]
    names = ("tp", "pp", "dp", "ep", "moe_tp")
    rows = [
        (tp, pp, ep * part // tp if experts else 1, ep, part)
        for ep, part in groups
        for tp in widths
        if not experts or ep * part % tp == 0
        for pp in depths
        if (ep * part if experts else tp) * pp <= most
    ]
    rows = [
        row for row in rows if all(chosen.get(name, value) == value for name, value in zip(names, row, strict=True))
    ]
    if not rows or chosen.get("cp", 1) != 1:
        held = ", ".join(f"{k}={v}" for k, v in chosen.items())
        raise PlanError(f"no worker of at most {most} devices has {held}")
    table = np.array(sorted(rows), dtype=np.float64)
    return plans(**{name: table[:, i] for i, name in enumerate(names)})


def _divisors(number: int, most: int) -> list[int]:
    """Divisors of a number that are no larger than the most; powers of two where there is nothing to divide."""
    if not number:
        return [2**i for i in range(most.bit_length())]
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def prefill_pool(
    model: ModelSpec, target: Target, splits: PlanGrid, workload: Workload, precision: Precision, link: Link
) -> tuple[PlanGrid, Prompts]:
    """Prefill workers worth having: on as many devices no others do as much in no more time.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        What they run on.
    splits : PlanGrid
        Splits of one worker.
    workload : Workload
        Lengths of the requests.
    precision : Precision
        Number formats.
    link : Link
        What the cache crosses.

    Returns
    -------
    tuple
        The splits that are worth having, and what one such worker does.

    Raises
    ------
    NothingFeasibleError
        If no worker holds the model.
    """
    grid = plans(**{name: getattr(splits, name) for name in SPLIT}, concurrency=splits.dp)
    footprint = prompt_footprint(model, target, grid, workload, precision)
    verdicts = judge(grid.shape, serving_rules(model, target, grid, footprint))
    if not verdicts.feasible.any():
        reason, _ = next(iter(verdicts.counts().items()))
        raise NothingFeasibleError(
            f"no prefill worker of at most {int(grid.devices.max())} GPUs fits: {reason}. Ask for more GPUs."
        )
    grid = grid.take(verdicts.feasible)
    prompts = prompt_work(model, target, grid, workload, precision)
    seconds, rate = (np.broadcast_to(as_floats(v), grid.shape) for v in (prompts.step.seconds, prompts.rate))
    # Whatever a decode worker receives, the cache is there after a time between these two.
    times = [seconds, seconds + hand_over(model, seconds, prompts.sent_bytes, link)]
    if workload.arrivals == "poisson":
        # Of equal rates few fast ranks make for a shorter queue than many slow ones.
        times.append(grid.dp / rate)
    few = grid.take(_worth_having(grid.devices, rate, *times))
    return few, prompt_work(model, target, few, workload, precision)


def _worth_having(
    devices: npt.NDArray[np.float64], rate: npt.NDArray[np.float64], *times: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Workers in whose place no whole number of others on as many devices does as much in no more time."""
    order = np.lexsort((-rate, *times, devices))
    devices, rate = devices[order], rate[order]
    copies = np.floor(devices / devices[:, None])
    beaten = (copies >= 1.0) & (copies * rate[:, None] >= rate)
    for each in times:
        beaten &= each[order][:, None] <= each[order]
    # Of equals the first stays.
    worth: npt.NDArray[np.bool_] = np.logical_not(np.triu(beaten, 1).any(axis=0))
    return worth[np.argsort(order)]


@dataclass(frozen=True, slots=True, eq=False)
class DecodePool:
    """Decode workers that hold the model and a request, and what they do at any concurrency.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        What they run on.
    workload : Workload
        Lengths of the requests.
    precision : Precision
        Number formats.
    limits : Limits
        Latency limits.
    splits : PlanGrid
        Splits of one worker.
    ladder : numpy.ndarray
        Concurrencies that are tried on all of them.
    refused : mapping
        Reason -> splits that hold no request.
    """

    model: ModelSpec
    target: Target
    workload: Workload
    precision: Precision
    limits: Limits
    splits: PlanGrid
    ladder: npt.NDArray[np.float64]
    refused: Mapping[str, int]

    def at(
        self, some: npt.NDArray[np.int64], concurrencies: npt.NDArray[np.float64]
    ) -> tuple[PlanGrid, Tokens, tuple[Rule, ...]]:
        """Time some of the workers.

        Parameters
        ----------
        some : numpy.ndarray
            Positions of splits.
        concurrencies : numpy.ndarray
            Requests in flight on one worker: the same for all splits, or a row for each.

        Returns
        -------
        tuple
            Splits by concurrency, what one such worker does, and what rules it out.
        """
        splits = self.splits.take(some)
        grid = plans(**{name: getattr(splits, name)[:, None] for name in SPLIT}, concurrency=concurrencies)
        per_rank = np.ceil(grid.concurrency / grid.dp)
        tokens = token_work(self.model, self.target, grid, self.workload, self.precision, per_rank=per_rank)
        return grid, tokens, self._rules(grid, tokens)

    def _rules(self, grid: PlanGrid, tokens: Tokens) -> tuple[Rule, ...]:
        held, tpot_s = grid.concurrency, self.limits.tpot_s
        if self.workload.arrivals == "poisson":
            # A number that swings about its mean; the cache holds it 99 % of the time.
            held = np.ceil(held + SPARE_DEVIATIONS * np.sqrt(held))
        return (
            *serving_rules(self.model, self.target, grid, tokens.footprint),
            Rule(
                "KV cache exceeds memory",
                np.broadcast_to(held > as_floats(tokens.places) * grid.dp, grid.shape),
                lambda _: "the KV cache exceeds memory",
            ),
            Rule(
                f"TPOT above {format_time(tpot_s)}" if np.isfinite(tpot_s) else "TPOT",
                np.broadcast_to(as_floats(tokens.token_s) > tpot_s, grid.shape),
                lambda _: f"TPOT is above {format_time(tpot_s)}",
            ),
        )


def decode_pool(
    model: ModelSpec, target: Target, splits: PlanGrid, workload: Workload, precision: Precision, limits: Limits
) -> DecodePool:
    """Decode workers that hold the model and a request.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        What they run on.
    splits : PlanGrid
        Splits of one worker.
    workload : Workload
        Lengths of the requests.
    precision : Precision
        Number formats.
    limits : Limits
        Latency limits.

    Returns
    -------
    DecodePool
        The workers.

    Raises
    ------
    NothingFeasibleError
        If none holds a request.
    """
    splits = plans(**{name: getattr(splits, name) for name in SPLIT}, concurrency=splits.dp)
    room = token_footprint(model, target, splits, workload, precision, per_rank=1.0)
    verdicts = judge(splits.shape, serving_rules(model, target, splits, room))
    if not verdicts.feasible.any():
        reason, _ = next(iter(verdicts.counts().items()))
        raise NothingFeasibleError(
            f"no decode worker of at most {int(splits.devices.max())} GPUs fits: {reason}. Ask for more GPUs."
        )
    held = np.broadcast_to(as_floats(room.requests) * splits.dp, splits.shape)[verdicts.feasible]
    ladder = concurrency_ladder(int(np.clip(np.max(held), 1.0, MOST_REQUESTS)))
    splits = splits.take(verdicts.feasible)
    return DecodePool(model, target, workload, precision, limits, splits, ladder, verdicts.counts())
