"""Rules of serving: which plans can run at all: whole pieces, weights that fit, room for one request."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.errors import PlanError
from perfmodel.estimate.serving.footprint import Footprint
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.hardware.engine import Engine
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.mesh import pick
from perfmodel.parallel.rules import Rule, structural_rules

_GIB = 2.0**30


def expert_places(experts: int, engine: Engine) -> tuple[int, ...]:
    """Numbers of places for experts that an engine can divide among the ranks.

    Parameters
    ----------
    experts : int
        Routed experts of the model; 0 where it has none.
    engine : Engine
        Gives the copies.

    Returns
    -------
    tuple of int
        The experts alone, with copies of busy ones, and with those of the shared expert.
    """
    copied = experts + engine.redundant_experts
    return (experts, copied, copied + engine.shared_copies) if experts else (0,)


def refuse_longer(model: ModelSpec, workload: Workload) -> None:
    """Refuse requests that are longer than the model allows.

    Parameters
    ----------
    model : ModelSpec
        Model.
    workload : Workload
        Lengths.

    Raises
    ------
    PlanError
        For the longest of them.
    """
    longest = float(np.max(as_floats(workload.isl) + workload.osl))
    if model.max_context and longest > model.max_context:
        raise PlanError(f"isl + osl = {longest:g} tokens exceeds the {model.max_context:g} that {model.id} allows")


def refuse_shared_steps(engine: Engine) -> None:
    """Refuse schedules by which prompts share steps with running requests, where separate workers run them.

    Parameters
    ----------
    engine : Engine
        Serving software of either kind of workers.

    Raises
    ------
    PlanError
        If its schedule is such a one.
    """
    if engine.schedule != "prefill-first":
        raise PlanError(
            f"separate workers have no running requests that prompts could share steps with: schedule"
            f" {engine.schedule} is predicted for common workers only"
        )


def serving_rules(model: ModelSpec, target: Target, grid: PlanGrid, footprint: Footprint) -> tuple[Rule, ...]:
    """Structural rules first, then memory: what never shrinks, then room for one request.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        Gives the largest number of devices.
    grid : PlanGrid
        Plans.
    footprint : Footprint
        Memory of the fullest device.

    Returns
    -------
    tuple of Rule
        In the order in which they are applied.
    """
    fixed, room, weights = as_floats(footprint.fixed), as_floats(footprint.capacity), footprint.weights
    divisors = model.divisors()

    def gib(value: Floats, index: int) -> float:
        return pick(value, grid.shape, index) / _GIB

    return (
        *structural_rules(
            grid,
            divisors,
            layers=model.layers,
            max_devices=target.system.max_devices,
            expert_places=expert_places(divisors.get("experts", 0), target.engine),
        ),
        Rule(
            "weights exceed memory",
            fixed > room,
            lambda i: (
                f"weights exceed memory by {gib(fixed, i) - gib(room, i):.1f} GiB: {gib(weights, i):.1f} GiB"
                f" and {gib(fixed, i) - gib(weights, i):.1f} GiB of working memory in {gib(room, i):.1f} GiB"
            ),
        ),
        Rule(
            "no request fits beside the weights",
            as_floats(footprint.requests) < 1,
            lambda i: (
                f"the cache of one request needs {gib(footprint.cache_per_request, i):.1f} GiB,"
                f" and {gib(room, i) - gib(fixed, i):.1f} are left"
            ),
        ),
        Rule(
            "fewer requests than dp ranks",
            grid.concurrency < grid.dp,
            lambda _: "fewer requests in flight than attention-data-parallel ranks",
        ),
    )
