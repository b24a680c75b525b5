"""Seconds of one block for one microbatch: forward, backward and recomputation, each with its parts."""

from dataclasses import dataclass, replace

import numpy as np

from perfmodel.arrays import Array, Floats, as_floats
from perfmodel.costs.balance import busiest_rank
from perfmodel.costs.overlap import decomposed_exchange, host_stream
from perfmodel.costs.training_kernels import launched_time
from perfmodel.estimate.training.kernels import Kernels
from perfmodel.estimate.training.network import Network
from perfmodel.estimate.training.target import TrainingTarget
from perfmodel.hardware.stack import Stack
from perfmodel.layers.training_work import LayerWork
from perfmodel.parallel.training_grid import TrainingGrid

BLOCK_PARTS = ("compute", "pointwise", "tp", "cp", "ep", "dp", "offload", "host")
"""What the time of a block is charged to."""

Parts = dict[str, Floats]

ROUTER_BACKWARD = 2.0 / 3.0
"""Backward over forward kernels of routing: counting and sorting tokens has no gradient."""


@dataclass(frozen=True, slots=True)
class BlockTime:
    """Time of one block for one microbatch.

    Parameters
    ----------
    forward, backward : dict
        Part of `BLOCK_PARTS` -> seconds; recomputation is in `backward` [s].
    weight_s : float or array
        Part of the backward time that computes weight gradients [s].
    first_s, last_s : float or array
        Exchange that the first block of a forward pass waits for, and the last of a backward pass leaves behind, beyond
        what other blocks do [s].
    """

    forward: Parts
    backward: Parts
    weight_s: Floats
    first_s: Floats = 0.0
    last_s: Floats = 0.0

    @property
    def forward_s(self) -> Floats:
        """Forward time [s]."""
        return total(self.forward)

    @property
    def backward_s(self) -> Floats:
        """Backward time, recomputation included [s]."""
        return total(self.backward)


def total(parts: Parts) -> Floats:
    """Sum the parts of a time.

    Parameters
    ----------
    parts : dict
        Part -> seconds [s].

    Returns
    -------
    float or array
        Time [s].
    """
    seconds: Floats = 0.0
    for value in parts.values():
        seconds = seconds + as_floats(value)
    return seconds


def _add(first: Parts, second: Parts, share: Floats = 1.0) -> Parts:
    return {name: as_floats(first[name]) + as_floats(share) * second[name] for name in BLOCK_PARTS}


def _empty() -> Parts:
    return dict.fromkeys(BLOCK_PARTS, as_floats(0.0))


def _launched(parts: Parts, kernels: Floats, target: TrainingTarget) -> Parts:
    """Add the gaps between kernels and what the device waits for the host."""
    stack = target.stack
    gaps = dict(parts)
    gaps["host"] = as_floats(gaps["host"]) + kernels * stack.kernel_gap_s
    busy = total(gaps)
    seconds = launched_time(busy, kernels, host_kernel_s=stack.host_kernel_s, blend=stack.blend)
    gaps["host"] = gaps["host"] + (as_floats(seconds) - busy)
    return gaps


def _exposed_tp(exchange_s: Floats, product_s: Floats, hidden: float, grid: TrainingGrid) -> Floats:
    """What is left of tensor-parallel exchanges, by the stack's recipe or by the plan's overlap if that hides more."""
    exposed = (1.0 - hidden) * as_floats(exchange_s)
    if not np.any(grid.tp_overlap > 0):
        return exposed
    pieces = np.minimum(exposed, decomposed_exchange(exchange_s, product_s, grid.tp))
    return np.where(grid.tp_overlap > 0, pieces, exposed)


def _busiest(groups: Array, grid: TrainingGrid, stack: Stack) -> Floats:
    """Tokens of the busiest rank over those of all, where each has so many experts."""
    return busiest_rank(grid.ep, groups * grid.ep, slot_spread=stack.expert_spread)


def block_time(
    work: LayerWork, kernels: Kernels, network: Network, *, repeats: bool = True, launches: bool = True
) -> BlockTime:
    """Time one block for every plan.

    Parameters
    ----------
    work : LayerWork
        What the block does on one device.
    kernels : Kernels
        Times kernels.
    network : Network
        Plans on the fabric.
    repeats : bool
        Whether recomputation touches it; embedding and head are never computed twice.
    launches : bool
        Whether its kernels count against the host.

    Returns
    -------
    BlockTime
        Seconds per microbatch and part.
    """
    target = kernels.target
    stack, grid = target.stack, network.grid
    forward, backward = _empty(), _empty()
    core: Parts = _empty()
    light: Parts = _empty()
    lifted: Parts = _empty()
    weight_s: Floats = 0.0
    beside: list[Floats] = [0.0, 0.0]  # products that tensor-parallel exchanges can run beside, each way
    pieces = grid.sequence_chunks if np.any(grid.sequence_chunks > 1) else None
    # Collectives are launched like kernels.
    ahead_kernels: Floats = as_floats(stack.forward_kernels * launches)
    back_kernels: Floats = as_floats(stack.backward_kernels * launches)
    if any(product.experts for product in work.products):
        ahead_kernels = ahead_kernels + stack.router_kernels
        back_kernels = back_kernels + ROUTER_BACKWARD * stack.router_kernels
    # The others wait for the rank whose experts were picked most.
    busiest = [
        replace(each, tokens=each.tokens * _busiest(as_floats(each.groups), grid, stack)) if each.experts else each
        for each in work.products
    ]
    times = kernels.products(busiest)
    if pieces is not None:  # the backward pass multiplies one piece of the sequence after the other
        cut = kernels.products([replace(each, tokens=as_floats(each.tokens) / pieces) for each in busiest])
        times = [(whole[0], pieces * piece[1], pieces * piece[2]) for whole, piece in zip(times, cut, strict=True)]
    for product, (ahead, inputs, weights) in zip(busiest, times, strict=True):
        if product.experts:
            ahead_kernels = ahead_kernels + stack.expert_kernels * as_floats(product.groups)
            back_kernels = back_kernels + 1.5 * stack.expert_kernels * as_floats(product.groups)
        if not product.experts:
            beside = [as_floats(beside[0]) + ahead, as_floats(beside[1]) + inputs + weights]
        cast, cast_back = kernels.cast(product)
        forward["compute"] = forward["compute"] + as_floats(ahead)
        backward["compute"] = backward["compute"] + as_floats(inputs) + weights
        forward["pointwise"] = forward["pointwise"] + as_floats(cast)
        backward["pointwise"] = backward["pointwise"] + as_floats(cast_back)
        weight_s = weight_s + as_floats(weights)
        if product.lifts:
            lifted["compute"] = lifted["compute"] + as_floats(ahead)
            lifted["pointwise"] = lifted["pointwise"] + as_floats(cast)
    for op in work.attentions:
        ahead, back = kernels.attention(op)
        forward["compute"] = forward["compute"] + as_floats(ahead)
        backward["compute"] = backward["compute"] + as_floats(back)
        core["compute"] = core["compute"] + as_floats(ahead) * stack.unfused
    for item in work.passes:
        ahead = kernels.passes(item.forward_bytes, item.forward_kernels)
        forward["pointwise"] = forward["pointwise"] + as_floats(ahead)
        backward["pointwise"] = backward["pointwise"] + as_floats(
            kernels.passes(item.backward_bytes, item.backward_kernels)
        )
        if item.core:
            core["pointwise"] = core["pointwise"] + as_floats(ahead)
        if item.light:
            light["pointwise"] = light["pointwise"] + as_floats(ahead)
        if item.lifted:
            lifted["pointwise"] = lifted["pointwise"] + as_floats(ahead)
    for exchange in work.exchanges:
        once = as_floats(network.collective(exchange.kind, exchange.payload, exchange.network, exchange.tokens))
        happens = np.where(once > 0.0, 1.0, 0.0) * launches
        ahead_kernels = ahead_kernels + exchange.forward * happens
        back_kernels = back_kernels + exchange.backward * happens
        forward[exchange.network] = forward[exchange.network] + exchange.forward * once
        backward[exchange.network] = backward[exchange.network] + exchange.backward * once
    if pieces is not None:
        back_kernels = back_kernels * pieces
    for parts, products in zip((forward, backward), beside, strict=True):
        parts["tp"] = _exposed_tp(parts["tp"], products, stack.hidden_tp, grid)
        parts["ep"] = (1.0 - stack.hidden_ep) * as_floats(parts["ep"])
    launched = _launched(forward, ahead_kernels, target)
    returned = _launched(backward, back_kernels, target)
    if kernels.recipe.method == "forward":
        return BlockTime(launched, launched, 0.0)  # the second of the two passes
    if repeats:
        again = launched if pieces is None else _launched(forward, ahead_kernels * pieces, target)
        returned = _add(returned, again, np.equal(grid.recompute, 2) * grid.recompute_share)
        returned = _add(returned, core, np.equal(grid.recompute, 1))
        if np.any(grid.recompute > 2):
            returned = _add(returned, light, np.greater(grid.recompute, 2))
            returned = _add(returned, lifted, np.equal(grid.recompute, 4))
    return BlockTime(launched, returned, weight_s)


def with_offloaded_activations(time: BlockTime, kept: Floats, target: TrainingTarget, grid: TrainingGrid) -> BlockTime:
    r"""Add what the link to the host needs beyond the computation, where activations wait in the host's memory.

    .. math:: \max(t_f, A / B_h) + \max(t_b, A / B_h)

    Parameters
    ----------
    time : BlockTime
        The block without.
    kept : float or array
        Activations that the block keeps for its backward pass in one microbatch [B].
    target : TrainingTarget
        Its device says how fast the link to the host is.
    grid : TrainingGrid
        Plans.

    Returns
    -------
    BlockTime
        The block with the exposed transfers in part "offload".
    """
    if not np.any(grid.offload_activations > 0):
        return time
    # Without a known link nothing can be moved: a rule refuses the plan.
    link = target.device.host_bandwidth or np.inf
    moved = grid.offload_activations * as_floats(kept)
    forward, backward = dict(time.forward), dict(time.backward)
    forward["offload"] = as_floats(forward["offload"]) + host_stream(0.0, moved, time.forward_s, bandwidth=link)
    backward["offload"] = as_floats(backward["offload"]) + host_stream(moved, 0.0, time.backward_s, bandwidth=link)
    return replace(time, forward=forward, backward=backward)
