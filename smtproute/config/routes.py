"""Routes: what `[[route]]` and `default` say, checked against the endpoints and listeners that there are."""

from __future__ import annotations

from collections.abc import Mapping

from smtproute.config.document import Document, Location
from smtproute.config.schema import Root, RouteTable, TargetTable, close
from smtproute.core.routes import Route, Target, opens
from smtproute.core.settings import Listener, Mode

__all__ = ["default", "routes"]


def default(document: Document, root: Root) -> Target:
    """What becomes of addresses that nothing else claims."""
    return _target(document, ("default",), root.default, root)


def routes(document: Document, root: Root, listeners: Mapping[str, Listener]) -> tuple[Route, ...]:
    """The routes in file order. One that lets strangers send anywhere is a mistake."""
    found = []
    for number, table in enumerate(root.route):
        at: Location = ("route", number)
        route = _route(document, at, table, root, listeners)
        if listener := opens(route, listeners):
            text = (
                f"anyone could send anywhere through the inbound listener {listener}, an open relay. "
                'Name the domains, as in "*@example.org", or say it in default, which is for permitted senders only.'
            )
            document.wrong((*at, "match"), text)
        found.append(route)
    return tuple(found)


def _route(document: Document, at: Location, table: RouteTable, root: Root, listeners: Mapping[str, Listener]) -> Route:
    if table.listener is not None and table.listener not in listeners:
        meant = close(table.listener, tuple(listeners)) or f" The listeners: {', '.join(listeners)}."
        document.wrong((*at, "listener"), f"there is no [listener.{table.listener}].{meant}")
    return Route(
        f"route[{at[1]}]",
        table.match,
        _target(document, at, table, root, seal=table.seal),
        sender=table.sender,
        clients=table.client,
        listener=table.listener or "",
    )


def _target(document: Document, at: Location, table: TargetTable, root: Root, *, seal: bool = True) -> Target:
    name = table.endpoint
    if name is None:
        if table.mode is None:
            text = 'says not what to do. Add endpoint = "NAME", or mode = "capture", "hold", "bounce" or "reject".'
            document.wrong(at, text)
        elif table.mode is Mode.ENDPOINT:
            document.wrong((*at, "mode"), 'which endpoint? Add endpoint = "NAME".')
        return Target(table.mode or Mode.REJECT, seal=seal)
    if table.mode not in (None, Mode.ENDPOINT, Mode.HOLD):
        document.wrong((*at, "mode"), f'contradicts endpoint = "{name}". Remove one of the two.')
    if name not in root.endpoint:
        text = f"there is no [endpoint.{name}].{close(name, tuple(root.endpoint)) or ' Add it, with its servers.'}"
        document.wrong((*at, "endpoint"), text)
    return Target(table.mode or Mode.ENDPOINT, name, seal)
