"""The document: what a file and the environment say together, before anybody judges it.

It remembers where each value came from, so that a mistake names the file or the variable, and a relative path starts
at the folder of the file, or for a variable at the working folder.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smtproute.config import files

__all__ = ["PREFIX", "Document", "Location", "Mistake", "parse", "read", "variable"]

Location = tuple[str | int, ...]
"""Keys and list positions from the top of the document."""

PREFIX = "SMTPROUTE__"
"""How the variables of the environment begin that stand for keys."""

_HEADER = re.compile(r"\s*\[{1,2}([^\[\]]+)\]{1,2}")
_SEVERAL = re.compile(r"\s*(?:(?:arc|dkim)\s*\.\s*keys\s*\.|route\s*$)")
"""Tables of which there may be several with one name."""

_NAMED: tuple[Location, ...] = (
    ("listener",),
    ("endpoint",),
    ("arc", "keys"),
    ("dkim", "keys"),
    ("resolver", "static"),
)
"""The tables whose keys are names of the administrator's, which no variable can spell exactly."""


class Mistake(Exception):
    """The configuration cannot be used: `lines`, one a mistake, each naming file, key, value and the mend."""

    def __init__(self, *lines: str) -> None:
        self.lines = tuple(line.encode("utf-8", "backslashreplace").decode() for line in lines)
        super().__init__("\n".join(self.lines))


@dataclass(slots=True)
class Document:
    shown: str
    """What mistakes call the file."""
    folder: Path
    """Where relative paths start."""
    tables: dict[str, Any] = field(default_factory=dict)
    variables: dict[Location, str] = field(default_factory=dict)
    """Each value that the environment set, and the variable."""
    made: dict[Location, str] = field(default_factory=dict)
    """Each table that is there only because of a variable."""
    mistakes: list[str] = field(default_factory=list)
    under: Location = ()
    """Where in the file the tables stand, if they are a part of it."""

    def wrong(self, location: Location, text: str, *, with_value: bool = True) -> None:
        """Notes a mistake: the place, its value if it has one that is no table and may be shown, and the text."""
        location = self._written(location)
        value = self._value(location) if with_value else None
        hidden = value is None or isinstance(value, dict) or _hidden(location, value)
        shown = "" if hidden else f" = {_toml(value)}"
        self.mistakes.append(f"{self._place(location)}{shown}: {text}")

    def check(self) -> None:
        """Raises Mistake where anything wrong has been noted."""
        if self.mistakes:
            raise Mistake(*self.mistakes)

    def path(self, location: Location, written: str) -> Path:
        """The absolute path that is written at `location`."""
        return self.start(location) / written

    def content(self, location: Location, written: str) -> bytes:
        """What the file named at `location` holds; where it cannot be read, nothing, and that is noted as wrong."""
        try:
            return files.read(self.path(location, written))
        except OSError as error:
            self.unreadable(location, error)
            return b""

    def file(self, location: Location, written: str) -> Path:
        """As `path`, for a file that must be readable: noted as wrong where it is not."""
        try:
            files.readable(self.path(location, written))
        except OSError as error:
            self.unreadable(location, error)
        return self.path(location, written)

    def unreadable(self, location: Location, error: OSError) -> None:
        """Notes that what is named at `location` could not be read."""
        why = (error.strerror or "error").lower()
        self.wrong(location, f"cannot be read: {why}. A relative path starts at {self.start(location)}.")

    def start(self, location: Location) -> Path:
        """Where a relative path that is written at `location` starts."""
        return self.folder if self._origin(self._written(location)) is None else Path.cwd()

    def _written(self, location: Location) -> Location:
        """The place as it is written: where the schema has a list, one table may stand for a list of one."""
        at: Any = self.tables
        written: Location = ()
        for part in location:
            if isinstance(part, int) and isinstance(at, dict):
                continue
            written = (*written, part)
            try:
                at = at[part]
            except (KeyError, IndexError, TypeError):
                at = None
        return written

    def _origin(self, location: Location) -> Location | None:
        """The longest part of `location` that the environment set."""
        parts = (location[:length] for length in range(len(location), 0, -1))
        return next((part for part in parts if part in self.variables or part in self.made), None)

    def _place(self, location: Location) -> str:
        origin = self._origin(location)
        if origin is None:
            return f"{self.shown}: {_dotted((*self.under, *location))}"
        if origin in self.variables:
            rest = _dotted(location[len(origin) :])
            return f"environment: {self.variables[origin]}{'.' if rest and rest[0] != '[' else ''}{rest}"
        if origin == location:
            return f"environment: {self.made[origin]}"
        return f"environment: {variable(location)}"

    def _value(self, location: Location) -> Any:
        at: Any = self.tables
        try:
            for part in location:
                at = at[part]
        except (KeyError, IndexError, TypeError):
            return None
        return at


def variable(location: Location) -> str:
    """The variable that sets what is at `location`."""
    return PREFIX + re.sub(r"[-.]", "_", "__".join(map(str, location))).upper()


def _secret(location: Location) -> bool:
    """Whether a secret stands there, which the environment may say and the file may not."""
    match location:
        case ("endpoint", _, "password") | ("srs", "secret"):
            return True
        case _:
            return False


def _hidden(location: Location, value: Any) -> bool:
    """Whether a value is a secret or may hold one, as a URL does, and a text where a table with secrets belongs."""
    match location:
        case ("endpoint",) | ("endpoint", _) | ("srs",):
            return True
        case ("endpoint", _, "servers" | "backup", *_):
            return "@" in _toml(value)
        case _:
            return _secret(location)


def _dotted(location: Location) -> str:
    """`route[0].match`, `arc.keys."example.org".file`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else _toml(part)
            text += f".{key}" if text else key
    return text


def _toml(value: Any) -> str:
    """A value as it would be written, on one line, cut where it is long."""
    match value:
        case bool():
            text = str(value).lower()
        case str():
            text = json.dumps(value, ensure_ascii=False)
        case list():
            text = f"[{', '.join(map(_toml, value))}]"
        case dict():
            text = f"{{ {', '.join(f'{_dotted((key,))} = {_toml(inner)}' for key, inner in value.items())} }}"
        case _:
            text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def read(path: str | None, environ: Mapping[str, str]) -> Document:
    """The document that file and environment make; without a file, the environment's alone. Raises Mistake."""
    if path is None:
        document = Document("defaults", Path.cwd())
    else:
        file = Path(path).absolute()
        shown = file.name if file.parent == Path.cwd() else path
        document = Document(shown, file.parent, _parse(file, shown))
        _take_out_secrets(document)
    names = [name for name in environ if name.startswith(PREFIX)]
    for name in sorted(names, key=lambda name: (name.count("__"), name)):
        _override(document, name, environ[name])
    return document


def _parse(file: Path, shown: str) -> dict[str, Any]:
    try:
        octets = files.read(file)
    except OSError as error:
        why = (error.strerror or "error").lower()
        raise Mistake(f"{shown}: cannot be read: {why}. Name the configuration with -c FILE.") from None
    return parse(octets, shown)


def parse(octets: bytes, shown: str) -> dict[str, Any]:
    """The tables of a TOML text; `shown` is what a mistake calls it. Raises Mistake."""
    try:
        return tomllib.loads(octets.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise Mistake(f"{shown}:{line}: not UTF-8, which TOML must be. Save the file in UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        why = re.sub(r" \(at .*\)$", "", str(error))
        at = re.search(r"\(at line (\d+), column (\d+)\)$", str(error))
        place = f"{shown}:{at[1]}" if at else f"{shown}:{octets.count(10) + 1}"
        where = f"in column {at[2]}" if at else "at the end of the file"
        hint = _hint(why, octets.split(b"\n")[int(at[1]) - 1].decode() if at else "")
        raise Mistake(f"{place}: not TOML: {why} ({where}). {hint}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        raise Mistake(f"{shown}: not TOML: {error}.") from None


def _hint(why: str, line: str) -> str:
    """What mends a line that TOML refuses for this reason."""
    if not why.startswith("Cannot "):
        return "Texts are written in quotes."
    header = _HEADER.match(line)
    if header is None:
        return "A key is written once."
    if _SEVERAL.match(header[1]):
        return f"Of several, write each with double brackets, the first one too: [[{header[1].strip()}]]."
    return "A table is written once: put both into one, or give each its own name."


def _take_out_secrets(document: Document) -> None:
    """Notes each secret of the file as wrong; one that the environment sets then takes no part in it."""
    endpoints = document.tables.get("endpoint")
    tables: dict[Location, Any] = {("srs",): document.tables.get("srs")}
    if isinstance(endpoints, dict):
        tables |= {("endpoint", name): table for name, table in endpoints.items()}
    for location, table in tables.items():
        for key in [key for key in table if _secret((*location, key))] if isinstance(table, dict) else ():
            at = (*location, key)
            text = f'a secret is never in the TOML. Write {key}_file = "FILE", or set {variable(at)}.'
            document.wrong(at, text)
            del table[key]


def _override(document: Document, name: str, text: str) -> None:
    """Lets one variable replace or add its value."""
    parts = name.removeprefix(PREFIX).lower().split("__")
    if not all(parts):
        document.mistakes.append(f"environment: {name}: no key. Write SMTPROUTE__SECTION__KEY.")
        return
    at = document.tables
    location: Location = ()
    for part in parts:
        key = part
        if location in _NAMED and part not in at:
            alike = [each for each in at if _folded(each) == _folded(part)]
            if len(alike) > 1:
                both = " and ".join(_toml(each) for each in alike)
                document.mistakes.append(f"environment: {name}: means {both} alike. Rename one of them.")
                return
            key = alike[0] if alike else part
        location = (*location, key)
        if len(location) == len(parts):
            at[key] = text if _secret(location) else _value_of(text)
            document.variables[location] = name
            return
        if key not in at:
            at[key] = {}
            document.made[location] = name
        at = at[key]
        if not isinstance(at, dict):
            whole = f"{PREFIX}{'__'.join(parts[: len(location)])}".upper()
            document.mistakes.append(f"environment: {name}: {_dotted(location)} is no table. Set it whole: {whole}.")
            return


def _folded(name: str) -> str:
    return re.sub(r"[-_.]", "-", name.lower())


def _value_of(text: str) -> Any:
    """What a variable holds: a TOML value where it is one, else the text itself."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text
