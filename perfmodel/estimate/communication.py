"""Seconds of one collective: its group is placed on the fabric, and the fastest algorithm is taken."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.collective_tiers import hierarchical_all_gather, hierarchical_all_reduce, hierarchical_all_to_all
from perfmodel.costs.collectives import effective_bandwidth, in_switch_all_reduce, point_to_point
from perfmodel.estimate.target import Target
from perfmodel.estimate.timing import OperatorTime, call_form
from perfmodel.hardware.fabric import Tier
from perfmodel.hardware.kernels import Basis
from perfmodel.layers.operators import Collective
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.groups import rank_group
from perfmodel.parallel.placement import members_per_tier

LINK_EFFICIENCY = 0.8
"""Share of a link's datasheet bandwidth that large transfers reach where nothing was measured.

All-gather and reduce-scatter of NCCL reach 361 to 363 of 450 GB/s on eight H200 (ml-engineering, network benchmarks).
"""

COMMUNICATION_CORES = 20.0
"""Cores that a throughput dispatch or combine runs on (the default of DeepEP)."""

_TOPOLOGIES = {"switched": "switch", "fat-tree": "switch"}
_LIKE = {"dispatch": "all_to_all", "combine": "all_to_all"}


def time_collective(op: Collective, target: Target, grid: PlanGrid) -> OperatorTime:
    """Time one collective for every plan.

    A group inside one scale-up domain is timed by the measured form of the collective library, and by the engine's
    own all-reduce where that is faster. A group over several tiers runs tier after tier: measured form inside,
    textbook form outside.

    Parameters
    ----------
    op : Collective
        Kind, payload and group.
    target : Target
        System and calibrations.
    grid : PlanGrid
        Plans.

    Returns
    -------
    OperatorTime
        Seconds, and the exact bound of the payload on the links it crosses.
    """
    payload = as_floats(op.payload)
    tiers = target.system.tiers
    levels = members_per_tier(rank_group(grid, op.group), tuple(float(tier.devices) for tier in tiers))
    rates = [_rate(tier, members) for tier, members in zip(tiers, levels, strict=True)]
    delays = [tier.latency_s for tier in tiers]
    if op.kind == "point_to_point":
        seconds, bound, formula, basis, source = _hop(payload, levels, rates, delays, target)
    else:
        seconds, formula, basis, source = _collective(op.kind, payload, levels, rates, delays, target)
        bound = _bound(op.kind, payload, levels, rates)
        exchanged = _exchange(op, levels, grid, target)
        if exchanged is not None:
            seconds, formula, basis, source = np.where(exchanged[0] > 0, exchanged[1], seconds), *exchanged[2:]
    quiet = payload <= 0
    return OperatorTime(
        seconds=op.count * np.where(quiet, 0.0, seconds),
        compute_s=0.0,
        memory_s=0.0,
        network_s=op.count * np.where(quiet, 0.0, np.minimum(bound, seconds)),
        formula=formula,
        basis=basis,
        source=source,
        count=op.count,
    )


def _rate(tier: Tier, members: Floats) -> Floats:
    topology = _TOPOLOGIES.get(tier.topology, tier.topology)
    wired = effective_bandwidth(topology, members, float(tier.devices), tier.bandwidth)
    return as_floats(wired) / tier.oversubscription


def _hop(
    payload: Floats, levels: tuple[Floats, ...], rates: list[Floats], delays: list[float], target: Target
) -> tuple[Floats, Floats, str, Basis, str]:
    """One message to the neighbour in the group, over the outermost tier that the group spans."""
    seconds: Floats = as_floats(0.0)
    bound: Floats = as_floats(0.0)
    for members, rate, delay in zip(levels, rates, delays, strict=True):
        crossing = as_floats(members) > 1
        once = point_to_point(payload, bandwidth=as_floats(rate) * LINK_EFFICIENCY, latency=delay)
        seconds = np.where(crossing, once, seconds)
        bound = np.where(crossing, payload / as_floats(rate), bound)
    return seconds, bound, "point_to_point", "datasheet", f"{target.system.id} datasheet"


def _collective(
    kind: str,
    payload: Floats,
    levels: tuple[Floats, ...],
    rates: list[Floats],
    delays: list[float],
    target: Target,
) -> tuple[Floats, str, Basis, str]:
    """Fastest of the algorithms that the collective can use; the outer tiers work on what the inner one leaves."""
    like = _LIKE.get(kind, kind)
    usable = [as_floats(rate) * LINK_EFFICIENCY for rate in rates]
    links = {"bandwidths": usable, "latencies": delays}
    if like == "all_reduce":
        seconds: Floats = hierarchical_all_reduce(payload, levels, **links)  # type: ignore[arg-type]
        name = "hierarchical_all_reduce"
        if target.system.tiers[0].in_network_reduction:
            inside = in_switch_all_reduce(payload, levels[0], bandwidth=usable[0], latency=delays[0])
            seconds = np.where(_outside(levels) > 1, seconds, np.minimum(seconds, inside))
    elif like == "all_to_all":
        seconds = hierarchical_all_to_all(payload, levels, **links)  # type: ignore[arg-type]
        name = "hierarchical_all_to_all"
    else:
        seconds = hierarchical_all_gather(payload, levels, **links)  # type: ignore[arg-type]
        name = "hierarchical_all_gather" if like == "all_gather" else "hierarchical_reduce_scatter"
    measured = _measured(like, payload, levels, target)
    if measured is None:
        return seconds, name, "datasheet", f"{target.system.id} datasheet"
    inside, form, basis, source = measured
    if like == "all_to_all":
        # All tiers carry traffic at once, so the measured form holds only where there is one tier.
        combined = np.where(_outside(levels) > 1, seconds, inside)
    else:
        rest = (as_floats(1.0), *levels[1:])
        left = payload / as_floats(levels[0])
        outer = (hierarchical_all_reduce if like == "all_reduce" else hierarchical_all_gather)(left, rest, **links)  # type: ignore[arg-type]
        combined = inside + as_floats(outer)
    everywhere = bool(np.all(_outside(levels) <= 1))
    return combined, form if everywhere else f"{form} + {name}" if like != "all_to_all" else name, basis, source


def _exchange(
    op: Collective, levels: tuple[Floats, ...], grid: PlanGrid, target: Target
) -> tuple[Floats, Floats, str, Basis, str] | None:
    """Fused dispatch and combine kernels, where they were measured: whole experts, one scale-up domain."""
    if op.exchange is None:
        return None
    mode = "low_latency" if op.exchange.decode else "normal"
    kernel = target.kernels.find(op.kind, engine="deepep", kernel=mode)
    if kernel is None or kernel.kernel != mode:
        return None
    sizes = {
        "tokens": np.maximum(op.exchange.tokens, 1.0),
        "hidden": op.exchange.hidden,
        "topk": op.exchange.topk,
        "experts": op.exchange.experts,
        "ranks": levels[0],
    }
    numbers = {
        "bandwidth": target.system.tiers[0].bandwidth,
        "cores": float(target.device.cores),
        "sms": COMMUNICATION_CORES,
    }
    holds = as_floats((_outside(levels) <= 1) & (as_floats(grid.moe_tp) <= 1))
    seconds = call_form(kernel, sizes, numbers)
    owner = kernel.owner(target.device.id)
    return holds, seconds, kernel.form, kernel.basis, f"{owner}/{kernel.engine} {kernel.version}".strip()


def _outside(levels: tuple[Floats, ...]) -> Floats:
    parts: Floats = as_floats(1.0)
    for members in levels[1:]:
        parts = parts * as_floats(members)
    return parts


def _measured(
    like: str, payload: Floats, levels: tuple[Floats, ...], target: Target
) -> tuple[Floats, str, Basis, str] | None:
    """Measured library collective among the members inside the innermost tier, or the engine's own if faster."""
    library = target.kernels.find(like, engine="nccl")
    if library is None:
        return None
    tier = target.system.tiers[0]
    sizes = {"nbytes": np.maximum(payload, 1.0), "ranks": levels[0]}
    numbers = {"bandwidth": tier.bandwidth, "op": like}
    seconds = call_form(library, sizes, numbers)
    form, chosen = library.form, library
    if like == "all_reduce" and target.engine.kernels:
        own = target.kernels.find(like, engine=target.engine.kernels)
        if own is not None and own.engine == target.engine.kernels:
            faster = call_form(own, sizes, numbers)
            if np.all(as_floats(faster) <= seconds):
                form, chosen = own.form, own
            seconds = np.minimum(seconds, faster)
    owner = chosen.owner(target.device.id)
    return seconds, form, chosen.basis, f"{owner}/{chosen.engine} {chosen.version}".strip()


def _bound(kind: str, payload: Floats, levels: tuple[Floats, ...], rates: list[Floats]) -> Floats:
    """Bytes that must cross each tier over its full bandwidth, all tiers at work at once."""
    like = _LIKE.get(kind, kind)
    ranks: Floats = as_floats(1.0)
    for members in levels:
        ranks = ranks * as_floats(members)
    bound: Floats = as_floats(0.0)
    inside: Floats = as_floats(1.0)
    for tier, (members, rate) in enumerate(zip(levels, rates, strict=True)):
        n = as_floats(members)
        if like == "all_to_all":
            crossing = np.where(n > 1, (ranks - inside if tier else n - 1.0) / ranks, 0.0)
        elif like == "all_reduce":
            crossing = np.where(n > 1, 1.0, 0.0) / inside  # an adding switch takes every byte once
        else:
            crossing = (n - 1.0) / n / inside
        bound = np.maximum(bound, crossing * payload / as_floats(rate))
        inside = inside * n
    return bound
