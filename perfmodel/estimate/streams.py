"""Seconds of a step whose two microbatches alternate on one device, for many plans at once."""

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.splitting import shared_performance
from perfmodel.costs.streams import alternating_streams, paired_phases
from perfmodel.estimate.compiled import Same
from perfmodel.estimate.target import Target
from perfmodel.estimate.timed_step import RESOURCES, Line, StepTime, StreamTimes
from perfmodel.hardware.engine import Streams
from perfmodel.layers.base import Shard, Step
from perfmodel.layers.operators import Collective, Experts, Operator, Wait

_TINY = np.finfo(np.float64).tiny

MICROBATCHES = 2.0
"""Microbatches of a step that is cut."""


def layer_part(op: Operator) -> str:
    """Say to which part of a layer an operator belongs.

    Parameters
    ----------
    op : Operator
        Operator of a layer with experts.

    Returns
    -------
    str
        One of `perfmodel.hardware.engine.LAYER_PARTS`.

    Examples
    --------
    >>> from perfmodel.layers.operators import Gemm
    >>> layer_part(Gemm("router", 1, 256, 7168, "bf16"))
    'gate'
    """
    if isinstance(op, Experts) or op.name.startswith("expert rows"):
        return "experts"
    if isinstance(op, Wait):
        return "gate" if op.during == "gate" else "exchange"
    if isinstance(op, Collective) and op.exchange is not None:
        return "exchange"
    if op.name.startswith("shared expert"):
        return "shared"
    return "gate" if op.name.startswith("router") else "attention"


def with_cores(target: Target, share: float) -> Target:
    """Give a stream its share of a device: so many of its cores, their arithmetic, and the bandwidth that they draw.

    Parameters
    ----------
    target : Target
        The whole device.
    share : float
        Part of the cores [1].

    Returns
    -------
    Target
        The same machine with fewer cores.
    """
    return target if share == 1.0 else _with_fewer_cores(Same(target), share)


@lru_cache(maxsize=64)
def _with_fewer_cores(key: Same, share: float) -> Target:
    target: Target = key.held
    device = target.device
    drawn = float(shared_performance(share))
    fewer = replace(
        device,
        peak_flops={name: peak * share for name, peak in device.peak_flops.items()},
        cores=max(round(device.cores * share), 1),
        memory_bandwidth=device.memory_bandwidth * drawn,
        cache_bandwidth=device.cache_bandwidth * share if device.cache_bandwidth else None,
    )
    return replace(target, system=replace(target.system, device=fewer))


def microbatch(step: Step) -> Step:
    """Take one of the microbatches of a step.

    Parameters
    ----------
    step : Step
        The whole step.

    Returns
    -------
    Step
        Half of its sequences, rounded up to whole ones.
    """
    return replace(step, batch=np.ceil(as_floats(step.batch) / MICROBATCHES))


def is_cut(step: Step, shard: Shard, streams: Streams) -> Any:
    """Whether a step is large enough to be cut.

    Parameters
    ----------
    step : Step
        The whole step.
    shard : Shard
        The parallel sizes.
    streams : Streams
        From which size it is cut.

    Returns
    -------
    bool or array
        True where experts are spread over ranks and every microbatch has a sequence and enough tokens.
    """
    enough = as_floats(microbatch(step).rows(shard)) >= streams.least_tokens
    return enough & (as_floats(step.batch) >= MICROBATCHES) & (as_floats(shard.ep) > 1)


def other_share(share: float) -> float:
    """Give the second stream the cores that the first one leaves, or all where the streams take turns.

    Parameters
    ----------
    share : float
        Cores of the first stream [1].

    Returns
    -------
    float
        Cores of the second stream [1].

    Examples
    --------
    >>> other_share(0.75), other_share(1.0)
    (0.25, 1.0)
    """
    return 1.0 - share if share < 1.0 else 1.0


def overlapped_streams(
    whole: StepTime, first: StepTime, second: StepTime, streams: Streams, share: float, cut: Any
) -> StepTime:
    """Put the layers with experts of one microbatch beside those of the other.

    Parameters
    ----------
    whole : StepTime
        The step in one piece, with its lines: what is not a layer with experts stays so.
    first, second : StepTime
        One microbatch with the cores of the first and of the second stream, with their lines.
    streams : Streams
        Which part runs where.
    share : float
        Share of the cores that the first stream has [1].
    cut : bool or array
        Plans whose step is cut.

    Returns
    -------
    StepTime
        Seconds, parts and bounds; `upper_s` has nothing hidden.
    """
    busy = {line.block: line.repeat for line in whole.lines if isinstance(line.operator, Experts)}
    serial = _Sums(whole, (line for line in whole.lines if line.block in busy))
    mine = _Sums(first, (x for x in first.lines if x.block in busy and layer_part(x.operator) in streams.first))
    other = _Sums(second, (x for x in second.lines if x.block in busy and layer_part(x.operator) not in streams.first))
    both: Floats = as_floats(0.0)
    for block, layers in busy.items():
        both = both + _layers_s(mine.of(block), other.of(block), layers, streams, share)
    a, b = mine.seconds(), other.seconds()
    # What is not a layer with experts, with nothing of it hidden: other layers, hops between stages, and the host.
    rest = whole.upper_s - serial.seconds()
    outside = _Sums(whole, (line for line in whole.lines if line.block not in busy))
    left = outside.by_resource()
    hops = rest - outside.seconds() - whole.over_plans("host_s")
    left[2] = left[2] + np.where(hops > 1e-12 * rest, hops, 0.0)  # not what rounding leaves
    left[4] = whole.over_plans("host_s")
    seconds = np.where(cut, rest + both, whole.seconds)
    one_by_one = rest + MICROBATCHES * (a + b)
    # Resources in the proportion in which the busier stream uses them.
    leads = a >= b
    charged = [
        np.where(cut, was + np.where(leads, x / np.maximum(a, _TINY), y / np.maximum(b, _TINY)) * both, part)
        for part, was, x, y in zip(whole.parts, left, mine.by_resource(), other.by_resource(), strict=True)
    ]
    columns = {name: whole.over_plans(name) for name in whole.columns} | {
        "seconds": seconds,
        **{f"{name}_s": np.maximum(part, 0.0) for name, part in zip(RESOURCES, charged, strict=True)},
        "lower_s": whole.lower_s,
        "upper_s": np.where(cut, one_by_one, whole.upper_s),
        "bound": np.stack(np.broadcast_arrays(*charged)).argmax(axis=0).astype(np.float64),
        **{name: value * seconds / whole.seconds for name, value in whole.basis.items()},
    }
    shape = np.shape(seconds)
    return replace(
        whole,
        columns={name: np.broadcast_to(value, shape).ravel() for name, value in columns.items()},
        where=np.arange(int(np.prod(shape))).reshape(shape),
        streams=StreamTimes(
            np.full(shape, share),
            np.broadcast_to(cut, shape),
            np.broadcast_to(a, shape),
            np.broadcast_to(b, shape),
            np.where(cut, one_by_one - seconds, 0.0),
            np.where(cut, rest + MICROBATCHES * np.maximum(a, b), whole.seconds),
            mine.lines,
            other.lines,
        ),
    )


def fastest_split(found: list[StepTime]) -> StepTime:
    """Choose, for every plan, the division of the cores with which a step is fastest.

    Parameters
    ----------
    found : list of StepTime
        The same step with different divisions.

    Returns
    -------
    StepTime
        The fastest; the lines of its streams are those of the division that is best for the first plan.
    """
    best = found[0]
    for other in found[1:]:
        faster = as_floats(other.seconds) < best.seconds
        best = _where(faster, other, best)
    return best


def _where(faster: Any, other: StepTime, best: StepTime) -> StepTime:
    a, b = other.streams, best.streams
    if a is None or b is None:
        raise TypeError("a division of the cores belongs to a step that has streams")
    lead = a if bool(np.ravel(faster)[0]) else b
    flat = np.ravel(faster)
    return replace(
        best,
        columns={name: np.where(flat, other.columns[name], value) for name, value in best.columns.items()},
        streams=StreamTimes(
            np.where(faster, a.share, b.share),
            b.cut,
            np.where(faster, a.first_s, b.first_s),
            np.where(faster, a.second_s, b.second_s),
            np.where(faster, a.hidden_s, b.hidden_s),
            np.where(faster, a.lower_s, b.lower_s),
            lead.first,
            lead.second,
        ),
    )


class _Sums:
    """Operators of a step and sums of their times over plans."""

    def __init__(self, step: StepTime, lines: Iterable[Line]) -> None:
        self.step, self.lines = step, tuple(lines)

    def of(self, block: str) -> "_Sums":
        return _Sums(self.step, (line for line in self.lines if line.block == block))

    def seconds(self, *parts: str) -> Floats:
        """Time of all operators, or of those of some parts of the layer."""
        chosen = (line for line in self.lines if not parts or _phase(line.operator) in parts)
        return self._over_plans(sum((line.repeat * as_floats(line.time.seconds) for line in chosen), as_floats(0.0)))

    def traffic_s(self, share: float) -> Floats:
        """Time that the bytes of all operators take with the whole bandwidth, where these had a share of the cores."""
        drawn = float(shared_performance(share))
        return drawn * self._over_plans(
            sum((line.repeat * as_floats(line.time.memory_s) for line in self.lines), as_floats(0.0))
        )

    def by_resource(self) -> list[Floats]:
        """Time by the resource that binds each operator."""
        used: list[Floats] = [as_floats(0.0)] * len(RESOURCES)
        for line in self.lines:
            which = 2 if isinstance(line.operator, Collective) else line.time.bound()
            for i in range(4):
                used[i] = used[i] + line.repeat * np.where(which == i, line.time.seconds, 0.0)
        return [self._over_plans(each) for each in used]

    def _over_plans(self, rows: Floats) -> Floats:
        size = next(iter(self.step.columns.values())).shape
        return np.broadcast_to(rows, size)[self.step.where]


def _phase(op: Operator) -> str:
    """Phase of a layer in which microbatches are paired: attention, dispatch, experts or combine."""
    part = layer_part(op)
    if part == "exchange":
        return op.during if isinstance(op, Wait) else op.kind  # type: ignore[union-attr]
    return "experts" if part == "experts" else "attention"


def _layers_s(mine: _Sums, other: _Sums, layers: float, streams: Streams, share: float) -> Floats:
    """All layers of one kind, two microbatches, by the engine's schedule."""
    if streams.paired:
        a, d, e, c = (
            (mine.seconds(name) + other.seconds(name)) / layers
            for name in ("attention", "dispatch", "experts", "combine")
        )
        return paired_phases(a, d, e, c, layers)
    # The cores of both together draw no more than the memory gives.
    shared: Floats = (mine.traffic_s(share) + other.traffic_s(other_share(share))) / layers
    if share == 1.0:
        turns = (mine.seconds("attention", "experts") + other.seconds("attention", "experts")) / layers
        shared = turns + 2.0 * streams.exchange_s
    return alternating_streams(mine.seconds() / layers, other.seconds() / layers, layers, shared_s=shared)
