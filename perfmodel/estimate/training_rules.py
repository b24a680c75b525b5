"""Rules of training plans: what cannot be divided, scheduled or held in memory [B], and the reason."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.estimate.training_target import TrainingTarget
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.rules import Rule
from perfmodel.parallel.training_grid import TrainingGrid
from perfmodel.units import format_size


def training_rules(
    model: ModelSpec,
    target: TrainingTarget,
    grid: TrainingGrid,
    columns: Mapping[str, npt.NDArray[np.float64]],
    global_batch: Floats,
) -> tuple[Rule, ...]:
    """Rules that a training plan has to meet.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : TrainingTarget
        System and stack.
    grid : TrainingGrid
        Plans.
    columns : mapping
        Predicted columns.
    global_batch : float or array
        Sequences of a step.

    Returns
    -------
    tuple of Rule
        Structural rules, then that of memory.
    """
    shape = grid.shape
    col = {name: grid.column(name) for name in ("tp", "pp", "dp", "cp", "ep", "vp", "micro_batch", "sequence_parallel")}
    batch = np.broadcast_to(as_floats(global_batch), shape).ravel()
    sizes = model.divisors()
    heads, kv_heads, experts = sizes.get("heads", 0), sizes.get("kv_heads", 0), sizes.get("experts", 0)
    stage = col["tp"] * col["dp"] * col["cp"]
    limit = target.system.max_devices
    capacity = target.device.memory_bytes
    need = columns["device_bytes"]
    rules: list[Rule] = []

    def add(category: str, broken: npt.NDArray[np.bool_], describe: Callable[[int], str]) -> None:
        rules.append(Rule(category, broken.reshape(shape), describe))

    add(
        "more devices than the system connects",
        stage * col["pp"] > limit,
        lambda i: f"{stage[i] * col['pp'][i]:.0f} devices, and the system connects {limit}",
    )
    add(
        "more pipeline stages than layers",
        np.where(col["vp"] > 1, col["pp"] * col["vp"] > model.layers + 2, col["pp"] > model.layers),
        lambda i: (
            f"pp={col['pp'][i]:.0f}"
            + (f" x vp={col['vp'][i]:.0f}" if col["vp"][i] > 1 else "")
            + f" exceeds {model.layers} layers"
        ),
    )
    add(
        "chunks without a pipeline",
        (col["vp"] > 1) & (col["pp"] < 2),
        lambda i: f"vp={col['vp'][i]:.0f} needs a pipeline of at least 2 stages",
    )
    if heads:
        add(
            "tp does not divide the query heads",
            heads % col["tp"] != 0,
            lambda i: f"tp={col['tp'][i]:.0f} does not divide {heads} query heads",
        )
    if kv_heads:
        add(
            "tp does not divide the KV heads",
            (kv_heads % col["tp"] != 0) & (col["tp"] % kv_heads != 0),
            lambda i: f"tp={col['tp'][i]:.0f} neither divides {kv_heads} KV heads nor is a multiple of them",
        )
    if experts:
        add(
            "ep does not divide the experts",
            (experts % col["ep"] != 0) | (stage % col["ep"] != 0),
            lambda i: f"ep={col['ep'][i]:.0f} does not divide {experts} experts and {stage[i]:.0f} ranks of a stage",
        )
    else:
        add("ep without experts", col["ep"] > 1, lambda i: f"ep={col['ep'][i]:.0f} on a model without experts")
    if not target.device.host_bandwidth:
        names = ("offload_activations", "offload_optimizer", "offload_weights")
        offload = {name: grid.column(name) for name in names}
        add(
            "no known link to the host",
            np.max(list(offload.values()), axis=0) > 0,
            lambda i: (
                f"{next(n for n in names if offload[n][i] > 0)}={max(offload[n][i] for n in names):g}, and"
                f" {target.device.id} has no host_bandwidth in its profile; name a link (pcie4, or a bandwidth)"
            ),
        )
    if np.any(grid.tp_overlap > 0):
        overlap = (grid.column("tp_overlap") > 0) & (col["tp"] > 1) & (col["sequence_parallel"] < 1)
        add(
            "tensor-parallel overlap without sequence parallelism",
            overlap,
            lambda i: f"tp_overlap=1 at tp={col['tp'][i]:.0f} cuts gathers and scatters up: set sequence_parallel=1",
        )
    if np.any(grid.shard_copies > 1):
        copies, zero = grid.column("shard_copies"), grid.column("zero")
        ranks, routed = col["dp"] * col["cp"], np.maximum(stage / col["ep"], 1.0)
        uneven = (ranks % copies != 0) | (bool(experts) & (routed % copies != 0))
        add(
            "copies of shards do not divide the ranks",
            (copies > 1) & ((zero < 1) | uneven),
            lambda i: (
                f"shard_copies={copies[i]:.0f} does not divide {ranks[i]:.0f} data-parallel ranks"
                + (f" and {routed[i]:.0f} of the experts" if experts else "")
                if zero[i] >= 1
                else f"shard_copies={copies[i]:.0f} and zero=0: nothing is sharded"
            ),
        )
    if np.any(grid.sequence_chunks > 1):
        chunks, mode = grid.column("sequence_chunks"), grid.column("recompute")
        add(
            "a backward pass in pieces without full recomputation",
            (chunks > 1) & (mode < 2),
            lambda i: f"sequence_chunks={chunks[i]:.0f} computes layers again piece by piece: recompute=full",
        )
    if np.any(grid.skipped_stages > 0):
        skipped = grid.column("skipped_stages")
        add(
            "stages skipped without a pipeline",
            (skipped > 0) & ((col["pp"] < 2) | (skipped >= 1)),
            lambda i: f"skipped_stages={skipped[i]:g} of pp={col['pp'][i]:.0f} stages",
        )
    each = col["dp"] * col["micro_batch"]
    add(
        "microbatch does not divide",
        batch % each != 0,
        lambda i: (
            f"global batch {batch[i]:.0f} is not a multiple of dp={col['dp'][i]:.0f}"
            f" x micro_batch={col['micro_batch'][i]:.0f}"
        ),
    )
    add(
        "memory",
        need > capacity,
        lambda i: (
            f"needs {format_size(float(need[i]), binary=True)}, the device has {format_size(capacity, binary=True)}"
        ),
    )
    return tuple(rules)
