"""Placement: what a group of ranks sees of each fabric tier, counted as the ranks lie on the devices."""

from dataclasses import dataclass

import numpy as np

from perfmodel.arrays import Array, Floats, as_floats, clipped
from perfmodel.parallel.groups import RankGroup


@dataclass(frozen=True, slots=True)
class Placement:
    """How a group lies on the tiers of a fabric, from the innermost outwards.

    Parameters
    ----------
    ranks : float or array
        Members of the group.
    levels : tuple of float or array
        Members in the fullest unit of the innermost tier, such units in one unit of the next tier, and so on; their
        product is at least the number of members.
    carriers : tuple of float or array
        Members in the emptiest unit of each tier: as many links carry what leaves it.
    """

    ranks: Floats
    levels: tuple[Floats, ...]
    carriers: tuple[Floats, ...]

    def outside(self, tier: int) -> Floats:
        """Units of a tier that the group spans, 1 where it stays inside one.

        Parameters
        ----------
        tier : int
            Position of the tier.

        Returns
        -------
        float or array
            Units.
        """
        units: Floats = as_floats(1.0)
        for parts in self.levels[tier + 1 :]:
            units = units * as_floats(parts)
        return units

    def inside(self, tier: int) -> Floats:
        """Members in the fullest unit of a tier.

        Parameters
        ----------
        tier : int
            Position of the tier.

        Returns
        -------
        float or array
            Members.
        """
        members: Floats = as_floats(1.0)
        for parts in self.levels[: tier + 1]:
            members = members * as_floats(parts)
        return np.minimum(members, self.ranks)


def place(group: RankGroup, tier_devices: tuple[float, ...]) -> Placement:
    r"""Lay a group on the tiers of a fabric.

    A unit of a tier (a board, a rack) holds D devices, and a group of n ranks with stride s fills blocks of n s
    devices. The first block of those that share a stage begins with a unit. Later ones begin at any multiple of

    .. math:: g = \gcd(n s, D)

    so that the worst of them reaches into :math:`1 + \lceil (n s - g) / D \rceil` units and leaves g / s members alone
    in one of them; a block that is alone reaches into :math:`\lceil n s / D \rceil` units, the last
    of which holds the rest. Of the groups that run at the same time the worst decides.

    Parameters
    ----------
    group : RankGroup
        Size, stride and the replica around it.
    tier_devices : tuple of float
        Devices inside one unit of each tier, inner to outer; the outermost holds everything.

    Returns
    -------
    Placement
        Members and units per tier.

    References
    ----------
    Derived: offsets of equal blocks in units of another size.

    Examples
    --------
    Two nodes of eight, a group strided over four nodes, and twelve ranks that fill one and a half nodes:

    >>> [[float(n) for n in place(g, (8.0, 1024.0)).levels] for g in (RankGroup(16.0, 1.0), RankGroup(4.0, 8.0))]
    [[8.0, 2.0], [1.0, 4.0]]
    >>> found = place(RankGroup(12.0, 1.0), (8.0, 1024.0))
    >>> [float(n) for n in found.levels], float(found.carriers[0])
    ([8.0, 2.0], 4.0)
    """
    ranks, stride, world = as_floats(group.ranks), as_floats(group.stride), as_floats(group.world)
    block = ranks * stride
    levels, carriers = [], []
    units: Array = ranks
    for tier, devices in enumerate(tier_devices):
        if tier == len(tier_devices) - 1:
            spanned, emptiest, fullest = np.ones_like(ranks), ranks, ranks
        else:
            spanned, emptiest, fullest = _units(ranks, stride, block, world, devices)
        levels.append(fullest if tier == 0 else np.ceil(units / spanned))
        carriers.append(emptiest)
        units = spanned
    return Placement(ranks, tuple(levels), tuple(carriers))


def _units(ranks: Array, stride: Array, block: Array, world: Array, devices: float) -> tuple[Array, Array, Array]:
    """Units that the worst-placed group spans, and its members in the emptiest and in the fullest of them."""
    # More ranks than 64-bit integers count are on no system; which of them lie where is all the same.
    whole = np.minimum(block, 2.0**62).astype(np.int64)
    step = np.gcd(whole, np.int64(devices)).astype(np.float64)
    several = (world > block) & (world > devices)
    shifted = 1.0 + np.ceil((block - step) / devices)
    spanned = np.where(several, shifted, np.ceil(block / devices))
    # Members further apart than a unit is wide sit in units of their own.
    spanned = np.where(stride >= devices, ranks, np.minimum(spanned, ranks))
    held = np.maximum(np.ceil(devices / stride), 1.0)
    rest = np.where(several, step, block - (spanned - 1.0) * devices) / stride
    one = spanned <= 1.0
    emptiest = np.where(one, ranks, clipped(np.floor(rest), 1.0, held))
    apart = np.minimum(held, np.where(several & (block < devices), ranks - emptiest, ranks))
    return spanned, emptiest, np.where(one, ranks, np.maximum(apart, emptiest))
