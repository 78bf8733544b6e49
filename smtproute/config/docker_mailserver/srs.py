"""SRS: the variables that docker-mailserver hands to postsrsd."""

from __future__ import annotations

from smtproute.config.docker_mailserver.paths import Paths
from smtproute.core.address import AddressError, Domain
from smtproute.core.docker_mailserver import Environment
from smtproute.core.settings import Srs

__all__ = ["srs_of"]

SECRET = "/etc/postsrsd.secret"
"""What docker-mailserver makes where SRS_SECRET is not set."""


def srs_of(environment: Environment, domain: str, paths: Paths) -> Srs:
    """Whose senders are rewritten: nobody's without ENABLE_SRS, or where the domain is none.

    `domain` is docker-mailserver's DOMAINNAME. Its own secret is used where `paths` say where it is.
    """
    if not environment.on("ENABLE_SRS"):
        return Srs()
    try:
        found = Domain.parse(environment["SRS_DOMAINNAME"] or domain)
    except AddressError:
        return Srs()
    here = None if environment.srs_secrets else paths.host(SECRET)
    return Srs(found, str(here or ""), environment.srs_secrets, environment.srs_excluded)
