"""[authentication]: what is judged, what follows from it, and its bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtproute.config import Mistake, load
from smtproute.core.address import Domain
from smtproute.core.settings import Authentication, Policy
from smtproute.core.snapshot import carried
from tests.config.folders import loaded as with_folder

ARC = '[arc.keys."example.org"]\nselector = "mail"\nfile = "key.txt"\n'


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key.txt").touch()


def authentication(text: str, environ: dict[str, str] | None = None) -> Authentication:
    Path("smtproute.toml").write_text(text)
    return load("smtproute.toml", environ or {}, fqdn=lambda: "h.example").settings.authentication


def mistakes(text: str) -> list[str]:
    with pytest.raises(Mistake) as caught:
        authentication(text)
    return [line.removeprefix("smtproute.toml: authentication.") for line in caught.value.lines]


def test_nothing_written() -> None:
    assert authentication("") == Authentication()
    assert Authentication().policy is Policy.OBSERVE


def test_everything_written() -> None:
    assert authentication("""
        [authentication]
        spf = false
        dkim = false
        dmarc = false
        arc = false
        timeout = "3s"
        lookups = 40
        signatures = 3
        signature_size = "2KiB"
        header_size = "64KiB"
        header_lines = 500
    """) == Authentication(False, False, False, False, Policy.OBSERVE, (), 3.0, 40, 3, 2048, 65536, 500)


def test_who_is_trusted() -> None:
    made = authentication(
        '[authentication]\npolicy = "enforce"\ntrusted_sealers = ["Lists.example", "münchen.example"]'
    )
    assert made.policy is Policy.ENFORCE
    assert made.trusted_sealers == (Domain.parse("lists.example"), Domain.parse("xn--mnchen-3ya.example"))
    assert authentication('[authentication]\ntrusted_sealers = ["lists.example"]').policy is Policy.OBSERVE


def test_variables() -> None:
    environ = {
        "SMTPROUTE__AUTHENTICATION__POLICY": "enforce",
        "SMTPROUTE__AUTHENTICATION__TRUSTED_SEALERS": '["lists.example"]',
        "SMTPROUTE__AUTHENTICATION__TIMEOUT": "2s",
    }
    made = authentication("[authentication]\ntimeout = 5", environ)
    assert made == Authentication(policy=Policy.ENFORCE, trusted_sealers=(Domain.parse("lists.example"),), timeout=2.0)


@pytest.mark.parametrize("key", ["spf", "dkim"])
def test_dmarc_takes_both(key: str) -> None:
    other = {"spf": "SPF", "dkim": "DKIM"}[key]
    why = f"{key} = false: DMARC would fail what only {other} passes. Write {key} = true, or dmarc = false."
    assert mistakes(f"[authentication]\n{key} = false") == [why]
    assert getattr(authentication(f"[authentication]\n{key} = false\ndmarc = false"), key) is False


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            '[authentication]\npolicy = "enforce"\ndmarc = false',
            'dmarc = false: policy = "enforce" does what DMARC says. Write dmarc = true, or policy = "observe".',
        ),
        (
            f"[authentication]\narc = false\n{ARC}",
            "arc = false: a seal (ARC) says what the chain was worth on arrival. "
            'Write arc = true, or [arc] sign = "off".',
        ),
        (
            '[authentication]\narc = false\ntrusted_sealers = ["a.example"]',
            "arc = false: trusted_sealers vouch by the chain (ARC). Write arc = true, or remove trusted_sealers.",
        ),
        (
            '[authentication]\npolicy = "enforced"',
            'policy = "enforced": not one of observe, enforce. Did you mean "enforce"?',
        ),
        (
            '[authentication]\ntrusted_sealers = ["a b"]',
            'trusted_sealers[0] = "a b": \'a b\' is no domain name. Write it as "example.org".',
        ),
        (
            '[authentication]\ntimeout = "0s"',
            'timeout = "0s": nothing can be waited for in no time. Write one second at least.',
        ),
        ("[authentication]\nlookups = 0", "lookups = 0: a whole number is wanted, 1 or more."),
        ("[authentication]\nsignatures = 0", "signatures = 0: a whole number is wanted, 1 or more."),
        ("[authentication]\nheader_lines = -1", "header_lines = -1: a whole number is wanted, 1 or more."),
        (
            "[authentication]\nsignature_size = 0",
            'signature_size = 0: a size between one octet and 2^63 is wanted. Write "256KiB", "25MB" or "1GB".',
        ),
        (
            '[authentication]\nheader_size = "big"',
            'header_size = "big": a size is wanted. Write "256KiB", "25MB" or "1GB".',
        ),
        ('[authentication]\nspf = "yes"', 'spf = "yes": true or false is wanted.'),
    ],
)
def test_mistakes(text: str, line: str) -> None:
    assert mistakes(text) == [line]


def test_sealing_that_is_off_needs_no_verdict() -> None:
    assert authentication(f'[authentication]\narc = false\n[arc]\nsign = "off"\n{ARC}').arc is False


def test_a_folder_that_seals_needs_the_verdict(tmp_path: Path) -> None:
    (tmp_path / "config/rspamd/override.d").mkdir(parents=True)
    conf = 'domain { example.org { path = "/tmp/docker-mailserver/key.txt"; selector = "mail"; } }'
    (tmp_path / "config/rspamd/override.d/arc.conf").write_text(conf)
    with pytest.raises(Mistake, match=r"authentication\.arc = false: a seal"):
        with_folder(tmp_path, "[authentication]\narc = false", accounts="anna@example.org|{X}y\n")


def test_a_reload_takes_it() -> None:
    def made(text: str) -> Authentication:
        Path("smtproute.toml").write_text(text)
        return carried(before, load("smtproute.toml", {}, fqdn=lambda: "h.example")).settings.authentication

    before = load(None, {}, fqdn=lambda: "h.example")
    assert made('[authentication]\npolicy = "enforce"\nlookups = 7').lookups == 7
    assert made('[authentication]\npolicy = "enforce"').policy is Policy.ENFORCE
