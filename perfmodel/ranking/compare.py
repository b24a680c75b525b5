"""Comparison of deployments that compute prompts and tokens on the same workers with those that separate them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perfmodel.ranking.separate import SeparateRanking
from perfmodel.ranking.separate_search import RANKED_BY
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
        rate = np.array([self.worth(row) for row in rows])
        stages = np.array([float(row.get("decode_pp", row.get("pp", 1))) for row in rows])
        order = np.argsort(-rate, kind="stable")
        order = order[fewer_stages_first(rate[order], stages[order])][:top]
        return [rows[i] | {"rank": rank} for rank, i in enumerate(order, start=1)]

    def worth(self, row: Mapping[str, Any]) -> float:
        """What deployments are ranked by.

        Parameters
        ----------
        row : mapping
            A row of either kind, with `workers`.

        Returns
        -------
        float
            Tokens per second of the whole deployment, per US dollar or per joule; more is better.
        """
        if self.by != "gpu":
            return 1.0 / float(row[RANKED_BY[self.by]])
        return float(row["tokens_per_s" if row["workers"] == "separate" else "deployment_tokens_per_s"])

    @property
    def searched(self) -> int:
        """Deployments evaluated."""
        return sum(part.searched for part in (self.together, self.separate) if part)

    @property
    def seconds(self) -> float:
        """Time that the searches took [s]."""
        return sum(part.seconds for part in (self.together, self.separate) if part)
