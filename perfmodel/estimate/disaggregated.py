"""Disaggregated serving: TTFT, TPOT and rates where separate workers prefill and decode, for many deployments."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.collectives import point_to_point
from perfmodel.costs.serving import first_wave_wait, pool_limited_ttft, slot_wait
from perfmodel.estimate.footprint import serving_footprint
from perfmodel.estimate.serving import MOST_PROMPTS
from perfmodel.estimate.step import shard_of, stage_imbalance, step_time
from perfmodel.estimate.target import Target
from perfmodel.estimate.workload import Workload
from perfmodel.layers.base import Step
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid

HANDOFF_STEPS = 16.0
"""Decode steps between the end of a prompt on one worker and its first visible token from the other.

Rounded fit, with `WAVE_LOCKSTEP`, to the TTFT of 148 disaggregated deployments of silicon_sample.csv of
aiconfigurator-core 0.12.0.
"""

WAVE_LOCKSTEP = 0.05
"""Share of the later waves of a closed loop that reach the prefill workers together (same fit)."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Workers of one kind.

    Parameters
    ----------
    target : Target
        What one worker runs on.
    grid : PlanGrid
        How one worker is split; its concurrency is not read.
    workers : numpy.ndarray
        Number of workers.
    batch : numpy.ndarray
        Most requests of one attention-data-parallel rank; infinite for as many as memory holds.
    """

    target: Target
    grid: PlanGrid
    workers: npt.NDArray[np.float64]
    batch: npt.NDArray[np.float64]

    @property
    def ranks(self) -> npt.NDArray[np.float64]:
        """Attention-data-parallel ranks of all workers."""
        return self.workers * self.grid.dp


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


def predict_disaggregated(
    model: ModelSpec,
    prefill: Pool,
    decode: Pool,
    workload: Workload,
    precision: Precision,
    concurrency: npt.NDArray[np.float64],
) -> Disaggregated:
    """Predict deployments whose prompts and output tokens are computed by different workers.

    Decode steps are free of prompts. A prompt is computed, its cache crosses the outermost tier of the prefill
    worker's fabric, and it waits for the others of its wave. Where prompts arrive faster than the prefill workers
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

    Returns
    -------
    Disaggregated
        Latencies and rates, arrays over deployments.
    """
    isl, osl = as_floats(workload.isl), as_floats(workload.osl)
    one = as_floats(1.0)
    per_rank = np.ceil(concurrency / decode.ranks)
    footprint = serving_footprint(
        model,
        decode.target,
        decode.grid,
        precision,
        context=isl + decode.target.engine.reserved_output * osl,
        requests=per_rank,
        step_tokens=one,
    )
    # A stated batch is one that the workers were set up for; memory only limits those whose batch is open.
    places = np.maximum(np.where(np.isfinite(decode.batch), decode.batch, footprint.requests), 1.0)
    running = np.minimum(per_rank, places)
    step = step_time(
        model,
        decode.target,
        decode.grid,
        Step(np.ceil(running / decode.grid.pp), one, isl + osl / 2.0, decode=True),
        precision,
    )
    tpot = as_floats(step.seconds) * stage_imbalance(model.layers, decode.grid.pp)
    alone = step_time(model, prefill.target, prefill.grid, Step(one, isl, isl, decode=False), precision)
    together = np.clip(np.floor(prefill.target.engine.step_tokens / isl), 1.0, MOST_PROMPTS)
    shared = step_time(model, prefill.target, prefill.grid, Step(together, isl, isl, decode=False), precision)
    rate = prefill.ranks * prefill.grid.pp * together / as_floats(shared.seconds)
    held = as_floats(model.cache_bytes(isl, shard_of(prefill.grid), precision)) / prefill.grid.pp
    link = prefill.target.system.tiers[-1]
    transfer = point_to_point(held, bandwidth=link.bandwidth / link.oversubscription, latency=link.latency_s)
    started = as_floats(alone.seconds) + transfer + HANDOFF_STEPS * tpot
    started = started + first_wave_wait(1.0 / rate, concurrency, workload.waves, lockstep=WAVE_LOCKSTEP)
    ttft = pool_limited_ttft(started, tpot, osl, concurrency, rate)
    ttft = ttft + slot_wait(per_rank, places, started + osl * tpot)
    return Disaggregated(
        ttft_s=ttft,
        tpot_s=tpot,
        transfer_s=transfer,
        requests_per_s=concurrency / (ttft + (osl - 1.0) * tpot),
        prefill_rate=rate,
        devices=prefill.workers * prefill.grid.devices + decode.workers * decode.grid.devices,
        capacity_requests=places * decode.ranks,
    )
