"""Who is calling: the address that counts, and whether the caller is one who may do more.

What a forwarding field says of the client is believed only where the peer is a proxy that was named. That there is one
is believed of everybody, because it can only take permissions away: the peer speaks for somebody else, so it is neither
local nor a manager, whatever its address is. A proxy in front must therefore set one of them.

Syntax: RFC 7239 sections 4 and 6 for ``Forwarded``. ``X-Forwarded-For`` has no specification: a list of addresses, to
which each proxy adds its peer at the end.
"""

from __future__ import annotations

import functools
import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.edge.hosts import parse_address
from proxy.wire.headers import names_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from proxy.edge.hosts import Address
    from proxy.wire.headers import Field, Names

Network = IPv4Network | IPv6Network

UNKNOWN: Final = "unknown"
# Of what a client may make us remember, times the size of the cache.
_REMEMBERED: Final = 512

# How the names begin of all fields that speak of somebody else: Forwarded, X-Forwarded-..., X-Real-IP.
_FORWARDING: Final = frozenset((b"forwarded", b"x-forward", b"x-real-ip"))

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110 section 5.6.2
_QUOTED = r'"(?:[^"\\]|\\.)*+"'
_PAIR = re.compile(rf"[ \t]*({_TOKEN})=({_TOKEN}|{_QUOTED})[ \t]*")
_ESCAPED = re.compile(r"\\(.)")
# Section 6: a port is a number or made up.
_NODE = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)|((?i:unknown)|_[0-9A-Za-z._-]+))(?::(?:[0-9]{1,5}|_[0-9A-Za-z._-]+))?"
)


class Caller(NamedTuple):
    """Who a request comes from.

    Attributes:
        address: For turns and limits: the peer's, or the client's where a trusted proxy tells it; ``unknown`` where
            that proxy hides it.
        is_forwarded: The peer says that it speaks for somebody else.
        is_local: From this machine, and for itself.
        may_manage: From ``edge.manage_from``, and for itself.
    """

    address: str
    is_forwarded: bool
    is_local: bool
    may_manage: bool


class Callers:
    """Tells callers apart.

    Args:
        trusted_proxies: ``edge.trusted_proxies``: networks or addresses whose forwarding fields are believed.
        manage_from: ``edge.manage_from``: networks or addresses that may manage without a key.

    Raises:
        ValueError: An entry is no network.
    """

    def __init__(self, trusted_proxies: Iterable[str | Network], manage_from: Iterable[str | Network]) -> None:
        self._trusted = tuple(ip_network(entry) for entry in trusted_proxies)
        self._managers = tuple(ip_network(entry) for entry in manage_from)
        # A peer sends many requests, and comparing networks costs more than all the rest.
        self._by_itself = functools.lru_cache(maxsize=256)(self._itself)
        self._as_proxy = functools.lru_cache(maxsize=256)(self._proxy)
        self._remembered = functools.lru_cache(maxsize=256)(self._told)

    def __repr__(self) -> str:
        return f"<Callers {len(self._trusted)} trusted, {len(self._managers)} managing>"

    def of(self, peer: str, fields: Sequence[Field], names: Names | None = None) -> Caller:
        """Who this is.

        Args:
            peer: Address of the other end of the connection, without a port. One that is no address (a Unix socket) is
                neither local nor a manager.
            fields: Of the request, as received.
            names: Theirs, where they are known already.
        """
        if not _speaks_for_another(names or names_of(fields)):
            return self._by_itself(peer)
        address, is_trusted = self._as_proxy(peer)
        if not is_trusted:
            return Caller(address, True, False, False)
        listed, described = _lines(fields, b"x-forwarded-for"), _lines(fields, b"forwarded")
        is_short = sum(map(len, (*listed, *described))) <= _REMEMBERED
        told = (self._remembered if is_short else self._told)(listed, described)
        return Caller(told or address, True, False, False)

    def _itself(self, peer: str) -> Caller:
        address = parse_address(peer)
        if address is None:
            return Caller(peer, False, False, False)
        return Caller(str(address), False, address.is_loopback, _is_in(address, self._managers))

    def _proxy(self, peer: str) -> tuple[str, bool]:
        """Its address, and whether it is believed."""
        address = parse_address(peer)
        return (peer, False) if address is None else (str(address), _is_in(address, self._trusted))

    def _told(self, for_lines: tuple[str, ...], forwarded_lines: tuple[str, ...]) -> str | None:
        """The client's address as the trusted proxies tell it; ``None`` where they do not, or not understandably."""
        listed = self._client(_listed(for_lines))
        described = self._client(_described(forwarded_lines))
        if listed is not None and described is not None and listed != described:
            # One of the two is the client's own: a proxy that sets the one often lets the other through.
            return None
        return listed or described

    def _client(self, nodes: Iterator[str]) -> str | None:
        """The rightmost node that no trusted proxy has; the leftmost where all are trusted."""
        last: str | None = None
        for node in nodes:
            found = _NODE.fullmatch(node)
            if found is None and node.count(":") > 1:
                # X-Forwarded-For has addresses of IPv6 without brackets.
                address = parse_address(node) if "%" not in node else None
            elif found is None:
                return None
            elif found[3]:
                return UNKNOWN
            else:
                address = parse_address(found[1] or found[2])
            if address is None:
                return None
            last = str(address)
            if not _is_in(address, self._trusted):
                break
        return last


@functools.lru_cache(maxsize=256)
def _speaks_for_another(names: Names) -> bool:
    return any(name[:9] in _FORWARDING for name in names.lower)


def _is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)


def _lines(fields: Sequence[Field], name: bytes) -> tuple[str, ...]:
    """The field's lines, the last one first; any byte is a character, so that none is an error."""
    size = len(name)
    # The length tells nearly all other fields apart, and costs least.
    return tuple(value.decode("latin-1") for key, value in reversed(fields) if len(key) == size and key.lower() == name)


def _listed(lines: Iterable[str]) -> Iterator[str]:
    """The nodes of ``X-Forwarded-For``, from the right. Empty elements are none (RFC 9110 section 5.6.1.2)."""
    for line in lines:
        yield from (node for part in reversed(line.split(",")) if (node := part.strip(" \t")))


def _described(lines: Iterable[str]) -> Iterator[str]:
    """The nodes of ``Forwarded``, from the right; an empty one where a line cannot be read.

    Each line is read by itself, and only as far as is needed: the left is the client's to write, and an open quote in
    it must not swallow what the proxy added.
    """
    for line in lines:
        yield from reversed(_elements(line) or [""])


def _elements(line: str) -> list[str] | None:
    """The ``for`` of each element; ``unknown`` where it has none."""
    nodes: list[str] = []
    node: str | None = None
    at = 0
    while True:
        pair = _PAIR.match(line, at)
        if pair is None:
            return None
        if pair[1].lower() == "for":
            if node is not None:
                return None
            value = pair[2]
            node = _ESCAPED.sub(r"\1", value[1:-1]) if value.startswith('"') else value
        at = pair.end()
        mark = line[at : at + 1]
        if mark in (",", ""):
            nodes.append(UNKNOWN if node is None else node)
            node = None
        if not mark:
            return nodes
        if mark not in ";,":
            return None
        at += 1
