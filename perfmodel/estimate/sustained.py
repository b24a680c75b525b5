"""Default efficiencies of a device whose kernels nobody has calibrated, from its power and what it reached."""

from dataclasses import replace

import numpy as np

from perfmodel.arrays import as_floats
from perfmodel.costs.formats import get_format
from perfmodel.estimate.timing import call_form, default_cores, device_numbers
from perfmodel.hardware.device import Device
from perfmodel.hardware.kernels import KernelCalibration, KernelTable

MATRIX = ("compute_efficiency", "mma_efficiency", "flops_efficiency")
"""Coefficients that scale the matrix rate of a form."""

MEMORY = ("memory_efficiency", "bandwidth_efficiency")
"""Coefficients that scale the memory bandwidth of a form."""

LARGE = {"tokens": 16384.0, "out_features": 16384.0, "in_features": 8192.0}
"""Matrix product that is bound by nothing but the matrix rate, as those are with which a sustained rate is measured."""


def at_sustained_rates(table: KernelTable, device: Device) -> KernelTable:
    r"""Scale defaults that other devices gave so that a large matrix product reaches the rate measured on this one.

    Without a measured rate, defaults that know the energy of an operation keep within the power limit of the board:
    :math:`e' = \min(e,\ W / (\varepsilon P))`.

    .. math:: e' = \min\left(1,\ e\,\frac{R_{\text{measured}}}{R_{\text{default}}}\right), \quad
       f' = \min\left(f,\ \frac{B_{\text{measured}}}{B}\right)

    A format without a measured rate takes the ratio of the 16-bit formats: what keeps a chip below its peak, power and
    the feeding of the matrix units, is much the same for both.

    Parameters
    ----------
    table : KernelTable
        Calibrations of the device, and defaults.
    device : Device
        Device, with sustained rates where somebody published them.

    Returns
    -------
    KernelTable
        The same table where there is nothing to scale by; else with scaled defaults. Calibrations of the device are
        never touched.

    Examples
    --------
    >>> from perfmodel.estimate.kernel_checks import load_kernels
    >>> from perfmodel.hardware.catalog import load_device
    >>> mi300x = load_device("mi300x")
    >>> given = load_kernels("mi300x", "cdna3")
    >>> scaled = at_sustained_rates(given, mi300x)
    >>> efficiency = [t.find("gemm", "bf16").coefficients["compute_efficiency"] for t in (given, scaled)]
    >>> round(efficiency[1] / efficiency[0], 2)
    0.7
    """
    if device.power_w and any(row.flop_energy_j for row in table.defaults):
        table = replace(table, defaults=tuple(_within_power(row, device, device.power_w) for row in table.defaults))
    if not device.sustained_flops and not device.sustained_bandwidth:
        return table
    ratios = {name: _ratio(table, device, name) for name in device.sustained_flops}
    share = device.sustained_bandwidth / device.memory_bandwidth if device.sustained_bandwidth else 1.0
    return replace(table, defaults=tuple(_scaled(row, ratios, share) for row in table.defaults))


def _within_power(row: KernelCalibration, device: Device, power_w: float) -> KernelCalibration:
    peak = device.peak_flops.get(get_format(row.format).peak) if row.flop_energy_j else None
    if peak is None:
        return row
    most = power_w / (row.flop_energy_j * peak)
    changed = {name: min(value, most) for name, value in row.coefficients.items() if name in MATRIX}
    return replace(row, coefficients={**row.coefficients, **changed})


def _ratio(table: KernelTable, device: Device, peak: str) -> float:
    """Measured rate of a large product over what the defaults give it."""
    row = table.find("gemm", peak)
    if row is None or not row.architecture:
        return 1.0
    numbers = device_numbers(device, peak) | {"cores": default_cores(device)}
    seconds = as_floats(call_form(row, LARGE, numbers))
    flops = 2.0 * np.prod(list(LARGE.values()))
    return float(device.sustained_flops[peak] * seconds / flops)


def _scaled(row: KernelCalibration, ratios: dict[str, float], share: float) -> KernelCalibration:
    ratio = ratios.get(get_format(row.format).peak, ratios.get("bf16", 1.0)) if row.format else 1.0
    changed = {name: min(value * ratio, 1.0) for name, value in row.coefficients.items() if name in MATRIX}
    changed |= {name: min(value, share) for name, value in row.coefficients.items() if name in MEMORY}
    return replace(row, coefficients={**row.coefficients, **changed})
