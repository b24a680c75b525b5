"""Algorithms of one collective: every way in which a group can run it, with the seconds that each takes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.all_to_all_tiers import flat_all_to_all, two_level_all_to_all
from perfmodel.costs.collective_tiers import (
    flat_ring,
    flat_tree,
    hierarchical_all_gather,
    hierarchical_all_reduce,
    hierarchical_reduce_scatter,
)
from perfmodel.costs.collectives import in_switch_all_reduce
from perfmodel.costs.nccl_model import nccl_model
from perfmodel.estimate.links import Links
from perfmodel.estimate.target import Target
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
    """

    name: str
    seconds: Floats
    basis: Basis
    source: str


@dataclass(frozen=True, slots=True)
class _Inside:
    """A measured library collective inside one scale-up domain."""

    kernel: KernelCalibration
    time: Callable[[Floats], Floats]
    whole: Floats
    source: str


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


def candidates(kind: str, payload: Floats, links: Links, target: Target) -> list[Candidate]:
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
    target : Target
        Calibrations and engine.

    Returns
    -------
    list of Candidate
        At least one, in the order in which ties are broken.
    """
    size = as_floats(payload)
    pattern = "all_to_all" if kind == "all_to_all" else "ring"
    place = links.placement
    tiers = _Tiers(place.levels, place.carriers, links.usable(pattern), links.delays)
    alone = as_floats(links.domains) <= 1
    if target.collectives == "nccl" and kind in _ROUNDS:
        return [_as_nccl_expects(kind, size, links, target)]
    measured = _measured(kind, size, links, target)
    out = [
        Candidate(inside.kernel.form, np.where(alone, inside.whole, np.inf), inside.kernel.basis, inside.source)
        for inside in measured
    ]
    if measured and bool(np.all(alone)):
        return out
    if not measured:
        exchange = kind == "all_to_all"
        found = _exchanges(size, links, target, tiers) if exchange else _reductions(kind, size, links, target, tiers)
        out += [Candidate(name, seconds, "datasheet", f"{target.system.id} datasheet") for name, seconds in found]
    for inside in measured[:1]:
        around = _exchanges_around if kind == "all_to_all" else partial(_reductions_around, kind)
        for name, seconds in around(size, links, target, tiers, inside):
            several = np.where(alone, np.inf, seconds)
            out.append(Candidate(f"{name} + {inside.kernel.form}", several, inside.kernel.basis, inside.source))
    return _wanted(out, target.collectives)


def _wanted(found: list[Candidate], which: str) -> list[Candidate]:
    """Leave out, of the algorithms over several domains, those that the user does not want."""
    other = {"flat": ("hierarchical", "two_level"), "hierarchical": ("flat",)}.get(which, ())
    # A fabric of one tier has no hierarchy to choose.
    return [c for c in found if not (other and c.name.startswith(other))] or found


def _as_nccl_expects(kind: str, size: Floats, links: Links, target: Target) -> Candidate:
    architecture = target.device.architecture.partition("-")[0]
    known = architecture if architecture in ("volta", "ampere", "hopper", "blackwell") else "ampere"
    domain = target.system.scale_up
    seconds = nccl_model(
        size,
        links.placement.ranks,
        links.domains,
        bandwidth=links.exact()[target.system.domain],
        network_bandwidth=links.network(links.exact())[0],
        op=kind,
        architecture=known,
        reducing=domain.in_network_reduction,
    )
    return Candidate("nccl_model", seconds, "datasheet", f"{target.system.id} datasheet")


def _measured(kind: str, size: Floats, links: Links, target: Target) -> list[_Inside]:
    """Measured collectives inside a scale-up domain: the library's, and the engine's own all-reduce."""
    library = target.kernels.find(kind, engine="nccl")
    if library is None:
        return []
    found = [library]
    if kind == "all_reduce" and target.engine.kernels:
        own = target.kernels.find(kind, engine=target.engine.kernels)
        if own is not None and own.engine == target.engine.kernels:
            found.append(own)
    numbers = {"bandwidth": target.system.scale_up.bandwidth, "op": kind}
    ranks = links.domain_ranks

    def timer(kernel: KernelCalibration) -> Callable[[Floats], Floats]:
        return lambda nbytes: call_form(kernel, {"nbytes": np.maximum(nbytes, 1.0), "ranks": ranks}, numbers)

    timed = [(k, timer(k)) for k in found]
    return [
        _Inside(k, time, time(size), f"{k.owner(target.device.id)}/{k.engine} {k.version}".strip()) for k, time in timed
    ]


def _reductions(kind: str, size: Floats, links: Links, target: Target, tiers: _Tiers) -> list[tuple[str, Floats]]:
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


def _beyond(tiers: _Tiers, domain: int) -> tuple[Floats, ...]:
    """Levels of a group with everything inside its scale-up domains done."""
    return tuple(as_floats(1.0) if tier <= domain else parts for tier, parts in enumerate(tiers.levels))


def _reductions_around(
    kind: str, size: Floats, links: Links, target: Target, tiers: _Tiers, inside: _Inside
) -> list[tuple[str, Floats]]:
    """Algorithms over several domains with the measured collective inside each of them.

    Rings and trees keep links and network busy at once, the hierarchy works with one after the other.
    """
    levels = _beyond(tiers, target.system.domain)
    reducing = [tier.in_network_reduction for tier in target.system.tiers]
    whole = inside.whole
    # What a ring of all ranks sends is more than the domains alone would: (n-1)/n and not (k-1)/k of the buffer.
    ranks, domains = as_floats(links.placement.ranks), as_floats(links.domains)
    passed = (ranks - 1.0) / ranks * domains / np.maximum(domains - 1.0, 1.0) * size
    network = tiers.call(flat_ring, passed, _ROUNDS[kind], levels=levels)
    found = [("flat_ring", np.maximum(whole, network))]
    more: dict[str, Any] = {}
    if kind == "all_reduce":
        found.append(("flat_tree", np.maximum(whole, tiers.call(flat_tree, size, levels=levels))))
        more = {"reducing": reducing}
    outer = tiers.call(_HIERARCHY[kind], size, levels=levels, **more)
    found.append((f"hierarchical_{kind}", as_floats(whole) + outer))
    return found


def _exchanges(size: Floats, links: Links, target: Target, tiers: _Tiers) -> list[tuple[str, Floats]]:
    """Textbook forms of all-to-all."""
    ranks = links.placement.ranks
    found = [("flat_all_to_all", tiers.call(flat_all_to_all, size, ranks=ranks))]
    if len(tiers.levels) > 1:
        memory = target.device.memory_bandwidth
        two_level = tiers.call(two_level_all_to_all, size, ranks=ranks, memory_bandwidth=memory)
        found.append(("two_level_all_to_all", two_level))
    return found


def _exchanges_around(
    size: Floats, links: Links, target: Target, tiers: _Tiers, inside: _Inside
) -> list[tuple[str, Floats]]:
    """All-to-all over several domains with the measured exchange inside each of them."""
    ranks = as_floats(links.placement.ranks)
    levels = _beyond(tiers, target.system.domain)
    share = as_floats(links.domain_ranks) / ranks
    outer = as_floats(tiers.call(flat_all_to_all, size, levels=levels, ranks=ranks))
    # Levels beyond count domains; every member of another domain is a message of its own.
    _, delay = links.network(tiers.bandwidths)
    messages = (ranks - as_floats(links.domain_ranks) - as_floats(links.domains) + 1.0) * as_floats(delay)
    memory = target.device.memory_bandwidth
    sorted_first = tiers.call(two_level_all_to_all, size, levels=levels, ranks=ranks, memory_bandwidth=memory)
    return [
        ("flat_all_to_all", np.maximum(inside.time(size * share), outer + np.maximum(messages, 0.0))),
        ("two_level_all_to_all", as_floats(inside.whole) + sorted_first),
    ]
