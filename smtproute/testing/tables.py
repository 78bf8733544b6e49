"""The tables of a test's TOML files, and the values that these have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from smtproute.config import schema

__all__ = ["Count", "Number", "Octets", "Pause", "Table", "Time"]


class Table(BaseModel):
    """A table; a key that it does not know is a mistake."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


def _count(value: int) -> int:
    if value < 0:
        raise ValueError("a whole number is wanted, 0 or more.")
    return value


def _number(value: int) -> int:
    if value < 1:
        raise ValueError("a whole number is wanted, 1 or more.")
    return value


_TIME = WithJsonSchema({"type": ["string", "integer"], "pattern": "^[0-9]+ ?[smhd]$", "examples": ["30s", "5m", "5d"]})

Time = Annotated[schema.Duration, _TIME]
"""Seconds, 0 or more."""
Pause = Annotated[schema.Pause, _TIME]
"""Seconds, 1 or more."""
Octets = Annotated[schema.Size, WithJsonSchema({"type": ["string", "integer"], "examples": ["100KB", "1MiB"]})]
Count = Annotated[int, AfterValidator(_count), Field(json_schema_extra={"minimum": 0})]
"""0 or more."""
Number = Annotated[int, AfterValidator(_number), Field(json_schema_extra={"minimum": 1})]
"""1 or more."""
