"""Stack files: reading how training software uses a device, each number with its source."""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from perfmodel.errors import ProfileError, UnitError
from perfmodel.hardware.named_files import find_named, list_named, read_schema
from perfmodel.hardware.stack import Stack
from perfmodel.units import parse


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    value: str | float
    source: str = Field(min_length=1)
    note: str | None = None


class _Factors(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    value: dict[str, float]
    source: str = Field(min_length=1)
    note: str | None = None


class _StackFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    kind: Literal["stack"]
    name: str
    attention: Literal["unfused", "flash1", "flash2", "flash3"]
    dropout: bool = False
    fused_loss: bool = True
    hidden_hops: bool = True
    grouped_experts: bool = True
    fused_exchange: bool = True
    shard_waits: bool = False
    systems: dict[str, str] = Field(default_factory=dict)
    attention_factor: _Factors | None = None
    clock_by_architecture: _Factors | None = None
    pointwise_efficiency: _Value | None = None
    clock_scale: _Value | None = None
    host_kernel: _Value | None = None
    kernel_gap: _Value | None = None
    blend: _Value | None = None
    forward_kernels: _Value | None = None
    backward_kernels: _Value | None = None
    expert_kernels: _Value | None = None
    router_kernels: _Value | None = None
    expert_spread: _Value | None = None
    gradient_bytes: _Value | None = None
    wgrad_bytes: _Value | None = None
    hidden_tp: _Value | None = None
    hidden_ep: _Value | None = None
    shard_gathers: _Value | None = None
    shard_scatters: _Value | None = None
    shard_rebuilds: _Value | None = None
    shard_rank_kernels: _Value | None = None
    shard_passes: _Value | None = None
    framework_bytes: _Value | None = None


# Key in the file -> field of `Stack`, dimension, lowest and highest value.
_NUMBERS: dict[str, tuple[str, str, float, float]] = {
    "pointwise_efficiency": ("pointwise_efficiency", "fraction", 0.01, 1.0),
    "clock_scale": ("clock_scale", "number", 0.5, 5.0),
    "host_kernel": ("host_kernel_s", "time", 0.0, 1e-2),
    "kernel_gap": ("kernel_gap_s", "time", 0.0, 1e-2),
    "blend": ("blend", "number", 1.0, 64.0),
    "forward_kernels": ("forward_kernels", "count", 0.0, 1e4),
    "backward_kernels": ("backward_kernels", "count", 0.0, 1e4),
    "expert_kernels": ("expert_kernels", "count", 0.0, 1e3),
    "router_kernels": ("router_kernels", "count", 0.0, 1e3),
    "expert_spread": ("expert_spread", "number", 0.0, 10.0),
    "gradient_bytes": ("gradient_bytes", "size", 1.0, 8.0),
    "wgrad_bytes": ("wgrad_bytes", "size", 1.0, 16.0),
    "hidden_tp": ("hidden_tp", "fraction", 0.0, 1.0),
    "hidden_ep": ("hidden_ep", "fraction", 0.0, 1.0),
    "shard_gathers": ("shard_gathers", "count", 1.0, 1e3),
    "shard_scatters": ("shard_scatters", "count", 1.0, 1e3),
    "shard_rebuilds": ("shard_rebuilds", "count", 0.0, 1e3),
    "shard_rank_kernels": ("shard_rank_kernels", "count", 0.0, 1e2),
    "shard_passes": ("shard_passes", "count", 0.0, 1e2),
    "framework_bytes": ("framework_bytes", "size", 0.0, 1e11),
}


def load_stack(name: str, profiles: str | os.PathLike[str] | None = None) -> Stack:
    """Load a stack profile by name or path.

    Parameters
    ----------
    name : str
        For instance "megatron-2021", or the path of a file.
    profiles : path, optional
        Directory that is searched first.

    Returns
    -------
    Stack
        Its numbers in SI units; what a file leaves out has the default of `Stack`.

    Raises
    ------
    UnknownNameError
        If there is no such stack.
    ProfileError
        If the file is broken; the message names file, key and fix.

    Examples
    --------
    >>> load_stack("megatron-2021").attention
    'unfused'
    """
    path = find_named("stack", name, profiles)
    parsed = read_schema(path, _StackFile)
    return _stack(path, parsed)


def _stack(path: Path, parsed: _StackFile) -> Stack:
    numbers: dict[str, float] = {}
    provenance: dict[str, str] = {}
    for key, (field, dimension, low, high) in _NUMBERS.items():
        entry: _Value | None = getattr(parsed, key)
        if entry is None:
            continue
        try:
            value = float(entry.value) if dimension == "number" else parse(entry.value, dimension)
        except (UnitError, ValueError) as error:
            raise ProfileError(f"{path}: {key}: {error}") from None
        if not low <= value <= high:
            raise ProfileError(f"{path}: {key}: {entry.value} is outside {low:g} to {high:g}")
        numbers[field] = value
        provenance[field] = entry.source + (f"; {entry.note}" if entry.note else "")
    factors: dict[str, dict[str, float]] = {}
    for key in ("attention_factor", "clock_by_architecture"):
        table: _Factors | None = getattr(parsed, key)
        factors[key] = table.value if table else {}
        if table:
            provenance[key] = table.source + (f"; {table.note}" if table.note else "")
        for name, factor in factors[key].items():
            if not 0.1 <= factor <= 10.0:
                raise ProfileError(f"{path}: {key}.value.{name}: {factor:g} is outside 0.1 to 10")
    return Stack(
        id=path.stem,
        name=parsed.name,
        attention=parsed.attention,
        attention_factor=factors["attention_factor"],
        clock_by_architecture=factors["clock_by_architecture"],
        dropout=parsed.dropout,
        fused_loss=parsed.fused_loss,
        hidden_hops=parsed.hidden_hops,
        grouped_experts=parsed.grouped_experts,
        fused_exchange=parsed.fused_exchange,
        shard_waits=parsed.shard_waits,
        systems=parsed.systems,
        provenance=provenance,
        **numbers,
    )


def stack_of_source(source: str, profiles: str | os.PathLike[str] | None = None) -> tuple[str, str]:
    """Find the stack that a published set of measurements ran on.

    Parameters
    ----------
    source : str
        Name of the set, for instance "megatron-2021-table1".
    profiles : path, optional
        Directory that is searched as well.

    Returns
    -------
    tuple of str
        Stack, "neutral" where none claims the set; and system, empty for the device's default.

    Examples
    --------
    >>> stack_of_source("korthikanti-2022-table5")[0]
    'megatron-2021'
    """
    for name in list_named("stack", profiles):
        systems = load_stack(name, profiles).systems
        if source in systems:
            return name, systems[source]
    return "neutral", ""
