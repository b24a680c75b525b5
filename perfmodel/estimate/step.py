"""Seconds of one forward step of a whole model, summed over blocks and operators, for many plans at once."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.compute import overlapped
from perfmodel.estimate.communication import time_collective
from perfmodel.estimate.target import Target
from perfmodel.estimate.timing import OperatorTime, time_operator
from perfmodel.layers.base import Shard, Step, activation_bytes
from perfmodel.layers.operators import Collective, Operator
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid

RESOURCES = ("compute", "memory", "network", "latency", "host")
"""What time is charged to, in the order of the arrays below."""


@dataclass(frozen=True, slots=True)
class Line:
    """One operator of a step, kept for the derivation.

    Parameters
    ----------
    block : str
        Block of the model.
    repeat : float
        How often the block occurs.
    operator : Operator
        The operator with its sizes.
    time : OperatorTime
        Its time in one occurrence of the block.
    """

    block: str
    repeat: float
    operator: Operator
    time: OperatorTime


@dataclass(frozen=True, slots=True)
class StepTime:
    """Time of one step and its parts.

    Parameters
    ----------
    seconds : float or array
        The step: device and exposed network time, host time [s].
    parts : tuple of float or array
        Seconds charged to each of `RESOURCES`; they add up to `seconds` [s].
    lower_s : float or array
        Bound: the busiest resource at its exact rate, everything else hidden behind it [s].
    upper_s : float or array
        Everything one after the other, nothing hidden [s].
    basis : dict
        measured, default, datasheet -> seconds that rest on it [s].
    lines : tuple of Line
        Every operator, where they were asked for.
    """

    seconds: Floats
    parts: tuple[Floats, ...]
    lower_s: Floats
    upper_s: Floats
    basis: dict[str, Floats] = field(default_factory=dict)
    lines: tuple[Line, ...] = ()

    def bound(self) -> npt.NDArray[np.int64]:
        """Position in `RESOURCES` of what most of the time is charged to."""
        return np.asarray(np.argmax(np.stack(np.broadcast_arrays(*map(as_floats, self.parts))), axis=0), dtype=np.int64)


def shard_of(grid: PlanGrid) -> Shard:
    """Take the sizes that divide layers out of a grid.

    Parameters
    ----------
    grid : PlanGrid
        Plans.

    Returns
    -------
    Shard
        tp, dp, cp, ep and moe_tp.
    """
    return Shard(grid.tp, grid.dp, grid.cp, grid.ep, grid.moe_tp)


def stage_imbalance(layers: int, stages: Floats) -> Floats:
    r"""How much longer the longest pipeline stage is than the mean one.

    .. math:: \lceil L / p \rceil \, p / L

    Parameters
    ----------
    layers : int
        Layers L.
    stages : float or array
        Pipeline stages p.

    Returns
    -------
    float or array
        Factor, 1 where the stages are equal [1].

    Examples
    --------
    >>> float(stage_imbalance(61, 2.0)) > 1.0, float(stage_imbalance(80, 4.0))
    (True, 1.0)
    """
    p = as_floats(stages)
    return np.ceil(layers / p) * p / layers


def step_time(
    model: ModelSpec,
    target: Target,
    grid: PlanGrid,
    step: Step,
    precision: Precision,
    *,
    keep_lines: bool = False,
) -> StepTime:
    """Time one forward step through all layers, one pipeline stage after the other.

    Every operator of every block is timed on the smallest arrays that it depends on, multiplied by how often its
    block occurs, and charged to the resource that binds it. Collectives hide behind computation by the engine's
    overlap.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System, kernels and engine.
    grid : PlanGrid
        Plans.
    step : Step
        Sequences and lengths on one attention-data-parallel rank; arrays broadcast against the plans.
    precision : Precision
        Number formats.
    keep_lines : bool
        Keep every operator's time for a derivation.

    Returns
    -------
    StepTime
        Seconds, parts and bounds, arrays over plans.
    """
    shard = shard_of(grid)
    device_s: Floats = 0.0
    network_s: Floats = 0.0
    exact = [as_floats(0.0), as_floats(0.0), as_floats(0.0)]
    charged: list[Floats] = [0.0] * 4
    basis: dict[str, Floats] = {}
    lines: list[Line] = []
    for block, repeat, operators in model.operators(step, shard, precision):
        for op in operators:
            if op.name in target.engine.fused:
                continue
            if isinstance(op, Collective):
                time = time_collective(op, target, grid)
                network_s = network_s + repeat * as_floats(time.seconds)
            else:
                time = time_operator(op, target.device, target.kernels, target.engine.kernels)
                device_s = device_s + repeat * as_floats(time.seconds)
                bound = time.bound()
                for i in range(4):
                    charged[i] = charged[i] + repeat * np.where(bound == i, time.seconds, 0.0)
            for i, part in enumerate((time.compute_s, time.memory_s, time.network_s)):
                exact[i] = exact[i] + repeat * as_floats(part)
            basis[time.basis] = basis.get(time.basis, 0.0) + repeat * as_floats(time.seconds)
            if keep_lines:
                lines.append(Line(block, repeat, op, time))
    hops = _stage_hops(model, target, grid, step, shard, precision)
    network_s = network_s + hops.seconds
    exact[2] = exact[2] + hops.network_s
    per_layer = target.engine.decode_layer_s if step.decode else target.engine.prefill_layer_s
    host_s = per_layer * model.layers
    both = overlapped(device_s, network_s, overlap=target.engine.overlap)
    exposed = both - device_s
    parts = (charged[0], charged[1], exposed, charged[3], as_floats(host_s))
    return StepTime(
        seconds=both + host_s,
        parts=parts,
        lower_s=np.maximum(np.maximum(exact[0], exact[1]), exact[2]),
        upper_s=as_floats(device_s) + network_s + host_s,
        basis=basis,
        lines=tuple(lines),
    )


def _stage_hops(
    model: ModelSpec, target: Target, grid: PlanGrid, step: Step, shard: Shard, precision: Precision
) -> OperatorTime:
    """Sending activations from stage to stage: p - 1 transfers, divided among the ranks of a tensor group."""
    rows = step.rows(shard)
    op = Collective(
        "activations to the next stage",
        "point_to_point",
        as_floats(rows) * model.hidden * activation_bytes(precision) / grid.tp,
        "pp",
        count=grid.pp - 1.0,
    )
    return time_collective(op, target, grid)
