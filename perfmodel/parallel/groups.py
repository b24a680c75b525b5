"""Groups: which ranks of a replica communicate, as a size and a stride in rank order."""

from dataclasses import dataclass

from perfmodel.arrays import Floats
from perfmodel.parallel.grid import PlanGrid


@dataclass(frozen=True, slots=True)
class RankGroup:
    """Ranks first, first + stride, ... of a replica.

    Parameters
    ----------
    ranks : float or array
        Members of the group.
    stride : float or array
        Distance of neighbouring members in rank order.
    world : float or array, optional
        Ranks that groups like this one share out among themselves; by default one group alone.
    """

    ranks: Floats
    stride: Floats
    world: Floats = 1.0


def rank_group(grid: PlanGrid, name: str) -> RankGroup:
    """Ranks of one parallel dimension.

    Ranks are numbered with tensor parallelism fastest, then context, data and pipeline parallelism, so that the
    groups that talk most are nearest; a stage begins with a unit of the fabric. Expert groups partition the
    tp x cp x dp ranks of a stage (they do not multiply them), the ranks that share one expert being nearest.

    Parameters
    ----------
    grid : PlanGrid
        Plans.
    name : str
        tp, cp, dp, pp, moe_tp, ep, moe (all ranks of a stage) or world (all ranks of a replica).

    Returns
    -------
    RankGroup
        Size and stride, arrays over plans.

    Examples
    --------
    >>> from perfmodel.parallel.grid import plans
    >>> group = rank_group(plans(tp=4, pp=2, dp=2, ep=8), "pp")
    >>> float(group.ranks), float(group.stride)
    (2.0, 8.0)
    """
    stage = grid.tp * grid.cp * grid.dp
    groups: dict[str, tuple[Floats, Floats]] = {
        "tp": (grid.tp, 1.0),
        "cp": (grid.cp, grid.tp),
        "dp": (grid.dp, grid.tp * grid.cp),
        "pp": (grid.pp, stage),
        "moe_tp": (grid.moe_tp, 1.0),
        "ep": (grid.ep, grid.moe_tp),
        "moe": (grid.ep * grid.moe_tp, 1.0),
        "world": (stage * grid.pp, 1.0),
    }
    return RankGroup(*groups[name], stage)
