"""What the ARC tests share: keys, a zone in memory, messages, and the two independent implementations."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import dkim
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from smtproute.core.lookup import Lookup
from smtproute.core.settings import Authentication
from smtproute.core.verdict import Verdict
from smtproute.mailauth import arc
from smtproute.mailauth.keys import SigningKey, record
from smtproute.mailauth.results import resinfo

AUTHSERV_ID = "mx.example.org"
BOUNDS = Authentication(header_size=512 * 1024)
"""Wide enough for headers that try to be slow."""
AT = 1_700_000_000
FOUND = [
    Verdict("arc", "none"),
    Verdict("spf", "pass", (("smtp.mailfrom", "ada@sender.example"),), "192.0.2.1 is permitted"),
    Verdict("dkim", "pass", (("header.d", "sender.example"), ("header.b", "ab/+cd=="))),
]


@lru_cache
def _made(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def private(bits: int = 2048) -> rsa.RSAPrivateKey:
    return _made(bits)


def signing_key(domain: str = "example.org", bits: int = 2048) -> SigningKey:
    return SigningKey(domain, "mail", private(bits))


def pem(key: SigningKey) -> bytes:
    return key.private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def zone(*keys: SigningKey) -> dict[str, str]:
    return {f"{key.selector}._domainkey.{key.domain}": record(key) for key in keys or (signing_key(),)}


class ZoneTxt:
    """A Lookup over a dict, of TXT records alone; it keeps the names that were asked for."""

    def __init__(self, records: Mapping[str, str | bytes]) -> None:
        self.records = records
        self.asked: list[str] = []

    async def texts(self, name: str) -> tuple[bytes, ...]:
        self.asked.append(name)
        text = self.records.get(name)
        if text is None:
            return ()
        return (text.encode() if isinstance(text, str) else text,)

    async def addresses(self, name: str, version: int) -> tuple[str, ...]:
        raise NotImplementedError

    async def exchanges(self, name: str) -> tuple[str, ...]:
        raise NotImplementedError

    async def pointers(self, ip: str) -> tuple[str, ...]:
        raise NotImplementedError


def judged(message: bytes, asked: Lookup | Mapping[str, str | bytes] | None = None, at: float = AT) -> arc.Chain:
    """evaluate(), from outside an event loop, without whose seals they are and what the results say."""
    lookup = ZoneTxt(zone() if asked is None else asked) if asked is None or isinstance(asked, Mapping) else asked
    with ThreadPoolExecutor(1) as pool:
        chain = asyncio.run(arc.evaluate(message, lookup, pool, BOUNDS, at))
    return replace(chain, sealers=(), results=())


def results(verdicts: Sequence[Verdict]) -> str:
    return " ".join(resinfo(AUTHSERV_ID, verdicts))


def sealed(message: bytes, chain: arc.Chain | None = None, key: SigningKey | None = None) -> bytes:
    """The message with one set more; `chain` is judged here where it is not given."""
    chain = judged(message) if chain is None else chain
    return (
        arc.seal(message, chain=chain, key=key or signing_key(), results=results(FOUND), at=AT, bounds=BOUNDS) + message
    )


def by_dkimpy(message: bytes, records: Mapping[str, str] | None = None) -> str:
    """What dkimpy as it comes says of the chain; `fail` for one that has ended."""
    known = zone() if records is None else records

    def look_up(name: bytes, timeout: float) -> bytes:
        return known.get(name.decode().rstrip("."), "").encode()

    status, _, words = dkim.arc_verify(message, dnsfunc=look_up)
    return f"{(status or b'fail').decode()} {words}"


_PERL_ZONE = r"""
use strict; use warnings; use JSON::PP; use Net::DNS; use Mail::DKIM::DNS;
package Zone;
sub new { my ($class, $records) = @_; return bless { records => $records }, $class }
sub errorstring { return 'NOERROR' }
sub send {
    my ($self, $name, $type) = @_;
    my $packet = Net::DNS::Packet->new($name, $type);
    my $text = $self->{records}{$name};
    $packet->header->rcode(defined $text ? 'NOERROR' : 'NXDOMAIN');
    $packet->push(answer => Net::DNS::RR->new(
        name => $name, type => 'TXT', txtdata => [ $text =~ /(.{1,200})/gs ])) if defined $text;
    return $packet;
}
package main;
sub slurp { open my $in, '<:raw', $_[0] or die "$_[0]: $!"; local $/; return scalar <$in> }
my $job = decode_json(do { local $/; <STDIN> });
Mail::DKIM::DNS::resolver(Zone->new($job->{zone}));
"""

_PERL_VERIFY = (
    _PERL_ZONE
    + r"""
use Mail::DKIM::ARC::Verifier;
for my $file (@{ $job->{files} }) {
    my $arc = Mail::DKIM::ARC::Verifier->new(Strict => 1);
    $arc->PRINT(slurp($file)); $arc->CLOSE;
    print $arc->result, ' ', $arc->result_detail =~ s/\s+/ /gr, "\n";
}
"""
)

_PERL_SIGN = (
    _PERL_ZONE
    + r"""
use Mail::DKIM::ARC::Signer; use Mail::DKIM::TextWrap;
my $arc = Mail::DKIM::ARC::Signer->new(
    Algorithm => 'rsa-sha256', Chain => $job->{chain}, Domain => $job->{domain}, SrvId => $job->{domain},
    Selector => $job->{selector}, KeyFile => $job->{key});
$arc->PRINT(slurp($job->{files}[0])); $arc->CLOSE;
die $arc->{details} unless $arc->result eq 'sealed';
binmode STDOUT; print $arc->as_string;
"""
)


def by_perl(folder: Path, messages: Sequence[bytes], records: Mapping[str, str] | None = None) -> list[str]:
    """What Mail::DKIM::ARC::Verifier says of each message's chain."""
    files = []
    for at, message in enumerate(messages):
        files.append(str(folder / f"perl-{at}.eml"))
        Path(files[-1]).write_bytes(message)
    job = json.dumps({"zone": zone() if records is None else records, "files": files})
    done = subprocess.run(["perl", "-e", _PERL_VERIFY], input=job.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


def perl_sealed(folder: Path, message: bytes, key: SigningKey, chain: str) -> bytes:
    """The message with a set by Mail::DKIM::ARC::Signer; it wants an Authentication-Results of the key's domain."""
    with_results = f"Authentication-Results: {key.domain}; arc={chain}; spf=pass\r\n".encode() + message
    (folder / "sign.eml").write_bytes(with_results)
    (folder / "sign.pem").write_bytes(pem(key))
    job = json.dumps(
        {
            "zone": {},
            "files": [str(folder / "sign.eml")],
            "key": str(folder / "sign.pem"),
            "chain": chain,
            "domain": key.domain,
            "selector": key.selector,
        }
    )
    done = subprocess.run(["perl", "-e", _PERL_SIGN], input=job.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout + with_results


def dkimpy_sealed(message: bytes, key: SigningKey, chain: str) -> bytes:
    """The message with a set by dkimpy's own arc_sign, which needs the package authres."""
    name = f"{chain}.{key.domain}"  # a name for each hop, because dkimpy takes over every result under one
    with_results = f"Authentication-Results: {name}; arc={chain}; spf=pass\r\n".encode() + message
    made = dkim.arc_sign(
        with_results, key.selector.encode(), key.domain.encode(), pem(key), name.encode(), timestamp=AT
    )
    assert made
    return b"".join(made) + with_results


HEADER = (
    b"Received: from sender.example by mx.example.org; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    b"DKIM-Signature: v=1; a=rsa-sha256; d=sender.example; s=x; h=from; bh=AAAA; b=BBBB\r\n"
    b"DKIM-Signature: v=1; a=rsa-sha256; d=other.example; s=y; h=from; bh=CCCC; b=DDDD\r\n"
    b"From: Ada <ada@sender.example>\r\n"
    b"To: Bob <bob@example.org>,\r\n\tCarl  <carl@example.org>\r\n"
    b"Subject:   a  subject\r\n   in two lines \t\r\n"
    b"Date: Tue, 14 Nov 2023 22:13:19 +0000\r\n"
    b"Message-ID: <1@sender.example>\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n"
)


def message(body: bytes, header: bytes = HEADER) -> bytes:
    return header + b"\r\n" + body


BODIES = {
    "1 KB": b"Hello,  this is\ta line. \r\n" * 40,
    "empty": b"",
    "one empty line": b"\r\n",
    "only white space": b" \t \r\n\t\r\n  \r\n",
    "trailing blank lines": b"text\r\n\r\n \r\n\r\n\r\n",
    "leading blank lines": b"\r\n\r\n  text\r\n",
    "no final newline": b"text\r\nwithout an end",
    "long lines": b"x y" * 40_000 + b"\r\n" + b"z" * 5000 + b"\r\n",
    "8-bit": "Grüße, 世界  ½\r\n".encode() * 300,
    "every octet": bytes(octet for octet in range(1, 256) if octet not in b"\r\n") + b"\r\n",
    "dots": b".\r\n..\r\n.\r\n",
}


def five_megabytes(eight_bit: bool) -> bytes:
    line = "Zeile mit  Umlauten: äöü \t und Leerraum \r\n".encode() if eight_bit else b"a line  of text,\tfolded \r\n"
    return line * (5_000_000 // len(line))
