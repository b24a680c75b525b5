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
        offload = grid.column("offload_activations")
        add(
            "no known link to the host",
            offload > 0,
            lambda i: (
                f"offload_activations={offload[i]:g}, and {target.device.id} has no host_bandwidth in its profile"
            ),
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
