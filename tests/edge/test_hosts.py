"""S3, S4: the proxy answers under its own names only, and a ``Host`` is exactly what the grammar says."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.edge.hosts import Authority, Hosts, parse_address, parse_authority, refusal

LOOPBACK = "127.0.0.1"
LAN = "192.168.1.10"
HOSTS = Hosts(["Ollama.Example.org", "*.lan.example", "10.9.9.9", "::5", "[2001:db8::7]"], ["Workstation", "box.home."])
CLOSED = Hosts([], [])
OPEN = Hosts(["*"], [])

GRAMMAR = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?")


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LocalHost:11435",
        b"localhost.",
        b"app.localhost:1",
        b"a.b.localhost.",
        b"127.0.0.1:11435",
        b"127.255.0.9",
        b"[::1]",
        b"[::1]:65535",
        b"[0:0:0:0:0:0:0:1]",
        b"[::ffff:127.0.0.1]",
        b"[::FFFF:7f00:1]:80",
    ],
)
def test_this_machine_is_allowed_under_its_loopback_names(host: bytes) -> None:
    assert CLOSED.allows(host, LOOPBACK)


@pytest.mark.parametrize(
    "host",
    [
        b"workstation",
        b"WORKSTATION:11435",
        b"box.home",
        b"box.home.:1",
        b"ollama.example.org",
        b"OLLAMA.example.org.:443",
        b"a.lan.example",
        b"a.b_c.LAN.example",
        b"10.9.9.9:80",
        b"[::5]",
        b"[2001:db8:0::7]",
    ],
)
def test_own_and_configured_names_are_allowed(host: bytes) -> None:
    assert HOSTS.allows(host, LOOPBACK)
    assert not CLOSED.allows(host, LOOPBACK)


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"example.org",
        b"x.ollama.example.org",
        b"ollama.example.org.evil.example",
        b"lan.example",
        b"xlan.example",
        b"notlocalhost",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"127.0.0.1.nip.io",
        b"printer.local",
        b"host.docker.internal",
        b"8.8.8.8",
        b"0.0.0.0:11435",
        b"[::]",
        b"128.0.0.1",
        b"[::2]",
    ],
)
def test_a_rebound_or_foreign_name_is_refused(host: bytes) -> None:
    assert not HOSTS.allows(host, LOOPBACK)
    assert OPEN.allows(host, LOOPBACK)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b":11435",
        b"localhost:",
        b"localhost:0",
        b"localhost:65536",
        b"localhost:123456",
        b"localhost:-1",
        b"localhost:8a",
        b"localhost:80:80",
        b"localhost,evil.example",
        b"localhost, localhost",
        b"user@localhost",
        b"user:pass@localhost:80",
        b"localhost@evil.example",
        b"localhost evil.example",
        b" localhost",
        b"localhost\t",
        b"localhost\n",
        b"localhost\x00",
        b"localhost/",
        b"localhost/@evil.example",
        b"localhost\\@evil.example",
        b"localhost#",
        b"localhost?",
        b"localhost%00",
        b"localhost%2eevil.example",
        b"http://localhost",
        b"*.localhost",
        b"*",
        b".localhost",
        b"a..localhost",
        b"localhost..",
        b"-a.localhost",
        b"a-.localhost",
        b"%b.localhost" % (b"a" * 64),
        b"a." * 130 + b"localhost",
        "löcalhost".encode(),
        b"\xff",
        b"::1",
        b"::1:80",
        b"[::1",
        b"::1]",
        b"[::1]x",
        b"[]",
        b"[:::1]",
        b"[127.0.0.1]",
        b"[localhost]",
        b"[::1%lo]",
        b"[::1%25lo]",
        b"[[::1]]",
        b"127.1",
        b"127.0.0.1.",
        b"127.0.0.256",
        b"127.0.0.01",
        b"2130706433",
        b"0x7f000001",
        b"0x7f.0.0.1",
        b"localhost.1",
        b"1.0x",
        "127。0。0。1".encode(),
    ],
)
def test_a_value_outside_the_grammar_is_refused_even_where_any_host_is_allowed(host: bytes) -> None:
    assert parse_authority(host) is None
    assert not OPEN.allows(host, LOOPBACK)


def test_http_1_0_may_come_without_a_host() -> None:
    assert CLOSED.allows(None, LOOPBACK)


@pytest.mark.parametrize(
    ("host", "local_address"),
    [
        (b"192.168.1.10:11435", "192.168.1.10"),
        (b"192.168.1.10", "::ffff:192.168.1.10"),
        (b"[::ffff:c0a8:10a]", "192.168.1.10"),
        (b"10.0.0.1", "10.0.0.1"),
        (b"172.31.255.1", "172.31.255.1"),
        (b"169.254.7.7", "169.254.7.7"),
        (b"[fd00::1]", "fd00:0::1"),
        (b"[fe80::1]:80", "fe80::1%eth0"),
    ],
)
def test_a_private_address_is_allowed_where_the_connection_came_in_on_it(host: bytes, local_address: str) -> None:
    assert CLOSED.allows(host, local_address)
    assert not CLOSED.allows(host, LOOPBACK)
    assert not CLOSED.allows(host, "192.168.1.11")
    assert not CLOSED.allows(host, "")


@pytest.mark.parametrize("address", ["203.0.113.5", "172.32.0.1", "100.64.0.1", "0.0.0.0"])
def test_a_public_address_has_to_be_configured(address: str) -> None:
    assert not CLOSED.allows(address.encode(), address)
    assert Hosts([address], []).allows(address.encode(), LOOPBACK)


@pytest.mark.parametrize(
    "entry",
    ["", " ", "a b", "http://a", "a/b", "*.", "*.*", "a.*", "*a", "*.10.0.0.1", "löwe.example", "a,b", "[::1", "1"],
)
def test_a_setting_that_is_no_name_is_refused_at_start(entry: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(entry))):
        Hosts([entry], [])


def test_a_name_of_the_machine_that_no_host_can_have_is_passed_over() -> None:
    assert not Hosts([], ["", "my machine", "löwe"]).allows(b"my", LOOPBACK)


def test_a_configured_port_is_as_good_as_none() -> None:
    assert Hosts(["proxy:11435"], []).allows(b"proxy:80", LOOPBACK)


@given(st.binary(max_size=40) | st.from_regex(rb"[\[\]a-z0-9_.:@, %-]{0,30}", fullmatch=True))
@example(b"localhost\n")
def test_what_is_allowed_is_within_the_grammar(host: bytes) -> None:
    if OPEN.allows(host, LOOPBACK):
        assert GRAMMAR.fullmatch(host)


@given(st.ip_addresses(), st.ip_addresses())
def test_an_address_literal_is_loopback_or_the_local_one(named: object, local: object) -> None:
    text = f"[{named}]" if ":" in str(named) else str(named)
    address = parse_address(str(named))
    assert address is not None
    if CLOSED.allows(text.encode(), str(local)):
        assert address.is_loopback or address == parse_address(str(local))


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{1,5}){0,3}", fullmatch=True), st.integers(1, 65535))
def test_case_port_and_trailing_dot_change_nothing(name: str, port: int) -> None:
    for spelling in (name, name.upper(), f"{name}:{port}"):
        plain = parse_authority(spelling.encode())
        if plain is None:
            assert re.fullmatch(r"[0-9]+|0x[0-9a-f]*", name)
            continue
        assert plain.host == name
        assert parse_authority(f"{name}.:{port}".encode()) == Authority(name, port)
        assert CLOSED.allows(spelling.encode(), LAN) == CLOSED.allows(name.encode(), LAN)


def test_the_refusal_does_not_repeat_the_value() -> None:
    assert (refusal().status, refusal().code) == (421, "misdirected_host")
