"""The register of formulas: every closed form by its own name, with source, equation and validity range."""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

import numpy as np

from perfmodel.arrays import Booleans, as_floats
from perfmodel.errors import UnknownNameError

F = TypeVar("F", bound=Callable[..., Any])

QUANTITIES = ("time", "work", "bytes", "fraction", "count", "rate", "price", "energy")


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One calibrated number of a formula: what it means and where it may lie.

    Parameters
    ----------
    name : str
        Keyword of the formula that takes it.
    unit : str
        SI unit, or "1" for a pure number.
    default : float
        Prior of the fit and value where nothing was calibrated.
    low, high : float
        Bounds of the fit.
    meaning : str
        One line for the documentation.
    """

    name: str
    unit: str
    default: float
    low: float
    high: float
    meaning: str


@dataclass(frozen=True, slots=True)
class Formula:
    """A registered closed form.

    Parameters
    ----------
    name : str
        The name it is registered under.
    quantity : str
        What it computes, one of `QUANTITIES`.
    equation : str
        LaTeX, shown in the formula reference.
    source : str
        Where the formula comes from.
    function : callable
        The pure function.
    valid : mapping
        Validity range of the arguments that have one.
    coefficients : tuple of Coefficient
        Calibrated numbers, in the order in which they are fitted.
    attributes : mapping
        Discrete kernel attributes (keyword -> allowed values), chosen and not fitted.
    """

    name: str
    quantity: str
    equation: str
    source: str
    function: Callable[..., Any]
    valid: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    coefficients: tuple[Coefficient, ...] = ()
    attributes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def defaults(self) -> dict[str, float]:
        """Return the default of every coefficient.

        Returns
        -------
        dict
            Coefficient name -> default value in its SI unit.
        """
        return {c.name: c.default for c in self.coefficients}

    def out_of_range(
        self, arguments: Mapping[str, Any], measured: Mapping[str, tuple[float, float]] | None = None
    ) -> dict[str, Booleans]:
        """Find the arguments that leave their range, and where.

        Parameters
        ----------
        arguments : mapping
            Arguments of the formula by name; those without a range are ignored.
        measured : mapping, optional
            Ranges over which its coefficients were fitted, which take the place of the formula's own.

        Returns
        -------
        dict
            Name -> True where the argument is outside, only those that are outside somewhere.

        Examples
        --------
        >>> found = get_formula("gemm_tiled").out_of_range({"tokens": [1, 1e6], "in_features": 4096})
        >>> {name: where.tolist() for name, where in found.items()}
        {'tokens': [False, True]}
        """
        found: dict[str, Booleans] = {}
        for name, (low, high) in {**self.valid, **(measured or {})}.items():
            if arguments.get(name) is None:
                continue
            value = as_floats(arguments[name])
            outside = ~((value >= low) & (value <= high))
            if np.any(outside):
                found[name] = outside
        return found


FORMULAS: dict[str, Formula] = {}
"""Every registered formula by name."""


def formula(
    *,
    name: str,
    quantity: str,
    equation: str,
    source: str,
    valid: Mapping[str, tuple[float, float]] | None = None,
    coefficients: tuple[Coefficient, ...] = (),
    attributes: Mapping[str, tuple[Any, ...]] | None = None,
) -> Callable[[F], F]:
    """Register a closed form under its own name.

    Parameters
    ----------
    name : str
        Unique name.
    quantity : str
        One of `QUANTITIES`.
    equation : str
        LaTeX of the formula.
    source : str
        Reference; a formula without one cannot be registered.
    valid : mapping, optional
        Argument -> (low, high) for which the formula holds.
    coefficients : tuple of Coefficient, optional
        Calibrated numbers it takes as keywords.
    attributes : mapping, optional
        Discrete keywords and their allowed values.

    Returns
    -------
    callable
        A decorator that returns the function unchanged.

    Raises
    ------
    ValueError
        If the name is taken, the quantity unknown or the source missing.
    """

    def register(function: F) -> F:
        if name in FORMULAS:
            raise ValueError(f"formula {name!r} is registered twice")
        if quantity not in QUANTITIES:
            raise ValueError(f"formula {name!r}: quantity {quantity!r} is not one of {QUANTITIES}")
        if not source.strip():
            raise ValueError(f"formula {name!r} has no source")
        FORMULAS[name] = Formula(
            name, quantity, equation, source, function, valid or {}, coefficients, attributes or {}
        )
        return function

    return register


def get_formula(name: str) -> Formula:
    """Look a formula up by name.

    Parameters
    ----------
    name : str
        Registered name.

    Returns
    -------
    Formula
        The registered formula.

    Raises
    ------
    UnknownNameError
        If no formula has that name.
    """
    if name not in FORMULAS:
        all_formulas()
    try:
        return FORMULAS[name]
    except KeyError:
        raise UnknownNameError("formula", name, FORMULAS) from None


def all_formulas() -> Mapping[str, Formula]:
    """Import every module of formulas, so that the register is complete.

    Returns
    -------
    mapping
        Every registered formula by name.

    Examples
    --------
    >>> "roofline_time" in all_formulas()
    True
    """
    package = import_module("perfmodel.costs")
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"perfmodel.costs.{module.name}")
    return FORMULAS
