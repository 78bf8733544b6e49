"""Decides. Values come in, values go out.

Everything that can be settled without asking the world is settled here: what an address is, where a recipient's
mail goes and why, in which order servers are tried, when a deferred delivery is tried again, what a bounce says.
No clock, no socket, no file: the rooms around gather the facts, call `decide`, and act on the plan.
"""
