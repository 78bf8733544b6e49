"""The tables of a test's TOML file, held against their model. What is wrong is said as the configuration says it."""

from __future__ import annotations

import re
from types import UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from smtproute.config.document import Document, Location
from smtproute.config.schema import close

__all__ = ["Table", "validated"]

T = TypeVar("T", bound=BaseModel)


class Table(BaseModel):
    """A table; a key that it does not know is a mistake."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


def validated(model: type[T], document: Document) -> T:
    """The document as its model has it. Raises config.document.Mistake, with all that is wrong."""
    try:
        return model.model_validate(document.tables)
    except ValidationError as error:
        for each in error.errors():
            location = each["loc"]
            if location and location[-1] == "[key]":
                location = location[:-1]
            document.wrong(location, _said(model, location, each), with_value=each["type"] != "extra_forbidden")
        document.check()
        raise


def _said(model: type[BaseModel], location: Location, error: ErrorDetails) -> str:
    """What is wrong, in our words, and the mend."""
    match error["type"]:
        case "value_error":
            return str(error["ctx"]["error"])
        case "enum":
            known = tuple(re.findall(r"'([^']*)'", error["ctx"]["expected"]))
            return f"not one of {', '.join(known)}.{close(str(error['input']), known)}"
        case "extra_forbidden":
            known = _keys(model, location[:-1])
            return f"unknown key.{close(str(location[-1]), known) or f' Known here: {", ".join(known)}.'}"
        case "missing":
            return f"missing. Add {location[-1]}."
        case "string_type":
            return "text is wanted. Write it in quotes."
        case "bool_type":
            return "true or false is wanted."
        case "int_type" | "int_from_float":
            return "a whole number is wanted."
        case "float_type":
            return "a number is wanted."
        case "tuple_type":
            return "a list is wanted. Put it in [brackets]."
        case "model_type" | "dict_type":
            return "a table is wanted. Write { key = value }, or the key under a [table]."
        case _:
            return f"{error['msg']}."


def _keys(model: type[BaseModel], location: Location) -> tuple[str, ...]:
    """The keys that the table at `location` may have."""
    at: Any = model
    for part in location:
        if isinstance(at, type) and issubclass(at, BaseModel):
            at = next(each.annotation for name, each in at.model_fields.items() if (each.alias or name) == part)
        else:
            at = get_args(at)[0 if isinstance(part, int) else 1]  # a list's items, or a dict's values
        while isinstance(at, UnionType) or get_origin(at) is Annotated:  # a table or None; a list and its bounds
            at = get_args(at)[0]
    return tuple(each.alias or name for name, each in at.model_fields.items())
