"""Workers of disaggregated serving: what one prefill worker does with prompts, and one decode worker with tokens."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.estimate.compiled import shard_of
from perfmodel.estimate.serving.drafting import drafting_factor
from perfmodel.estimate.serving.footprint import Footprint, serving_footprint
from perfmodel.estimate.serving.host_experts import expert_fetch
from perfmodel.estimate.serving.host_link import host_fetch
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.split_steps import one_step
from perfmodel.estimate.step import stage_imbalance
from perfmodel.estimate.target import Target
from perfmodel.estimate.timed_step import StepTime, fetching, launched_ahead
from perfmodel.layers.base import Step
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Workers of one kind.

    Parameters
    ----------
    target : Target
        What one worker runs on.
    grid : PlanGrid
        How one worker is split; its concurrency is not read.
    workers : numpy.ndarray
        Number of workers.
    batch : numpy.ndarray
        Most requests of one attention-data-parallel rank; infinite for as many as memory holds.
    """

    target: Target
    grid: PlanGrid
    workers: npt.NDArray[np.float64]
    batch: npt.NDArray[np.float64]

    @property
    def ranks(self) -> npt.NDArray[np.float64]:
        """Attention-data-parallel ranks of all workers."""
        return self.workers * self.grid.dp


@dataclass(frozen=True, slots=True)
class Link:
    """What a prompt's cache crosses on its way to a decode worker.

    Parameters
    ----------
    name : str
        For instance "infiniband".
    bandwidth : float
        One-way, per device [B/s].
    latency_s : float
        Time to start a transfer [s].
    layerwise : bool
        Whether each layer's cache is sent while the next layer is computed, and not all of it at the end.
    """

    name: str
    bandwidth: float
    latency_s: float
    layerwise: bool = False


def outermost(target: Target, *, layerwise: bool = False) -> Link:
    """Link that any two workers of a system share: its outermost tier.

    Parameters
    ----------
    target : Target
        System.
    layerwise : bool
        As in `Link`.

    Returns
    -------
    Link
        The tier at its bandwidth through the core.
    """
    tier = target.system.tiers[-1]
    return Link(tier.name, tier.bandwidth / tier.oversubscription, tier.latency_s, layerwise)


@dataclass(frozen=True, slots=True)
class Prompts:
    """What one prefill worker does with prompts.

    Parameters
    ----------
    step : StepTime
        One prompt alone.
    rate : float or array
        Prompts per second of one worker at full load [1/s].
    sent_bytes : float or array
        Cache of one prompt that one device sends [B].
    """

    step: StepTime
    rate: Floats
    sent_bytes: Floats


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one decode worker does with tokens.

    Parameters
    ----------
    step : StepTime
        One decode step of the requests that run.
    token_s : float or array
        Time per output token: the longest stage, drafting included [s].
    stream_s : float or array
        Time from a token's step to the moment when it is seen [s].
    places : float or array
        Requests that one attention-data-parallel rank holds.
    received_bytes : float or array
        Cache of one prompt that one device receives [B].
    footprint : Footprint
        Memory of the fullest device.
    """

    step: StepTime
    token_s: Floats
    stream_s: Floats
    places: Floats
    received_bytes: Floats
    footprint: Footprint


def prompt_footprint(
    model: ModelSpec, target: Target, grid: PlanGrid, workload: Workload, precision: Precision
) -> Footprint:
    """Weigh a prefill worker while it computes one prompt on each of its ranks.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        What the worker runs on.
    grid : PlanGrid
        How it is split; its concurrency is not read.
    workload : Workload
        Lengths.
    precision : Precision
        Number formats.

    Returns
    -------
    Footprint
        Memory of the fullest device.
    """
    return serving_footprint(
        model,
        target,
        grid,
        precision,
        context=as_floats(workload.isl),
        requests=as_floats(1.0),
        step_tokens=np.minimum(as_floats(workload.new_tokens), target.engine.step_tokens),
        host_experts=workload.host_experts,
    )


def token_footprint(
    model: ModelSpec, target: Target, grid: PlanGrid, workload: Workload, precision: Precision, *, per_rank: Floats
) -> Footprint:
    """Weigh a decode worker with the caches that it holds.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        What the worker runs on.
    grid : PlanGrid
        How it is split; its concurrency is not read.
    workload : Workload
        Lengths.
    precision : Precision
        Number formats.
    per_rank : float or array
        Requests in flight for each attention-data-parallel rank.

    Returns
    -------
    Footprint
        Memory of the fullest device.
    """
    return serving_footprint(
        model,
        target,
        grid,
        precision,
        context=workload.stored_tokens + target.engine.reserved_output * as_floats(workload.osl),
        requests=as_floats(per_rank),
        step_tokens=as_floats(1.0),
        host_experts=workload.host_experts,
    )


def prompt_work(model: ModelSpec, target: Target, grid: PlanGrid, workload: Workload, precision: Precision) -> Prompts:
    """Time the prompts of one prefill worker.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        What the worker runs on.
    grid : PlanGrid
        How it is split; its concurrency is not read.
    workload : Workload
        Lengths.
    precision : Precision
        Number formats.

    Returns
    -------
    Prompts
        Arrays over the plans.
    """
    isl, fresh = as_floats(workload.isl), as_floats(workload.new_tokens)
    # At full load prompts wait for one another, and a step takes as many as it may.
    together = np.maximum(np.floor(target.engine.step_tokens / fresh), 1.0)
    wanted = [Step(sequences, fresh, isl, decode=False) for sequences in (as_floats(1.0), together)]
    alone, shared = (one_step(model, target, grid, step, precision) for step in wanted)
    # Nothing else runs on a prefill worker, so its host has only the prompt's own kernels to launch.
    alone = launched_ahead(alone)
    if workload.host_experts:
        # Which experts a prompt needs is known, nearly all of them, so they come while it is computed.
        alone, shared = (
            fetching(timed, expert_fetch(model, target, grid, workload, precision, step, hiding_s=timed.seconds))
            for timed, step in zip((alone, shared), wanted, strict=True)
        )
    # While the device computes one batch of prompts, the host launches the next; the longest stage holds up the others.
    busy_s = (shared.seconds - shared.over_plans("host_s")) * stage_imbalance(model.layers, grid.pp)
    rate = grid.dp * grid.pp * together / busy_s
    if workload.host_hit:
        link_s, seen_s = host_fetch(model, target, grid, workload, precision, alone.seconds)
        alone, rate = fetching(alone, seen_s), np.minimum(rate, grid.dp / link_s)
    return Prompts(alone, rate, as_floats(model.cache_bytes(isl, shard_of(grid), precision)) / grid.pp)


def token_work(
    model: ModelSpec,
    target: Target,
    grid: PlanGrid,
    workload: Workload,
    precision: Precision,
    *,
    per_rank: Floats,
    batch: Floats = np.inf,
) -> Tokens:
    """Time the tokens of one decode worker.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        What the worker runs on.
    grid : PlanGrid
        How it is split; its concurrency is not read.
    workload : Workload
        Lengths and drafting.
    precision : Precision
        Number formats.
    per_rank : float or array
        Requests in flight for each attention-data-parallel rank.
    batch : float or array
        Most requests that a rank is set up for; infinite for as many as memory holds.

    Returns
    -------
    Tokens
        Arrays over the plans.
    """
    isl, osl = as_floats(workload.isl), as_floats(workload.osl)
    footprint = token_footprint(model, target, grid, workload, precision, per_rank=per_rank)
    # A stated batch is one that the workers were set up for; memory only limits those whose batch is open.
    places = np.maximum(np.where(np.isfinite(batch), batch, footprint.requests), 1.0)
    running = np.minimum(per_rank, places)
    verified = Step(np.ceil(running / grid.pp), as_floats(workload.draft_tokens + 1.0), isl + osl / 2.0, decode=True)
    step = one_step(model, target, grid, verified, precision)
    if workload.host_experts:
        step = fetching(step, expert_fetch(model, target, grid, workload, precision, verified))
    drafting = drafting_factor(model, target, grid, workload, verified, precision) / workload.tokens_per_step
    token_s = as_floats(step.seconds) * stage_imbalance(model.layers, grid.pp) * drafting
    return Tokens(
        step,
        token_s,
        target.engine.stream_steps * token_s,
        places,
        as_floats(model.cache_bytes(isl, shard_of(grid), precision)) / grid.pp,
        footprint,
    )
