"""Seconds of one forward step and its parts: what timing a step gives, whether in one piece or in two streams."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.estimate.operator_sums import BASES
from perfmodel.estimate.operator_time import OperatorTime
from perfmodel.layers.operators import Operator

RESOURCES = ("compute", "memory", "network", "latency", "host")
"""What time is charged to, in the order of the arrays below."""


@dataclass(frozen=True, slots=True)
class Line:
    """One operator of a step, kept for the derivation.

    Parameters
    ----------
    block : str
        Block of the model.
    repeat : float
        How often the block occurs.
    operator : Operator
        The operator with its sizes.
    time : OperatorTime
        Its time in one occurrence of the block.
    """

    block: str
    repeat: float
    operator: Operator
    time: OperatorTime


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """The two streams of a step.

    Parameters
    ----------
    share : float or array
        Share of the cores that the first stream has [1].
    cut : bool or array
        Plans whose step is cut at all.
    first_s, second_s : float or array
        Time of one microbatch in all layers with experts on either stream [s].
    hidden_s : float or array
        Time that is saved against one stream after the other [s].
    lower_s : float or array
        The step with all of the other stream hidden behind the busier one [s].
    first, second : tuple of Line
        Operators of either stream.
    """

    share: Floats
    cut: Any
    first_s: Floats
    second_s: Floats
    hidden_s: Floats
    lower_s: Floats
    first: tuple[Line, ...] = ()
    second: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class StepTime:
    """Time of one step and its parts, held once for every step that is different and spread over the plans when read.

    Parameters
    ----------
    columns : mapping
        seconds, those of attention, all of the device's and of its links (attention_s, device_s, links_s), lower_s,
        upper_s, the parts compute_s, memory_s, network_s, latency_s and host_s, the bound, and the time on each
        basis -> one value per different step [s].
    where : numpy.ndarray
        Which of them each plan has.
    lines : tuple of Line
        Every operator, where they were asked for.
    streams : StreamTimes, optional
        The two streams, where the engine cuts steps into microbatches.
    """

    columns: Mapping[str, npt.NDArray[np.float64]]
    where: npt.NDArray[np.intp]
    lines: tuple[Line, ...] = ()
    streams: StreamTimes | None = None

    def over_plans(self, name: str) -> npt.NDArray[np.float64]:
        """One column for every plan.

        Parameters
        ----------
        name : str
            Column.

        Returns
        -------
        numpy.ndarray
            In the shape of the plans.
        """
        return self.columns[name][self.where]

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """The step: device and exposed network time, host time [s]."""
        return self.over_plans("seconds")

    @property
    def parts(self) -> tuple[npt.NDArray[np.float64], ...]:
        """Seconds charged to each of `RESOURCES`; they add up to `seconds` [s]."""
        return tuple(self.over_plans(f"{name}_s") for name in RESOURCES)

    @property
    def lower_s(self) -> npt.NDArray[np.float64]:
        """Bound: the busiest resource at its exact rate, everything else hidden behind it [s]."""
        return self.over_plans("lower_s")

    @property
    def upper_s(self) -> npt.NDArray[np.float64]:
        """Everything one after the other, nothing hidden [s]."""
        return self.over_plans("upper_s")

    @property
    def basis(self) -> dict[str, npt.NDArray[np.float64]]:
        """Seconds that rest on what was measured, on defaults and on the datasheet [s]."""
        return {name: self.over_plans(name) for name in BASES}

    def bound(self) -> npt.NDArray[np.int64]:
        """Position in `RESOURCES` of what most of the time is charged to."""
        return self.over_plans("bound").astype(np.int64)


def hosted(step: StepTime, host_s: Floats) -> StepTime:
    """Step with another host time for every plan.

    Parameters
    ----------
    step : StepTime
        The step.
    host_s : float or array
        Host time that its device waits for, over the plans [s].

    Returns
    -------
    StepTime
        The step with that time in place of its own.
    """
    columns = {name: step.over_plans(name).ravel() for name in step.columns}
    host = np.broadcast_to(as_floats(host_s), step.where.shape).ravel()
    more = host - columns["host_s"]
    columns |= {name: columns[name] + more for name in ("seconds", "upper_s")} | {"host_s": host}
    columns["bound"] = np.argmax(np.stack([columns[f"{name}_s"] for name in RESOURCES]), axis=0).astype(np.float64)
    return StepTime(columns, np.arange(host.size).reshape(step.where.shape), step.lines, step.streams)


def fetching(step: StepTime, fetch_s: Floats) -> StepTime:
    """Step that also waits for a link.

    Parameters
    ----------
    step : StepTime
        The step.
    fetch_s : float or array
        Time on the link, over the plans [s].

    Returns
    -------
    StepTime
        The step with that time on the network, resting on the datasheet.
    """
    columns = {name: step.over_plans(name).ravel() for name in step.columns}
    more = np.broadcast_to(as_floats(fetch_s), step.where.shape).ravel()
    longer = ("seconds", "upper_s", "network_s", "links_s", "datasheet")
    columns |= {name: columns[name] + more for name in longer}
    columns["bound"] = np.argmax(np.stack([columns[f"{name}_s"] for name in RESOURCES]), axis=0).astype(np.float64)
    return StepTime(columns, np.arange(more.size).reshape(step.where.shape), step.lines, step.streams)


def launched_ahead(step: StepTime) -> StepTime:
    """Step whose kernels are launched while its earlier ones run: of the host time, what exceeds the device's is seen.

    Parameters
    ----------
    step : StepTime
        The step with its host time after the device's.

    Returns
    -------
    StepTime
        The longer of the two.
    """
    host_s = step.over_plans("host_s")
    return hosted(step, np.maximum(2.0 * host_s - step.seconds, 0.0))
