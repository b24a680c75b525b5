"""Calibration files: writing fitted kernels as TOML that `perfmodel.hardware.kernel_files` reads."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from perfmodel.costs.registry import Formula

DIGITS = 5
"""Significant digits of a coefficient: far below any fit error."""


def measured_range(form: Formula, sizes: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Range of the sizes that a formula was fitted to, of those that have a validity range.

    Parameters
    ----------
    form : Formula
        Registered formula.
    sizes : mapping
        Sizes of every case by argument name.

    Returns
    -------
    dict
        Argument -> least and greatest value, in whole numbers: a file keeps five digits of others, and a case at the
        end of its own range would be beyond it.

    Examples
    --------
    >>> from perfmodel.costs.registry import get_formula
    >>> measured_range(get_formula("nccl_collective"), {"nbytes": [512.0, 536870912.0]})
    {'nbytes': (512, 536870912)}
    """
    known = {name: np.asarray(sizes[name], np.float64) for name in form.valid if name in sizes}
    return {name: (int(np.floor(values.min())), int(np.ceil(values.max()))) for name, values in known.items()}


def calibration_toml(kernels: Iterable[Mapping[str, Any]], *, owner: Mapping[str, str]) -> str:
    """Write calibrations as the text of a calibration file.

    Parameters
    ----------
    kernels : iterable of mapping
        operator, form, coefficients and provenance; format, kv_format, version, kernel and attributes where they apply.
    owner : mapping
        device and engine, or architecture: the keys that the whole file shares.

    Returns
    -------
    str
        TOML.

    Examples
    --------
    >>> kernel = {"operator": "gemm", "form": "roofline_time", "coefficients": {"launch_s": 2.5e-6},
    ...           "provenance": {"dataset": "bench", "date": "2026-01-01", "points": 60, "fit_mape": 5.0}}
    >>> print(calibration_toml([kernel], owner={"device": "x1", "engine": "mine"}))
    schema_version = 1
    device = "x1"
    engine = "mine"
    <BLANKLINE>
    [[kernel]]
    operator = "gemm"
    form = "roofline_time"
    coefficients = { launch_s = 2.5e-06 }
    <BLANKLINE>
    [kernel.provenance]
    dataset = "bench"
    date = "2026-01-01"
    points = 60
    fit_mape = 5.0
    <BLANKLINE>
    """
    lines = ["schema_version = 1", *(f"{key} = {_value(value)}" for key, value in owner.items())]
    for kernel in kernels:
        lines += ["", "[[kernel]]"]
        for key in ("operator", "engine", "format", "kv_format", "version", "kernel", "form"):
            if kernel.get(key):
                lines.append(f"{key} = {_value(kernel[key])}")
        if kernel.get("host_timed"):
            lines.append("host_timed = true")
        if kernel.get("attributes"):
            lines.append(f"attributes = {_inline(kernel['attributes'])}")
        lines.append(f"coefficients = {_inline(kernel['coefficients'])}")
        lines += ["", "[kernel.provenance]"]
        lines += [f"{key} = {_value(value)}" for key, value in kernel["provenance"].items() if value is not None]
    return "\n".join(lines) + "\n"


def _inline(values: Mapping[str, Any]) -> str:
    return "{ " + ", ".join(f"{key} = {_value(value)}" for key, value in values.items()) + " }"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(float(f"{value:.{DIGITS}g}"))
    if isinstance(value, Mapping):
        return _inline(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(str(value), ensure_ascii=False)
