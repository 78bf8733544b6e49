"""Takes each delivery to its next hop, and says what became of it.

The dispatcher claims what is due from the spool, puts the recipients of one message that can share a transaction
into one job, and runs the jobs in lanes: one for each endpoint, one for the mailboxes, so that a slow server holds
back its own mail only. An attempt at a job makes its copy (`outgoing`: forged results out, trace header and seal in
front), asks `endpoint` for the addresses, tries them in order, and settles the outcomes. What failed for good goes
back to its sender (`bounce`).
"""
