"""The pytest plugin: fixtures over a relay on a stage, and scenario files as tests."""

from __future__ import annotations

import pytest

__all__ = ["pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "smtproute_config(config): the configuration of the relay under test")
