"""Records: what DNS says, for those who judge and check mail; no static table and no hosts file stands before it."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import dns.name
import dns.rdata
import dns.rdatatype
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.ANY.TXT import TXT

from smtproute.core.address import AddressError, Domain
from smtproute.core.choice import LookupFailed
from smtproute.core.lookup import Unanswered
from smtproute.resolve.resolver import Resolver

__all__ = ["Records"]


class Records:
    """A core.lookup.Lookup over the resolver in force.

    Signatures and SPF macros name more than hosts: any octets may stand in a label. What fits into no question (an
    empty or long label, a long name) is not there.
    """

    def __init__(self, resolver: Callable[[], Resolver]) -> None:
        self._resolver = resolver

    async def texts(self, name: str) -> tuple[bytes, ...]:
        found = await self._records(name, dns.rdatatype.TXT)
        return tuple(b"".join(record.strings) for record in found if isinstance(record, TXT))

    async def addresses(self, name: str, version: int) -> tuple[str, ...]:
        found = await self._records(name, dns.rdatatype.AAAA if version == 6 else dns.rdatatype.A)
        return tuple(record.to_text() for record in found)

    async def exchanges(self, name: str) -> tuple[str, ...]:
        found = [record for record in await self._records(name, dns.rdatatype.MX) if isinstance(record, MX)]
        hosts = sorted((record.preference, record.exchange.to_text(omit_final_dot=True)) for record in found)
        return tuple(host for _, host in hosts)

    async def pointers(self, ip: str) -> tuple[str, ...]:
        try:
            name = ip_address(ip).reverse_pointer
        except ValueError:
            return ()
        found = await self._records(name, dns.rdatatype.PTR)
        return tuple(record.target.to_text(omit_final_dot=True) for record in found if isinstance(record, PTR))

    async def alias(self, name: str) -> tuple[str, ...]:
        """The name that a name is another one for: its CNAME record. Raises Unanswered."""
        found = await self._records(name, dns.rdatatype.CNAME)
        return tuple(record.target.to_text(omit_final_dot=True) for record in found if isinstance(record, CNAME))

    async def _records(self, name: str, rdtype: dns.rdatatype.RdataType) -> tuple[dns.rdata.Rdata, ...]:
        question = _question(name)
        if question is None:
            return ()
        try:
            return await self._resolver().records(question, rdtype)
        except LookupFailed as failed:
            raise Unanswered(str(failed)) from None


def _question(name: str) -> str | None:
    """The name as Resolver.records wants it; None where it cannot be asked."""
    try:
        if not name.isascii():
            name = Domain.parse(name).key
        labels = name.lower().encode("ascii").removesuffix(b".").split(b".")
        return dns.name.Name([*labels, b""]).to_text(omit_final_dot=True) if all(labels) else None
    except (AddressError, dns.name.LabelTooLong, dns.name.NameTooLong):
        return None
