"""Experts in host memory: bytes that they free on a device, and seconds that a step waits for those it misses."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.expert_pipelining import cached_picks, missed_experts, offloaded_experts
from perfmodel.errors import PlanError
from perfmodel.estimate.compiled import shard_of
from perfmodel.estimate.serving.host_link import host_rate
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.layers.base import Shard, Step
from perfmodel.layers.moe import MixtureOfExperts
from perfmodel.layers.precision import Precision
from perfmodel.models.block import Block, tensor_bytes
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid

STAGED = 2.0
"""Fetched experts that a device has room for: one that is computed while the next one arrives."""


def _routed(block: Block, shard: Shard, precision: Precision) -> Iterator[tuple[MixtureOfExperts, Floats]]:
    """Layers of routed experts of a block, and their weights on one device [B]."""
    for part in block.parts:
        if isinstance(part, MixtureOfExperts):
            yield part, tensor_bytes((t for t in part.tensors() if t.split == "expert"), shard, precision)


def hosted_bytes(block: Block, shard: Shard, precision: Precision, share: float) -> Floats:
    """Weights of a block that lie in host memory instead of on a device.

    Parameters
    ----------
    block : Block
        The block.
    shard : Shard
        The parallel sizes.
    precision : Precision
        Number formats.
    share : float
        Share of the routed experts [1].

    Returns
    -------
    float or array
        Bytes of one device [B].
    """
    return sum((share * as_floats(nbytes) for _, nbytes in _routed(block, shard, precision)), as_floats(0.0))


def staging_bytes(block: Block, shard: Shard, precision: Precision, share: float) -> Floats:
    """Room on a device for the experts that are fetched.

    Parameters
    ----------
    block : Block
        The block.
    shard : Shard
        The parallel sizes.
    precision : Precision
        Number formats.
    share : float
        Share of the routed experts that lie in host memory [1].

    Returns
    -------
    float or array
        `STAGED` experts, and no more than lie in host memory [B].
    """
    room: Floats = as_floats(0.0)
    for part, nbytes in _routed(block, shard, precision):
        own = part.experts / as_floats(shard.ep)
        room = np.maximum(room, as_floats(nbytes) * np.minimum(STAGED / own, share))
    return room


def expert_fetch(
    model: ModelSpec,
    target: Target,
    grid: PlanGrid,
    workload: Workload,
    precision: Precision,
    step: Step,
    *,
    hiding_s: Floats = 0.0,
) -> npt.NDArray[np.float64]:
    """Time that a step waits for experts from host memory.

    Every device has a link of its own and fetches an even share of the experts that are missed.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        Gives the link to the host, and the skew of the experts' loads.
    grid : PlanGrid
        Plans.
    workload : Workload
        Gives the share of experts in host memory, and the hit rate.
    precision : Precision
        Number formats.
    step : Step
        Sequences and tokens on one rank.
    hiding_s : float or array
        Time of the step behind which fetches hide [s].

    Returns
    -------
    numpy.ndarray
        Time over plans [s].

    Raises
    ------
    PlanError
        If the model has no routed experts, or nobody publishes the device's link to the host.
    """
    if not model.is_moe:
        raise PlanError(f"{model.id} has no routed experts that could lie in host memory")
    bandwidth = host_rate(target, "expert")
    shard = shard_of(grid)
    tokens = step.rows(shard) * as_floats(shard.moe_ranks()) / shard.tp
    missed: Floats = as_floats(0.0)
    for block, count in model.blocks:
        for part, nbytes in _routed(block, shard, precision):
            kept = (1.0 - workload.host_experts) * part.experts
            busiest = cached_picks(kept, part.experts, topk=part.topk, skew=target.engine.expert_skew or 0.0)
            hit = busiest if workload.expert_hit is None else workload.expert_hit
            fetched = missed_experts(tokens * part.topk, part.experts - kept, hit)
            missed = missed + count * as_floats(nbytes) * fetched / part.experts
    return as_floats(offloaded_experts(0.0, missed, 0.0, host_bandwidth=bandwidth, hiding_s=hiding_s))
