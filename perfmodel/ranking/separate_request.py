"""Request for separate workers: what makes sense of it, the pools that it is about, and why nothing meets it."""

from collections.abc import Callable, Mapping

import numpy as np

from perfmodel.errors import PlanError
from perfmodel.estimate.serving.pools import Link, outermost
from perfmodel.estimate.serving.rules import refuse_longer, refuse_shared_steps
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.ranking.limits import Limits
from perfmodel.ranking.separate_pools import decode_pool, prefill_pool, worker_splits
from perfmodel.ranking.separate_search import RANKED_BY, Search
from perfmodel.ranking.separate_sizes import budget_of
from perfmodel.units import format_time


def prepared(
    model: ModelSpec,
    prefill: Target,
    decode: Target,
    gpus: int,
    workload: Workload,
    precision: Precision,
    limits: Limits,
    link: Link | None = None,
    prices: tuple[float, float] = (np.nan, np.nan),
    by: str = "gpu",
    chosen: Mapping[str, int] | None = None,
) -> Search:
    """Check a request and gather the pools that it is about.

    Parameters
    ----------
    model, prefill, decode, gpus, workload, precision, limits, link, prices, by, chosen
        As in `rank_separate`.

    Returns
    -------
    Search
        What `rank_separate` searches.

    Raises
    ------
    NothingFeasibleError
        If no worker of a kind holds the model.
    PlanError
        If the request makes no sense.
    """
    if by not in RANKED_BY:
        raise PlanError(f"deployments are ranked by {', '.join(RANKED_BY)}, not by {by!r}")
    powers = (prefill.device.power_w, decode.device.power_w)
    if by == "cost" and not np.isfinite(prices).all():
        raise PlanError("ranking by cost needs the price of a GPU-hour of both kinds of workers")
    if by == "energy" and None in powers:
        raise PlanError("ranking by energy needs devices whose power limit is published")
    if gpus < 2:
        raise PlanError(f"separate workers need at least 2 GPUs, not {gpus}")
    room = {target.system.id: target.system.max_devices for target in (prefill, decode)}
    if gpus > sum(room.values()):
        names = " and ".join(room)
        raise PlanError(f"{names} connect at most {sum(room.values())} devices, and {gpus} are wanted")
    if workload.arrivals == "closed" and np.isfinite(limits.ttft_p99_s):
        raise PlanError("a limit for 99 % of requests needs Poisson arrivals: a closed loop has no distribution")
    if np.any(workload.equal_lengths):
        raise PlanError("equal_lengths order the requests of common workers only")
    refuse_longer(model, workload)
    for target in (prefill, decode):
        refuse_shared_steps(target.engine)
    held = dict(chosen or {})
    if "concurrency" in held:
        raise PlanError("separate workers are ranked at the concurrency that suits them; it cannot be held")
    link = link or outermost(prefill)
    budget = budget_of(gpus, limits, prices, powers)
    senders = worker_splits(model, prefill.engine, gpus - 1, held)
    splits = worker_splits(model, decode.engine, gpus - 1, held)
    pool, prompts = prefill_pool(model, prefill, senders, workload, precision, link)
    workers = decode_pool(model, decode, splits, workload, precision, limits)
    return Search(gpus, budget, pool, prompts, workers, link, prices, powers, by)


def nearest_miss(search: Search) -> str:
    """Say which deployment comes nearest to the limits, or that none fits.

    Parameters
    ----------
    search : Search
        A search that found nothing.

    Returns
    -------
    str
        One line.
    """
    found = search.nearest()
    if found is None:
        what = f"{search.gpus} GPUs" if len(search.budget.totals) == 1 else "the budget"
        return f"{what} cannot hold a prefill worker and a decode worker that fit. Ask for more."
    return (
        "no deployment with separate workers meets the limits. Nearest:"
        f" {found['prefill_workers']:.0f} prefill and {found['decode_workers']:.0f} decode workers"
        f" with TTFT {format_time(found['ttft_s'])}, TPOT {format_time(found['tpot_s'])},"
        f" {found['requests_per_s']:.3g} requests/s."
    )


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
