"""Address and Domain: what is let in, how it is compared, how it is written out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.address import Address, AddressError, Domain
from smtproute.core.transcript import legible


@pytest.mark.parametrize(
    ("text", "local", "key"),
    [
        ("a@b.example", "a", "a@b.example"),
        ("A.B+Tag@B.Example", "A.B+Tag", "a.b+tag@b.example"),
        ('"john doe"@b.example', "john doe", "john doe@b.example"),
        ('"a\\"b"@b.example', 'a"b', 'a"b@b.example'),
        ("a@b.example.", "a", "a@b.example"),
        ("jos\u00e9@b\u00fccher.example", "jos\u00e9", "jos\u00e9@xn--bcher-kva.example"),
        ("a@[192.0.2.1]", "a", "a@[192.0.2.1]"),
        ("a@[IPv6:2001:db8::1]", "a", "a@[ipv6:2001:db8::1]"),
        ("SRS0=abcd=TT=x.example=u@b.example", "SRS0=abcd=TT=x.example=u", "srs0=abcd=tt=x.example=u@b.example"),
    ],
)
def test_parse(text: str, local: str, key: str) -> None:
    address = Address.parse(text)
    assert (address.local, address.key) == (local, key)


@pytest.mark.parametrize("label", ["柔" * 64, "㌀" * 20, "柔" * 63])
def test_a_label_longer_than_dns_takes(label: str) -> None:
    """No A-label has more than 63 octets, so what has more characters is not encoded, which would take long."""
    with pytest.raises(AddressError, match="too long" if len(label) != 63 else "Label too long"):
        Domain.parse(f"{label}.example")


def test_a_name_longer_than_dns_takes() -> None:
    most = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert Domain.parse(f"{most}.") == Domain.parse(most)
    for name in (f"{most}a", ".".join(["柔" * 50] * 6)):
        with pytest.raises(AddressError, match="too long for a domain name"):
            Domain.parse(name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "@b.example",
        "a@",
        "a@-b.example",
        "a@b..example",
        ".a@b.example",
        "a.@b.example",
        "a..b@b.example",
        "a b@b.example",
        '"a@b.example',
        'a"b"@b.example',
        "a@b.example\r\nX: y",
        "a\0@b.example",
        "a@b exa.mple",
        "a@[300.1]",
        "a@[not an address]",
        "a@" + "b" * 64 + ".example",
        "a" * 300 + "@b.example",
        "a@" + ".".join(["label"] * 60),
        '"\r\n"@b.example',
        '"a\nb"@b.example',
        "a\u009b2J@b.example",
        '"a\u009b2J"@b.example',
        "a\u202eb@b.example",
        '"a\u2066b"@b.example',
        "a@b\u0085c.example",
        "a@b\u200ec.example",
        "a\ud800@b.example",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressError):
        Address.parse(text)


def test_domains_are_equal_however_they_are_written() -> None:
    assert Domain.parse("B\u00fccher.example") == Domain.parse("XN--BCHER-KVA.EXAMPLE.")
    assert str(Domain.parse("Example.ORG")) == "Example.ORG"


@pytest.mark.parametrize(
    ("text", "delimiter", "bare"),
    [
        ("user+tag@x.example", "+", "user@x.example"),
        ("user+a+b@x.example", "+", "user@x.example"),
        ("user@x.example", "+", None),
        ("+tag@x.example", "+", None),
        ("+user+tag@x.example", "+", None),
        ("-user+tag@x.example", "+-", None),
        ("user-a+tag@x.example", "+-", "user@x.example"),
        ("user+tag@x.example", "", None),
        ("user-tag@x.example", "-", "user@x.example"),
        ("owner-list@x.example", "-", None),
        ("list-request@x.example", "-", None),
        ("Postmaster+x@x.example", "+", "Postmaster@x.example"),
        ("mailer-daemon@x.example", "-", None),
    ],
)
def test_detail(text: str, delimiter: str, bare: str | None) -> None:
    found = Address.parse(text).without_detail(delimiter)
    assert (str(found) if found else None) == bare


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=40),
    st.sampled_from(["x.example", "[192.0.2.1]", "b\u00fccher.example"]),
)
def test_what_is_written_is_read_back(local: str, domain: str) -> None:
    address = Address(local, Domain.parse(domain))
    assert Address.parse(str(address)) == address


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except AddressError:
        return
    assert not set("\r\n\0") & set(str(address))
    assert legible(str(address)) == str(address)


def test_beyond_ascii_exactly_what_is_legible_is_let_in() -> None:
    for char in map(chr, range(0x80, 0x110000)):
        for local in (char, f'"{char}"'):
            try:
                Address.parse(f"{local}@b.example")
            except AddressError:
                assert legible(char) != char
            else:
                assert legible(char) == char
