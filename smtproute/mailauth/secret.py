"""Secret: what SRS signs with, in a file, one secret a line: the first signs, all of them verify."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

from smtproute.mailauth import keys
from smtproute.world import World

__all__ = ["SecretFault", "make", "read"]

_OCTETS = 18
"""Of chance in a new secret: 24 characters, as in those that postsrsd is installed with."""


class SecretFault(ValueError):
    """A file of secrets cannot be used. The text says what is wrong and how to mend it."""


def read(file: str) -> tuple[str, ...]:
    """The secrets in a file; none where there is no file. Raises SecretFault."""
    try:
        mode, text = Path(file).stat().st_mode, keys.read(file)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise SecretFault(f"it cannot be read ({error.strerror}); let our user read this file") from None
    if mode & stat.S_IRWXO:
        shown = stat.filemode(mode)
        raise SecretFault(f"others can read it ({shown}), and send bounces through us with it; chmod 600 {file}")
    lines = [line.removesuffix("\r") for line in text.decode("utf-8", "surrogateescape").split("\n")]
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise SecretFault("the file is empty; write a secret into it, or remove it: serve then makes one")
    blank = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    if blank is not None:
        raise SecretFault(f"line {blank} is blank, and each line is a secret; remove the line")
    return tuple(lines)


def make(file: str, world: World) -> None:
    """Writes a new secret into a new file, which only our user may read. What is there is never overwritten.

    Raises SecretFault.
    """
    secret = base64.b64encode(world.chance.randbytes(_OCTETS)) + b"\n"
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as written:
            written.write(secret)
            written.flush()
            os.fsync(written.fileno())
    except OSError as error:
        raise SecretFault(f"it is not there and cannot be made ({error.strerror}); let our user write there") from None
