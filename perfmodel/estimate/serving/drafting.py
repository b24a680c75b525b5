"""Time of drafting with a model's own prediction blocks, against a step of the model itself [1]."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.errors import PlanError
from perfmodel.estimate.compiled import Same
from perfmodel.estimate.serving.workload import Workload
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


def drafting_factor(
    model: ModelSpec, target: Target, grid: PlanGrid, workload: Workload, step: Step, precision: Precision
) -> Floats:
    """Time of a decode step and of drafting for the next one, over the time of the step.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System, kernels and engine.
    grid : PlanGrid
        Plans.
    workload : Workload
        Says how many tokens are drafted, and what one costs where that is not left to the model's own blocks.
    step : Step
        The decode step.
    precision : Precision
        Number formats.

    Returns
    -------
    float or array
        Factor, 1 where nothing is drafted [1].
    """
    if not workload.draft_tokens:
        return 1.0
    cost: Floats = 0.0 if workload.draft_cost is None else workload.draft_cost
    if workload.draft_cost is None and model.mtp:
        cost = draft_cost(model, target, grid, step, precision)
    return as_floats(1.0 + workload.draft_tokens * as_floats(cost))


@lru_cache(maxsize=16)
def _drafter(key: Same) -> ModelSpec:
    """The blocks that predict further tokens as a model of their own."""
    model: ModelSpec = key.held
    layout = tuple(i for i, (_, count) in enumerate(model.mtp) for _ in range(count))
    return replace(model, blocks=model.mtp, layout=layout, mtp=())
