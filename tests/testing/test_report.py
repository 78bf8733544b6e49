"""What a test says that fails: what was expected first, then what there is, bounded."""

from __future__ import annotations

from dataclasses import replace

from smtproute.core.event import Event, Happening
from smtproute.core.settings import Kind
from smtproute.testing.arrivals import Arrival
from smtproute.testing.report import again, arrived, cut, failure, folded

AT = 1_700_000_000.0
LETTER = Arrival(
    kind=Kind.ENDPOINT,
    relay="relay",
    sender="friend@else.example",
    recipients=("name@external.example",),
    written=("name@example.org",),
    content=b"Subject: Hello\r\n\r\nHello.\r\n",
    message="01HF",
    at=AT + 0.25,
    upstream="mx.external.example",
    endpoint="external",
)
KEPT = replace(LETTER, kind=Kind.MAILBOX, recipients=("name@example.org",), upstream="", endpoint="", at=AT)
TRACE = [Event(Happening.RETRIED, AT, "01HF"), Event(Happening.RELEASED, AT + 60, "01HF")]


def test_a_table_of_what_arrived() -> None:
    assert (
        arrived([KEPT, LETTER])
        == """\
2 messages arrived:
     2023-11-14 UTC  place                            from                   to                     subject  octets
  1  22:13:20.000    mailbox                          <friend@else.example>  name@example.org       Hello        26
  2  22:13:20.250    external at mx.external.example  <friend@else.example>  name@external.example  Hello        26"""
    )
    assert arrived([]) == "nothing arrived"


def test_rows_that_are_meant_are_marked() -> None:
    head, _, *rows = arrived([KEPT, LETTER], meant=[2]).splitlines()
    assert head == "2 messages arrived, of which those marked > are meant:"
    assert [row[:4] for row in rows] == ["  1 ", "> 2 "]
    assert arrived([KEPT, LETTER], meant=[1, 2]) == arrived([KEPT, LETTER])


def test_what_a_server_offers_is_one_line() -> None:
    said = ["-> 220 a", "<- EHLO b", "-> 250-a", "-> 250-SIZE 1", "-> 250 HELP", "<- MAIL FROM:<>", "-> 250 2.1.0 Ok"]
    lines = folded([f"  22:13:20.000 {line}" for line in said])
    assert [line[15:] for line in lines] == [*said[:2], "-> 250-a, SIZE 1, HELP", *said[5:]]


def test_days_and_relays_are_told_apart_where_there_are_several() -> None:
    later = replace(KEPT, relay="b", at=AT + 86400, sender="")
    bounce = replace(LETTER, relay="", endpoint="")
    assert (
        arrived([KEPT, later, bounce])
        == """\
3 messages arrived:
     when (UTC)           place                from                   to                     subject  octets
  1  2023-11-14 22:13:20  mailbox by relay     <friend@else.example>  name@example.org       Hello        26
  2  2023-11-15 22:13:20  mailbox by b         <>                     name@example.org       Hello        26
  3  2023-11-14 22:13:20  mx.external.example  <friend@else.example>  name@external.example  Hello        26"""
    )


def test_what_a_stranger_wrote_is_cut_and_steers_no_terminal() -> None:
    row = arrived([replace(KEPT, content=b"Subject: \x1b[2J" + b"x" * 100 + b"\r\n\r\n")]).splitlines()[-1]
    assert row.endswith("name@example.org  \\x1b[2Jxxxxxxxxxxxxxxxx...     117")
    assert cut("a\nb", 10) == "a\\nb"
    assert cut("0123456789", 9) == "012345..."


def test_the_messages_concerned_are_in_a_table_that_is_full() -> None:
    several = [replace(KEPT, message="other", at=AT + number) for number in range(37)]
    lines = arrived([*several, LETTER], {"01HF"}).splitlines()
    assert lines[0] == "38 messages arrived:"
    assert [line.split()[0] for line in lines[2:-1]] == [*map(str, range(1, 20)), "38"]
    assert lines[-1] == "  18 more"


def test_expected_then_what_arrived_then_the_traces_then_the_seed() -> None:
    assert (
        failure(
            "expected a letter to b@y",
            arrivals=[],
            traces=[TRACE],
            again=again(7, "Stage(seed={})"),
            more=["relay refused RCPT: 550"],
        )
        == """\
expected a letter to b@y

relay refused RCPT: 550

nothing arrived

01HF on 2023-11-14 (UTC)
22:13:20.000 retried   by the operator
22:14:20.000 released  by the operator

seed 7: reproduce with Stage(seed=7)"""
    )
    assert failure("expected this") == "expected this"


def test_traces_are_bounded() -> None:
    long = [Event(Happening.WARNING, AT, "01HF", facts={"what": "x" * 1000})] * 150
    told = failure("expected this", traces=[long] * 8).splitlines()
    assert max(map(len, told)) == 240
    assert told.count("... 31 lines ...") == 5
    assert told[-1] == "3 more traces"
    assert len(told) < 620
