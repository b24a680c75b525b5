"""Enumeration of the training plans that a number of devices allows (no quantity of its own)."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from perfmodel.costs.training import RECOMPUTE
from perfmodel.errors import PlanError
from perfmodel.parallel.training_grid import TrainingGrid, training_plans


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _chunks(layers: int, pp: int) -> list[int]:
    """Chunks per stage that cut the layers evenly; embedding and head may count as a layer each, as in Megatron-LM."""
    whole = [v for v in range(1, 9) for total in (layers, layers + 2) if pp * v <= total and total % (pp * v) == 0]
    return sorted({1, *whole}) if pp > 1 else [1]


def training_splits(
    gpus: int,
    *,
    global_batch: int,
    tensor_limit: int,
    layers: int,
    experts: int = 0,
    seq: int = 0,
    recompute: Iterable[str] = RECOMPUTE,
    zero: Iterable[int] = (1,),
    micro_batches: Iterable[int] = (1, 2, 4, 8),
    chosen: Mapping[str, Any] | None = None,
) -> TrainingGrid:
    """Enumerate the plans that use all of a number of devices and cut the batch and the layers evenly.

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
        ZeRO stages to try.
    micro_batches : iterable of int
        Microbatch sizes to try.
    chosen : mapping, optional
        Knobs held at one value.

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
    if gpus < 1:
        raise PlanError(f"gpus must be at least 1, not {gpus}")
    held = {k: v for k, v in (chosen or {}).items() if v is not None}

    def allowed(name: str, values: Iterable[Any]) -> list[Any]:
        return [held[name]] if name in held else list(values)

    rows: list[tuple[Any, ...]] = []
    for tp in allowed("tp", (d for d in _divisors(gpus) if d <= min(tensor_limit, 64))):
        for pp in allowed("pp", (d for d in _divisors(gpus // tp or 1) if d <= layers)):
            contexts = (d for d in _divisors(gpus // (tp * pp) or 1) if d == 1 or (seq // d >= 8192 and d <= 64))
            for cp in allowed("cp", contexts):
                if gpus % (tp * pp * cp):
                    continue
                dp = gpus // (tp * pp * cp)
                if held.get("dp", dp) != dp or global_batch % dp:
                    continue
                per_rank = global_batch // dp
                stage = tp * dp * cp
                groups = [d for d in _divisors(stage) if experts % d == 0] if experts else [1]
                chunks = _chunks(layers, pp)
                for ep in allowed("ep", groups):
                    for micro in allowed("micro_batch", (b for b in micro_batches if per_rank % b == 0)):
                        for vp in allowed("vp", chunks):
                            rows += [
                                (tp, pp, dp, cp, ep, vp, micro, mode, stage_of_zero)
                                for mode in allowed("recompute", recompute)
                                for stage_of_zero in allowed("zero", zero)
                            ]
    if not rows:
        named = ("tp", "pp", "dp", "cp", "ep", "vp", "micro_batch")
        wanted = ", ".join(f"{k}={held[k]}" for k in named if k in held) or "whole microbatches"
        raise PlanError(
            f"no plan of {gpus} devices and {global_batch} sequences has {wanted}:"
            " tp x pp x cp must divide the devices and dp the sequences"
        )
    columns = dict(
        zip(
            ("tp", "pp", "dp", "cp", "ep", "vp", "micro_batch", "recompute", "zero"),
            zip(*rows, strict=True),
            strict=True,
        )
    )
    tp_column = np.array(columns["tp"])
    usual = {"sequence_parallel": (tp_column > 1).astype(float), "grad_overlap": 1.0}
    return training_plans(**columns, **(usual | {name: held[name] for name in held if name not in ("dp", *columns)}))
