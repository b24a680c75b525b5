"""Time of drafting with a model's own prediction blocks, against a step of the model itself [1]."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import as_floats
from perfmodel.errors import PlanError
from perfmodel.estimate.compiled import Same
from perfmodel.estimate.step import step_times
from perfmodel.estimate.target import Target
from perfmodel.layers.base import Step
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid


def draft_cost(
    model: ModelSpec, target: Target, grid: PlanGrid, step: Step, precision: Precision
) -> npt.NDArray[np.float64]:
    """Time of one pass through the blocks that predict a further token, over the time of a step.

    The pass takes one token of every sequence through the embedding, those blocks and the head; in prefill it takes all
    tokens, whose cache the blocks need.

    Parameters
    ----------
    model : ModelSpec
        Model with blocks that predict further tokens.
    target : Target
        System, kernels and engine.
    grid : PlanGrid
        Plans.
    step : Step
        The step that verifies what was drafted, or a prefill.
    precision : Precision
        Number formats.

    Returns
    -------
    numpy.ndarray
        `draft_cost` of a `Workload`, over plans [1].

    Raises
    ------
    PlanError
        If the model has no such blocks.
    """
    if not model.mtp:
        raise PlanError(f"{model.id} has no blocks that predict further tokens")
    once = replace(step, tokens=as_floats(1.0)) if step.decode else step
    (whole,) = step_times(model, target, [(grid, step)], precision)
    (drafted,) = step_times(_drafter(Same(model)), target, [(grid, once)], precision)
    return drafted.seconds / whole.seconds


@lru_cache(maxsize=16)
def _drafter(key: Same) -> ModelSpec:
    """The blocks that predict further tokens as a model of their own."""
    model: ModelSpec = key.held
    layout = tuple(i for i, (_, count) in enumerate(model.mtp) for _ in range(count))
    return replace(model, blocks=model.mtp, layout=layout, mtp=())
