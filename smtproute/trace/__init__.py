"""Reads events: as text for people, as log lines. It stores nothing; the spool keeps the events of a message.

Log, trace and (later) metrics are readings of one event, so they cannot contradict each other.
"""
