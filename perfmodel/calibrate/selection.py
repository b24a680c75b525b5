"""Kernels from scratch: attributes, then the coefficients that a fit needs, both from the rows that are given."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import as_floats
from perfmodel.calibrate.collective_cases import ELEMENT_BYTES, collective_candidates
from perfmodel.calibrate.families import FAMILY_OF
from perfmodel.calibrate.fit import FitResult, fit_form
from perfmodel.calibrate.starts import Start, best_start
from perfmodel.costs.registry import Formula, get_formula
from perfmodel.hardware.kernels import KernelCalibration

NEEDED = 0.002
"""Error that leaving coefficients at their defaults may add in all, on the rows of the fit, before the others are
fitted again [1]. On shapes that were held out this costs 0.04 points on average, and spares one coefficient in eight of
those that a limit of 0.0003 keeps."""

ALWAYS = ("launch_s", "compute_efficiency", "mma_efficiency", "flops_efficiency", "memory_efficiency", "efficiency")
"""Coefficients that are never left: the limits of very small and very large cases, which are few in a mean error."""

SHARED_BUS_DEVICES = frozenset({"l40s", "rtx-pro-6000"})
"""Measured devices that hang on the switches of a host's bus."""


@dataclass(frozen=True, slots=True)
class Selected:
    """A kernel that was fitted from scratch.

    Parameters
    ----------
    start : Start
        Formula and attributes.
    result : FitResult
        All coefficients, and the errors on the rows of the fit.
    needed : tuple of str
        Coefficients that were fitted; the others are at the formula's defaults.
    """

    start: Start
    result: FitResult
    needed: tuple[str, ...]

    def seconds(self, sizes: Mapping[str, Any], numbers: Mapping[str, Any]) -> npt.NDArray[np.float64]:
        """Times of cases.

        Parameters
        ----------
        sizes : mapping
            Sizes of every case by argument name.
        numbers : mapping
            Hardware and format numbers by argument name.

        Returns
        -------
        numpy.ndarray
            One time per case [s].
        """
        offered = {**self.result.coefficients, **self.start.fixed(numbers)}
        return as_floats(self.start.form.function(**sizes, **offered))


def menu(group: Mapping[str, str], kernels: Iterable[KernelCalibration]) -> list[Start]:
    """Formulas and attributes that a kernel may have, without coefficients of anybody.

    Parameters
    ----------
    group : mapping
        op, hardware, engine, mode, dtype and kv_dtype of the cases.
    kernels : iterable of KernelCalibration
        Known kernels; the attributes of those that have these formats are the ones that exist.

    Returns
    -------
    list of Start
        The commonest first.
    """
    op = group["op"]
    if op in ELEMENT_BYTES:
        return [Start(get_formula(f"deepep_{group['mode']}"), {"element_bytes": ELEMENT_BYTES[op]}, {})]
    form = FAMILY_OF[op].form
    if op in FAMILY_OF["all_reduce"].operators:
        form = form if group["engine"] == "nccl" else "custom_all_reduce"
        shared = group["hardware"] in SHARED_BUS_DEVICES
        return [Start(get_formula(form), {**a, "op": op}, {}) for a in collective_candidates(form, shared_bus=shared)]
    alike = [kernel for kernel in kernels if kernel.operator == op and kernel.form == form]
    formats = group["dtype"] or "bf16", group["kv_dtype"]
    alike = [kernel for kernel in alike if (kernel.format, kernel.kv_format) == formats] or alike
    found: dict[tuple[tuple[str, Any], ...], int] = {}
    for kernel in alike:
        key = tuple(sorted(kernel.attributes.items()))
        found[key] = found.get(key, 0) + 1
    if not found:
        return [Start(get_formula(form), {}, {})]
    return [Start(get_formula(form), dict(key), {}) for key in sorted(found, key=lambda key: -found[key])]


def fit_selected(
    tried: Sequence[Start],
    sizes: Mapping[str, Any],
    numbers: Mapping[str, Any],
    measured: npt.NDArray[np.float64],
    shape: Sequence[npt.NDArray[np.float64]],
    *,
    seed: int = 0,
) -> Selected:
    """Choose a kernel's attributes by cross-validation, fit it, and fit again the coefficients that it needs.

    Parameters
    ----------
    tried : sequence of Start
        Attributes to choose from.
    sizes : mapping
        Sizes of every case by argument name.
    numbers : mapping
        Hardware and format numbers by argument name.
    measured : numpy.ndarray
        Measured times [s].
    shape : sequence of numpy.ndarray
        Columns that make a shape.
    seed : int
        Seed of the folds and fits.

    Returns
    -------
    Selected
        The kernel; nothing but these rows and the registered defaults went into it.
    """
    # No launch takes longer than the fastest case: with the host in the loop it may be a hundred times the default.
    tried = [replace(start, coefficients={**start.coefficients, **_floor(start.form, measured)}) for start in tried]
    start = tried[0]
    if len(tried) > 1:
        start, _ = best_start(tried, sizes, numbers, measured, shape, seed=seed)
    fixed = start.fixed(numbers)
    quick: dict[str, Any] = {"seed": seed, "starts": 1, "max_evaluations": 40}
    result = fit_form(start.form, sizes, fixed, measured, priors=start.coefficients, **quick)
    needed = _needed(start, sizes, fixed, measured, result)
    priors = {name: value for name, value in start.coefficients.items() if name in needed}
    result = fit_form(start.form, sizes, fixed, measured, free=needed, priors=priors, **quick)
    return Selected(start, result, needed)


def _floor(form: Formula, measured: npt.NDArray[np.float64]) -> dict[str, float]:
    """Prior of the launch, where the fastest case is far from the formula's default."""
    fastest = 0.8 * float(np.min(measured))
    default = form.defaults().get("launch_s", fastest)
    return {"launch_s": fastest} if not default / 3.0 < fastest < 3.0 * default else {}


def _needed(
    start: Start,
    sizes: Mapping[str, Any],
    fixed: Mapping[str, Any],
    measured: npt.NDArray[np.float64],
    result: FitResult,
) -> tuple[str, ...]:
    """Coefficients without whose fit the error grows: the least important ones go back to their defaults first."""
    defaults = start.form.defaults()
    kept = {name: value for name, value in result.coefficients.items() if name not in fixed}

    def error(coefficients: Mapping[str, float]) -> float:
        predicted = as_floats(start.form.function(**sizes, **fixed, **coefficients))
        return float(np.mean(np.abs(predicted / measured - 1.0)))

    limit = error(kept) + NEEDED
    alone = {name: error({**kept, name: defaults[name]}) for name in kept if name not in ALWAYS}
    needed = set(kept)
    for name in sorted(alone, key=alone.__getitem__):
        trial = {**kept, name: defaults[name]}
        if error(trial) <= limit:
            kept = trial
            needed.discard(name)
    return tuple(name for name in result.coefficients if name in needed)
