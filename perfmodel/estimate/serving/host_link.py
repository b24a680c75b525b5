"""Host link: seconds that a prompt waits for the part of its cache that lies in host memory."""

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.collectives import point_to_point
from perfmodel.costs.handoff import layerwise_transfer
from perfmodel.costs.overlap import HOST_LINK_EFFICIENCY
from perfmodel.errors import PlanError
from perfmodel.estimate.compiled import shard_of
from perfmodel.estimate.serving.workload import Workload
from perfmodel.estimate.target import Target
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid


def host_rate(target: Target, what: str) -> float:
    """Rate at which one device fetches from its host's memory.

    Parameters
    ----------
    target : Target
        Gives the link.
    what : str
        What is fetched, for the message.

    Returns
    -------
    float
        Achieved bandwidth [B/s].

    Raises
    ------
    PlanError
        If nobody publishes the device's link to the host.
    """
    bandwidth = target.device.host_bandwidth
    if bandwidth is None:
        raise PlanError(f"no link to the host is published for {target.device.id}, so no {what} can be fetched over it")
    return HOST_LINK_EFFICIENCY * bandwidth


def host_fetch(
    model: ModelSpec, target: Target, grid: PlanGrid, workload: Workload, precision: Precision, prompt_s: Floats
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Time to fetch the found part of a prompt's cache, and the part of it that is seen.

    Layer after layer is fetched while those before it are computed; every device has a link of its own.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        Gives the link to the host.
    grid : PlanGrid
        Plans.
    workload : Workload
        Lengths and the share that is found.
    precision : Precision
        Number formats.
    prompt_s : float or array
        Time to compute the rest of the prompt [s].

    Returns
    -------
    tuple of numpy.ndarray
        Time on the link, and what the request sees of it [s].

    Raises
    ------
    PlanError
        If nobody publishes the device's link to the host.
    """
    bandwidth = host_rate(target, "cache")
    tokens = as_floats(workload.isl) * workload.host_hit
    nbytes = as_floats(model.cache_bytes(tokens, shard_of(grid), precision)) / grid.pp
    whole = point_to_point(nbytes, bandwidth=bandwidth)
    seen = layerwise_transfer(nbytes, prompt_s, model.layers, bandwidth=bandwidth, latency=0.0)
    return as_floats(whole), as_floats(seen)
