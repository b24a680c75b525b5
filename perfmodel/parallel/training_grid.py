"""Training plans: parallel sizes and recipe choices as a structure of arrays that broadcast against each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from perfmodel.costs.training import RECOMPUTE
from perfmodel.costs.training_schedules import SCHEDULES
from perfmodel.errors import PlanError, UnknownNameError
from perfmodel.parallel.knobs import Grid, knob
from perfmodel.parallel.mesh import pick

SIZES = ("tp", "pp", "dp", "cp", "ep", "vp", "micro_batch", "shard_copies", "sequence_chunks")
"""Knobs that are whole numbers of at least 1."""

SWITCHES = ("sequence_parallel", "recompute", "zero", "grad_overlap", "schedule", "tp_overlap", "edge_layers")
"""Discrete choices, held as small numbers; `recompute` and `schedule` by their position among the names."""

SHARES = {
    "recompute_share": 1.0,
    "offload_activations": 0.0,
    "offload_optimizer": 0.0,
    "offload_weights": 0.0,
    "skipped_stages": 0.0,
}
"""Knobs between 0 and 1, with their defaults."""

TRAINING_KNOBS = (*SIZES, *SWITCHES, *SHARES)
"""Every knob of a training plan, in the order in which ties between plans are broken."""

NAMES: Mapping[str, tuple[str, ...]] = {"recompute": RECOMPUTE, "schedule": SCHEDULES}
"""Choices that have names."""

_HIGHEST = {"recompute": len(RECOMPUTE) - 1, "zero": 3, "schedule": len(SCHEDULES) - 1, "edge_layers": 8}

Column = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingGrid(Grid):
    """Many training plans at once: one array per knob, all of which broadcast to one shape.

    A plan takes tp x pp x dp x cp devices. Experts regroup the tp x dp x cp devices of a stage: `ep` of them hold every
    expert once, and stage / ep groups hold copies.

    Parameters
    ----------
    tp : numpy.ndarray
        Tensor-parallel ranks.
    pp : numpy.ndarray
        Pipeline stages.
    dp : numpy.ndarray
        Data-parallel ranks.
    cp : numpy.ndarray
        Context-parallel ranks.
    ep : numpy.ndarray
        Expert-parallel ranks.
    vp : numpy.ndarray
        Model chunks per pipeline stage.
    micro_batch : numpy.ndarray
        Sequences of a microbatch on one data-parallel rank.
    shard_copies : numpy.ndarray
        Copies of what ZeRO shards: 1 divides it over all data-parallel ranks, more over groups of neighbours (hybrid).
    sequence_chunks : numpy.ndarray
        Pieces of a sequence that the backward pass handles one after the other.
    sequence_parallel : numpy.ndarray
        1 where activations outside the matrices are divided over the tensor-parallel ranks.
    recompute : numpy.ndarray
        Position in `perfmodel.costs.training.RECOMPUTE`.
    zero : numpy.ndarray
        ZeRO stage; 3 is fully sharded data parallelism.
    grad_overlap : numpy.ndarray
        1 where gradients are exchanged during the backward pass.
    schedule : numpy.ndarray
        Position in `perfmodel.costs.training_schedules.SCHEDULES`.
    tp_overlap : numpy.ndarray
        1 where tensor-parallel exchanges run in pieces beside the products that they feed or follow.
    edge_layers : numpy.ndarray
        Layers that embedding and head count for, each, when the layers are divided over stages.
    recompute_share : numpy.ndarray
        Part of the layers that full recomputation is applied to.
    offload_activations : numpy.ndarray
        Part of the kept activations that waits in the host's memory for the backward pass.
    offload_optimizer : numpy.ndarray
        Part of the optimizer's states that lies in the host's memory and streams through the device in the update.
    offload_weights : numpy.ndarray
        Part of the blocks' weights, with their gradients, that lies in the host's memory and streams layer by layer.
    skipped_stages : numpy.ndarray
        Part of the pipeline's stages that a microbatch leaves out.

    Examples
    --------
    >>> grid = training_plans(tp=[1, 2, 4], recompute=[["none"], ["full"]])
    >>> grid.shape, grid.row(5)["recompute"]
    ((2, 3), 'full')
    """

    KNOBS: ClassVar[tuple[str, ...]] = TRAINING_KNOBS

    tp: Column
    pp: Column
    dp: Column
    cp: Column
    ep: Column
    vp: Column
    micro_batch: Column
    shard_copies: Column
    sequence_chunks: Column
    sequence_parallel: Column
    recompute: Column
    zero: Column
    grad_overlap: Column
    schedule: Column
    tp_overlap: Column
    edge_layers: Column
    recompute_share: Column
    offload_activations: Column
    offload_optimizer: Column
    offload_weights: Column
    skipped_stages: Column

    @property
    def devices(self) -> Column:
        """Devices of one plan."""
        return self.tp * self.pp * self.dp * self.cp

    @property
    def stage(self) -> Column:
        """Devices of one pipeline stage."""
        return self.tp * self.dp * self.cp

    def row(self, index: int) -> dict[str, Any]:
        """Knobs of one plan as integers and names.

        Parameters
        ----------
        index : int
            Flat position in the grid.

        Returns
        -------
        dict
            Knob -> value.
        """
        out: dict[str, Any] = {}
        for name in TRAINING_KNOBS:
            number = pick(getattr(self, name), self.shape, index)
            if name in SHARES:
                out[name] = number
                continue
            value = int(number)
            out[name] = NAMES[name][value] if name in NAMES else value
        return out


def _codes(name: str, value: Any) -> Column:
    """Numbers of a knob whose choices have names."""
    known = NAMES[name]
    flat = np.asarray(value, dtype=object)
    out = np.empty(flat.shape, dtype=np.float64)
    for position, entry in np.ndenumerate(flat):
        if isinstance(entry, str):
            if entry not in known:
                raise UnknownNameError(name, entry, known)
            out[position] = known.index(entry)
        else:
            out[position] = float(entry)
    return out


def training_plans(**knobs: Any) -> TrainingGrid:
    """Build training plans from numbers, names or arrays that broadcast against each other.

    What is not named is 1 for sizes, "none" for `recompute`, "1f1b" for `schedule`, 0 for the other switches and
    shares, and all layers for `recompute_share`.

    Parameters
    ----------
    **knobs
        Any of `TRAINING_KNOBS`.

    Returns
    -------
    TrainingGrid
        The plans.

    Raises
    ------
    PlanError
        If a knob is unknown or out of range, or the arrays do not broadcast.
    UnknownNameError
        If a recomputation or a schedule has an unknown name.

    Examples
    --------
    >>> float(training_plans(tp=8, pp=4, dp=2, schedule="zb-h1").devices)
    64.0
    """
    unknown = set(knobs) - set(TRAINING_KNOBS)
    if unknown:
        raise PlanError(f"unknown plan knob {sorted(unknown)[0]!r}; a training plan has {', '.join(TRAINING_KNOBS)}")
    columns: dict[str, Column] = {}
    for name in TRAINING_KNOBS:
        given = knobs.get(name, SHARES.get(name, 1.0 if name in SIZES else 0.0))
        value = _codes(name, given) if name in NAMES else knob(name, given)
        low, high = (1.0, np.inf) if name in SIZES else (0.0, float(_HIGHEST.get(name, 1)))
        whole = (value == np.floor(value)) | (name in SHARES)
        wrong = ~(np.isfinite(value) & (value >= low) & (value <= high) & whole)
        if np.any(wrong):
            bad = value[wrong].ravel()[0]
            limits = f"at least {low:g}" if name in SIZES else f"between {low:g} and {high:g}"
            kind = "a number" if name in SHARES else "a whole number"
            raise PlanError(f"{name} must be {kind} {limits}, not {bad:g}")
        columns[name] = value
    grid = TrainingGrid(**columns)
    try:
        _ = grid.shape
    except ValueError as error:
        raise PlanError(f"plan arrays do not broadcast against each other: {error}") from None
    return grid
