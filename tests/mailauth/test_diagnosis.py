"""Diagnosis: each kind of damage done to a message that dkimpy signed is named, and what is whole says nothing."""

from __future__ import annotations

import base64
import quopri

import dkim
import pytest
from arc_peers import pem, signing_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from dkim_peers import one
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.core.message import fields
from smtproute.core.settings import Authentication
from smtproute.mailauth import arc
from smtproute.mailauth.diagnosis import diagnose
from smtproute.mailauth.keys import SigningKey, record
from smtproute.mailauth.sign import sign

KEY = signing_key("sender.example")
RECORD = record(KEY).encode()
BOUNDS = Authentication()
HEADER = (
    b"From: Ada Lovelace <ada@sender.example>\r\n"
    b"To: list@lists.example\r\n"
    b"Subject: Engines and\r\n\tlooms\r\n"
    b"Message-ID: <1@sender.example>\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n"
)
BODY = "Dear Charles,\r\n\r\n.it weaves\r\nFrom here on: ä\r\n-- \r\nAda\r\n".encode()
LETTER = HEADER + b"\r\n" + BODY
NAMES = [b"from", b"to", b"cc", b"subject", b"message-id", b"mime-version", b"content-type", b"reply-to"]
NAMES += [b"content-transfer-encoding", b"x-mailer"]
INTACT_HEADER, INTACT_BODY = "The signed header fields are as they were.", "The body is as it was."


def signed(letter: bytes = LETTER, form: bytes = b"relaxed/relaxed", names: list[bytes] = NAMES, **options) -> bytes:
    field = dkim.sign(
        letter,
        b"mail",
        b"sender.example",
        pem(KEY),
        canonicalize=tuple(form.split(b"/")),
        include_headers=names,
        **options,
    )
    return field + letter


def told(message: bytes, txt: bytes | None = RECORD) -> tuple[str, ...]:
    signature = next(each for each in fields(message) if each.name == b"dkim-signature")
    return diagnose(message, signature.raw(message), txt, BOUNDS)


def changed(*pairs: tuple[bytes, bytes], letter: bytes = LETTER, form: bytes = b"relaxed/relaxed") -> tuple[str, ...]:
    """What is told where each first text became the second after signing."""
    message = signed(letter, form)
    for before, after in pairs:
        assert message.count(before) == 1, before
        message = message.replace(before, after)
    return told(message)


@pytest.mark.parametrize("form", [b"relaxed/relaxed", b"simple/simple", b"relaxed/simple", b"simple/relaxed"])
def test_what_is_whole_says_nothing(form: bytes) -> None:
    assert told(signed(form=form)) == ()
    assert told(b"Received: by x\r\n" + signed(form=form)) == ()
    assert told(signed(form=form, length=True) + b"more\r\n") == (), "what l= leaves out is no change"


# The body


@pytest.mark.parametrize("form", [b"relaxed/relaxed", b"simple/simple"])
def test_a_footer(form: bytes) -> None:
    message = signed(form=form) + b"\r\n_____\r\nlist@lists.example\r\nlists.example/unsubscribe\r\n"
    said = '4 lines (56 octets), the first of them "_____", were put after the body that was signed.'
    assert told(message) == (said, INTACT_HEADER)
    message = signed(HEADER + b"\r\n", form) + b"bought\r\n"
    assert (
        told(message)[0]
        == '1 line (8 octets), the first of them "bought", was put: nothing was there when it was signed.'
    )


MIXED = (
    HEADER.replace(b"text/plain; charset=utf-8", b"multipart/alternative; boundary=b")
    + b"\r\n--b\r\nContent-Type: text/plain\r\n\r\nwords\r\n\r\n"
    + b"--b\r\nContent-Type: text/html\r\n\r\n<p>rich</p>\r\n--b--\r\n"
)


def test_lines_put_into_a_part() -> None:
    said, _ = changed((b"words\r\n\r\n", b"words\r\n\r\nvia the list\r\n"), letter=MIXED)
    assert said == '1 line (14 octets), the first of them "via the list", was put into the body, as line 6 and on.'
    said, _ = changed((b"<p>rich</p>\r\n", b"<b>EXTERNAL</b>\r\n<hr>\r\n<p>rich</p>\r\n"), letter=MIXED)
    assert said.startswith(
        '2 lines (23 octets), the first of them "<b>EXTERNAL</b>", were put into the body, as line 9'
    )
    said, _ = changed((b"\r\n\r\nDear", b"\r\n\r\nCAUTION: from outside\r\n\r\nDear"))
    assert said.startswith('2 lines (25 octets), the first of them "CAUTION: from outside"')


@pytest.mark.parametrize(
    ("form", "before", "after", "said"),
    [
        (b"simple/simple", b"it weaves\r\n", b"it  weaves \r\n", "white space was added"),
        (b"simple/simple", b"\r\n\r\nDear", b"\r\n\r\n\r\nDear", "blank lines were put before it"),
        (b"relaxed/relaxed", b"\r\nFrom here", b"\r\n>From here", 'began with "From " got a ">"'),
        (b"relaxed/relaxed", b"\r\n.it", b"\r\n..it", "began with a dot got one more"),
        (b"relaxed/relaxed", b"\r\n.it", b"\r\nit", "in no way that is known here"),
        (b"simple/simple", b"-- \r\n", b"--\r\n", 'the space after the "--"'),
        (b"relaxed/relaxed", BODY, BODY.decode().encode("latin-1"), "charset was changed from utf-8 to latin-1"),
        (b"relaxed/relaxed", BODY, quopri.encodestring(BODY), "encoded as quoted-printable"),
        (b"relaxed/relaxed", BODY, base64.encodebytes(BODY).replace(b"\n", b"\r\n"), "encoded as base64"),
        (
            b"relaxed/relaxed",
            BODY,
            b"--c\r\nContent-Type: text/plain\r\n\r\n" + BODY + b"--c\r\n\r\nfooter\r\n--c--\r\n",
            'it became one part of a multipart, which begins "--c"',
        ),
        (b"relaxed/relaxed", b"weaves", b"wove", "in no way that is known here"),
    ],
)
def test_a_body_that_was_changed(form: bytes, before: bytes, after: bytes, said: str) -> None:
    body, header = changed((before, after), form=form)
    assert said in body
    assert header == INTACT_HEADER


def test_dots_line_ends_and_long_lines() -> None:
    dots = HEADER + b"\r\n..\r\n...\r\n"
    assert "began with a dot lost one" in changed((b"\r\n..\r\n...\r\n", b"\r\n.\r\n..\r\n"), letter=dots)[0]
    line = b"0123456789" * 250
    broken = line[:998] + b"\r\n " + line[998:1995] + b"\r\n " + line[1995:]
    long = HEADER + b"\r\n" + line + b"\r\nend\r\n"
    assert "lines longer than 998 octets were broken" in changed((line, broken), letter=long)[0]


def test_a_signature_over_the_beginning_alone() -> None:
    message = signed(length=True)
    assert told(message.removesuffix(b"Ada\r\n"))[0].startswith("The end of the body is gone: ")
    said = told(message.replace(b"weaves", b"heaves") + b"more\r\n")
    assert said[0] == f"The body was changed within the first {len(BODY) - 1} octets, which were signed."


# The header


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (b"Subject: ", b"Subject: [looms] ", '"[looms]" was put into the Subject.'),
        (b"Subject: ", b"Subject: ***SPAM*** ", '"***SPAM***" was put into the Subject.'),
        (b"Subject: ", b"Subject: EXTERNAL: ", '"EXTERNAL:" was put into the Subject.'),
        (b"Subject: ", b"Subject: from a stranger - ", '"from a stranger -" was put in front of the Subject.'),
        (b"looms\r\n", b"looms (was: yarn)\r\n", '"(was: yarn)" was put behind the Subject.'),
        (
            b"MIME-Version",
            b"Reply-To: list@lists.example\r\nMIME-Version",
            'A Reply-To was added: "list@lists.example".',
        ),
        (b"MIME-Version", b"Cc: eve@else.example\r\nMIME-Version", 'A Cc was added: "eve@else.example".'),
        (b"MIME-Version: 1.0\r\n", b"", 'MIME-Version was removed: it was "1.0".'),
        (
            b"Encoding: 8bit",
            b"Encoding: quoted-printable",
            'Content-Transfer-Encoding was changed: it was "8bit", and is "quoted-printable".',
        ),
        (
            b"charset=utf-8",
            b'charset="utf-8"',
            'Content-Type was changed: it was "text/plain; charset=utf-8", and is "text/plain; charset="utf-8"".',
        ),
    ],
)
def test_a_header_field_that_was_changed(before: bytes, after: bytes, said: str) -> None:
    assert changed((before, after)) == (said, INTACT_BODY)


@pytest.mark.parametrize(
    ("form", "mailer"),
    [
        ("1.0 (1.0)", b""),
        (r"1.0 (Mac OS X Mail 16.0 \(3999.1\))", b"X-Mailer: Apple Mail (2.3999.1)\r\n"),
        (r"1.0 (Mac OS X Mail 16.0 \(3774.600.62\))", b""),
        (r"1.0 (Mac OS X Mail 12.4 \(3445.104.11\))", b""),
    ],
)
def test_the_comment_that_docker_mailserver_takes_out(form: str, mailer: bytes) -> None:
    letter = mailer + LETTER.replace(b"MIME-Version: 1.0", b"Mime-Version: " + form.encode())
    said, _ = changed((b"Mime-Version: " + form.encode(), b"Mime-Version: 1.0"), letter=letter)
    assert said == f'MIME-Version was changed: it was "{form}", and is "1.0".'


def test_a_list_that_writes_itself_into_from() -> None:
    ada = b"From: Ada Lovelace <ada@sender.example>"
    via = b"From: Ada Lovelace via Looms <looms@lists.example>\r\nReply-To: Ada Lovelace <ada@sender.example>"
    now = "Ada Lovelace via Looms <looms@lists.example>"
    by = f'From was changed: it was "Ada Lovelace <ada@sender.example>", and is "{now}".'
    assert set(changed((ada, via))) == {by, 'A Reply-To was added: "Ada Lovelace <ada@sender.example>".', INTACT_BODY}
    said = changed((ada, via), (b"Subject: ", b"Subject: [Looms] "))
    assert by in said and '"[Looms]" was put into the Subject.' in said and len(said) == 4
    assert by in changed((ada, via.replace(b"Reply-To: Ada Lovelace <ada@sender.example>", b"Cc: ada@sender.example")))


def test_several_changes_and_a_footer() -> None:
    said = changed((b"Subject: ", b"Subject: [looms] "), (BODY, BODY + b"footer\r\n"))
    assert len(said) == 2 and "after the body that was signed" in said[0] and "was put into the Subject" in said[1]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (b"and\r\n\tlooms", b"and\r\n looms", "Subject was folded with a space, not a tab."),
        (b"looms\r\n", b"looms \r\n", "Subject got white space at its end."),
        (b"To: list", b"To:list", "To lost the space after the colon."),
        (b"MIME-Version", b"Mime-Version", "Mime-Version got other capitals in its name."),
        (b"Message-ID: <1", b"Message-ID:\r\n <1", "Message-ID was folded."),
    ],
)
def test_what_simple_canonicalization_alone_sees(before: bytes, after: bytes, said: str) -> None:
    assert changed((before, after), form=b"simple/relaxed") == (said, INTACT_BODY)
    assert changed((before, after)) == ()


def test_two_fields_of_one_name() -> None:
    letter = b"X-Loom: one\r\nX-Loom: two\r\n" + LETTER
    message = signed(letter, names=[*NAMES, b"x-loom", b"x-loom"])
    turned = message.replace(b"X-Loom: one\r\nX-Loom: two\r\n", b"X-Loom: two\r\nX-Loom: one\r\n")
    assert told(turned) == ("The X-Loom fields changed their order.", INTACT_BODY)


def test_a_removed_field_cannot_be_told() -> None:
    said = changed((b"X-Mailer: Loom\r\n", b""), letter=b"X-Mailer: Loom\r\n" + LETTER)
    assert said[0] == "A signed header field was changed, added or removed, in no way that is known here."
    assert "cc, reply-to, x-mailer. They were removed, or never there" in said[1]
    assert "smtp_header_checks" in said[2]
    assert said[3:] == (INTACT_BODY,)


def test_a_comment_that_may_have_been_taken_out() -> None:
    """Of a release of Apple Mail that nobody knows yet."""
    letter = LETTER.replace(b"MIME-Version: 1.0", rb"Mime-Version: 1.0 (Mac OS X Mail 99.9 \(1.2.3\))")
    said = changed((rb" (Mac OS X Mail 99.9 \(1.2.3\))", b""), letter=letter)
    assert said[0] == "A signed header field was changed, added or removed, in no way that is known here."
    assert said[-2].startswith("Mime-Version may have had a comment (Apple Mail writes one), which docker-mailserver")
    assert said[-1] == INTACT_BODY
    assert not any("comment" in each for each in changed((b"list@lists", b"liszt@lists")))


def test_copied_fields_say_it_all() -> None:
    copies = b"|".join(
        [b"From:Ada=20Lovelace=20<ada@sender.example>", b"Subject:Engines=20and=0D=0A=09looms", b"X-Loom:=20steam"]
    )
    message = signed(names=[*NAMES, b"x-loom"])
    message = message.replace(b"DKIM-Signature: v=1;", b"DKIM-Signature: v=1; z=" + copies + b";")
    said = told(
        message.replace(b"Subject: Engines", b"Subject: Machines").replace(
            b"MIME-Version", b"From: b@else.example\r\nMIME-Version"
        )
    )
    assert said == (
        'A From was added: "b@else.example".',
        'Subject was changed: it was "Engines and looms", and is "Machines and looms".',
        'X-Loom was removed: it was "steam".',
        INTACT_BODY,
    )


# What else there is


def test_another_key_and_no_key() -> None:
    other = record(signing_key("sender.example", 1024)).encode()
    assert told(signed(), other) == (
        "The signature was made with another key than the one that is published, or its b= was damaged.",
        INTACT_BODY,
    )
    message = signed().replace(b"Subject: ", b"Subject: [looms] ")
    assert told(message, None) == told(message, b"v=DKIM1; p=") == (), "of the header nothing can be told"
    assert len(told(message + b"footer\r\n", None)) == 1


def sealed(letter: bytes) -> tuple[bytes, bytes, bytes]:
    """A letter with a set of ours, its ARC-Message-Signature, and the key record."""
    chain = arc.Chain(arc.ChainStatus.NONE)
    letter = arc.seal(letter, chain=chain, key=KEY, results="mx.example.org; none", at=1, bounds=BOUNDS) + letter
    return letter, next(each.raw(letter) for each in fields(letter) if each.name == b"arc-message-signature"), RECORD


def test_a_seal() -> None:
    letter, signature, txt = sealed(LETTER)
    assert diagnose(letter, signature, txt, BOUNDS) == ()
    said = diagnose(letter.replace(b"Subject: ", b"Subject: [x] "), signature, txt, BOUNDS)
    assert said == ('"[x]" was put into the Subject.', INTACT_BODY)


def test_bare_line_feeds_that_were_signed() -> None:
    letter, signature, txt = sealed(HEADER + b"\r\none\ntwo\n")
    said = diagnose(letter.replace(b"one\ntwo\n", b"one\r\ntwo\r\n"), signature, txt, BOUNDS)
    assert said == ("The body was changed: its lines ended in bare LF, and now in CRLF.", INTACT_HEADER)


def test_an_ed25519_signature() -> None:
    key = SigningKey("sender.example", "ed", Ed25519PrivateKey.generate())
    letter, txt = sign(LETTER, [key], 1, BOUNDS) + LETTER, record(key).encode()
    assert told(letter, txt) == ()
    assert told(letter.replace(b"Subject: ", b"Subject: [x] "), txt)[0] == '"[x]" was put into the Subject.'


TAGS = [b"v=1", b"a=rsa-sha256", b"a=ed25519-sha256", b"c=simple/simple", b"c=relaxed", b"d=sender.example", b"s=mail"]
TAGS += [b"h=from:to:subject", b"h=", b"bh=AAAA", b"bh=" + b"A" * 43 + b"=", b"b=AAAA", b"b=" + b"A" * 342 + b"=="]
TAGS += [b"l=1", b"l=-1", b"l=" + b"9" * 5000, b"z=From:=4|=|x:=ZZ|:", b"\xff=\xff", b"b=\x00", b"bh=?"]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(TAGS) | st.binary(max_size=20), max_size=8),
    st.binary(max_size=200) | st.lists(st.sampled_from(LETTER.splitlines(keepends=True))).map(b"".join),
    st.sampled_from([RECORD, b"", b"p=", None]) | st.binary(max_size=50),
)
def test_whatever_it_meets(tags: list[bytes], letter: bytes, txt: bytes | None) -> None:
    signature = b"DKIM-Signature: " + b"; ".join(tags) + b"\r\n"
    for said in diagnose(signature + letter, signature, txt, BOUNDS):
        assert said == said.strip() and len(said) < 1000


@settings(deadline=None)
@given(st.integers(min_value=0), st.sampled_from([*map(bytes, zip(range(32, 127))), b"\r\n", b"\t"]), st.booleans())
def test_whatever_happens_to_a_letter(at: int, octets: bytes, insert: bool) -> None:
    """Something is said exactly where the verdict is fail."""
    message = signed()
    start = message.index(b"From: ") + 1
    at = start + at % (len(message) - start)
    message = message[:at] + octets + message[at + (0 if insert else len(octets)) :]
    found = one(message, {"mail._domainkey.sender.example": RECORD}, at=4e9)
    assert bool(told(message)) is (found.result == "fail")


def test_hostile_sizes_are_bounded() -> None:
    """Each of these would take minutes if anything in it were quadratic, or tried without bound."""
    many = signed().replace(b"MIME-Version", b"Reply-To: a@b.example\r\n" * 5_000 + b"MIME-Version")
    assert told(many)
    assert told(signed() + b"x\r\n" * 300_000)
    assert told(signed().replace(b"weaves", b"wove" + b" " * 1_000_000))
    assert told(signed().replace(b"Subject: ", b"Subject: " + b"[" * 100_000))
    assert told(signed().replace(b"Ada Lovelace <", b'"' * 100_000 + b"<"))
