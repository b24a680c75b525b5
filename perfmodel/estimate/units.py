"""Seconds of one operator on a device with several kinds of processor: it runs where it is fastest."""

from dataclasses import replace

import numpy as np

from perfmodel.arrays import as_floats, stacked
from perfmodel.costs.compute import roofline_bound, roofline_time
from perfmodel.costs.formats import get_format
from perfmodel.estimate.operator_time import OperatorTime
from perfmodel.hardware.device import Device
from perfmodel.layers.operators import Attention, Experts, Gemm, Pass


def on_fastest_unit(
    time: OperatorTime, op: Gemm | Attention | Experts | Pass, device: Device, format: str
) -> OperatorTime:
    """Compare an operator's time with that on the other processors of its device, and take the smallest.

    The device's own processor has kernels that were measured; the others are timed by a roofline with default
    efficiencies, so what a unit near the memory gains is what its bandwidth gives operators with little arithmetic.

    Parameters
    ----------
    time : OperatorTime
        Time on the device's own processor.
    op : Gemm, Attention, Experts or Pass
        Operator with its sizes, arrays over plans.
    device : Device
        Device with its other processors.
    format : str
        Format in which the operator multiplies.

    Returns
    -------
    OperatorTime
        The smallest time of every plan, its bounds, and the processors in `algorithms`.

    References
    ----------
    Yun et al. 2024, Duplex (arXiv:2409.01141), section 4: each operator to the unit that its operations per byte suit.
    """
    peak = get_format(format).peak
    flops, nbytes = as_floats(op.flops()) / op.count, as_floats(op.nbytes()) / op.count
    found = [time]
    for unit in device.units:
        if peak not in unit.peak_flops:
            continue
        rates = {"peak_flops": unit.peak_flops[peak], "memory_bandwidth": unit.memory_bandwidth}
        seconds = np.where(flops + nbytes > 0, op.count * roofline_time(flops, nbytes, **rates), 0.0)
        found.append(
            replace(
                time,
                seconds=seconds,
                compute_s=op.count * roofline_bound(flops, 0.0, **rates),
                memory_s=op.count * roofline_bound(0.0, nbytes, **rates),
                algorithms=("roofline_time",),
                bases=("datasheet",),
                sources=(f"{device.id} {unit.name} datasheet",),
                calls=(None,),
            )
        )
    times = stacked([t.seconds for t in found])
    choice = times.argmin(axis=0)
    bounds = [
        np.take_along_axis(stacked([times[0] * 0.0 + getattr(t, name) for t in found]), choice[None], axis=0)[0]
        for name in ("compute_s", "memory_s")
    ]
    return replace(
        time,
        seconds=times.min(axis=0),
        compute_s=bounds[0],
        memory_s=bounds[1],
        algorithms=tuple(name for t in found for name in t.algorithms),
        bases=tuple(basis for t in found for basis in t.bases),
        sources=tuple(source for t in found for source in t.sources),
        choice=as_floats(choice),
        calls=tuple(t.calls[0] if t.calls else None for t in found),
    )
