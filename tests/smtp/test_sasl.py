"""PLAIN and LOGIN without a network: what comes out of what goes in."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.reply import Reply
from smtproute.smtp.sasl import Credentials, Mechanism, SaslError, challenge, decoded, exchange


def run(mechanism: str, *responses: bytes | None) -> list[bytes | Credentials]:
    going = exchange(mechanism)
    return [going.take(response) for response in responses]


@pytest.mark.parametrize(
    ("mechanism", "responses", "taken"),
    [
        ("PLAIN", [b"\0a@b.example\0secret"], [Credentials("a@b.example", b"secret")]),
        ("PLAIN", [None, b"\0a@b.example\0secret"], [b"", Credentials("a@b.example", b"secret")]),
        ("PLAIN", [b"a@b.example\0a@b.example\0secret"], [Credentials("a@b.example", b"secret")]),
        ("PLAIN", [b"\0\0"], [Credentials("", b"")]),
        ("PLAIN", ["\0ü@b.example\0pässwörd".encode()], [Credentials("ü@b.example", "pässwörd".encode())]),
        ("PLAIN", [b"\0\xfc@b.example\0p\xe4ss"], [Credentials(r"\xfc@b.example", b"p\xe4ss")]),
        (
            "LOGIN",
            [None, b"a@b.example", b"secret"],
            [b"Username:", b"Password:", Credentials("a@b.example", b"secret")],
        ),
        ("LOGIN", [b"a@b.example", b"secret"], [b"Password:", Credentials("a@b.example", b"secret")]),
        ("LOGIN", [b"", b""], [b"Password:", Credentials("", b"")]),
    ],
)
def test_an_exchange(mechanism: str, responses: list[bytes | None], taken: list[bytes | Credentials]) -> None:
    assert run(mechanism, *responses) == taken


@pytest.mark.parametrize(
    ("response", "code", "enhanced"),
    [
        (b"", 501, "5.5.2"),
        (b"a@b.example", 501, "5.5.2"),
        (b"a@b.example\0secret", 501, "5.5.2"),
        (b"\0a@b.example\0secret\0", 501, "5.5.2"),
        (b"other@b.example\0a@b.example\0secret", 535, "5.7.8"),
        (b"A@b.example\0a@b.example\0secret", 535, "5.7.8"),
    ],
)
def test_plain_that_is_refused(response: bytes, code: int, enhanced: str) -> None:
    with pytest.raises(SaslError) as refused:
        run("PLAIN", response)
    assert (refused.value.reply.code, refused.value.reply.enhanced) == (code, enhanced)


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "plain", "", "XOAUTH2"])
def test_other_mechanisms(mechanism: str) -> None:
    with pytest.raises(SaslError, match="PLAIN or LOGIN") as refused:
        exchange(mechanism)
    assert (refused.value.reply.code, refused.value.reply.enhanced) == (504, "5.5.4")


@pytest.mark.parametrize("text", [b"=", b"YQ", b"YQ=", b"YQ==YQ==", b"Y Q=", b"YQ==\t", b"*", b"\xff", b"a@b", b"===="])
def test_what_is_no_base64(text: bytes) -> None:
    with pytest.raises(SaslError) as refused:
        decoded(text)
    assert (refused.value.reply.code, refused.value.reply.enhanced) == (501, "5.5.2")
    assert refused.value.__cause__ is None and refused.value.__suppress_context__


def test_a_challenge_stands_in_base64() -> None:
    assert challenge(b"Username:") == Reply(334, "", "VXNlcm5hbWU6")
    assert challenge(b"").wire() == b"334 \r\n"


def test_a_password_is_in_no_repr() -> None:
    assert "secret" not in repr(run("LOGIN", b"a@b.example", b"secret"))


@given(st.binary())
def test_base64_comes_back(octets: bytes) -> None:
    assert decoded(b64encode(octets)) == octets


RESPONSES = st.lists(st.binary(max_size=40) | st.just(b"\0") | st.just(b"a\0a\0a"), max_size=4)


@given(st.sampled_from(Mechanism), st.none() | st.binary(max_size=40), RESPONSES)
def test_an_exchange_ends_in_credentials_or_the_one_error(
    mechanism: Mechanism, initial: bytes | None, responses: list[bytes]
) -> None:
    """Two responses at most, and of what was sent nothing is in the error."""
    going = exchange(mechanism)
    for asked, response in enumerate([initial, *responses]):
        try:
            taken = going.take(response)
        except SaslError as refused:
            assert refused.reply.code in {501, 535} and refused.reply.wire().isascii()
            return
        if isinstance(taken, Credentials):
            parts = b"".join([initial or b"", *responses[:asked]])
            assert taken.password in parts
            return
        assert asked < 2 and taken in {b"", b"Username:", b"Password:"}


NO_NUL = st.characters(exclude_characters="\0", codec="utf-8")


@given(st.text(NO_NUL, min_size=1), st.text(NO_NUL).map(str.encode))
def test_both_mechanisms_mean_the_same(name: str, password: bytes) -> None:
    (plain,) = run("PLAIN", b"\0" + name.encode() + b"\0" + password)
    *_, login = run("LOGIN", name.encode(), password)
    assert plain == login == Credentials(name, password)
