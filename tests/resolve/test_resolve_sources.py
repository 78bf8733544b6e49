"""The hosts file, the static table, and which names can be asked."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtproute.core.address import AddressError
from smtproute.resolve.files import LARGEST
from smtproute.resolve.nameservers import system_servers
from smtproute.resolve.sources import Hosts, askable, static_table

HOSTS = """\
# a comment line
127.0.0.1\tlocalhost
::1     localhost ip6-localhost   # a comment behind

   10.0.0.5  GitLab.Internal git.internal gitlab
fd00::5     gitlab.internal
10.0.0.6    gitlab.internal
10.0.0.5    gitlab.internal
10.0.0.7    dotted.internal.
10.0.0.8    b\u00fccher.internal
10.0.0.9\tbad..name good.internal #hidden.internal
10.0.0.10
300.1.1.1   bad-address.internal
10.0.0      short.internal
nonsense
fe80::1%lo  scoped.internal
10.0.0.11   under_score.internal\r
"""


@pytest.fixture
def hosts(tmp_path):
    path = tmp_path / "hosts"
    path.write_text(HOSTS, "utf-8", newline="")
    return Hosts(str(path))


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("localhost", ("127.0.0.1", "::1")),
        ("ip6-localhost", ("::1",)),
        ("gitlab.internal", ("10.0.0.5", "10.0.0.6", "fd00::5")),
        ("git.internal", ("10.0.0.5",)),
        ("gitlab", ("10.0.0.5",)),
        ("dotted.internal", ("10.0.0.7",)),
        ("xn--bcher-kva.internal", ("10.0.0.8",)),
        ("good.internal", ("10.0.0.9",)),
        ("scoped.internal", ("fe80::1%lo",)),
        ("under_score.internal", ("10.0.0.11",)),
        ("hidden.internal", ()),
        ("bad-address.internal", ()),
        ("short.internal", ()),
        ("a", ()),
        ("internal", ()),
    ],
)
def test_hosts_file(hosts, name, addresses):
    assert hosts.find(name) == addresses


def test_octets_that_are_no_text_spoil_only_their_name(tmp_path):
    path = tmp_path / "hosts"
    path.write_bytes(b"10.0.0.1 \xff\xfe.internal ok.internal\n\x00\n10.0.0.2 after.internal")
    hosts = Hosts(str(path))
    assert hosts.find("ok.internal") == ("10.0.0.1",)
    assert hosts.find("after.internal") == ("10.0.0.2",)


def test_an_absent_file_and_a_folder_are_empty(tmp_path):
    assert Hosts(str(tmp_path / "absent")).find("localhost") == ()
    assert Hosts(str(tmp_path)).find("localhost") == ()


def test_a_pipe_and_a_file_beyond_all_bounds_are_empty(tmp_path):
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    assert Hosts(str(pipe)).find("localhost") == ()
    assert system_servers(str(pipe)) == []
    large.write_bytes(b"127.0.0.1 localhost\n")
    os.truncate(large, LARGEST)
    assert Hosts(str(large)).find("localhost") == ("127.0.0.1",)
    os.truncate(large, LARGEST + 1)
    assert Hosts(str(large)).find("localhost") == ()


def test_refresh_sees_a_change_of_content_and_of_time_and_the_end_of_the_file(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("10.0.0.1 a\n")
    hosts = Hosts(str(path))
    path.write_text("10.0.0.22 a\n")
    assert hosts.find("a") == ("10.0.0.1",)
    hosts.refresh()
    assert hosts.find("a") == ("10.0.0.22",)
    path.write_text("10.0.0.33 a\n")
    os.utime(path, (1, 1))
    hosts.refresh()
    assert hosts.find("a") == ("10.0.0.33",)
    path.unlink()
    hosts.refresh()
    assert hosts.find("a") == ()
    path.write_text("10.0.0.33 a\n")
    hosts.refresh()
    assert hosts.find("a") == ("10.0.0.33",)


def test_an_unchanged_file_is_not_read_again(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("10.0.0.1 a\n")
    os.utime(path, (1, 1))
    hosts = Hosts(str(path))
    path.write_text("10.0.0.2 a\n")
    os.utime(path, (1, 1))
    hosts.refresh()
    assert hosts.find("a") == ("10.0.0.1",)


def test_static_names_are_folded_and_addresses_kept_in_order():
    table = static_table(
        {"A.Internal.": ["::1", "10.0.0.1"], "b\u00fccher.internal": ["10.0.0.2"], "no way": ["10.0.0.3"]}
    )
    assert table == {"a.internal": ("::1", "10.0.0.1"), "xn--bcher-kva.internal": ("10.0.0.2",)}


def test_a_static_address_that_is_none_is_a_mistake():
    with pytest.raises(ValueError, match=r"10\.0\.0\.300"):
        static_table({"a.internal": ["10.0.0.300"]})


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("GitLab.Internal", "gitlab.internal"),
        ("gitlab.internal.", "gitlab.internal"),
        ("gitlab", "gitlab"),
        ("mail._domainkey.example.org", "mail._domainkey.example.org"),
        ("B\u00dcCHER.example", "xn--bcher-kva.example"),
        ("\u4f8b\u3048.\u30c6\u30b9\u30c8", "xn--r8jz45g.xn--zckzah"),
        ("1.example", "1.example"),
        (".".join(["a" * 63] * 3 + ["b" * 61]), ".".join(["a" * 63] * 3 + ["b" * 61])),
    ],
)
def test_askable(name, asked):
    assert askable(name) == asked


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a..b",
        ".a",
        "a.b..",
        "a b",
        "a\x00b",
        "a\nb",
        "a\\032b",
        "a@b",
        "-a.example",
        "a-.example",
        "a" * 64,
        ".".join(["a" * 63] * 3 + ["b" * 62]),
        ("\u00fc" * 60) + ".example",
        "xn--\u00fc.example",
        "10.0.0.5",
        "10.0.0.5.",
        "2130706433",
        "\uff11\uff10.0.0.5",
        "::1",
        "[10.0.0.5]",
        "[IPv6:::1]",
        "\ud800.example",
    ],
)
def test_not_askable(name):
    with pytest.raises(AddressError):
        askable(name)


@given(st.text(max_size=300))
@example("\u2488.\u0660")
def test_garbage_is_askable_or_the_one_error(name):
    try:
        asked = askable(name)
    except AddressError:
        return
    assert asked.isascii()
    assert len(asked) <= 253
    assert asked == askable(asked)
