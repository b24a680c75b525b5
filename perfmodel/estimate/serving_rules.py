"""Rules of serving: which plans can run at all: whole pieces, weights that fit, room for one request."""

import numpy as np

from perfmodel.arrays import as_floats
from perfmodel.estimate.footprint import Footprint
from perfmodel.estimate.target import Target
from perfmodel.hardware.engine import Engine
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.rules import Rule, structural_rules

_GIB = 2.0**30


def _places(experts: int, engine: Engine) -> tuple[int, ...]:
    copied = experts + engine.redundant_experts
    return (copied, copied + engine.shared_copies)


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
    fixed = np.broadcast_to(as_floats(footprint.fixed), grid.shape)
    room = np.broadcast_to(as_floats(footprint.capacity), grid.shape)
    room_flat, fixed_flat = room.ravel(), fixed.ravel()
    weights_flat = np.broadcast_to(as_floats(footprint.weights), grid.shape).ravel()
    one = np.broadcast_to(as_floats(footprint.cache_per_request), grid.shape).ravel()
    return (
        *structural_rules(
            grid,
            model.divisors(),
            layers=model.layers,
            max_devices=target.system.max_devices,
            expert_places=_places(model.divisors().get("experts", 0), target.engine),
        ),
        Rule(
            "weights exceed memory",
            fixed > room,
            lambda i: (
                f"weights exceed memory by {(fixed_flat[i] - room_flat[i]) / _GIB:.1f} GiB:"
                f" {weights_flat[i] / _GIB:.1f} GiB"
                f" and {(fixed_flat[i] - weights_flat[i]) / _GIB:.1f} GiB of working memory"
                f" in {room_flat[i] / _GIB:.1f} GiB"
            ),
        ),
        Rule(
            "no request fits beside the weights",
            np.broadcast_to(as_floats(footprint.requests) < 1, grid.shape),
            lambda i: (
                f"the cache of one request needs {one[i] / _GIB:.1f} GiB,"
                f" and {(room_flat[i] - fixed_flat[i]) / _GIB:.1f} are left"
            ),
        ),
        Rule(
            "fewer requests than dp ranks",
            np.broadcast_to(grid.concurrency < grid.dp, grid.shape),
            lambda _: "fewer requests in flight than attention-data-parallel ranks",
        ),
    )
