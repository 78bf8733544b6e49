"""Everything durable: what has been accepted and is not yet delivered, what was captured, and what happened to it.

A message is in the database before its sender hears 250, and stays there until every delivery of it is finished and
its time in the trace is over. The folder holds `spool.db` (SQLite, WAL, synchronous=FULL) and `bodies/`, where a
content too large for a row has a file of its own.

- `queue` is the interface: five verbs and the values that go through them.
- `sqlite` is the relay's implementation, `operator` what the command line opens beside it (or alone); `reading` is
  what both can be asked. The database is the only channel between them.
- `writer` is the one thread that writes: it drains a queue of jobs, runs them in one transaction, and lets one fsync
  serve them all. `schema` and `tables` are the database, `bodies` the files, `codec` how values stand in a row.
- `claims` remembers which deliveries this process has taken. That is not durable on purpose: what a crashed process
  had claimed is simply due again.
"""
