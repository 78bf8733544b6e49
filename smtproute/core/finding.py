"""Finding: one thing that is wrong with a configuration, or may be, and what to write instead."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Finding", "Severity", "error", "warning"]


class Severity(StrEnum):
    WARNING = "warning"
    ERROR = "error"

    @property
    def status(self) -> int:
        """The exit status of `check` that it leads to."""
        return 2 if self is Severity.ERROR else 1


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Severity
    name: str
    """What kind of finding it is, in one word with hyphens: `duplicate-key`."""
    where: str
    """File and line, or configuration key."""
    what: str
    """What is wrong, and what happens because of it, in whole sentences."""
    instead: str = ""
    """The line to write instead, or the command to run; empty where `what` says all there is to do."""

    def json(self) -> dict[str, Any]:
        return {
            "severity": str(self.severity),
            "name": self.name,
            "where": self.where,
            "what": self.what,
            "instead": self.instead,
        }

    def __str__(self) -> str:
        mend = f" Instead: {self.instead}" if self.instead else ""
        return f"{self.severity}: {self.where}: {self.what} [{self.name}]{mend}"


def error(name: str, where: str, what: str, instead: str = "") -> Finding:
    return Finding(Severity.ERROR, name, where, what, instead)


def warning(name: str, where: str, what: str, instead: str = "") -> Finding:
    return Finding(Severity.WARNING, name, where, what, instead)
