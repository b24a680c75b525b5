"""Plans: parallel splits as a structure of arrays that broadcast against each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from perfmodel.errors import PlanError
from perfmodel.parallel.knobs import Grid, knob
from perfmodel.parallel.mesh import pick

KNOBS = ("tp", "pp", "dp", "cp", "ep", "moe_tp", "concurrency")
"""Every knob of a plan, in the order in which ties between plans are broken."""


@dataclass(frozen=True, slots=True, eq=False)
class PlanGrid(Grid):
    """Many plans at once: one array per knob, all of which broadcast to one shape.

    A plan describes one replica of tp x pp x dp x cp devices. Experts regroup the tp x dp x cp devices of a
    pipeline stage: ep x moe_tp = tp x dp x cp for a mixture of experts, both 1 for a dense model.

    Parameters
    ----------
    tp : numpy.ndarray
        Tensor-parallel ranks.
    pp : numpy.ndarray
        Pipeline stages.
    dp : numpy.ndarray
        Attention data-parallel ranks inside a replica.
    cp : numpy.ndarray
        Context-parallel ranks.
    ep : numpy.ndarray
        Expert-parallel ranks.
    moe_tp : numpy.ndarray
        Ranks that share one expert.
    concurrency : numpy.ndarray
        Requests in flight in one replica.

    Examples
    --------
    >>> grid = plans(tp=[1, 2, 4], concurrency=[[8], [16]])
    >>> grid.shape, grid.size
    ((2, 3), 6)
    >>> grid.take([5]).tp.tolist()
    [4.0]
    """

    KNOBS: ClassVar[tuple[str, ...]] = KNOBS

    tp: npt.NDArray[np.float64]
    pp: npt.NDArray[np.float64]
    dp: npt.NDArray[np.float64]
    cp: npt.NDArray[np.float64]
    ep: npt.NDArray[np.float64]
    moe_tp: npt.NDArray[np.float64]
    concurrency: npt.NDArray[np.float64]

    @property
    def devices(self) -> npt.NDArray[np.float64]:
        """Devices of one replica."""
        return self.tp * self.pp * self.dp * self.cp

    def row(self, index: int) -> dict[str, int]:
        """Knobs of one plan.

        Parameters
        ----------
        index : int
            Flat position in the grid.

        Returns
        -------
        dict
            Knob -> value.
        """
        return {name: int(pick(value, self.shape, index)) for name, value in self.knobs()}


def plans(**knobs: npt.ArrayLike) -> PlanGrid:
    """Build plans from numbers or arrays that broadcast against each other; what is not named is 1.

    Where `ep` is named and `moe_tp` is not, `moe_tp` fills the stage: tp x dp x cp / ep.

    Parameters
    ----------
    **knobs
        tp, pp, dp, cp, ep, moe_tp, concurrency.

    Returns
    -------
    PlanGrid
        The plans.

    Raises
    ------
    PlanError
        If a knob is unknown, not a whole number or below 1, or the arrays do not broadcast.

    Examples
    --------
    >>> grid = plans(tp=8, dp=4, ep=32)
    >>> float(grid.devices), float(grid.moe_tp)
    (32.0, 1.0)
    """
    unknown = set(knobs) - set(KNOBS)
    if unknown:
        raise PlanError(f"unknown plan knob {sorted(unknown)[0]!r}; a plan has {', '.join(KNOBS)}")
    columns: dict[str, npt.NDArray[np.float64]] = {}
    for name in KNOBS:
        value = knob(name, knobs.get(name, 1.0))
        if not np.all(np.isfinite(value)) or np.any(value < 1) or np.any(value != np.floor(value)):
            bad = value.ravel()[np.argmax(~(value.ravel() >= 1) | (value.ravel() != np.floor(value.ravel())))]
            raise PlanError(f"{name} must be a whole number of at least 1, not {bad:g}")
        columns[name] = value
    if "ep" in knobs and "moe_tp" not in knobs:
        columns["moe_tp"] = np.maximum(columns["tp"] * columns["dp"] * columns["cp"] / columns["ep"], 1.0)
    grid = PlanGrid(**columns)
    try:
        _ = grid.shape
    except ValueError as error:
        raise PlanError(f"plan arrays do not broadcast against each other: {error}") from None
    return grid


def serving_splits(
    gpus: int,
    *,
    tensor_limit: int,
    layers: int,
    experts: int = 0,
    chosen: Mapping[str, int] | None = None,
) -> PlanGrid:
    """Enumerate the splits of one replica that use all of a number of devices.

    Every (tp, pp, dp, ep) for which replicas x tp x pp x dp = `gpus` with whole replicas. Attention data
    parallelism inside a replica and expert groups exist only for a mixture of experts: for a dense model, dp
    ranks would be replicas. Divisibility by the model's heads is left to the rules, which give a reason.

    Parameters
    ----------
    gpus : int
        Devices to use.
    tensor_limit : int
        Largest tensor-parallel group worth trying (query heads of the model).
    layers : int
        Layers of the model: the largest number of pipeline stages.
    experts : int
        Routed experts per layer; 0 for a dense model.
    chosen : mapping, optional
        Knobs held at one value.

    Returns
    -------
    PlanGrid
        One-dimensional, one entry per split, concurrency 1.

    Raises
    ------
    PlanError
        If no split has the chosen values on that many devices.

    Examples
    --------
    >>> serving_splits(4, tensor_limit=64, layers=80).tp.tolist()
    [1.0, 1.0, 1.0, 2.0, 2.0, 4.0]
    """
    if gpus < 1:
        raise PlanError(f"gpus must be at least 1, not {gpus}")
    held = dict(chosen or {})
    if unknown := sorted(set(held) - set(KNOBS)):
        raise PlanError(f"unknown plan knob {unknown[0]!r}; a plan has {', '.join(KNOBS)}")
    divisors = [d for d in range(1, gpus + 1) if gpus % d == 0]
    rows: list[tuple[int, int, int, int, int]] = []
    for tp in (d for d in divisors if d <= tensor_limit):
        for pp in (d for d in divisors if (gpus // tp) % d == 0 and d <= layers):
            for dp in [d for d in divisors if (gpus // (tp * pp)) % d == 0] if experts else [1]:
                ranks = tp * dp
                groups = [d for d in range(1, ranks + 1) if ranks % d == 0 and d <= experts] if experts else [1]
                rows.extend((tp, pp, dp, ep, ranks // ep if experts else 1) for ep in groups)
    names = ("tp", "pp", "dp", "ep", "moe_tp")
    rows = [row for row in rows if all(held.get(name, value) == value for name, value in zip(names, row, strict=True))]
    if not rows or held.get("cp", 1) != 1:
        wanted = ", ".join(f"{k}={v}" for k, v in held.items())
        raise PlanError(f"no split of {gpus} devices has {wanted}: tp x pp x dp must divide the number of devices")
    table = np.array(rows, dtype=np.float64)
    return plans(**{name: table[:, i] for i, name in enumerate(names)})


def concurrency_ladder(limit: int) -> npt.NDArray[np.float64]:
    """Concurrencies worth trying: every whole number up to 16, then eight steps per doubling.

    Parameters
    ----------
    limit : int
        Largest concurrency, itself included.

    Returns
    -------
    numpy.ndarray
        Increasing whole numbers from 1 to `limit`.

    Examples
    --------
    >>> concurrency_ladder(20).tolist()[-4:]
    [16.0, 17.0, 19.0, 20.0]
    """
    steps = np.round(16.0 * 2.0 ** (np.arange(1, 8 * 40) / 8.0))
    every = np.concatenate([np.arange(1.0, 17.0), steps])
    return np.unique(np.concatenate([every[every < limit], [float(limit)]]))
