"""Algorithms of one collective: every way in which a group can run it, with the seconds that each takes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.all_to_all_tiers import flat_all_to_all, two_level_all_to_all
from perfmodel.costs.collective_tiers import (
    hierarchical_all_gather,
    hierarchical_all_reduce,
    hierarchical_reduce_scatter,
)
from perfmodel.costs.collectives import in_switch_all_reduce
from perfmodel.costs.flat_collectives import flat_ring, flat_tree
from perfmodel.costs.nccl_model import nccl_model, network_messages
from perfmodel.estimate.links import NETWORK_EFFICIENCY, Links
from perfmodel.estimate.operator_time import Call
from perfmodel.estimate.target import Communicator
from perfmodel.estimate.timing import call_form
from perfmodel.hardware.kernels import Basis, KernelCalibration

_ROUNDS = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}
_HIERARCHY = {
    "all_reduce": hierarchical_all_reduce,
    "all_gather": hierarchical_all_gather,
    "reduce_scatter": hierarchical_reduce_scatter,
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a collective.

    Parameters
    ----------
    name : str
        Registered formula of the algorithm; after " + " the one that times the part inside a scale-up domain.
    seconds : float or array
        Time, infinite where a plan cannot use it [s].
    basis : str
        measured, default or datasheet.
    source : str
        Whose numbers.
    call : Call, optional
        The calibration that times it, or its part inside a domain, and the sizes there.
    """

    name: str
    seconds: Floats
    basis: Basis
    source: str
    call: Call | None = None


@dataclass(frozen=True, slots=True)
class _Inside:
    """A measured library collective inside one scale-up domain."""

    kernel: KernelCalibration
    time: Callable[[Floats], Floats]
    whole: Floats
    source: str
    call: Call


@dataclass(frozen=True, slots=True)
class _Tiers:
    """Arguments that all forms over tiers share."""

    levels: tuple[Floats, ...]
    carriers: tuple[Floats, ...]
    bandwidths: list[Floats] = field(default_factory=list)
    latencies: list[Floats] = field(default_factory=list)

    def call(self, form: Callable[..., Floats], *sizes: Any, levels: Any = None, **more: Any) -> Floats:
        links = {"bandwidths": self.bandwidths, "latencies": self.latencies, "carriers": self.carriers}
        return form(sizes[0], levels or self.levels, *sizes[1:], **links, **more)


_Found: TypeAlias = list[tuple[str, Floats]]


def candidates(kind: str, payload: Floats, links: Links, target: Communicator) -> list[Candidate]:
    """Time every algorithm that a collective can use.

    Inside one scale-up domain a measured library collective stands for all of them; where the group spans several,
    it times the part inside. Where nothing was measured, textbook forms do.

    Parameters
    ----------
    kind : str
        all_reduce, all_gather, reduce_scatter or all_to_all.
    payload : float or array
        Total buffer; for an all-to-all what one rank holds [B].
    links : Links
        The group on the fabric.
    target : Communicator
        Calibrations, and the algorithms that may be used.

    Returns
    -------
    list of Candidate
        At least one, in the order in which ties are broken.
    """
    size = as_floats(payload)
    pattern = "all_to_all" if kind == "all_to_all" else "ring"
    place = links.placement
    alone = as_floats(links.domains) <= 1
    if target.collectives == "nccl" and kind in _ROUNDS:
        expected = _library(kind, size, place.ranks, links.domains, links, target)
        return [Candidate("nccl_model", expected, "datasheet", f"{target.system.id} datasheet")]
    measured = _measured(kind, size, links, target)
    out = [
        Candidate(
            inside.kernel.form, np.where(alone, inside.whole, np.inf), inside.kernel.basis, inside.source, inside.call
        )
        for inside in measured
    ]
    if measured and bool(np.all(alone)):
        return out
    tiers = _Tiers(place.levels, place.carriers, links.usable(pattern), links.delays)
    if not measured:
        exchange = kind == "all_to_all"
        found = _exchanges(size, links, target, tiers) if exchange else _reductions(kind, size, links, target, tiers)
        out += [Candidate(name, seconds, "datasheet", f"{target.system.id} datasheet") for name, seconds in found]
    for inside in measured[:1]:
        exchange = kind == "all_to_all"
        around = (
            _exchanges_around(size, links, target, tiers, inside)
            if exchange
            else _reductions_around(kind, size, links, target, inside)
        )
        for name, seconds in around:
            several = np.where(alone, np.inf, seconds)
            form = f"{name} + {inside.kernel.form}"
            out.append(Candidate(form, several, inside.kernel.basis, inside.source, inside.call))
    return _wanted(out, target.collectives)


def _wanted(found: list[Candidate], which: str) -> list[Candidate]:
    """Leave out, of the algorithms over several domains, those that the user does not want."""
    other = {"flat": ("hierarchical", "two_level"), "hierarchical": ("flat", "nccl_model")}.get(which, ())
    # A fabric of one tier has no hierarchy to choose.
    return [c for c in found if not (other and c.name.startswith(other))] or found


def _library(
    kind: str,
    size: Floats,
    ranks: Floats,
    domains: Floats,
    links: Links,
    target: Communicator,
    efficiency: Floats = 1.0,
) -> Floats:
    """What NCCL expects of a collective among so many ranks in so many domains."""
    architecture = target.device.architecture.partition("-")[0]
    exact = links.exact()
    rate, delay = links.network(exact, ring=True)
    return nccl_model(
        size,
        ranks,
        domains,
        bandwidth=links.inside(),
        network_bandwidth=as_floats(rate) * efficiency,
        latency=target.system.scale_up.latency_s,
        network_latency=delay,
        op=kind,
        architecture=architecture if architecture in ("volta", "ampere", "blackwell") else "hopper",
        reducing=target.system.scale_up.in_network_reduction,
        host_cpu=target.system.host_cpu,
    )


def _measured(kind: str, size: Floats, links: Links, target: Communicator) -> list[_Inside]:
    """Measured collectives inside a scale-up domain: the library's, and the engine's own all-reduce."""
    library = target.kernels.find(kind, engine="nccl")
    if library is None:
        return []
    found = [library]
    if kind == "all_reduce" and target.reduction_kernels:
        own = target.kernels.find(kind, engine=target.reduction_kernels)
        if own is not None and own.engine == target.reduction_kernels:
            found.append(own)
    # Neighbours in a mesh, on a torus or in one package have only the links between them.
    numbers = {"bandwidth": links.inside("all_to_all" if kind == "all_to_all" else "ring"), "op": kind}
    ranks = links.domain_ranks

    def timer(kernel: KernelCalibration) -> Callable[[Floats], Floats]:
        return lambda nbytes: call_form(kernel, {"nbytes": np.maximum(nbytes, 1.0), "ranks": ranks}, numbers)

    timed = [(k, timer(k)) for k in found]
    return [
        _Inside(
            k,
            time,
            time(size),
            f"{k.owner(target.device.id)}/{k.engine} {k.version}".strip(),
            (k, {"nbytes": size, "ranks": ranks}),
        )
        for k, time in timed
    ]


def _reductions(kind: str, size: Floats, links: Links, target: Communicator, tiers: _Tiers) -> _Found:
    """Textbook forms of all-reduce, all-gather and reduce-scatter."""
    found = [("flat_ring", tiers.call(flat_ring, size, _ROUNDS[kind]))]
    reducing = [tier.in_network_reduction for tier in target.system.tiers]
    if kind == "all_reduce":
        inner = target.system.tiers[0]
        if inner.in_network_reduction:
            rate, delay = tiers.bandwidths[0], tiers.latencies[0]
            switched = in_switch_all_reduce(size, tiers.levels[0], bandwidth=rate, latency=delay)
            found.append(
                ("in_switch_all_reduce", np.where(as_floats(links.placement.outside(0)) <= 1, switched, np.inf))
            )
        if len(tiers.levels) > 1:
            found.append(("flat_tree", tiers.call(flat_tree, size)))
    if len(tiers.levels) > 1:
        more = {"reducing": reducing} if kind == "all_reduce" else {}
        found.append((f"hierarchical_{kind}", tiers.call(_HIERARCHY[kind], size, **more)))
    return found


def _reductions_around(kind: str, size: Floats, links: Links, target: Communicator, inside: _Inside) -> _Found:
    """What the library does over several domains, and one collective inside each domain around one between them.

    The library is never faster than it expects itself to be, nor than it was measured inside a domain.
    """
    ranks, domains = links.placement.ranks, links.domains
    carriers = as_floats(links.placement.carriers[target.system.domain])
    # The library shares a domain's links to the network out evenly; the emptiest domain has fewer.
    share = NETWORK_EFFICIENCY * carriers * domains / as_floats(ranks)
    flat = _library(kind, size, ranks, domains, links, target, share)
    found = [("nccl_model", np.maximum(inside.whole, flat))]
    if target.collectives != "flat":
        found.append((f"hierarchical_{kind}", _around(kind, size, carriers, links, target, inside)))
    outer = target.system.tiers[target.system.domain + 1 :]
    if kind == "all_reduce" and outer and all(tier.in_network_reduction for tier in outer):
        rate, delay = links.network(links.exact())
        usable = as_floats(rate) * NETWORK_EFFICIENCY
        switched = in_switch_all_reduce(size / carriers, domains, bandwidth=usable, latency=delay)
        found.append(("in_switch_all_reduce", np.maximum(inside.whole, switched) + delay))
    return found


def _around(kind: str, size: Floats, carriers: Floats, links: Links, target: Communicator, inside: _Inside) -> Floats:
    """One collective inside each domain around one between domains."""
    between = _library(kind, size / carriers, links.domains, links.domains, links, target, NETWORK_EFFICIENCY)
    parts = ("reduce_scatter", "all_gather") if kind == "all_reduce" else (kind,)
    halves = [_measured(part, size, links, target) for part in parts]
    around = sum((as_floats(half[0].whole) for half in halves if half), as_floats(0.0))
    return as_floats(between) + np.maximum(around, inside.whole)


def _exchanges(size: Floats, links: Links, target: Communicator, tiers: _Tiers) -> _Found:
    """Textbook forms of all-to-all."""
    ranks = links.placement.ranks
    found = [("flat_all_to_all", tiers.call(flat_all_to_all, size, ranks=ranks))]
    if len(tiers.levels) > 1:
        memory = target.device.memory_bandwidth
        two_level = tiers.call(two_level_all_to_all, size, ranks=ranks, memory_bandwidth=memory)
        found.append(("two_level_all_to_all", two_level))
    return found


def _exchanges_around(size: Floats, links: Links, target: Communicator, tiers: _Tiers, inside: _Inside) -> _Found:
    """All-to-all over several domains with the measured exchange inside each of them.

    Either one message to every member of another domain, or, gathered inside the own domain first, one to every
    domain with all that its members get; sorting passes the buffer through memory four times.
    """
    ranks, near, domains = (as_floats(x) for x in (links.placement.ranks, links.domain_ranks, links.domains))
    rate, delay = links.network(tiers.bandwidths)
    far = {"bandwidth": rate, "latency": delay}
    # Members of the emptiest domain have the most to send elsewhere.
    others = ranks - as_floats(links.placement.carriers[target.system.domain])
    alone = network_messages(size / ranks, others, **far)
    together = network_messages(size * others / ranks / np.maximum(domains - 1.0, 1.0), domains - 1.0, **far)
    sorting = 4.0 * as_floats(size) / target.device.memory_bandwidth
    return [
        ("flat_all_to_all", np.maximum(inside.time(size * near / ranks), alone)),
        ("two_level_all_to_all", as_floats(inside.whole) + sorting + together),
    ]
