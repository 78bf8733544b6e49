"""Routes: those that nothing ever comes to."""

from __future__ import annotations

from collections.abc import Iterator

from smtproute.core.address import Address
from smtproute.core.aliases import TextTable, expand
from smtproute.core.finding import Finding, warning
from smtproute.core.routes import Form, Route, RouteError, shadows
from smtproute.doctor.survey import Survey

__all__ = ["examine"]


def examine(survey: Survey) -> Iterator[Finding]:
    """Routes behind one that takes all of theirs, and routes for an address that a mailbox or an alias takes.

    Only what is certain: what several earlier routes take together, or what a pattern may take, is not judged.
    """
    routes = survey.snapshot.routing.routes
    for number, route in enumerate(routes):
        earlier = next((each for each in routes[:number] if _shadows(each, route)), None)
        if earlier is not None:
            what = (
                f"Nothing ever comes to {_named(route)}: {_named(earlier)} stands before it and takes all that it"
                f" would. Move {route.rule} up before {earlier.rule} if it should have its own way; else remove it."
            )
            yield warning("route-unreachable", route.rule, what)
        elif route.match.form is Form.ADDRESS and (taker := _taker(survey, Address.parse(route.match.text))):
            yield warning("route-unreachable", route.rule, f"Nothing ever comes to {_named(route)}: {taker}")


def _shadows(earlier: Route, later: Route) -> bool:
    try:
        return shadows(earlier, later)
    except RouteError:
        return False


def _named(route: Route) -> str:
    """`route[1] (a@example.org, sender *@example.net)`."""
    return f"{route.rule} ({', '.join((route.match.text, *route.conditions))})"


def _taker(survey: Survey, address: Address) -> str:
    """What has all mail for the address before any route is asked, and what to do; empty where nothing surely has."""
    if address.domain.key in survey.tables.destinations:
        return ""  # local aliases lead back to such an address without asking for a mailbox
    bare = address.without_detail(survey.tables.delimiter)
    if survey.claim(address.domain.key) is None:
        for each in (address, bare):
            mailbox = survey.routing.mailboxes.get(each.key) if each is not None else None
            if mailbox is not None:
                return (
                    f"{mailbox.address} is a mailbox ({mailbox.rule}), and mailboxes come before routes. Remove the"
                    " route, or the account if its mail should go there."
                )
    return _alias(survey, address)


def _alias(survey: Survey, address: Address) -> str:
    tables = [each for each in survey.tables.tables if isinstance(each, TextTable)]
    if len(tables) != len(survey.tables.tables):
        return ""  # what a pattern makes of the address may depend on its case, or on a +detail
    starts = tuple(f"{address.local.lower()}{each}" for each in survey.tables.delimiter)
    if starts and any(key.startswith(starts) for table in tables for key in table.entries):
        return ""  # some +detail goes its own way
    expansion = expand(survey.tables, address)
    finals = {
        each.key
        for final in expansion.finals
        for each in (final, final.without_detail(survey.tables.delimiter))
        if each
    }
    outlook = survey.outlook(address)
    if expansion.fault is not None or outlook.alias is None or address.key in finals:
        return ""
    return (
        f"the alias {outlook.alias.tried} ({outlook.alias.rule}) takes its mail, and aliases come before routes. Let"
        f" the alias name {address} too if the route should have a copy; else remove the route."
    )
