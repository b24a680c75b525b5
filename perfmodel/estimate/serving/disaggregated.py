"""Disaggregated serving: TTFT, TPOT and rates where separate workers prefill and decode, for many deployments."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.collectives import point_to_point
from perfmodel.costs.handoff import layerwise_transfer
from perfmodel.costs.serving import first_wave_wait, pool_limited_ttft, slot_wait
from perfmodel.estimate.serving.pools import Link, Pool, outermost, prompt_work, token_work
from perfmodel.estimate.serving.rules import refuse_longer, refuse_shared_steps
from perfmodel.estimate.serving.workload import Workload
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class HandOff:
    """Constants of the way from a prefill worker to the first token, the same for every engine, model and device.

    Rounded fit of `perfmodel.calibrate.handoff` to the TTFT of 148 disaggregated deployments of silicon_sample.csv of
    aiconfigurator-core 0.12.0.

    Parameters
    ----------
    steps : float
        Decode steps that the hand-over of a prompt takes beside those of the engine's stream.
    lockstep : float
        Share of the later waves of a closed loop that reach the prefill workers together [1].
    """

    steps: float = 13.0
    lockstep: float = 0.05


HANDOFF = HandOff()
"""As fitted to all deployments."""


@dataclass(frozen=True, slots=True)
class Stages:
    """What a request passes through in a deployment with separate workers, and the load on it.

    Parameters
    ----------
    prompt_s : float or array
        One prompt alone [s].
    transfer_s : float or array
        Hand-over of its cache [s].
    token_s : float or array
        One output token [s].
    stream_s : float or array
        Delay until a token is seen [s].
    rate : float or array
        Prompts per second that all prefill workers finish [1/s].
    requests : float or array
        Requests in flight on the whole deployment.
    per_rank : float or array
        Requests in flight for each decode rank.
    places : float or array
        Requests that a decode rank holds.
    """

    prompt_s: Floats
    transfer_s: Floats
    token_s: Floats
    stream_s: Floats
    rate: Floats
    requests: Floats
    per_rank: Floats
    places: Floats

    def begun_s(self, constants: HandOff = HANDOFF) -> npt.NDArray[np.float64]:
        """Time to the first token of a request that nobody holds up.

        Parameters
        ----------
        constants : HandOff
            Constants of the hand-over.

        Returns
        -------
        numpy.ndarray
            Time [s].
        """
        return as_floats(self.prompt_s) + self.transfer_s + constants.steps * as_floats(self.token_s) + self.stream_s


@dataclass(frozen=True, slots=True)
class Disaggregated:
    """Prediction for each deployment.

    Parameters
    ----------
    ttft_s : float or array
        Mean time to first token [s].
    tpot_s : float or array
        Mean time per output token [s].
    transfer_s : float or array
        Part of the TTFT in which a prompt's cache moves to its decode worker [s].
    requests_per_s : float or array
        Rate of the deployment [1/s].
    prefill_rate : float or array
        Most prompts per second that the prefill workers finish [1/s].
    devices : float or array
        Devices of both pools.
    capacity_requests : float or array
        Requests whose cache the decode workers hold.
    """

    ttft_s: Floats
    tpot_s: Floats
    transfer_s: Floats
    requests_per_s: Floats
    prefill_rate: Floats
    devices: Floats
    capacity_requests: Floats


def hand_over(model: ModelSpec, prompts_s: Floats, nbytes: Floats, link: Link) -> Floats:
    """Time from the end of a prompt until its cache is on the decode worker.

    Parameters
    ----------
    model : ModelSpec
        Gives the number of layers.
    prompts_s : float or array
        Time to compute the prompt [s].
    nbytes : float or array
        Cache that crosses the busiest device's link [B].
    link : Link
        The link, and whether layers are sent one by one.

    Returns
    -------
    float or array
        Visible time [s].
    """
    if link.layerwise:
        return layerwise_transfer(nbytes, prompts_s, model.layers, bandwidth=link.bandwidth, latency=link.latency_s)
    return point_to_point(nbytes, bandwidth=link.bandwidth, latency=link.latency_s)


def first_token(workload: Workload, stages: Stages, constants: HandOff = HANDOFF) -> Floats:
    """Mean time to the first token of deployments with separate workers.

    Parameters
    ----------
    workload : Workload
        Output length and waves.
    stages : Stages
        What a request passes through.
    constants : HandOff
        Constants of the hand-over.

    Returns
    -------
    float or array
        Time to first token [s].
    """
    service_s, token_s, osl = 1.0 / as_floats(stages.rate), as_floats(stages.token_s), as_floats(workload.osl)
    burst_s = first_wave_wait(service_s, stages.requests, workload.waves, lockstep=constants.lockstep)
    started = stages.begun_s(constants) + burst_s
    ttft = as_floats(pool_limited_ttft(started, token_s, osl, stages.requests, stages.rate))
    return ttft + slot_wait(stages.per_rank, stages.places, started + osl * token_s)


def deployment_stages(
    model: ModelSpec,
    prefill: Pool,
    decode: Pool,
    workload: Workload,
    precision: Precision,
    concurrency: npt.NDArray[np.float64],
    link: Link | None = None,
) -> Stages:
    """Time what requests pass through, before anything waits.

    Parameters
    ----------
    model : ModelSpec
        Model.
    prefill, decode : Pool
        Workers; their arrays broadcast against each other.
    workload : Workload
        Lengths and waves.
    precision : Precision
        Number formats.
    concurrency : numpy.ndarray
        Requests in flight on the whole deployment.
    link : Link, optional
        What the cache crosses; the outermost tier of the prefill worker's system by default.

    Returns
    -------
    Stages
        Arrays over deployments.
    """
    per_rank = np.ceil(concurrency / decode.ranks)
    prompts = prompt_work(model, prefill.target, prefill.grid, workload, precision)
    tokens = token_work(model, decode.target, decode.grid, workload, precision, per_rank=per_rank, batch=decode.batch)
    moved = np.maximum(prompts.sent_bytes, tokens.received_bytes)
    return Stages(
        prompt_s=prompts.step.seconds,
        transfer_s=hand_over(model, prompts.step.seconds, moved, link or outermost(prefill.target)),
        token_s=tokens.token_s,
        stream_s=tokens.stream_s,
        rate=prefill.workers * as_floats(prompts.rate),
        requests=concurrency,
        per_rank=per_rank,
        places=tokens.places,
    )


def predict_disaggregated(
    model: ModelSpec,
    prefill: Pool,
    decode: Pool,
    workload: Workload,
    precision: Precision,
    concurrency: npt.NDArray[np.float64],
    link: Link | None = None,
) -> Disaggregated:
    """Predict deployments whose prompts and output tokens are computed by different workers.

    Decode steps are free of prompts. A prompt is computed, its cache crosses a link to
    its decode worker, and it waits for the others of its wave. Where prompts arrive faster than the prefill workers
    finish them, they are the bottleneck of the loop and the rest of each request's cycle is spent waiting for them.

    Parameters
    ----------
    model : ModelSpec
        Model.
    prefill, decode : Pool
        Workers; their arrays broadcast against each other.
    workload : Workload
        Lengths and waves.
    precision : Precision
        Number formats.
    concurrency : numpy.ndarray
        Requests in flight on the whole deployment.
    link : Link, optional
        What the cache crosses; the outermost tier of the prefill worker's system by default.

    Returns
    -------
    Disaggregated
        Latencies and rates, arrays over deployments.

    Raises
    ------
    PlanError
        If a request is longer than the model allows, or prompts are to share steps with running requests.
    """
    refuse_longer(model, workload)
    for pool in (prefill, decode):
        refuse_shared_steps(pool.target.engine)
    stages = deployment_stages(model, prefill, decode, workload, precision, concurrency, link)
    ttft, token_s = as_floats(first_token(workload, stages)), as_floats(stages.token_s)
    return Disaggregated(
        ttft_s=ttft,
        tpot_s=token_s,
        transfer_s=stages.transfer_s,
        requests_per_s=concurrency / (ttft + (as_floats(workload.osl) - 1.0) * token_s),
        prefill_rate=stages.rate,
        devices=prefill.workers * prefill.grid.devices + decode.workers * decode.grid.devices,
        capacity_requests=stages.places * decode.ranks,
    )
