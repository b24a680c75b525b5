"""Reads the package for its documentation and its tests: modules, NumPy-style sections, units in brackets."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import perfmodel
import perfmodel.costs
from perfmodel.costs.registry import FORMULAS, Formula

UNITS = ("s", "B", "FLOP", "B/s", "FLOP/s", "Hz", "W", "J", "USD", "USD/h", "1/s", "s/B", "%", "1")
"""What may stand in brackets at the end of a description."""

_HEADING = re.compile(r"^(?P<title>[A-Z][A-Za-z ]+)\n-{3,}[ \t]*$", re.MULTILINE)
_BRACKETS = re.compile(r"\[([^\[\]]*)\]\.?$")
_NUMBERS = re.compile(r"[-+\d.,\s∞einf]*,[-+\d.,\s∞einf]*")


@dataclass(frozen=True)
class Item:
    """One entry of a section: its names, its type and its description on one line.

    Parameters
    ----------
    names : tuple of str
        Names before the colon; several share one description.
    type : str
        Text after the colon.
    description : str
        The indented text below, joined to one line.
    """

    names: tuple[str, ...]
    type: str
    description: str

    @property
    def unit(self) -> str:
        """Unit in brackets at the end of the description, or nothing; an interval of numbers is no unit."""
        match = _BRACKETS.search(self.description)
        return "" if match is None or _NUMBERS.fullmatch(match.group(1)) else match.group(1)


def public_modules() -> list[str]:
    """Return the name of every module of the package that does not begin with an underscore."""
    walked = pkgutil.walk_packages(perfmodel.__path__, "perfmodel.")
    names = [module.name for module in walked if not any(part.startswith("_") for part in module.name.split("."))]
    return ["perfmodel", *sorted(names)]


def load(name: str) -> ModuleType:
    """Import a module by name."""
    return importlib.import_module(name)


def registered_formulas() -> Mapping[str, Formula]:
    """Import all of perfmodel.costs, where registration is a side effect, and return the complete register."""
    for module in pkgutil.walk_packages(perfmodel.costs.__path__, "perfmodel.costs."):
        load(module.name)
    return FORMULAS


def sections(documented: object) -> dict[str, str]:
    """Split a NumPy-style docstring: section title -> text; what stands before the first one is ``""``."""
    text = inspect.getdoc(documented) or ""
    found = list(_HEADING.finditer(text))
    starts = [match.start() for match in found] + [len(text)]
    parts = {"": text[: starts[0]].strip()}
    for match, end in zip(found, starts[1:], strict=True):
        parts[match["title"]] = text[match.end() : end].strip("\n").rstrip()
    return parts


def items(section: str) -> list[Item]:
    """Read the entries of a Parameters, Returns or Attributes section."""
    entries: list[tuple[str, list[str]]] = []
    for line in section.splitlines():
        if line.strip() and not line.startswith((" ", "\t")):
            entries.append((line, []))
        elif entries:
            entries[-1][1].append(line.strip())
    return [
        Item(
            tuple(part.strip() for part in head.partition(" :")[0].split(",")),
            head.partition(" :")[2].strip(),
            " ".join(" ".join(body).split()),
        )
        for head, body in entries
    ]


def parameters(documented: object, title: str = "Parameters") -> dict[str, Item]:
    """Map every documented name of a section to its entry, in the order of the docstring."""
    return {name: item for item in items(sections(documented).get(title, "")) for name in item.names}


def summary(documented: object) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())
