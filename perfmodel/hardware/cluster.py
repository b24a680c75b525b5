"""Clusters whose nodes are not connected alike: bandwidth between every pair of nodes [B/s], speed of every node."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.errors import PlanError, UnitError
from perfmodel.units import parse

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """Nodes and the bandwidth between any two of them.

    Parameters
    ----------
    names : tuple of str
        Nodes.
    bandwidth : numpy.ndarray
        Of shape (nodes, nodes): what one device of a node sends to the other node when all of its node do [B/s].
    speed : numpy.ndarray
        How fast the devices of a node compute, relative to the system's [1].
    """

    names: tuple[str, ...]
    bandwidth: npt.NDArray[np.float64]
    speed: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        nodes = len(self.names)
        if self.bandwidth.shape != (nodes, nodes) or self.speed.shape != (nodes,):
            raise PlanError(f"{nodes} nodes need a bandwidth for each of {nodes} x {nodes} pairs and a speed each")
        if nodes < 2 or len(set(self.names)) < nodes:
            raise PlanError("a cluster needs at least two nodes, each with a name of its own")
        apart = self.bandwidth[~np.eye(nodes, dtype=bool)]
        if not np.all((apart > 0) & np.isfinite(apart)):
            raise PlanError("the bandwidth between two nodes must be above zero")
        if not np.all((self.speed > 0) & np.isfinite(self.speed)):
            raise PlanError("the speed of a node must be above zero")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def both_ways(self) -> npt.NDArray[np.float64]:
        """Bandwidth of the slower direction of every pair, infinite within a node [B/s]."""
        slower = np.minimum(self.bandwidth, self.bandwidth.T)
        return np.where(np.eye(len(self), dtype=bool), np.inf, slower)


def cluster_of_islands(islands: str, between: str) -> Cluster:
    """Build a cluster of islands, each of which has a network of its own.

    Parameters
    ----------
    islands : str
        Nodes and bandwidth per device of every island, "4x25GB/s, 4x12.5GB/s"; "@0.8" behind one slows its devices.
    between : str
        Bandwidth per device from one island to another.

    Returns
    -------
    Cluster
        Nodes a1, a2 ... of the first island, b1 ... of the second.

    Raises
    ------
    PlanError
        If the text is no such list.

    Examples
    --------
    >>> cluster = cluster_of_islands("2x25GB/s, 2x10GB/s@0.8", "3GB/s")
    >>> cluster.names, float(cluster.bandwidth[0, 2] / 1e9), float(cluster.speed[3])
    (('a1', 'a2', 'b1', 'b2'), 3.0, 0.8)
    """
    parts = [part.strip() for part in islands.split(",") if part.strip()]
    if len(parts) > len(_LETTERS):
        raise PlanError(f"{len(parts)} islands; name at most {len(_LETTERS)}, or give a table of bandwidths")
    example = "write for instance '4x25GB/s, 4x12.5GB/s'"
    names: list[str] = []
    owner: list[int] = []
    rates: list[float] = []
    speeds: list[float] = []
    for i, part in enumerate(parts):
        count, times, rest = part.partition("x")
        rate, _, speed = rest.partition("@")
        try:
            nodes, factor = int(count), float(speed or 1.0)
            rates.append(parse(rate, "bandwidth"))
        except (ValueError, UnitError) as error:
            raise PlanError(f"island {part!r}: {error}; {example}") from None
        if not times or nodes < 1:
            raise PlanError(f"island {part!r} has no number of nodes; {example}")
        names += [f"{_LETTERS[i]}{j + 1}" for j in range(nodes)]
        owner += [i] * nodes
        speeds += [factor] * nodes
    try:
        slow = parse(between, "bandwidth")
    except UnitError as error:
        raise PlanError(f"between islands: {error}") from None
    island = np.array(owner, dtype=np.int64)
    inside = np.array(rates, dtype=np.float64)[island] if len(island) else np.zeros(0)
    bandwidth = np.where(island[:, None] == island[None, :], inside[:, None], slow)
    return Cluster(tuple(names), bandwidth, np.array(speeds, dtype=np.float64))


def read_cluster(path: str | os.PathLike[str]) -> Cluster:
    """Read measured bandwidths between nodes from a CSV file.

    The first row and the first column name the nodes; a cell is the bandwidth per device from the row's node to the
    column's, with its unit, and the diagonal is not read. A last column `speed` is optional.

    Parameters
    ----------
    path : path
        File.

    Returns
    -------
    Cluster
        The nodes in the order of the file.

    Raises
    ------
    PlanError
        If the file is no such table; the message names row and column.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{os.fspath(path)}: {getattr(error, 'strerror', None) or 'is not a text file'}") from None
    if len(rows) < 3:
        raise PlanError(f"{os.fspath(path)}: a row of names and a row for each of at least two nodes are wanted")
    header = [cell.strip() for cell in rows[0][1:]]
    paced = bool(header) and header[-1] == "speed"
    names = header[:-1] if paced else header
    found = [row[0].strip() for row in rows[1:]]
    if found != names:
        raise PlanError(f"{os.fspath(path)}: rows are {', '.join(found)}, and columns {', '.join(names)}")
    bandwidth = np.zeros((len(names), len(names)))
    speed = np.ones(len(names))
    for i, row in enumerate(rows[1:]):
        speed[i] = _cell(path, row, names[i], "speed", len(names) + 1) if paced else 1.0
        for j, name in enumerate(names):
            bandwidth[i, j] = 0.0 if i == j else _cell(path, row, names[i], name, j + 1)
    return Cluster(tuple(names), bandwidth, speed)


def _cell(path: str | os.PathLike[str], row: Sequence[str], node: str, column: str, at: int) -> float:
    text = row[at].strip() if at < len(row) else ""
    try:
        return float(text) if column == "speed" else parse(text, "bandwidth")
    except (ValueError, UnitError) as error:
        raise PlanError(f"{os.fspath(path)}: row {node}, column {column}: {error}") from None
