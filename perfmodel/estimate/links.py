"""Links of one group: what the tiers of a fabric give it where its ranks lie [B/s, s]."""

from dataclasses import dataclass, field

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.collective_bounds import effective_bandwidth
from perfmodel.hardware.fabric import System
from perfmodel.parallel.groups import RankGroup
from perfmodel.parallel.placement import Placement, place

LINK_EFFICIENCY = 0.8
"""Share of a link's datasheet bandwidth that large transfers reach where nothing was measured.

All-gather and reduce-scatter of NCCL reach 361 to 363 of 450 GB/s on eight H200 (ml-engineering, network benchmarks).
"""

NETWORK_EFFICIENCY = 0.94
"""Part of the network's bandwidth that large transfers between nodes reach.

All-reduce bus bandwidth of 32 GPUs: 192 of 200 GB/s per node on DGX A100, 370 of 400 on DGX H100 (NVIDIA GTC 2025,
session S72583).
"""

ALL_TO_ALL_EFFICIENCY = (0.71, 0.74)
"""Share of links and of the network that a library's all-to-all reaches.

Bus bandwidth of nccl-tests: 210 of 300, 320 of 450 and 640 of 900 GB/s on eight GPUs; 24 and 48 GB/s on 32 GPUs with
25 and 50 GB/s each, of which three quarters cross the network (NVIDIA GTC 2025, session S72583).
"""

_TOPOLOGIES = {"switched": "switch", "fat-tree": "switch"}

_TORUS = ("ring", "torus2d", "torus3d")
# Topologies that are axes of one torus where they follow on each other.


@dataclass(frozen=True, slots=True)
class Links:
    """A group of ranks on the tiers of a system.

    Parameters
    ----------
    system : System
        Fabric.
    placement : Placement
        Members and units of the group per tier, arrays over plans.
    """

    system: System
    placement: Placement
    _exact: dict[str, list[Floats]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def exact(self, pattern: str = "ring") -> list[Floats]:
        """Bandwidth of one device on every tier, by datasheet [B/s].

        Parameters
        ----------
        pattern : str
            One of `perfmodel.costs.collective_bounds.PATTERNS`.

        Returns
        -------
        list of float or array
            One-way bandwidth per device, innermost tier first [B/s].
        """
        if pattern in self._exact:
            return self._exact[pattern]
        rates: list[Floats] = []
        held = 1
        for tier, parts in zip(self.system.tiers, self.placement.levels, strict=True):
            topology = _TOPOLOGIES.get(tier.topology, tier.topology)
            # Links of a tier join units of the tier before.
            wired = effective_bandwidth(topology, parts, tier.devices / held, tier.bandwidth, pattern=pattern)
            rates.append(as_floats(wired) / tier.oversubscription)
            held = tier.devices
        self._exact[pattern] = rates
        return rates

    def usable(self, pattern: str = "ring") -> list[Floats]:
        """Bandwidth of one device on every tier that large transfers reach [B/s].

        Parameters
        ----------
        pattern : str
            One of `perfmodel.costs.collective_bounds.PATTERNS`.

        Returns
        -------
        list of float or array
            One-way bandwidth per device, innermost tier first [B/s].
        """
        inside = self.system.domain
        near, far = ALL_TO_ALL_EFFICIENCY if pattern == "all_to_all" else (LINK_EFFICIENCY, NETWORK_EFFICIENCY)
        return [as_floats(rate) * (near if tier <= inside else far) for tier, rate in enumerate(self.exact(pattern))]

    @property
    def delays(self) -> list[Floats]:
        """Time of the shortest message on every tier [s]."""
        return [tier.latency_s for tier in self.system.tiers]

    @property
    def domain_ranks(self) -> Floats:
        """Members in the fullest scale-up domain."""
        return self.placement.inside(self.system.domain)

    @property
    def domains(self) -> Floats:
        """Scale-up domains that the group spans."""
        return self.placement.outside(self.system.domain)

    def inside(self, pattern: str = "ring") -> Floats:
        r"""Bandwidth of one device inside its scale-up domain.

        That of the outermost tier that the group spans there. Tiers that are axes of one torus work together: what
        arrives over :math:`m` neighbours leaves over the next axis as one part in :math:`m`,

        .. math:: \frac{n - 1}{n B} = \sum_i \frac{m_i - 1}{m_i B_i \prod_{j < i} m_j}, \quad n = \prod_i m_i

        Parameters
        ----------
        pattern : str
            One of `perfmodel.costs.collective_bounds.PATTERNS`.

        Returns
        -------
        float or array
            One-way bandwidth per device [B/s].
        """
        exact = self.exact(pattern)
        rate, held = exact[0], as_floats(self.placement.levels[0])
        tiers = self.system.tiers[: self.system.domain + 1]
        torus = all(tier.topology in _TORUS for tier in tiers)
        for tier in range(1, len(tiers)):
            parts = as_floats(self.placement.levels[tier])
            whole = held * parts
            joined = exact[tier]
            if torus:
                # An exchange sends most over the axis that has the least bandwidth for it.
                near = parts * (held - 1.0) / rate
                far = (parts - 1.0) / exact[tier] * (held if pattern == "all_to_all" else 1.0)
                spent = np.maximum(near, far) if pattern == "all_to_all" else near + far
                joined = np.maximum(whole - 1.0, 1.0) / np.where(parts > 1, spent, 1.0)
            rate = np.where(parts > 1, joined, rate)
            held = whole
        return rate

    def network(self, rates: list[Floats], *, ring: bool = False) -> tuple[Floats, Floats]:
        """Bandwidth and latency between scale-up domains: the slowest rate and the longest way of the tiers crossed.

        Parameters
        ----------
        rates : list of float or array
            Bandwidth per device of every tier [B/s].
        ring : bool
            Whether all that leaves a unit goes around once: over the links of all members in it, of which there are
            more in a wider unit than in a domain.

        Returns
        -------
        tuple of float or array
            Bandwidth per device, infinite for a group inside one domain [B/s], and latency [s].
        """
        rate: Floats = as_floats(np.inf)
        delay: Floats = as_floats(0.0)
        for tier in range(self.system.domain + 1, len(self.system.tiers)):
            crossed = as_floats(self.placement.levels[tier]) > 1
            here = as_floats(rates[tier])
            if ring and tier > self.system.domain + 1:
                here = here * self.placement.carriers[tier - 1] / self.placement.carriers[self.system.domain]
            rate = np.where(crossed, np.minimum(rate, here), rate)
            delay = np.where(crossed, np.maximum(delay, self.system.tiers[tier].latency_s), delay)
        return rate, delay


def links_of_group(system: System, group: RankGroup) -> Links:
    """Place a group on the fabric of a system.

    Parameters
    ----------
    system : System
        Fabric.
    group : RankGroup
        Size, stride and the replica around it, arrays over plans.

    Returns
    -------
    Links
        What the tiers give it.

    Examples
    --------
    >>> from perfmodel.hardware.catalog import load_system
    >>> links = links_of_group(load_system("hgx-h100"), RankGroup(16.0, 1.0))
    >>> float(links.domain_ranks), float(links.domains), [float(rate) / 1e9 for rate in links.exact()]
    (8.0, 2.0, [450.0, 50.0])
    """
    return Links(system, place(group, tuple(float(tier.devices) for tier in system.tiers)))
