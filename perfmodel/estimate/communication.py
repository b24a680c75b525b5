"""Seconds of one collective: its group is placed on the fabric, and the fastest algorithm is taken."""

from dataclasses import replace

import numpy as np

from perfmodel.arrays import Floats, as_floats, stacked
from perfmodel.costs.collectives import point_to_point
from perfmodel.costs.expert_traffic import node_limited_exchange
from perfmodel.estimate.algorithms import Candidate, candidates
from perfmodel.estimate.links import NETWORK_EFFICIENCY, Links, links_of_group
from perfmodel.estimate.operator_time import OperatorTime
from perfmodel.estimate.target import Communicator, Target
from perfmodel.estimate.timing import call_form
from perfmodel.layers.operators import Collective, Exchange
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.groups import RankGroup, rank_group

EXCHANGE_CORES = 20.0
"""Cores that a throughput dispatch or combine runs on (the default of DeepEP)."""

_LIKE = {"dispatch": "all_to_all", "combine": "all_to_all"}


def time_collective(op: Collective, target: Target, grid: PlanGrid, group: RankGroup | None = None) -> OperatorTime:
    """Time one collective for every plan by the fastest of the algorithms that it can use.

    Parameters
    ----------
    op : Collective
        Kind, payload and group.
    target : Target
        System and calibrations.
    grid : PlanGrid
        Plans.
    group : RankGroup, optional
        Who takes part, where that is not the same group of every plan.

    Returns
    -------
    OperatorTime
        Seconds, the algorithm of every plan, and the exact bound of the payload on the links it crosses.
    """
    payload = as_floats(op.payload)
    sheet = f"{target.system.id} datasheet"
    if not np.any(payload * op.count > 0):  # most blocks list collectives that a given split does not need
        return OperatorTime(0.0, 0.0, 0.0, 0.0, ("collective_bound",), ("datasheet",), (sheet,), op.count)
    links = links_of_group(target.system, group or rank_group(grid, op.group))
    if op.kind == "point_to_point":
        seconds, bound = hop_time(payload, links)
        found = [Candidate("point_to_point", seconds, "datasheet", sheet)]
    else:
        kind = _LIKE.get(op.kind, op.kind)
        bound = _bound(kind, payload, links)
        fused = fused_exchange(op.kind, op.exchange, links, target) if op.exchange else None
        if op.exchange is None or fused is None:
            found = candidates(kind, payload, links, target)
        else:
            whole = as_floats(grid.moe_tp) <= 1  # the kernels know no experts that several ranks share
            found = [replace(fused, seconds=np.where(whole, fused.seconds, np.inf))]
            if not np.all(whole):
                others = candidates(kind, payload, links, target)
                found += [replace(c, seconds=np.where(whole, np.inf, c.seconds)) for c in others]
            bound = np.where(whole, np.minimum(bound, _exchange_bound(op.exchange, payload, links)), bound)
    best, choice = fastest(found)
    quiet = payload <= 0
    return OperatorTime(
        seconds=op.count * np.where(quiet, 0.0, best),
        compute_s=0.0,
        memory_s=0.0,
        network_s=op.count * np.where(quiet, 0.0, np.minimum(bound, best)),
        algorithms=tuple(c.name for c in found),
        bases=tuple(c.basis for c in found),
        sources=tuple(c.source for c in found),
        calls=tuple(c.call for c in found),
        count=op.count,
        choice=choice,
    )


def fastest(found: list[Candidate]) -> tuple[Floats, Floats]:
    """Choose among the algorithms of a collective.

    Parameters
    ----------
    found : list of Candidate
        Algorithms.

    Returns
    -------
    tuple of float or array
        Smallest time of every plan [s], and the position of its algorithm.
    """
    if len(found) == 1:
        return found[0].seconds, as_floats(0.0)
    times = stacked([c.seconds for c in found])
    return times.min(axis=0), as_floats(times.argmin(axis=0))


def hop_time(payload: Floats, links: Links) -> tuple[Floats, Floats]:
    """Time one message to the neighbour in the group, over the outermost tier that the group spans.

    Parameters
    ----------
    payload : float or array
        Bytes that one device sends [B].
    links : Links
        The group on the fabric.

    Returns
    -------
    tuple of float or array
        Time, and its bound [s].
    """
    seconds: Floats = as_floats(0.0)
    bound: Floats = as_floats(0.0)
    tiers = zip(links.placement.levels, links.usable("pair"), links.exact("pair"), links.delays, strict=True)
    for members, rate, exact, delay in tiers:
        crossing = as_floats(members) > 1
        seconds = np.where(crossing, point_to_point(payload, bandwidth=rate, latency=delay), seconds)
        bound = np.where(crossing, payload / as_floats(exact), bound)
    return seconds, bound


def fused_exchange(kind: str, exchange: Exchange, links: Links, target: Communicator) -> Candidate | None:
    """Time fused dispatch and combine kernels: measured inside a domain, the network between domains at its own rate.

    Parameters
    ----------
    kind : str
        dispatch or combine.
    exchange : Exchange
        What it moves.
    links : Links
        The group on the fabric.
    target : Communicator
        System and calibrations.

    Returns
    -------
    Candidate or None
        The kernel, None where none was measured on this device or one of its kind.
    """
    mode = "low_latency" if exchange.decode else "normal"
    kernel = target.kernels.find(kind, engine="deepep", kernel=mode)
    if kernel is None or kernel.kernel != mode:
        return None
    rate, delay = links.network(links.exact("all_to_all"))
    sizes = {
        "tokens": np.maximum(exchange.tokens, 1.0),
        "hidden": exchange.hidden,
        "topk": exchange.topk,
        "experts": exchange.experts,
        "ranks": links.placement.ranks,
        "domain_ranks": links.domain_ranks,
        "network_bandwidth": rate * NETWORK_EFFICIENCY,
        "network_latency": delay,
        "unit_limit": _unit_limit(exchange, links),
    }
    numbers = {
        "bandwidth": links.inside() if target.system.domain else target.system.scale_up.bandwidth,
        "cores": float(target.device.cores),
        "sms": EXCHANGE_CORES,
        "memory_bandwidth": target.device.memory_bandwidth,
        "imbalance": exchange.imbalance,
    }
    if exchange.element_bytes and "element_bytes" in kernel.attributes:
        kernel = replace(kernel, attributes={**kernel.attributes, "element_bytes": exchange.element_bytes})
    owner = kernel.owner(target.device.id)
    source = f"{owner}/{kernel.engine} {kernel.version}".strip()
    return Candidate(kernel.form, call_form(kernel, sizes, numbers), kernel.basis, source, (kernel, sizes))


def _unit_limit(exchange: Exchange, links: Links) -> Floats:
    """Domains to which a token may go: the groups that the router allows, times the domains that share one group."""
    if not exchange.group_limit:
        return as_floats(np.inf)
    return exchange.group_limit * np.maximum(as_floats(links.domains) / exchange.groups, 1.0)


def _exchange_bound(exchange: Exchange, payload: Floats, links: Links) -> Floats:
    """Bytes of an exchange that sends a token once to every rank, at full rates: a lower bound of every kernel."""
    exact = links.exact("all_to_all")
    ranks = as_floats(links.placement.ranks)
    copies = as_floats(exchange.tokens) * np.minimum(exchange.topk, ranks)
    return node_limited_exchange(
        exchange.tokens,
        payload / np.maximum(copies, 1e-300),
        exchange.topk,
        exchange.experts,
        ranks,
        bandwidth=exact[links.system.domain],
        domain_ranks=links.domain_ranks,
        network_bandwidth=links.network(exact)[0],
        unit_limit=_unit_limit(exchange, links),
    )


def _bound(kind: str, payload: Floats, links: Links) -> Floats:
    """Bytes that must cross each tier over its full bandwidth, all tiers at work at once."""
    place = links.placement
    ranks = as_floats(place.ranks)
    # Half of a dragonfly's rate is what its routing costs neighbours; even traffic shows what its links can carry.
    spread = kind == "all_to_all" or any(tier.topology == "dragonfly" for tier in links.system.tiers)
    bound: Floats = as_floats(0.0)
    carried: Floats = as_floats(1.0)
    for tier, rate in enumerate(links.exact("all_to_all" if spread else "ring")):
        n = as_floats(place.levels[tier])
        if kind == "all_to_all":
            leaving = (n - 1.0) / ranks if tier == 0 else (ranks - carried) / ranks
            crossing = np.where(n > 1, leaving, 0.0)
        elif kind == "all_reduce":
            crossing = np.where(n > 1, 1.0, 0.0) / carried  # an adding switch takes every byte once
        else:
            crossing = (n - 1.0) / n / carried
        bound = np.maximum(bound, crossing * payload / as_floats(rate))
        carried = as_floats(place.carriers[tier])
    return bound
