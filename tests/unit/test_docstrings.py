"""Every public docstring is read: sections match signatures, units are known ones, formulas cite a source."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_args

import pytest

import docstrings
from docstrings import UNITS, Item, items, load, parameters, public_modules, registered_formulas, sections

UNIT_SECTIONS = ("Parameters", "Returns", "Yields", "Attributes", "Other Parameters")
NOTHING = (None, "None", "NoReturn", "Never", inspect.Signature.empty)


def is_sentence(line: str) -> bool:
    """Whether a line is one sentence that ends with a period."""
    return line.endswith(".") and not re.search(r"[a-z)\"'`][.!?]\s+[A-Z]", line)


def public_members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Public functions and classes that a module defines, and the public methods and properties of its classes."""
    for name, member in vars(module).items():
        if name.startswith("_") or getattr(member, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(member):
            yield name, member
        elif inspect.isclass(member):
            yield name, member
            for key, attribute in vars(member).items():
                inner = getattr(attribute, "__func__", attribute)  # class and static methods
                is_own = inspect.isfunction(inner) and inner.__qualname__.startswith(f"{member.__qualname__}.")
                if not key.startswith("_") and (is_own or isinstance(attribute, property)):
                    yield f"{name}.{key}", attribute


def signature_names(function: Any, *, bound: bool) -> list[str]:
    """Names of the parameters that must be documented: all but self, ``*args`` and ``**kwargs``."""
    found = list(inspect.signature(function).parameters.values())[1 if bound else 0 :]
    return [p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def described_by_help(function: Any) -> bool:
    """Whether it is a command, whose parameters are described where the command line shows it."""
    extras = [x for p in inspect.signature(function).parameters.values() for x in get_args(p.annotation)[1:]]
    return any(type(extra).__module__.startswith("typer") for extra in extras)


def compare_names(documented: list[str], wanted: list[str], section: str) -> Iterator[str]:
    """Compare the names of a section with the signature's, order included."""
    documented = [name for name in documented if not name.startswith("*")]
    if documented == wanted:
        return
    missing = [name for name in wanted if name not in documented]
    extra = [name for name in documented if name not in wanted]
    if missing:
        yield f"{section} lacks {', '.join(missing)}"
    if extra:
        yield f"{section} has {', '.join(extra)}, which the signature has not"
    if not missing and not extra:
        yield f"{section} stand in another order than the signature: {', '.join(wanted)}"


def function_faults(function: Any, *, bound: bool = False) -> Iterator[str]:
    """What is wrong with the docstring of a function or a method."""
    parts = sections(function)
    if not described_by_help(function):
        yield from compare_names(list(parameters(function)), signature_names(function, bound=bound), "Parameters")
        # A method without arguments reads like a property: its sentence says what it returns.
        is_query = bound and not signature_names(function, bound=bound)
        returns = inspect.signature(function).return_annotation
        if returns not in NOTHING and not is_query and not {"Returns", "Yields"} & set(parts):
            yield "has no Returns section"


def field_names(cls: Any) -> list[str] | None:
    """Names that a class's docstring owes its reader; None where the class is built by nobody's hand."""
    if dataclasses.is_dataclass(cls):
        return [f.name for f in dataclasses.fields(cls) if f.init and not f.name.startswith("_")]
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return list(cls._fields)
    own = vars(cls).get("__init__")
    return signature_names(own, bound=True) if inspect.isfunction(own) else None


def class_faults(cls: Any) -> Iterator[str]:
    """What is wrong with the docstring of a class."""
    names = list(parameters(cls)) or list(parameters(cls, "Attributes"))
    schema = getattr(cls, "model_fields", None)  # pydantic: fields may describe themselves
    if schema is not None:
        if names:
            yield from compare_names(names, list(schema), "Parameters")
        return
    wanted = field_names(cls)
    if wanted is not None:
        yield from compare_names(names, wanted, "Parameters")


def unit_faults(documented: object) -> Iterator[str]:
    """Units in brackets that are none."""
    parts = sections(documented)
    for title in UNIT_SECTIONS:
        for item in items(parts.get(title, "")):
            if item.unit and item.unit not in UNITS:
                yield f"{title}, {', '.join(item.names)}: [{item.unit}] is not one of {', '.join(UNITS)}"


def member_faults(member: Any) -> Iterator[str]:
    """What is wrong with the docstring of one public thing."""
    text = inspect.getdoc(member)
    if not text or (inspect.isclass(member) and not vars(member).get("__doc__")):
        yield "has no docstring"
        return
    if not text.partition("\n\n")[0].rstrip().endswith((".", "?", ":")):
        yield f"first paragraph does not end with a period: {text.splitlines()[0]!r}"
    if inspect.isclass(member):
        yield from class_faults(member)
    elif not isinstance(member, property):
        inner = getattr(member, "__func__", member)
        is_method = "." in inner.__qualname__.rpartition("<locals>.")[2] and not isinstance(member, staticmethod)
        yield from function_faults(inner, bound=is_method)
    yield from unit_faults(member)


@pytest.mark.parametrize("name", public_modules())
def test_docstrings(name):
    module = load(name)
    faults = []
    first = (ast.get_docstring(ast.parse(inspect.getsource(module))) or "").partition("\n")[0]
    if not first:
        faults.append(f"{name}: the module has no docstring")
    elif not is_sentence(first):
        faults.append(f"{name}: the first line is not one sentence that ends with a period: {first!r}")
    for member_name, member in public_members(module):
        faults += [f"{name}.{member_name}: {fault}" for fault in member_faults(member)]
    assert not faults, "\n" + "\n".join(faults)


def formula_faults(function: Any, coefficients: tuple[Any, ...]) -> Iterator[str]:
    """What the docstring of a registered formula owes beyond that of any function."""
    parts = sections(function)
    if ".. math::" not in (inspect.getdoc(function) or ""):
        yield "shows no equation (.. math::)"
    if not parts.get("References", "").strip():
        yield "has no References"
    if ">>>" not in parts.get("Examples", ""):
        yield "has no Examples with >>>"
    if not items(parts.get("Returns", "")):
        yield "Returns describes nothing"
    signature = inspect.signature(function).parameters
    documented = parameters(function)
    for coefficient in coefficients:
        argument = signature.get(coefficient.name)
        if argument is None or argument.kind is not argument.KEYWORD_ONLY:
            yield f"coefficient {coefficient.name} is no keyword-only argument"
            continue
        if not coefficient.low <= coefficient.default <= coefficient.high:
            yield f"coefficient {coefficient.name}: default {coefficient.default} lies outside its bounds"
        if coefficient.unit not in UNITS:
            yield f"coefficient {coefficient.name}: unit {coefficient.unit!r} is not one of {', '.join(UNITS)}"
        shown = documented[coefficient.name].unit if coefficient.name in documented else ""
        if (shown or "1") != coefficient.unit:
            yield f"coefficient {coefficient.name} is in [{coefficient.unit}], its docstring says [{shown}]"


@pytest.mark.parametrize("name", sorted(registered_formulas()))
def test_formula_docstrings(name):
    formula = registered_formulas()[name]
    faults = list(formula_faults(formula.function, formula.coefficients))
    arguments = inspect.signature(formula.function).parameters
    named = (*formula.valid, *formula.attributes)
    faults += [f"{x} has a range or values but is no argument" for x in named if x not in arguments]
    assert not faults, "\n" + "\n".join(f"{name}: {fault}" for fault in faults)


# The reader itself must be able to find fault.


def good(tokens: float, *, rate: float) -> float:
    """Do.

    Parameters
    ----------
    tokens : float
        Tokens.
    rate : float
        Rate [B/s].

    Returns
    -------
    float
        Time [s].
    """
    return tokens / rate


def swapped(tokens: float, *, rate: float, **other: float) -> float:
    """Do.

    Parameters
    ----------
    rate, tokens : float
        Rate [GB/s]
    """
    return tokens / rate


def test_a_good_docstring_has_no_fault():
    assert list(member_faults(good)) == []


def test_faults_are_found():
    faults = list(member_faults(swapped))
    assert any("another order" in fault for fault in faults)
    assert any("no Returns" in fault for fault in faults)
    assert any("[GB/s] is not one of" in fault for fault in faults)
    assert list(member_faults(lambda x: x)) == ["has no docstring"]


def test_a_dataclass_owes_its_fields():
    @dataclasses.dataclass
    class Pair:
        """A pair.

        Parameters
        ----------
        left : float
            One.
        """

        left: float
        right: float

    assert list(member_faults(Pair)) == ["Parameters lacks right"]


def test_a_formula_owes_references_example_and_equation():
    assert len(list(formula_faults(good, ()))) == 3


@pytest.mark.parametrize(
    ("line", "good_line"),
    [
        ("Counts bytes.", True),
        ("Counts bytes", False),
        ("Counts bytes. Then times.", False),
        ("B/s of 3.35 TB/s.", True),
    ],
)
def test_one_sentence(line, good_line):
    assert is_sentence(line) is good_line


def test_units_are_read_from_the_end_of_a_description():
    assert Item(("x",), "float", "Dense peak [FLOP/s].").unit == "FLOP/s"
    assert Item(("x",), "float", "A share in [0, 1].").unit == ""
    assert Item(("x",), "float", "A count [1].").unit == "1"


def test_sections_of_a_docstring():
    assert list(docstrings.sections(good)) == ["", "Parameters", "Returns"]
    assert [item.unit for item in items(sections(good)["Returns"])] == ["s"]
