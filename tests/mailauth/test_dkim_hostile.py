"""Whatever a stranger writes, results come out, soon, and nothing else: of DKIM and of ARC."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from arc_peers import judged, message, sealed, signing_key, zone
from dkim_peers import TAGS, checked, ed25519_key, one, signed
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.core.settings import Authentication
from smtproute.mailauth import arc
from smtproute.mailauth.dkim import DkimResult, Signature, verdict

TEXT = message(b"text\r\n", b"From: ada@example.org\r\nTo: bob@example.net\r\nSubject: x\r\n")
FIELD = signed(TEXT).removesuffix(TEXT)
SELECTORS = [f"m{at}" for at in range(20)]
TWENTY = b"".join(FIELD.replace(b"s=mail", f"s={each}".encode()) for each in SELECTORS) + TEXT


def twenty(*texts: str) -> dict[str, str]:
    """The records for TWENTY, all different."""
    return {f"{each}._domainkey.example.org": f"n={each}; {texts[0]}" for each in SELECTORS}


def der(modulus: int, exponent: int) -> str:
    def wrapped(tag: bytes, octets: bytes) -> bytes:
        return tag + b"\x83" + len(octets).to_bytes(3, "big") + octets

    inner = b"".join(
        wrapped(b"\x02", number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in (modulus, exponent)
    )
    return f"p={base64.b64encode(wrapped(b'0', inner)).decode()}"


def repeated(tags: str, times: int = 20, raw: bytes = TEXT) -> bytes:
    """The message with the same signature so many times."""
    return signed(raw, tags).removesuffix(raw) * times + raw


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "records",
    [
        pytest.param(twenty(der((1 << 8191) + 12345, (1 << 63) + 1)), id="the largest keys"),
        pytest.param(twenty(der((1 << 16383) + 12345, (1 << 16383) + 1)), id="16384-bit keys"),
        pytest.param(twenty(der((1 << 2047) + 12345, (1 << 2000) + 1)), id="huge exponents"),
        pytest.param(twenty(der(1 << 2047, 3)), id="an even modulus"),
        pytest.param(twenty("p=" + "A" * 60_000), id="long records"),
        pytest.param(twenty(";".join(f"x{at}=" for at in range(900))), id="records of many tags"),
        pytest.param(twenty("p=" + "= " * 3000), id="bad base64"),
    ],
)
def test_hostile_keys(records: Mapping[str, str]) -> None:
    """The guard is the time-out: an RSA operation in Python with a key of 16384 bits takes seconds."""
    found = checked(TWENTY, records)
    assert len(found) == 20
    assert {each.result for each in found} <= {DkimResult.FAIL, DkimResult.PERMERROR}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("raw", "result"),
    [
        pytest.param(FIELD * 1000 + TEXT, DkimResult.PASS, id="1000 signatures"),
        pytest.param(repeated(TAGS.replace("v=1", f"v=1; t={'9' * 5000}")), DkimResult.NEUTRAL, id="5000 digits"),
        pytest.param(
            repeated(TAGS.replace("v=1", "v=1;" + ";".join(f"x{at}=" for at in range(2000)))),
            DkimResult.NEUTRAL,
            id="tags",
        ),
        pytest.param(repeated(TAGS.replace("v=1;", "v=1;" + " " * 15_000)), DkimResult.PASS, id="spaces"),
        pytest.param(repeated(TAGS.replace("v=1;", "v=1;" + "\r\n\t" * 400)), DkimResult.PASS, id="folds"),
        pytest.param(repeated(TAGS.replace("h=from", "h=from" + ":a" * 7000)), DkimResult.POLICY, id="names"),
        pytest.param(repeated(TAGS.replace("h=from", "h=from" + " :" * 900)), DkimResult.PASS, id="empty names"),
        pytest.param(
            repeated(TAGS.replace("h=from", "h=from" + ":a" * 900), raw=b"A: x\r\n" * 8000 + TEXT),
            DkimResult.PASS,
            id="fields",
        ),
        pytest.param(
            repeated(TAGS.replace("h=from", "h=from:x"), raw=b"X: " + b"a " * 200_000 + b"\r\n" + TEXT),
            DkimResult.PASS,
            id="a long field",
        ),
        pytest.param(
            repeated(TAGS.replace("h=from", "h=from:x"), raw=b"X: " + b" " * 400_000 + b"x\r\n" + TEXT),
            DkimResult.PASS,
            id="spaces in a field",
        ),
        pytest.param(FIELD.replace(b" b=", b" b=" + b"a " * 7000 + b"!") * 20 + TEXT, DkimResult.NEUTRAL, id="b="),
        pytest.param(FIELD.replace(b" b=", b" b=" + b"= " * 7000) * 20 + TEXT, DkimResult.NEUTRAL, id="padding"),
        pytest.param(FIELD.replace(b"example.org", b"a" * 15_000) * 20 + TEXT, DkimResult.NEUTRAL, id="d="),
        pytest.param(
            FIELD.replace(b"example.org", ".".join("\u00fc\u4e16" * 4 for _ in range(8)).encode()) * 20 + TEXT,
            DkimResult.PERMERROR,
            id="U-labels",
        ),
        pytest.param(FIELD.replace(b"v=1", b"v=1; i=" + b"@" * 15_000) * 20 + TEXT, DkimResult.NEUTRAL, id="i="),
        pytest.param(b"X" * 500_000 + b": y\r\n" + FIELD + TEXT, DkimResult.PASS, id="a long name"),
        pytest.param(b"X: y" + b"\r\n y" * 9000 + b"\r\n" + FIELD + TEXT, DkimResult.PASS, id="folded field"),
        pytest.param(b"X: y\r\n" * 3_000_000 + FIELD + TEXT, DkimResult.PERMERROR, id="header bomb, lines"),
        pytest.param(b"X: " + b"y" * 20_000_000 + b"\r\n" + FIELD + TEXT, DkimResult.PERMERROR, id="header bomb"),
        pytest.param(b"DKIM-Signature: " + b"y" * 20_000_000, DkimResult.PERMERROR, id="no end"),
    ],
)
def test_hostile_messages(raw: bytes, result: DkimResult) -> None:
    """The guard is the time-out: what is quadratic here takes minutes."""
    found = checked(raw)
    assert len(found) <= 21
    assert found[0].result is result


@pytest.mark.timeout(30)
def test_the_body_is_hashed_once_for_all_signatures() -> None:
    """The guard is the time-out: 20 MB in relaxed form take a tenth of a second."""
    raw = message(b"\tsome  words \r\n" * 1_500_000, b"From: ada@example.org\r\n")
    assert {each.result for each in checked(repeated(TAGS, 200, raw), bounds=Authentication(signatures=200))} == {
        DkimResult.PASS
    }


@pytest.mark.timeout(30)
def test_fifty_sets_and_the_results_in_them() -> None:
    key = signing_key("example.org", 1024)
    raw, chain = TEXT, arc.Chain(arc.ChainStatus.NONE)
    for number in range(1, 51):
        raw = sealed(raw, chain, key)
        chain = arc.Chain(arc.ChainStatus.PASS, number)
    assert judged(raw, zone(key)) == arc.Chain(arc.ChainStatus.PASS, 50, sealable=False)
    assert judged(b"ARC-Seal: i=1; b=x\r\n" * 9000 + raw).status is arc.ChainStatus.FAIL
    assert judged(b"ARC-Authentication-Results: i=1; " + b"a " * 200_000 + b"\r\n" + raw).status is arc.ChainStatus.FAIL


_RAW = signed(signed(TEXT, TAGS.replace("v=1", f"v=1; i=ada@example.org; l=6; t=1; x={10**10}"), ed25519_key()))
_END = _RAW.index(b"Subject:")
_WORDS = b"| |;|=|v=1|a=|i=@|\r\n\t|\r\n|\r\n\r\n|b=|h=:|h=from|\0|\xff|:|t=1;|x=2;|l=3;|99999999999|DKIM-Signature: "
_PIECES = st.sampled_from(
    [*_WORDS.split(b"|"), b"t=" + b"9" * 5000, "d=\u00fc.\u4e16.example".encode(), b"From: b@c\r\n"]
)
_edits = st.lists(st.tuples(st.integers(0, _END), st.integers(0, 40), _PIECES), min_size=1, max_size=4)


def only_results(found: tuple[Signature, ...]) -> None:
    for each in found:
        assert isinstance(each.result, DkimResult)
        assert each.result is not DkimResult.NONE
        assert 0 < len(each.reason) <= 300
        assert str(verdict(each))


@given(_edits)
@settings(max_examples=300, deadline=None)
def test_mutated_signatures_give_results(edits: list[tuple[int, int, bytes]]) -> None:
    raw = _RAW
    for at, removed, put in edits:
        raw = raw[:at] + put + raw[at + removed :]
    only_results(checked(raw))


@given(st.binary(max_size=300), st.sampled_from([b"", b"DKIM-Signature: v=1;", b"DKIM-Signature:", b"\r\n"]))
@settings(max_examples=200, deadline=None)
def test_garbage_gives_results(garbage: bytes, start: bytes) -> None:
    only_results(checked(start + garbage))


@given(st.binary(max_size=200), st.sampled_from(["", "p=", "v=DKIM1; k=ed25519; p=", "k=rsa; p=MIGf", "t=y:s; p="]))
@settings(max_examples=200, deadline=None)
def test_any_record_gives_a_result(garbage: bytes, start: str) -> None:
    raw = signed(TEXT)
    records = {"mail._domainkey.example.org": start.encode() + garbage}
    assert one(raw, records).result in (DkimResult.FAIL, DkimResult.PERMERROR)
    encoded = {"mail._domainkey.example.org": start.encode() + base64.b64encode(garbage)}
    assert one(raw, encoded).result in (DkimResult.FAIL, DkimResult.PERMERROR)


@pytest.mark.timeout(120)
def test_atheris_finds_nothing_but_results(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="the fuzzer atheris is not installed")
    script = Path(__file__).with_name("dkim_fuzz.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "20000"], capture_output=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-4000:]
    assert b"Done " in done.stderr
