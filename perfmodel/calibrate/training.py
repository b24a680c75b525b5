"""Calibrating a training stack: one or two of its constants from measured optimizer steps [s]."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import least_squares

from perfmodel.errors import CalibrationError
from perfmodel.hardware.catalog import load_device
from perfmodel.hardware.stack import Stack

CONSTANTS: Mapping[str, tuple[str, float, float, float]] = {
    "clock_scale": ("clock_scale", 0.7, 3.0, 0.15),
    "host_kernel_s": ("host_kernel", 0.0, 2e-4, 2e-5),
    "kernel_gap_s": ("kernel_gap", 0.0, 1e-4, 1e-5),
    "pointwise_efficiency": ("pointwise_efficiency", 0.1, 1.0, 0.1),
}
"""Constants that step times can tell: key in a stack file, lowest and highest value, and how far stacks lie apart."""

NOISE = 0.03
"""Relative scatter of measured steps: the same plan in two publications differs by 2 to 6 %."""

MOST = 2
"""More constants than that fit better and predict worse (training runs of other models and plans)."""


@dataclass(frozen=True, slots=True)
class FittedStack:
    """A stack whose constants were fitted.

    Parameters
    ----------
    stack : Stack
        The stack with the fitted values.
    fitted : tuple of str
        Which constants.
    steps : int
        Measured steps.
    before_mape, after_mape : float
        Mean absolute error before and after, in percent.
    """

    stack: Stack
    fitted: tuple[str, ...]
    steps: int
    before_mape: float
    after_mape: float


def _with(base: Stack, names: Sequence[str], values: npt.NDArray[np.float64]) -> Stack:
    changes: dict[str, Any] = dict(zip(names, map(float, values), strict=True))
    if "clock_scale" in changes:
        changes["clock_by_architecture"] = {}  # the measured machine decides
    return dataclasses.replace(base, **changes)


def fit_stack(
    cases: pd.DataFrame,
    base: Stack,
    predict: Callable[[pd.DataFrame, Stack], pd.DataFrame],
    constants: Sequence[str] | None = None,
) -> FittedStack:
    """Fit constants of a stack to measured steps.

    One step gives `clock_scale`; two that differ in their share of small kernels (in the microbatch, say) give
    `host_kernel_s` as well. What steps do not tell apart stays near the stack: squared errors of steps over their
    scatter and squared changes of constants over the spread among stacks are made small together.

    Parameters
    ----------
    cases : pandas.DataFrame
        Training cases with measured_step_s.
    base : Stack
        Stack to start from; what is not fitted stays.
    predict : callable
        Cases and a stack -> a table with id, step_s and reason, as `perfmodel.validate.training` makes it.
    constants : sequence of str, optional
        Some of `CONSTANTS`, at most `MOST` and at most one per step.

    Returns
    -------
    FittedStack
        The stack, and errors before and after.

    Raises
    ------
    CalibrationError
        If a constant is unknown, there are more of them than steps, or a step cannot be predicted.
    """
    measured = cases["measured_step_s"].to_numpy(dtype=np.float64)
    if not len(measured) or not np.all(np.isfinite(measured) & (measured > 0)):
        raise CalibrationError("measured_step_s must be a time above zero in every row")
    names = tuple(constants or ("clock_scale", "host_kernel_s")[: min(len(measured), MOST)])
    for name in names:
        if name not in CONSTANTS:
            raise CalibrationError(f"{name!r} cannot be fitted to step times; choose from {', '.join(CONSTANTS)}")
    most = min(MOST, len(measured))
    if len(names) > most:
        raise CalibrationError(f"{len(measured)} steps give at most {most} constants, not {len(names)}")

    def predicted(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        stack = _with(base, names, values)
        table = predict(cases, stack)
        lost = table[table["step_s"].isna()]
        if len(lost):
            raise CalibrationError(f"{lost['id'].iloc[0]} cannot be predicted: {lost['reason'].iloc[0]}")
        return np.asarray(table["step_s"].to_numpy(dtype=np.float64))

    low, high, scale = (np.array([CONSTANTS[name][i] for name in names], dtype=np.float64) for i in (1, 2, 3))
    # Clocks of the measured devices, where the stack tells architectures apart.
    devices = {load_device(name).architecture for name in cases["hardware"].unique()} if "hardware" in cases else ()
    clock = float(np.mean([base.slowdown(name) for name in devices])) if devices else base.clock_scale
    known = np.array([clock if name == "clock_scale" else float(getattr(base, name)) for name in names])
    # A host that is never waited for has no slope: begin where it is.
    start = np.clip(np.where(known <= low, low + scale, known), low, high)
    before = predicted(np.array([float(getattr(base, name)) for name in names]))

    def residuals(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.concatenate([np.log(predicted(x * scale) / measured) / NOISE, x - known / scale])

    found = least_squares(
        residuals, start / scale, bounds=(low / scale, high / scale), diff_step=np.full(len(names), 1e-3)
    )
    after = predicted(found.x * scale)

    def error(steps: npt.NDArray[np.float64]) -> float:
        return float(100.0 * np.mean(np.abs(steps / measured - 1.0)))

    return FittedStack(_with(base, names, found.x * scale), names, len(measured), error(before), error(after))


def stack_toml(result: FittedStack, source: str) -> str:
    """Write a fitted stack as the text of a stack file.

    Parameters
    ----------
    result : FittedStack
        The fit.
    source : str
        What was measured, for the provenance.

    Returns
    -------
    str
        TOML that `perfmodel.hardware.stack_files.load_stack` reads.
    """
    stack = result.stack
    lines = [
        "schema_version = 1",
        'kind = "stack"',
        f'name = "{stack.name}, fitted"',
        f'attention = "{stack.attention}"',
    ]
    switches = ("dropout", "fused_loss", "hidden_hops", "grouped_experts", "fused_exchange", "shard_waits")
    lines += [f"{name} = {str(getattr(stack, name)).lower()}" for name in switches]
    written = {field: key for field, (key, *_) in CONSTANTS.items()}
    shards = tuple(f"shard_{name}" for name in ("gathers", "scatters", "rebuilds", "rank_kernels", "passes"))
    counts = ("forward_kernels", "backward_kernels", "expert_kernels", "router_kernels", *shards)
    written |= {name: name for name in ("blend", "expert_spread", *counts)}
    written |= {name: name for name in ("gradient_bytes", "wgrad_bytes", "hidden_tp", "hidden_ep", "framework_bytes")}
    for field, key in written.items():
        value = getattr(stack, field)
        unit = "s" if field.endswith("_s") else "B" if field.endswith("_bytes") else ""
        text = f"{value:.5g}" if field != "framework_bytes" else f"{value:.0f}"
        shown = f'"{text} {unit}"' if unit else text
        if field in counts:
            shown = f"{value:.0f}"
        origin = stack.provenance.get(field, f"default, or the stack {stack.id}")
        if field in result.fitted:
            origin = f"fitted to {result.steps} steps of {source}: error {result.before_mape:.1f} % before, "
            origin += f"{result.after_mape:.1f} % after"
        lines += ["", f"[{key}]", f"value = {shown}", f'source = "{origin}"'.replace("\n", " ")]
    for key in ("attention_factor", "clock_by_architecture"):
        table = getattr(stack, key)
        if table:
            origin = stack.provenance.get(key, f"the stack {stack.id}")
            lines += ["", f"[{key}]", f'source = "{origin}"', f"[{key}.value]"]
            lines += [f"{name} = {value:g}" for name, value in table.items()]
    return "\n".join(lines) + "\n"
