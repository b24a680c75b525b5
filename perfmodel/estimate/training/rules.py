"""Rules of training plans: what cannot be divided, scheduled or held in memory [B], and the reason."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.estimate.training.target import TrainingTarget
from perfmodel.estimate.training.workload import TrainingWorkload
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.mesh import pick
from perfmodel.parallel.rules import Rule
from perfmodel.parallel.training_grid import TrainingGrid
from perfmodel.units import format_size


def training_rules(
    model: ModelSpec,
    target: TrainingTarget,
    grid: TrainingGrid,
    device_bytes: Floats,
    global_batch: Floats,
    workload: TrainingWorkload,
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
    device_bytes : float or array
        What a plan needs on its fullest device [B].
    global_batch : float or array
        Sequences of a step.
    workload : TrainingWorkload
        Lengths of the sequences, and chunks.

    Returns
    -------
    tuple of Rule
        Structural rules, then that of memory.
    """
    shape = grid.shape
    names = ("tp", "pp", "dp", "cp", "ep", "vp", "micro_batch", "sequence_parallel")
    col = {name: getattr(grid, name) for name in names}
    batch = as_floats(global_batch)
    sizes = model.divisors()
    heads, kv_heads, experts = sizes.get("heads", 0), sizes.get("kv_heads", 0), sizes.get("experts", 0)
    stage = col["tp"] * col["dp"] * col["cp"]
    limit = target.system.max_devices
    capacity = target.device.memory_bytes
    need = as_floats(device_bytes)
    rules: list[Rule] = []

    def at(value: Floats, index: int) -> float:
        return pick(value, shape, index)

    def add(category: str, broken: npt.NDArray[np.bool_], describe: Callable[[int], str]) -> None:
        rules.append(Rule(category, np.asarray(broken), describe))

    add(
        "more devices than the system connects",
        stage * col["pp"] > limit,
        lambda i: f"{at(stage, i) * at(col['pp'], i):.0f} devices, and the system connects {limit}",
    )
    add(
        "more pipeline stages than layers",
        np.where(col["vp"] > 1, col["pp"] * col["vp"] > model.layers + 2, col["pp"] > model.layers),
        lambda i: (
            f"pp={at(col['pp'], i):.0f}"
            + (f" x vp={at(col['vp'], i):.0f}" if at(col["vp"], i) > 1 else "")
            + f" exceeds {model.layers} layers"
        ),
    )
    add(
        "chunks without a pipeline",
        (col["vp"] > 1) & (col["pp"] < 2),
        lambda i: f"vp={at(col['vp'], i):.0f} needs a pipeline of at least 2 stages",
    )
    if heads:
        add(
            "tp does not divide the query heads",
            heads % col["tp"] != 0,
            lambda i: f"tp={at(col['tp'], i):.0f} does not divide {heads} query heads",
        )
    if kv_heads:
        add(
            "tp does not divide the KV heads",
            (kv_heads % col["tp"] != 0) & (col["tp"] % kv_heads != 0),
            lambda i: f"tp={at(col['tp'], i):.0f} neither divides {kv_heads} KV heads nor is a multiple of them",
        )
    if experts:
        add(
            "ep does not divide the experts",
            (experts % col["ep"] != 0) | (stage % col["ep"] != 0),
            lambda i: (
                f"ep={at(col['ep'], i):.0f} does not divide {experts} experts and {at(stage, i):.0f} ranks of a stage"
            ),
        )
    else:
        add("ep without experts", col["ep"] > 1, lambda i: f"ep={at(col['ep'], i):.0f} on a model without experts")
    if not target.device.host_bandwidth:
        kinds = ("offload_activations", "offload_optimizer", "offload_weights")
        offload = {name: getattr(grid, name) for name in kinds}
        add(
            "no known link to the host",
            (offload[kinds[0]] > 0) | (offload[kinds[1]] > 0) | (offload[kinds[2]] > 0),
            lambda i: (
                f"{next(n for n in kinds if at(offload[n], i) > 0)}={max(at(offload[n], i) for n in kinds):g}, and"
                f" {target.device.id} has no host_bandwidth in its profile; name a link (pcie4, or a bandwidth)"
            ),
        )
    overlap = (grid.tp_overlap > 0) & (col["tp"] > 1) & (col["sequence_parallel"] < 1)
    add(
        "tensor-parallel overlap without sequence parallelism",
        overlap,
        lambda i: f"tp_overlap=1 at tp={at(col['tp'], i):.0f} cuts gathers and scatters up: set sequence_parallel=1",
    )
    copies, zero = grid.shard_copies, grid.zero
    ranks, routed = col["dp"] * col["cp"], np.maximum(stage / col["ep"], 1.0)
    uneven = (ranks % copies != 0) | (bool(experts) & (routed % copies != 0))
    add(
        "copies of shards do not divide the ranks",
        (copies > 1) & ((zero < 1) | uneven),
        lambda i: (
            f"shard_copies={at(copies, i):.0f} does not divide {at(ranks, i):.0f} data-parallel ranks"
            + (f" and {at(routed, i):.0f} of the experts" if experts else "")
            if at(zero, i) >= 1
            else f"shard_copies={at(copies, i):.0f} and zero=0: nothing is sharded"
        ),
    )
    chunks, mode = grid.sequence_chunks, grid.recompute
    add(
        "a backward pass in pieces without full recomputation",
        (chunks > 1) & (mode < 2),
        lambda i: f"sequence_chunks={at(chunks, i):.0f} computes layers again piece by piece: recompute=full",
    )
    skipped = grid.skipped_stages
    add(
        "stages skipped without a pipeline",
        (skipped > 0) & ((col["pp"] < 2) | (skipped >= 1)),
        lambda i: f"skipped_stages={at(skipped, i):g} of pp={at(col['pp'], i):.0f} stages",
    )
    if workload.mixed:
        add(
            "several sequences in a microbatch of mixed lengths",
            col["micro_batch"] > 1,
            lambda i: (
                f"micro_batch={at(col['micro_batch'], i):.0f}, where every "
                f"{'chunk' if workload.chunk else 'sequence'} is a microbatch of its own"
            ),
        )
    if workload.chunk and target.stack.unfused:
        add(
            "chunks with attention scores in memory",
            np.ones(shape, dtype=bool),
            lambda _: f"chunk={workload.chunk:.0f} under the stack {target.stack.id}, which keeps attention scores",
        )
    each = col["dp"] * col["micro_batch"]
    add(
        "microbatch does not divide",
        batch % each != 0,
        lambda i: (
            f"global batch {at(batch, i):.0f} is not a multiple of dp={at(col['dp'], i):.0f}"
            f" x micro_batch={at(col['micro_batch'], i):.0f}"
        ),
    )
    add(
        "memory",
        need > capacity,
        lambda i: f"needs {format_size(at(need, i), binary=True)}, the device has {format_size(capacity, binary=True)}",
    )
    return tuple(rules)
