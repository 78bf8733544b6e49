"""Owns the 250. Here a session's commands become decisions, and a message becomes ours.

At MAIL the door takes the configuration as it stands and keeps it for the transaction. At RCPT it gathers the facts
and asks `core.decide`, so that a wrong recipient is refused while the client still listens. At DATA it takes the
content (a large one straight to disk), looks through its header, gathers the verdicts, and commits; only then does
it say 250. `explain` walks the same way for a message that was never sent.
"""
