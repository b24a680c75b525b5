"""Collectives of a plan: which algorithm each of them uses (names, no quantity of its own)."""

from collections.abc import Callable

import numpy as np

from perfmodel.estimate.serving.steps import serving_steps
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.layers.operators import Collective
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid


def collectives_of(
    model: ModelSpec, target: Target, grid: PlanGrid, workload: Workload, precision: Precision
) -> Callable[[int], dict[str, str]]:
    """Look up the algorithms of one plan of a grid when somebody asks.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System, kernels and engine.
    grid : PlanGrid
        Plans.
    workload : Workload
        Lengths.
    precision : Precision
        Number formats.

    Returns
    -------
    callable
        Position of a plan -> {"decode all_reduce over tp": formula of the algorithm}.
    """

    def find(index: int) -> dict[str, str]:
        steps = serving_steps(model, target, grid.take([index]), workload, precision, keep_lines=True)
        found: dict[str, str] = {}
        for phase in ("decode", "prefill"):
            for line in getattr(steps, phase).lines:
                op = line.operator
                if isinstance(op, Collective) and np.ravel(line.time.seconds)[0] > 0:
                    found.setdefault(f"{phase} {op.kind} over {op.group}", line.time.formula)
        return found

    return find
