"""Records: what a name server for tests says, as a file writes it.

    [dns."gitlab.internal"]
    A = ["198.51.100.1"]
    MX = "10 mx.example.net"
    TXT = { values = ["v=spf1 mx -all"], ttl = 5 }
    AAAA = { fault = "timeout" }
    ttl = 30

A table says all there is to say of its name. What is wrong in it is a ValueError with a text that names the value and
the mend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self

import dns.exception
import dns.name
import dns.rdatatype
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from smtproute.config.schema import close
from smtproute.core.address import written_ip
from smtproute.testing.tables import Table
from smtproute.testing.zone import Fault, Zone, record

__all__ = ["NameTable", "NameTables", "RecordsTable", "publish"]

_FORMS = {
    "A": "198.51.100.1",
    "AAAA": "2001:db8::1",
    "MX": "10 mx.example.net",
    "SRV": "0 5 587 mail.example.net",
    "TXT": "v=spf1 mx -all",
    "CNAME": "www.example.net",
    "PTR": "mx.example.net",
}
"""The types of records that a table may have, and one value of each."""
_LONGEST_TTL = 2**31 - 1
"""Seconds (RFC 2181 8)."""


def _fault(value: object) -> Fault:
    known = {fault.lower(): fault for fault in Fault}
    if not isinstance(value, str) or value.lower() not in known:
        raise ValueError(f"not one of {', '.join(Fault)}.{close(str(value), tuple(known))}")
    return known[value.lower()]


def _ttl(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LONGEST_TTL:
        raise ValueError(f"a number of seconds is wanted, from 0 to {_LONGEST_TTL}.")
    return value


def _name(value: str) -> str:
    """A name, or an IP address in its place."""
    if written_ip(value) is not None:
        return value
    try:
        dns.name.from_text(value)
    except dns.exception.DNSException as error:
        why = str(error).rstrip(".")
        raise ValueError(f'no name: {why}. Write it as "mail.example.net".') from None
    return value


_VALUES = str | list[str]


AFault = Annotated[Fault, BeforeValidator(_fault)]
Ttl = Annotated[int, Field(ge=0, le=_LONGEST_TTL), BeforeValidator(_ttl)]


class RecordsTable(Table):
    """The records of one type of a name, where more is to be said than their values."""

    values: Annotated[
        list[str],
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value, json_schema_input_type=_VALUES),
        Field(description="The records, as a zone file writes them; of TXT the bare text."),
    ] = Field(default=[])
    ttl: Annotated[Ttl | None, Field(description="Seconds that they may be kept; default: the name's.")] = None
    fault: Annotated[
        AFault | None,
        Field(description="What is answered whatever the values are; `truncated` still gives them over TCP."),
    ] = None


def _records(type_: str) -> Callable[[Any, ValidatorFunctionWrapHandler], RecordsTable]:
    """Takes a value, a list of values, or the table that has them."""

    def records(written: Any, handler: ValidatorFunctionWrapHandler) -> RecordsTable:
        table: RecordsTable
        match written:
            case dict():
                table = handler(written)
            case str():
                table = RecordsTable(values=[written])
            case list() if all(isinstance(value, str) for value in written):
                table = RecordsTable(values=written)
            case _:
                raise ValueError(f'texts are wanted. Write "{_FORMS[type_]}", or a list of such.')
        for value in table.values:
            _check(type_, value)
        if type_ == "CNAME" and len(table.values) > 1:
            raise ValueError("a name has one CNAME at most (RFC 2181 10.1). Write one.")
        return table

    return records


def _check(type_: str, value: str) -> None:
    """Raises ValueError."""
    try:
        record(dns.rdatatype.from_text(type_), value)
    except dns.exception.DNSException as error:
        raise ValueError(
            f'"{value}" is no {type_} record: {str(error).rstrip(".")}. Write it as "{_FORMS[type_]}".'
        ) from None


_WRITTEN = _VALUES | RecordsTable


class NameTable(Table):
    """What is said of one name. A type that is not written has no record; a name without a table does not exist."""

    A: Annotated[
        RecordsTable | None,
        WrapValidator(_records("A"), json_schema_input_type=_WRITTEN),
        Field(description="IPv4 addresses.", examples=[_FORMS["A"]]),
    ] = None
    AAAA: Annotated[
        RecordsTable | None,
        WrapValidator(_records("AAAA"), json_schema_input_type=_WRITTEN),
        Field(description="IPv6 addresses.", examples=[_FORMS["AAAA"]]),
    ] = None
    MX: Annotated[
        RecordsTable | None,
        WrapValidator(_records("MX"), json_schema_input_type=_WRITTEN),
        Field(description="Mail exchangers: preference and host name.", examples=[_FORMS["MX"]]),
    ] = None
    SRV: Annotated[
        RecordsTable | None,
        WrapValidator(_records("SRV"), json_schema_input_type=_WRITTEN),
        Field(description="Services: priority, weight, port, host name.", examples=[_FORMS["SRV"]]),
    ] = None
    TXT: Annotated[
        RecordsTable | None,
        WrapValidator(_records("TXT"), json_schema_input_type=_WRITTEN),
        Field(description="Bare texts, without the quotes of a zone file.", examples=[_FORMS["TXT"]]),
    ] = None
    CNAME: Annotated[
        RecordsTable | None,
        WrapValidator(_records("CNAME"), json_schema_input_type=_WRITTEN),
        Field(description="The name that this one is an alias of.", examples=[_FORMS["CNAME"]]),
    ] = None
    PTR: Annotated[
        RecordsTable | None,
        WrapValidator(_records("PTR"), json_schema_input_type=_WRITTEN),
        Field(description="The host names of the IP address that stands in the place of the name.", examples=["mx."]),
    ] = None
    ttl: Annotated[
        Ttl | None, Field(description="Seconds that records may be kept that say nothing else; default: the zone's.")
    ] = None
    fault: Annotated[
        AFault | None, Field(description="What is answered to every question that has no fault of its own.")
    ] = None

    def types(self) -> dict[str, RecordsTable]:
        """What is written, by type."""
        written = {type_: getattr(self, type_) for type_ in _FORMS}
        return {type_: table for type_, table in written.items() if table is not None}

    @model_validator(mode="after")
    def _alone(self) -> Self:
        others = [type_ for type_ in self.types() if type_ != "CNAME"]
        if self.CNAME is not None and others:
            raise ValueError(f"a CNAME stands alone (RFC 2181 10.1). Remove it, or {', '.join(others)}.")
        return self


def _together(tables: dict[str, NameTable]) -> dict[str, NameTable]:
    seen: dict[str, str] = {}
    for name, table in tables.items():
        others = [type_ for type_ in table.types() if type_ != "PTR"]
        if written_ip(name) is not None and others:
            raise ValueError(f'"{name}" is an IP address, which has a PTR record only. Remove {", ".join(others)}.')
        key = name.lower().removesuffix(".")
        if key in seen:
            raise ValueError(f'"{seen[key]}" and "{name}" are one name. Put both into one table.')
        seen[key] = name
    return tables


NameTables = Annotated[dict[Annotated[str, AfterValidator(_name)], NameTable], AfterValidator(_together)]
"""All tables of a file, by name; the name of an IP address is the address."""


def publish(zone: Zone, tables: Mapping[str, NameTable]) -> None:
    """Puts the tables into the zone, also while it runs. What it had of their names goes."""
    for name, table in tables.items():
        zone.set(name, "ANY", [])
        for type_, each in table.types().items():
            zone.set(name, type_, each.values, ttl=each.ttl if each.ttl is not None else table.ttl)
            if each.fault is not None:
                zone.set(name, type_, each.fault)
        if table.fault is not None:
            zone.set(name, "ANY", table.fault)
