"""Codec: how values stand in a row. JSON, each key written out here; what equals its default is left out.

Reading forgives what another version may have written: an unknown key is ignored, a missing one has its default.
Octets stand as latin-1 text. An address stands in its parts and is not parsed again, so that a stricter grammar
never makes mail unreadable that was accepted under another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from smtproute.core.address import Address, Domain
from smtproute.core.envelope import Client, Envelope
from smtproute.core.event import Event, Happening
from smtproute.core.plan import Delivery
from smtproute.core.reply import Refusal, Reply
from smtproute.core.settings import Kind, Role
from smtproute.core.verdict import Verdict
from smtproute.spool.queue import Entry, Message, State

__all__ = [
    "Unreadable",
    "pack_delivery",
    "pack_facts",
    "pack_message",
    "unpack_delivery",
    "unpack_entry",
    "unpack_event",
    "unpack_message",
]


class Unreadable(ValueError):
    """A stored value is not of the kind that it should be; the text says which and why."""


_encode = json.JSONEncoder(separators=(",", ":")).encode


def pack_message(message: Message) -> str:
    """What has no column of its own: everything but id, received_at and size."""
    envelope = message.envelope
    client = envelope.client
    speaking: dict[str, Any] = {
        "ip": client.ip,
        "port": client.port,
        "listener": client.listener,
        "role": client.role.value,
        "trusted": client.trusted,
        "helo": client.helo,
        "esmtp": client.esmtp,
        "tls": client.tls,
    }
    if client.login is not None:
        speaking["login"] = _pack_address(client.login)
    if client.named is not None:
        speaking["named"] = client.named
    value: dict[str, Any] = {"client": speaking}
    if envelope.reverse_path is not None:
        value["reverse_path"] = _pack_address(envelope.reverse_path)
    if envelope.size is not None:
        value["size"] = envelope.size
    if envelope.eight_bit:
        value["eight_bit"] = True
    if envelope.smtputf8:
        value["smtputf8"] = True
    if message.trace_header:
        value["trace_header"] = message.trace_header.decode("latin-1")
    if message.forged:
        value["forged"] = message.forged
    if message.verdicts:
        value["verdicts"] = [
            {
                "method": verdict.method,
                "result": verdict.result,
                "properties": verdict.properties,
                "reason": verdict.reason,
            }
            for verdict in message.verdicts
        ]
    if message.bounce:
        value["bounce"] = True
    return _encode(value)


def unpack_message(message_id: str, received_at: float, size: int, head: str) -> Message:
    """Raises ValueError for what cannot be read."""
    value = _Record.parse(head)
    client = value.record("client")
    login = client.optional("login")
    named = client.optional("named")
    reverse_path = value.optional("reverse_path")
    declared = value.optional("size")
    return Message(
        id=_text(message_id),
        received_at=_seconds(received_at),
        size=_integer(size),
        envelope=Envelope(
            client=Client(
                ip=client.text("ip"),
                port=client.integer("port"),
                listener=client.text("listener"),
                role=Role(client.text("role", Role.INBOUND)),
                trusted=client.flag("trusted"),
                helo=client.text("helo"),
                esmtp=client.flag("esmtp"),
                tls=client.text("tls"),
                login=None if login is None else _unpack_address(login),
                named=None if named is None else _text(named),
            ),
            reverse_path=None if reverse_path is None else _unpack_address(reverse_path),
            size=None if declared is None else _integer(declared),
            eight_bit=value.flag("eight_bit"),
            smtputf8=value.flag("smtputf8"),
        ),
        trace_header=value.text("trace_header").encode("latin-1"),
        forged=tuple((_integer(start), _integer(end)) for start, end in value.pairs("forged")),
        verdicts=tuple(_unpack_verdict(_Record(each)) for each in value.items("verdicts")),
        bounce=value.flag("bounce"),
    )


def pack_delivery(delivery: Delivery) -> str:
    value: dict[str, Any] = {"kind": delivery.kind.value, "address": _pack_address(delivery.address)}
    if delivery.recipient != delivery.address or delivery.recipient.domain.text != delivery.address.domain.text:
        value["recipient"] = _pack_address(delivery.recipient)
    if delivery.endpoint:
        value["endpoint"] = delivery.endpoint
    if delivery.mailbox is not None:
        value["mailbox"] = _pack_address(delivery.mailbox)
    if delivery.rule:
        value["rule"] = delivery.rule
    if not delivery.seal:
        value["seal"] = False
    if delivery.refusal is not None:
        refusal = delivery.refusal
        value["refusal"] = {
            "code": refusal.reply.code,
            "enhanced": refusal.reply.enhanced,
            "text": refusal.reply.text,
            "says": refusal.says,
            "detail": refusal.detail,
        }
    if delivery.held:
        value["held"] = True
    if delivery.deliberate:
        value["deliberate"] = True
    if delivery.junk:
        value["junk"] = True
    return _encode(value)


def unpack_delivery(plan: str) -> Delivery:
    """Raises ValueError for what cannot be read."""
    value = _Record.parse(plan)
    address = _unpack_address(value.items("address"))
    recipient = value.optional("recipient")
    mailbox = value.optional("mailbox")
    refusal = value.optional("refusal")
    return Delivery(
        kind=Kind(value.text("kind")),
        address=address,
        recipient=address if recipient is None else _unpack_address(recipient),
        endpoint=value.text("endpoint"),
        mailbox=None if mailbox is None else _unpack_address(mailbox),
        rule=value.text("rule"),
        seal=value.flag("seal", True),
        refusal=None if refusal is None else _unpack_refusal(_Record(refusal)),
        held=value.flag("held"),
        deliberate=value.flag("deliberate"),
        junk=value.flag("junk"),
    )


def unpack_entry(
    message: Message, number: int, state: str, attempts: int, due_at: float, last: str, plan: str
) -> Entry:
    """Raises ValueError for what cannot be read."""
    return Entry(
        message=message,
        number=_integer(number),
        delivery=unpack_delivery(plan),
        state=State(_text(state)),
        attempts=_integer(attempts),
        due_at=_seconds(due_at),
        last=_text(last),
    )


def pack_facts(facts: Mapping[str, Any]) -> str:
    """Raises TypeError for what is no plain JSON value."""
    return _encode(dict(facts))


def unpack_event(message_id: str, delivery: int | None, what: str, at: float, facts: str) -> Event:
    """Raises ValueError for what cannot be read."""
    return Event(
        what=Happening(_text(what)),
        at=_seconds(at),
        message=_text(message_id),
        delivery=None if delivery is None else _integer(delivery),
        facts=_Record.parse(facts).values,
    )


def _pack_address(address: Address) -> list[str]:
    domain = address.domain
    return [address.local, domain.text] if domain.key == domain.text else [address.local, domain.text, domain.key]


def _unpack_address(value: object) -> Address:
    if not isinstance(value, list) or len(value) < 2:
        raise Unreadable(f"no address: {value!r:.80}")
    local, text, *key = (_text(part) for part in value)
    return Address(local, Domain(key[0] if key else text, text))


def _unpack_refusal(value: _Record) -> Refusal:
    reply = Reply(value.integer("code"), value.text("enhanced"), value.text("text"))
    return Refusal(reply, value.text("says"), value.text("detail"))


def _unpack_verdict(value: _Record) -> Verdict:
    return Verdict(
        method=value.text("method"),
        result=value.text("result"),
        properties=tuple((_text(name), _text(property_)) for name, property_ in value.pairs("properties")),
        reason=value.text("reason"),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Unreadable(f"no text: {value!r:.80}")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise Unreadable(f"no integer: {value!r:.80}")
    return value


def _seconds(value: object) -> float:
    if not isinstance(value, int | float):
        raise Unreadable(f"no time: {value!r:.80}")
    return value


class _Record:
    """A JSON object whose members are asked for by key and type. Everything raises Unreadable."""

    __slots__ = ("values",)

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise Unreadable(f"no object: {value!r:.80}")
        self.values: dict[str, Any] = value

    @classmethod
    def parse(cls, value: object) -> _Record:
        text = _text(value)
        if not text.isascii():
            raise Unreadable(f"no JSON of ours: {text!r:.80}")
        try:
            return cls(json.loads(text))
        except RecursionError:
            raise Unreadable("JSON nested too deep") from None

    def optional(self, key: str) -> object:
        return self.values.get(key)

    def text(self, key: str, default: str = "") -> str:
        return _text(self.values.get(key, default))

    def integer(self, key: str, default: int = 0) -> int:
        return _integer(self.values.get(key, default))

    def flag(self, key: str, default: bool = False) -> bool:
        return bool(self.values.get(key, default))

    def record(self, key: str) -> _Record:
        return _Record(self.values.get(key, {}))

    def items(self, key: str) -> list[Any]:
        value = self.values.get(key, [])
        if not isinstance(value, list):
            raise Unreadable(f"no list: {value!r:.80}")
        return value

    def pairs(self, key: str) -> list[tuple[Any, Any]]:
        pairs = []
        for item in self.items(key):
            if not isinstance(item, list) or len(item) != 2:
                raise Unreadable(f"no pair: {item!r:.80}")
            pairs.append((item[0], item[1]))
        return pairs
