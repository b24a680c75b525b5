"""Open loop: latency, its quantiles and the requests in flight where requests arrive at random, not one for one."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.arrivals import poisson_rate, poisson_tpot, poisson_wait, poisson_wait_quantile
from perfmodel.errors import PlanError
from perfmodel.estimate.result import Estimate
from perfmodel.estimate.serving.workload import Workload
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.rules import Rule

QUANTILES = {"ttft_p50_s": 0.50, "ttft_p90_s": 0.90, "ttft_p99_s": 0.99}
"""Quantiles of the time to first token, by column."""

SPARE_DEVIATIONS = 2.33
"""Standard deviations of a Poisson number of requests that the cache must hold beyond the mean: 99 % of the time."""

_CALLS = 14  # halvings of the concurrencies from 1 to 8192


def open_loop(
    workload: Workload,
    *,
    decode_s: Floats,
    prompt_s: Floats,
    occupied_s: Floats,
    riding_s: Floats,
    seen: Floats,
    streaming: Callable[[Floats], Floats],
) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, Callable[[], npt.NDArray[np.float64]]]]:
    """Latencies and rates of one attention-data-parallel rank under Poisson arrivals.

    Parameters
    ----------
    workload : Workload
        Output length, and the rate where one is given.
    decode_s : float or array
        Time of a token with no prompt beside it, of the requests that one of them sees [s].
    prompt_s : float or array
        From the start of a prompt's own prefill until its end, host time included [s].
    occupied_s : float or array
        Time that a prompt takes from the rank [s].
    riding_s : float or array
        Time of the decode steps that a prompt shares with running requests; 0 where it has steps of its own [s].
    seen : float or array
        Requests in flight that one of them sees, itself included; decides the rate where none is given.
    streaming : callable
        Time of a token -> delay from the end of a prefill until its token is seen [s].

    Returns
    -------
    tuple of dict
        ttft_s, tpot_s, rate (requests per second of the rank), in_flight (mean number, waiting ones included) and
        prefill_busy (share of the time spent on prompts); and what gives each of `QUANTILES` when it is asked for.
    """
    osl = as_floats(workload.osl)
    given = as_floats(workload.rate)
    # A prompt that shares steps delays no token by more than its share, however few tokens there are.
    length = np.where(as_floats(riding_s) > 0, np.inf, osl)
    service_s = as_floats(occupied_s) + riding_s
    shared_rate = (seen - 1.0) / ((osl - 1.0) * decode_s + (seen - 1.0) * occupied_s)
    rate = np.where(np.isinf(length), shared_rate, poisson_rate(decode_s, occupied_s, seen, osl))
    rate = np.where(np.isnan(given), np.minimum(rate, 1.0 / service_s), given)
    tpot = as_floats(poisson_tpot(decode_s, occupied_s, rate, length))
    busy = -np.expm1(-rate * (osl - 1.0) * tpot)  # of a Poisson number of requests, at least one decodes
    wait = as_floats(poisson_wait(service_s, rate, decode_s, busy))
    prompt_s = as_floats(prompt_s) + streaming(tpot)
    ttft = wait + prompt_s
    out = {
        "ttft_s": ttft,
        "tpot_s": tpot,
        "rate": rate,
        "in_flight": rate * (ttft + (osl - 1.0) * tpot),
        "prefill_busy": np.minimum(rate * service_s, 1.0),
    }

    def within(quantile: float) -> npt.NDArray[np.float64]:
        wait = poisson_wait_quantile(service_s, rate, decode_s, busy=busy, quantile=quantile)
        return as_floats(prompt_s + wait)

    # Kept once computed: rows of a ranking ask for them one by one.
    return out, {name: cache(partial(within, quantile)) for name, quantile in QUANTILES.items()}


def at_rate(
    predict: Callable[[PlanGrid, Workload], Estimate], grid: PlanGrid, workload: Workload, rate: Floats
) -> Estimate:
    """Find the requests in flight at which every plan sustains an arrival rate, and predict it there.

    Parameters
    ----------
    predict : callable
        Plans and a workload -> an estimate.
    grid : PlanGrid
        Plans; their concurrency is not read.
    workload : Workload
        Lengths and what is reused.
    rate : float or array
        Requests that arrive per second at one replica [1/s].

    Returns
    -------
    Estimate
        Plans with the concurrency found; one that cannot sustain the rate has a reason. `utilisation` is the rate
        over the largest that the plan sustains.

    Raises
    ------
    PlanError
        If the rate is not above zero.
    """
    arriving = as_floats(rate)
    if not np.all(np.isfinite(arriving) & (arriving > 0)):
        raise PlanError("an arrival rate must be above zero requests per second")
    open_ended = replace(workload, arrivals="poisson", rate=np.nan)

    def at(concurrency: npt.NDArray[np.float64], load: Workload) -> Estimate:
        return predict(replace(grid, concurrency=concurrency), load)

    shape = np.broadcast_shapes(grid.shape, arriving.shape)
    low = np.broadcast_to(grid.dp, shape).copy()
    first = at(low, open_ended)
    room = first["capacity_requests"].reshape(shape)
    # The mean that leaves room for the swings of a Poisson number.
    high = np.floor((np.sqrt(np.maximum(room, 1.0) + SPARE_DEVIATIONS**2 / 4.0) - SPARE_DEVIATIONS / 2.0) ** 2)
    high = np.clip(high, low, 8192.0 * low)
    most = at(high, open_ended)["requests_per_s"].reshape(shape)
    for _ in range(_CALLS):
        middle = np.floor((low + high) / 2.0)
        enough = at(middle, open_ended)["requests_per_s"].reshape(shape) >= arriving
        low, high = np.where(enough, low, middle + 1.0), np.where(enough, middle, high)
        low = np.minimum(low, high)
    found = at(high, replace(workload, arrivals="poisson", rate=arriving / grid.dp))
    limit = np.broadcast_to(most, shape).ravel()
    wanted = np.broadcast_to(arriving, shape).ravel()
    rule = Rule(
        "arrivals exceed what the plan sustains",
        (wanted > limit).reshape(shape),
        lambda i: f"{wanted[i]:.3g} requests/s arrive, and the replica sustains {limit[i]:.3g}",
    )
    verdicts = found.verdicts.and_then(shape, (rule,))
    hidden = ("ttft_s", "tpot_s", "requests_per_s", "tokens_per_s", "tokens_per_s_per_gpu", *QUANTILES)
    columns = {name: np.where(verdicts.feasible, found[name], np.nan) for name in hidden}
    return Estimate(found.grid, found.columns.plus(**columns, utilisation=wanted / limit), verdicts, found.context)
