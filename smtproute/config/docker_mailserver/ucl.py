"""UCL, the language of rspamd's files: text becomes blocks, lists and texts, each with its line.

Read as libucl reads it. A key that is written twice is kept twice: libucl makes a list of both values, and what that
means is for the reader of the key to say. Macros (`.include`) are not followed; they are named instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["Block", "Items", "Text", "UclError", "Value", "parse"]

_BLANK = " \t"
_SPACE = " \t\r\n\v\f"
_END = ",;\n\r}]\0"
"""What ends a value that is not quoted."""
_KEY = re.compile(r"(?:[A-Za-z0-9/_]|[^\x00-\x7f])(?:[A-Za-z0-9/_.-]|[^\x00-\x7f])*")
_QUOTED = re.compile(r'"((?:[^"\\\x00-\x1f]|\\(?:[^u\x00-\x1f]|u[0-9A-Fa-f]{4}))*)"')
_SINGLE = re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL)
_HEREDOC = re.compile(r"<<([A-Z]+)\n")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(.))", re.DOTALL)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_DEEPEST = 50
"""Blocks and lists inside each other; no file of rspamd's has more than a few."""


class UclError(ValueError):
    """A text is no UCL; the message says why."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    line: int
    quoted: bool = False
    """A quoted `true` is a text, one without quotes a boolean."""


@dataclass(frozen=True, slots=True)
class Items:
    line: int
    items: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Block:
    line: int
    entries: tuple[tuple[str, Value], ...] = ()
    """In the order of the file."""


Value = Text | Items | Block


def parse(text: str) -> tuple[Block, tuple[Text, ...]]:
    """The file as one block, and the macros that were passed over. Raises UclError."""
    return _Parser(text).file()


@dataclass(slots=True)
class _Parser:
    text: str
    at: int = 0
    macros: list[Text] = field(default_factory=list)

    def file(self) -> tuple[Block, tuple[Text, ...]]:
        self.skip()
        opening = self.peek()
        if opening == "[":
            raise self.wrong("the file is a list: it has no options")
        if opening == "{":
            self.at += 1
            block = self.block("}", 1)  # what follows is ignored
        else:
            block = self.block("", 0)
        return block, tuple(self.macros)

    # Where we are

    def peek(self) -> str:
        """The next character; "" at the end."""
        return self.text[self.at : self.at + 1]

    def line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1

    def wrong(self, why: str) -> UclError:
        return UclError(self.line(), why)

    def shown(self) -> str:
        """What is here, for a message."""
        found = self.text[self.at : self.at + 20].partition("\n")[0].strip()
        return f'"{found}"' if found else "the end of the line"

    def comment(self) -> bool:
        """Passes over a comment, if there is one. Those between `/*` and `*/` nest."""
        if self.peek() == "#":
            end = self.text.find("\n", self.at)
            self.at = end if end >= 0 else len(self.text)
            return True
        if not self.text.startswith("/*", self.at):
            return False
        opened, level = self.wrong("the comment is not closed with */"), 0
        for mark in re.compile(r"/\*|\*/").finditer(self.text, self.at):
            level += 1 if mark[0] == "/*" else -1
            if level == 0:
                self.at = mark.end()
                return True
        raise opened

    def skip(self, blank: str = _SPACE) -> None:
        """Passes over white space and comments."""
        while (self.peek() and self.peek() in blank) or self.comment():
            if self.peek() and self.peek() in blank:
                self.at += 1

    # What is here

    def block(self, closing: str, depth: int) -> Block:
        """Keys and values up to `closing`; up to the end of the file where that is ""."""
        opened = self.line()
        entries: list[tuple[str, Value]] = []
        while True:
            self.skip()
            here = self.peek()
            if here == "}" and closing:
                self.at += 1
                return Block(opened, tuple(entries))
            if not here:
                if closing:
                    raise UclError(opened, "the { is not closed with }")
                return Block(opened, tuple(entries))
            if here == ".":
                self.macro()
            else:
                entries.append(self.entry(depth))
            if self.after_value(closing):
                return Block(opened, tuple(entries))

    def macro(self) -> None:
        """Passes over `.name(parameters) "value"`."""
        start = self.at
        while self.peek() not in ("", "\n", ";"):
            self.at += 1
        self.macros.append(Text(self.text[start : self.at].strip(), self.line()))

    def after_value(self, closing: str) -> bool:
        """Passes over what divides values. True where `closing` came, which is passed over too."""
        divided = self.text[self.at - 1 : self.at] in ("}", "]")
        while here := self.peek():
            if here in _BLANK:
                self.at += 1
            elif self.comment():
                divided = True
            elif here in "}]":
                if here != closing:
                    raise self.wrong(f"the {here} closes nothing")
                self.at += 1
                return True
            elif here in _END:
                self.at += 1
                divided = True
            elif divided:
                return False
            else:
                raise self.wrong(f"a ; is missing before {self.shown()}")
        return False

    def entry(self, depth: int, named: bool = False) -> tuple[str, Value]:
        """`key = value`, `key { }`, and `key name { }`, which is a block inside a block."""
        line = self.line()
        key = self.key()
        divided = self.separator()
        if divided and named:
            raise self.wrong(f'"{key}" stands behind another key')
        if not divided and self.peek() not in ("{", "["):
            ahead = re.compile(r"[,;\r\n{\[]").search(self.text, self.at)
            if ahead is not None and ahead[0] in "{[":
                if depth >= _DEEPEST:
                    raise self.wrong("too deep")
                return key, Block(line, (self.entry(depth + 1, named=True),))
        return key, self.value(depth)

    def key(self) -> str:
        line = self.line()
        quoted = _QUOTED.match(self.text, self.at)
        if quoted is not None:
            self.at = quoted.end()
            if not quoted[1]:
                raise UclError(line, "a key is empty")
            return _unescaped(quoted[1])
        match = _KEY.match(self.text, self.at)
        if match is None or self.text.startswith("/*", self.at):
            raise self.wrong(f"{self.shown()} is no key")
        self.at = match.end()
        if self.peek() not in (" ", "\t", "=", ":"):
            raise self.wrong(f'"{match[0]}" has no value: a space, = or : must follow it')
        return match[0]

    def separator(self) -> bool:
        """Passes over white space of the line and one `=` or `:`. Whether there was one."""
        self.skip(_BLANK)
        if self.peek() not in ("=", ":"):
            return False
        self.at += 1
        self.skip(_BLANK)
        if self.peek() in ("=", ":") and self.peek():
            raise self.wrong(f"one {self.peek()} too many")
        return True

    def value(self, depth: int) -> Value:
        self.skip()
        line = self.line()
        here = self.peek()
        if here in ("{", "["):
            if depth >= _DEEPEST:
                raise self.wrong("too deep")
            self.at += 1
            return self.block("}", depth + 1) if here == "{" else self.items(depth + 1)
        if here == '"':
            return Text(_unescaped(self.match(_QUOTED, "the quotation does not end on its line")), line, quoted=True)
        if here == "'":
            inner = self.match(_SINGLE, "the quotation does not end")
            return Text(inner.replace("\\'", "'").replace("\\\n", ""), line, quoted=True)
        heredoc = _HEREDOC.match(self.text, self.at)
        if heredoc is not None:
            self.at = heredoc.end() - 1
            end = re.compile(rf"\n{heredoc[1]}(?=[;,\n\r])").search(self.text, self.at)
            if end is None:
                raise UclError(line, f"no line {heredoc[1]} ends the text")
            text = self.text[self.at + 1 : end.start()]
            self.at = end.end()
            return Text(text, line, quoted=True)
        return self.word(line)

    def match(self, pattern: re.Pattern[str], why: str) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise self.wrong(why)
        self.at = match.end()
        return match[1]

    def items(self, depth: int) -> Items:
        opened = self.line()
        items: list[Value] = []
        while True:
            self.skip()
            here = self.peek()
            if not here:
                raise UclError(opened, "the [ is not closed with ]")
            if here == "]":
                self.at += 1
                return Items(opened, tuple(items))
            items.append(self.value(depth))
            if self.after_value("]"):
                return Items(opened, tuple(items))

    def word(self, line: int) -> Text:
        """A text without quotes: up to the end of the line, a comment, `;`, `,`, or a bracket that it did not open."""
        start, level = self.at, {"}": 0, "]": 0}
        while here := self.peek():
            if here == "{" or here == "[":
                level["}" if here == "{" else "]"] += 1
            elif here in level and level[here] > 0:
                level[here] -= 1
            elif here == "\\":
                self.at += 1
            elif here in _END or here == "#" or self.text.startswith("/*", self.at):
                break
            self.at += 1
        self.at = min(self.at, len(self.text))
        text = self.text[start : self.at].rstrip(_BLANK)
        if not text:
            raise self.wrong("a value is missing")
        return Text(_unescaped(text), line)


def _unescaped(text: str) -> str:
    def plain(escape: re.Match[str]) -> str:
        return chr(int(escape[1], 16)) if escape[1] else _CONTROLS.get(escape[2], escape[2])

    return _ESCAPE.sub(plain, text)
