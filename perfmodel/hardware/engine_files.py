"""Engine files: reading how serving software uses a device, each number with its source."""

import os
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from perfmodel.errors import ProfileError, UnitError
from perfmodel.hardware.engine import LAYER_PARTS, Engine, Streams, Waits
from perfmodel.hardware.named_files import find_named, read_schema
from perfmodel.units import parse


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    value: str | float
    source: str = Field(min_length=1)
    note: str | None = None


class _Flag(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    value: bool
    source: str = Field(min_length=1)


class _Names(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    value: tuple[str, ...]
    source: str = Field(min_length=1)


class _Schedule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    value: Literal["prefill-first", "chunked", "layered"]
    source: str = Field(min_length=1)


class _Streams(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    first: tuple[Literal[LAYER_PARTS], ...] = Field(min_length=1, max_length=len(LAYER_PARTS) - 1)  # type: ignore[valid-type]
    first_cores: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(1.0,), min_length=1)
    paired: bool = False
    least_tokens: int = Field(default=1, ge=1)
    exchange: str = "0 s"
    source: str = Field(min_length=1)

    def streams(self) -> Streams:
        return Streams(self.first, self.first_cores, self.paired, self.least_tokens, parse(self.exchange, "time"))


class _Waits(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    gate: str = "0 s"
    dispatch: str = "0 s"
    combine: str = "0 s"
    ranks: int = Field(ge=2)
    source: str = Field(min_length=1)

    def waits(self) -> Waits:
        gate, dispatch, combine = (parse(value, "time") for value in (self.gate, self.dispatch, self.combine))
        return Waits(gate, dispatch, combine, ranks=float(self.ranks))


class _Split(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    value: Literal["none", "tokens", "nano"]
    source: str = Field(min_length=1)


class _EngineFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    kind: Literal["engine"]
    name: str
    kernels: str = ""
    memory_fraction: _Value
    reserved_output: _Value
    own_quantiser: _Flag = _Flag(value=False, source="default")
    fraction_of_free: _Flag = _Flag(value=False, source="default")
    small_cache: _Names
    framework_bytes: _Value
    step_tokens: _Value
    decode_step: _Value
    decode_request: _Value
    prefill_layer: _Value
    launches_ahead: _Flag = _Flag(value=True, source="default")
    request: _Value
    stream_steps: _Value
    balance_steps: _Value = _Value(value=0.0, source="default")
    drains_prompts: _Flag = _Flag(value=False, source="default")
    overlap: _Value
    quantises_apart: _Names
    fused: _Names = _Names(value=(), source="none")
    schedule: _Schedule = _Schedule(value="prefill-first", source="default")
    split: _Split = _Split(value="none", source="default")
    chunk_tokens: _Value = _Value(value="512", source="default")
    decode_streams: _Streams | None = None
    prefill_streams: _Streams | None = None
    prefill_waits: _Waits = _Waits(ranks=2, source="none")
    redundant_experts: _Value = _Value(value="0", source="none")
    shared_copies: _Value = _Value(value="0", source="none")
    decode_spread: _Value = _Value(value=0.0, source="definition: even")
    prefill_spread: _Value = _Value(value=0.0, source="definition: even")
    ordered_prefill: _Flag = _Flag(value=False, source="none")
    regrouped_prefill: _Flag = _Flag(value=False, source="none")


_DIMENSIONS = {
    "memory_fraction": "fraction",
    "framework_bytes": "size",
    "step_tokens": "count",
    "chunk_tokens": "count",
    "decode_step": "time",
    "decode_request": "time",
    "prefill_layer": "time",
    "request": "time",
    "reserved_output": "fraction",
    "stream_steps": "number",
    "balance_steps": "number",
    "overlap": "fraction",
    "redundant_experts": "count",
    "shared_copies": "count",
    "decode_spread": "number",
    "prefill_spread": "number",
}


def _number(value: str | float, dimension: str) -> float:
    if dimension != "number":
        return parse(value, dimension)
    if isinstance(value, str) or not 0 <= value < float("inf"):
        raise UnitError(f"{value!r}: a plain number of at least 0 is wanted, for instance 2.5")
    return float(value)


def load_engine(name: str, profiles: str | os.PathLike[str] | None = None) -> Engine:
    """Load an engine profile by name or path.

    Parameters
    ----------
    name : str
        For instance "vllm", or the path of a file.
    profiles : path, optional
        Directory that is searched first.

    Returns
    -------
    Engine
        Its numbers in SI units.

    Raises
    ------
    UnknownNameError
        If there is no such engine.
    ProfileError
        If the file is broken; the message names file, key and fix.

    Examples
    --------
    >>> load_engine("vllm").memory_fraction
    0.9
    """
    path = find_named("engine", name, profiles)
    parsed = read_schema(path, _EngineFile)
    numbers: dict[str, float] = {}
    streams: dict[str, Streams | None] = {}
    for key in ("decode_streams", "prefill_streams"):
        given: _Streams | None = getattr(parsed, key)
        try:
            streams[key] = given.streams() if given else None
        except UnitError as error:
            raise ProfileError(f"{path}: {key}.exchange: {error}") from None
    try:
        waits = parsed.prefill_waits.waits()
    except UnitError as error:
        raise ProfileError(f"{path}: prefill_waits: {error}") from None
    for key, dimension in _DIMENSIONS.items():
        try:
            numbers[key] = _number(getattr(parsed, key).value, dimension)
        except UnitError as error:
            raise ProfileError(f"{path}: {key}: {error}") from None
    return Engine(
        id=path.stem,
        name=parsed.name,
        kernels=parsed.kernels,
        memory_fraction=numbers["memory_fraction"],
        reserved_output=numbers["reserved_output"],
        own_quantiser=parsed.own_quantiser.value,
        fraction_of_free=parsed.fraction_of_free.value,
        small_cache=parsed.small_cache.value,
        framework_bytes=numbers["framework_bytes"],
        step_tokens=numbers["step_tokens"],
        decode_step_s=numbers["decode_step"],
        decode_request_s=numbers["decode_request"],
        prefill_layer_s=numbers["prefill_layer"],
        launches_ahead=parsed.launches_ahead.value,
        request_s=numbers["request"],
        stream_steps=numbers["stream_steps"],
        balance_steps=numbers["balance_steps"],
        drains_prompts=parsed.drains_prompts.value,
        overlap=numbers["overlap"],
        quantises_apart=parsed.quantises_apart.value,
        fused=parsed.fused.value,
        schedule=parsed.schedule.value,
        split=parsed.split.value,
        chunk_tokens=numbers["chunk_tokens"],
        decode_streams=streams["decode_streams"],
        prefill_streams=streams["prefill_streams"],
        prefill_waits=waits,
        redundant_experts=int(numbers["redundant_experts"]),
        shared_copies=int(numbers["shared_copies"]),
        decode_spread=numbers["decode_spread"],
        prefill_spread=numbers["prefill_spread"],
        ordered_prefill=parsed.ordered_prefill.value,
        regrouped_prefill=parsed.regrouped_prefill.value,
    )
