"""Search for deployments with separate workers: the best concurrency and numbers of workers of every pair of splits."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Array, as_floats
from perfmodel.estimate.serving.pools import Link, Prompts, Tokens
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.rules import judge
from perfmodel.ranking.concurrencies import between_steps
from perfmodel.ranking.limits import Limits
from perfmodel.ranking.separate_pairs import Pairs, deployment_rules, deployments, economy, pair_up
from perfmodel.ranking.separate_pools import DecodePool
from perfmodel.ranking.separate_sizes import Budget, asked_rate, near, needed_rate, sizes
from perfmodel.ranking.ties import NEAR_TIE

Places: TypeAlias = npt.NDArray[np.int64]

RANKED_BY = {"gpu": "tokens_per_s", "cost": "usd_per_million_tokens", "energy": "energy_per_token_j"}
"""What deployments can be ranked by, and the column that says it: of one budget all tokens per second."""

ENOUGH = 32
"""Decode splits whose best deployment is sought; others that cannot be among so many best are not looked at."""

PART = 300_000
"""Deployments that are looked at together: a column of them stays in the processor's cache."""

PARTS = 16
"""Parts after which nothing further is looked for where enough was found: of those that promised most."""

CLOSE = 0.9
"""Share of its decode split's best from which a pair is closed in on: steps of the ladder lie a tenth apart."""

REACH = 64
"""Decode workers more and fewer than the best so far that are tried in the end."""


@dataclass(slots=True)
class Tally:
    """What a search has looked at.

    Parameters
    ----------
    searched : int
        Deployments.
    infeasible : dict
        Reason -> number of deployments or, where one of their workers cannot be, of workers.
    """

    searched: int = 0
    infeasible: dict[str, int] = field(default_factory=dict)

    def add(self, searched: int, infeasible: Mapping[str, int]) -> None:
        """Count more.

        Parameters
        ----------
        searched : int
            Deployments.
        infeasible : mapping
            Reasons.
        """
        self.searched += searched
        for reason, count in infeasible.items():
            self.infeasible[reason] = self.infeasible.get(reason, 0) + count


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Decode workers at every concurrency of the ladder that they can run at.

    Parameters
    ----------
    grid : PlanGrid
        Splits by concurrencies.
    tokens : Tokens
        What one of them does.
    split, step : numpy.ndarray
        Split and step of the ladder of each that can be.
    tally : Tally
        Workers that cannot be.
    """

    grid: PlanGrid
    tokens: Tokens
    split: Places
    step: Places
    tally: Tally


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """Deployments of two pools under a budget.

    Parameters
    ----------
    gpus : int
        Devices that rates per device count.
    budget : Budget
        Devices, money and power at most.
    pool : PlanGrid
        Splits of a prefill worker.
    prompts : Prompts
        What one does.
    decode : DecodePool
        Decode workers.
    link : Link
        What the cache crosses.
    prices : tuple of float
        Price of one device of either kind for one hour [USD/h].
    powers : tuple of float or None
        Power limit of one device of either kind [W].
    by : str
        One of `RANKED_BY`.
    """

    gpus: int
    budget: Budget
    pool: PlanGrid
    prompts: Prompts
    decode: DecodePool
    link: Link
    prices: tuple[float, float]
    powers: tuple[float | None, float | None]
    by: str

    def within(self, gpus: int) -> "Search":
        """Search on fewer devices.

        Parameters
        ----------
        gpus : int
            Devices.

        Returns
        -------
        Search
            The same pools; workers that need more are left out by the budget.
        """
        budget = replace(self.budget, totals=(float(gpus), *self.budget.totals[1:]))
        return replace(self, gpus=gpus, budget=budget)

    def candidates(self) -> Candidates:
        """Time the decode workers.

        Returns
        -------
        Candidates
            Those that can be.
        """
        grid, tokens, rules = self.decode.at(np.arange(self.decode.splits.size), self.decode.ladder)
        verdicts = judge(grid.shape, rules)
        split, step = np.nonzero(verdicts.feasible.reshape(grid.shape))
        tally = Tally()
        tally.add(grid.size, verdicts.counts())
        tally.add(sum(self.decode.refused.values()), self.decode.refused)
        return Candidates(grid, tokens, split, step, tally)

    def best(self, candidates: Candidates) -> tuple[dict[str, Array] | None, Tally]:
        """Best deployment of each of the `ENOUGH` best decode splits.

        Parameters
        ----------
        candidates : Candidates
            Decode workers.

        Returns
        -------
        tuple
            Columns of deployments, None where nothing is feasible: what `deployments` and `economy` give, `prefill`
            and `decode` as positions of splits, `held` as requests on one decode worker, and `value`, larger better.
            And what was looked at.
        """
        tally = replace(candidates.tally, infeasible=dict(candidates.tally.infeasible))
        # Of every decode split and prefill split the values along the ladder, -inf for what was not looked at.
        table = np.full((self.decode.splits.size, self.pool.size, self.decode.ladder.size), -np.inf, dtype=np.float32)
        most = np.full(self.decode.splits.size, -np.inf)
        for number, (part, bound) in enumerate(self._parts(candidates)):
            enough = np.partition(most, -ENOUGH)[-ENOUGH] if most.size >= ENOUGH else -np.inf
            if enough >= bound or (number >= PARTS and np.isfinite(most).sum() >= min(ENOUGH, most.size)):
                break
            values = self._values(self._pairs(candidates, part), tally)
            table[candidates.split[part], :, candidates.step[part]] = values.T
            np.maximum.at(most, candidates.split[part], values.max(axis=0))
        chosen = np.argsort(-most, kind="stable")[:ENOUGH]
        chosen = np.sort(chosen[np.isfinite(most[chosen])])
        if not chosen.size:
            return None, tally
        found = self._closed_in(chosen, table[chosen].astype(np.float64), tally)
        return (found if len(found["value"]) else None), tally

    def suffices(self, candidates: Candidates) -> bool:
        """Whether any deployment meets all limits.

        Parameters
        ----------
        candidates : Candidates
            Decode workers.

        Returns
        -------
        bool
            True where one is found.
        """
        wanted = self.decode.limits.rate * float(np.max(self.decode.workload.osl)) if self.by == "gpu" else -np.inf
        for part, bound in self._parts(candidates):
            if bound < wanted:
                break
            reached = self._values(self._pairs(candidates, part), Tally()).max()
            if np.isfinite(reached) and reached >= wanted:
                return True
        return self.best(candidates)[0] is not None

    def nearest(self) -> dict[str, float] | None:
        """Deployment that exceeds the limits by least.

        Returns
        -------
        dict or None
            Columns of `deployments`; None where the budget does not pay for a worker of each kind.
        """
        limits = self.decode.limits
        lifted = replace(self, decode=replace(self.decode, limits=Limits()))
        candidates = lifted.candidates()
        least, found = np.inf, None
        for part, _ in lifted._parts(candidates):
            pairs = self._pairs(candidates, part).of(lambda v: v[..., None])
            mesh = deployments(pairs, self.decode.workload, self.gpus, *self._sizes(pairs))
            late = mesh.get("ttft_p99_s", mesh["ttft_s"])
            # An endless wait exceeds no limit where there is none.
            with np.errstate(invalid="ignore"):
                excess = np.maximum(mesh["ttft_s"] / limits.ttft_s, mesh["tpot_s"] / limits.tpot_s)
                excess = np.maximum(excess, np.maximum(late / limits.ttft_p99_s, limits.rate / mesh["requests_per_s"]))
            excess = np.where((mesh["enough"] > 0) & ~np.isnan(excess), excess, np.inf)
            at = np.unravel_index(excess.argmin(), excess.shape)
            if excess[at] < least:
                least, found = excess[at], {name: float(values[at]) for name, values in mesh.items()}
        return found

    def _pairs(self, candidates: Candidates, part: Places) -> Pairs:
        """Every prefill worker with some of the decode workers."""
        grid, split, step = candidates.grid, candidates.split[part], candidates.step[part]
        return pair_up(
            self.decode.model,
            self.link,
            (self.pool, self.prompts, lambda v: np.broadcast_to(as_floats(v), self.pool.shape)[:, None]),
            (grid, candidates.tokens, lambda v: np.broadcast_to(as_floats(v), grid.shape)[split, step]),
        )

    def _parts(self, candidates: Candidates) -> Iterator[tuple[Places, float]]:
        """Decode workers in parts, those that may be best first, and the most that any of a part can reach.

        That is with the best of all prefill workers, which need not be whole, up to the next step of the ladder, and
        with no time for the transfer.
        """
        workload, limits, ladder = self.decode.workload, self.decode.limits, self.decode.ladder
        osl = as_floats(workload.osl)
        pairs = self._pairs(candidates, np.arange(0))
        rate_each = (pairs.prompt_rate / pairs.prefill_gpus).max()
        grid, tokens, at = candidates.grid, candidates.tokens, (candidates.split, candidates.step)

        def second(values: object) -> Array:
            return as_floats(np.broadcast_to(as_floats(values), grid.shape)[at])

        ideal = Pairs(
            prompt_s=np.full(1, pairs.prompt_s.min()),
            transfer_s=np.zeros(1),
            prompt_rate=np.full(1, rate_each),
            prefill_gpus=np.ones(1),
            prefill_dp=np.ones(1),
            token_s=second(tokens.token_s),
            stream_s=second(tokens.stream_s),
            # The next step of the ladder takes no less time.
            requests=np.append(ladder, ladder[-1] + 1.0)[candidates.step + 1],
            places=second(tokens.places),
            decode_gpus=second(grid.devices),
            decode_dp=second(grid.dp),
        )
        asked = asked_rate(ideal, workload, waiting=False)
        if self.by == "gpu":
            demand = np.maximum(asked, needed_rate(ideal, workload, limits))
            value = self.budget.matched(ideal, demand) * asked * osl
            value = np.where(value >= limits.rate * osl, value, -np.inf)
        else:
            first, last = self.prices if self.by == "cost" else (power or np.nan for power in self.powers)
            per_hour = 3600.0 / 1e6 if self.by == "cost" else 1.0
            with np.errstate(divide="ignore"):
                value = per_hour * osl / (first / rate_each + last * ideal.decode_gpus / asked)
        value = np.where(ideal.begun_s() <= min(limits.ttft_s, limits.ttft_p99_s), value, -np.inf)
        order = np.argsort(-value, kind="stable")
        order = order[np.isfinite(value[order])]
        size = max(PART // self.pool.size, 1)
        for start in range(0, len(order), size):
            yield np.sort(order[start : start + size]), float(value[order[start]])

    def _closed_in(self, splits: Places, table: Array, tally: Tally) -> dict[str, Array]:
        """Best deployment of each of some decode splits, its concurrency between the steps of the ladder."""
        best = table.max(axis=2)
        rows, prefill = np.nonzero((best >= CLOSE * best.max(axis=1, keepdims=True)) & np.isfinite(best))
        decode, ladder = splits[rows], self.decode.ladder

        def pairs_at(some: Places, concurrencies: Array) -> tuple[Pairs, npt.NDArray[np.bool_]]:
            grid, tokens, rules = self.decode.at(decode[some], concurrencies)
            first = prefill[some]
            pairs = pair_up(
                self.decode.model,
                self.link,
                (self.pool, self.prompts, lambda v: np.broadcast_to(as_floats(v), self.pool.shape)[first][:, None]),
                (grid, tokens, lambda v: np.broadcast_to(as_floats(v), grid.shape)),
            )
            return pairs, judge(grid.shape, rules).feasible.reshape(grid.shape)

        def score(some: Places, concurrencies: Array) -> Array:
            pairs, fits = pairs_at(some, concurrencies)
            return np.where(fits, self._values(pairs, tally), -np.inf)

        # Ranks share requests evenly, so what is no multiple of them waits for the fullest.
        unit = self.decode.splits.column("dp")[decode] if self.decode.workload.arrivals == "closed" else 1.0
        # Beside the best the most requests that a worker can run: where steps are uneven the rate has many peaks.
        tried = np.stack(
            [between_steps(score, ladder, table[rows, prefill], unit), self._most_held(splits)[rows]], axis=1
        )
        held = np.take_along_axis(tried, score(np.arange(len(rows)), tried).argmax(axis=1)[:, None], axis=1)
        pairs, fits = pairs_at(np.arange(len(rows)), held)
        columns = self._deployed(pairs, tally)
        # At that concurrency every number of workers near the best is tried.
        first, second = (columns[f"{phase}_workers"][..., None] for phase in ("prefill", "decode"))
        workers = near(first, second, pairs.of(lambda v: v[..., None]), self.budget, REACH)
        columns = {name: values[:, 0] for name, values in self._deployed(pairs, tally, workers).items()}
        columns |= economy(columns, pairs.of(lambda v: np.broadcast_to(v, fits.shape)[:, 0]), self.prices, self.powers)
        columns |= {"prefill": as_floats(prefill), "decode": as_floats(decode), "held": held[:, 0]}
        kept = fits[:, 0] & (columns["requests_per_s"] >= self.decode.limits.rate)
        columns["value"] = np.where(kept, columns["value"], -np.inf)
        return self._suited(columns)

    def _most_held(self, splits: Places) -> Array:
        """Most requests that a worker of each split can run."""

        def score(some: Places, concurrencies: Array) -> Array:
            grid, _, rules = self.decode.at(splits[some], concurrencies)
            return np.where(judge(grid.shape, rules).feasible.reshape(grid.shape), grid.concurrency, -np.inf)

        ladder = self.decode.ladder
        return between_steps(
            score, ladder, score(np.arange(len(splits)), ladder), self.decode.splits.column("dp")[splits]
        )

    def _suited(self, columns: dict[str, Array]) -> dict[str, Array]:
        """Of every decode split the deployment with the best prefill split; of near-ties the one of fewest stages."""
        value, decode = columns["value"], columns["decode"].astype(int)
        most = np.full(self.decode.splits.size, -np.inf)
        np.maximum.at(most, decode, value)
        level = (value >= (1.0 - NEAR_TIE) * most[decode]) & np.isfinite(value)
        stages = self.pool.column("pp")[columns["prefill"].astype(int)]
        order = np.lexsort((-value, np.where(level, stages, np.inf), decode))
        first = order[np.unique(decode[order], return_index=True)[1]]
        first = first[level[first]]
        return {name: values[first] for name, values in columns.items()}

    def _deployed(self, pairs: Pairs, tally: Tally, workers: tuple[Array, Array] | None = None) -> dict[str, Array]:
        """Columns of the best numbers of workers of every pair; the value is -inf where none can be."""
        pairs = pairs.of(lambda v: v[..., None])
        mesh, value = self._mesh(pairs, tally, workers or self._sizes(pairs))
        # Of equals the one with the shortest TTFT.
        top = value == value.max(axis=-1, keepdims=True)
        at = np.where(top, mesh["ttft_s"], np.inf).argmin(axis=-1)[..., None]
        mesh["value"] = value
        return {name: np.take_along_axis(values, at, axis=-1)[..., 0] for name, values in mesh.items()}

    def _values(self, pairs: Pairs, tally: Tally) -> Array:
        """Value of the best numbers of workers of every pair."""
        pairs = pairs.of(lambda v: v[..., None])
        return as_floats(self._mesh(pairs, tally, self._sizes(pairs))[1].max(axis=-1))

    def _sizes(self, pairs: Pairs) -> tuple[Array, Array]:
        return sizes(pairs, self.decode.workload, self.budget, self.decode.limits, all_of_it=self.by == "gpu")

    def _mesh(self, pairs: Pairs, tally: Tally, workers: tuple[Array, Array]) -> tuple[dict[str, Array], Array]:
        """Columns of deployments, and what each is worth: -inf where it cannot be."""
        limits = self.decode.limits
        mesh = deployments(pairs, self.decode.workload, self.gpus, *workers)
        # Where more tokens are better, too low a rate does not count: what is best may reach it.
        lowest = 0.0 if self.by == "gpu" else limits.rate
        verdicts = judge(mesh["ttft_s"].shape, deployment_rules(mesh, replace(limits, rate=lowest)))
        tally.add(mesh["ttft_s"].size, verdicts.counts())
        if self.by == "gpu":
            value = mesh["tokens_per_s"]
        else:
            value = 1.0 / economy(mesh, pairs, self.prices, self.powers)[RANKED_BY[self.by]]
        return mesh, np.where(verdicts.feasible.reshape(value.shape), value, -np.inf)
