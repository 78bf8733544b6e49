"""Other people's clients log in: swaks, smtplib and aiosmtplib."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from dataclasses import replace

import aiosmtplib
import pytest
from recording import LOCAL, House, Taken, listening, on_both_loops
from swaks import swaks

from smtproute.core.address import Address
from smtproute.core.settings import Auth, AuthInClear, ListenerTls, Role
from smtproute.core.settings import Listener as Settings

NAME, PASSWORD = "name@example.org", "pässwörd: {1}"
TLS = [(ListenerTls.STARTTLS, "--tls"), (ListenerTls.IMPLICIT, "--tlsc")]


@pytest.fixture(scope="module")
def settings(pem: str) -> Settings:
    return Settings("out", port=0, role=Role.SUBMISSION, tls=ListenerTls.STARTTLS, certificate=pem)


def house() -> House:
    return House(passwords={NAME: PASSWORD.encode()})


def sent(mine: House) -> Taken:
    (taken,) = mine.taken
    assert taken.envelope.client.login == Address.parse(NAME) and taken.envelope.client.tls
    assert PASSWORD not in str(taken.transcript) + str(mine.events)
    return taken


@pytest.mark.peer("swaks", "perl:Net::SSLeay")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize(("tls", "option"), TLS)
async def test_swaks(settings: Settings, tls: ListenerTls, option: str, mechanism: str) -> None:
    mine = house()
    async with listening(mine, replace(settings, tls=tls)) as listener:
        envelope = ("--from", NAME, "--to", "c@d.example", option)
        login = ("--auth", mechanism, "--auth-user", NAME, "--auth-password")
        status, printed = await swaks(listener.address, *envelope, *login, PASSWORD)
        assert status == 0 and "<~  235 2.7.0 Authentication successful" in printed, printed
        status, printed = await swaks(listener.address, *envelope, *login, "wrong")
        assert status == 28 and "<~* 535 5.7.8 Authentication failed" in printed, printed
        status, printed = await swaks(listener.address, *envelope)
        assert status == 23 and "<~* 530 5.7.0 Authentication required: send AUTH first" in printed, printed
    assert [str(recipient) for recipient in sent(mine).recipients] == ["c@d.example"]


@pytest.mark.peer("swaks")
async def test_swaks_that_does_not_encrypt(settings: Settings) -> None:
    mine = house()
    async with listening(mine, settings) as listener:
        envelope = ("--from", NAME, "--to", "c@d.example")
        status, printed = await swaks(listener.address, *envelope, "--auth-user", NAME, "--auth-password", PASSWORD)
        assert status == 28 and "did not advertise authentication" in printed, printed
        status, printed = await swaks(listener.address, *envelope)
        assert status == 23 and "<** 530 5.7.0 Must issue a STARTTLS command first" in printed, printed
        clear = replace(settings, auth_in_clear=AuthInClear.LOOPBACK)
    async with listening(mine, clear) as listener:
        status, printed = await swaks(listener.address, *envelope, "--auth-user", NAME, "--auth-password", PASSWORD)
        assert status == 0 and "<-  235 2.7.0 Authentication successful" in printed, printed
    assert len(mine.taken) == 1


@pytest.mark.peer("swaks")
@pytest.mark.parametrize("role", [Role.TRUSTED, Role.SUBMISSION])
async def test_swaks_where_any_login_is_good(role: Role) -> None:
    mine = House()
    settings = Settings("tests", port=0, role=role, auth=Auth.ANY, trusted_networks=LOCAL)
    async with listening(mine, settings) as listener:
        login = ("--auth-user", "apikey", "--auth-password", PASSWORD)
        status, printed = await swaks(listener.address, "--from", NAME, "--to", "c@d.example", *login)
    assert status == 0 and "<-  235 2.7.0 Authentication successful" in printed, printed
    (taken,) = mine.taken
    assert taken.envelope.client.named == "apikey" and PASSWORD not in str(taken.transcript)


@on_both_loops
async def test_smtplib(settings: Settings, context: ssl.SSLContext) -> None:
    mine = House(passwords={NAME: b"secret"})  # it knows ASCII only

    def session(address: tuple[str, int]) -> None:
        with smtplib.SMTP(*address, local_hostname="client.example") as client:
            client.starttls(context=context)
            with pytest.raises(smtplib.SMTPAuthenticationError, match="535"):
                client.login(NAME, "wrong")
            with pytest.raises(smtplib.SMTPSenderRefused, match="530"):
                client.sendmail(NAME, ["c@d.example"], b"Subject: x\r\n\r\n")
            client.login(NAME, "secret")
            client.sendmail(NAME, ["c@d.example"], b"Subject: x\r\n\r\n")

    async with listening(mine, settings) as listener:
        await asyncio.to_thread(session, listener.address)
    sent(mine)


@on_both_loops
async def test_aiosmtplib(settings: Settings, context: ssl.SSLContext) -> None:
    mine = house()
    async with listening(mine, replace(settings, tls=ListenerTls.IMPLICIT)) as listener:
        host, port = listener.address

        def client(password: str) -> aiosmtplib.SMTP:
            return aiosmtplib.SMTP(
                hostname=host, port=port, use_tls=True, tls_context=context, username=NAME, password=password
            )

        with pytest.raises(aiosmtplib.SMTPAuthenticationError) as refused:
            async with client("wrong"):
                pass
        assert refused.value.code == 535
        async with client(PASSWORD) as connection:
            await connection.sendmail(NAME, ["c@d.example"], b"Subject: x\r\n\r\n")
    sent(mine)
    assert len(mine.logins) == 3, "with the wrong password it tries both mechanisms"
