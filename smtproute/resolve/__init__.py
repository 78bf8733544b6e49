"""Resolve: names become addresses.

A host name is looked for in the configured order: the static table of the configuration, the hosts file, DNS
(`resolver`). The first two are tables in memory (`sources`). DNS is asked with a deadline, server after server
(`nameservers`); its answers are kept for their time to live, and whoever asks for what is being asked waits for the
same answer (`cache`); while it fails, its last good answer stays in use, and says so (`lastgood`). The names of
endpoints are looked up again and again, so that a change is told and connections to old addresses end (`watch`).
Who judges or checks mail asks DNS alone, for names that strangers wrote, and takes nothing from the rest (`records`).

How a look-up ended is told apart (`core.choice.Resolution`), because each ending has another mend: no such name, a
name without such a record, a failing server, a silent one, one that refuses.

Names are asked as they stand, as A-labels; the search list of resolv.conf is not used, because where mail goes must
not depend on it.
"""

from __future__ import annotations

from smtproute.resolve.resolver import Resolver

__all__ = ["Resolver"]
