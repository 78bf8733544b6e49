"""SRS: who rewrites the senders of forwards, as the file says, key by key, and else a docker-mailserver folder."""

from __future__ import annotations

from pathlib import Path

from smtproute.config.document import Document
from smtproute.config.schema import Root
from smtproute.core.settings import Srs

__all__ = ["srs"]

SECRET = "srs.secret"
"""In the state folder: the secret of those who name none."""


def srs(document: Document, root: Root, folder: Srs, state: Path) -> Srs:
    """Whose senders are rewritten, and how. The file of secrets is not read: where it is not there, it is made."""
    table = root.srs
    domain, exclude, secrets = folder.domain, folder.exclude, folder.secrets
    secret_file = "" if secrets else folder.secret_file or str(state / SECRET)
    if table is not None:
        domain = table.domain or domain
        exclude = exclude if table.exclude is None else table.exclude
        if domain is None:
            text = 'missing. Add domain = "example.org", a domain whose mail comes here: bounces come back to it.'
            document.wrong(("srs", "domain"), text)
        if table.secret is not None:
            secrets, secret_file = table.secret, ""
        if table.secret_file is not None:
            if table.secret is not None:
                text = "the environment sets the secret as well. Remove one of the two."
                document.wrong(("srs", "secret_file"), text)
            secrets, secret_file = (), str(document.path(("srs", "secret_file"), table.secret_file))
    return Srs() if domain is None else Srs(domain, secret_file, secrets, exclude)
