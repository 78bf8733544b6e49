"""An SMTP routing relay and test harness that can say why each copy went where it went."""

__version__ = "0.1.0"
