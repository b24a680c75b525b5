"""Numbers of prefill and decode workers worth trying under a budget of devices, money and power."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perfmodel.arrays import Array, as_floats
from perfmodel.costs.pools import matched_workers
from perfmodel.errors import PlanError
from perfmodel.estimate.serving.disaggregated import HANDOFF
from perfmodel.estimate.serving.workload import Workload
from perfmodel.ranking.limits import Limits
from perfmodel.ranking.separate_pairs import Pairs

AROUND = np.arange(3.0)
"""Workers tried beyond the whole number below a match: the second for what the waits add to the demand."""

SPARE = np.array([0.0, 1.0, 2.0, 4.0, 8.0, 16.0])
"""The same for prefill workers under Poisson arrivals, which need room to keep their queue short."""

FEW = np.arange(4.0)
"""Workers beyond the fewest that are tried where it is not the most tokens that are sought."""

_ROUNDING = 1e-9
"""Share of a worker by which sums of prices may be off."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What all workers together may take, and what one device of either kind takes of it.

    Parameters
    ----------
    totals : tuple of float
        Devices, and where there is a limit on them money per hour and power.
    prefill, decode : tuple of float
        What one device of a prefill worker and of a decode worker takes of each.
    """

    totals: tuple[float, ...]
    prefill: tuple[float, ...]
    decode: tuple[float, ...]

    def prefill_left(self, pairs: Pairs, decode_workers: Array) -> Array:
        """Most prefill workers beside so many decode workers.

        Parameters
        ----------
        pairs : Pairs
            A worker of each kind.
        decode_workers : numpy.ndarray
            Decode workers.

        Returns
        -------
        numpy.ndarray
            Workers; less than 1 where none is left.
        """
        return self._left(pairs.prefill_gpus, self.prefill, pairs.decode_gpus * decode_workers, self.decode)

    def decode_left(self, pairs: Pairs, prefill_workers: Array) -> Array:
        """Most decode workers beside so many prefill workers.

        Parameters
        ----------
        pairs : Pairs
            A worker of each kind.
        prefill_workers : numpy.ndarray
            Prefill workers.

        Returns
        -------
        numpy.ndarray
            Workers; less than 1 where none is left.
        """
        return self._left(pairs.decode_gpus, self.decode, pairs.prefill_gpus * prefill_workers, self.prefill)

    def _left(self, size: Array, takes: Sequence[float], used: Array, used_takes: Sequence[float]) -> Array:
        left = [
            (total - used * other) / (size * each)
            for total, each, other in zip(self.totals, takes, used_takes, strict=True)
        ]
        return as_floats(np.floor(np.min(np.broadcast_arrays(*left), axis=0) + _ROUNDING))

    def matched(self, pairs: Pairs, demand: Array) -> Array:
        """Decode workers that prefill workers feed exactly, whole or not.

        Parameters
        ----------
        pairs : Pairs
            A worker of each kind.
        demand : numpy.ndarray
            Prompts per second of prefill workers that one decode worker needs [1/s].

        Returns
        -------
        numpy.ndarray
            Decode workers.
        """
        every = [
            matched_workers(total, pairs.decode_gpus * second, pairs.prefill_gpus * first, demand, pairs.prompt_rate)
            for total, first, second in zip(self.totals, self.prefill, self.decode, strict=True)
        ]
        return as_floats(np.min(np.broadcast_arrays(*every), axis=0))


def budget_of(
    gpus: int, limits: Limits, prices: tuple[float, float], powers: tuple[float | None, float | None]
) -> Budget:
    """Gather what is limited.

    Parameters
    ----------
    gpus : int
        Devices at most.
    limits : Limits
        May limit the price of an hour and the power.
    prices : tuple of float
        Price of one device of either kind for one hour, NaN where it is not known [USD/h].
    powers : tuple of float or None
        Power limit of one device of either kind [W].

    Returns
    -------
    Budget
        The limits that there are.

    Raises
    ------
    PlanError
        If something is limited of which nobody says what a device takes.
    """
    rows = [(float(gpus), 1.0, 1.0)]
    if np.isfinite(limits.usd_per_hour):
        if not np.isfinite(prices).all():
            raise PlanError("a budget per hour needs the price of a GPU-hour of both kinds of workers")
        rows.append((limits.usd_per_hour, *prices))
    if np.isfinite(limits.power_w):
        if powers[0] is None or powers[1] is None:
            raise PlanError("a power budget needs devices whose power limit is published")
        rows.append((limits.power_w, powers[0], powers[1]))
    totals, first, second = zip(*rows, strict=True)
    return Budget(totals, first, second)


def asked_rate(pairs: Pairs, workload: Workload, *, waiting: bool = True) -> Array:
    """Prompts per second that one decode worker takes in while it never waits for one.

    Parameters
    ----------
    pairs : Pairs
        A worker of each kind.
    workload : Workload
        Lengths and arrivals.
    waiting : bool
        Whether the prefill workers are busy all the time, so that requests of a wave wait for each other.

    Returns
    -------
    numpy.ndarray
        In a closed loop the prompts that replace its finished requests [1/s].
    """
    decoding_s = (as_floats(workload.osl) - 1.0) * pairs.token_s
    if workload.arrivals == "poisson":
        return np.maximum(pairs.requests - pairs.decode_dp, 0.0) / decoding_s
    # The wait for the others of a wave is that share of the cycle, where the cycle is all prompts one after another.
    share = _burst(workload) if waiting else 0.0
    return as_floats((1.0 - share) * pairs.requests / (pairs.begun_s() + decoding_s))


def _side_by_side(parts: Sequence[Array]) -> Array:
    shape = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return np.concatenate([np.broadcast_to(part, (*shape, part.shape[-1])) for part in parts], axis=-1)


def needed_rate(pairs: Pairs, workload: Workload, limits: Limits) -> Array:
    """Prompts per second of prefill workers that one decode worker needs to meet a limit on the TTFT.

    Parameters
    ----------
    pairs : Pairs
        A worker of each kind.
    workload : Workload
        Lengths and arrivals.
    limits : Limits
        Gives the longest TTFT.

    Returns
    -------
    numpy.ndarray
        In a closed loop the rate at which the burst of a wave is worked off within what the limit leaves [1/s]; else 0.
    """
    slack_s = limits.ttft_s - pairs.begun_s()
    share = 0.0 if workload.arrivals == "poisson" else _burst(workload)
    return as_floats(share * pairs.requests / np.where(slack_s > 0, slack_s, np.inf))


def _burst(workload: Workload) -> float:
    """Wait for the others of a wave, over the time of the prompts of all requests in flight."""
    return 0.5 * (HANDOFF.lockstep + (1.0 - HANDOFF.lockstep) / workload.waves)


def sizes(pairs: Pairs, workload: Workload, budget: Budget, limits: Limits, *, all_of_it: bool) -> tuple[Array, Array]:
    """Numbers of workers worth trying, on a last axis of their own.

    Where the pools match, no worker waits; whole numbers lie around that. From each number of prefill workers the
    budget leaves a number of decode workers, and the other way round. A limit on the TTFT of a closed loop asks for
    more prefill workers: the burst of a wave is worked off within what the limit leaves. Where more tokens are not
    better, the fewest workers that sustain the rate may match best of all.

    Parameters
    ----------
    pairs : Pairs
        A worker of each kind; the last axis has length 1.
    workload : Workload
        Lengths and arrivals.
    budget : Budget
        What there is.
    limits : Limits
        Gives the longest TTFT, and the rate.
    all_of_it : bool
        Whether all of the budget is to be used: what is sought is the most tokens, not the cheapest.

    Returns
    -------
    tuple of numpy.ndarray
        Prefill and decode workers; less than 1 of either where the budget does not reach.
    """
    asked = asked_rate(pairs, workload)
    demand = np.maximum(asked, needed_rate(pairs, workload, limits))
    matched = budget.matched(pairs, demand)
    more = SPARE if workload.arrivals == "poisson" else AROUND
    fed = np.maximum(np.floor(matched * demand / pairs.prompt_rate), 1.0) + more
    whole = np.maximum(np.floor(matched), 1.0) + AROUND[:2]
    prefill = [fed, budget.prefill_left(pairs, whole)]
    decode = [budget.decode_left(pairs, fed), whole]
    if not all_of_it:
        # Nothing arrives where a request sees no other, and no number of workers is enough then.
        enough = np.ceil(limits.rate / np.where(asked > 0, asked, np.inf))
        some = np.maximum(enough, 1.0) + FEW
        feeding = np.maximum(np.ceil(limits.rate / pairs.prompt_rate), 1.0) + FEW
        fair = np.maximum(np.ceil(some * demand / pairs.prompt_rate), 1.0)
        fed_by = np.floor(feeding * pairs.prompt_rate / np.where(demand > 0, demand, np.inf))
        prefill += [np.where(fair <= budget.prefill_left(pairs, some), fair, 0.0), feeding]
        decode += [some, np.minimum(fed_by, budget.decode_left(pairs, feeding))]
    return _side_by_side(prefill), _side_by_side(decode)


def near(prefill: Array, decode: Array, pairs: Pairs, budget: Budget, reach: int) -> tuple[Array, Array]:
    """Every number of decode workers within reach of one, with the prefill workers that go with it.

    Parameters
    ----------
    prefill, decode : numpy.ndarray
        Workers around which is looked; the last axis has length 1.
    pairs : Pairs
        A worker of each kind; likewise.
    budget : Budget
        What there is.
    reach : int
        How many more or fewer decode workers.

    Returns
    -------
    tuple of numpy.ndarray
        Prefill and decode workers on a last axis of their own: all prefill workers that the budget leaves, and those
        in proportion to the decode workers, rounded down and up.
    """
    most = budget.decode_left(pairs, np.ones(1))
    some = np.clip(decode + np.arange(-reach, reach + 1.0), 1.0, np.maximum(most, 1.0))
    left = budget.prefill_left(pairs, some)
    fair = np.floor(some * prefill / np.maximum(decode, 1.0))
    even = [np.where(left >= 1.0, np.clip(fair + i, 1.0, np.maximum(left, 1.0)), 0.0) for i in range(2)]
    return np.concatenate([left, *even], axis=-1), np.concatenate([some] * 3, axis=-1)
