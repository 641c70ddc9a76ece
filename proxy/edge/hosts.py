"""Under which names this proxy answers: the ``Host`` of a request.

The defence against DNS rebinding (CVE-2024-28224): a page that points its own name at this machine is same-origin with
it, and only the name that the browser still sends gives it away. So the list applies to every request; Ollama looks at
``Host`` only where it is bound to loopback (v0.24.0, server/routes.go, ``allowedHostsMiddleware``).

What is allowed beside the configured names: loopback literals, ``localhost`` and what is below it (RFC 6761 section
6.3), the machine's own names, and the very address on which the connection came in, where it is one of a private
network. Other than Ollama's list ours has no ``*.local`` and ``*.internal``: both can be answered by others on the
network. They may be configured.
"""

from __future__ import annotations

import functools
import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.errors import MisdirectedHost

if TYPE_CHECKING:
    from collections.abc import Iterable

# RFC 9110 section 7.2 has uri-host [":" port]. Narrower than RFC 3986: no percent-encoding, no sub-delims, no empty
# port, labels as DNS has them and underscores, which container networks use.
_LABEL = rb"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_AUTHORITY = re.compile(rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|(%b(?:\.%b)*\.?))(?::([0-9]{1,5}))?" % (_LABEL, _LABEL))
_MAX_NAME: Final = 253
_MAX_AUTHORITY: Final = _MAX_NAME + len(".:65535")
# ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255
_MAX_ADDRESS: Final = 45
_MAX_PORT: Final = 65535
# https://url.spec.whatwg.org/#ends-in-a-number-checker: such a host is an address of IPv4 to a browser, or an error.
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
# RFC 1918, 4193, 3927 and 4291. ``is_private`` of Python has more, and other ones from one release to the next.
_NEAR: Final = tuple(
    ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")
)

Address = IPv4Address | IPv6Address


class Authority(NamedTuple):
    """A ``Host`` value, or what an origin has after its scheme.

    Attributes:
        host: A name in lower case without a trailing dot, or an address; an IPv4-mapped one is the IPv4 one.
        port: ``None`` where none is given.
    """

    host: str | Address
    port: int | None


def parse_authority(value: bytes) -> Authority | None:
    """Read ``host[:port]``; ``None`` for anything that is not exactly that."""
    return _parse_authority(value) if len(value) <= _MAX_AUTHORITY else None


# Clients use few names, and each of their requests is asked about: reading costs more than all that is decided with it.
@functools.lru_cache(maxsize=256)
def _parse_authority(value: bytes) -> Authority | None:
    found = _AUTHORITY.fullmatch(value)
    if found is None:
        return None
    literal, name, digits = found.groups()
    port = None if digits is None else int(digits)
    if port is not None and not 0 < port <= _MAX_PORT:
        return None
    host = _name_or_address(name.decode()) if literal is None else parse_address(literal.decode())
    # In brackets there is no other address than one of IPv6; the pattern sees to the reverse.
    if host is None or (literal is not None and b":" not in literal):
        return None
    return Authority(host, port)


def _name_or_address(text: str) -> str | Address | None:
    name = text.removesuffix(".")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        return parse_address(text)
    return name.lower() if len(name) <= _MAX_NAME else None


def parse_address(text: str) -> Address | None:
    """Read an address without a port; its zone is dropped and an IPv4-mapped one becomes the IPv4 one."""
    literal = text.partition("%")[0]
    return _parse_address(literal) if len(literal) <= _MAX_ADDRESS else None


@functools.lru_cache(maxsize=256)
def _parse_address(literal: str) -> Address | None:
    try:
        address = ip_address(literal)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class Hosts:
    """The names under which this proxy answers.

    Args:
        configured: ``edge.hosts``: names and addresses, ``*.example.org`` for everything below a name, ``*`` for any.
        own_names: What the machine calls itself; one that cannot stand in a ``Host`` is passed over.

    Raises:
        ValueError: A configured entry is none of these.
    """

    def __init__(self, configured: Iterable[str], own_names: Iterable[str]) -> None:
        self._is_open = False
        exact: set[str | Address] = {"localhost"}
        below = [".localhost"]
        for own in own_names:
            authority = parse_authority(own.encode("ascii", "replace"))
            if authority is not None:
                exact.add(authority.host)
        for entry in configured:
            if entry == "*":
                self._is_open = True
            elif entry.startswith("*."):
                below.append(f".{_configured_name(entry, entry[2:])}")
            else:
                exact.add(_configured(entry))
        self._exact = frozenset(exact)
        self._below = tuple(below)

    def __repr__(self) -> str:
        return "<Hosts any>" if self._is_open else f"<Hosts {len(self._exact)} names, {len(self._below)} patterns>"

    def allows(self, host: bytes | None, local_address: str) -> bool:
        """Whether a request with this ``Host`` is answered.

        Args:
            host: The field's value as received; ``None`` where HTTP/1.0 came without one, which no browser does.
            local_address: On which the connection came in, without its port.
        """
        if host is None:
            return True
        authority = parse_authority(host)
        if authority is None:
            return False
        name = authority.host
        if self._is_open or name in self._exact:
            return True
        if isinstance(name, str):
            return name.endswith(self._below)
        if name.is_loopback:
            return True
        return any(name in network for network in _NEAR) and name == parse_address(local_address)


def _configured(entry: str) -> str | Address:
    # An address of IPv6 may be written without brackets.
    address = parse_address(entry) if "%" not in entry else None
    if address is not None:
        return address
    authority = parse_authority(entry.encode("ascii", "replace"))
    if authority is None:
        raise ValueError(f"{entry!r} is not the name of a host; write a name, *.name or * (a name in ASCII)")
    return authority.host


def _configured_name(entry: str, rest: str) -> str:
    authority = parse_authority(rest.encode("ascii", "replace"))
    if authority is None or not isinstance(authority.host, str):
        raise ValueError(f"{entry!r} has no name of a host after its *.")
    return authority.host


def refusal() -> MisdirectedHost:
    """What a client is told; the value that it sent is not repeated."""
    return MisdirectedHost("this server does not answer under that host name: see edge.hosts")
