"""Comparison of deployments that compute prompts and tokens on the same workers with those that separate them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perfmodel.ranking.separate import RANKED_BY, SeparateRanking
from perfmodel.ranking.serving import Ranking
from perfmodel.ranking.ties import fewer_stages_first


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both kinds of deployments in one order.

    Parameters
    ----------
    together : Ranking, optional
        Plans whose workers do both; None where none is feasible or they were not asked for.
    separate : SeparateRanking, optional
        Deployments with separate workers; likewise.
    missing : tuple of str
        Why one of the two is absent.
    by : str
        What tokens are ranked per: "gpu", "cost" or "energy".
    fewest : mapping
        together, separate -> fewest devices that sustain the rate that was asked for, where one was.
    """

    together: Ranking | None
    separate: SeparateRanking | None
    missing: tuple[str, ...] = ()
    by: str = "gpu"
    fewest: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(part) for part in (self.together, self.separate) if part)

    def rows(self, top: int) -> list[dict[str, Any]]:
        """Best deployments of either kind by output tokens per second and device; near-ties as in either ranking.

        Parameters
        ----------
        top : int
            Rows at most.

        Returns
        -------
        list of dict
            Rows of the two rankings, ranked together; `workers` says which kind one is.
        """
        rows: list[dict[str, Any]] = []
        for kind, part in (("together", self.together), ("separate", self.separate)):
            if part:
                rows += [part.row(i) | {"workers": kind} for i in range(1, min(top, len(part)) + 1)]
        rate = np.array([row[RANKED_BY[self.by]] for row in rows])
        rate = rate if self.by == "gpu" else 1.0 / rate
        stages = np.array([float(row.get("decode_pp", row.get("pp", 1))) for row in rows])
        order = np.argsort(-rate, kind="stable")
        order = order[fewer_stages_first(rate[order], stages[order])][:top]
        return [rows[i] | {"rank": rank} for rank, i in enumerate(order, start=1)]

    @property
    def searched(self) -> int:
        """Deployments evaluated."""
        return sum(part.searched for part in (self.together, self.separate) if part)

    @property
    def seconds(self) -> float:
        """Time that the searches took [s]."""
        return sum(part.seconds for part in (self.together, self.separate) if part)


def fewest_devices(feasible: Callable[[int], bool], most: int) -> int:
    """Fewest devices on which a deployment is feasible, given that it is on the most.

    Parameters
    ----------
    feasible : callable
        Number of devices -> whether any deployment on so many meets all limits.
    most : int
        Devices on which one does.

    Returns
    -------
    int
        Devices; found by halving, which takes more devices for never worse than fewer.

    Examples
    --------
    >>> fewest_devices(lambda devices: devices >= 11, 64)
    11
    """
    low, high = 2, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if feasible(middle) else (middle + 1, high)
    return high
