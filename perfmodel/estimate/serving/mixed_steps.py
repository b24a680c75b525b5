"""Mixed steps: what a prompt costs where it shares the steps of running requests, by chunks or by groups of layers."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats, clipped
from perfmodel.costs.scheduling import chunk_context, decoding_limit, layer_groups, prompt_chunks
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.estimate.timed_step import StepTime
from perfmodel.layers.base import Step
from perfmodel.models.spec import ModelSpec

GRAPH_TOKENS = 512.0
"""Tokens up to which a mixed step is a captured graph: the largest size that vLLM captures by default."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """How a prompt is divided over steps.

    Parameters
    ----------
    steps : float or array
        Decode steps that it is spread over.
    passes : float or array
        Times that the weights are read for it; the last chunk counts by its share.
    tokens : float or array
        Its tokens in one pass.
    together : float or array
        Prompts for which these steps have room.
    shared : float or array
        Prompts that go through one step where a prompt comes for every request that ends.
    dense : Step
        Everything but attention of one pass: the tokens of these prompts and of running requests.
    attention : Step
        Attention of one pass of the prompts.
    """

    steps: Floats
    passes: Floats
    tokens: Floats
    together: Floats
    shared: Floats
    dense: Step
    attention: Step


def pieces_of(model: ModelSpec, target: Target, workload: Workload, batch: Floats) -> Pieces:
    """Divide a prompt as the engine's schedule does.

    Parameters
    ----------
    model : ModelSpec
        Gives the number of layers.
    target : Target
        Gives the schedule.
    workload : Workload
        Lengths.
    batch : float or array
        Running requests in a step.

    Returns
    -------
    Pieces
        Steps to time, and how often each occurs.
    """
    fresh, isl = as_floats(workload.new_tokens), as_floats(workload.isl)
    riding = as_floats(batch) * (workload.draft_tokens + 1.0)
    if target.engine.schedule == "layered":
        steps, tokens = as_floats(layer_groups(fresh, model.layers)), fresh
        together = as_floats(1.0)
    else:
        # Of a step's tokens those of running requests come first; the sum stays what the kernels' tiles are made for.
        room = np.maximum(target.engine.chunk_tokens - riding, 1.0)
        tokens = np.minimum(room, fresh)
        steps = as_floats(prompt_chunks(fresh, tokens))
        # What the last chunk of a prompt leaves of a step, the next prompt fills.
        together = steps * room / fresh
    passes = fresh / tokens
    ending = as_floats(batch) * workload.tokens_per_step / workload.osl
    shared = clipped(ending, 1.0, np.maximum(together / steps, 1.0))
    sequences = as_floats(batch) + shared
    rows = (shared * tokens + riding) / sequences
    return Pieces(
        steps,
        passes,
        tokens,
        together,
        shared,
        dense=Step(sequences, rows, rows, decode=False),
        attention=Step(shared, tokens, chunk_context(fresh, passes, isl - fresh), decode=False),
    )


def decoding_requests(model: ModelSpec, target: Target, workload: Workload, running: Floats) -> npt.NDArray[np.float64]:
    """Requests that decode at once, of those that have a place: under mixed schedules prompts may be the bottleneck.

    Parameters
    ----------
    model : ModelSpec
        Gives the number of layers.
    target : Target
        Gives the schedule.
    workload : Workload
        Lengths.
    running : float or array
        Requests of one rank whose cache fits.

    Returns
    -------
    numpy.ndarray
        At least 1.
    """
    osl, fresh = as_floats(workload.osl), as_floats(workload.new_tokens)
    match target.engine.schedule:
        case "chunked":
            limit = decoding_limit(fresh, osl, target.engine.chunk_tokens, workload.draft_tokens + 1.0)
        case "layered":
            limit = osl / layer_groups(fresh, model.layers)
        case _:
            return as_floats(running)
    return np.maximum(np.minimum(running, np.ceil(limit)), 1.0)


def added_s(
    model: ModelSpec, target: Target, pieces: Pieces, *, dense: StepTime, attention: StepTime, decode: StepTime
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Time that prompts add to the steps that they share with running requests.

    Weights are read, and kernels launched, once for all; attention is that of the chunks and of the running requests.

    Parameters
    ----------
    model : ModelSpec
        Gives the number of layers.
    target : Target
        Gives the host's time.
    pieces : Pieces
        How the prompt is divided.
    dense, attention : StepTime
        Times of the two steps of `pieces`.
    decode : StepTime
        The decode step without a prompt.

    Returns
    -------
    tuple of numpy.ndarray
        What one prompt adds in all its pieces, and what prompts add to one step, through all layers [s].
    """
    engine = target.engine
    rows = as_floats(pieces.dense.batch) * pieces.dense.tokens
    captured = (rows <= GRAPH_TOKENS) & (engine.schedule == "chunked")
    launches = np.where(captured, 0.0, engine.prefill_layer_s * model.layers)
    other, own = (each.seconds - each.over_plans("host_s") - each.over_plans("attention_s") for each in (dense, decode))
    more = np.maximum(other - own + attention.over_plans("attention_s"), 0.0)
    # Launches that run ahead of the device are seen by the prompt itself, and filled by what else there is to do.
    seen = np.maximum(more, launches - decode.seconds) if engine.launches_ahead else more + launches
    lasting = more if engine.launches_ahead else seen
    return as_floats(pieces.passes * lasting / pieces.shared), as_floats(pieces.passes * seen / pieces.steps)
