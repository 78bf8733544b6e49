"""Where the oracle lives."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that Postfix's user may pass through, which those of pytest are not."""
    if os.geteuid() != 0:
        pytest.skip("Postfix's master starts as root only")
    kinds = subprocess.run(["/usr/sbin/postconf", "-m"], capture_output=True, text=True, check=True).stdout.split()
    missing = {"hash", "pcre", "texthash", "unionmap"} - set(kinds)
    if missing:
        pytest.skip(f"this Postfix has no {', '.join(sorted(missing))} tables")
    with tempfile.TemporaryDirectory(prefix="smtproute-oracle.") as made:
        folder = Path(made).resolve()
        folder.chmod(0o711)
        yield folder
