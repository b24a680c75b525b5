"""Rules: which plans can exist for a model on a system, and the reason why the others cannot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats
from perfmodel.parallel.grid import PlanGrid
from perfmodel.parallel.mesh import pick


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition that every plan has to meet.

    Parameters
    ----------
    category : str
        What is counted under one heading, for instance "weights exceed memory".
    broken : numpy.ndarray
        True where a plan breaks the rule; broadcasts to the grid.
    describe : callable
        Flat position in the grid -> a sentence with the numbers of that plan.
    """

    category: str
    broken: npt.NDArray[np.bool_]
    describe: Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Which plans are feasible, and the first rule that each of the others breaks.

    Parameters
    ----------
    code : numpy.ndarray
        0 where feasible, else 1 + position of the first broken rule; one entry per plan.
    rules : tuple of Rule
        The rules in the order in which they were applied.
    """

    code: npt.NDArray[np.int16]
    rules: tuple[Rule, ...]

    @property
    def feasible(self) -> npt.NDArray[np.bool_]:
        """True where no rule is broken."""
        return np.equal(self.code, 0)

    def reason(self, index: int) -> str:
        """Explain one plan.

        Parameters
        ----------
        index : int
            Flat position in the grid.

        Returns
        -------
        str
            Empty for a feasible plan, else why it cannot be.
        """
        code = int(self.code[index])
        return self.rules[code - 1].describe(index) if code else ""

    def counts(self) -> dict[str, int]:
        """Count infeasible plans by category.

        Returns
        -------
        dict
            Category -> plans, most frequent first.
        """
        found = np.bincount(self.code, minlength=len(self.rules) + 1)[1:]
        order = np.argsort(-found, kind="stable")
        total: dict[str, int] = {}
        for i in order:
            if found[i]:
                category = self.rules[i].category
                total[category] = total.get(category, 0) + int(found[i])
        return total

    def and_then(self, shape: tuple[int, ...], rules: tuple[Rule, ...]) -> "Verdicts":
        """Apply further rules to the plans that break none so far.

        Parameters
        ----------
        shape : tuple of int
            Shape of the grid.
        rules : tuple of Rule
            The further rules.

        Returns
        -------
        Verdicts
            Feasibility under all of them.
        """
        return Verdicts(_codes(self.code.reshape(shape), len(self.rules), rules).ravel(), (*self.rules, *rules))


def judge(shape: tuple[int, ...], rules: tuple[Rule, ...]) -> Verdicts:
    """Apply rules in order; a plan is charged to the first that it breaks.

    Parameters
    ----------
    shape : tuple of int
        Shape of the grid.
    rules : tuple of Rule
        Rules, structural ones before those of memory and latency.

    Returns
    -------
    Verdicts
        Feasibility of every plan.

    Examples
    --------
    >>> rule = Rule("odd", np.array([True, False]), lambda i: f"plan {i} is odd")
    >>> verdicts = judge((2,), (rule,))
    >>> verdicts.feasible.tolist(), verdicts.reason(0), verdicts.counts()
    ([False, True], 'plan 0 is odd', {'odd': 1})
    """
    # Grows to the shape of the grid with the rules: those of divisibility concern few distinct plans.
    code = _codes(np.zeros((1,) * len(shape), dtype=np.int16), 0, rules)
    return Verdicts(np.broadcast_to(code, shape).ravel(), rules)


def _codes(code: npt.NDArray[np.int16], known: int, rules: tuple[Rule, ...]) -> npt.NDArray[np.int16]:
    for number, rule in enumerate(rules, start=known + 1):
        if rule.broken.any():
            code = np.where((code == 0) & rule.broken, np.int16(number), code)
    return code


def joined(parts: Sequence[Verdicts]) -> Verdicts:
    """Put the verdicts of a grid's parts together.

    Parameters
    ----------
    parts : sequence of Verdicts
        Verdicts under the same rules, in the order of the flattened grid.

    Returns
    -------
    Verdicts
        Verdicts of the whole grid.
    """
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(part.code.size for part in parts)])

    def describe(number: int, index: int) -> str:
        part = int(np.searchsorted(starts, index, side="right")) - 1
        return parts[part].rules[number].describe(index - int(starts[part]))

    rules = tuple(
        Rule(rule.category, np.zeros(1, dtype=bool), partial(describe, number))
        for number, rule in enumerate(parts[0].rules)
    )
    return Verdicts(np.concatenate([part.code for part in parts]), rules)


def structural_rules(
    grid: PlanGrid,
    divisors: Mapping[str, int],
    *,
    layers: int,
    max_devices: int,
    expert_places: tuple[int, ...] = (),
) -> tuple[Rule, ...]:
    """Rules of divisibility: a plan cuts the model into whole pieces, on a system that is large enough.

    Query heads must divide among tp ranks. Key-value heads must divide among them, or the ranks among the heads, in
    which case the heads are copied. Experts must divide among ep groups and one expert's width among moe_tp ranks;
    ep x moe_tp must be the ranks of a stage.

    Parameters
    ----------
    grid : PlanGrid
        Plans.
    divisors : mapping
        The model's heads, kv_heads, experts, expert_intermediate.
    layers : int
        Layers of the model.
    max_devices : int
        Devices that the system can connect.
    expert_places : tuple of int
        Numbers of places for experts, copies of some included, that ep may divide instead of the experts.

    Returns
    -------
    tuple of Rule
        One rule per condition.
    """
    tp, pp, ep, moe_tp = grid.tp, grid.pp, grid.ep, grid.moe_tp
    stage = tp * grid.dp * grid.cp
    devices = pp * stage
    shape = grid.shape
    rules: list[Rule] = []

    def at(value: Floats, index: int) -> str:
        return f"{pick(value, shape, index):.0f}"

    def add(category: str, broken: npt.NDArray[np.bool_], describe: Callable[[int], str]) -> None:
        rules.append(Rule(category, np.asarray(broken), describe))

    add(
        "more devices than the system connects",
        devices > max_devices,
        lambda i: f"{at(devices, i)} devices, and the system connects {max_devices}",
    )
    if "heads" in divisors:
        heads = divisors["heads"]
        add(
            "tp does not divide the query heads",
            heads % tp != 0,
            lambda i: f"tp={at(tp, i)} does not divide {heads} query heads",
        )
    if "kv_heads" in divisors:
        kv_heads = divisors["kv_heads"]
        add(
            "tp does not divide the KV heads",
            (kv_heads % tp != 0) & (tp % kv_heads != 0),
            lambda i: f"tp={at(tp, i)} neither divides {kv_heads} KV heads nor is a multiple of them",
        )
    add(
        "more pipeline stages than layers",
        pp > layers,
        lambda i: f"pp={at(pp, i)} exceeds {layers} layers",
    )
    if divisors.get("experts"):
        experts = divisors["experts"]
        add(
            "expert groups do not fill the stage",
            ep * moe_tp != stage,
            lambda i: f"ep={at(ep, i)} x moe_tp={at(moe_tp, i)} is not the {at(stage, i)} ranks of a stage",
        )
        add(
            "ep does not divide the experts",
            np.all([places % ep != 0 for places in (experts, *expert_places)], axis=0),
            lambda i: f"ep={at(ep, i)} does not divide {experts} experts",
        )
        width = divisors.get("expert_intermediate", 1)
        add(
            "moe_tp does not divide an expert",
            width % moe_tp != 0,
            lambda i: f"moe_tp={at(moe_tp, i)} does not divide the expert width {width}",
        )
    else:
        add(
            "ep without experts",
            ep > 1,
            lambda i: f"ep={at(ep, i)} on a model without experts",
        )
    return tuple(rules)
