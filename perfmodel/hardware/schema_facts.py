"""Schema of what all profile files share: sources, numbers with unit and source, and where each number stands."""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from perfmodel.errors import UnitError, suggest
from perfmodel.hardware.device import Provenance
from perfmodel.hardware.problems import example
from perfmodel.units import parse

Basis = Literal["datasheet", "measured", "vendor statement", "derived", "unverified"]


class Table(BaseModel):
    """A table of a profile file: frozen, and without keys that the schema does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Table):
    """A document or a measurement that values refer to by its key."""

    title: str = Field(min_length=1)
    reference: str = Field(min_length=1)
    date: str
    basis: Basis

    @field_validator("date", mode="before")
    @classmethod
    def _year_at_least(cls, value: object) -> str:
        text = str(value)  # TOML has a date type of its own; both spellings are fine
        if not re.fullmatch(r"\d{4}(-\d\d(-\d\d)?)?", text):
            raise ValueError('is not a date; write "2024", "2024-03" or "2024-03-18"')
        return text


class Fact(Table):
    """One number of a profile: its value in SI units, how the file wrote it, and where it comes from."""

    value: float
    text: str
    source: str
    basis: Basis | None = None
    note: str = ""


def _read_fact(dimension: str, raw: object) -> object:
    """Turn ``{ value = "3.35 TB/s", source = "datasheet" }`` into SI, or say what is wrong with it."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"has no source; write {example(dimension)}")
    if "value" not in raw:
        raise ValueError(f"has no value; write {example(dimension)}")
    if not isinstance(raw.get("source"), str) or not raw["source"].strip():
        raise ValueError(f"has no source; write {example(dimension)} with a key of [sources]")
    if "text" in raw:
        raise ValueError("unknown key 'text'; the keys here are value, source, basis, note")
    try:
        value = parse(raw["value"], dimension)
    except UnitError as error:
        raise ValueError(str(error)) from None
    if value <= 0:
        raise ValueError(f"{raw['value']!r} is not more than zero; leave the key out if the number is unknown")
    return {**raw, "value": value, "text": str(raw["value"])}


CountFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "count"))]
TimeFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "time"))]
SizeFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "size"))]
BandwidthFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "bandwidth"))]
ComputeFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "compute"))]
PowerFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "power"))]
FrequencyFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "frequency"))]
PriceFact = Annotated[Fact, BeforeValidator(partial(_read_fact, "price"))]


class Profile(Table):
    """What every profile file begins with."""

    schema_version: Literal[1]
    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    name: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sources: dict[str, Source]

    def facts(self) -> Iterator[tuple[str, Fact]]:
        """Yield every number with its place in the file."""
        yield from _walk(self, "")

    @model_validator(mode="after")
    def _sources_exist(self) -> "Profile":
        for key, fact in self.facts():
            if fact.source not in self.sources:
                near = suggest(fact.source, self.sources)
                fix = f"did you mean {near!r}?" if near else f"add [sources.{fact.source}]"
                raise ValueError(f"{key}: source {fact.source!r} is not in [sources]; {fix}")
        return self

    def provenance(self) -> tuple[Provenance, ...]:
        """Source of every number, flat."""
        return tuple(
            Provenance(key, f.text, f.value, f.basis or s.basis, s.title, s.reference, s.date, f.note)
            for key, f in self.facts()
            for s in (self.sources[f.source],)
        )


def _walk(table: BaseModel, prefix: str) -> Iterator[tuple[str, Fact]]:
    for name in type(table).model_fields:
        value = getattr(table, name)
        if isinstance(value, Fact):
            yield prefix + name, value
        elif isinstance(value, BaseModel):
            yield from _walk(value, f"{prefix}{name}.")
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from _walk(item, f"{prefix}{name}[{index}].")


def value_of(fact: Fact | None) -> float | None:
    """Value of a number that a file may leave out.

    Parameters
    ----------
    fact : Fact, optional
        The number, or None where the file has none.

    Returns
    -------
    float or None
        Its value in SI units.
    """
    return None if fact is None else fact.value
