"""Bytes on the fullest device: weights, KV cache, activations, communication buffers and the framework."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.formats import get_format
from perfmodel.estimate.arrangement import block_bytes
from perfmodel.estimate.compiled import shard_of
from perfmodel.estimate.serving.host_experts import hosted_bytes, staging_bytes
from perfmodel.estimate.target import Target
from perfmodel.layers.base import Shard
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.distinct import distinct
from perfmodel.parallel.grid import PlanGrid

_RESIDUAL_COPIES = 4.0  # residual stream, normalised input, attention and MLP output of one layer


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of the fullest device and its parts.

    Parameters
    ----------
    weights : float or array
        Weights of the fullest pipeline stage [B].
    cache_per_request : float or array
        KV cache and recurrent state of one request on the fullest stage [B].
    cache : float or array
        The same for all requests of the rank [B].
    activations : float or array
        Working memory of a prefill step [B].
    buffers : float or array
        Communication buffers, and room for experts that are fetched from the host [B].
    framework : float or array
        Runtime context, libraries and captured graphs [B].
    capacity : float or array
        Memory that the engine may fill [B].
    fixed : float or array
        Everything but the cache [B].
    requests : float or array
        Requests of one attention-data-parallel rank whose cache fits beside everything else.
    """

    weights: Floats
    cache_per_request: Floats
    cache: Floats
    activations: Floats
    buffers: Floats
    framework: Floats
    capacity: Floats
    fixed: Floats
    requests: Floats

    @property
    def total(self) -> Floats:
        """Sum of the parts [B]."""
        return as_floats(self.fixed) + self.cache


def _fullest_stage(
    model: ModelSpec, per_block: list[Floats], first: Floats, last: Floats, stages: npt.NDArray[np.float64]
) -> Floats:
    """Most that one pipeline stage holds; `first` and `last` are what only the first and the last stage hold.

    Plans with more stages than layers, which rules refuse, are given the model undivided.
    """
    result: Floats = as_floats(np.nan)
    for p in sorted(set(stages.ravel().tolist())):
        layout = model.stages(int(p) if p <= model.layers else 1)
        end = len(layout) - 1
        most: Floats = as_floats(0.0)
        # Of stages that are alike one is enough.
        for counts, is_first, is_last in dict.fromkeys((c, i == 0, i == end) for i, c in enumerate(layout)):
            held: Floats = as_floats(0.0)
            for count, amount in zip(counts, per_block, strict=True):
                if count:
                    held = held + count * as_floats(amount)
            most = np.maximum(most, held + (first if is_first else 0.0) + (last if is_last else 0.0))
        result = np.where(stages == p, most, result)
    return result


def _widest(model: ModelSpec, shard: Shard) -> Floats:
    """Widest activation inside a layer on one device: the gated pair of the MLP, or queries, keys and values."""
    sizes = model.divisors()
    return 2.0 * np.ceil(max(sizes.get("intermediate", 0), 2 * model.hidden) / as_floats(shard.tp))


def serving_footprint(
    model: ModelSpec,
    target: Target,
    grid: PlanGrid,
    precision: Precision,
    *,
    context: Floats,
    requests: Floats,
    step_tokens: Floats,
    host_experts: float = 0.0,
) -> Footprint:
    r"""Memory of the fullest device of a serving replica.

    Cache is reserved for the whole length of every request in flight. Working memory is that of the largest prefill
    step: a few copies of the residual stream, the widest intermediate activation and the logits.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System and engine.
    grid : PlanGrid
        Plans.
    precision : Precision
        Number formats.
    context : float or array
        Longest length of a request, input and output together.
    requests : float or array
        Requests in flight on one attention-data-parallel rank.
    step_tokens : float or array
        Tokens of the largest prefill step on one rank.
    host_experts : float
        Share of the routed experts that lie in host memory [1].

    Returns
    -------
    Footprint
        Bytes on the fullest device.
    """
    # Most plans differ in nothing but the requests in flight.
    names = ("tp", "pp", "dp", "cp", "ep", "moe_tp")
    found = distinct({name: getattr(grid, name) for name in names} | {"context": context, "step_tokens": step_tokens})
    split = PlanGrid(**{name: found.columns[name] for name in names}, concurrency=as_floats(1.0))
    shard = shard_of(split)
    blocks = [block for block, _ in model.blocks]
    head = np.where(split.pp > 1, model.head_bytes(shard, precision, separate=True), model.head_bytes(shard, precision))
    table = model.embedding_bytes(shard, precision)
    weights = _fullest_stage(
        model,
        [
            block_bytes(block, shard, precision, target.engine) - hosted_bytes(block, shard, precision, host_experts)
            for block in blocks
        ],
        table,
        head,
        split.pp,
    )
    held = [b.cache_bytes(found.columns["context"], shard, precision) for b in blocks]
    rows = found.columns["step_tokens"] / split.cp
    width = get_format(precision.activations).activation_bytes
    residual = _RESIDUAL_COPIES * rows * model.hidden * width
    wide = rows * _widest(model, shard) * width
    buffers = np.where(split.devices > 1, 2.0 * rows * model.hidden * width, 0.0)
    if host_experts:
        staged = [staging_bytes(block, shard, precision, host_experts) for block in blocks]
        buffers = buffers + np.max(np.broadcast_arrays(*staged), axis=0)

    def spread(value: Floats) -> Floats:
        every = as_floats(value)
        return (every if every.shape == (found.rows,) else np.broadcast_to(every, (found.rows,)))[found.where]

    per_request = spread(_fullest_stage(model, held, 0.0, 0.0, split.pp))
    logits = as_floats(requests) * np.ceil(model.vocab / as_floats(grid.tp)) * 4.0
    engine = target.engine
    total = target.device.memory_bytes
    capacity: Floats = as_floats(total * engine.memory_fraction)
    if engine.fraction_of_free:
        taken = spread(weights + residual + wide) + logits + spread(buffers) + engine.framework_bytes
        capacity = np.where(taken < total, taken + engine.memory_fraction * (total - taken), total)
    activations = spread(residual + wide) + logits
    fixed = spread(weights) + activations + spread(buffers) + engine.framework_bytes
    return Footprint(
        weights=spread(weights),
        cache_per_request=per_request,
        cache=per_request * np.ceil(as_floats(requests)),
        activations=activations,
        buffers=spread(buffers),
        framework=as_floats(engine.framework_bytes),
        capacity=capacity,
        fixed=fixed,
        requests=np.maximum(np.floor((as_floats(capacity) - fixed) / per_request), 0.0),
    )
