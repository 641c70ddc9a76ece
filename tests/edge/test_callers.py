"""S10, S5: a caller counts by the address that somebody trustworthy tells, and a forwarded one is never local."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.edge.callers import Caller, Callers

NGINX = "10.0.0.1"
CALLERS = Callers(["10.0.0.0/24", "fd00::/16"], ["127.0.0.0/8", "::1/128", "192.168.7.0/24"])
Fields = list[tuple[bytes, bytes]]


def xff(*values: str) -> Fields:
    return [(b"X-Forwarded-For", value.encode()) for value in values]


def forwarded(*values: str) -> Fields:
    return [(b"Forwarded", value.encode()) for value in values]


@pytest.mark.parametrize(
    ("peer", "caller"),
    [
        ("127.0.0.1", Caller("127.0.0.1", False, True, True)),
        ("127.8.8.8", Caller("127.8.8.8", False, True, True)),
        ("::1", Caller("::1", False, True, True)),
        ("::ffff:127.0.0.1", Caller("127.0.0.1", False, True, True)),
        ("192.168.7.9", Caller("192.168.7.9", False, False, True)),
        ("192.168.8.9", Caller("192.168.8.9", False, False, False)),
        ("fe80::1%eth0", Caller("fe80::1", False, False, False)),
        (NGINX, Caller(NGINX, False, False, False)),
        ("", Caller("", False, False, False)),
        ("@socket", Caller("@socket", False, False, False)),
    ],
)
def test_a_peer_that_speaks_for_itself_is_who_it_is(peer: str, caller: Caller) -> None:
    assert CALLERS.of(peer, [(b"Host", b"localhost"), (b"Via", b"1.1 x"), (b"From", b"x")]) == caller


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "192.168.7.9", NGINX, "@socket"])
@pytest.mark.parametrize(
    "name",
    [
        b"Forwarded",
        b"FORWARDED",
        b"X-Forwarded-For",
        b"x-forwarded-host",
        b"X-Forwarded-Proto",
        b"X-FORWARDED-Port",
        b"X-Forwarded-Anything",
        b"X-Real-IP",
        b"x-real-ip",
    ],
)
@pytest.mark.parametrize("value", [b"", b"127.0.0.1", b"for=127.0.0.1", b"\xff", b'"'])
def test_a_forwarding_field_takes_every_privilege_away(peer: str, name: bytes, value: bytes) -> None:
    caller = CALLERS.of(peer, [(b"Host", b"localhost"), (name, value)])
    assert (caller.is_forwarded, caller.is_local, caller.may_manage) == (True, False, False)


@pytest.mark.parametrize("peer", ["203.0.113.9", "127.0.0.1", "10.0.1.1"])
@pytest.mark.parametrize("fields", [xff("1.2.3.4"), forwarded("for=1.2.3.4")])
def test_nobody_else_is_believed(peer: str, fields: Fields) -> None:
    assert CALLERS.of(peer, fields).address == peer


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        (xff("1.2.3.4"), "1.2.3.4"),
        (xff("6.6.6.6, 1.2.3.4"), "1.2.3.4"),
        (xff("6.6.6.6,1.2.3.4 ,\t10.0.0.9"), "1.2.3.4"),
        (xff("6.6.6.6", "1.2.3.4", "10.0.0.9, 10.0.0.8"), "1.2.3.4"),
        (xff("1.2.3.4,, "), "1.2.3.4"),
        (xff("10.0.0.7, 10.0.0.8"), "10.0.0.7"),
        (xff("1.2.3.4:5678"), "1.2.3.4"),
        (xff("2001:db8::0:7"), "2001:db8::7"),
        (xff("[2001:db8::7]:99"), "2001:db8::7"),
        (xff("::ffff:1.2.3.4"), "1.2.3.4"),
        (xff("rubbish, 1.2.3.4"), "1.2.3.4"),
        (xff("unknown"), "unknown"),
        (forwarded("for=1.2.3.4"), "1.2.3.4"),
        (forwarded("FOR=1.2.3.4;proto=https ; by=_x"), "1.2.3.4"),
        (forwarded('for="1.2.3.4:5678"'), "1.2.3.4"),
        (forwarded('for="[2001:db8::7]"'), "2001:db8::7"),
        (forwarded('proto=https;For="[2001:DB8::7]:_port"'), "2001:db8::7"),
        (forwarded(r'for="1.2\.3.4"'), "1.2.3.4"),
        (forwarded("for=6.6.6.6, for=1.2.3.4, for=10.0.0.9"), "1.2.3.4"),
        (forwarded("for=6.6.6.6", "for=1.2.3.4", 'for="[fd00::1]"'), "1.2.3.4"),
        (forwarded('for="', "for=1.2.3.4"), "1.2.3.4"),
        (forwarded('for="a, for=6.6.6.6;b=c", for=1.2.3.4'), "1.2.3.4"),
        (forwarded("for=unknown"), "unknown"),
        (forwarded("for=Unknown"), "unknown"),
        (forwarded("for=_hidden"), "unknown"),
        (forwarded('for="_hidden:_port"'), "unknown"),
        (forwarded("for=1.2.3.4, for=_gazonk"), "unknown"),
        (forwarded("proto=https"), "unknown"),
        ([*xff("1.2.3.4"), *forwarded("for=1.2.3.4")], "1.2.3.4"),
        ([*xff("rubbish"), *forwarded("for=1.2.3.4")], "1.2.3.4"),
    ],
)
def test_a_trusted_proxy_tells_the_rightmost_address_that_is_not_trusted(fields: Fields, address: str) -> None:
    assert CALLERS.of(NGINX, fields) == Caller(address, True, False, False)


@pytest.mark.parametrize(
    "fields",
    [
        xff(""),
        xff(" , "),
        xff("rubbish"),
        xff("1.2.3.4, rubbish, 10.0.0.9"),
        xff("1.2.3"),
        xff("1.2.3.256"),
        xff("1.2.3.4:"),
        xff("1.2.3.4:x"),
        xff("1.2.3.4 5.6.7.8"),
        xff("[1.2.3.4"),
        xff("2001:db8"),
        xff("2001:db8::7%eth0"),
        xff("ß"),
        forwarded(""),
        forwarded("1.2.3.4"),
        forwarded("for=1.2.3.4,"),
        forwarded('for="1.2.3.4'),
        forwarded("for=[2001:db8::7]"),
        forwarded("for=1.2.3.4;for=6.6.6.6"),
        forwarded("for =1.2.3.4"),
        forwarded("for=1.2.3.4 x"),
        forwarded('for=""'),
        [(b"X-Real-IP", b"1.2.3.4")],
        # The proxy sets one of the two and lets the client's other one through.
        [*xff("1.2.3.4"), *forwarded("for=6.6.6.6")],
    ],
)
def test_what_cannot_be_understood_leaves_the_peer(fields: Fields) -> None:
    assert CALLERS.of(NGINX, fields) == Caller(NGINX, True, False, False)


@given(st.lists(st.ip_addresses().map(str), max_size=4), st.ip_addresses(v=4), st.text(max_size=30))
def test_what_a_client_writes_never_changes_who_the_proxy_says_it_is(
    written: list[str], client: ipaddress.IPv4Address, rubbish: str
) -> None:
    address = str(client)
    if client in ipaddress.ip_network("10.0.0.0/24"):
        return
    left = ", ".join([*written, rubbish]).replace("\n", "").encode("utf-8", "surrogatepass")
    assert CALLERS.of(NGINX, [(b"X-Forwarded-For", left + b", " + address.encode())]).address == address
    added = (b"Forwarded", f"for={address}".encode())
    assert CALLERS.of(NGINX, [(b"Forwarded", left), added]).address == address


@given(st.text(max_size=20), st.lists(st.tuples(st.sampled_from([b"Forwarded", b"X-Forwarded-For"]), st.binary())))
@example(NGINX, [(b"Forwarded", b'for="\\"')])
def test_no_value_is_an_error_and_none_gives_a_privilege(peer: str, fields: Fields) -> None:
    plain = CALLERS.of(peer, [])
    caller = CALLERS.of(peer, fields)
    assert caller.is_forwarded == bool(fields)
    assert caller.is_local <= plain.is_local
    assert caller.may_manage <= plain.may_manage


def test_no_value_takes_long_to_read() -> None:
    for value in (b'for="' + b"\\" * 8000, b"for=a;" * 1300, b'for="a",' * 1000, b"1," * 4000, b" " * 8000):
        CALLERS.of(NGINX, [(b"Forwarded", value), (b"X-Forwarded-For", value)])


@pytest.mark.parametrize("entry", ["", "localhost", "10.0.0.1/8", "10.0.0.0/33", "*"])
def test_a_setting_that_is_no_network_is_refused_at_start(entry: str) -> None:
    with pytest.raises(ValueError, match=r"network|host bits"):
        Callers([entry], [])
    with pytest.raises(ValueError, match=r"network|host bits"):
        Callers([], [entry])


def test_networks_may_be_handed_in_as_such() -> None:
    callers = Callers([ipaddress.ip_network("10.0.0.0/24")], [ipaddress.ip_network("192.168.7.1")])
    assert callers.of(NGINX, xff("1.2.3.4")).address == "1.2.3.4"
    assert callers.of("192.168.7.1", []).may_manage
