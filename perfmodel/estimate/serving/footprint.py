"""Bytes on the fullest device: weights, KV cache, activations, communication buffers and the framework."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perfmodel.arrays import Array, Floats, as_floats, in_rows, stacked
from perfmodel.costs.formats import get_format
from perfmodel.estimate.arrangement import block_bytes
from perfmodel.estimate.compiled import KNOBS, compile_model, shard_of
from perfmodel.estimate.serving.host_experts import hosted_bytes, staging_bytes
from perfmodel.estimate.target import Target
from perfmodel.layers.base import Shard
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.distinct import distinct
from perfmodel.parallel.grid import PlanGrid
from perfmodel.programs import repeated
from perfmodel.recording import FEW

_PARTS = ("cache_per_request", "weights", "working", "buffers")

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
    model: ModelSpec,
    per_block: Sequence[Floats],
    first: Floats,
    last: Floats,
    stages: Array,
    occurring: Iterable[float],
) -> Floats:
    """Most that one pipeline stage holds; `first` and `last` are what only the first and the last stage hold.

    Plans with more stages than layers, which rules refuse, are given the model undivided.
    """
    result: Floats = as_floats(np.nan)
    for p in occurring:
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
    found = distinct({name: getattr(grid, name) for name in KNOBS} | {"context": context, "step_tokens": step_tokens})
    stages = tuple(sorted(set(found.columns["pp"].tolist())))

    def calculate(inputs: Sequence[Array]) -> list[dict[str, Floats]]:
        columns = dict(zip(found.columns, inputs, strict=True))
        return [_without_requests(model, target, precision, columns, stages, host_experts)]

    compiled = compile_model(model, target, precision)
    inputs = list(found.columns.values())
    if found.rows <= FEW:
        (parts,) = repeated(compiled.programs, ("footprint", stages, host_experts), calculate, inputs)
    else:
        (parts,) = calculate(inputs)
    per_request, weights, working, buffers = (in_rows(parts[name], found.rows)[found.where] for name in _PARTS)
    logits = as_floats(requests) * np.ceil(model.vocab / as_floats(grid.tp)) * 4.0
    engine = target.engine
    total = target.device.memory_bytes
    capacity: Floats = as_floats(total * engine.memory_fraction)
    activations = working + logits
    fixed = weights + activations + buffers + engine.framework_bytes
    if engine.fraction_of_free:
        capacity = np.where(fixed < total, fixed + engine.memory_fraction * (total - fixed), total)
    return Footprint(
        weights=weights,
        cache_per_request=per_request,
        cache=per_request * np.ceil(as_floats(requests)),
        activations=activations,
        buffers=buffers,
        framework=as_floats(engine.framework_bytes),
        capacity=capacity,
        fixed=fixed,
        requests=np.maximum(np.floor((as_floats(capacity) - fixed) / per_request), 0.0),
    )


def _without_requests(
    model: ModelSpec,
    target: Target,
    precision: Precision,
    columns: Mapping[str, Array],
    stages: Sequence[float],
    host_experts: float,
) -> dict[str, Floats]:
    """Parts of the footprint that do not depend on the requests in flight, `_PARTS`, per row of the columns."""
    split = PlanGrid(**{name: columns[name] for name in KNOBS}, concurrency=as_floats(1.0))
    shard = shard_of(split)
    blocks = [block for block, _ in model.blocks]
    head = np.where(split.pp > 1, model.head_bytes(shard, precision, separate=True), model.head_bytes(shard, precision))
    table = model.embedding_bytes(shard, precision)
    stored = [
        block_bytes(block, shard, precision, target.engine) - hosted_bytes(block, shard, precision, host_experts)
        for block in blocks
    ]
    cached = [block.cache_bytes(columns["context"], shard, precision) for block in blocks]
    rows = columns["step_tokens"] / split.cp
    width = get_format(precision.activations).activation_bytes
    residual = _RESIDUAL_COPIES * rows * model.hidden * width
    buffers = np.where(split.devices > 1, 2.0 * rows * model.hidden * width, 0.0)
    if host_experts:
        staged = stacked([staging_bytes(block, shard, precision, host_experts) for block in blocks])
        buffers = buffers + staged.max(axis=0)
    values = (
        _fullest_stage(model, cached, 0.0, 0.0, split.pp, stages),
        _fullest_stage(model, stored, table, head, split.pp, stages),
        residual + rows * _widest(model, shard) * width,
        buffers,
    )
    return dict(zip(_PARTS, values, strict=True))
