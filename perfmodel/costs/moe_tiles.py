"""Time of one grouped matrix product over experts with unequal rows: tile menus, waves, overlap with memory."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from perfmodel.arrays import clipped
from perfmodel.costs.expert_load import ExpertLoad

WAVE_SOFTNESS = 0.15
"""Part of the last wave's idle cores that finds other work."""


class Tile(NamedTuple):
    """Output tile of a grouped product.

    Parameters
    ----------
    rows, columns : int
        Size of the tile.
    depth : int
        Depth of one pipeline step.
    resident : int
        Tiles that share a core.
    """

    rows: int
    columns: int
    depth: int
    resident: int = 1


class Menu(NamedTuple):
    """Tiles that a kernel family may use.

    Parameters
    ----------
    tiles : tuple of Tile
        Tiles, the smallest first.
    height : int
        Rows for which the matrix unit works at least, however few there are.
    choice : str
        "fastest" where kernels are tuned, "average" by mean rows per expert, "tokens" by tokens against experts.
    """

    tiles: tuple[Tile, ...]
    height: int
    choice: str = "fastest"

    def columns(self, dimensions: int) -> tuple[Any, ...]:
        """Rows, columns, depths and residents of all tiles, along the first axis.

        Parameters
        ----------
        dimensions : int
            Axes of the arrays that follow.

        Returns
        -------
        tuple of numpy.ndarray
            One array for each field of `Tile`.
        """
        shape = (-1, *(1,) * dimensions)
        return tuple(np.array(values, dtype=np.float64).reshape(shape) for values in zip(*self.tiles, strict=True))

    @property
    def shares_cores(self) -> bool:
        """Whether several tiles of a kind run on one core."""
        return any(tile.resident > 1 for tile in self.tiles)


def _ladder(top: int) -> tuple[Tile, ...]:
    return tuple(Tile(rows, 128, 128) for rows in (8, 16, 32, 64, 128, 256) if rows <= top)


MENUS: Mapping[str, Menu] = MappingProxyType(
    {
        "grouped": Menu(
            (Tile(16, 64, 64), Tile(64, 64, 64), Tile(64, 128, 64), Tile(128, 128, 64), Tile(128, 256, 64)), 16
        ),
        "swapped": Menu(_ladder(128), 8),
        "averaged": Menu(_ladder(256), 8, "average"),
        "narrow": Menu(_ladder(64), 8, "average"),
        "triton": Menu((Tile(16, 32, 64, 8), Tile(64, 64, 32, 4)), 16, "tokens"),
        "block": Menu((Tile(64, 128, 128),), 64),
    }
)
"""Tile menus by kernel family: grouped CUTLASS kernels, kernels whose tile narrows with the rows (operands swapped)
and are tuned or chosen by mean rows, weight-only kernels with narrow tiles (Marlin), Triton without a tuned
configuration, and one fixed tile."""


def product_time(
    load: ExpertLoad,
    tiles: Any,
    columns: Any,
    depth: Any,
    memory_s: Any,
    chosen: Any,
    menu: Menu,
    n: Mapping[str, Any],
) -> Any:
    """Time of one grouped product: tiles in waves over the cores, overlapped with memory.

    Parameters
    ----------
    load : ExpertLoad
        Rows of the rank's experts.
    tiles : array
        Row tiles; the first axis is that of the menu's tiles.
    columns, depth : array
        Output features, and length of the inner products.
    memory_s : array
        Time of the product's bytes [s].
    chosen : array or None
        Where each tile is used; None if the fastest is.
    menu : Menu
        Tiles of the kernel family.
    n : mapping
        Hardware numbers and coefficients by the names of `experts_grouped`.

    Returns
    -------
    numpy.ndarray
        Time [s].
    """
    rows, wide, deep, resident = menu.columns(load.rows.ndim)
    filled = np.maximum(load.rows / np.maximum(load.active, 1e-300), 1.0)
    waves = tiles * np.ceil(columns / wide) / n["cores"]
    arithmetic = 2.0 * np.maximum(rows, menu.height) * wide * n["cores"]
    per_depth = arithmetic / (n["flops_efficiency"] * n["peak_flops"])
    operands = np.minimum(rows, filled) * n["activation_bytes"] + wide * n["weight_bytes"]
    busy_s = depth * np.maximum(per_depth, operands / n["fill_rate"])
    latency_s = np.ceil(depth / deep) * n["step_s"]
    rounds = waves / resident
    rounds = (1.0 - WAVE_SOFTNESS) * np.ceil(rounds - 1e-9) + WAVE_SOFTNESS * np.maximum(rounds, 1.0)
    time = rounds * (n["tile_s"] + np.maximum(busy_s, latency_s))
    if menu.shares_cores:
        time = np.maximum(time, np.where(resident > 1, waves * busy_s, 0.0))
    best = (time if chosen is None else np.where(chosen, time, np.inf)).min(axis=0)
    p = n["overlap"]
    larger = np.maximum(best, memory_s)
    ratio = np.minimum(best, memory_s) / np.maximum(larger, 1e-300)
    return larger * (1.0 + ratio**p) ** (1.0 / p)


def tile_choice(menu: Menu, tokens: Any, local: Any, topk: Any) -> Any:
    """Masks of where a kernel family uses which tile.

    Parameters
    ----------
    menu : Menu
        Tiles and rule of choice.
    tokens, local, topk : array
        Tokens on all ranks, experts of one rank, experts per token.

    Returns
    -------
    array or None
        One mask for each tile, along the first axis; None if the family always runs its fastest tile.
    """
    heights, *_ = menu.columns(np.ndim(tokens))
    if menu.choice == "average":
        # The mean is taken over the rank's own experts as if all picks were theirs, as the kernels' hosts do.
        mean = np.log2(np.maximum(tokens * topk / local, 1.0))
        return heights == clipped(2.0 ** np.ceil(mean - 1e-9), menu.tiles[0].rows, menu.tiles[-1].rows)
    if menu.choice == "tokens":
        small = heights == menu.tiles[0].rows
        return small == (tokens <= local)
    return None
