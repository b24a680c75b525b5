"""Sums of operator times [s]: operators alike are timed in one call, each for the sizes that differ, and added up."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from perfmodel.arrays import Array, as_floats
from perfmodel.estimate.communication import time_collective
from perfmodel.estimate.compiled import KNOBS, LENGTHS, Compiled, Entry, Term
from perfmodel.estimate.operator_time import OperatorTime
from perfmodel.estimate.target import Target
from perfmodel.estimate.timing import time_operator
from perfmodel.layers.base import Step
from perfmodel.layers.merging import chained, merge
from perfmodel.layers.moe import SHARED
from perfmodel.layers.operators import Attention, Collective, Experts, Operator
from perfmodel.parallel.distinct import FEW, Distinct
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.groups import RankGroup, rank_group

BASES = ("measured", "default", "datasheet")
"""What the time of an operator can rest on."""

SUMS = (
    "device",
    "attention",
    "network",
    "charged to compute",
    "charged to memory",
    "charged to latency",
    "exact compute",
    "exact memory",
    "exact network",
    *BASES,
)
"""What is summed over operators: times (of attention among them), what binds those of the device, exact bounds, and
what times rest on."""

_ROW = {name: row for row, name in enumerate(SUMS)}
_HIDDEN = [row for name, row in _ROW.items() if not name.startswith("exact")]


class StepWork:
    """Operators of all decode or of all prefill steps that are wanted, and the sums over them.

    Parameters
    ----------
    compiled : Compiled
        The model on its target.
    decode : bool
        Which of the two.
    steps : sequence of Distinct
        Rows of knobs and lengths that differ, for each of the steps.
    together : bool
        Build every operator for all rows, also where it does not depend on all of their columns.

    Attributes
    ----------
    size : int
        Rows of all steps, one after the other.
    operators : list
        For every term, its layers' operators.
    times : dict
        Layer and position -> time of that operator, where operators were timed apart.
    """

    def __init__(self, compiled: Compiled, decode: bool, steps: Sequence[Distinct], *, together: bool) -> None:
        self.compiled, self.decode = compiled, decode
        self.terms = compiled.decode if decode else compiled.prefill
        lengths = [step.rows for step in steps]
        columns = {
            name: as_floats(chained([step.columns[name] for step in steps], lengths)) for name in (*KNOBS, *LENGTHS)
        }
        self.size = sum(lengths)
        self.whole = Distinct(columns, np.arange(self.size))
        together = together or self.size <= FEW
        self.rows = [self.whole if together else self.whole.over(term.depends) for term in self.terms]
        built = [self._build(self.terms, self.whole)] * len(self.terms) if together else []
        built = built or [self._build((term,), found) for term, found in zip(self.terms, self.rows, strict=True)]
        self.grids = [grid for grid, _ in built]
        self.operators = [operators for _, operators in built]
        self.times: dict[tuple[int, int], OperatorTime] = {}
        self._sums = [np.zeros((len(SUMS), found.rows)) for found in self.rows]
        self._beside: dict[Entry, tuple[int, Array]] = {}
        self._routed: dict[int, tuple[int, Array]] = {}

    def _build(self, terms: Sequence[Term], found: Distinct) -> tuple[PlanGrid, dict[int, tuple[Operator, ...]]]:
        columns: dict[str, Array] = dict.fromkeys((*KNOBS, *LENGTHS), as_floats(1.0)) | dict(found.columns)
        grid = _plans_of(columns)
        step = Step(columns["batch"], columns["tokens"], columns["context"], self.decode)
        layers = dict.fromkeys(entry.layer for term in terms for entry in term.entries)
        return grid, {layer: self.compiled.operators(layer, step, grid) for layer in layers}

    def operator(self, term: int, entry: Entry) -> Operator:
        """One of the operators.

        Parameters
        ----------
        term : int
            Position of its term.
        entry : Entry
            Which of the term's operators.

        Returns
        -------
        Operator
            Its sizes, over the rows of the term.
        """
        return self.operators[term][entry.layer][entry.position]

    def add(self, term: int, entry: Entry, part: Array, repeated: Array) -> None:
        """Add what all occurrences of one operator contribute.

        Parameters
        ----------
        term : int
            Position of its term.
        entry : Entry
            Which of the term's operators.
        part : numpy.ndarray
            What one occurrence adds to each of `SUMS`, over the rows of the term [s].
        repeated : numpy.ndarray
            What all occurrences add [s].
        """
        self._sums[term] += repeated
        op = self.operator(term, entry)
        if isinstance(op, Experts):
            self._routed[entry.layer] = term, part
        elif self.decode and op.name.startswith(SHARED) and not isinstance(op, Collective):
            self._beside[entry] = term, part

    def _over_rows(self, term: int, part: Array) -> Array:
        """What an operator contributes, over all rows and not only those of its term."""
        found = self.rows[term]
        return part if found is self.whole else part[:, found.where]

    def hidden(self) -> Array:
        """What the routed experts of a layer hide of the shared ones beside them.

        Both take the same input, and TensorRT-LLM, SGLang and vLLM run them in two streams of a decode step. They share
        the device's arithmetic and its memory, so what is hidden is what the smaller kernels wait for, never what their
        work takes.

        Returns
        -------
        numpy.ndarray
            Part of each of `SUMS`, of every row [s].
        """
        out = np.zeros((len(SUMS), self.size))
        for layer in {entry.layer for entry in self._beside} & set(self._routed):
            beside = {e: self._over_rows(*held) for e, held in self._beside.items() if e.layer == layer}
            routed_s = self._over_rows(*self._routed[layer])[_ROW["device"]]
            whole = sum(part[_ROW["device"]] for part in beside.values())
            work = sum(np.maximum(part[_ROW["exact compute"]], part[_ROW["exact memory"]]) for part in beside.values())
            seen = np.maximum(np.minimum(work, whole), whole - routed_s)
            share = np.where(whole > 0, 1.0 - seen / np.where(whole > 0, whole, 1.0), 0.0)
            for entry, part in beside.items():
                out[_HIDDEN] += entry.repeat * share * part[_HIDDEN]
        return out

    def total(self) -> Mapping[str, Array]:
        """Sums over all operators.

        Returns
        -------
        mapping
            Name of `SUMS` -> seconds of every row, and hidden -> what of the device's is left out of them [s].
        """
        total = np.zeros((len(SUMS), self.size))
        for sums, found in zip(self._sums, self.rows, strict=True):
            total += sums if found is self.whole else sums[:, found.where]
        hidden = self.hidden() if self._beside else np.zeros((len(SUMS), 1))
        total -= hidden
        return dict(zip(SUMS, total, strict=True)) | {"hidden": hidden[_ROW["device"]]}


def _plans_of(columns: Mapping[str, Array]) -> PlanGrid:
    """Plans whose splits are given by column; a step does not depend on anything else of a plan."""
    return PlanGrid(**{name: columns[name] for name in KNOBS}, concurrency=as_floats(1.0))


def time_works(works: Sequence[StepWork], target: Target, *, apart: bool) -> None:
    """Time all operators of some steps, those alike in one call, and add their times up term by term.

    Parameters
    ----------
    works : sequence of StepWork
        The steps.
    target : Target
        System, kernels and engine.
    apart : bool
        Time operators one by one and keep their times.
    """
    kinds: dict[Any, list[tuple[StepWork, int, Entry]]] = {}
    for work in works:
        for term, each in enumerate(work.terms):
            for entry in each.entries:
                if not apart and _idle(work.operator(term, entry)):
                    continue  # nobody has anything to send
                kind = (id(work), entry.layer, entry.position) if apart else entry.kind
                kinds.setdefault(kind, []).append((work, term, entry))
    parts: dict[tuple[int, int, int, int], tuple[Array, Array]] = {}
    for members in kinds.values():
        lengths = [work.rows[term].rows for work, term, _ in members]
        ops = [work.operator(term, entry) for work, term, entry in members]
        time = _time(ops, [work.grids[term] for work, term, _ in members], lengths, target)
        found = _parts(ops[0], time, sum(lengths))
        repeated = found * np.repeat([entry.repeat for _, _, entry in members], lengths)
        start = 0
        for (work, term, entry), length in zip(members, lengths, strict=True):
            end = start + length
            parts[id(work), term, entry.layer, entry.position] = found[:, start:end], repeated[:, start:end]
            start = end
            if apart:
                work.times[entry.layer, entry.position] = time
    # In the order of the operators and not of their kinds, so that no sum depends on what else is timed.
    for work in works:
        for term, each in enumerate(work.terms):
            for entry in each.entries:
                found_of = parts.get((id(work), term, entry.layer, entry.position))
                if found_of is not None:
                    work.add(term, entry, *found_of)


def _idle(op: Operator) -> bool:
    return isinstance(op, Collective) and not np.count_nonzero(as_floats(op.payload) * op.count)


def _time(ops: Sequence[Operator], grids: Sequence[PlanGrid], lengths: Sequence[int], target: Target) -> OperatorTime:
    """Time operators of one kind, one after the other in the arrays."""
    op = merge(ops, lengths)
    if not isinstance(op, Collective):
        return time_operator(op, target.device, target.kernels, target.engine.kernels, target.engine.expert_skew)
    if len(ops) == 1:
        return time_collective(op, target, grids[0])
    groups = [rank_group(grid, each.group) for grid, each in zip(grids, ops, strict=True)]  # type: ignore[union-attr]
    group = RankGroup(*(chained([getattr(g, each.name) for g in groups], lengths) for each in fields(RankGroup)))
    grid = _plans_of({name: as_floats(chained([getattr(g, name) for g in grids], lengths)) for name in KNOBS})
    return time_collective(op, target, grid, group)


def _parts(op: Operator, time: OperatorTime, size: int) -> Array:
    """What one operator adds to each of `SUMS`."""
    out = np.zeros((len(SUMS), size))
    network = isinstance(op, Collective)
    if isinstance(op, Attention):
        out[_ROW["attention"]] = time.seconds
    out[_ROW["network" if network else "device"]] = time.seconds
    if not network:
        bound = time.bound()
        for name, resource in (("compute", 0), ("memory", 1), ("latency", 3)):
            out[_ROW[f"charged to {name}"]] = np.where(bound == resource, time.seconds, 0.0)
    for name in ("compute", "memory", "network"):
        out[_ROW[f"exact {name}"]] = getattr(time, f"{name}_s")
    bases = time.bases or (time.basis,)
    if len(set(bases)) == 1:
        out[_ROW[bases[0]]] = time.seconds
        return out
    for number, basis in enumerate(bases):
        out[_ROW[basis]] += np.where(np.equal(time.choice, number), time.seconds, 0.0)
    return out
