"""Groups of training: which ranks of a pipeline's stages communicate, as a size and a stride in rank order."""

import numpy as np

from perfmodel.arrays import as_floats
from perfmodel.parallel.groups import RankGroup
from perfmodel.parallel.training_grid import TrainingGrid


def training_group(grid: TrainingGrid, name: str) -> RankGroup:
    """Ranks of one parallel dimension, or of what shares a state.

    Ranks are numbered with tensor parallelism fastest, then context, data and pipeline parallelism; expert groups are
    neighbouring ranks of a stage. With hybrid sharding neighbours share: with as many copies as there are nodes, shards
    stay inside a node.

    Parameters
    ----------
    grid : TrainingGrid
        Plans.
    name : str
        tp, cp, ep, pp, dp (with context parallelism: those who hold the same weights), edp (the same experts) or ends
        (the first and the last stage). With "_shards" after it, those of dp or edp that share one state; with
        "_copies", those that hold the same part of it.

    Returns
    -------
    RankGroup
        Size and stride, arrays over plans.

    Examples
    --------
    >>> from perfmodel.parallel.training_grid import training_plans
    >>> grid = training_plans(tp=4, dp=16, shard_copies=8)
    >>> groups = [training_group(grid, f"dp_{what}") for what in ("shards", "copies")]
    >>> [(float(group.ranks), float(group.stride)) for group in groups]
    [(2.0, 4.0), (8.0, 8.0)]
    """
    stage = grid.stage
    whole, _, part = name.partition("_")
    groups = {
        "tp": (grid.tp, as_floats(1.0)),
        "cp": (grid.cp, grid.tp),
        "ep": (grid.ep, as_floats(1.0)),
        "pp": (grid.pp, stage),
        "dp": (grid.dp * grid.cp, grid.tp),
        "edp": (np.maximum(stage / grid.ep, 1.0), grid.ep),
        "ends": (np.minimum(grid.pp, 2.0), stage * np.maximum(grid.pp - 1.0, 1.0)),
    }
    ranks, stride = groups[whole]
    if not part:
        return RankGroup(ranks, stride, stage)
    copies = np.minimum(grid.shard_copies, ranks)
    sharing = ranks / copies
    return RankGroup(sharing, stride, stage) if part == "shards" else RankGroup(copies, sharing * stride, stage)
