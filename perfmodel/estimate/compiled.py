"""Compiled model: its operators on one target, and what the time of each depends on (no seconds)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from perfmodel.arrays import as_floats
from perfmodel.estimate.arrangement import arranged
from perfmodel.estimate.communication import time_collective
from perfmodel.estimate.quantisers import with_quantisers
from perfmodel.estimate.target import Target
from perfmodel.layers.base import Layer, Shard, Step, activation_bytes
from perfmodel.layers.merging import kind_of, sizes_of
from perfmodel.layers.moe import SHARED
from perfmodel.layers.operators import Collective, Experts, Operator
from perfmodel.layers.precision import Precision
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.groups import rank_group
from perfmodel.programs import Programs

KNOBS = ("tp", "pp", "dp", "cp", "ep", "moe_tp")
"""What of a plan a step can depend on."""

LENGTHS = ("batch", "tokens", "context")
"""What of a step itself it can depend on."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One operator of a step.

    Parameters
    ----------
    layer : int
        Position of its layer; one beyond the last for what stages send each other.
    position : int
        Position among the operators of the layer.
    repeat : float
        How often its layer occurs in the model.
    kind : tuple
        What it has in common with the operators that it is timed with.
    routed : bool
        Whether it is the routed experts of a layer.
    beside : bool
        Whether it may run beside them: what the shared experts compute.
    """

    layer: int
    position: int
    repeat: float
    kind: tuple[Any, ...]
    routed: bool = False
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Term:
    """Operators of a step whose times depend on the same sizes.

    Parameters
    ----------
    depends : tuple of str
        Which of `KNOBS` and `LENGTHS`.
    entries : tuple of Entry
        The operators.
    """

    depends: tuple[str, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A model on a target in one precision: everything about its steps that no plan changes.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System, kernels and engine.
    precision : Precision
        Number formats.
    layers : tuple of (Layer, float)
        Every distinct layer of the model with how often it occurs.
    decode, prefill : tuple of Term
        Operators of either step.
    programs : dict
        What was recorded of its steps, see `perfmodel.programs`.
    """

    model: ModelSpec
    target: Target
    precision: Precision
    layers: tuple[tuple[Layer, float], ...]
    decode: tuple[Term, ...]
    prefill: tuple[Term, ...]
    programs: Programs = field(default_factory=dict)

    def kinds(self, decode: bool) -> Mapping[tuple[Any, ...], tuple[tuple[int, tuple[Entry, ...]], ...]]:
        """Operators that are timed together.

        Parameters
        ----------
        decode : bool
            Which step.

        Returns
        -------
        mapping
            Kind -> for every term with operators of that kind, its position and those operators. Kinds come in the same
            order in both steps, so that no sum over them depends on which steps are timed.
        """
        both = (entry.kind for terms in (self.decode, self.prefill) for term in terms for entry in term.entries)
        found: dict[tuple[Any, ...], dict[int, list[Entry]]] = {kind: {} for kind in both}
        for number, term in enumerate(self.decode if decode else self.prefill):
            for entry in term.entries:
                found[entry.kind].setdefault(number, []).append(entry)
        return {kind: tuple((t, tuple(entries)) for t, entries in terms.items()) for kind, terms in found.items()}

    def operators(self, layer: int, step: Step, grid: PlanGrid) -> tuple[Operator, ...]:
        """List what one device does in one of the layers, or to hand its activations to the next stage.

        Parameters
        ----------
        layer : int
            Position among `layers`, or one beyond the last.
        step : Step
            Sequences and lengths.
        grid : PlanGrid
            Plans.

        Returns
        -------
        tuple of Operator
            Sizes on the busiest device.
        """
        shard = shard_of(grid)
        if layer < len(self.layers):
            found = self.layers[layer][0]
            operators = arranged(found, found.operators(step, shard, self.precision), self.target.engine, step, shard)
            return with_quantisers(operators, self.target)
        # p - 1 transfers, divided among the ranks of a tensor group.
        nbytes = as_floats(step.rows(shard)) * self.model.hidden * activation_bytes(self.precision) / grid.tp
        return (Collective("activations to the next stage", "point_to_point", nbytes, "pp", count=grid.pp - 1.0),)

    def block_layers(self) -> Iterator[tuple[str, float, tuple[int, ...]]]:
        """Yield name, repeat and positions among `layers` of the embedding, of every distinct block and of the head."""
        number = {layer: i for i, (layer, _) in enumerate(self.layers)}
        yield "embedding", 1.0, (number[self.model.embedding],)
        for block, count in self.model.blocks:
            yield block.name, float(count), tuple(number[part] for part in block.parts)
        yield "head", 1.0, (number[self.model.head],)


def shard_of(grid: PlanGrid) -> Shard:
    """Take the sizes that divide layers out of a grid.

    Parameters
    ----------
    grid : PlanGrid
        Plans.

    Returns
    -------
    Shard
        tp, dp, cp, ep and moe_tp.
    """
    return Shard(grid.tp, grid.dp, grid.cp, grid.ep, grid.moe_tp)


def compile_model(model: ModelSpec, target: Target, precision: Precision) -> Compiled:
    """Find out what the operators of a model depend on and which of them can be timed together.

    The result depends on no plan, and a few of the last ones are kept.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : Target
        System, kernels and engine.
    precision : Precision
        Number formats.

    Returns
    -------
    Compiled
        What `step_times` needs.
    """
    return _compile(Same(model), Same(target), precision)


def forget() -> None:
    """Forget all compiled models, for measurements that include compiling."""
    _compile.cache_clear()


@dataclass(frozen=True, slots=True, eq=False)
class Same:
    """Key of a cache: the object itself, whatever it is equal to.

    Parameters
    ----------
    held : object
        The object, which the cache keeps alive.
    """

    held: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)


@lru_cache(maxsize=64)
def _compile(model: Same, target: Same, precision: Precision) -> Compiled:
    spec, on = model.held, target.held
    count: dict[Layer, float] = {spec.embedding: 1.0}
    for block, repeat in spec.blocks:
        for part in block.parts:
            count[part] = count.get(part, 0.0) + repeat
    count[spec.head] = 1.0
    bare = Compiled(spec, on, precision, tuple(count.items()), (), ())
    terms = {decode: tuple(_terms(bare, decode)) for decode in (True, False)}
    return Compiled(spec, on, precision, bare.layers, terms[True], terms[False])


def _terms(bare: Compiled, decode: bool) -> Iterator[Term]:
    """Group the operators by what they depend on, which the shape of their sizes on a small open mesh shows."""
    axes = len(KNOBS) + len(LENGTHS)
    mesh = {
        name: np.array([1.0, 2.0]).reshape((-1, *(1,) * (axes - 1 - i))) for i, name in enumerate((*KNOBS, *LENGTHS))
    }
    grid = PlanGrid(**{name: mesh[name] for name in KNOBS}, concurrency=as_floats(1.0))
    step = Step(mesh["batch"], mesh["tokens"], mesh["context"], decode)
    found: dict[tuple[str, ...], list[Entry]] = {}
    for layer in range(len(bare.layers) + 1):
        repeat = bare.layers[layer][1] if layer < len(bare.layers) else 1.0
        for position, op in enumerate(bare.operators(layer, step, grid)):
            if op.name in bare.target.engine.fused:
                continue
            sizes: Sequence[Any] = sizes_of(op)
            if isinstance(op, Collective):  # who takes part, and where they lie, matters besides
                group = rank_group(grid, op.group)
                sizes = [*sizes, group.ranks, group.stride, group.world, time_collective(op, bare.target, grid).seconds]
            shape = np.broadcast_shapes((1,) * axes, *(np.shape(size) for size in sizes))
            depends = tuple(name for name, extent in zip((*KNOBS, *LENGTHS), shape, strict=True) if extent > 1)
            routed = isinstance(op, Experts)
            beside = decode and not isinstance(op, Collective) and op.name.startswith(SHARED)
            found.setdefault(depends, []).append(Entry(layer, position, repeat, kind_of(op), routed, beside))
    for depends, entries in found.items():
        yield Term(depends, tuple(entries))
