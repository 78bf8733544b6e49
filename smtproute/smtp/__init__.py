"""Speaks SMTP, in both directions.

Towards clients: a `listener` binds a port and owns its sessions. A `session` reads octets, has `wire` make commands
and content of them, asks its `door` about each command, and says the reply. It knows the order of the protocol and
its limits; who may send what where, and what becomes of a message, is the Door's.

Towards servers: a `pool` keeps connections to the addresses of the next hops, and a `client` on each of them
pipelines one transaction after another; it reads the replies with the same `wire`.
"""
