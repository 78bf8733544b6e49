"""Turns text into the values that rooms are built from.

A TOML file and `SMTPROUTE__SECTION__KEY` variables are merged into one document, which remembers where each value
came from. The schema says which keys there are and what a value may be; what only several keys together can tell is
checked after it. Then the tables that the document names are read, and one frozen Snapshot goes out. Whatever is
wrong is a Mistake: one line each, naming file or variable, key, value and the mend. Only faults inside tables, which
Postfix too would live with, are let through as warnings.
"""

from smtproute.config.document import Mistake
from smtproute.config.load import find, load

__all__ = ["Mistake", "find", "load"]
