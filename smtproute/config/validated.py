"""Validated: a document held against the model of its tables; what is wrong is said in our words, with the mend."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from smtproute.config.document import Document, Location
from smtproute.config.schema import close, known_keys

__all__ = ["said", "validated"]

T = TypeVar("T", bound=BaseModel)


def validated(model: type[T], document: Document, say: Callable[[Location, ErrorDetails], str] | None = None) -> T:
    """The document as its model has it. Raises Mistake, with all that is wrong: each as `say` has it, or as `said`."""
    try:
        found = model.model_validate(document.tables)
    except ValidationError as error:
        for each in error.errors():
            location = each["loc"]
            if each["type"] == "too_short" and each["input"]:
                continue  # its items are what is wrong, and each says so
            key = location[-1:] == ("[key]",)
            location = location[:-1] if key else location
            text = say(location, each) if say is not None else said(model, location, each)
            # An unknown key may be a misspelled password.
            document.wrong(location, text, with_value=not key and each["type"] != "extra_forbidden")
        document.check()
        raise
    document.check()
    return found


def said(model: type[BaseModel], location: Location, error: ErrorDetails) -> str:
    """What is wrong at a place of a file that is to be a `model`."""
    match error["type"]:
        case "value_error":
            return str(error["ctx"]["error"])
        case "enum" | "literal_error":
            known = tuple(re.findall(r"'([^']*)'", error["ctx"]["expected"]))
            return f"not one of {', '.join(known)}.{close(str(error['input']), known)}"
        case "extra_forbidden":
            return _unknown(str(location[-1]), location, model)
        case "missing":
            return f"missing. Add {location[-1]}."
        case "too_short":
            return "empty. Write one at least, or leave the key out."
        case "string_type":
            return "text is wanted. Write it in quotes."
        case "bool_type":
            return "true or false is wanted."
        case "int_type" | "int_from_float":
            return "a whole number is wanted."
        case "float_type":
            return "a number is wanted."
        case "tuple_type" if isinstance(error["input"], dict):
            return f"there may be several. Write each with double brackets: [[{location[-1]}]]."
        case "tuple_type":
            return "a list is wanted. Put it in [brackets]."
        case "model_type" | "dict_type":
            return "a table is wanted. Write { key = value }, or the key under a [table]."
        case _:
            return f"{error['msg']}."


def _unknown(key: str, location: Location, model: type[BaseModel]) -> str:
    known = known_keys(location[:-1], model)
    if meant := close(key, known):
        return f"unknown key.{meant}"
    if len(location) > 1 and key in known_keys((), model):
        return f"unknown key. {key} is a key of the whole file: write it above the first [table]."
    return f"unknown key. Known here: {', '.join(known)}."
