"""TOML as text: how values and tables are written, on as few lines as can be read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

__all__ = ["assignment", "header", "key", "paragraph", "value"]

_UNWRITTEN = re.compile(r"[\x00-\x1f\x7f]")
_LITERAL = re.compile(r"[\t\n -&(-~\x80-\U0010ffff]|'(?!'')")


def key(name: str) -> str:
    """A key, with quotes where it needs them."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else value(name)


def header(path: tuple[str, ...], *, one_of_several: bool = False) -> str:
    """The line over a table."""
    name = ".".join(map(key, path))
    return f"[[{name}]]" if one_of_several else f"[{name}]"


def value(written: Any) -> str:
    """A value on one line. Raises TypeError for what TOML does not have."""
    match written:
        case bool():
            return str(written).lower()
        case int() | float():
            return str(written)
        case str():
            text = json.dumps(written, ensure_ascii=False)
            return _UNWRITTEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        case datetime():
            return written.isoformat().replace("+00:00", "Z")
        case list() | tuple():
            return f"[{', '.join(map(value, written))}]"
        case Mapping():
            inside = ", ".join(assignment(name, each) for name, each in written.items())
            return f"{{ {inside} }}" if inside else "{}"
        case _:
            raise TypeError(f"TOML has no {type(written).__name__}")


def assignment(name: str, written: Any) -> str:
    """A key and its value on one line."""
    return f"{key(name)} = {value(written)}"


def paragraph(text: str) -> str:
    """A text of several lines as it is read, in quotes that let backslashes be where that can be."""
    if all(_LITERAL.match(text, at) for at in range(len(text))) and not text.endswith("'"):
        return f"'''\n{text}'''"
    escaped = text.replace("\\", "\\\\").replace('"""', '""\\"')
    escaped = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", escaped)
    return f'"""\n{escaped}"""' if not escaped.endswith('"') else f'"""\n{escaped[:-1]}\\""""'
