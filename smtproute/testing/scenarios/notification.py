"""Notification: what a delivery status notification says of each recipient (RFC 3464 2.3)."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import Message

__all__ = ["notified"]


def notified(content: bytes) -> list[dict[str, str]]:
    """By the keys of `DsnTable`; what is not said is ""; nothing where it is no notification."""
    report = message_from_bytes(content, policy=policy.default)
    parts = [part for part in report.walk() if part.get_content_type() == "message/delivery-status"]
    return [_said(each) for part in parts for each in part.walk() if "Final-Recipient" in each]


def _said(of: Message) -> dict[str, str]:
    return {
        "recipient": str(of["Final-Recipient"]).partition(";")[2].strip(),
        "status": str(of["Status"] or "").strip(),
        "action": str(of["Action"] or "").strip(),
        "diagnostic": str(of["Diagnostic-Code"] or "").partition(";")[2].strip(),
    }
