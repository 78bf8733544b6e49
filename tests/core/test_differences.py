"""What docker-mailserver does where it differs from us: one sentence where it applies, silence where it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtproute.core.address import Address, Domain
from smtproute.core.aliases import TextTable
from smtproute.core.decide import Facts, Routing, decide
from smtproute.core.differences import differences, quota_name
from smtproute.core.docker_mailserver import Environment, Folder, KeyFile, Line, Signing, UserdbLine
from smtproute.core.envelope import Envelope
from smtproute.core.quota import FULL, Quota
from smtproute.core.relays import Relay, Relays
from smtproute.core.routes import Target
from smtproute.core.seals import plan_seal
from smtproute.core.settings import (
    Accounts,
    Arc,
    DomainKey,
    Endpoint,
    Listener,
    Mode,
    Role,
    Settings,
    SignBy,
    Srs,
)
from tests.core.routing import HOST, envelope, routing, text_table

FAR = Target(Mode.ENDPOINT, "far")
STRANGER = envelope()


def environment(**variables: str) -> Environment:
    return Environment({name: Line(f"env:{name}", name, value) for name, value in variables.items()}, written=True)


QUIET = environment(ENABLE_AMAVIS="0", ENABLE_QUOTAS="0")
QUOTAS = environment(ENABLE_AMAVIS="0")


def folder(tables: Routing, version: str = "15", said: Environment = QUIET, **options) -> Folder:
    """A folder of these tables, with the userdb that the scripts make of accounts and aliases."""
    accounts = {str(each.address): each for each in tables.mailboxes.values()}
    userdb = [UserdbLine(name, name, "{PLAIN}x", "", "", each.rule) for name, each in accounts.items()]
    for table in tables.aliases.tables:
        for key, entry in table.entries.items() if isinstance(table, TextTable) else ():
            rule = f"{table.file}:{entry.line}"
            sought = entry.value.replace(",", " ").split() if version == "16" else [entry.value]
            account = next((target for target in sought if target in accounts), None)
            if account is not None and not key.startswith("@"):
                userdb.append(UserdbLine(key, account, "{PLAIN}x", "", "", rule))
    made = Folder("dms", version, HOST, said, userdb=tuple(userdb))
    return replace(made, **options)


def limited(tables: Routing, limit: int = 100) -> Routing:
    """The same with a limit on every mailbox, as docker-mailserver answers."""
    mailboxes = {
        key: replace(each, quota=Quota(limit, 10, "dovecot-quotas.cf:1")) for key, each in tables.mailboxes.items()
    }
    return replace(tables, mailboxes=mailboxes, full=FULL)


def said(
    made: Folder,
    tables: Routing,
    recipient: str,
    who: Envelope = STRANGER,
    usage: dict[str, int] | None = None,
    arc: Arc | None = None,
    first: str | None = None,
) -> list[str]:
    """All sentences about one recipient."""
    facts = Facts(tables, usage or {}, now=0.0)
    plan = decide(facts, who, Address.parse(recipient))
    seals = [plan_seal(settings(arc), who, each, None) for each in plan.deliveries] if arc is not None else []
    return list(differences(made, facts, who, plan, seals, Address.parse(first) if first else None))


def settings(arc: Arc) -> Settings:
    listeners = {"mx": Listener("mx", role=Role.INBOUND)}
    return Settings(Domain.parse(HOST), "/s", listeners, {"far": Endpoint("far")}, Accounts("/m"), arc=arc)


def logged_in(login: str, sender: str | None = "name@example.org") -> Envelope:
    who = envelope(role=Role.SUBMISSION, sender=sender)
    return replace(who, client=replace(who.client, login=Address.parse(login)))


ACCOUNTS = ("name@example.org", "anna@example.org")
FORWARD = limited(routing({"name@example.org": "me@far.example"}, accounts=ACCOUNTS, default=FAR))
KEEP = routing({"name@example.org": "name@example.org, me@far.example"}, accounts=ACCOUNTS, default=FAR)


class TestQuota:
    def test_a_forward_from_the_name_of_a_full_idle_account_is_refused_there(self) -> None:
        made = folder(FORWARD, said=QUOTAS)
        (sentence,) = said(made, FORWARD, "name@example.org", usage={"name@example.org": 120})
        assert sentence == (
            "At RCPT it answers 552 5.2.2 Mailbox is full: the quota is asked for name@example.org as written, before"
            " any alias, and its mailbox is full (120 of 100 octets), though nothing of this mail goes there."
        )
        assert said(made, FORWARD, "name+tag@example.org", usage={"name@example.org": 120})
        assert said(made, FORWARD, "name@example.org", usage={"name@example.org": 50}) == []
        assert quota_name(made, FORWARD, Address.parse("Name+tag@example.org")) == Address.parse("Name@example.org")

    def test_who_is_not_a_stranger_is_not_asked_about(self) -> None:
        made = folder(FORWARD, said=QUOTAS)
        full = {"name@example.org": 120}
        assert said(made, FORWARD, "name@example.org", logged_in("anna@example.org", "anna@example.org"), full) == []
        assert said(made, FORWARD, "name@example.org", envelope(trusted=True, role=Role.TRUSTED), full) == []

    def test_without_quotas_nobody_is_asked(self) -> None:
        for off in ({"ENABLE_QUOTAS": "0"}, {"SMTP_ONLY": "1"}, {"ACCOUNT_PROVISIONER": "LDAP"}):
            made = folder(FORWARD, said=environment(ENABLE_AMAVIS="0", **off))
            assert said(made, FORWARD, "name@example.org", usage={"name@example.org": 120}) == []

    def test_16_answers_in_dovecots_own_words(self) -> None:
        made = folder(FORWARD, "16", QUOTAS)
        (sentence,) = said(made, FORWARD, "name@example.org", usage={"name@example.org": 120})
        assert sentence.startswith("At RCPT it answers 554 5.2.2 Quota exceeded (mailbox for user is full): ")

    def test_a_full_mailbox_behind_an_alias_bounces_later(self) -> None:
        tables = limited(routing({"info@example.org": "anna@example.org"}, accounts=ACCOUNTS))
        (sentence,) = said(folder(tables, said=QUOTAS), tables, "info@example.org", usage={"anna@example.org": 120})
        assert sentence == (
            "It answers 250 at RCPT and bounces later, to a sender that may be forged (552 5.2.2): the quota is asked"
            " for info@example.org, a virtual account with the limit of anna@example.org and a folder of its own,"
            " which no mail gets into."
        )

    def test_the_substring_trap_names_whose_limit_it_is(self) -> None:
        tables = limited(routing({"info@example.org": "anna@example.org"}, accounts=(*ACCOUNTS, "joanna@example.org")))
        made = folder(tables, said=QUOTAS)
        wrong = UserdbLine("info@example.org", "joanna@example.org", "{PLAIN}x", "", "", "postfix-virtual.cf:1")
        made = replace(made, userdb=(*made.userdb[:-1], wrong))
        (sentence,) = said(made, tables, "info@example.org", usage={"anna@example.org": 120})
        assert "with the limit of joanna@example.org" in sentence

    def test_a_full_account_itself_is_refused_by_both(self) -> None:
        made = folder(FORWARD, said=QUOTAS)
        assert said(made, FORWARD, "anna@example.org", usage={"anna@example.org": 120}) == []
        later = replace(FORWARD, full=replace(FULL, code=452, enhanced="4.2.2"))
        (sentence,) = said(made, later, "anna@example.org", usage={"anna@example.org": 120})
        assert sentence.startswith("At RCPT it answers 552 5.2.2 Mailbox is full instead: ")

    def test_submission_to_a_full_mailbox_bounces(self) -> None:
        made, who = folder(FORWARD, said=QUOTAS), logged_in("name@example.org")
        (sentence,) = said(made, FORWARD, "anna@example.org", who, {"anna@example.org": 120})
        assert sentence.startswith("It answers 250 at RCPT and bounces later")
        assert "who has logged in is permitted before the quota is asked" in sentence

    def test_one_full_copy_of_several_bounces(self) -> None:
        tables = limited(routing({"all@example.org": "name@example.org anna@example.org"}, accounts=ACCOUNTS))
        usage = {"name@example.org": 10, "anna@example.org": 120}
        first, second = said(folder(tables, said=QUOTAS), tables, "all@example.org", usage=usage)
        assert "knows no all@example.org" in first
        assert second == "The copy for anna@example.org bounces (552 5.2.2), where ours is deferred."

    @pytest.mark.parametrize(
        "recipient", ["out@example.org", "both@example.org", "nested@example.org", "any@catch.example", "root@" + HOST]
    )
    def test_what_dovecot_does_not_know(self, recipient: str) -> None:
        tables = routing(
            {
                "out@example.org": "me@far.example",
                "both@example.org": "name@example.org, me@far.example",
                "info@example.org": "anna@example.org",
                "nested@example.org": "info@example.org",
                "@catch.example": "anna@example.org",
            },
            accounts=ACCOUNTS,
            domains=(HOST,),
            default=FAR,
        )
        local = (text_table({"root": "anna@example.org"}, "postfix-aliases.cf"),)
        tables = replace(tables, aliases=replace(tables.aliases, local=local, destinations=frozenset({HOST})))
        (sentence,) = said(folder(tables, "15", QUOTAS), tables, recipient)
        assert sentence == f'Dovecot\'s quota service knows no {recipient}: it logs "unknown user" and lets it pass.'
        assert said(folder(tables, "15", QUOTAS), tables, "info@example.org") == []
        sentences = said(folder(tables, "16", QUOTAS), tables, recipient)
        if recipient == "both@example.org":  # since 16 the first of several targets counts that is an account
            assert sentences == []
        else:
            assert sentences[0].startswith("At RCPT it answers 554 5.7.1 Unknown user: 16.0.0 ")
        assert said(folder(tables, "16", QUOTAS), tables, "info@example.org") == []


class TestAmavis:
    def test_the_external_side_of_keep_and_forward_gets_two_copies(self) -> None:
        made = folder(KEEP, said=environment(ENABLE_QUOTAS="0"))
        (sentence,) = said(made, KEEP, "name@example.org")
        assert sentence.startswith("Amavis hands the mail back and the aliases are expanded again: 2 copies go to")
        assert sentence.endswith(" me@far.example (#683, #1354).")
        assert said(folder(KEEP), KEEP, "name@example.org") == []

    def test_nothing_doubles_without_an_alias_that_stays(self) -> None:
        tables = routing({"a@example.org": "b@far.example c@far.example"}, accounts=ACCOUNTS, default=FAR)
        assert said(folder(tables, said=environment(ENABLE_QUOTAS="0")), tables, "a@example.org") == []

    def test_many_addresses_are_not_all_named(self) -> None:
        targets = ", ".join(f"t{number}@far.example" for number in range(5))
        tables = routing({"name@example.org": f"name@example.org, {targets}"}, accounts=ACCOUNTS, default=FAR)
        (sentence,) = said(folder(tables, said=environment(ENABLE_QUOTAS="0")), tables, "name@example.org")
        assert "2 copies go to t0@far.example, t1@far.example, t2@far.example and 2 more " in sentence

    def test_local_aliases_come_after_amavis(self) -> None:
        tables = replace(KEEP, local_domains={**KEEP.local_domains, HOST: "hostname"})
        local = (text_table({"root": "name@example.org"}, "postfix-aliases.cf"),)
        tables = replace(tables, aliases=replace(tables.aliases, local=local, destinations=frozenset({HOST})))
        assert said(folder(tables, said=environment(ENABLE_QUOTAS="0")), tables, f"root@{HOST}") == []

    def test_without_an_environment_file_the_default_is_said_once(self) -> None:
        sentences = said(folder(KEEP, said=Environment()), KEEP, "name@example.org")
        assert sentences[-1] == (
            "There is no environment file (docker_mailserver.env): this holds if ENABLE_AMAVIS=1 (the default)."
        )
        assert sum("the default" in each for each in sentences) == 1


class TestBackscatter:
    tables = routing(
        {
            "gone@example.org": "nobody@example.org",
            "a@example.org": "b@example.org",
            "b@example.org": "a@example.org",
        },
        accounts=ACCOUNTS,
    )

    def test_a_dead_target_is_accepted_and_bounces(self) -> None:
        for who in (STRANGER, envelope(trusted=True, role=Role.TRUSTED), logged_in("name@example.org")):
            (sentence,) = said(folder(self.tables), self.tables, "gone@example.org", who)
            assert sentence.startswith("It answers 250 at RCPT and bounces later, to a sender that may be forged")

    def test_a_loop_is_refused_after_data_at_every_retry(self) -> None:
        (sentence,) = said(folder(self.tables), self.tables, "a@example.org")
        assert sentence.startswith(
            "It answers 250 at RCPT, then 451 4.6.0 Alias expansion error after DATA, at every retry"
        )
        assert "a@example.org -> b@example.org -> a@example.org" in sentence

    def test_an_unknown_address_is_refused_by_both_but_in_submission(self) -> None:
        assert said(folder(self.tables), self.tables, "nobody@example.org") == []
        assert said(folder(self.tables, "15", QUOTAS), self.tables, "nobody@example.org") == []
        (sentence,) = said(folder(self.tables), self.tables, "nobody@example.org", logged_in("name@example.org"))
        assert "smtpd_reject_unlisted_recipient=no" in sentence

    def test_16_refuses_a_dead_alias_that_dovecot_does_not_know(self) -> None:
        (sentence,) = said(folder(self.tables, "16", QUOTAS), self.tables, "gone@example.org")
        assert sentence.startswith("At RCPT it answers 554 5.7.1 Unknown user instead: ")

    def test_what_is_denied_before_the_aliases_is_denied_there_too(self) -> None:
        assert said(folder(self.tables, "16", QUOTAS), self.tables, "x@far.example") == []
        broken = replace(self.tables, aliases=replace(self.tables.aliases, tables=(text_table({}, fault="broken"),)))
        assert said(folder(self.tables, "15", QUOTAS), broken, "name@example.org") == []


class TestSpoofProtection:
    tables = routing(
        {"sales@example.org": "anna@example.org", "@example.org": "name@example.org"},
        accounts=ACCOUNTS,
        default=FAR,
    )
    strict = replace(tables, spoof_protection=True)

    def test_without_it_anybody_may_send_as_anybody(self) -> None:
        who = logged_in("name@example.org", "boss@else.example")
        (sentence,) = said(folder(self.tables), self.tables, "x@far.example", who)
        assert sentence == (
            "Without SPOOF_PROTECTION=1 who has logged in may send as anybody, name@example.org as boss@else.example:"
            " nothing else looks at it."
        )
        assert said(folder(self.tables), self.tables, "x@far.example", logged_in("name@example.org")) == []
        assert said(folder(self.tables), self.tables, "x@far.example", logged_in("name@example.org", None)) == []

    def test_a_catch_all_grants_nothing(self) -> None:
        who = logged_in("name@example.org", "any@example.org")
        (sentence,) = said(folder(self.strict), self.strict, "x@far.example", who)
        assert "@example.org (postfix-virtual.cf:2) is never asked" in sentence
        assert sentence.endswith("write any@example.org name@example.org.")

    def test_a_detail_hides_the_login_and_its_alias(self) -> None:
        who = logged_in("anna@example.org", "sales+news@example.org")
        (sentence,) = said(folder(self.strict), self.strict, "x@far.example", who)
        assert "sales@example.org (postfix-virtual.cf:1) is never asked" in sentence
        who = logged_in("anna@example.org", "anna+news@example.org")
        assert len(said(folder(self.strict), self.strict, "x@far.example", who)) == 1

    def test_what_both_refuse_needs_no_word(self) -> None:
        who = logged_in("anna@example.org", "boss@else.example")
        assert said(folder(self.strict), self.strict, "x@far.example", who) == []


class TestSeals:
    tables = routing(
        {
            "name@example.org": "me@far.example",
            "a@sub.example.org": "me@far.example",
            "b@other.example": "me@far.example",
        },
        accounts=ACCOUNTS,
        default=FAR,
    )
    here = Arc(
        SignBy.RECIPIENT,
        keys={name: DomainKey(Domain.parse(name), "mail", "/key") for name in ("example.org", "sub.example.org")},
    )
    on = environment(ENABLE_AMAVIS="0", ENABLE_QUOTAS="0", ENABLE_RSPAMD="1")

    def arc(self, *domains: str, **options: str) -> Signing:
        lines = {name: Line(f"arc.conf:{name}", name, value) for name, value in options.items()}
        keys = tuple(KeyFile(each, "mail", "/key", "/key", "arc.conf:1") for each in domains)
        return Signing("arc.conf", lines, keys, {"example.org": "example.org", "other.example": "other.example"})

    def sealing(self, recipient: str, *domains: str, who: Envelope = STRANGER, first: str = "", **options: str):
        made = folder(self.tables, said=self.on, arc=self.arc(*domains, **options))
        return said(made, self.tables, recipient, who, arc=self.here, first=first or None)

    def test_the_first_recipients_domain_seals_every_copy(self) -> None:
        (sentence,) = self.sealing("name@example.org", "example.org", "other.example", first="b@other.example")
        assert sentence == (
            "rspamd seals the copy for me@far.example by other.example, not by example.org: the domain of the first"
            " recipient, b@other.example, before aliases."
        )
        (sentence,) = self.sealing("name@example.org", "example.org")
        assert sentence.startswith("rspamd seals a message once, by the domain of its first recipient: ")

    def test_a_missing_key_is_silent(self) -> None:
        (sentence,) = self.sealing("name@example.org")
        assert sentence.startswith("The copy for me@far.example is not sealed: arc.conf has no key for example.org")
        (sentence,) = self.sealing("b@other.example", "example.org")
        assert "is not sealed there either, and the log says so at debug level only" in sentence

    def test_use_esld_misses_the_key_of_a_subdomain(self) -> None:
        (sentence,) = self.sealing("a@sub.example.org", "sub.example.org")
        assert "no key for example.org (use_esld makes example.org of sub.example.org" in sentence
        (sentence,) = self.sealing("a@sub.example.org", "sub.example.org", use_esld="false")
        assert "is not sealed by sub.example.org" in sentence

    def test_what_looks_local_is_not_sealed_unless_it_says_so(self) -> None:
        gateway = replace(STRANGER, client=replace(STRANGER.client, ip="172.18.0.1"))
        (sentence,) = self.sealing("name@example.org", "example.org", who=gateway)
        assert "172.18.0.1 looks local to rspamd, and sign_local is not true in arc.conf" in sentence
        (sentence,) = self.sealing("name@example.org", "example.org", who=gateway, sign_local="true")
        assert "seals a message once" in sentence

    def test_without_rspamd_nothing_is_sealed(self) -> None:
        (sentence,) = said(folder(self.tables), self.tables, "name@example.org", arc=self.here)
        assert sentence.endswith("is not sealed: the folder has no rspamd/override.d/arc.conf.")
        made = folder(self.tables, arc=self.arc("example.org"))
        (sentence,) = said(made, self.tables, "name@example.org", arc=self.here)
        assert sentence.endswith("ENABLE_RSPAMD is not 1.")

    def test_a_mailbox_copy_is_nobodys_business(self) -> None:
        assert self.sealing("anna@example.org", "example.org") == []

    def test_the_domain_that_is_asked_for(self) -> None:
        known = {"example.org": "example.org", "mx.example.co.uk": "example.co.uk"}
        arc = replace(self.arc(), registered=known)
        asked = {each: arc.asked(each) for each in (*known, "a.b.example.org", "co.uk", "a.example.net")}
        assert asked == {**known, "a.b.example.org": "example.org", "co.uk": "co.uk", "a.example.net": "a.example.net"}
        assert replace(self.arc(use_esld="false"), registered=known).asked("mx.example.co.uk") == "mx.example.co.uk"


class TestSenderOnTheWayOut:
    relays = Relays(by_sender={"@example.org": Relay("[relay.example.net]:587", "postfix-relaymap.cf:1")})
    tables = replace(routing({"name@example.org": "me@far.example"}, accounts=ACCOUNTS, default=FAR), relays=relays)

    def on(self, **more: str) -> Environment:
        return environment(ENABLE_AMAVIS="0", ENABLE_QUOTAS="0", ENABLE_SRS="1", **more)

    def test_srs_rewrites_what_stays_here_too(self) -> None:
        (sentence,) = said(folder(self.tables, said=self.on()), self.tables, "anna@example.org")
        assert sentence == (
            "ENABLE_SRS=1 makes SRS0=HASH=TT=else.example=s@example.org of the sender s@else.example (HASH and TT are"
            " its seal and day), in what stays here too: anna@example.org."
        )

    @pytest.mark.parametrize(
        "more",
        [
            {"SRS_DOMAINNAME": "else.example"},
            {"SRS_EXCLUDE_DOMAINS": "a.example,else.example"},
            {"SRS_EXCLUDE_DOMAINS": ".example"},
            {"SRS_SENDER_CLASSES": "header_sender"},
        ],
    )
    def test_srs_spares_its_own_and_what_is_excluded(self, more: dict[str, str]) -> None:
        assert said(folder(self.tables, said=self.on(**more)), self.tables, "anna@example.org") == []

    def test_after_srs_the_relay_is_another(self) -> None:
        _, sentence = said(folder(self.tables, said=self.on()), self.tables, "name@example.org")
        assert sentence == (
            "The copy for me@far.example goes through relay [relay.example.net]:587 (postfix-relaymap.cf:1): its relay"
            " is chosen after SRS, by a sender at example.org (#4544)."
        )
        who = logged_in("anna@example.org", "anna@example.org")
        made = folder(self.tables, said=self.on(SRS_DOMAINNAME="srs.example"))
        _, sentence = said(made, self.tables, "x@far.example", who)
        assert sentence.startswith(
            "The copy for x@far.example goes to the MX of far.example: its relay is chosen after"
        )

    def test_where_we_rewrite_forwards_only_what_else_it_rewrites_is_told(self) -> None:
        ours = replace(self.tables, srs=Srs(Domain.parse("example.org"), secrets=("secret",)), relays=Relays())
        on = folder(ours, said=self.on())
        assert said(on, ours, "name@example.org") == []
        (sentence,) = said(on, ours, "anna@example.org")
        assert sentence.endswith(", in what stays here too: anna@example.org.")
        hosted = replace(ours, local_domains={**ours.local_domains, "hosted.example": "domains[0]"})
        *_, sentence = said(on, hosted, "x@far.example", logged_in("anna@example.org", "a@hosted.example"))
        assert sentence.endswith(
            "=hosted.example=a@example.org of the sender a@hosted.example (HASH and TT are its"
            " seal and day), also for x@far.example."
        )
        off = folder(ours, said=environment(ENABLE_AMAVIS="0", ENABLE_QUOTAS="0"))
        assert said(off, ours, "name@example.org") == [
            "Without SRS the copy for me@far.example keeps its sender, s@else.example."
        ]
        relayed = replace(ours, relays=self.relays)
        assert said(on, relayed, "name@example.org") == []  # both ask for the rewritten sender

    def test_a_sender_at_the_host_name_has_the_relay_of_its_name_alone(self) -> None:
        """Postfix looks a sender at its own name up without the domain too: that relay takes the mail until SRS."""
        by_name = {"root": Relay("[relay.example.net]:587", "postfix-relaymap.cf:2")}
        tables = replace(self.tables, relays=Relays(by_sender=by_name))
        who = logged_in("anna@example.org", f"root@{HOST}")
        *_, sentence = said(folder(tables, said=self.on()), tables, "x@far.example", who)
        assert sentence == (
            "The copy for x@far.example goes to the MX of far.example: its relay is chosen after SRS, by a sender at"
            " example.org (#4544)."
        )

    def test_without_srs_a_forward_bypasses_the_relay_map(self) -> None:
        (sentence,) = said(folder(self.tables), self.tables, "name@example.org")
        assert sentence == (
            "The copy for me@far.example goes to the MX of far.example: a forward keeps its sender, s@else.example, so"
            " that the relay of example.org does not take it (#3962)."
        )
        who = logged_in("anna@example.org", "anna@example.org")
        assert said(folder(self.tables), self.tables, "x@far.example", who) == []


WORDS = st.sampled_from(["a", "b", "name", "a+x", "root"])
DOMAINS = st.sampled_from(["one.example", "two.example", "far.example", HOST])
ADDRESSES = st.builds(lambda local, domain: f"{local}@{domain}", WORDS, DOMAINS)
KEYS = st.one_of(ADDRESSES, st.sampled_from(["@one.example", "@two.example", "root", "a"]))
ENVIRONMENTS = st.one_of(
    st.just(Environment()),
    st.dictionaries(
        st.sampled_from(["ENABLE_AMAVIS", "ENABLE_QUOTAS", "ENABLE_RSPAMD", "ENABLE_SRS", "SMTP_ONLY"]),
        st.sampled_from(["", "0", "1"]),
    ).map(lambda variables: environment(**variables)),
)


class TestProperties:
    @given(
        table=st.dictionaries(KEYS, st.lists(ADDRESSES, min_size=1, max_size=3).map(", ".join), max_size=6),
        accounts=st.lists(ADDRESSES, max_size=4, unique_by=str.lower).map(tuple),
        recipient=ADDRESSES,
        login=st.one_of(st.none(), ADDRESSES),
        sender=st.one_of(st.none(), ADDRESSES),
        said_there=ENVIRONMENTS,
        version=st.sampled_from(["15", "16"]),
        used=st.integers(0, 200),
        spoof=st.booleans(),
        sealed=st.booleans(),
    )
    def test_it_never_raises_and_says_whole_sentences_once(
        self, table, accounts, recipient, login, sender, said_there, version, used, spoof, sealed
    ) -> None:
        relays = Relays(by_sender={"@one.example": Relay("[relay.example.net]:587", "postfix-relaymap.cf:1")})
        tables = limited(routing(table, accounts=accounts, domains=("one.example", HOST), default=FAR))
        local = (text_table({"root": "a@one.example"}, "postfix-aliases.cf"),)
        aliases = replace(tables.aliases, local=local, destinations=frozenset({HOST}), alias_domains=None)
        tables = replace(tables, relays=relays, spoof_protection=spoof, aliases=aliases)
        who = logged_in(login, sender) if login else envelope(sender=sender)
        signing = Signing("arc.conf", {}, (KeyFile("one.example", "mail", "/key", "/key", "arc.conf:1"),))
        made = folder(tables, version, said_there, arc=signing if sealed else None)
        arc = Arc(SignBy.RECIPIENT, keys={"one.example": DomainKey(Domain.parse("one.example"), "mail", "/key")})
        usage = dict.fromkeys((*tables.mailboxes, recipient.lower()), used)
        sentences = said(made, tables, recipient, who, usage, arc)
        assert all((each.endswith(".") and each[0].isupper()) or each.startswith("rspamd ") for each in sentences)
        assert len(set(sentences)) == len(sentences)

    @given(
        account=ADDRESSES.filter(lambda address: "+" not in address),
        version=st.sampled_from(["15", "16"]),
        used=st.integers(0, 99),
    )
    def test_a_plain_account_of_a_folder_without_aliases_needs_no_word(
        self, account: str, version: str, used: int
    ) -> None:
        tables = limited(routing(accounts=(account,), default=FAR))
        usage = {Address.parse(account).key: used}
        assert said(folder(tables, version, Environment()), tables, account, usage=usage) == []
