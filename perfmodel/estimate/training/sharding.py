"""Seconds of a block whose weights or gradients are shared out among replicas: what computation does not hide."""

from dataclasses import replace

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.overlap import beside_exchange
from perfmodel.estimate.training.block import BlockTime, Parts, total
from perfmodel.estimate.training.kernels import Kernels
from perfmodel.estimate.training.network import Network
from perfmodel.estimate.training.shape import Weights


def with_sharded_weights(
    time: BlockTime, size: Weights, kernels: Kernels, network: Network, *, repeats: bool = True
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
    network : Network
        Plans on the fabric.
    repeats : bool
        Whether it is one of many; embedding and head have no other of their kind to be gathered during.

    Returns
    -------
    BlockTime
        The block with exposed exchange in part "dp".
    """
    grid, stack = network.grid, network.target.stack
    if not np.any(grid.zero >= 2):
        return time
    calls = (stack.shard_gathers, stack.shard_scatters) if repeats else (1.0, 1.0)
    gather: Floats = 0.0
    scatter: Floats = 0.0
    held = ((size.dense, size.learned, "dp_shards"), (size.experts, size.learned_experts, "edp_shards"))
    for amount, learned, name in held:
        weights = kernels.recipe.weight_bytes * as_floats(amount)
        gradients = stack.gradient_bytes * as_floats(learned)
        if np.any(grid.zero >= 3):
            gather = gather + _in_calls("all_gather", weights, calls[0], name, kernels, network)
        scatter = scatter + _in_calls("reduce_scatter", gradients, calls[1], name, kernels, network)
    gather, scatter = np.where(grid.zero >= 3, gather, 0.0), np.where(grid.zero >= 2, scatter, 0.0)
    overlapped = (grid.grad_overlap > 0) & np.logical_not(stack.shard_waits)
    both = gather + scatter
    ahead = np.where(overlapped, exposed_beside(gather, time.forward, network), gather)
    back = np.where(overlapped, exposed_beside(both, time.backward, network), both)
    forward, backward = dict(time.forward), dict(time.backward)
    forward["dp"] = as_floats(forward["dp"]) + ahead
    backward["dp"] = as_floats(backward["dp"]) + back
    if not repeats:
        return replace(time, forward=forward, backward=backward)
    left = scatter + exposed_beside(gather, time.backward, network)
    ends = np.where(overlapped, np.maximum(gather - ahead, 0.0), 0.0), np.where(overlapped, left - back, 0.0)
    return replace(time, forward=forward, backward=backward, first_s=ends[0], last_s=np.maximum(ends[1], 0.0))


def _in_calls(kind: str, nbytes: Floats, calls: float, group: str, kernels: Kernels, network: Network) -> Floats:
    """Exchange of a layer's shards in some collectives, with what the software does around each."""
    once = as_floats(network.collective(kind, as_floats(nbytes) / calls, group))
    stack = network.target.stack
    if not (stack.shard_rank_kernels or stack.shard_passes):
        return calls * once
    around = kernels.passes(stack.shard_passes * as_floats(nbytes) / calls, 0.0) + shard_copies(network, group)
    return calls * np.where(once > 0.0, once + around, 0.0)


def shard_copies(network: Network, group: str) -> Floats:
    """Time in which the host launches a copy of every rank's part of a buffer, while the device waits.

    Parameters
    ----------
    network : Network
        Plans on the fabric.
    group : str
        Who shares the state, as in `Network.links`.

    Returns
    -------
    float or array
        Time, zero where nothing is shared [s].
    """
    stack, ranks = network.target.stack, as_floats(network.links(group).placement.ranks)
    return np.where(ranks > 1.0, stack.shard_rank_kernels * stack.host_kernel_s * ranks, 0.0)


def exposed_beside(exchange_s: Floats, parts: Parts, network: Network) -> Floats:
    """Time that an exchange among replicas adds to a computation, whose own exchanges need the same links.

    Products are slower by the cores that the exchange holds; other passes wait for the memory, not for cores.

    Parameters
    ----------
    exchange_s : float or array
        Time of the exchange alone [s].
    parts : dict
        Parts of the computation [s].
    network : Network
        Plans on the fabric.

    Returns
    -------
    float or array
        Exposed time [s].
    """
    busy: Floats = 0.0
    for name in ("tp", "cp", "ep"):
        if np.any(as_floats(parts[name]) > 0.0):
            busy = busy + network.shared(name) * as_floats(parts[name])
    window = np.maximum(total(parts) - as_floats(parts["dp"]) - busy, np.finfo(float).tiny)
    share = network.target.cores_taken * np.minimum(as_floats(parts["compute"]) / window, 1.0)
    return as_floats(beside_exchange(window, exchange_s, taken_share=share)) - window
