"""The nomenclature page against the code: every argument of a registered formula is in it, with its unit."""

import inspect
import re
from pathlib import Path

import pytest

from docstrings import UNITS, parameters, registered_formulas
from reference_pages import coefficients_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "nomenclature.md"
INCLUDED = "```{include} generated/coefficients.md"


def rows(text):
    """Name, unit and meaning of every table row that names something in code."""
    head = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if {"name", "unit", "meaning"} <= set(cells):
            head = cells
        elif not cells:
            head = []
        elif head:
            row = dict(zip(head, cells, strict=True))
            yield from ((name, row["unit"], row["meaning"]) for name in re.findall(r"`(\w+)`", row["name"]))


def known_names():
    """Name -> units given for it, on the page itself and in the generated part that it includes."""
    text = PAGE.read_text(encoding="utf-8").replace(INCLUDED, coefficients_page(registered_formulas()))
    names = {}
    for name, unit, _ in rows(text):
        names.setdefault(name, []).append(unit)
    return names


def test_the_generated_part_is_included():
    assert INCLUDED in PAGE.read_text(encoding="utf-8")


def test_every_name_written_by_hand_stands_once_with_a_known_unit_and_a_meaning():
    written = list(rows(PAGE.read_text(encoding="utf-8")))
    names = [name for name, _, _ in written]
    assert sorted({name for name in names if names.count(name) > 1}) == []
    assert [(name, unit) for name, unit, meaning in written if unit not in (*UNITS, "") or not meaning] == []


@pytest.mark.parametrize("name", sorted(registered_formulas()))
def test_arguments_are_in_the_nomenclature_with_their_unit(name):
    formula, known = registered_formulas()[name], known_names()
    documented = parameters(formula.function)
    faults = []
    for argument in inspect.signature(formula.function).parameters:
        unit = documented[argument].unit if argument in documented else ""
        if argument not in known:
            faults.append(f"`{argument}` [{unit or '1'}] is not in docs/nomenclature.md")
        elif (unit or "1") not in known[argument]:
            faults.append(f"`{argument}` is in [{unit or '1'}], the nomenclature says {known[argument]}")
    assert not faults, f"\n{name}: " + f"\n{name}: ".join(faults)


def test_a_coefficient_of_one_name_has_one_unit():
    units = {}
    for formula in registered_formulas().values():
        for c in formula.coefficients:
            units.setdefault(c.name, set()).add(c.unit)
    assert {name: found for name, found in units.items() if len(found) > 1} == {}
