"""Pairs of a prefill worker and a decode worker: latency, rate, price and energy of deployments made of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np

from perfmodel.arrays import Array, as_floats
from perfmodel.costs.arrivals import several_servers_quantile, several_servers_wait
from perfmodel.costs.economy import token_energy, token_price
from perfmodel.estimate.serving.disaggregated import Stages, first_token, hand_over
from perfmodel.estimate.serving.pools import Link, Prompts, Tokens
from perfmodel.estimate.serving.workload import Workload
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.rules import Rule
from perfmodel.ranking.limits import Limits
from perfmodel.units import format_time

Spread = Callable[[object], Array]


@dataclass(frozen=True, slots=True)
class Pairs:
    """One prefill worker and one decode worker, for many pairs: arrays that broadcast against each other.

    Parameters
    ----------
    prompt_s : numpy.ndarray
        One prompt alone [s].
    transfer_s : numpy.ndarray
        Hand-over of its cache [s].
    prompt_rate : numpy.ndarray
        Prompts per second that the prefill worker finishes [1/s].
    prefill_gpus, prefill_dp : numpy.ndarray
        Devices and attention-data-parallel ranks of the prefill worker.
    token_s, stream_s : numpy.ndarray
        One output token, and the delay until it is seen [s].
    requests : numpy.ndarray
        Requests in flight on the decode worker.
    places : numpy.ndarray
        Requests that one of its ranks holds.
    decode_gpus, decode_dp : numpy.ndarray
        Its devices and ranks.
    """

    prompt_s: Array
    transfer_s: Array
    prompt_rate: Array
    prefill_gpus: Array
    prefill_dp: Array
    token_s: Array
    stream_s: Array
    requests: Array
    places: Array
    decode_gpus: Array
    decode_dp: Array

    def of(self, change: Callable[[Array], Array]) -> "Pairs":
        """Change every array in the same way.

        Parameters
        ----------
        change : callable
            Takes one array and returns another.

        Returns
        -------
        Pairs
            What it makes of them.
        """
        return Pairs(**{each.name: change(getattr(self, each.name)) for each in fields(self)})

    def begun_s(self) -> Array:
        """Time to the first token of a request that nobody holds up [s]."""
        return as_floats(self.stages(np.ones(1), np.ones(1)).begun_s())

    def stages(self, prefill_workers: Array, decode_workers: Array) -> Stages:
        """What a request passes through in deployments of so many workers.

        Parameters
        ----------
        prefill_workers, decode_workers : numpy.ndarray
            Workers of either kind.

        Returns
        -------
        Stages
            The stages.
        """
        per_rank = np.ceil(self.requests / self.decode_dp)
        return Stages(
            prompt_s=self.prompt_s,
            transfer_s=self.transfer_s,
            token_s=self.token_s,
            stream_s=self.stream_s,
            rate=prefill_workers * self.prompt_rate,
            requests=decode_workers * self.requests,
            per_rank=per_rank,
            places=np.maximum(self.places, per_rank),
        )


def pair_up(
    model: ModelSpec,
    link: Link,
    prompts: tuple[PlanGrid, Prompts, Spread],
    tokens: tuple[PlanGrid, Tokens, Spread],
) -> Pairs:
    """Bring together what workers of both kinds do.

    Parameters
    ----------
    model : ModelSpec
        Model.
    link : Link
        What the cache crosses.
    prompts, tokens : tuple
        Splits of a worker, what one does, and how values over the splits lie on the axes of the pairs.

    Returns
    -------
    Pairs
        Every pair.
    """
    (pool, sending, first), (grid, receiving, second) = prompts, tokens
    moved = np.maximum(first(sending.sent_bytes), second(receiving.received_bytes))
    prompt_s = first(sending.step.seconds)
    return Pairs(
        prompt_s=prompt_s,
        transfer_s=as_floats(hand_over(model, prompt_s, moved, link)),
        prompt_rate=first(sending.rate),
        prefill_gpus=first(pool.devices),
        prefill_dp=first(pool.dp),
        token_s=second(receiving.token_s),
        stream_s=second(receiving.stream_s),
        requests=second(grid.concurrency),
        places=second(receiving.places),
        decode_gpus=second(grid.devices),
        decode_dp=second(grid.dp),
    )


def deployments(
    pairs: Pairs, workload: Workload, gpus: int, prefill_workers: Array, decode_workers: Array
) -> dict[str, Array]:
    """Latency and rate of deployments.

    Parameters
    ----------
    pairs : Pairs
        A worker of each kind.
    workload : Workload
        Lengths and arrivals of the requests.
    gpus : int
        Devices that the rates per device count, idle ones included.
    prefill_workers, decode_workers : numpy.ndarray
        Workers of either kind; less than one of either is a deployment that cannot be.

    Returns
    -------
    dict
        Column name -> array over the pairs; `enough` is 0 where there is not a worker of each kind.
    """
    enough = (prefill_workers >= 1) & (decode_workers >= 1)
    prefill_workers, decode_workers = (np.maximum(n, 1.0) for n in (prefill_workers, decode_workers))
    osl = as_floats(workload.osl)
    stages = pairs.stages(prefill_workers, decode_workers)
    more: dict[str, Array] = {}
    if workload.arrivals == "poisson":
        # A request sees the others in flight; with no other nothing arrives.
        asked = (pairs.requests - pairs.decode_dp) / ((osl - 1.0) * pairs.token_s)
        rate = np.where(asked > 0, asked * decode_workers, np.nan)
        servers = prefill_workers * pairs.prefill_dp
        busy_s, started = servers / as_floats(stages.rate), stages.begun_s()
        ttft = as_floats(started + several_servers_wait(busy_s, rate, servers))
        more["ttft_p99_s"] = started + as_floats(several_servers_quantile(busy_s, rate, servers, quantile=0.99))
    else:
        ttft = as_floats(first_token(workload, stages))
        rate = as_floats(stages.requests / (ttft + (osl - 1.0) * pairs.token_s))
    out = {
        "ttft_s": ttft,
        "tpot_s": pairs.token_s,
        "transfer_s": pairs.transfer_s,
        "requests_per_s": rate,
        "tokens_per_s": rate * osl,
        "tokens_per_s_per_gpu": rate * osl / gpus,
        "input_tokens_per_s_per_gpu": rate * workload.isl / gpus,
        "prefill_busy": np.minimum(rate / as_floats(stages.rate), 1.0),
        "concurrency": as_floats(stages.requests),
        "gpus": prefill_workers * pairs.prefill_gpus + decode_workers * pairs.decode_gpus,
        "prefill_workers": prefill_workers,
        "decode_workers": decode_workers,
        "enough": enough,
        **more,
    }
    shape = np.broadcast_shapes(*(as_floats(values).shape for values in out.values()))
    return {name: np.broadcast_to(as_floats(values), shape) for name, values in out.items()}


def economy(
    mesh: Mapping[str, Array],
    pairs: Pairs,
    prices: tuple[float, float],
    powers: tuple[float | None, float | None],
) -> dict[str, Array]:
    """Price and energy of a token: what the devices of each kind cost together, those in use only.

    Parameters
    ----------
    mesh : mapping
        Columns of `deployments`.
    pairs : Pairs
        A worker of each kind.
    prices : tuple of float
        Price of one device of either kind for one hour [USD/h].
    powers : tuple of float or None
        Power limit of one device of either kind [W].

    Returns
    -------
    dict
        usd_per_hour and power_w of all devices, usd_per_million_tokens and energy_per_token_j.
    """
    prompts = mesh["prefill_workers"] * pairs.prefill_gpus
    tokens = mesh["decode_workers"] * pairs.decode_gpus
    hourly = prompts * prices[0] + tokens * prices[1]
    watts = prompts * (powers[0] or np.nan) + tokens * (powers[1] or np.nan)
    return {
        "usd_per_hour": hourly,
        "power_w": watts,
        "usd_per_million_tokens": 1e6 * as_floats(token_price(1.0, hourly, mesh["tokens_per_s"])),
        "energy_per_token_j": as_floats(token_energy(1.0, watts, mesh["tokens_per_s"])),
    }


def deployment_rules(mesh: Mapping[str, Array], limits: Limits) -> tuple[Rule, ...]:
    """Rules that only a whole deployment can break.

    Parameters
    ----------
    mesh : mapping
        Columns of `deployments`.
    limits : Limits
        What was asked for.

    Returns
    -------
    tuple of Rule
        Enough devices, TTFT, rate.
    """
    slow = np.isnan(mesh["requests_per_s"]) | np.isinf(mesh["ttft_s"])
    late = mesh.get("ttft_p99_s", mesh["ttft_s"])
    return (
        Rule("too few GPUs for one worker of each kind", mesh["enough"] < 1, lambda _: "too few GPUs"),
        Rule("prompts come faster than they are worked off", slow, lambda _: "prompts come too fast, or not at all"),
        Rule(
            f"TTFT of 99% above {format_time(limits.ttft_p99_s)}" if np.isfinite(limits.ttft_p99_s) else "TTFT of 99%",
            late > limits.ttft_p99_s,
            lambda i: f"99% see a TTFT of up to {format_time(float(late.ravel()[i]))}",
        ),
        Rule(
            f"TTFT above {format_time(limits.ttft_s)}" if np.isfinite(limits.ttft_s) else "TTFT",
            mesh["ttft_s"] > limits.ttft_s,
            lambda i: f"TTFT {format_time(float(mesh['ttft_s'].ravel()[i]))} is above {format_time(limits.ttft_s)}",
        ),
        Rule(
            f"fewer than {limits.rate:g} requests/s",
            mesh["requests_per_s"] < limits.rate,
            lambda i: f"{mesh['requests_per_s'].ravel()[i]:.3g} requests/s are fewer than {limits.rate:g}",
        ),
    )
