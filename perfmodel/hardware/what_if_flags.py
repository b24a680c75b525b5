"""What-if flags: changes of the hardware as people write them, "memory_bandwidth=x2" or "memory_capacity=192GB"."""

import re
from collections.abc import Iterable

from perfmodel.errors import PlanError, UnitError
from perfmodel.hardware.fabric import System
from perfmodel.hardware.what_if import get_number, scaled, value_of
from perfmodel.units import EXAMPLES, parse

_FACTOR = re.compile(r"[x×*]\s*(\d+\.?\d*([eE][+-]?\d+)?|\.\d+)")


def factor_of(system: System, name: str, text: str | float) -> float:
    """Read what a number should become, as a factor on what it is.

    Parameters
    ----------
    system : System
        System whose number is meant.
    name : str
        One of `NUMBERS`.
    text : str or number
        A factor ("x2", or a number) or a value with its unit ("6.7 TB/s").

    Returns
    -------
    float
        New value over old [1].

    Raises
    ------
    PlanError
        If it is neither, or the system has no such number.

    Examples
    --------
    >>> from perfmodel.hardware.catalog import load_system
    >>> factor_of(load_system("hgx-h100"), "memory_bandwidth", "6.7TB/s")
    2.0
    """
    kind, value = read_change(name, text)
    return value if kind == "factor" else value / value_of(system, name)


def read_change(name: str, text: str | float) -> tuple[str, float]:
    """Read a change without a system: a factor, or a value in SI units.

    Parameters
    ----------
    name : str
        One of `NUMBERS`.
    text : str or number
        A factor ("x2", or a number where the number is no count) or a value with its unit.

    Returns
    -------
    tuple of str and float
        "factor" or "value", and which.

    Raises
    ------
    PlanError
        If the name is unknown or the text is neither.

    Examples
    --------
    >>> read_change("scale_up_devices", 72), read_change("peak_flops", "x1.5")
    (('value', 72.0), ('factor', 1.5))
    """
    number = get_number(name)
    how = "a factor like x2" + (f" or a value like {EXAMPLES[number.dimension]}" if name != "peak_flops" else "")
    match = _FACTOR.fullmatch(text.strip()) if isinstance(text, str) else None
    if match:
        kind, value = "factor", float(match.group(1))
    elif name == "peak_flops" or (not isinstance(text, str) and number.dimension != "count"):
        raise PlanError(f"{name}: {text!r} is no change; write {how}")
    else:
        try:
            kind, value = "value", parse(text, number.dimension)
        except UnitError as error:
            raise PlanError(f"{name}: {error}, or a factor like x2") from None
    if not value > 0:
        raise PlanError(f"{name}: {text!r} must be above zero; write {how}")
    return kind, value


def changed(system: System, flags: Iterable[str]) -> System:
    """Apply changes as they are written on the command line.

    Parameters
    ----------
    system : System
        The system as it is.
    flags : iterable of str
        For instance "memory_bandwidth=x2" or "memory_capacity=192GB".

    Returns
    -------
    System
        The system that would be.

    Raises
    ------
    PlanError
        If a flag cannot be read, names a number twice, or names one that the system has not.

    Examples
    --------
    >>> from perfmodel.hardware.catalog import load_system
    >>> changed(load_system("hgx-h100"), ["scale_up_devices=x2"]).scale_up_devices
    16
    """
    factors: dict[str, float] = {}
    for flag in flags:
        name, sign, text = flag.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not text.strip():
            raise PlanError(f"{flag!r} is no change; write number=factor, for instance memory_bandwidth=x2")
        if name in factors:
            raise PlanError(f"{name} is changed twice")
        factors[name] = factor_of(system, name, text)
    return scaled(system, factors)
