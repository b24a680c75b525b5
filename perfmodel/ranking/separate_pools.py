"""Pools of separate workers: the prefill workers worth having, and decode workers at every concurrency."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import as_floats
from perfmodel.errors import NothingFeasibleError, PlanError
from perfmodel.estimate.serving.footprint import serving_footprint
from perfmodel.estimate.serving.open_loop import SPARE_DEVIATIONS
from perfmodel.estimate.serving.pools import Prompts, Tokens, prompt_work, token_work
from perfmodel.estimate.serving.rules import expert_places, serving_rules
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.hardware.engine import Engine
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import KNOBS, PlanGrid, concurrency_ladder, plans, serving_splits
from perfmodel.parallel.rules import Rule, judge
from perfmodel.ranking.concurrencies import between_steps
from perfmodel.ranking.limits import Limits
from perfmodel.ranking.pareto import pareto_front
from perfmodel.units import format_time

MOST_REQUESTS = 8192
"""Largest concurrency of one replica or worker that is searched."""

SPLIT = tuple(name for name in KNOBS if name != "concurrency")
"""Knobs of one worker."""


def worker_splits(model: ModelSpec, engine: Engine, most: int, chosen: Mapping[str, int]) -> PlanGrid:
    """Splits of one worker: those of the largest power of two, and those of the whole number of devices.

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
        One-dimensional.

    Raises
    ------
    PlanError
        If no worker has the chosen values.
    """
    sizes = model.divisors()
    tables = []
    for devices in sorted({2 ** int(np.log2(most)), most}):
        try:
            grid = serving_splits(
                devices,
                tensor_limit=sizes.get("heads", devices),
                layers=model.layers,
                experts=max(expert_places(sizes.get("experts", 0), engine)),
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


def prefill_pool(
    model: ModelSpec, target: Target, splits: PlanGrid, workload: Workload, precision: Precision
) -> tuple[PlanGrid, Prompts]:
    """Prefill workers worth having: none is beaten in latency, devices per prompt rate and size at once.

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


def decode_pool(
    model: ModelSpec,
    target: Target,
    splits: PlanGrid,
    workload: Workload,
    precision: Precision,
    limits: Limits,
) -> tuple[PlanGrid, Tokens, tuple[Rule, ...]]:
    """Decode workers at every concurrency, and what rules them out.

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
    tuple
        Splits by concurrency, what one such worker does, and rules over the mesh of `balance`.
    """
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

    def workers(some: PlanGrid, concurrencies: npt.NDArray[np.float64]) -> tuple[PlanGrid, Tokens, tuple[Rule, ...]]:
        grid = plans(**{name: getattr(some, name)[:, None] for name in SPLIT}, concurrency=concurrencies)
        tokens = token_work(model, target, grid, workload, precision, per_rank=np.ceil(grid.concurrency / grid.dp))
        return grid, tokens, _decode_rules(model, target, grid, workload, tokens, limits)

    def scores(some: PlanGrid, concurrencies: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        grid, _, rules = workers(some, concurrencies)
        return np.where(judge(grid.shape, rules).feasible.reshape(grid.shape), grid.concurrency, -np.inf)

    # The most requests within the limits are tried too, where the ladder steps over them.
    most_held = between_steps(
        lambda some, tried: scores(splits.take(some), tried), ladder, scores(splits, ladder), splits.dp
    )
    every = np.concatenate([np.broadcast_to(ladder, (splits.size, ladder.size)), most_held[:, None]], axis=1)
    grid, tokens, rules = workers(splits, every)
    # On the mesh of deployments: prefill split, decode split, concurrency, number of workers.
    shape = grid.shape
    spread = tuple(
        Rule(rule.category, np.broadcast_to(rule.broken, shape)[None, :, :, None], rule.describe) for rule in rules
    )
    return grid, tokens, spread


def _decode_rules(
    model: ModelSpec, target: Target, grid: PlanGrid, workload: Workload, tokens: Tokens, limits: Limits
) -> tuple[Rule, ...]:
    """What rules out a decode worker."""
    held = grid.concurrency
    if workload.arrivals == "poisson":
        # A number that swings about its mean; the cache holds it 99 % of the time.
        held = np.ceil(held + SPARE_DEVIATIONS * np.sqrt(held))
    return (
        *serving_rules(model, target, grid, tokens.footprint),
        Rule(
            "KV cache exceeds memory",
            np.broadcast_to(held > as_floats(tokens.places) * grid.dp, grid.shape),
            lambda _: "the KV cache exceeds memory",
        ),
        Rule(
            f"TPOT above {format_time(limits.tpot_s)}" if np.isfinite(limits.tpot_s) else "TPOT",
            np.broadcast_to(as_floats(tokens.token_s) > limits.tpot_s, grid.shape),
            lambda _: f"TPOT is above {format_time(limits.tpot_s)}",
        ),
    )
