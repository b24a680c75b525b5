"""Kernel calibrations of one device, each checked against the formula that it names."""

import math
import os
from functools import lru_cache
from typing import Any

from perfmodel.costs.registry import get_formula
from perfmodel.errors import ProfileError, UnknownNameError
from perfmodel.hardware.kernel_files import load_kernel_table
from perfmodel.hardware.kernels import KernelCalibration, KernelTable

FILE_DIGITS = 1e-4
"""Relative tolerance of bounds and allowed values: calibration files keep five significant digits."""


def load_kernels(device: str, architecture: str, profiles: str | os.PathLike[str] | None = None) -> KernelTable:
    """Read every calibration that may serve one device, and refuse those that their formula would not understand.

    Parameters
    ----------
    device, architecture : str
        Device id, and the architecture whose defaults stand in.
    profiles : path, optional
        Directory that is searched first.

    Returns
    -------
    KernelTable
        The user's calibrations before the built-in ones.

    Raises
    ------
    ProfileError
        If a formula, a coefficient or an attribute is unknown or out of bounds; the message names file, kernel and key.

    Examples
    --------
    >>> load_kernels("h100-sxm", "hopper").find("gemm", "bf16", engine="vllm").form
    'gemm_tiled'
    """
    table = load_kernel_table(device, architecture, profiles)
    for row in (*table.measured, *table.defaults):
        check_kernel(row)
    return table


@lru_cache(maxsize=4096)
def check_kernel(row: KernelCalibration) -> None:
    """Check that a calibration's formula exists and takes all of its coefficients and attributes.

    Parameters
    ----------
    row : KernelCalibration
        Calibration; every one is checked once.

    Raises
    ------
    ProfileError
        With file, kernel, key and, for a misspelt name, the nearest one.
    """
    try:
        form = get_formula(row.form)
    except UnknownNameError as error:
        raise ProfileError(f"{_place(row)}: form: {error}") from None
    known = {c.name: c for c in form.coefficients}
    for name, value in row.coefficients.items():
        if name not in known:
            raise ProfileError(f"{_place(row)}: coefficients.{name}: {_unknown(row, 'coefficient', name, known)}")
        low, high = known[name].low, known[name].high
        slack = FILE_DIGITS * max(abs(low), abs(value))
        if not low - slack <= value <= high + slack:
            raise ProfileError(
                f"{_place(row)}: coefficients.{name}: {value:g} is outside {low:g} to {high:g} {known[name].unit}"
                f" ({known[name].meaning})".replace(" 1 (", " (")
            )
    for name, value in row.attributes.items():
        if name not in form.attributes:
            raise ProfileError(f"{_place(row)}: attributes.{name}: {_unknown(row, 'attribute', name, form.attributes)}")
        if not any(_same(value, allowed) for allowed in form.attributes[name]):
            choices = ", ".join(map(repr, form.attributes[name]))
            raise ProfileError(f"{_place(row)}: attributes.{name}: {value!r} is none of {choices}")


def _same(value: Any, allowed: Any) -> bool:
    numbers = all(isinstance(each, float | int) and not isinstance(each, bool) for each in (value, allowed))
    return (
        math.isclose(value, allowed, rel_tol=FILE_DIGITS)
        if numbers
        else type(value) is type(allowed) and value == allowed
    )


def _unknown(row: KernelCalibration, kind: str, name: str, known: Any) -> str:
    return str(UnknownNameError(f"{kind} of {row.form}", name, known))


def _place(row: KernelCalibration) -> str:
    kernel = " ".join(part for part in (row.operator, row.format, row.kv_format, row.kernel) if part)
    return ": ".join(part for part in (row.place, kernel) if part)
