"""A real Postfix as the far end of an endpoint: STARTTLS with a certificate that is checked, AUTH through Dovecot."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from smtproute.app import Relay
from smtproute.core.event import Happening
from tests.e2e.authority import AUTHORITY, STRANGER, ca_file
from tests.e2e.conftest import LETTER, Lab
from tests.e2e.dovecot import PASSWORD, dovecot
from tests.oracle.postfix import Files, Postfix, postfix

pytestmark = [
    pytest.mark.peer("postfix", "postconf", "dovecot"),
    pytest.mark.skipif("os.geteuid() != 0", reason="Postfix's master starts as root only"),
]
HOST = "mail.provider.example"
FRIEND = "nobody@mail.oracle.test"
"""A user of this machine, whom Postfix knows by that."""
MORE = """
mail_spool_directory = {folder}/mail/
smtpd_sasl_path = {auth}
smtpd_tls_cert_file = {{config}}/certificate
smtpd_tls_key_file = {{config}}/certificate
smtpd_tls_received_header = yes
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = permit_sasl_authenticated, reject
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that Postfix's user may pass through, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="smtproute-endpoint.") as made:
        folder = Path(made).resolve()
        folder.chmod(0o711)
        yield folder / "postfix"


@contextmanager
def provider(folder: Path, name: str, authority: trustme.CA = AUTHORITY) -> Iterator[Postfix]:
    """A Postfix that takes mail of whoever has logged in to Dovecot, over TLS, with a certificate for this name."""
    certificate = authority.issue_cert(name).private_key_and_cert_chain_pem.bytes().decode()
    with dovecot({"customer": ""}) as logins:
        files = Files(more=MORE.format(folder=folder, auth=logins.auth), tables={"certificate": certificate})
        with postfix(folder, files) as far:
            yield far


async def customer(lab: Lab, far: Postfix, password: str) -> Relay:
    """A relay that has Postfix as its provider."""
    host, port = far.address
    lab.zone.set(HOST, "A", [host])
    lab.write("password", password)
    ca_file(lab.folder)
    login = 'username = "customer"\npassword_file = "password"'
    return await lab.application(f"{HOST}:{port}", keys=f'tls = "require"\nca_file = "ca.pem"\n{login}')


async def test_a_message_arrives_over_verified_tls_from_who_has_logged_in(lab: Lab, place: Path) -> None:
    with provider(place, HOST) as far:
        relay = await customer(lab, far, PASSWORD)
        message = await lab.delivered(relay, FRIEND)
        (attempt,) = lab.journal.of(Happening.ATTEMPT, message)
        assert attempt.facts["tls"].startswith("TLSv1.3 ")
        far.log.became(_queue_id(lab, message), 250, "")
    (file,) = (place / "mail" / "nobody" / "new").iterdir()
    kept = file.read_bytes()
    assert kept.endswith(LETTER.replace(b"\r\n", b"\n"))
    assert b"(using TLSv1.3 with cipher " in kept
    assert any("sasl_method=PLAIN, sasl_username=customer" in line for line in far.log.lines)


async def test_a_wrong_password_defers_and_nothing_of_the_message_leaves(lab: Lab, place: Path) -> None:
    with provider(place, HOST) as far:
        event = await lab.deferred(await customer(lab, far, "wrong"), FRIEND)
    assert "535 5.7.8 " in event.facts["detail"]
    assert "wrong" not in str(lab.journal.of(Happening.ATTEMPT)[0].facts["transcript"])
    assert not any("from=<friend@else.example>" in line for line in far.log.lines)


async def test_who_it_does_not_know_is_returned_to_the_sender(lab: Lab, place: Path) -> None:
    with provider(place, HOST) as far:
        relay = await customer(lab, far, PASSWORD)
        message = await lab.delivered(relay, FRIEND, "stranger@mail.oracle.test")
    became = {event.facts["address"]: event for event in await lab.ended(message, 2)}
    assert became[FRIEND].what is Happening.DELIVERED
    failed = became["stranger@mail.oracle.test"]
    assert failed.what is Happening.FAILED and failed.facts["reply"].startswith("550 5.1.1 ")
    await lab.journal.seen(Happening.BOUNCED, message)


@pytest.mark.parametrize(
    ("name", "authority", "why"),
    [(HOST, STRANGER, "unable to get"), ("elsewhere.example", AUTHORITY, "Hostname mismatch")],
    ids=["unknown authority", "wrong name"],
)
async def test_it_is_not_told_the_password_before_its_certificate_is_good(
    lab: Lab, place: Path, name: str, authority: trustme.CA, why: str
) -> None:
    with provider(place, name, authority) as far:
        event = await lab.deferred(await customer(lab, far, PASSWORD), FRIEND)
    assert f"certificate refused: {why}" in event.facts["detail"]
    assert not any("sasl_" in line for line in far.log.lines)


def _queue_id(lab: Lab, message: str) -> str:
    """What Postfix calls it."""
    (event,) = lab.journal.of(Happening.DELIVERED, message)
    return event.facts["reply"].rsplit(" ", 1)[-1]
