"""Mesh of deployments: latency, rate, price and energy of every pair of pools at every concurrency and balance."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import as_floats
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

AROUND_BALANCE = (0.0, 1.0, 2.0)
"""Prefill workers tried, beyond the whole number below the point where both pools are busy all the time."""


def balance(
    model: ModelSpec,
    pool: PlanGrid,
    prompts: Prompts,
    grid: PlanGrid,
    tokens: Tokens,
    workload: Workload,
    gpus: int,
    link: Link,
) -> dict[str, npt.NDArray[np.float64]]:
    """Latency and rate of every deployment, an array over prefill split, decode split, concurrency, workers.

    Parameters
    ----------
    model : ModelSpec
        Model.
    pool : PlanGrid
        Splits of a prefill worker.
    prompts : Prompts
        What one of them does.
    grid : PlanGrid
        Splits of a decode worker at every concurrency.
    tokens : Tokens
        What one of them does.
    workload : Workload
        Lengths of the requests.
    gpus : int
        Devices of both pools together.
    link : Link
        What the cache crosses.

    Returns
    -------
    dict
        Column name -> array over the mesh; `enough` is 0 where devices do not suffice for a worker of each kind.
    """

    def first(values: object) -> npt.NDArray[np.float64]:
        return np.broadcast_to(as_floats(values), pool.shape)[:, None, None, None]

    def second(values: object) -> npt.NDArray[np.float64]:
        return np.broadcast_to(as_floats(values), grid.shape)[None, :, :, None]

    osl = as_floats(workload.osl)
    prompt_s, one_rate, small = first(prompts.step.seconds), first(prompts.rate), first(pool.devices)
    token_s, each, large = second(tokens.token_s), second(grid.concurrency), second(grid.devices)
    moved = np.maximum(first(prompts.sent_bytes), second(tokens.received_bytes)[:, :, :1])
    transfer_s = as_floats(hand_over(model, prompt_s, moved, link))
    at_random = workload.arrivals == "poisson"
    # Prompts per second that one decode worker takes: in a closed loop those that replace its finished requests.
    asked = each / (prompt_s + transfer_s + osl * token_s)
    if at_random:
        asked = (each - second(grid.dp)) / ((osl - 1.0) * token_s)
    balanced = gpus * asked / (large * one_rate + small * asked)
    prefill_workers = np.maximum(np.floor(balanced), 1.0) + np.array(AROUND_BALANCE)
    decode_workers = np.floor((gpus - prefill_workers * small) / large)
    enough = decode_workers >= 1
    decode_workers = np.maximum(decode_workers, 1.0)
    requests = decode_workers * each
    prompt_rate = prefill_workers * one_rate
    more: dict[str, npt.NDArray[np.float64]] = {}
    per_rank = np.ceil(each / second(grid.dp))
    stages = Stages(
        prompt_s=prompt_s,
        transfer_s=transfer_s,
        token_s=token_s,
        stream_s=second(tokens.stream_s),
        rate=prompt_rate,
        requests=requests,
        per_rank=per_rank,
        places=np.maximum(second(tokens.places), per_rank),
    )
    if at_random:
        rate = np.where(asked > 0, asked * decode_workers, np.nan)
        servers = prefill_workers * first(pool.dp)
        busy_s, started = servers / prompt_rate, stages.begun_s()
        ttft = as_floats(started + several_servers_wait(busy_s, rate, servers))
        more["ttft_p99_s"] = started + as_floats(several_servers_quantile(busy_s, rate, servers, quantile=0.99))
    else:
        ttft = as_floats(first_token(workload, stages))
        rate = requests / (ttft + (osl - 1.0) * token_s)
    out = {
        "ttft_s": ttft,
        "tpot_s": token_s,
        "transfer_s": transfer_s,
        "requests_per_s": rate,
        "tokens_per_s": rate * osl,
        "tokens_per_s_per_gpu": rate * osl / gpus,
        "input_tokens_per_s_per_gpu": rate * workload.isl / gpus,
        "prefill_busy": np.minimum(rate / prompt_rate, 1.0),
        "concurrency": requests,
        "gpus": prefill_workers * small + decode_workers * large,
        "prefill_workers": prefill_workers,
        "decode_workers": decode_workers,
        "enough": enough,
        **more,
    }
    shape = np.broadcast_shapes(*(as_floats(values).shape for values in out.values()))
    return {name: np.broadcast_to(as_floats(values), shape) for name, values in out.items()}


def economy(
    mesh: Mapping[str, npt.NDArray[np.float64]],
    pool: PlanGrid,
    grid: PlanGrid,
    prices: tuple[float, float],
    powers: tuple[float | None, float | None],
) -> dict[str, npt.NDArray[np.float64]]:
    """Price and energy of a token: what the devices of each kind cost together, those in use only.

    Parameters
    ----------
    mesh : mapping
        Columns of `balance`.
    pool, grid : PlanGrid
        Splits of a prefill worker, and of a decode worker with its concurrencies.
    prices : tuple of float
        Price of one device of either kind for one hour [USD/h].
    powers : tuple of float or None
        Power limit of one device of either kind [W].

    Returns
    -------
    dict
        usd_per_million_tokens and energy_per_token_j.
    """
    prompts = mesh["prefill_workers"] * np.broadcast_to(pool.devices, pool.shape)[:, None, None, None]
    tokens = mesh["decode_workers"] * np.broadcast_to(grid.devices, grid.shape)[None, :, :, None]
    hourly = prompts * prices[0] + tokens * prices[1]
    watts = prompts * (powers[0] or np.nan) + tokens * (powers[1] or np.nan)
    return {
        "usd_per_million_tokens": 1e6 * as_floats(token_price(1.0, hourly, mesh["tokens_per_s"])),
        "energy_per_token_j": as_floats(token_energy(1.0, watts, mesh["tokens_per_s"])),
    }


def deployment_rules(mesh: Mapping[str, npt.NDArray[np.float64]], limits: Limits) -> tuple[Rule, ...]:
    """Rules that only a whole deployment can break.

    Parameters
    ----------
    mesh : mapping
        Columns of `balance`.
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
