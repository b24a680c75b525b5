"""Seconds of a block whose weights or gradients are shared out among replicas: what computation does not hide."""

from dataclasses import replace

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.overlap import beside_exchange
from perfmodel.estimate.training.block import BlockTime, Parts, total
from perfmodel.estimate.training.kernels import Kernels
from perfmodel.estimate.training.network import Network
from perfmodel.estimate.training.shape import Weights
from perfmodel.estimate.training.target import TrainingTarget
from perfmodel.parallel.training_grid import TrainingGrid


def with_sharded_weights(
    time: BlockTime, size: Weights, kernels: Kernels, grid: TrainingGrid, *, repeats: bool = True
) -> BlockTime:
    r"""Add the gathering of weights (ZeRO 3) and the scattering of gradients (ZeRO 2 and 3) of every microbatch.

    .. math:: t_f + x(g), \quad t_b + x(g + s) \text{ where overlapped}, \quad t_f + g, \quad t_b + g + s
              \text{ elsewhere}

    with x as what `exposed_beside` leaves. Weights are gathered one block ahead (arXiv:2304.11277, section 3.3), so
    that the first block of a pass waits for its own, and nothing is left to hide the gradients of the last.

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
    repeats : bool
        Whether it is one of many; embedding and head have no other of their kind to be gathered during.

    Returns
    -------
    BlockTime
        The block with exposed exchange in part "dp".
    """
    if not np.any(grid.zero >= 2):
        return time
    network, target = Network(kernels.target), kernels.target
    gather: Floats = 0.0
    scatter: Floats = 0.0
    held = ((size.dense, size.learned, "dp"), (size.experts, size.learned_experts, "edp"))
    for amount, learned, name in held:
        ranks, stride, *_ = network.shards(name, grid)
        weights = kernels.recipe.weight_bytes * as_floats(amount)
        gradients = target.stack.gradient_bytes * as_floats(learned)
        gather = gather + as_floats(network.collective("all_gather", weights, ranks, stride))
        scatter = scatter + as_floats(network.collective("reduce_scatter", gradients, ranks, stride))
    gather, scatter = np.where(grid.zero >= 3, gather, 0.0), np.where(grid.zero >= 2, scatter, 0.0)
    overlapped = grid.grad_overlap > 0
    both = gather + scatter
    ahead = np.where(overlapped, exposed_beside(gather, time.forward, target, grid), gather)
    back = np.where(overlapped, exposed_beside(both, time.backward, target, grid), both)
    forward, backward = dict(time.forward), dict(time.backward)
    forward["dp"] = as_floats(forward["dp"]) + ahead
    backward["dp"] = as_floats(backward["dp"]) + back
    if not repeats:
        return replace(time, forward=forward, backward=backward)
    left = scatter + exposed_beside(gather, time.backward, target, grid)
    ends = np.where(overlapped, np.maximum(gather - ahead, 0.0), 0.0), np.where(overlapped, left - back, 0.0)
    return replace(time, forward=forward, backward=backward, first_s=ends[0], last_s=np.maximum(ends[1], 0.0))


def exposed_beside(exchange_s: Floats, parts: Parts, target: TrainingTarget, grid: TrainingGrid) -> Floats:
    """Time that an exchange among replicas adds to a computation, whose own exchanges need the same links.

    Products are slower by the cores that the exchange holds; other passes wait for the memory, not for cores.

    Parameters
    ----------
    exchange_s : float or array
        Time of the exchange alone [s].
    parts : dict
        Parts of the computation [s].
    target : TrainingTarget
        System.
    grid : TrainingGrid
        Plans.

    Returns
    -------
    float or array
        Exposed time [s].
    """
    network = Network(target)
    busy: Floats = 0.0
    for name in ("tp", "cp", "ep"):
        busy = busy + network.shared(name, grid) * as_floats(parts[name])
    window = np.maximum(total(parts) - as_floats(parts["dp"]) - busy, np.finfo(float).tiny)
    share = target.cores_taken * np.minimum(as_floats(parts["compute"]) / window, 1.0)
    return as_floats(beside_exchange(window, exchange_s, taken_share=share)) - window
