"""The public ARC suite: ValiMail's arc_test_suite, signing.

Its runner takes the white space out of each field and compares the tags without their order. The signatures can only
match where what they sign has the same octets, the order of the tags with them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from arc_peers import ZoneTxt, judged
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from smtproute.core.message import fields
from smtproute.core.settings import Authentication
from smtproute.mailauth import arc
from smtproute.mailauth.keys import SigningKey
from smtproute.mailauth.sign import SignFault

FOLDER = os.environ.get("SMTPROUTE_CONFORMANCE")


def results(message: bytes, authserv_id: str) -> str:
    """What the Authentication-Results of this authserv-id say, comments and all, as one."""
    values = [each.value(message).decode() for each in fields(message) if each.name == b"authentication-results"]
    parts = [[part.strip() for part in " ".join(value.split()).split(";")] for value in values]
    return "; ".join([authserv_id, *(part for name, *rest in parts if name == authserv_id for part in rest)])


def tags(value: str) -> set[str]:
    return set("".join(value.split()).split(";"))


@pytest.mark.skipif(FOLDER is None, reason="SMTPROUTE_CONFORMANCE names no folder with the public suites")
def test_signing_suite() -> None:
    yaml = pytest.importorskip("yaml", reason="the suite is YAML: it needs the package pyyaml")
    seen, wrong = 0, []
    for scenario in filter(None, yaml.safe_load_all((Path(FOLDER or "") / "arc-draft-sign-tests.yml").read_text())):
        private = load_pem_private_key(scenario["privatekey"].encode(), password=None)
        assert isinstance(private, RSAPrivateKey)
        key = SigningKey(scenario["domain"], scenario["sel"], private)
        for name, case in scenario["tests"].items():
            raw = case["message"].replace("\n", "\r\n").encode()
            chain = judged(raw, ZoneTxt(scenario["txt-records"]))
            recorded = results(raw, case["srv-id"])
            try:
                made = arc.seal(
                    raw,
                    chain=chain,
                    key=key,
                    results=recorded,
                    at=case["t"],
                    bounds=Authentication(),
                    signed=case["sig-headers"],
                )
            except SignFault:
                made = b""
            fields_made = {each.name.decode(): tags(each.value(made).decode()) for each in fields(made + b"\r\n")}
            expected = {
                title: tags(case[short])
                for title, short in (
                    ("arc-seal", "AS"),
                    ("arc-message-signature", "AMS"),
                    ("arc-authentication-results", "AAR"),
                )
                if case[short]
            }
            seen += 1
            if fields_made != expected:
                wrong.append((name, chain, fields_made, expected))
    assert not wrong
    assert seen == 17
