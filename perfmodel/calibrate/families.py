"""Operator families: which columns a case has, which formula times it, and the arguments the two have in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from perfmodel.calibrate.attention_cases import attention_sizes, mla_sizes
from perfmodel.calibrate.collective_cases import collective_sizes, deepep_sizes
from perfmodel.calibrate.gemm_cases import gemm_sizes
from perfmodel.calibrate.moe_cases import moe_sizes, skew_of, unknown_routing
from perfmodel.costs.collective_bounds import collective_bound
from perfmodel.costs.compute import roofline_bound
from perfmodel.costs.formats import FORMATS
from perfmodel.costs.work import attention_bytes, attention_flops, experts_bytes, experts_flops, gemm_bytes, gemm_flops
from perfmodel.errors import PerfmodelError
from perfmodel.estimate.timing import device_numbers
from perfmodel.hardware.catalog import load_device, load_system
from perfmodel.hardware.device import Device
from perfmodel.hardware.fabric import System


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of operator in case files.

    Parameters
    ----------
    operators : tuple of str
        Values of the `op` column.
    numbers : tuple of str
        Columns that must hold positive numbers.
    optional : tuple of str
        Columns of numbers that may be missing or zero.
    form : str
        Registered formula that is fitted.
    shape : tuple of str
        Columns that make a shape: held out together.
    sizes : callable
        Cases and device -> arguments of the formula.
    words : tuple of str
        Columns of text that must be there.
    """

    operators: tuple[str, ...]
    numbers: tuple[str, ...]
    optional: tuple[str, ...]
    form: str
    shape: tuple[str, ...]
    sizes: Callable[[pd.DataFrame, Device], Mapping[str, Any]]
    words: tuple[str, ...] = ()


def _gemm(frame: pd.DataFrame, device: Device) -> Mapping[str, Any]:
    return gemm_sizes(frame, cache_bytes=device.cache_bytes or None)


_ATTENTION = ("batch", "tokens", "context", "heads")
_DEEPEP = ("hidden", "tokens", "topk", "experts", "nodes")

FAMILIES: tuple[Family, ...] = (
    Family(("gemm",), ("m", "n", "k"), (), "gemm_tiled", ("n", "k"), _gemm),
    Family(
        ("prefill_attention",),
        (*_ATTENTION, "kv_heads", "head_dim"),
        ("window",),
        "prefill_attention_tiled",
        ("heads", "kv_heads", "head_dim", "window"),
        lambda frame, _: attention_sizes(frame, "prefill_attention"),
    ),
    Family(
        ("decode_attention",),
        (*_ATTENTION, "kv_heads", "head_dim"),
        ("window",),
        "decode_attention_split",
        ("heads", "kv_heads", "head_dim", "window"),
        lambda frame, _: attention_sizes(frame, "decode_attention"),
    ),
    Family(
        ("prefill_mla",),
        _ATTENTION,
        (),
        "prefill_attention_tiled",
        ("heads", "batch"),
        lambda frame, _: mla_sizes(frame, "prefill_mla"),
    ),
    Family(
        ("decode_mla",),
        _ATTENTION,
        (),
        "decode_attention_split",
        ("heads", "batch"),
        lambda frame, _: mla_sizes(frame, "decode_mla"),
    ),
    Family(
        ("moe",),
        ("tokens", "hidden", "intermediate", "topk", "experts", "tp", "ep"),
        (),
        "experts_grouped",
        ("hidden", "intermediate", "topk", "experts", "tp", "ep"),
        lambda frame, _: moe_sizes(frame),
        ("routing",),
    ),
    Family(
        ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"),
        ("ranks", "nbytes"),
        (),
        "nccl_collective",
        ("nbytes",),
        lambda frame, _: collective_sizes(frame),
    ),
    Family(
        ("dispatch", "combine"),
        _DEEPEP,
        ("sms",),
        "deepep_normal",
        ("hidden", "topk", "experts"),
        lambda frame, _: deepep_sizes(frame),
        ("mode",),
    ),
)
"""Every family, in the order of the tables."""

FAMILY_OF: Mapping[str, Family] = {name: family for family in FAMILIES for name in family.operators}
"""Operator -> family."""

GROUP = ("op", "hardware", "engine", "version", "kernel", "mode", "dtype", "kv_dtype", "system")
"""Columns within which one calibration serves all cases."""


def link_numbers(system: System) -> dict[str, Any]:
    """Numbers of the innermost tier that collective formulas ask for.

    Parameters
    ----------
    system : System
        The system a device sits in.

    Returns
    -------
    dict
        bandwidth [B/s] and latency [s].
    """
    tier = system.scale_up
    return {"bandwidth": tier.bandwidth, "latency": tier.latency_s}


@dataclass(frozen=True, slots=True)
class DeviceCase:
    """Cases of one kernel on one device, as arguments of its formula.

    Parameters
    ----------
    rows : pandas.DataFrame
        The cases with numbers in every column of their family.
    sizes : dict
        Sizes of every case by argument name.
    numbers : dict
        Hardware and format numbers by argument name.
    good : numpy.ndarray
        Which cases have valid sizes; the others hold ones.
    reasons : numpy.ndarray
        Why a case is not good; empty where it is.
    device : Device
        The device.
    format : str
        Operand format.
    """

    rows: pd.DataFrame
    sizes: dict[str, Any]
    numbers: dict[str, Any]
    good: npt.NDArray[np.bool_]
    reasons: npt.NDArray[np.object_]
    device: Device
    format: str


def device_case(rows: pd.DataFrame, group: Mapping[str, str], profiles: str | None = None) -> DeviceCase:
    """Read the cases of one kernel.

    Parameters
    ----------
    rows : pandas.DataFrame
        Cases that agree in the columns of `GROUP`.
    group : mapping
        Their values of these columns.
    profiles : str, optional
        Directory of profiles that is searched first.

    Returns
    -------
    DeviceCase
        Arguments of the family's formula.

    Raises
    ------
    PerfmodelError
        If the operator, a column, the device or the format is unknown.
    """
    family = FAMILY_OF.get(group["op"])
    if family is None:
        raise PerfmodelError(f"op {group['op']!r} is none of {', '.join(FAMILY_OF)}")
    missing = [name for name in (*family.numbers, *family.words) if name not in rows]
    if missing:
        raise PerfmodelError(f"column {missing[0]!r} is missing for {group['op']}")
    device = load_device(group["hardware"], profiles)
    system = load_system(group["system"] or device.default_system, profiles)
    format = group["dtype"] or "bf16"
    if format not in FORMATS:
        raise PerfmodelError(f"dtype {format!r} is none of {', '.join(FORMATS)}")
    rows = rows.copy()
    for name in (*family.numbers, *family.optional):
        rows[name] = pd.to_numeric(rows[name], errors="coerce") if name in rows else 0.0
        if name in family.optional:
            rows[name] = rows[name].fillna(0.0)
    reasons = np.full(len(rows), "", dtype=object)
    for name in family.numbers:
        values = rows[name].to_numpy(dtype=np.float64)
        wrong = ~(np.isfinite(values) & (values > 0))
        reasons[wrong & (reasons == "")] = f"{name} must be a positive number"
    if "routing" in family.words:
        labels = rows["routing"].astype(str).tolist()
        for i in np.flatnonzero(np.isnan(skew_of(labels)) & (reasons == "")):
            reasons[i] = unknown_routing(labels[i])
    good = np.asarray(reasons == "", dtype=bool)
    # Any valid case: the result of these rows is thrown away.
    rows.loc[~good, list(family.numbers)] = 1.0
    if "routing" in family.words:
        rows.loc[~good, "routing"] = "balanced"
    latent = group["op"].endswith("mla") and group["kv_dtype"] == "fp8"  # these kernels multiply in 8 bits then
    numbers = {**device_numbers(device, "fp8" if latent else format), **link_numbers(system), "op": group["op"]}
    sizes = {name: value for name, value in family.sizes(rows, device).items() if value is not None}
    return DeviceCase(rows, sizes, numbers, good, reasons, device, format)


def roofline(rows: pd.DataFrame, group: dict[str, str], family: Family, numbers: dict[str, Any]) -> Any:
    """Plain datasheet roofline of each case: no launch floor, no efficiency.

    Parameters
    ----------
    rows : pandas.DataFrame
        Cases of one family.
    group : dict
        Values of the grouping columns.
    family : Family
        Which columns are numbers.
    numbers : dict
        Hardware numbers.

    Returns
    -------
    numpy.ndarray
        Lower bound of each case [s].
    """
    c = {name: rows[name].to_numpy(dtype=np.float64) for name in (*family.numbers, *family.optional)}
    op = group["op"]
    rates = {"peak_flops": numbers["peak_flops"], "memory_bandwidth": numbers["memory_bandwidth"]}
    w, a = numbers["weight_bytes"], numbers["activation_bytes"]
    kv = FORMATS[group["kv_dtype"]].activation_bytes if group["kv_dtype"] in FORMATS else 2.0
    if op == "gemm":
        flops = gemm_flops(c["m"], c["n"], c["k"])
        return roofline_bound(flops, gemm_bytes(c["m"], c["n"], c["k"], weight_bytes=w, activation_bytes=a), **rates)
    if op in ("prefill_attention", "decode_attention", "prefill_mla", "decode_mla"):
        latent = op.endswith("mla")
        decode = op.startswith("decode")
        heads = c["heads"]
        kv_heads = (np.ones_like(heads) if decode else heads) if latent else c["kv_heads"]
        qk, v = ((576.0, 512.0) if decode else (192.0, 128.0)) if latent else (c["head_dim"], c["head_dim"])
        window = c.get("window", 0.0)
        flops = attention_flops(c["batch"], c["tokens"], c["context"], heads, qk, v, window)
        moved = attention_bytes(
            c["batch"], c["tokens"], c["context"], heads, kv_heads, qk, v, window,
            query_bytes=a, kv_bytes=kv, shared_kv=latent and decode,
        )  # fmt: skip
        return roofline_bound(flops, moved, **rates)
    if op == "moe":
        sizes = (c["tokens"], c["hidden"], c["intermediate"])
        flops = experts_flops(*sizes, c["topk"], c["ep"], c["tp"])
        moved = experts_bytes(*sizes, c["experts"], c["topk"], c["ep"], c["tp"], weight_bytes=w, activation_bytes=a)
        return roofline_bound(flops, moved, **rates)
    if op in ("dispatch", "combine"):
        payload = c["tokens"] * c["topk"] * c["hidden"] * (1.0 if op == "dispatch" else 2.0)
        return payload / numbers["bandwidth"]
    return collective_bound(c["nbytes"], c["ranks"], bandwidth=numbers["bandwidth"], op=op)
