"""What tests and the demo run against: a scripted upstream with real sockets, and a clock that is turned by hand.

Nothing here is imported by the relay.
"""
