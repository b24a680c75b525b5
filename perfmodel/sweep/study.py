"""Study: which points a sweep visits, as a cross product of axes (no quantity of its own)."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from perfmodel.errors import StudyError
from perfmodel.hardware.what_if import NUMBERS
from perfmodel.sweep.axes import Value

Rows: TypeAlias = tuple[tuple[Value, ...], ...]
"""Steps of a factor: one value per name that varies in it."""


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of a study's values.

    Parameters
    ----------
    index : int
        Position among the points of its block, from 0.
    task : str
        serving or training.
    values : mapping
        Axis -> value in SI units; None for what is left at its default.
    what_if : mapping
        Number of the hardware -> what becomes of it, as text.
    """

    index: int
    task: str
    values: Mapping[str, Value] = field(hash=False)
    what_if: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        shown = {name: value for name, value in (*self.values.items(), *self.what_if.items()) if value is not None}
        return f"{self.task} point {self.index} ({', '.join(f'{name}={value}' for name, value in shown.items())})"


@dataclass(frozen=True, slots=True)
class Block:
    """All points of one task: a cross product.

    Parameters
    ----------
    task : str
        serving or training.
    factors : tuple
        What is crossed, the slowest first; each is the names that vary together and one tuple of values per step.
    """

    task: str
    factors: tuple[tuple[tuple[str, ...], Rows], ...]

    def __len__(self) -> int:
        return math.prod(len(steps) for _, steps in self.factors)

    @property
    def names(self) -> tuple[str, ...]:
        """Every axis and every changed number that the block names."""
        return tuple(name for names, _ in self.factors for name in names)

    def point(self, index: int) -> Point:
        """One point, made when it is asked for.

        Parameters
        ----------
        index : int
            Position from 0.

        Returns
        -------
        Point
            The point.
        """
        rest, chosen = index, []
        for names, steps in reversed(self.factors):
            rest, step = divmod(rest, len(steps))
            chosen.append(dict(zip(names, steps[step], strict=True)))
        found = {name: value for part in reversed(chosen) for name, value in part.items()}
        what_if = {name: str(value) for name, value in found.items() if name in NUMBERS}
        return Point(index, self.task, {name: v for name, v in found.items() if name not in NUMBERS}, what_if)

    def values(self, name: str) -> tuple[Value, ...]:
        """The values that an axis takes anywhere in the block.

        Parameters
        ----------
        name : str
            Axis or number of the hardware.

        Returns
        -------
        tuple
            Its values, each once; empty where the block does not name it.
        """
        return tuple(
            dict.fromkeys(step[names.index(name)] for names, steps in self.factors if name in names for step in steps)
        )


@dataclass(frozen=True, slots=True)
class Study:
    """What a sweep is to find out.

    Parameters
    ----------
    blocks : tuple of Block
        One per task.
    top : int
        Plans that are kept of every point, best first.
    front : bool
        Whether the front of TPOT against rate is kept of every serving point as well.
    partition : int
        Points per partition file.
    source : str
        File that it was read from, for messages.
    """

    blocks: tuple[Block, ...]
    top: int = 1
    front: bool = True
    partition: int = 64
    source: str = field(default="", compare=False)

    def __len__(self) -> int:
        return sum(len(block) for block in self.blocks)

    def block(self, task: str) -> Block:
        """The points of one task.

        Parameters
        ----------
        task : str
            serving or training.

        Returns
        -------
        Block
            Its points.

        Raises
        ------
        StudyError
            If the study has none of that task.
        """
        for block in self.blocks:
            if block.task == task:
                return block
        raise StudyError(f"the study has no {task} points; it is about {', '.join(b.task for b in self.blocks)}")

    def points(self) -> Iterator[Point]:
        """Every point, one after the other."""
        return (block.point(index) for block in self.blocks for index in range(len(block)))

    def document(self) -> dict[str, Any]:
        """The study as plain tables, in one way for everything that means the same."""
        blocks = {
            block.task: [
                {"names": list(names), "steps": [list(step) for step in steps]} for names, steps in block.factors
            ]
            for block in self.blocks
        }
        return {"top": self.top, "front": self.front, "partition": self.partition, "blocks": blocks}

    def digest(self) -> str:
        """SHA-256 of the study's meaning: comments and spelling of units do not matter."""
        text = json.dumps(self.document(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def study_from_document(document: Mapping[str, Any]) -> Study:
    """Make a study of what `Study.document` wrote.

    Parameters
    ----------
    document : mapping
        As in a manifest.

    Returns
    -------
    Study
        The study.
    """
    blocks = tuple(
        Block(task, tuple((tuple(f["names"]), tuple(tuple(step) for step in f["steps"])) for f in factors))
        for task, factors in document["blocks"].items()
    )
    return Study(blocks, document["top"], document["front"], document["partition"])
