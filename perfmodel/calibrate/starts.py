"""Starting points of operator fits: formulas, attributes and prior coefficients of the kernels that are known."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import as_floats
from perfmodel.calibrate.collective_cases import ELEMENT_BYTES
from perfmodel.calibrate.cross_validation import cross_validate
from perfmodel.calibrate.fit import fit_form
from perfmodel.calibrate.fit_errors import Errors
from perfmodel.costs.registry import Formula, get_formula
from perfmodel.errors import CalibrationError
from perfmodel.hardware.kernels import KernelCalibration, KernelTable

MOST_KERNELS = 24
"""Kernels that are tried, the nearest first."""

FINALISTS = 4
"""Kernels that are compared on held-out shapes: the nearest, and those that fit best otherwise."""

BETTER = 0.05
"""Part of its held-out error by which another kernel must beat the nearest one."""


@dataclass(frozen=True, slots=True)
class Start:
    """A formula with the attributes and the prior coefficients of a kernel that is known, or of none.

    Parameters
    ----------
    form : Formula
        Registered formula.
    attributes : mapping
        Discrete keywords of the formula.
    coefficients : mapping
        Priors in SI units; the formula's defaults where there are none.
    """

    form: Formula
    attributes: Mapping[str, Any]
    coefficients: Mapping[str, float]

    def fixed(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Keywords that are not fitted.

        Parameters
        ----------
        numbers : mapping
            Hardware and format numbers by argument name.

        Returns
        -------
        dict
            Those that the formula takes, and the attributes.
        """
        wanted = inspect.signature(self.form.function).parameters
        return {name: value for name, value in {**numbers, **self.attributes}.items() if name in wanted}

    def seconds(self, sizes: Mapping[str, Any], numbers: Mapping[str, Any]) -> npt.NDArray[np.float64]:
        """Times before any fit.

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
        offered = {**self.form.defaults(), **self.coefficients, **self.fixed(numbers)}
        return as_floats(self.form.function(**sizes, **offered))


def best_start(
    tried: Sequence[Start],
    sizes: Mapping[str, Any],
    numbers: Mapping[str, Any],
    measured: npt.NDArray[np.float64],
    shape: Sequence[npt.NDArray[np.float64]],
    *,
    seed: int = 0,
) -> tuple[Start, Errors]:
    """Choose the kernel whose fit predicts held-out shapes best; the nearest one unless another is clearly better.

    Parameters
    ----------
    tried : sequence of Start
        Kernels, the nearest first.
    sizes : mapping
        Sizes of every case by argument name.
    numbers : mapping
        Hardware and format numbers by argument name.
    measured : numpy.ndarray
        Measured times [s].
    shape : sequence of numpy.ndarray
        Columns that make a shape.
    seed : int
        Seed of the folds.

    Returns
    -------
    tuple
        The kernel, and its errors on shapes that the fit had not seen.
    """
    quick: dict[str, Any] = {"seed": seed, "starts": 1, "max_points": 400}
    fits = [
        fit_form(s.form, sizes, s.fixed(numbers), measured, priors=s.coefficients, max_evaluations=16, **quick).mape
        for s in tried
    ]
    order = sorted(range(1, len(tried)), key=fits.__getitem__)
    chosen: tuple[Start, Errors] | None = None
    for start in (tried[0], *(tried[i] for i in order[: FINALISTS - 1])):
        errors = cross_validate(
            start.form, sizes, start.fixed(numbers), measured, shape,
            folds=3, priors=start.coefficients, max_evaluations=25, **quick,
        )  # fmt: skip
        if chosen is None or errors.mape < (1.0 - BETTER) * chosen[1].mape:
            chosen = start, errors
    if chosen is None:
        raise CalibrationError("no kernel to start from")
    return chosen


def known_kernels(
    group: Mapping[str, str],
    format: str,
    engine: str,
    kernels: KernelTable,
    elsewhere: Iterable[KernelCalibration],
    family_form: str,
) -> list[Start]:
    """Kernels to start from, the nearest first; all have one formula.

    Parameters
    ----------
    group : mapping
        op, dtype, kv_dtype, kernel, mode and version of the cases.
    format : str
        Operand format.
    engine : str
        Software that was timed.
    kernels : KernelTable
        What is known of the device and its architecture.
    elsewhere : iterable of KernelCalibration
        Kernels of other devices: the same software may run here.
    family_form : str
        Formula where nothing is known.

    Returns
    -------
    list of Start
        At most `MOST_KERNELS`; one without coefficients where nothing is known.
    """
    op, mode = group["op"], group["mode"]
    exchange = op in ("dispatch", "combine")
    nearest = kernels.find(
        op,
        "" if exchange else format,
        kv_format=group["kv_dtype"],
        engine=engine,
        kernel=group["kernel"] or mode,
    )
    form = "deepep_low_latency" if exchange and mode == "low_latency" else family_form
    if nearest is not None and not (exchange and nearest.form != form):
        form = nearest.form
    else:
        nearest = None
    start = Start(
        get_formula(form),
        dict(nearest.attributes) if nearest else {"element_bytes": ELEMENT_BYTES[op]} if exchange else {},
        dict(nearest.coefficients) if nearest else {},
    )
    if exchange:  # what else is known differs in the bytes on the wire, and those are not the fit's to choose
        return [start]
    found = [start]
    if "quantise" in start.form.attributes:  # engines quantise the activations inside, bare kernels do not
        turned = not start.attributes.get("quantise", False)
        if format not in ("bf16", "fp16"):
            found.append(Start(start.form, {**start.attributes, "quantise": turned}, start.coefficients))
    for row in (*kernels.measured, *kernels.defaults, *elsewhere):
        if row.operator == op and row.form == form and all(row.attributes != kernel.attributes for kernel in found):
            found.append(Start(start.form, dict(row.attributes), dict(row.coefficients)))
    return found[:MOST_KERNELS]
