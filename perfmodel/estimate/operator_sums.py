"""Sums of operator times [s]: operators alike are timed in one call, each for the sizes that differ, and added up."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from perfmodel.arrays import Array, as_floats, in_rows, summed
from perfmodel.estimate.communication import time_collective
from perfmodel.estimate.compiled import KNOBS, LENGTHS, Compiled, Entry, Term
from perfmodel.estimate.operator_time import OperatorTime, binding
from perfmodel.estimate.target import Target
from perfmodel.estimate.timing import time_operator
from perfmodel.hardware.kernels import Basis
from perfmodel.layers.base import Step
from perfmodel.layers.merging import chained, merge
from perfmodel.layers.operators import Attention, Collective, Operator
from perfmodel.parallel.distinct import Distinct
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.groups import RankGroup, rank_group
from perfmodel.recording import FEW

BASES: tuple[Basis, ...] = ("measured", "default", "datasheet")
"""What the time of an operator can rest on."""

SUMS = (
    "device",
    "attention",
    "network",
    "charged to compute",
    "charged to memory",
    "charged to latency",
    *BASES,
    "exact compute",
    "exact memory",
    "exact network",
)
"""What is summed over operators: times (of attention among them), what binds those of the device, what times rest on,
and exact bounds."""

_ROW = {name: row for row, name in enumerate(SUMS)}
_TIMES = len(SUMS) - 3  # rows before the bounds, from which what is hidden is taken


class StepWork:
    """Operators of all decode or of all prefill steps that are wanted, and the sums over them.

    Parameters
    ----------
    compiled : Compiled
        The model on its target.
    decode : bool
        Which of the two.
    columns : mapping
        Knobs and lengths of all steps, one after the other.
    together : bool
        Build every operator for all rows, also where it does not depend on all of their columns.

    Attributes
    ----------
    size : int
        Rows of all steps.
    operators : list
        For every term, its layers' operators.
    times : dict
        Layer and position -> time of that operator, where operators were timed apart.
    """

    def __init__(self, compiled: Compiled, decode: bool, columns: Mapping[str, Array], *, together: bool) -> None:
        self.compiled, self.decode = compiled, decode
        self.terms = compiled.decode if decode else compiled.prefill
        self.size = next(iter(columns.values())).size
        self.whole = Distinct(columns, np.arange(self.size))
        self.rows = [self.whole if together else self.whole.over(term.depends) for term in self.terms]
        built = [self._build(self.terms, self.whole)] * len(self.terms) if together else []
        built = built or [self._build((term,), found) for term, found in zip(self.terms, self.rows, strict=True)]
        self.grids = [grid for grid, _ in built]
        self.operators = [operators for _, operators in built]
        self.times: dict[tuple[int, int], OperatorTime] = {}
        self._sums: dict[int, Array] = {}
        self._beside: dict[Entry, Array] = {}
        self._routed: dict[int, Array] = {}

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

    def add(self, term: int, entries: Sequence[Entry], parts: Array) -> None:
        """Add what all occurrences of some operators contribute.

        Parameters
        ----------
        term : int
            Position of their term.
        entries : sequence of Entry
            Operators of the term.
        parts : numpy.ndarray
            What one occurrence adds to each of `SUMS`: of shape (sums, operators, rows of the term) [s].
        """
        for i, entry in enumerate(entries):
            if entry.routed:
                self._routed[entry.layer] = self._over_rows(term, parts[:, i])
            elif entry.beside:
                self._beside[entry] = self._over_rows(term, parts[:, i])
        repeated = parts * np.array([[entry.repeat] for entry in entries])
        self._sums[term] = summed(repeated, axis=1, after=self._sums.get(term))

    def _over_rows(self, term: int, part: Array) -> Array:
        """What operators of a term contribute, over all rows and not only those of the term."""
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
            Part of each of `SUMS` but the bounds, of every row [s].
        """
        out: Array = np.zeros((_TIMES, self.size))
        for layer in sorted({entry.layer for entry in self._beside} & set(self._routed)):
            # In the order of the layer: that of the sums depends on how many plans there are.
            entries = sorted((e for e in self._beside if e.layer == layer), key=lambda entry: entry.position)
            beside = np.concatenate([self._beside[entry][:, None] for entry in entries], axis=1)
            whole = summed(beside[_ROW["device"]])
            work = summed(np.maximum(beside[_ROW["exact compute"]], beside[_ROW["exact memory"]]))
            seen = np.maximum(np.minimum(work, whole), whole - self._routed[layer][_ROW["device"]])
            share = np.where(whole > 0, 1.0 - seen / np.where(whole > 0, whole, 1.0), 0.0)
            out = out + (entries[0].repeat * share) * summed(beside[:_TIMES], axis=1)
        return out

    def total(self) -> Mapping[str, Array]:
        """Sums over all operators.

        Returns
        -------
        mapping
            Name of `SUMS` -> seconds of every row, and hidden -> what of the device's is left out of them [s].
        """
        total: Array = np.zeros((len(SUMS), self.size))
        for term in range(len(self.terms)):
            if term in self._sums:
                total = total + self._over_rows(term, self._sums[term])
        if not self._beside:
            return dict(zip(SUMS, total, strict=True)) | {"hidden": np.zeros(self.size)}
        hidden = self.hidden()
        sums = dict(zip(SUMS[:_TIMES], total[:_TIMES] - hidden, strict=True))
        return sums | dict(zip(SUMS[_TIMES:], total[_TIMES:], strict=True)) | {"hidden": hidden[_ROW["device"]]}


def _plans_of(columns: Mapping[str, Array]) -> PlanGrid:
    """Plans whose splits are given by column; a step does not depend on anything else of a plan."""
    return PlanGrid(**{name: columns[name] for name in KNOBS}, concurrency=as_floats(1.0))


def time_works(works: Sequence[StepWork], target: Target, *, apart: bool) -> None:
    """Time all operators of some steps, those alike in one call, and add their times up.

    Parameters
    ----------
    works : sequence of StepWork
        The steps.
    target : Target
        System, kernels and engine.
    apart : bool
        Time operators one by one and keep their times.
    """
    kinds: dict[Any, list[tuple[StepWork, int, tuple[Entry, ...]]]] = {}
    for work in works:
        for kind, terms in work.compiled.kinds(work.decode).items():
            for term, entries in terms:
                if apart:
                    for entry in entries:
                        kinds[id(work), entry.layer, entry.position] = [(work, term, (entry,))]
                    continue
                busy = entries if work.size <= FEW else tuple(e for e in entries if not _idle(work.operator(term, e)))
                if busy:
                    kinds.setdefault(kind, []).append((work, term, busy))
    # Few rows of all kinds go through the sums together; many, a kind at a time, which takes less memory.
    few = not apart and all(work.size <= FEW for work in works)
    for batch in [list(kinds.values())] if few else [[members] for members in kinds.values()]:
        _add(batch, target, apart=apart)


def _add(kinds: Sequence[Sequence[tuple[StepWork, int, tuple[Entry, ...]]]], target: Target, *, apart: bool) -> None:
    """Time some kinds of operators, and add every one to the sums of its step."""
    first, times, sizes = [], [], []
    places: dict[tuple[int, int], tuple[StepWork, list[Entry], list[tuple[int, int]]]] = {}
    end = 0
    for members in kinds:
        each = [(work, term, entry) for work, term, entries in members for entry in entries]
        lengths = [work.rows[term].rows for work, term, _ in each]
        ops = [work.operator(term, entry) for work, term, entry in each]
        first.append(ops[0])
        times.append(_time(ops, [work.grids[term] for work, term, _ in each], lengths, target))
        sizes.append(sum(lengths))
        for work, term, entries in members:
            start, end = end, end + len(entries) * work.rows[term].rows
            _, of, ranges = places.setdefault((id(work), term), (work, [], []))
            of.extend(entries)
            ranges.append((start, end))
            if apart:
                work.times[entries[0].layer, entries[0].position] = times[-1]
    parts = _parts(first, times, sizes)
    for (_, term), (work, found, ranges) in places.items():
        shape = (len(found), work.rows[term].rows)
        if len(ranges) == 1:
            work.add(term, found, parts[:, slice(*ranges[0])].reshape((len(SUMS), *shape)))
        else:
            work.add(term, found, parts[:, np.concatenate([np.arange(*span) for span in ranges]).reshape(shape)])


def _idle(op: Operator) -> bool:
    """Whether nobody has anything to send, so that a long column need not be timed."""
    return isinstance(op, Collective) and not np.any(as_floats(op.payload) * op.count)


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


def _parts(ops: Sequence[Operator], times: Sequence[OperatorTime], sizes: Sequence[int]) -> Array:
    """What operators of some kinds add to each of `SUMS`, the columns of all kinds one after the other."""
    nothing = np.zeros(sum(sizes))

    def column(values: Sequence[Any]) -> Array:
        columns = [in_rows(value, size) for value, size in zip(values, sizes, strict=True)]
        return columns[0] if len(columns) == 1 else np.concatenate(columns)

    def where(wanted: Sequence[Any], values: Array) -> Array:
        """Take the values of the kinds, or of the plans of a kind, that are wanted."""
        if all(each is True for each in wanted):
            return values
        if all(each is False for each in wanted):
            return nothing
        return np.where(column(wanted) != 0.0, values, nothing)

    seconds = column([time.seconds for time in times])
    compute_s, memory_s = column([time.compute_s for time in times]), column([time.memory_s for time in times])
    network_s = column([time.network_s for time in times])
    network = [isinstance(op, Collective) for op in ops]
    device_s = where([not each for each in network], seconds)
    bound = binding(seconds, compute_s, memory_s, network_s, column([time.count for time in times]))
    return np.concatenate(
        [
            device_s,
            where([isinstance(op, Attention) for op in ops], seconds),
            where(network, seconds),
            *(np.where(bound == resource, device_s, nothing) for resource in (0, 1, 3)),
            *(where([time.rests_on(basis) for time in times], seconds) for basis in BASES),
            compute_s,
            memory_s,
            network_s,
        ]
    ).reshape((len(SUMS), len(nothing)))
