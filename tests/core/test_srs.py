"""SRS: senders rewritten and turned back, whose sender is rewritten, and what routing makes of an SRS address."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from smtproute.core.address import MAX_LOCAL, Address, AddressError, Domain
from smtproute.core.decide import Facts, Routing, decide, plan_sender
from smtproute.core.envelope import Client, Envelope
from smtproute.core.plan import Delivery, Plan, Tried
from smtproute.core.relays import Relay, Relays
from smtproute.core.routes import Target
from smtproute.core.settings import Kind, Mode, Role, Srs
from smtproute.core.srs import MAX_AGE, Sender, SrsFault, original, rewritten
from tests.core.routing import envelope, routing

DAY = 86400.0
NOW = 20_000 * DAY + 4711
OURS = Srs(
    Domain.parse("srs.example.org"), secrets=("new secret", "old secret"), exclude=("kept.example", ".below.example")
)
FAR = Target(Mode.ENDPOINT, "far")

LOCALS = st.one_of(
    st.sampled_from(
        ["u", "SRS0=x", "srs1+a=b=c", "SRS0-=", "SRS1=a", "a+b=c", "==", "UPPER.case", "a b", '"', "\\", "a@b"]
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=60),
)
DOMAINS = st.sampled_from(
    ["else.example", "A.Example", "x.y.z.example", "b\u00fccher.example", "[192.0.2.1]", "[IPv6:::1]"]
)


@st.composite
def addresses(draw: st.DrawFn) -> Address:
    """Whatever comes through the door."""
    try:
        return Address.parse(str(Address(draw(LOCALS), Domain.parse(draw(DOMAINS)))))
    except AddressError:
        assume(False)
        raise


def swapped(address: Address) -> Address:
    """As a server that does not keep case may write it, where that does not change whom it means."""
    return Address(address.local.swapcase(), Domain.parse(address.domain.text.swapcase()))


class TestRoundTrip:
    @given(sender=addresses(), now=st.floats(0, 4e9), later=st.floats(0, MAX_AGE * DAY))
    def test_what_is_rewritten_is_turned_back(self, sender: Address, now: float, later: float) -> None:
        try:
            there = rewritten(OURS, sender, now)
        except SrsFault:
            assume(False)
        assert Address.parse(str(there)) == there and there.domain.key == "srs.example.org"
        back = original(OURS, there, now + later)
        assert back is not None
        if there.local.startswith("SRS1") and sender.local[:4].upper() == "SRS1":
            assert back.local.startswith("SRS0")  # past this sender, to the first server
        else:
            assert back.key == sender.key and back.local[4:] == sender.local[4:]

    def test_the_parts(self) -> None:
        sender = Address.parse("User+tag=x@else.example")
        assert str(rewritten(OURS, sender, 0.0)).partition("=")[2][4:] == "=AA=else.example=User+tag=x@srs.example.org"
        assert str(rewritten(OURS, sender, 33 * DAY)).partition("=")[2][5:8] == "BB="
        assert str(rewritten(OURS, sender, 1024 * DAY)) == str(rewritten(OURS, sender, 0.0))

    @pytest.mark.parametrize("separator", ["=", "+", "-"])
    def test_somebody_elses_sender_is_guarded_and_leads_back_to_the_first_server(self, separator: str) -> None:
        first = Address.parse(f"SRS0{separator}abcd=TT=author.example=user@first.example")
        ours = rewritten(OURS, first, NOW)
        assert ours.local[9:] == f"=first.example={separator}abcd=TT=author.example=user"
        assert original(OURS, ours, NOW + 1000 * DAY) == first
        theirs = replace(OURS, domain=Domain.parse("second.example"), secrets=("theirs",))
        third = rewritten(OURS, rewritten(theirs, first, NOW), NOW)
        assert third == ours  # past the second, which has no part in it

    def test_quotes_stand_round_the_whole(self) -> None:
        there = rewritten(OURS, Address.parse('"a b@c"@else.example'), NOW)
        assert str(there).startswith('"SRS0=') and str(there).endswith('=else.example=a b@c"@srs.example.org')
        assert str(original(OURS, Address.parse(str(there)), NOW)) == '"a b@c"@else.example'

    def test_the_domain_is_written_so_that_no_server_needs_smtputf8_for_it(self) -> None:
        made = replace(OURS, domain=Domain.parse("b\u00fccher.example"))
        there = rewritten(made, Address.parse("a@else.example"), NOW)
        assert there.ascii and original(made, there, NOW) == Address.parse("a@else.example")

    @pytest.mark.parametrize("local", ["a" * (MAX_LOCAL - len("SRS0=hhhh=TT=else.example=")), "x"])
    def test_what_would_be_too_long_is_not_rewritten(self, local: str) -> None:
        fits = Address(local, Domain.parse("else.example"))
        assert original(OURS, rewritten(OURS, fits, NOW), NOW) == fits
        with pytest.raises(SrsFault, match="cannot be rewritten: the address is too long"):
            rewritten(OURS, replace(fits, local="a" * (MAX_LOCAL - 25)), NOW)

    def test_an_srs1_sender_without_its_parts_is_not_rewritten(self) -> None:
        with pytest.raises(SrsFault, match="begins as an SRS1 address"):
            rewritten(OURS, Address.parse("SRS1=abcd=else@first.example"), NOW)


class TestTurnedBack:
    there = rewritten(OURS, Address.parse("user@else.example"), NOW)

    def test_case_does_not_matter(self) -> None:
        assert original(OURS, swapped(self.there), NOW) == Address.parse("USER@ELSE.EXAMPLE")

    @pytest.mark.parametrize("separator", "=+-")
    def test_the_first_separator_may_be_one_of_three(self, separator: str) -> None:
        written = Address.parse(str(self.there).replace("=", separator, 1))
        assert original(OURS, written, NOW) == Address.parse("user@else.example")

    @given(at=st.integers(5), sign=st.sampled_from("aZ09+-_."))
    @example(at=5, sign="x")
    def test_any_changed_letter_is_found_out(self, at: int, sign: str) -> None:
        local = self.there.local
        at = 5 + (at - 5) % (len(local) - 5)
        assume(local[at].lower() != sign.lower())
        changed = Address(local[:at] + sign + local[at + 1 :], self.there.domain)
        try:
            assert original(OURS, changed, NOW) is None
        except SrsFault:
            return

    @pytest.mark.parametrize(
        ("address", "why"),
        [
            ("SRS0=abcd=TT=else.example=user@srs.example.org", "hash is wrong"),
            ("SRS0=abcd=TT=else.example@srs.example.org", "parts of it are missing"),
            ("SRS0=@srs.example.org", "parts of it are missing"),
            ("srs1+abcd=else.example@SRS.example.org", "parts of it are missing"),
            ("SRS1=abcd=else.example==x@srs.example.org", "hash is wrong"),
        ],
    )
    def test_what_is_wrong(self, address: str, why: str) -> None:
        with pytest.raises(SrsFault, match=why):
            original(OURS, Address.parse(address), NOW)

    def test_a_short_hash_is_wrong_and_of_a_longer_one_four_letters_count(self) -> None:
        seal = self.there.local[5:9]
        with pytest.raises(SrsFault, match="hash is wrong"):
            original(OURS, replace(self.there, local=self.there.local.replace(seal, seal[:3])), NOW)
        longer = replace(self.there, local=self.there.local.replace(seal, f"{seal}xyz"))
        assert original(OURS, longer, NOW) == Address.parse("user@else.example")

    @pytest.mark.parametrize(
        "address",
        [
            "SRS0=abcd=TT=else.example=user@other.example",
            "SRS0@srs.example.org",
            "SRS0abcd=TT=x=y@srs.example.org",
            "SRS2=abcd=x=y@srs.example.org",
            "user@srs.example.org",
        ],
    )
    def test_what_is_no_srs_address_of_ours(self, address: str) -> None:
        assert original(OURS, Address.parse(address), NOW) is None
        assert original(Srs(), Address.parse(address), NOW) is None

    @given(st.integers(-2000, 2000))
    def test_it_holds_for_its_days_and_no_longer(self, days: int) -> None:
        holds = days % 1024 <= MAX_AGE  # the stamps begin again after 1024 days
        if holds:
            assert original(OURS, self.there, NOW + days * DAY) is not None
        else:
            with pytest.raises(SrsFault, match="it has expired: it was good for 21 days"):
                original(OURS, self.there, NOW + days * DAY)

    @given(addresses().filter(lambda address: address.local != ""), st.floats(0, 4e9))
    def test_nothing_else_is_ever_raised(self, address: Address, now: float) -> None:
        for tag in ("", "SRS0=", "SRS0=abcd=", "SRS1-abcd=x"):
            try:
                assert original(OURS, Address(tag + address.local, Domain.parse("srs.example.org")), now) is None
            except SrsFault as fault:
                assert str(fault)


class TestRotation:
    def test_the_first_secret_signs_and_all_verify(self) -> None:
        sender = Address.parse("user@else.example")
        before = replace(OURS, secrets=("old secret",))
        after = replace(OURS, secrets=("new secret",))
        assert rewritten(OURS, sender, NOW) == rewritten(after, sender, NOW) != rewritten(before, sender, NOW)
        assert original(OURS, rewritten(before, sender, NOW), NOW) == sender
        with pytest.raises(SrsFault, match="hash is wrong"):
            original(after, rewritten(before, sender, NOW), NOW)

    def test_without_a_secret_the_form_is_shown_and_nothing_is_turned_back(self) -> None:
        unread = replace(OURS, secrets=())
        there = rewritten(unread, Address.parse("user@else.example"), NOW)
        assert str(there) == "SRS0=HASH=TT=else.example=user@srs.example.org"
        with pytest.raises(SrsFault, match="not there yet"):
            original(unread, there, NOW)


TABLES = replace(
    routing(
        {
            "name@example.org": "me@far.example",
            "team@example.org": "anna@example.org, me@far.example",
            "out@example.org": "x@hosted.example",
        },
        accounts=("anna@example.org",),
        domains=("hosted.example",),
        routes=(("x@hosted.example", FAR),),
        default=FAR,
    ),
    srs=OURS,
)
STRANGER = envelope(sender="s@else.example")
LOGIN = replace(
    envelope(role=Role.SUBMISSION, sender="anna@example.org"),
    client=Client("192.0.2.1", 1, "sub", Role.SUBMISSION, False, login=Address.parse("anna@example.org")),
)
TRUSTED = envelope(trusted=True, role=Role.TRUSTED, sender="app@example.org")


def made(recipient: str, who: Envelope = STRANGER, tables: Routing = TABLES, now: float = NOW) -> Plan:
    return decide(Facts(tables, now=now), who, Address.parse(recipient))


def senders(recipient: str, who: Envelope = STRANGER, tables: Routing = TABLES) -> dict[str, Sender]:
    """The reverse-path of each copy, by its final address."""
    found = made(recipient, who, tables)
    assert found.deliveries, found.refusal
    return {str(each.address): plan_sender(tables, who, each, NOW) for each in found.deliveries}


class TestWhoseSender:
    def test_a_forward_is_rewritten_and_a_local_copy_of_the_same_message_is_not(self) -> None:
        """postsrsd rewrites both (docker-mailserver #4544)."""
        found = senders("team@example.org")
        assert found["me@far.example"] == Sender(
            rewritten(OURS, Address.parse("s@else.example"), NOW), True, "it is a forward, and else.example is not ours"
        )
        local = found["anna@example.org"]
        assert (str(local.path), local.rewritten) == ("s@else.example", False)

    @pytest.mark.parametrize(
        ("recipient", "who", "why"),
        [
            ("out@example.org", STRANGER, "it is no forward: hosted.example is a local domain"),
            ("x@hosted.example", STRANGER, "it is no forward: no alias led there"),
            ("name@example.org", envelope(sender=None), "it is the null sender"),
            ("name@example.org", envelope(sender="b@hosted.example"), "hosted.example is a local domain"),
            ("name@example.org", LOGIN, "example.org is a local domain"),
            ("name@example.org", TRUSTED, "example.org is a local domain"),
            ("x@far.example", LOGIN, "it is no forward: no alias led there"),
            (
                "name@example.org",
                envelope(sender="b@Kept.example"),
                "kept.example is excluded (srs.exclude has kept.example)",
            ),
            (
                "name@example.org",
                envelope(sender="b@a.below.example"),
                "a.below.example is excluded (srs.exclude has .below.example)",
            ),
            (
                "name@example.org",
                envelope(sender="SRS0=x=y=z=b@srs.example.org"),
                "srs.example.org is the domain that senders are rewritten to",
            ),
        ],
    )
    def test_who_is_left_alone(self, recipient: str, who: Envelope, why: str) -> None:
        (sender,) = senders(recipient, who).values()
        assert sender == Sender(who.reverse_path, False, why)

    @pytest.mark.parametrize("sender", ["b@below.example", "b@notkept.example", "b@sub.kept.example"])
    def test_what_is_excluded_is_no_more_than_is_written(self, sender: str) -> None:
        assert senders("name@example.org", envelope(sender=sender))["me@far.example"].rewritten

    def test_a_sender_too_long_is_left_and_the_reason_told(self) -> None:
        long = f"{'a' * 240}@else.example"
        (sender,) = senders("name@example.org", envelope(sender=long)).values()
        assert (str(sender.path), sender.rewritten) == (long, False)
        assert sender.wanted and sender.why == f"{long} cannot be rewritten: the address is too long"

    def test_without_a_domain_nothing_is_rewritten(self) -> None:
        (sender,) = senders("name@example.org", tables=replace(TABLES, srs=Srs())).values()
        assert sender.path == STRANGER.reverse_path and "[srs]" in sender.why

    def test_without_a_secret_it_says_who_makes_one(self) -> None:
        (sender,) = senders("name@example.org", tables=replace(TABLES, srs=replace(OURS, secrets=()))).values()
        assert str(sender.path) == "SRS0=HASH=TT=else.example=s@srs.example.org" and sender.rewritten
        assert "HASH and TT stand for what the secret makes: it is not there yet" in sender.why


class TestRelayMap:
    relays = Relays(
        by_sender={
            "@example.org": Relay("[ours.relay.example]:587", "map:1"),
            "@srs.example.org": Relay("[srs.relay.example]:587", "map:2"),
            "@else.example": Relay("[else.relay.example]:587", "map:3"),
        }
    )
    tables = replace(TABLES, relays=relays)

    def test_of_a_forward_it_is_asked_for_the_rewritten_sender(self) -> None:
        """docker-mailserver's forwards without SRS keep a sender that is in no map (#3962)."""
        (copy,) = made("name@example.org", tables=self.tables).deliveries
        assert (copy.endpoint, copy.rule) == ("relay [srs.relay.example]:587", "map:2")

    def test_of_all_else_for_the_sender_as_it_is(self) -> None:
        """postsrsd rewrites what hosted domains submit, which then misses its relay (docker-mailserver #4544)."""
        (copy,) = made("x@far.example", LOGIN, self.tables).deliveries
        assert copy.rule == "map:1"
        (copy,) = made("name@example.org", TRUSTED, self.tables).deliveries
        assert copy.rule == "map:1"
        (copy,) = made("name@example.org", tables=replace(self.tables, srs=Srs())).deliveries
        assert copy.rule == "map:3"


def returning(sender: str = "s@else.example", srs: Srs = OURS) -> str:
    return str(rewritten(srs, Address.parse(sender), NOW))


class TestRouting:
    def test_a_bounce_of_a_stranger_goes_to_the_sender_it_stands_for(self) -> None:
        address = returning()
        plan = made(address, envelope(sender=None))
        assert plan.deliveries == (
            Delivery(Kind.ENDPOINT, Address.parse("s@else.example"), Address.parse(address), "far", rule="default"),
        )
        step = plan.steps[0]
        assert (step.rule, step.tried, step.result) == ("srs", address, Tried.MATCHED) and "s@else.example" in step.why

    def test_it_comes_before_aliases_and_detail(self) -> None:
        """A hash may have a + in it, at which a detail would begin."""
        senders = (f"s{number}@else.example" for number in range(5000))
        plus = next(address for each in senders if "+" in (address := returning(each))[5:9])
        tables = routing(
            {f"{plus.partition('+')[0]}@srs.example.org": "wrong@far.example", "@srs.example.org": "anna@example.org"},
            accounts=("anna@example.org",),
            default=FAR,
        )
        (copy,) = made(plus, envelope(sender=None), replace(tables, srs=OURS)).deliveries
        assert copy.address.domain.key == "else.example"

    def test_what_it_stands_for_is_routed_as_any_address(self) -> None:
        (copy,) = made(returning("name@example.org"), envelope(sender=None)).deliveries
        assert str(copy.address) == "me@far.example"
        assert made(returning("nobody@example.org"), envelope(sender=None)).reply.enhanced == "5.1.1"

    def test_whether_or_not_the_domain_is_local(self) -> None:
        for tables in (
            TABLES,
            replace(TABLES, local_domains={**TABLES.local_domains, "srs.example.org": "domains[1]"}),
        ):
            assert made(returning(), envelope(sender=None), tables).reply.code == 250
            assert made(returning(), tables=tables).reply.code == 250

    def test_signs_that_ask_for_a_detour_are_our_own_here(self) -> None:
        for sender in ("a%b@else.example", "a!b@else.example", '"a@b"@else.example'):
            assert made(returning(sender), envelope(sender=None)).reply.code == 250

    @pytest.mark.parametrize(("local", "says"), [((), "SRS address"), (("srs.example.org",), "User unknown")])
    def test_an_invalid_one_is_an_address_like_any_other(self, local: tuple[str, ...], says: str) -> None:
        domains = {**TABLES.local_domains, **dict.fromkeys(local, "domains[1]")}
        tables = replace(TABLES, local_domains=domains)
        late = made(returning(), envelope(sender=None), tables, NOW + 22 * DAY)
        forged = made("SRS0=abcd=TT=else.example=s@srs.example.org", envelope(sender=None), tables)
        for plan, why in ((late, "it has expired"), (forged, "its hash is wrong")):
            assert str(plan.reply).startswith("550 5.1.1 ") and says in plan.reply.text
            assert plan.refusal is not None and (not local) == (why in plan.refusal.detail)
            skipped = [each.why for each in plan.steps if each.rule == "srs"]
            assert len(skipped) == 1 and why in skipped[0] and plan.steps[0].result is Tried.SKIPPED
        taken = routing({"@srs.example.org": "anna@example.org"}, accounts=("anna@example.org",))
        assert made("SRS0=abcd=TT=else.example=s@srs.example.org", tables=replace(taken, srs=OURS)).reply.code == 250

    def test_our_own_that_came_back_under_anothers_is_turned_back_twice(self) -> None:
        ours = Address.parse(returning())
        theirs = rewritten(replace(OURS, domain=Domain.parse("b.example"), secrets=("theirs",)), ours, NOW)
        again = str(rewritten(OURS, theirs, NOW))
        assert "=srs.example.org=" in again
        (copy,) = made(again, envelope(sender=None)).deliveries
        assert str(copy.address) == "s@else.example"
        late = made(again, envelope(sender=None), now=NOW + 22 * DAY)
        assert late.reply.code == 550 and late.deliveries == ()

    def test_nobody_is_let_in_by_it_who_must_log_in_first(self) -> None:
        nobody = replace(LOGIN, client=replace(LOGIN.client, login=None))
        assert made(returning(), nobody).reply.code == 530

    def test_what_is_no_bounce_is_a_forward_of_its_own(self) -> None:
        (copy,) = made(returning(), envelope(sender="auto@far.example")).deliveries
        assert plan_sender(TABLES, envelope(sender="auto@far.example"), copy, NOW).rewritten
