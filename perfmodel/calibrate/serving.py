"""Constants of a serving engine from measured deployments [s]: rounded values under a robust loss."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import as_floats
from perfmodel.errors import CalibrationError
from perfmodel.estimate.serving.latencies import closed_loop_latencies
from perfmodel.estimate.serving.steps import ServingSteps, serving_steps, with_host
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.hardware.engine import Engine
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid

_DIGITS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)


def _menu(lowest: float, highest: float) -> tuple[float, ...]:
    """Zero and round values between two powers of ten."""
    powers = range(int(np.floor(np.log10(lowest))), int(np.ceil(np.log10(highest))))
    return (0.0, *(float(f"{digit * 10.0**power:.2g}") for power in powers for digit in _DIGITS))


CONSTANTS: Mapping[str, tuple[float, ...]] = {
    "decode_step_s": _menu(1e-4, 1e-2),
    "decode_request_s": _menu(1e-6, 1e-4),
    "prefill_layer_s": _menu(1e-4, 1e-2),
    "stream_steps": _menu(1.0, 100.0),
    "balance_steps": _menu(10.0, 100.0),
}
"""Constants that latencies can tell, and the values that each may take: more digits than two would be noise."""

TTFT_WEIGHT = 0.5
"""Weight of the first token's error beside that of the others': it scatters twice as far."""

CEILINGS = (0.7, 1.0)
"""Log errors of TPOT and TTFT beyond which a deployment counts no further: something else ran there."""

_SWEEPS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Deployments:
    """Measured deployments of one model on one target, their steps timed without the engine's constants.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System and serving software, with its constants.
    grid : PlanGrid
        One plan per deployment.
    workload : Workload
        Lengths of each, and waves.
    steps : ServingSteps
        Steps on the device alone.
    ttft_s, tpot_s : numpy.ndarray
        Measured latencies [s].
    """

    model: ModelSpec
    target: Target
    grid: PlanGrid
    workload: Workload
    steps: ServingSteps
    ttft_s: npt.NDArray[np.float64]
    tpot_s: npt.NDArray[np.float64]


def bare(engine: Engine) -> Engine:
    """Engine without any of the constants that are fitted.

    Parameters
    ----------
    engine : Engine
        Serving software.

    Returns
    -------
    Engine
        The same with zeros.
    """
    return replace(engine, **dict.fromkeys(CONSTANTS, 0.0))  # type: ignore[arg-type]


def measured_deployments(
    model: ModelSpec,
    target: Target,
    grid: PlanGrid,
    workload: Workload,
    precision: Precision,
    *,
    ttft_s: npt.NDArray[np.float64],
    tpot_s: npt.NDArray[np.float64],
) -> Deployments:
    """Time the steps of measured deployments once, for any constants of the engine.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System, kernels and engine.
    grid : PlanGrid
        One plan per deployment.
    workload : Workload
        Lengths of each, and waves.
    precision : Precision
        Number formats.
    ttft_s, tpot_s : numpy.ndarray
        Measured latencies [s].

    Returns
    -------
    Deployments
        Deployments whose latencies `predicted` composes.
    """
    steps = serving_steps(model, replace(target, engine=bare(target.engine)), grid, workload, precision)
    return Deployments(model, target, grid, workload, steps, ttft_s, tpot_s)


def predicted(group: Deployments, constants: Mapping[str, float]) -> tuple[npt.NDArray[np.float64], ...]:
    """Latencies of deployments with some of the engine's constants replaced.

    Parameters
    ----------
    group : Deployments
        Deployments.
    constants : mapping
        Names of `CONSTANTS` -> values.

    Returns
    -------
    tuple of numpy.ndarray
        TTFT and TPOT [s].
    """
    engine = replace(group.target.engine, **constants)  # type: ignore[arg-type]
    steps = with_host(group.model, engine, group.grid, group.steps)
    target = replace(group.target, engine=engine)
    latencies = closed_loop_latencies(group.model, target, group.grid, group.workload, steps)
    return tuple(np.broadcast_to(as_floats(each), group.grid.shape).ravel() for each in latencies)


def loss(groups: Sequence[Deployments], constants: Mapping[str, float]) -> float:
    """Mean log error of deployments, the more of a kind the less weight for each.

    Parameters
    ----------
    groups : sequence of Deployments
        Deployments, one group per model and target.
    constants : mapping
        Names of `CONSTANTS` -> values.

    Returns
    -------
    float
        Error of TPOT plus `TTFT_WEIGHT` times that of TTFT, each up to its ceiling [1].
    """
    total = weights = 0.0
    for group in groups:
        ttft, tpot = predicted(group, constants)
        tokens = np.minimum(np.abs(np.log(tpot / group.tpot_s)), CEILINGS[0])
        first = np.minimum(np.abs(np.log(ttft / group.ttft_s)), CEILINGS[1])
        weight = len(tpot) ** -0.5
        total += weight * float(np.sum(tokens + TTFT_WEIGHT * first))
        weights += weight * len(tpot)
    return total / weights


def fit_engine(groups: Sequence[Deployments]) -> dict[str, float]:
    """Fit the constants that an engine's profile uses to measured deployments.

    A constant that is zero in the profile of every group stays zero: what an engine does not do is not fitted.

    Parameters
    ----------
    groups : sequence of Deployments
        Deployments, one group per model and target.

    Returns
    -------
    dict
        Name -> value, each from the menu of `CONSTANTS`.

    Raises
    ------
    CalibrationError
        If there are no deployments.
    """
    if not groups:
        raise CalibrationError("no measured deployment is left to fit the engine's constants to")
    start = groups[0].target.engine
    free = [name for name in CONSTANTS if any(getattr(group.target.engine, name) > 0 for group in groups)]
    best = {name: _nearest(CONSTANTS[name], getattr(start, name)) for name in free}
    least = loss(groups, best)
    for _ in range(_SWEEPS):
        before = least
        for trial in _neighbours(best, free):
            candidate = best | trial
            value = loss(groups, candidate)
            if value < least - 1e-9:
                best, least = candidate, value
        if before - least < 1e-6:
            break
    return best


def _nearest(menu: Sequence[float], value: float) -> float:
    return menu[int(np.argmin(np.abs(np.array(menu) - value)))]


def _neighbours(best: Mapping[str, float], free: Sequence[str]) -> list[dict[str, float]]:
    """Every value of each constant, and steps of two constants in opposite directions."""
    trials = [{name: value} for name in free for value in CONSTANTS[name]]
    for one, other in itertools.combinations(free, 2):
        menus = CONSTANTS[one], CONSTANTS[other]
        i, j = menus[0].index(best[one]), menus[1].index(best[other])
        trials += [
            {one: menus[0][i + step], other: menus[1][j - step]}
            for step in (1, -1)
            if 0 <= i + step < len(menus[0]) and 0 <= j - step < len(menus[1])
        ]
    return trials
