"""Enumeration of the training plans that a number of devices allows (no quantity of its own)."""

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from perfmodel.costs.training import RECOMPUTE
from perfmodel.errors import PlanError
from perfmodel.parallel.training_grid import NAMES, SIZES, TRAINING_KNOBS, TrainingGrid, training_plans


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _chunks(layers: int, pp: int) -> list[int]:
    """Chunks per stage that cut the layers evenly; embedding and head may count as a layer each, as in Megatron-LM."""
    whole = [v for v in range(1, 9) for total in (layers, layers + 2) if pp * v <= total and total % (pp * v) == 0]
    return sorted({1, *whole}) if pp > 1 else [1]


def training_meshes(
    gpus: int,
    *,
    global_batch: int,
    tensor_limit: int,
    layers: int,
    experts: int = 0,
    seq: int = 0,
    recompute: Iterable[str] = RECOMPUTE,
    zero: Iterable[int] = (1,),
    piped_zero: Iterable[int] | None = None,
    micro_batches: Iterable[int] = (1, 2, 4, 8),
    chosen: Mapping[str, Any] | None = None,
) -> list[TrainingGrid]:
    """Enumerate the plans that use all of a number of devices and cut the batch and the layers evenly, as open meshes.

    Parameters
    ----------
    gpus : int
        Devices to use.
    global_batch : int
        Sequences of one step.
    tensor_limit : int
        Largest tensor-parallel group worth trying.
    layers : int
        Layers of the model: the largest number of pipeline stages.
    experts : int
        Routed experts per layer; 0 for a dense model.
    seq : int
        Tokens of a sequence; context parallelism is tried from 16Ki tokens on.
    recompute : iterable of str
        Recomputation modes to try.
    zero : iterable of int
        ZeRO stages to try; the first alone where no replicas share.
    piped_zero : iterable of int, optional
        ZeRO stages to try with a pipeline, where these are not the same.
    micro_batches : iterable of int
        Microbatch sizes to try.
    chosen : mapping, optional
        Knobs held at one value, or a list of values to try. Shares of recomputed layers apply to full recomputation,
        and activations divided over tensor-parallel ranks need such ranks: no plan is listed twice.

    Returns
    -------
    list of TrainingGrid
        One mesh for every tp, pp and cp; its axes are ep, micro_batch, vp, the recomputation, zero, and then every
        other knob that is tried at several values.

    Raises
    ------
    PlanError
        If no plan has the chosen values on that many devices.

    Examples
    --------
    >>> meshes = training_meshes(4, global_batch=8, tensor_limit=2, layers=4, chosen={"zero": [0, 1, 2]})
    >>> [(int(mesh.tp), int(mesh.pp), mesh.size) for mesh in meshes][:3]
    [(1, 1, 30), (1, 2, 135), (1, 4, 60)]
    """
    if gpus < 1:
        raise PlanError(f"gpus must be at least 1, not {gpus}")
    held = {name: _several(value) for name, value in (chosen or {}).items() if value is not None}
    for name in SIZES:
        if any(not isinstance(value, Real) or value < 1 for value in held.get(name, ())):
            raise PlanError(f"{name} must be a whole number at least 1, not {_shown(held[name])}")
    found: list[TrainingGrid] = []
    for tp in held.get("tp") or [d for d in _divisors(gpus) if d <= min(tensor_limit, 64)]:
        for pp in held.get("pp") or [d for d in _divisors(gpus // tp or 1) if d <= layers]:
            contexts = [d for d in _divisors(gpus // (tp * pp) or 1) if d == 1 or (seq // d >= 8192 and d <= 64)]
            for cp in held.get("cp") or contexts:
                dp = gpus // (tp * pp * cp)
                if gpus % (tp * pp * cp) or dp not in held.get("dp", [dp]) or global_batch % dp:
                    continue
                stage = tp * dp * cp
                modes = held.get("recompute") or list(recompute)
                shares = held.get("recompute_share") or [1.0]
                full = RECOMPUTE.index("full")
                pairs = [(m, s) for m in modes for s in (shares if m in ("full", full) else shares[-1:])]
                sharded = list(zero if piped_zero is None or pp == 1 else piped_zero)
                if dp * cp == 1:  # nobody to share with
                    sharded = sharded[:1]
                usual = {"sequence_parallel": [float(tp > 1)], "grad_overlap": [1.0]}
                axes = {
                    "ep": held.get("ep") or ([d for d in _divisors(stage) if experts % d == 0] if experts else [1]),
                    "micro_batch": held.get("micro_batch") or [b for b in micro_batches if global_batch // dp % b == 0],
                    "vp": held.get("vp") or _chunks(layers, pp),
                    "recompute": [mode for mode, _ in pairs],
                    "zero": held.get("zero") or sharded,
                    **{n: v for n, v in (usual | held).items() if n not in (*_OUTER, *_INNER)},
                }
                if tp == 1 and len(axes["sequence_parallel"]) > 1:
                    axes["sequence_parallel"] = [0.0]
                if all(axes.values()):
                    found.append(_mesh(axes, {"recompute_share": [s for _, s in pairs]}, tp=tp, pp=pp, dp=dp, cp=cp))
    if not found:
        named = ("tp", "pp", "dp", "cp", "ep", "vp", "micro_batch")
        wanted = ", ".join(f"{k}={_shown(held[k])}" for k in named if k in held) or "whole microbatches"
        raise PlanError(
            f"no plan of {gpus} devices and {global_batch} sequences has {wanted}:"
            " tp x pp x cp must divide the devices and dp the sequences"
        )
    return found


_OUTER = ("tp", "pp", "dp", "cp")
_INNER = ("ep", "micro_batch", "vp", "recompute", "zero", "recompute_share")


def _several(value: Any) -> list[Any]:
    # A value that is named twice would list its plans twice.
    return list(dict.fromkeys(value)) if isinstance(value, list | tuple | np.ndarray) else [value]


def _shown(values: list[Any]) -> str:
    return ",".join(str(value) for value in values)


def _mesh(axes: Mapping[str, list[Any]], beside: Mapping[str, list[Any]], **fixed: int) -> TrainingGrid:
    """Open mesh with one axis per knob that is tried at several values; `beside` varies along with recompute."""
    long = [name for name, values in axes.items() if len(values) > 1]

    def along(name: str, values: list[Any]) -> Any:
        if len(values) == 1:
            return values[0]
        behind = len(long) - 1 - long.index(name)
        return np.array(values, dtype=object if name in NAMES else float).reshape((-1, *(1,) * behind))

    knobs = {name: along(name, values) for name, values in axes.items()}
    knobs |= {name: along("recompute", values) for name, values in beside.items()}
    return training_plans(**knobs, **fixed)


def training_splits(gpus: int, **space: Any) -> TrainingGrid:
    """List the plans of `training_meshes` one after the other.

    Parameters
    ----------
    gpus : int
        Devices to use.
    **space
        The other arguments of `training_meshes`.

    Returns
    -------
    TrainingGrid
        One-dimensional.

    Raises
    ------
    PlanError
        If no plan has the chosen values on that many devices.

    Examples
    --------
    >>> grid = training_splits(2, global_batch=2, tensor_limit=8, layers=3, recompute=["none"], micro_batches=[1])
    >>> grid.tp.tolist(), grid.pp.tolist(), grid.dp.tolist()
    ([1.0, 1.0, 2.0], [1.0, 2.0, 1.0], [2.0, 1.0, 1.0])
    """
    return listed(training_meshes(gpus, **space))


def listed(meshes: Iterable[TrainingGrid]) -> TrainingGrid:
    """Plans of several meshes one after the other.

    Parameters
    ----------
    meshes : iterable of TrainingGrid
        Open meshes.

    Returns
    -------
    TrainingGrid
        One-dimensional.
    """
    grids = list(meshes)
    return TrainingGrid(**{name: np.concatenate([grid.column(name) for grid in grids]) for name in TRAINING_KNOBS})
