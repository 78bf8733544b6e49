"""Finding: one thing that is wrong, or may be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Finding", "Severity"]


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
    where: str
    """File and line, or configuration key."""
    what: str
    """What is wrong, what it leads to, and the mend."""

    def json(self) -> dict[str, Any]:
        return {"severity": str(self.severity), "where": self.where, "what": self.what}

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.what}"
