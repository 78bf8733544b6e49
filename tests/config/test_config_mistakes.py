"""Everything that is wrong in a configuration is named in one line: file or variable, key, value, mend."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtproute.config import Mistake, load
from smtproute.config.schema import Root, known_keys
from smtproute.core.snapshot import Snapshot


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mx.pem", "mx.key", "key.txt", "other.key"):
        (tmp_path / name).write_text("-----BEGIN\n")
    (tmp_path / "pw").write_text("not-to-be-shown\n")
    (tmp_path / "accounts.cf").write_text("anna@example.org|{SHA512-CRYPT}x\n")
    (tmp_path / "virtual.cf").write_text("@example.com anna@example.org\nroot anna@example.org\n")
    (tmp_path / "dms").mkdir()
    (tmp_path / "dms/postfix-accounts.cf").write_text("anna@example.org|{SHA512-CRYPT}x\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/postfix-virtual.cf").mkdir()


def mistakes(text: str | bytes, environ: dict[str, str] | None = None) -> tuple[str, ...]:
    octets = text if isinstance(text, bytes) else text.encode()
    Path("smtproute.toml").write_bytes(octets)
    with pytest.raises(Mistake) as caught:
        load("smtproute.toml", environ or {}, fqdn=lambda: "host.example.org")
    assert str(caught.value) == "\n".join(caught.value.lines)
    return caught.value.lines


GITLAB = '[endpoint.gitlab]\nservers = ["gitlab.internal"]\n'
TLS = '[endpoint.x]\nservers = ["a.b"]\ntls = "require"\n'
INBOUND = '[listener.mx]\nbind = "127.0.0.1:0"\nrole = "inbound"\n'
MX = '[listener.mx]\ncertificate = "mx.pem"\nkey = "mx.key"\n'
ARC = '[arc.keys."example.org"]\nselector = "mail"\nfile = "key.txt"\n'

EXACT = [
    # the rule that this program has a whole design for
    (
        '[endpoint.gitlab]\nservers = ["10.0.0.5"]',
        'endpoint.gitlab.servers[0] = "10.0.0.5": an endpoint is a host name, not an IP address. Give it a name: '
        'add "gitlab.internal" = ["10.0.0.5"] under [resolver] static, or to your internal DNS.',
    ),
    (
        '[endpoint.git_lab]\nservers = ["a.b"]\nbackup = ["a.b", "[::1]:25"]',
        'endpoint.git_lab.backup[1] = "[::1]:25": an endpoint is a host name, not an IP address. Give it a name: '
        'add "git-lab.internal" = ["::1"] under [resolver] static, or to your internal DNS.',
    ),
    # keys
    ('hostnam = "mx.example.org"', 'hostnam: unknown key. Did you mean "hostname"?'),
    ("[endpoints.x]", 'endpoints: unknown key. Did you mean "endpoint"?'),
    (
        '[arc]\nqqq = "x"',
        "arc.qqq: unknown key. Known here: sign, keys.",
    ),
    (
        GITLAB + 'default = { mode = "reject" }',
        "endpoint.gitlab.default: unknown key. default is a key of the whole file: write it above the first [table].",
    ),
    (
        '[docker_mailserver]\nconfig = "dms"\nflavour = "x"',
        "docker_mailserver.flavour: unknown key. Known here: config, env, version, paths.",
    ),
    ("[docker_mailserver]", "docker_mailserver.config: missing. Add config."),
    ('[arc.keys."example.org"]\nfile = "key.txt"', 'arc.keys."example.org".selector: missing. Add selector.'),
    # shapes
    ("hostname = 5", "hostname = 5: text is wanted. Write it in quotes."),
    (
        '[listener]\nbind = "127.0.0.1:25"',
        'listener.bind = "127.0.0.1:25": a table is wanted. Give it a name: [listener.NAME].',
    ),
    ('listener = "x"', 'listener = "x": a table is wanted. Write { key = value }, or the key under a [table].'),
    (
        'default = "capture"',
        'default = "capture": a table is wanted. Write { key = value }, or the key under a [table].',
    ),
    ('domains = "example.org"', 'domains = "example.org": a list is wanted. Put it in [brackets].'),
    ('[listener.mx]\ndebug = "yes"', 'listener.mx.debug = "yes": true or false is wanted.'),
    ('[listener."a b"]', 'listener."a b": a name is made of letters, digits, - and _. Choose another.'),
    ("[queue]\nretry = []", "queue.retry = []: empty. Write one at least, or leave the key out."),
    ('[accounts]\nfile = ""', 'accounts.file = "": a path is wanted. Write it, or leave the key out.'),
    # values
    (
        '[listener.mx]\nrole = "inbund"',
        'listener.mx.role = "inbund": not one of inbound, submission, trusted. Did you mean "inbound"?',
    ),
    (
        '[listener.mx]\nrole = "submission"\nauth_in_clear = "loopback"',
        'listener.mx.role = "submission": nobody has an account to log in with. '
        'Add [accounts] file = "postfix-accounts.cf".',
    ),
    (
        '[listener.mx]\nrole = "submission"\n[accounts]\nfile = "accounts.cf"',
        'listener.mx.role = "submission": nobody can log in without TLS. '
        'Add certificate and key, or auth_in_clear = "loopback".',
    ),
    (
        '[listener.mx]\nauth_in_clear = "loopback"',
        'listener.mx.auth_in_clear = "loopback": only role = "submission" lets clients log in. Remove it here.',
    ),
    (
        MX + 'role = "submission"\ntrusted_networks = ["10.0.0.0/8"]\n[accounts]\nfile = "accounts.cf"',
        'listener.mx.trusted_networks = ["10.0.0.0/8"]: who submits mail logs in, wherever from. Remove it here.',
    ),
    (
        '[listener.mx]\nauth = "accounts"',
        'listener.mx.auth = "accounts": accounts log in by role = "submission" alone. '
        'Remove it here, or write auth = "any".',
    ),
    (
        '[listener.mx]\nrole = "inbound"\nauth = "any"',
        'listener.mx.auth = "any": nobody logs in where role = "inbound". Remove it here.',
    ),
    (
        '[listener.mx]\nrole = "submission"\nauth = "any"\nauth_in_clear = "loopback"',
        'listener.mx.auth_in_clear = "loopback": auth = "any" takes every login without TLS too. Remove it here.',
    ),
    (
        '[listener.mx]\nauth = "all"',
        'listener.mx.auth = "all": not one of accounts, any.',
    ),
    # mailboxes
    (
        '[accounts]\nstore = "lmtp"',
        'accounts.store = "lmtp": where is it? Add lmtp = "dovecot.internal:24" or "unix:/run/lmtp".',
    ),
    (
        '[accounts]\nlmtp = "dovecot.internal"',
        'accounts.lmtp = "dovecot.internal": mailboxes are Maildir folders here. Add store = "lmtp".',
    ),
    (
        '[accounts]\nstore = "lmtp"\nlmtp = "10.0.0.9:24"',
        'accounts.lmtp = "10.0.0.9:24": the LMTP server is a host name, not an IP address. Give it a name: '
        'add "lmtp.internal" = ["10.0.0.9"] under [resolver] static, or to your internal DNS.',
    ),
    (
        '[accounts]\nstore = "lmtp"\nlmtp = "unix:run/lmtp"',
        'accounts.lmtp = "unix:run/lmtp": an absolute path is wanted. Write "unix:/run/dovecot/lmtp".',
    ),
    (
        '[accounts]\nquotas = "quotas.cf"',
        'accounts.quotas = "quotas.cf": there are no accounts to have quotas. Add file = "postfix-accounts.cf".',
    ),
    ('[accounts]\nover_quota = "bounce"', 'accounts.over_quota = "bounce": not one of reject, defer.'),
    # docker-mailserver
    (
        '[docker_mailserver]\nconfig = "dms"\nversion = "14"',
        'docker_mailserver.version = "14": not one of 15, 16. Write the number before the first point, in quotes.',
    ),
    (
        '[docker_mailserver]\nconfig = "dms"\n[docker_mailserver.paths]\n"etc/x" = "x"',
        'docker_mailserver.paths."etc/x": a path in the container is wanted. Write it from the top: "/etc/opendkim".',
    ),
    (
        '[docker_mailserver]\nconfig = "dms"\n[accounts]\nquotas = "q"',
        'accounts.quotas = "q": the folder named by docker_mailserver.config has accounts and aliases. '
        "Remove one of the two.",
    ),
    ("[limits]\nauth_failures = 0", "limits.auth_failures = 0: a whole number is wanted, 1 or more."),
    (
        '[listener.mx]\nbind = "25"',
        'listener.mx.bind = "25": an IP address and a port are wanted. '
        'Write "127.0.0.1:25", "[::1]:25", or ":25" for all addresses.',
    ),
    (
        '[listener.mx]\nbind = "mx.example.org:25"',
        'listener.mx.bind = "mx.example.org:25": an IP address and a port '
        'are wanted. Write "127.0.0.1:25", "[::1]:25", or ":25" for all addresses.',
    ),
    (
        '[listener.mx]\nbind = "127.0.0.1:70000"',
        'listener.mx.bind = "127.0.0.1:70000": "70000" is no port. Write a number from 0 to 65535.',
    ),
    (
        '[listener.mx]\ntrusted_networks = ["10.0.0.1/8"]',
        'listener.mx.trusted_networks[0] = "10.0.0.1/8": no network: '
        'it has bits beyond its length. Write "10.0.0.0/8".',
    ),
    (
        '[listener.mx]\ntrusted_networks = ["docker"]',
        'listener.mx.trusted_networks[0] = "docker": no network. Write "192.0.2.0/24", "2001:db8::/32" or one address.',
    ),
    (
        '[endpoint.x]\nservers = ["mx:0"]',
        'endpoint.x.servers[0] = "mx:0": "0" is no port. Write a number from 1 to 65535.',
    ),
    (
        '[endpoint.x]\nservers = ["mail_relay:25"]',
        'endpoint.x.servers[0] = "mail_relay:25": a host name has no '
        'underscore. Give it a name that has none, such as "mail-relay".',
    ),
    (
        '[endpoint.x]\nservers = ["[relay.example]:25"]',
        'endpoint.x.servers[0] = "[relay.example]:25": brackets belong to IP addresses. Write "relay.example:25".',
    ),
    (
        '[endpoint.x]\nservers = ["smtp://relay.example"]',
        'endpoint.x.servers[0] = "smtp://relay.example": neither a '
        'URL nor an address is wanted. Write "mail.example.org:25".',
    ),
    (
        '[endpoint.x]\nservers = [":25"]',
        'endpoint.x.servers[0] = ":25": the host name is missing. Write "mail.example.org:25".',
    ),
    (
        '[endpoint.x]\nservers = ["a.b"]\nmax_connections = 0',
        "endpoint.x.max_connections = 0: a whole number is wanted, 1 or more.",
    ),
    (
        '[endpoint.x]\nservers = ["a.b"]\nmax_messages = 0',
        "endpoint.x.max_messages = 0: a whole number is wanted, 1 or more.",
    ),
    *(
        (
            f'[endpoint.x]\nservers = ["a.b"]\nrate = {rate}',
            f'endpoint.x.rate = {rate}: a rate is wanted, one message at least. Write "100/s", "600/m" or "1000/h".',
        )
        for rate in (
            '"0/s"',
            '"007/s"',
            '"1/d"',
            '"1.5/s"',
            '"-1/s"',
            '"fast"',
            '"/s"',
            '"1000000000/s"',
            "100",
            "true",
        )
    ),
    (
        '[endpoint.x]\nservers = ["a.b"]\nbalance = "roundrobin"',
        'endpoint.x.balance = "roundrobin": not one of failover, round-robin. Did you mean "round-robin"?',
    ),
    (
        '[endpoint.x]\nservers = ["a.b"]\nfamily = "v4"',
        'endpoint.x.family = "v4": not one of any, ipv4, ipv6. Did you mean "ipv4"?',
    ),
    # TLS of an endpoint, and who we are to it
    *(
        (
            f'[endpoint.x]\nservers = ["a.b"]\ntls = "{tls}"\n{key} = {value}{more}',
            f'endpoint.x.{key} = {value}: tls = "{tls}" {why}. Write tls = "require", or remove {key}.',
        )
        for tls, why in (("never", "speaks no TLS"), ("prefer", "takes any certificate"))
        for key, value, more in (
            ("ca_file", '"mx.pem"', ""),
            ("verify", "true", ""),
            ("verify", "false", ""),
            ("tls_name", '"mail.example.org"', ""),
            ("certificate", '"mx.pem"', '\nkey = "mx.key"'),
        )
        if (tls, key) != ("prefer", "certificate")
    ),
    (
        '[endpoint.x]\nservers = ["a.b"]\nca_file = "mx.pem"',
        'endpoint.x.ca_file = "mx.pem": tls = "prefer" takes any certificate. '
        'Write tls = "require", or remove ca_file.',
    ),
    (
        TLS + 'tls_name = "10.0.0.5"',
        'endpoint.x.tls_name = "10.0.0.5": a host name is wanted, not an IP address. Write the name of the machine.',
    ),
    (
        TLS + 'certificate = "mx.pem"',
        'endpoint.x.certificate = "mx.pem": there is no key. Add key, the file with the private key.',
    ),
    (
        TLS + 'key = "mx.key"',
        'endpoint.x.key = "mx.key": there is no certificate. Add certificate, the file with the chain.',
    ),
    (
        TLS + 'username = "us"',
        'endpoint.x.username = "us": there is no password. '
        'Write password_file = "FILE", or set SMTPROUTE__ENDPOINT__X__PASSWORD.',
    ),
    (TLS + 'password_file = "pw"', 'endpoint.x.password_file = "pw": there is no username. Add username.'),
    (
        TLS + 'username = ""\npassword_file = "pw"',
        'endpoint.x.username = "": empty. Write it, or leave the key out.',
    ),
    (
        TLS + 'username = "u\\ns"\npassword_file = "pw"',
        'endpoint.x.username = "u\\ns": not one line of UTF-8 without control characters. Write it so.',
    ),
    (
        '[endpoint.x]\nservers = ["a.b"]\ntls = "never"\nusername = "us"\npassword_file = "pw"',
        'endpoint.x.username = "us": credentials go over TLS or nowhere. Write tls = "require", or remove username.',
    ),
    *(
        (
            f'[endpoint.x]\nservers = ["a.b"]{tls}\nusername = "us"\npassword_file = "pw"',
            'endpoint.x.username = "us": tls = "prefer" verifies nothing, and whoever is in between would read the '
            'password. Write tls = "require" or "implicit".',
        )
        for tls in ("", '\ntls = "prefer"')
    ),
    (
        '[endpoint.x]\ndiscover = "recipient"\nbalance = "round-robin"',
        'endpoint.x.balance = "round-robin": discover = "recipient" goes by the preferences of the MX. '
        "Remove one of the two.",
    ),
    (
        '[endpoint.x]\ndiscover = "recipient"\ntls = "require"\nusername = "us"\npassword_file = "pw"',
        'endpoint.x.username = "us": discover = "recipient" would tell the password to whoever has a domain. '
        "Remove one of the two.",
    ),
    # a listener that answers when the mail is delivered
    (
        '[listener.app]\nreply = "deliverd"',
        'listener.app.reply = "deliverd": not one of queued, delivered. Did you mean "delivered"?',
    ),
    (
        '[listener.app]\nproxy_timeout = "30s"',
        'listener.app.proxy_timeout = "30s": only reply = "delivered" waits for the next hop. Remove it here.',
    ),
    (
        '[listener.app]\nreply = "delivered"\nproxy_timeout = "0s"',
        'listener.app.proxy_timeout = "0s": nothing can be waited for in no time. Write one second at least.',
    ),
    (
        '[resolver]\nwatch = "often"',
        'resolver.watch = "often": a duration is wanted. Write "30s", "5m", "1h" or "5d".',
    ),
    (
        '[queue]\nlifetime = "5 weeks"',
        'queue.lifetime = "5 weeks": a duration is wanted. Write "30s", "5m", "1h" or "5d".',
    ),
    (
        '[queue]\nlifetime = "40000d"',
        'queue.lifetime = "40000d": longer than a hundred years. Write a shorter duration.',
    ),
    (
        "[queue]\nretry = [0]",
        "queue.retry[0] = 0: nothing can be waited for in no time. Write one second at least.",
    ),
    (
        '[limits]\nmessage_size = "25M"',
        'limits.message_size = "25M": a size is wanted. Write "256KiB", "25MB" or "1GB".',
    ),
    (
        "[limits]\nmessage_size = 0",
        'limits.message_size = 0: a size between one octet and 2^63 is wanted. Write "256KiB", "25MB" or "1GB".',
    ),
    ("[limits]\nerrors = true", "limits.errors = true: a whole number is wanted, 1 or more."),
    (
        '[aliases]\nrecipient_delimiter = "+-"',
        'aliases.recipient_delimiter = "+-": one character is wanted, or none. Write "+", or "" for no delimiter.',
    ),
    (
        '[aliases]\ntables = ["hash:virtual.cf"]',
        'aliases.tables[0] = "hash:virtual.cf": hash tables are not read '
        'here. Write "texthash:FILE", with the text that postmap reads.',
    ),
    (
        '[resolver]\nservers = ["dns.example"]',
        'resolver.servers[0] = "dns.example": a DNS server is given by IP '
        'address. Write "192.0.2.53", or "192.0.2.53:5353".',
    ),
    (
        '[resolver]\nstatic = { "a.b" = ["c.d"] }',
        'resolver.static."a.b"[0] = "c.d": an IP address is wanted. Write "192.0.2.1" or "2001:db8::1".',
    ),
    (
        '[resolver]\nstatic = { "10.0.0.5" = ["10.0.0.6"] }',
        'resolver.static."10.0.0.5": a host name is wanted, not an IP address. Write the name of the machine.',
    ),
    ('[resolver]\norder = ["file"]', 'resolver.order[0] = "file": not one of static, hosts, dns.'),
    ('domains = ["a b"]', 'domains[0] = "a b": \'a b\' is no domain name. Write it as "example.org".'),
    (
        'hostname = "10.0.0.5"',
        'hostname = "10.0.0.5": a host name is wanted, not an IP address. Write the name of the machine.',
    ),
    (
        '[[route]]\nmatch = "example.org"\nmode = "capture"',
        'route[0].match = "example.org": write user@domain, '
        '*@domain, *@*.domain, * or regex:PATTERN. Known forms: "user@domain", "*@domain", "*@*.domain", "*", '
        '"regex:..."',
    ),
    # what only several keys together can tell
    (
        'default = { endpoint = "gitlb" }\n' + GITLAB,
        'default.endpoint = "gitlb": there is no [endpoint.gitlb]. Did you mean "gitlab"?',
    ),
    (
        '[[route]]\nmatch = "*@a.b"\nendpoint = "zzz"',
        'route[0].endpoint = "zzz": there is no [endpoint.zzz]. Add it, with its servers.',
    ),
    (
        '[[route]]\nmatch = "*@a.b"',
        'route[0]: says not what to do. Add endpoint = "NAME", or mode = "capture", "hold", "bounce" or "reject".',
    ),
    (
        GITLAB + '[[route]]\nmatch = "*@a.b"\nendpoint = "gitlab"\nmode = "capture"',
        'route[0].mode = "capture": contradicts endpoint = "gitlab". Remove one of the two.',
    ),
    ('default = { mode = "endpoint" }', 'default.mode = "endpoint": which endpoint? Add endpoint = "NAME".'),
    (
        "default = {}",
        'default: says not what to do. Add endpoint = "NAME", or mode = "capture", "hold", "bounce" or "reject".',
    ),
    ("[endpoint.x]", 'endpoint.x.servers: no server. Write servers = ["mail.example.org:25"].'),
    (
        '[endpoint.x]\ndiscover = "recipient"\nservers = ["a.b"]',
        'endpoint.x.servers = ["a.b"]: discover = "recipient" '
        "asks the MX of each recipient's domain. Remove one of the two.",
    ),
    (
        '[endpoint.x]\ndiscover = "recipient"\nbackup = ["a.b"]',
        'endpoint.x.backup = ["a.b"]: discover = "recipient" '
        "asks the MX of each recipient's domain. Remove one of the two.",
    ),
    (
        INBOUND + '[[route]]\nmatch = "*"\nmode = "capture"',
        'route[0].match = "*": anyone could send anywhere through '
        'the inbound listener mx, an open relay. Name the domains, as in "*@example.org", or say it in default, which '
        "is for permitted senders only.",
    ),
    *(
        (
            f"{INBOUND}[[route]]\nmatch = '{match}'\nmode = \"capture\"",
            f'route[0].match = "{match}": anyone could send anywhere through '
            'the inbound listener mx, an open relay. Name the domains, as in "*@example.org", or say it in default, '
            "which is for permitted senders only.",
        )
        for match in ("regex:.*", "regex:.+@.+", "regex:[^@]+@[a-z0-9.-]+")
    ),
    (
        '[docker_mailserver]\nconfig = "dms"\n[[route]]\nmatch = "*"\nmode = "capture"',
        'route[0].match = "*": anyone '
        "could send anywhere through the inbound listener default, an open relay. Name the domains, as in "
        '"*@example.org", or say it in default, which is for permitted senders only.',
    ),
    (
        INBOUND + "seal = true",
        "listener.mx.seal = true: mail from inbound clients is sealed as its route and endpoint say. Remove seal here.",
    ),
    (
        '[listener.mx]\ncertificate = "mx.pem"',
        'listener.mx.certificate = "mx.pem": there is no key. Add key, the file with the private key.',
    ),
    (
        '[listener.mx]\nkey = "mx.key"',
        'listener.mx.key = "mx.key": there is no certificate. Add certificate, the file with the chain.',
    ),
    (
        '[listener.mx]\ntls = "implicit"',
        'listener.mx.tls = "implicit": there is no certificate. Add certificate and key, or write tls = "none".',
    ),
    (
        '[listener.a]\nbind = "127.0.0.1:25"\n[listener.b]\nbind = ":25"',
        'listener.b.bind = ":25": listener a listens there already. Choose another port.',
    ),
    (
        '[docker_mailserver]\nconfig = "dms"\n[aliases]\ntables = ["virtual.cf"]',
        'aliases.tables = ["virtual.cf"]: '
        "the folder named by docker_mailserver.config has accounts and aliases. Remove one of the two.",
    ),
    (
        '[docker_mailserver]\nconfig = "dms"\n[accounts]\nfile = "accounts.cf"',
        'accounts.file = "accounts.cf": '
        "the folder named by docker_mailserver.config has accounts and aliases. Remove one of the two.",
    ),
    (
        '[docker_mailserver]\nconfig = "empty"',
        'docker_mailserver.config = "empty": holds neither postfix-accounts.cf '
        "nor postfix-virtual.cf. Name the folder that docker-mailserver has as /tmp/docker-mailserver.",
    ),
    (
        '[arc]\nsign = "recipient"',
        'arc.sign = "recipient": there is no key to seal with. Add [arc.keys."example.org"] with selector and file.',
    ),
    (
        '[arc]\nsign = "recipent"\n' + ARC,
        'arc.sign = "recipent": neither recipient, sender, off nor a domain. Did you mean "recipient"?',
    ),
    (
        '[arc]\nsign = "example.net"\n' + ARC,
        'arc.sign = "example.net": there is no key for it. Add [arc.keys."example.net"] with selector and file.',
    ),
    (
        'domains = ["example.net"]\n' + ARC,
        'arc.keys."example.net": missing, though example.net is a local domain '
        "(domains[0]) and its mail is sealed with its key. Add selector and file, or seal all with one key: [arc] "
        'sign = "example.org".',
    ),
    (
        '[accounts]\nfile = "accounts.cf"\n[aliases]\ntables = ["virtual.cf"]\n' + ARC,
        'arc.keys."example.com": '
        "missing, though example.com is a local domain (virtual.cf:1) and its mail is sealed with its key. "
        'Add selector and file, or seal all with one key: [arc] sign = "example.org".',
    ),
    (
        '[arc.keys."example.org"]\nselector = "-"\nfile = "key.txt"',
        'arc.keys."example.org".selector = "-": no selector (RFC 6376 3.1). Write it as "mail".',
    ),
]


@pytest.mark.parametrize(("text", "line"), EXACT)
def test_mistake(text: str, line: str) -> None:
    assert mistakes(text) == (f"smtproute.toml: {line}",)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    why = f"cannot be read: no such file or directory. A relative path starts at {tmp_path}."
    assert mistakes(
        '[listener.mx]\ncertificate = "no.pem"\nkey = "no.key"\n'
        '[endpoint.x]\nservers = ["a.b"]\ntls = "require"\nca_file = "no.ca"\n'
        '[accounts]\nfile = "no.cf"\n[aliases]\ntables = ["pcre:no.cf", "texthash:virtual.cf", "no"]\n'
        '[resolver]\nhosts_file = "no"\n'
        '[arc.keys."example.org"]\nselector = "mail"\nfile = "no.key"\n[arc.keys."example.com"]\nselector = "mail"\n'
        'file = "key.txt"\n'
    ) == (
        f'smtproute.toml: accounts.file = "no.cf": {why}',
        f'smtproute.toml: aliases.tables[0] = "pcre:no.cf": {why}',
        f'smtproute.toml: aliases.tables[2] = "no": {why}',
        f'smtproute.toml: listener.mx.certificate = "no.pem": {why}',
        f'smtproute.toml: listener.mx.key = "no.key": {why}',
        f'smtproute.toml: endpoint.x.ca_file = "no.ca": {why}',
        f'smtproute.toml: resolver.hosts_file = "no": {why}',
        f'smtproute.toml: arc.keys."example.org".file = "no.key": {why}',
    )
    assert mistakes('[docker_mailserver]\nconfig = "dms"\nenv = "no.env"') == (
        f'smtproute.toml: docker_mailserver.env = "no.env": {why}',
    )
    assert mistakes('[docker_mailserver]\nconfig = "no"') == (
        f'smtproute.toml: docker_mailserver.config = "no": no such folder. A relative path starts at {tmp_path}.',
    )
    assert mistakes('[docker_mailserver]\nconfig = "broken"') == (
        f'smtproute.toml: docker_mailserver.config = "broken": {tmp_path}/broken/postfix-virtual.cf cannot be read: '
        "is a directory. Mend that file.",
    )


def test_a_certificate_that_is_not_used_is_not_looked_for() -> None:
    Path("smtproute.toml").write_text('[listener.mx]\ntls = "none"\ncertificate = "no.pem"\nkey = "no.key"\n')
    assert load("smtproute.toml", {}, fqdn=lambda: "h.example").settings.listeners["mx"].certificate == ""


def test_each_mistake_has_its_line() -> None:
    lines = mistakes('[endpoint.x]\nservers = ["::1", "a_b"]\n[queue]\nretry = ["soon", 0]\n[log]\nformat = "xml"\n')
    assert [line.partition(" = ")[0] for line in lines] == [
        "smtproute.toml: endpoint.x.servers[0]",
        "smtproute.toml: endpoint.x.servers[1]",
        "smtproute.toml: queue.retry[0]",
        "smtproute.toml: queue.retry[1]",
        "smtproute.toml: log.format",
    ]


@pytest.mark.parametrize(
    ("text", "line", "mend"),
    [
        ('[arc.keys."d"]\n[[arc.keys."d"]]', 2, 'double brackets, the first one too: [[arc.keys."d"]].'),
        ("[dkim.keys.d]\n[ dkim.keys.d ] # again", 2, "double brackets, the first one too: [[dkim.keys.d]]."),
        ("[route]\n[[route]]", 2, "double brackets, the first one too: [[route]]."),
        ("[queue]\n[listener.mx]\n[listener.mx]", 3, "A table is written once: put both into one"),
        ('hostname = "a"\nhostname = "b"', 2, "A key is written once."),
    ],
)
def test_what_is_written_twice(text: str, line: int, mend: str) -> None:
    (mistake,) = mistakes(text + "\n")
    assert mistake.startswith(f"smtproute.toml:{line}: not TOML: Cannot ") and mend in mistake
    assert "in quotes" not in mistake


def test_the_file_itself(tmp_path: Path) -> None:
    assert mistakes('hostname = "a"\ndomains = [\n') == (
        "smtproute.toml:3: not TOML: Invalid value (at the end of the file). Texts are written in quotes.",
    )
    assert mistakes("hostname = mx.example.org\n") == (
        "smtproute.toml:1: not TOML: Invalid value (in column 12). Texts are written in quotes.",
    )
    assert mistakes(b'hostname = "a"\ndomains = ["\xe4"]\n') == (
        "smtproute.toml:2: not UTF-8, which TOML must be. Save the file in UTF-8.",
    )
    assert mistakes(f"[queue]\nmax_size = {'9' * 5000}")[0].startswith("smtproute.toml: not TOML: ")
    assert mistakes("x = " + "[" * 100_000)[0].startswith("smtproute.toml")
    with pytest.raises(Mistake) as caught:
        load("no.toml", {}, fqdn=lambda: "h")
    assert caught.value.lines == (
        "no.toml: cannot be read: no such file or directory. Name the configuration with -c FILE.",
    )
    with pytest.raises(Mistake) as caught:
        load(str(tmp_path / "empty"), {}, fqdn=lambda: "h")
    assert caught.value.lines == ("empty: cannot be read: is a directory. Name the configuration with -c FILE.",)


def test_a_file_elsewhere_is_shown_as_it_was_named(tmp_path: Path) -> None:
    (tmp_path / "empty/x.toml").write_text("x = 1")
    with pytest.raises(Mistake) as caught:
        load("empty/x.toml", {}, fqdn=lambda: "h")
    assert caught.value.lines[0].startswith("empty/x.toml: x: unknown key.")


def test_the_machine_has_no_usable_name() -> None:
    with pytest.raises(Mistake) as caught:
        load(None, {}, fqdn=lambda: "my machine")
    assert caught.value.lines == (
        "defaults: hostname: missing, and the name of this machine cannot stand in: 'my machine' is no domain name. "
        'Write hostname = "mail.example.org".',
    )


def test_one_line_whatever_the_value_holds() -> None:
    lines = mistakes('"a\\nb" = "c\\nd"\n[listener.mx]\nrole = "\\u0000\\n"\nbind = "\\u2028"\n')
    assert all("\n" not in line and "\0" not in line for line in lines)
    (line,) = mistakes("", {"SMTPROUTE__HOSTNAME": "\udce4.example"})
    line.encode()  # what a terminal must be able to print
    (line,) = mistakes(f'[log]\nformat = "{"x" * 5000}"')
    assert len(line) < 400


def test_a_variable_is_named() -> None:
    assert mistakes(
        GITLAB,
        {
            "SMTPROUTE__ENDPOINT__GITLAB__SERVERS": '["a.b", "10.0.0.5:25"]',
            "SMTPROUTE__ENDPONT__GITLAB__SERVERS": '["a.b"]',
            "SMTPROUTE__ENDPOINT__GITLAB__TLSS": "never",
            "SMTPROUTE__LISTENER__MX__CERTIFICATE": "no.pem",
            "SMTPROUTE__QUEUE__LIFETIME": "soon",
            "SMTPROUTE__QUEUE__LIFETIME__X": "1",
            "SMTPROUTE__ARC__KEYS__EXAMPLE__FILE": "key.txt",
            "SMTPROUTE__LISTENER": "5",
            "SMTPROUTE__": "5",
            "SMTPROUTE__QUEUE____X": "5",
        },
    ) == (
        "environment: SMTPROUTE__: no key. Write SMTPROUTE__SECTION__KEY.",
        "environment: SMTPROUTE__LISTENER__MX__CERTIFICATE: listener is no table. Set it whole: SMTPROUTE__LISTENER.",
        "environment: SMTPROUTE__QUEUE__LIFETIME__X: queue.lifetime is no table. Set it whole: "
        "SMTPROUTE__QUEUE__LIFETIME.",
        "environment: SMTPROUTE__QUEUE____X: no key. Write SMTPROUTE__SECTION__KEY.",
        "environment: SMTPROUTE__LISTENER = 5: a table is wanted. Write { key = value }, or the key under a [table].",
        'environment: SMTPROUTE__ENDPOINT__GITLAB__SERVERS[1] = "10.0.0.5:25": an endpoint is a host name, not an IP '
        'address. Give it a name: add "gitlab.internal" = ["10.0.0.5"] under [resolver] static, or to your internal '
        "DNS.",
        'environment: SMTPROUTE__ENDPOINT__GITLAB__TLSS: unknown key. Did you mean "tls"?',
        "environment: SMTPROUTE__ARC__KEYS__EXAMPLE__SELECTOR: missing. Add selector.",
        'environment: SMTPROUTE__QUEUE__LIFETIME = "soon": a duration is wanted. Write "30s", "5m", "1h" or "5d".',
        'environment: SMTPROUTE__ENDPONT__GITLAB__SERVERS: unknown key. Did you mean "endpoint"?',
    )


def test_a_variable_holds_one_value() -> None:
    assert mistakes("", {"SMTPROUTE__LIMITS__ERRORS": "7\nrecipients = 1"}) == (
        'environment: SMTPROUTE__LIMITS__ERRORS = "7\\nrecipients = 1": a whole number is wanted, 1 or more.',
    )


def test_a_variable_that_means_two_things() -> None:
    text = '[endpoint.git-lab]\nservers = ["a.b"]\n[endpoint.Git_Lab]\nservers = ["a.b"]\n'
    assert mistakes(text, {"SMTPROUTE__ENDPOINT__GIT_LAB__TLS": "never"}) == (
        'environment: SMTPROUTE__ENDPOINT__GIT_LAB__TLS: means "git-lab" and "Git_Lab" alike. Rename one of them.',
    )


NAMES = [name.upper() for name in Root.model_fields] + [
    f"{section.upper()}__{name}{key.upper()}"
    for section, name in (
        *((section, "") for section in ("accounts", "aliases", "arc", "authentication", "dkim", "srs")),
        *((section, "") for section in ("queue", "limits", "trace", "log", "resolver")),
        ("listener", "MX__"),
        ("endpoint", "X__"),
    )
    for key in known_keys((section, *((name,) if name else ())))
]
ODD = r"""[] {} [[]] {x={}} true -1 1.5 1e400 nan 2024-01-01 "" ["a.b:25"] ["\u0000"] "10.5" [{match="*"}] {mx={}}
["::1%0"] ["*@a..b"] {"a.b"=[{selector="x",file="/etc/hostname"},{selector="X",file="/"}]} {"a.b"=[5]}
recipient a.b :25 dns {"a.b"={selector="x",file="/etc/hostname"}} {"[1.2.3.4]"={}}
["pcre:/etc/hostname"]"""
VALUES = st.one_of(
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20),
    st.sampled_from([*ODD.split(), "1\nb=2", "9" * 400, "9" * 5000]),
)


@settings(max_examples=250, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=6))
def test_anything_is_a_snapshot_or_a_mistake(values: dict[str, str]) -> None:
    try:
        snapshot = load(None, {f"SMTPROUTE__{name}": text for name, text in values.items()}, fqdn=lambda: "h.example")
    except Mistake as mistake:
        assert mistake.lines
        assert all("\n" not in line and line.startswith(("environment: ", "defaults: ")) for line in mistake.lines)
    else:
        assert isinstance(snapshot, Snapshot)
