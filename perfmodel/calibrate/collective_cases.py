"""Arguments of the collective forms from the columns of case files, and the attribute sets worth trying."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from perfmodel.arrays import Array

ELEMENT_BYTES: Mapping[str, float] = {"dispatch": 1.0 + 4.0 / 128.0, "combine": 2.0}
"""Bytes per element on the wire: fp8 with one fp32 scale per 128 elements, and bf16."""

RANKS_PER_NODE: Mapping[str, int] = {"gb200": 4, "gb300": 4}
"""Expert-parallel ranks on one node where it is not eight."""

NCCL_SWITCHES = tuple(45e3 * 2.0**power for power in range(12))
"""Buffers at which a sharp protocol switch is looked for [B]; between the powers of two that are measured."""

NCCL_LOW_SWITCH = 16384.0
"""Buffer around which the steps of the low-latency protocol may lengthen [B]."""

FALLBACKS = tuple(1.02 * 2.0**power for power in range(18, 28))
"""Buffers at which an engine may hand over to the library [B], just above powers of two."""


def _column(frame: pd.DataFrame, name: str) -> Array:
    return np.asarray(frame[name].to_numpy(), dtype=np.float64)


def collective_sizes(frame: pd.DataFrame) -> dict[str, Array]:
    """Arguments of the collective forms for every case.

    Parameters
    ----------
    frame : pandas.DataFrame
        Cases with the columns ``nbytes`` (total buffer) and ``ranks``.

    Returns
    -------
    dict
        ``nbytes`` [B] and ``ranks``, one value per case.

    Examples
    --------
    >>> sizes = collective_sizes(pd.DataFrame({"nbytes": [1024], "ranks": [2]}))
    >>> float(sizes["nbytes"][0])
    1024.0
    """
    return {"nbytes": _column(frame, "nbytes"), "ranks": _column(frame, "ranks")}


def deepep_sizes(frame: pd.DataFrame) -> dict[str, Array]:
    """Arguments of the DeepEP forms for cases of one mode.

    Parameters
    ----------
    frame : pandas.DataFrame
        Cases with the columns ``mode``, ``hardware``, ``nodes``, ``hidden``, ``tokens`` (per rank), ``topk``,
        ``experts``, ``sms`` and perhaps ``gpus_per_node``, which overrides `RANKS_PER_NODE`.

    Returns
    -------
    dict
        ``tokens``, ``hidden``, ``topk``, ``experts`` and ``ranks``; ``sms`` too unless the mode is low latency.

    Examples
    --------
    >>> case = {"mode": "low_latency", "hardware": "gb200", "nodes": 1, "hidden": 7168, "tokens": 8, "topk": 8}
    >>> sizes = deepep_sizes(pd.DataFrame([case | {"experts": 256, "sms": 0}]))
    >>> float(sizes["ranks"][0]), sorted(sizes)
    (4.0, ['experts', 'hidden', 'ranks', 'tokens', 'topk'])
    """
    sizes = {name: _column(frame, name) for name in ("tokens", "hidden", "topk", "experts")}
    per_node = np.array([float(RANKS_PER_NODE.get(str(device), 8)) for device in frame["hardware"]])
    if "gpus_per_node" in frame.columns:
        given = _column(frame, "gpus_per_node")
        per_node = np.where(np.isnan(given), per_node, given)
    sizes["ranks"] = per_node * _column(frame, "nodes")
    if not (frame["mode"] == "low_latency").all():
        sizes["sms"] = _column(frame, "sms")
    return sizes


def collective_candidates(form: str, *, shared_bus: bool = False) -> tuple[dict[str, Any], ...]:
    """Attribute sets of a collective form, the simplest first.

    Parameters
    ----------
    form : str
        "nccl_collective" or "custom_all_reduce".
    shared_bus : bool
        Whether the devices hang on the switches of a host's bus.

    Returns
    -------
    tuple of dict
        Attributes; thresholds that cannot be found by gradients are given with them.

    Examples
    --------
    >>> len(collective_candidates("nccl_collective"))
    56
    """
    if form == "custom_all_reduce":
        return tuple(
            {"fallback": fallback, "fallback_bytes": limit}
            for fallback in ("flat", "pair", "inverse")
            for limit in FALLBACKS
        )
    sets: list[dict[str, Any]] = []
    for domain in (0.0, 2.0) if shared_bus else (0.0,):
        for scaling in (0.0, 1.0):
            common = {"domain": domain, "switch_scaling": scaling}
            sets += [common | {"sharpness": sharpness} for sharpness in (1.0, 2.0)]
            sets += [common | {"sharpness": 8.0, "switch_bytes": switch} for switch in NCCL_SWITCHES]
    return (*sets, *(each | {"low_switch_bytes": NCCL_LOW_SWITCH} for each in sets))
