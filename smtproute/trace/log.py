"""The log: each event as one line, for a console or as JSON."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any, TextIO, assert_never

import structlog

from smtproute.core.event import Emit, Event, Happening
from smtproute.core.settings import LogFormat

__all__ = ["log_to"]

_TOO_LONG = frozenset({"transcript", "prepended", "removed", "steps", "deliveries", "notes", "verdicts"})
"""Facts that belong in the trace, not on one line."""


def log_to(stream: TextIO, form: LogFormat) -> Emit:
    """An Emit that writes each event to `stream` as a line. A line that cannot be written is lost, and mail goes on."""
    renderer: structlog.typing.Processor
    match form:
        case LogFormat.JSON:
            renderer = structlog.processors.JSONRenderer(sort_keys=False)
        case LogFormat.CONSOLE:
            renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=14, sort_keys=False)
        case _:
            assert_never(form)
    logger = structlog.wrap_logger(structlog.PrintLogger(stream), processors=[renderer]).bind()

    def emit(event: Event) -> None:
        facts = {name: _shown(value) for name, value in event.facts.items() if name not in _TOO_LONG}
        facts = {name: value for name, value in facts.items() if value not in ("", None)}
        if event.what is Happening.ATTEMPT:
            facts["recipients"] = len(event.facts["recipients"])
        if event.what is Happening.PLANNED:
            facts["to"] = ", ".join(
                f"{copy['kind']} {copy['endpoint'] or copy['address']}" for copy in event.facts["deliveries"]
            )
        if event.what in (Happening.DEFERRED, Happening.FAILED, Happening.WITHDRAWN) and "detail" in facts:
            facts["detail"] = f"{facts['says']}: {facts['detail']}"
        if "retry_at" in facts:
            facts["retry_at"] = _time(facts["retry_at"])
        if event.what is Happening.VERDICT:
            facts["verdicts"] = "; ".join(event.facts["verdicts"])
        with contextlib.suppress(OSError, ValueError):  # no room, no reader, closed
            logger.msg(
                str(event.what), timestamp=_time(event.at), **({"id": event.message} if event.message else {}), **facts
            )

    return emit


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shown(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value
