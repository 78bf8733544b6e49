"""What a configuration becomes: every key, every default, the overrides, and where paths start."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from smtproute.config import find, load
from smtproute.core.address import Address, Domain
from smtproute.core.decide import Mailbox
from smtproute.core.routes import Target
from smtproute.core.settings import (
    Accounts,
    Arc,
    Balance,
    BareNewline,
    Discover,
    DomainKey,
    Endpoint,
    EndpointTls,
    Family,
    Limits,
    Listener,
    ListenerTls,
    Log,
    LogFormat,
    Mode,
    Queue,
    ReplyAfter,
    Resolver,
    Role,
    Server,
    Settings,
    SignBy,
    Source,
    Trace,
)
from smtproute.core.snapshot import Snapshot

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded(text: str, environ: dict[str, str] | None = None) -> Snapshot:
    Path("smtproute.toml").write_text(text)
    return load("smtproute.toml", environ or {}, fqdn=lambda: "host.example.net")


def test_no_file_is_a_trusted_capture(tmp_path: Path) -> None:
    snapshot = load(None, {"SMTPROUTE__STATE": "state"}, fqdn=lambda: "host.example.net")
    hostname = Domain.parse("host.example.net")
    assert snapshot.settings == Settings(
        hostname=hostname,
        state=f"{tmp_path}/state",
        listeners={"default": Listener("default", trusted_networks=LOOPBACK)},
        endpoints={},
        accounts=Accounts(f"{tmp_path}/state/mail"),
    )
    routing = snapshot.routing
    assert (routing.hostname, routing.aliases.origin, routing.aliases.delimiter) == (hostname, hostname, "+")
    assert (routing.aliases.tables, routing.local_domains, routing.mailboxes, routing.routes) == ((), {}, {}, ())
    assert routing.default == Target(Mode.CAPTURE)
    assert snapshot.findings == ()


def test_every_key(tmp_path: Path) -> None:
    for name in ("mx.pem", "mx.key", "ca.pem", "key.txt", "hosts", "people.cf", "aliases", "patterns"):
        (tmp_path / name).touch()
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "people.cf").write_text("anna@example.org|{SHA512-CRYPT}x|userdb_x=y\n")
    snapshot = loaded("""
        hostname = "MX.example.org."
        state = "state"
        domains = ["example.com", "Example.COM", "münchen.example"]
        default = { mode = "reject" }
        [accounts]
        file = "people.cf"
        maildir = "/srv/mail"
        [aliases]
        tables = ["aliases", "pcre:patterns", "texthash:aliases"]
        recipient_delimiter = "-"
        [listener.mx]
        bind = "[::]:25"
        role = "inbound"
        tls = "implicit"
        certificate = "mx.pem"
        key = "mx.key"
        trusted_networks = ["192.0.2.0/24", "2001:db8::1"]
        bare_newline = "normalize"
        debug = true
        [listener.app]
        bind = ":0"
        role = "trusted"
        seal = true
        reply = "delivered"
        proxy_timeout = "10s"
        [endpoint.gitlab]
        servers = ["gitlab.internal:4025", "b.internal"]
        backup = ["c.internal"]
        discover = "a"
        tls = "require"
        ca_file = "ca.pem"
        verify = false
        balance = "round-robin"
        family = "ipv6"
        tls_name = "Mail.Example.org."
        certificate = "mx.pem"
        key = "mx.key"
        username = "anna"
        password_file = "password"
        max_connections = 3
        max_messages = 50
        rate = "600/m"
        seal = false
        [endpoint.internet]
        discover = "recipient"
        [[route]]
        match = "*@git.example.org"
        endpoint = "gitlab"
        seal = false
        [[route]]
        match = "*@*.example.org"
        mode = "capture"
        [[route]]
        match = "a@b.example"
        mode = "endpoint"
        endpoint = "internet"
        [resolver]
        order = ["dns", "static"]
        static = { "Gitlab.internal" = ["10.0.0.5", "2001:DB8::5"] }
        hosts_file = "hosts"
        servers = ["127.0.0.1:5353", "[::1]:53", "[::1]", "::1", "192.0.2.53"]
        watch = "0s"
        stale = "2h"
        [arc]
        sign = "example.org"
        [arc.keys."Example.org"]
        selector = "2024.mail"
        file = "key.txt"
        [queue]
        retry = ["30s", 5, "5m", "1h"]
        lifetime = "2d"
        max_size = "1GB"
        [limits]
        message_size = "256KiB"
        recipients = 100
        connections = 10
        connections_per_address = 5
        errors = 3
        auth_failures = 2
        in_flight = 1048576
        timeout = "1m"
        [trace]
        content = 0
        events = "30d"
        captures = 0
        captured = "1h"
        [log]
        format = "json"
    """)
    here = str(tmp_path)
    assert snapshot.settings == Settings(
        hostname=Domain.parse("mx.example.org"),
        state=f"{here}/state",
        listeners={
            "mx": Listener(
                "mx",
                "::",
                25,
                Role.INBOUND,
                ListenerTls.IMPLICIT,
                f"{here}/mx.pem",
                f"{here}/mx.key",
                (ip_network("192.0.2.0/24"), ip_network("2001:db8::1/128")),
                BareNewline.NORMALIZE,
                debug=True,
            ),
            "app": Listener(
                "app",
                "",
                0,
                Role.TRUSTED,
                trusted_networks=LOOPBACK,
                seal=True,
                reply=ReplyAfter.DELIVERED,
                proxy_timeout=10.0,
            ),
        },
        endpoints={
            "gitlab": Endpoint(
                "gitlab",
                servers=(Server("gitlab.internal", 4025), Server("b.internal", 25)),
                backup=(Server("c.internal", 25),),
                balance=Balance.ROUND_ROBIN,
                family=Family.IPV6,
                tls=EndpointTls.REQUIRE,
                ca_file=f"{here}/ca.pem",
                verify=False,
                tls_name="mail.example.org",
                certificate=f"{here}/mx.pem",
                key=f"{here}/mx.key",
                max_connections=3,
                max_messages=50,
                rate=10.0,
                seal=False,
                username="anna",
                password="secret",
            ),
            "internet": Endpoint("internet", discover=Discover.RECIPIENT),
        },
        accounts=Accounts("/srv/mail"),
        resolver=Resolver(
            (Source.DNS, Source.STATIC),
            {"gitlab.internal": ("10.0.0.5", "2001:db8::5")},
            f"{here}/hosts",
            ("127.0.0.1:5353", "[::1]:53", "[::1]", "::1", "192.0.2.53"),
            watch=0.0,
            stale=7200.0,
        ),
        arc=Arc(
            SignBy.DOMAIN,
            Domain.parse("example.org"),
            {"example.org": DomainKey(Domain.parse("example.org"), "2024.mail", f"{here}/key.txt")},
        ),
        queue=Queue((30.0, 5.0, 300.0, 3600.0), 172800.0, 1_000_000_000),
        limits=Limits(262_144, 100, 10, 5, 3, 2, 1_048_576, 60.0),
        trace=Trace(0.0, 2_592_000.0, 0, 3600.0),
        log=Log(LogFormat.JSON),
    )
    routing = snapshot.routing
    assert [(route.rule, route.match.text, route.target) for route in routing.routes] == [
        ("route[0]", "*@git.example.org", Target(Mode.ENDPOINT, "gitlab", seal=False)),
        ("route[1]", "*@*.example.org", Target(Mode.CAPTURE)),
        ("route[2]", "a@b.example", Target(Mode.ENDPOINT, "internet")),
    ]
    assert routing.default == Target(Mode.REJECT)
    assert routing.local_domains == {
        "example.com": "domains[0]",
        "xn--mnchen-3ya.example": "domains[2]",
        "example.org": "people.cf:1",
    }
    assert routing.mailboxes == {
        "anna@example.org": Mailbox(Address("anna", Domain.parse("example.org")), "people.cf:1")
    }
    assert [table.file for table in routing.aliases.tables] == ["aliases", "patterns", "aliases"]
    assert routing.aliases.delimiter == "-"


def test_defaults_that_depend_on_other_keys() -> None:
    for name in ("mx.pem", "mx.key"):
        Path(name).touch()
    listeners = loaded("""
        [listener.a]
        certificate = "mx.pem"
        key = "mx.key"
        bind = "127.0.0.1:1"
        [listener.b]
        trusted_networks = ["10.0.0.0/8"]
        bind = "127.0.0.1:2"
        [listener.c]
        role = "inbound"
        bind = "127.0.0.1:3"
    """).settings.listeners
    assert listeners["a"].tls is ListenerTls.STARTTLS
    assert listeners["b"].tls is ListenerTls.NONE
    assert listeners["b"].trusted_networks == (ip_network("10.0.0.0/8"),)
    assert listeners["c"].trusted_networks == ()


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("127.0.0.1:25", "127.0.0.1:25", True),
        ("127.0.0.1:25", "127.0.0.2:25", False),
        ("127.0.0.1:25", "127.0.0.1:26", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        (":0", ":0", False),
        ("0.0.0.0:25", "127.0.0.1:25", True),
        ("0.0.0.0:25", "[::]:25", False),
        ("[::1]:25", "[::]:25", True),
        (":25", "[::1]:25", True),
    ],
)
def test_two_listeners_on_one_port(first: str, second: str, clash: bool) -> None:
    text = f'[listener.a]\nbind = "{first}"\n[listener.b]\nbind = "{second}"\n'
    if clash:
        with pytest.raises(Exception, match=r"listener\.b\.bind"):
            loaded(text)
    else:
        assert len(loaded(text).settings.listeners) == 2


def test_star_is_a_route_where_every_client_is_trusted() -> None:
    (route,) = loaded('[[route]]\nmatch = "*"\nmode = "capture"\n').routing.routes
    assert route.match.holds(Address.parse("anyone@anywhere.example"))


@pytest.mark.parametrize(
    ("arc", "sign"), [("", SignBy.RECIPIENT), ('sign = "sender"', SignBy.SENDER), ('sign = "off"', SignBy.OFF)]
)
def test_who_seals(arc: str, sign: SignBy) -> None:
    Path("key.txt").touch()
    text = f'domains = ["EXAMPLE.org"]\n[arc]\n{arc}\n[arc.keys."example.ORG"]\nselector = "s"\nfile = "key.txt"\n'
    made = loaded(text).settings.arc
    assert (made.sign, list(made.keys)) == (sign, ["example.org"])
    assert loaded('[arc]\nsign = "off"\n').settings.arc == Arc()


def test_state_falls_back_to_the_home_folder(tmp_path: Path) -> None:
    state = load(None, {"HOME": "/home/x"}, fqdn=lambda: "h.example").settings.state
    assert state in ("/var/lib/smtproute", "/home/x/.local/state/smtproute")


def test_paths_start_at_the_file_or_for_variables_at_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for name in ("etc/ca.pem", "ca.pem", "etc/t", "t"):
        (tmp_path / name).touch()
    (tmp_path / "etc/x.toml").write_text("""
        state = "state"
        [accounts]
        maildir = "mail"
        [endpoint.a]
        servers = ["a.b"]
        tls = "require"
        ca_file = "ca.pem"
        [endpoint.b]
        servers = ["a.b"]
        tls = "require"
    """)
    settings = load(
        "etc/x.toml",
        {"SMTPROUTE__ENDPOINT__B__CA_FILE": "ca.pem", "SMTPROUTE__ACCOUNTS": '{ maildir = "mail" }'},
        fqdn=lambda: "h.example",
    ).settings
    assert settings.state == f"{tmp_path}/etc/state"
    assert settings.endpoints["a"].ca_file == f"{tmp_path}/etc/ca.pem"
    assert settings.endpoints["b"].ca_file == f"{tmp_path}/ca.pem"
    assert settings.accounts.maildir == f"{tmp_path}/mail"


def test_variables_override() -> None:
    snapshot = loaded(
        """
        hostname = "a.example"
        [listener.Front-Door]
        bind = "127.0.0.1:25"
        [endpoint.git_lab]
        servers = ["gitlab.internal:25"]
        [resolver]
        static = { "gitlab.internal" = ["10.0.0.5"] }
        """,
        {
            "SMTPROUTE__HOSTNAME": "b.example",
            "SMTPROUTE__DOMAINS": '["example.org"]',
            "SMTPROUTE__DEFAULT__ENDPOINT": "git_lab",
            "SMTPROUTE__LISTENER__FRONT_DOOR__BIND": "127.0.0.1:0",
            "SMTPROUTE__LISTENER__FRONT_DOOR__DEBUG": "true",
            "SMTPROUTE__ENDPOINT__GIT_LAB__SERVERS": '["gitlab.internal:4025"]',
            "SMTPROUTE__endpoint__other__servers": '["other.internal"]',
            "SMTPROUTE__RESOLVER__STATIC__GITLAB_INTERNAL": '["127.0.0.1"]',
            "SMTPROUTE__RESOLVER__SERVERS": '["127.0.0.1:5353"]',
            "SMTPROUTE__QUEUE__LIFETIME": "1h",
            "SMTPROUTE__QUEUE__RETRY": '["1s", 2]',
            "SMTPROUTE__LIMITS__ERRORS": "7",
            "SMTPROUTE__LIMITS__MESSAGE_SIZE": "1MB",
            "SMTPROUTE__ALIASES__RECIPIENT_DELIMITER": "",
            "SMTPROUTE__ROUTE": '[{ match = "*@x.example", mode = "capture" }]',
            # neither is ours: Kubernetes makes such names for a service called smtproute
            "SMTPROUTE_PORT": "tcp://10.0.0.1:25",
            "SMTPROUTE_SERVICE_HOST": "10.0.0.1",
            "SMTPROUTE_CONFIG": "elsewhere.toml",
            "smtproute__hostname": "c.example",
        },
    )
    settings = snapshot.settings
    assert settings.hostname.key == "b.example"
    assert snapshot.routing.local_domains == {"example.org": "domains[0]"}
    assert snapshot.routing.default == Target(Mode.ENDPOINT, "git_lab")
    assert list(settings.listeners) == ["Front-Door"]
    assert (settings.listeners["Front-Door"].port, settings.listeners["Front-Door"].debug) == (0, True)
    assert settings.endpoints["git_lab"].servers == (Server("gitlab.internal", 4025),)
    assert settings.endpoints["other"].servers == (Server("other.internal", 25),)
    assert settings.resolver.static == {"gitlab.internal": ("127.0.0.1",)}
    assert settings.resolver.servers == ("127.0.0.1:5353",)
    assert settings.queue == Queue((1.0, 2.0), 3600.0)
    assert settings.limits == Limits(1_000_000, errors=7)
    assert snapshot.routing.aliases.delimiter == ""
    assert [route.match.text for route in snapshot.routing.routes] == ["*@x.example"]


def test_the_deeper_variable_refines_the_shallower() -> None:
    environ = {
        "SMTPROUTE__ENDPOINT__A__TLS": "never",
        "SMTPROUTE__ENDPOINT": '{ a = { servers = ["a.b"], tls = "require" } }',
    }
    assert load(None, environ, fqdn=lambda: "h.example").settings.endpoints["a"].tls is EndpointTls.NEVER


def test_which_file(tmp_path: Path) -> None:
    here = tmp_path / "smtproute.toml"
    assert find("a.toml", {"SMTPROUTE_CONFIG": "b.toml"}, tmp_path) == "a.toml"
    assert find(None, {"SMTPROUTE_CONFIG": "b.toml"}, tmp_path) == "b.toml"
    assert find(None, {"SMTPROUTE_CONFIG": ""}, tmp_path) in (None, "/etc/smtproute/smtproute.toml")
    here.touch()
    assert find(None, {}, str(tmp_path)) == str(here)


def test_faults_in_tables_are_findings(tmp_path: Path) -> None:
    (tmp_path / "v").write_text("a@b.example x@y.example\na@b.example z@y.example\nlonely\n")
    (tmp_path / "p").write_text("/(/ x\n")
    (tmp_path / "accounts").write_text("no address|{X}y\n")
    snapshot = loaded('[aliases]\ntables = ["v", "pcre:p"]\n[accounts]\nfile = "accounts"\n')
    assert [(str(each.severity), each.name, each.where) for each in snapshot.findings] == [
        ("warning", "account-line", "accounts:1"),
        ("error", "duplicate-key", "v:2"),
        ("warning", "no-value", "v:3"),
        ("warning", "pattern", "p:1"),
    ]
    assert snapshot.routing.aliases.tables[0].fault == 'duplicate key "a@b.example" (lines 1 and 2)'
    assert snapshot.routing.local_domains == {"b.example": "v:1"}
