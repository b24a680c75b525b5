"""Seconds of what training adds to inference: pointwise passes, unfused attention, kernels that wait for the host."""

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.registry import Coefficient, formula

_PASS = (
    Coefficient(
        "pointwise_efficiency", "1", 0.57, 0.05, 1.0, "achieved part of the memory bandwidth in pointwise passes"
    ),
    Coefficient("launch_s", "s", 2.5e-6, 0.0, 6e-4, "time of a kernel that does nothing, launches back to back"),
)


@formula(
    name="pointwise_time",
    quantity="time",
    equation=r"t = n\,t_0 + \frac{D}{f B}",
    source="Williams, Waterman, Patterson 2009 (doi:10.1145/1498765.1498785), memory side, with a launch per kernel",
    coefficients=_PASS,
)
def pointwise_time(
    nbytes: Floats,
    kernels: Floats = 1.0,
    *,
    memory_bandwidth: Floats,
    pointwise_efficiency: Floats = 0.57,
    launch_s: Floats = 2.5e-6,
) -> Floats:
    r"""Time of pointwise passes: norms, activations, dropout, residual additions, casts, softmax.

    .. math:: t = n\,t_0 + \frac{D}{f B}

    Parameters
    ----------
    nbytes : float or array
        Bytes D read and written by all passes together [B].
    kernels : float or array
        Kernels n that they are made of.
    memory_bandwidth : float or array
        Memory bandwidth B [B/s].
    pointwise_efficiency : float or array
        Achieved part f of the bandwidth; below a copy's where passes are unfused and some are not listed.
    launch_s : float or array
        Launch of one kernel t_0 [s].

    Returns
    -------
    float or array
        Time [s].

    References
    ----------
    Williams, Waterman, Patterson 2009.

    Examples
    --------
    >>> round(float(pointwise_time(2e9, memory_bandwidth=2e12, pointwise_efficiency=0.5, launch_s=0.0)) * 1e3, 3)
    2.0
    """
    return as_floats(kernels) * launch_s + as_floats(nbytes) / (as_floats(pointwise_efficiency) * memory_bandwidth)


@formula(
    name="batched_product_time",
    quantity="time",
    equation=r"t = \max\left(\frac{2 S d}{e P}, \frac{w S}{f B}\right)",
    source="Williams, Waterman, Patterson 2009; Dao et al. 2022 (arXiv:2205.14135), section 2.2: scores leave the chip",
    coefficients=(
        Coefficient("compute_efficiency", "1", 0.64, 0.01, 1.0, "sustained share of the dense datasheet peak"),
        _PASS[0],
    ),
)
def batched_product_time(
    scores: Floats,
    head_dim: Floats,
    *,
    peak_flops: Floats,
    memory_bandwidth: Floats,
    compute_efficiency: Floats = 0.64,
    pointwise_efficiency: Floats = 0.57,
    activation_bytes: Floats = 2.0,
) -> Floats:
    r"""Time of one batched product of unfused attention: the scores cross the memory bus.

    .. math:: t = \max\left(\frac{2 S d}{e P}, \frac{w S}{f B}\right)

    Parameters
    ----------
    scores : float or array
        Query-key pairs S of all heads, masked ones included.
    head_dim : float or array
        Width d of a head.
    peak_flops : float or array
        Dense peak P [FLOP/s].
    memory_bandwidth : float or array
        Memory bandwidth B [B/s].
    compute_efficiency : float or array
        Sustained part e of the peak; small batched products stay below large ones.
    pointwise_efficiency : float or array
        Achieved part f of the bandwidth.
    activation_bytes : float or array
        Bytes w of a score [B].

    Returns
    -------
    float or array
        Time; two in the forward pass, four in the backward pass [s].

    References
    ----------
    Dao et al. 2022, FlashAttention (arXiv:2205.14135), section 2.2, for what the unfused kernels move.

    Examples
    --------
    >>> t = batched_product_time(12 * 2048**2, 128, peak_flops=312e12, memory_bandwidth=2039e9)
    >>> round(float(t) * 1e6, 1)
    86.6
    """
    s = as_floats(scores)
    arithmetic = 2.0 * s * head_dim / (as_floats(compute_efficiency) * peak_flops)
    traffic = as_floats(activation_bytes) * s / (as_floats(pointwise_efficiency) * memory_bandwidth)
    return np.maximum(arithmetic, traffic)


@formula(
    name="launched_time",
    quantity="time",
    equation=r"t = \left(t_d^q + (n\,t_h)^q\right)^{1/q}",
    source="Smooth maximum of device time and launch time; eager frameworks issue kernels from one host thread",
    coefficients=(
        Coefficient("host_kernel_s", "s", 8e-6, 0.0, 2e-4, "host time per kernel of an eager framework"),
        Coefficient(
            "blend", "1", 4.0, 1.0, 64.0, "exponent of the blend of host and device time; large for the maximum"
        ),
    ),
)
def launched_time(device_s: Floats, kernels: Floats, *, host_kernel_s: Floats = 8e-6, blend: Floats = 4.0) -> Floats:
    r"""Time of a sequence of kernels that the host issues ahead of the device when it can.

    .. math:: t = \left(t_d^q + (n\,t_h)^q\right)^{1/q}

    Parameters
    ----------
    device_s : float or array
        Time t_d on the device [s].
    kernels : float or array
        Kernels n issued.
    host_kernel_s : float or array
        Host time t_h per kernel [s].
    blend : float or array
        Exponent q.

    Returns
    -------
    float or array
        Time, not below either of the two [s].

    References
    ----------
    Smooth maximum (p-norm) of two lower bounds; the exponent is fitted.

    Examples
    --------
    >>> round(float(launched_time(1e-3, 100, host_kernel_s=1e-5, blend=1e3)) * 1e3, 2)
    1.0
    """
    d, h = as_floats(device_s), as_floats(kernels) * host_kernel_s
    top = np.maximum(d, h)
    low = np.minimum(d, h)
    ratio = low / np.where(top > 0.0, top, 1.0)
    return top * np.power(1.0 + np.power(ratio, as_floats(blend)), 1.0 / as_floats(blend))
