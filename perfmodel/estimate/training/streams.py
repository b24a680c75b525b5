"""Seconds of a block whose weights stream from the host, or whose tokens travel while another microbatch computes."""

from dataclasses import replace

import numpy as np

from perfmodel.arrays import as_floats
from perfmodel.costs.overlap import host_stream
from perfmodel.costs.training_schedules import SCHEDULES
from perfmodel.estimate.training.block import BlockTime, Parts
from perfmodel.estimate.training.kernels import Kernels
from perfmodel.estimate.training.shape import Weights
from perfmodel.parallel.training_grid import TrainingGrid
from perfmodel.parallel.training_groups import training_group

STREAMED_LAYERS = 3.0
"""Layers on a device whose weights stream: one arrives, one is computed, one leaves.

Wang et al. 2025, ZO2 (arXiv:2503.12668): three streams, for upload, computation and offload.
"""


def with_streamed_weights(time: BlockTime, size: Weights, kernels: Kernels, grid: TrainingGrid) -> BlockTime:
    r"""Add what the link to the host needs beyond the computation, where weights lie in the host's memory.

    A block's weights come in for the forward pass and once more for the backward pass, to which their gradients come
    along and from which they return. A forward-only step does both of its passes while a block is there, and sends it
    back changed.

    Parameters
    ----------
    time : BlockTime
        The block without.
    size : Weights
        Weights of the block on one device before sharding.
    kernels : Kernels
        Recipe and target.
    grid : TrainingGrid
        Plans.

    Returns
    -------
    BlockTime
        The block with the exposed transfers in part "offload".
    """
    if not np.any(grid.offload_weights > 0):
        return time
    recipe, stack = kernels.recipe, kernels.target.stack
    # Without a known link nothing can be moved: a rule refuses the plan.
    link = kernels.target.device.host_bandwidth or np.inf
    dense, experts = (training_group(grid, name).ranks for name in ("dp_shards", "edp_shards"))
    sharded = grid.zero >= 3
    held = as_floats(size.dense) / np.where(sharded, dense, 1.0)
    held = grid.offload_weights * (held + as_floats(size.experts) / np.where(sharded, experts, 1.0))
    weights = recipe.weight_bytes * held
    # Adapters, and their gradients, stay on the device.
    gradients = stack.gradient_bytes * held if recipe.method == "full" else 0.0 * held
    forward, backward = dict(time.forward), dict(time.backward)
    if recipe.method == "forward":
        ahead = host_stream(weights, weights, as_floats(time.forward_s) + time.backward_s, bandwidth=link)
        forward["offload"] = as_floats(forward["offload"]) + ahead
        return replace(time, forward=forward, backward=backward)
    forward["offload"] = as_floats(forward["offload"]) + host_stream(weights, 0.0, time.forward_s, bandwidth=link)
    back = host_stream(weights + gradients, gradients, time.backward_s, bandwidth=link)
    backward["offload"] = as_floats(backward["offload"]) + back
    return replace(time, forward=forward, backward=backward)


def with_both_directions(time: BlockTime, kernels: Kernels, grid: TrainingGrid) -> BlockTime:
    """Hide the exchange of tokens behind the computation of a microbatch that goes the other way (DualPipe).

    Parameters
    ----------
    time : BlockTime
        The block without.
    kernels : Kernels
        Target.
    grid : TrainingGrid
        Plans.

    Returns
    -------
    BlockTime
        The block with what computation does not hide, and products slower by the cores that communicate.
    """
    both = np.equal(grid.schedule, SCHEDULES.index("dualpipe")) & (grid.pp > 1) & (grid.ep > 1)
    if not np.any(both):
        return time
    slower = np.where(both, 1.0 / (1.0 - kernels.target.cores_taken), 1.0)
    sent = as_floats(time.forward["ep"]) + time.backward["ep"]
    busy = slower * (as_floats(time.forward["compute"]) + time.backward["compute"])
    busy = busy + time.forward["pointwise"] + time.backward["pointwise"]
    left = np.where(both & (sent > 0.0), np.maximum(sent - busy, 0.0) / np.where(sent > 0.0, sent, 1.0), 1.0)

    def hidden(parts: Parts) -> Parts:
        return parts | {"compute": slower * as_floats(parts["compute"]), "ep": left * as_floats(parts["ep"])}

    weight = slower * as_floats(time.weight_s)
    return replace(time, forward=hidden(time.forward), backward=hidden(time.backward), weight_s=weight)
