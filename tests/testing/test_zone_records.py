"""Tables of DNS records as a file has them: what they put into a zone, and what is said of a mistake."""

from __future__ import annotations

import tomllib

import dns.flags
import dns.message
import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from smtproute.testing.records import NameTables, publish
from smtproute.testing.zone import Zone

FILE = """
[dns."gitlab.internal"]
A = ["198.51.100.1", "198.51.100.2"]
AAAA = { fault = "timeout" }
MX = ["10 mx.example.net"]
TXT = { values = "v=spf1 mx -all", ttl = 5 }
ttl = 30
[dns."_submission._tcp.example.net"]
SRV = "0 5 587 mail.example.net"
[dns."www.example.net"]
CNAME = "gitlab.internal"
[dns."198.51.100.1"]
PTR = "gitlab.internal"
[dns."2001:db8::1"]
PTR = { values = ["six.internal"], fault = "truncated" }
[dns."broken.example"]
A = "198.51.100.3"
fault = "servfail"
[dns."nothing.example"]
"""


class File(BaseModel):
    model_config = ConfigDict(strict=True)

    dns: NameTables


def zone(text: str) -> Zone:
    made = Zone()
    publish(made, File.model_validate(tomllib.loads(text)).dns)
    return made


def answered(zone: Zone, name: str, type_: str, transport: str = "tcp") -> str:
    """Status, flags and records of the answer on one line; empty where there is none."""
    response = zone.answer(dns.message.make_query(name, type_), transport)
    if response is None:
        return ""
    cut = "TC " if response.flags & dns.flags.TC else ""
    records = [f"{each.ttl} {record}" for each in response.answer for record in each]
    return f"{response.rcode().name} {cut}{', '.join(records)}".rstrip()


@pytest.mark.parametrize(
    ("name", "type_", "said"),
    [
        ("gitlab.internal", "A", "NOERROR 30 198.51.100.1, 30 198.51.100.2"),
        ("gitlab.internal", "AAAA", ""),
        ("gitlab.internal", "MX", "NOERROR 30 10 mx.example.net."),
        ("gitlab.internal", "TXT", 'NOERROR 5 "v=spf1 mx -all"'),
        ("gitlab.internal", "SRV", "NOERROR"),
        ("_submission._tcp.example.net", "SRV", "NOERROR 60 0 5 587 mail.example.net."),
        ("www.example.net", "MX", "NOERROR 60 gitlab.internal., 30 10 mx.example.net."),
        ("1.100.51.198.in-addr.arpa", "PTR", "NOERROR 60 gitlab.internal."),
        ("broken.example", "A", "SERVFAIL"),
        ("broken.example", "TXT", "SERVFAIL"),
        ("nothing.example", "A", "NOERROR"),
        ("else.example", "A", "NXDOMAIN"),
    ],
)
def test_what_a_file_says_is_answered(name: str, type_: str, said: str) -> None:
    assert answered(zone(FILE), name, type_) == said


def test_a_cut_answer_is_whole_over_tcp() -> None:
    name = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
    assert answered(zone(FILE), name, "PTR", "udp") == "NOERROR TC"
    assert answered(zone(FILE), name, "PTR") == "NOERROR 60 six.internal."


def test_a_table_replaces_all_that_was_said_of_its_name() -> None:
    changing = zone(FILE)
    publish(changing, File.model_validate({"dns": {"GitLab.internal": {"A": "198.51.100.9"}}}).dns)
    assert answered(changing, "gitlab.internal", "A") == "NOERROR 60 198.51.100.9"
    assert answered(changing, "gitlab.internal", "AAAA") == answered(changing, "gitlab.internal", "MX") == "NOERROR"
    changing.recover("broken.example")
    assert answered(changing, "broken.example", "A") == "NOERROR 60 198.51.100.3"


@pytest.mark.parametrize(
    ("written", "place", "text"),
    [
        ('A = ["10.0.0.1", "10.0.0.300"]', ("x", "A"), '"10.0.0.300" is no A record: .*Write it as "198.51.100.1"'),
        ('A = "2001:db8::1"', ("x", "A"), '"2001:db8::1" is no A record'),
        ('AAAA = "10.0.0.1"', ("x", "AAAA"), '"10.0.0.1" is no AAAA record: .*"2001:db8::1"'),
        ('MX = "mx.example"', ("x", "MX"), '"mx.example" is no MX record: .*"10 mx.example.net"'),
        ('MX = { values = ["mx.example"] }', ("x", "MX"), '"mx.example" is no MX record'),
        ('SRV = "0 5 mail.example"', ("x", "SRV"), '"0 5 mail.example" is no SRV record'),
        ('CNAME = "a..b"', ("x", "CNAME"), '"a..b" is no CNAME record: A DNS label is empty'),
        ('CNAME = ["a.example", "b.example"]', ("x", "CNAME"), "one CNAME at most"),
        ('CNAME = "a.example"\nA = "10.0.0.1"', ("x",), "a CNAME stands alone .*Remove it, or A"),
        ('PTR = ""', ("x", "PTR"), '"" is no PTR record'),
        ("TXT = 5", ("x", "TXT"), 'texts are wanted. Write "v=spf1 mx -all", or a list'),
        ("A = [10]", ("x", "A"), 'texts are wanted. Write "198.51.100.1"'),
        ("TXT = { values = [5] }", ("x", "TXT", "values", 0), "valid string"),
        ('A = { fault = "timout" }', ("x", "A", "fault"), 'not one of NXDOMAIN, .*Did you mean "timeout"'),
        ("fault = true", ("x", "fault"), "not one of NXDOMAIN, SERVFAIL, REFUSED, timeout, truncated, no-tcp"),
        ("A = { ttl = -1 }", ("x", "A", "ttl"), "a number of seconds is wanted"),
        ('ttl = "30"', ("x", "ttl"), "a number of seconds is wanted, from 0 to 2147483647"),
        ("ttl = true", ("x", "ttl"), "a number of seconds is wanted"),
        ('A = { value = "10.0.0.1" }', ("x", "A", "value"), "Extra inputs"),
        ('SPF = "v=spf1"', ("x", "SPF"), "Extra inputs"),
    ],
)
def test_a_mistake_names_its_place_and_value(written: str, place: tuple[str | int, ...], text: str) -> None:
    with pytest.raises(ValidationError, match=text) as refused:
        File.model_validate(tomllib.loads(f"[dns.x]\n{written}"))
    assert [each["loc"] for each in refused.value.errors()] == [("dns", *place)]


@pytest.mark.parametrize(
    ("tables", "place", "text"),
    [
        ({"a..b": {}}, ("a..b", "[key]"), 'no name: A DNS label is empty.*Write it as "mail.example.net"'),
        ({f"{'a' * 64}.example": {}}, (f"{'a' * 64}.example", "[key]"), "no name: .* 63"),
        ({"192.0.2.1": {"A": "192.0.2.1"}}, (), '"192.0.2.1" is an IP address, .*Remove A'),
        ({"a.example": {}, "A.example.": {}}, (), '"a.example" and "A.example." are one name'),
        ({"a.example": "192.0.2.1"}, ("a.example",), "dictionary or instance"),
    ],
    ids=["empty label", "long label", "address", "twice", "no table"],
)
def test_a_mistake_in_the_names(tables: dict[str, object], place: tuple[str, ...], text: str) -> None:
    with pytest.raises(ValidationError, match=text) as refused:
        File.model_validate({"dns": tables})
    assert [each["loc"] for each in refused.value.errors()] == [("dns", *place)]


def test_the_schema_tells_what_may_be_written() -> None:
    schema = File.model_json_schema()
    name, records = schema["$defs"]["NameTable"], schema["$defs"]["RecordsTable"]
    assert name["additionalProperties"] is records["additionalProperties"] is False
    for table in (name, records):
        assert all(each["description"] for each in table["properties"].values())
    forms = name["properties"]["MX"]["anyOf"]
    assert [each.get("type") or each["$ref"] for each in forms] == ["string", "array", "#/$defs/RecordsTable"]
    assert schema["$defs"]["Fault"]["enum"] == ["NXDOMAIN", "SERVFAIL", "REFUSED", "timeout", "truncated", "no-tcp"]
