"""Library: predict training plans and rank them (functions that the top level offers)."""

from pathlib import Path
from typing import Any

from perfmodel.api_inputs import devices_of, tokens_of
from perfmodel.api_targets import model_of
from perfmodel.errors import PlanError
from perfmodel.estimate.training.predict import TrainingEstimate, predict_training
from perfmodel.estimate.training.target import TrainingTarget, training_target
from perfmodel.estimate.training.workload import TrainingWorkload
from perfmodel.hardware.cluster import Cluster
from perfmodel.hardware.fabric import System
from perfmodel.layers.training_recipe import get_recipe
from perfmodel.models.lengths import Lengths, read_lengths
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.training_grid import TrainingGrid
from perfmodel.ranking.training import Reliability, TrainingRanking, rank_training
from perfmodel.ranking.training_placed import PlacedRanking, rank_placed_training


def _workload(
    seq: float | str, global_batch: Any, lengths: Lengths | str | None, chunk: float | str, retained: float
) -> TrainingWorkload:
    mixed = read_lengths(lengths) if isinstance(lengths, str) else lengths
    return TrainingWorkload(tokens_of(seq, "seq"), global_batch, mixed, tokens_of(chunk, "chunk"), retained)


def train(
    model: ModelSpec | str,
    system: System | TrainingTarget | str,
    plan: TrainingGrid,
    *,
    seq: float | str,
    global_batch: Any,
    precision: str = "bf16",
    stack: str = "neutral",
    method: str = "full",
    adapter_rank: float = 16.0,
    adapters: float = 1.0,
    lengths: Lengths | str | None = None,
    chunk: float | str = 0.0,
    retained: float = 1.0,
) -> TrainingEstimate:
    """Predict step time and peak memory of one training plan or of many.

    Parameters
    ----------
    model : ModelSpec or str
        Model, or its name or the path of a config.json.
    system : System, TrainingTarget or str
        What trains it.
    plan : TrainingGrid
        Plans, from `training_plans`.
    seq : float or str
        Tokens of a sequence, for instance 4096 or "4Ki".
    global_batch : float or array
        Sequences of a step.
    precision : str
        Recipe: bf16, fp16, fp8, mxfp8, nvfp4 ...
    stack : str
        Stack profile, where `system` is not a target.
    method : str
        full, lora (adapters beside frozen weights) or forward (zeroth order).
    adapter_rank : float
        Rank of the adapters.
    adapters : float
        Adapters that are trained in one batch.
    lengths : Lengths or str, optional
        How many tokens the sequences have, `seq` at most: a distribution, a CSV file with the columns tokens and
        sequences, or "90:1Ki, 9:8Ki, 1:256Ki".
    chunk : float or str
        Tokens of a chunk, into which short sequences are packed and long ones are cut; 0 for none.
    retained : float
        Chunks of a sequence whose activations are kept.

    Returns
    -------
    TrainingEstimate
        One value per plan and column.

    Examples
    --------
    >>> from perfmodel.parallel.training_grid import training_plans
    >>> plans = training_plans(tp=[4, 8], dp=1, sequence_parallel=1, recompute="full")
    >>> estimate = train("llama-3.1-8b", "hgx-h100", plans, seq="4Ki", global_batch=8)
    >>> bool(estimate["step_s"][1] < estimate["step_s"][0])
    True
    """
    spec, on = model_of(model), _target(system, stack)
    return predict_training(
        spec,
        on,
        plan,
        _workload(seq, global_batch, lengths, chunk, retained),
        get_recipe(precision, method, adapter_rank, adapters),
    )


def rank_training_plans(
    model: ModelSpec | str,
    system: System | TrainingTarget | str,
    *,
    gpus: int,
    seq: float | str,
    global_batch: int | str,
    tokens: float | str = 0.0,
    precision: str = "bf16",
    stack: str = "neutral",
    method: str = "full",
    adapter_rank: float = 16.0,
    adapters: float = 1.0,
    reliability: Reliability | None = None,
    lengths: Lengths | str | None = None,
    chunk: float | str = 0.0,
    retained: float = 1.0,
    **chosen: Any,
) -> TrainingRanking:
    """Rank every training plan of a number of devices.

    Parameters
    ----------
    model : ModelSpec or str
        Model, or its name or the path of a config.json.
    system : System, TrainingTarget or str
        What trains it.
    gpus : int
        Devices to use.
    seq : float or str
        Tokens of a sequence.
    global_batch : int or str
        Sequences of a step.
    tokens : float or str
        Tokens to train on, for instance "15T"; 0 for no budget.
    precision : str
        Recipe.
    stack : str
        Stack profile, where `system` is not a target.
    method : str
        full, lora or forward.
    adapter_rank : float
        Rank of the adapters.
    adapters : float
        Adapters that are trained in one batch.
    reliability : Reliability, optional
        Interruptions to be paid for.
    lengths : Lengths or str, optional
        How many tokens the sequences have, as in `train`.
    chunk : float or str
        Tokens of a chunk, into which short sequences are packed and long ones are cut; 0 for none.
    retained : float
        Chunks of a sequence whose activations are kept.
    **chosen
        Knobs of `training_plans` held at one value, or a list of values to try; None leaves them free.

    Returns
    -------
    TrainingRanking
        Ranked plans.

    Raises
    ------
    NothingFeasibleError
        If nothing fits; the message names the nearest miss.

    Examples
    --------
    >>> best = rank_training_plans("llama-3.1-8b", "hgx-h100", gpus=8, seq="4Ki", global_batch=64).row(1)
    >>> best["feasible"]
    True
    """
    spec, on = model_of(model), _target(system, stack)
    workload = _workload(seq, tokens_of(global_batch, "global_batch"), lengths, chunk, retained)
    held = {k: v for k, v in chosen.items() if v is not None}
    if workload.mixed:
        held.setdefault("micro_batch", 1)
    return rank_training(
        spec,
        on,
        devices_of(gpus),
        workload,
        get_recipe(precision, method, adapter_rank, adapters),
        tokens=tokens_of(tokens, "tokens"),
        chosen=held,
        reliability=reliability,
    )


def rank_on_cluster(
    model: ModelSpec | str,
    system: System | TrainingTarget | str,
    cluster: Cluster,
    *,
    seq: float | str,
    global_batch: int | str,
    precision: str = "bf16",
    stack: str = "neutral",
    method: str = "full",
    adapter_rank: float = 16.0,
    adapters: float = 1.0,
    top: int = 10,
    **chosen: Any,
) -> PlacedRanking:
    """Rank training plans on nodes that are not connected alike, each plan on the nodes that suit it best.

    Parameters
    ----------
    model : ModelSpec or str
        Model, or its name or the path of a config.json.
    system : System, TrainingTarget or str
        Device and scale-up domain of a node.
    cluster : Cluster
        Nodes and the bandwidth between them; all are used.
    seq : float or str
        Tokens of a sequence.
    global_batch : int or str
        Sequences of a step.
    precision : str
        Recipe.
    stack : str
        Stack profile, where `system` is not a target.
    method : str
        full, lora or forward.
    adapter_rank : float
        Rank of the adapters.
    adapters : float
        Adapters that are trained in one batch.
    top : int
        Plans wanted.
    **chosen
        Knobs of `training_plans` held at one value, or a list of values to try; None leaves them free.

    Returns
    -------
    PlacedRanking
        Ranked plans.

    Raises
    ------
    NothingFeasibleError
        If nothing fits.

    Examples
    --------
    >>> from perfmodel.hardware.cluster import cluster_of_islands
    >>> cluster = cluster_of_islands("2x25GB/s, 2x25GB/s", "1GB/s")
    >>> best = rank_on_cluster("llama-3.1-8b", "hgx-a100", cluster, seq="4Ki", global_batch=256, pp=2, top=1).plans[0]
    >>> best.stages
    (('a1', 'a2'), ('b1', 'b2'))
    """
    spec, on = model_of(model), _target(system, stack)
    return rank_placed_training(
        spec,
        on,
        cluster,
        TrainingWorkload(tokens_of(seq, "seq"), tokens_of(global_batch, "global_batch")),
        get_recipe(precision, method, adapter_rank, adapters),
        top=top,
        chosen={k: v for k, v in chosen.items() if v is not None},
    )


def _target(system: System | TrainingTarget | str, stack: str) -> TrainingTarget:
    if isinstance(system, TrainingTarget):
        return system
    if not isinstance(system, str | Path | System):
        raise PlanError(f"system: {system!r} is neither a name nor a path nor what load_system returns")
    return training_target(system, stack)
