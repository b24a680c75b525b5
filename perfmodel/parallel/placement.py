"""Placement: how many members of a group sit inside one unit of each fabric tier."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.parallel.groups import RankGroup


def members_per_tier(group: RankGroup, tier_devices: tuple[float, ...]) -> tuple[Floats, ...]:
    r"""Split a group over the tiers of a fabric.

    .. math:: g_i = \min\bigl(n, \max(1, \lfloor D_i / s \rfloor)\bigr), \qquad n_i = \lceil g_i / g_{i-1} \rceil

    A unit of tier i (a board, a rack) holds D_i devices; of a group of n ranks with stride s it holds at most
    D_i / s members. Level i of the group then has n_i parts, each made of level i-1. Replicas are aligned to units.

    Parameters
    ----------
    group : RankGroup
        Size and stride.
    tier_devices : tuple of float
        Devices inside one unit of each tier, inner to outer.

    Returns
    -------
    tuple of float or array
        Parts on each level, inner to outer; their product is at least the group's size.

    References
    ----------
    The hierarchy of Thakur, Rabenseifner, Gropp 2005 applied to strided groups.

    Examples
    --------
    >>> [float(n) for n in members_per_tier(RankGroup(16.0, 1.0), (8.0, 1024.0))]
    [8.0, 2.0]
    >>> [float(n) for n in members_per_tier(RankGroup(4.0, 8.0), (8.0, 1024.0))]
    [1.0, 4.0]
    """
    ranks, stride = as_floats(group.ranks), as_floats(group.stride)
    inside: Floats = 1.0
    levels = []
    for i, devices in enumerate(tier_devices):
        last = i == len(tier_devices) - 1
        held = ranks if last else np.minimum(ranks, np.maximum(1.0, np.floor(devices / stride)))
        levels.append(np.ceil(held / inside))
        inside = held
    return tuple(levels)
