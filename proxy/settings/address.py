"""Addresses to listen on, and whether two of them are the same place."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:\[\]/@]+)):([0-9]{1,5})", re.ASCII)


class Address(NamedTuple):
    """Host without brackets, and port; port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read ``HOST:PORT``; an IPv6 host stands in brackets.

    Raises:
        ValueError: It is not of that form; the message is fit for a user.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError("must be HOST:PORT, for instance 127.0.0.1:11435 or [::1]:11435")
    if int(match[3]) > 65535:
        raise ValueError("has a port above 65535")
    return Address(match[1] or match[2], int(match[3]))


@contextlib.contextmanager
def to_listen_on(address: Address) -> Iterator[None]:
    """Name address and reason where it fails: asyncio's own text has a tuple in the address's place.

    Raises:
        OSError: As it was, with a text that is fit for a user.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        raise OSError(error.errno, f"{address}: {reason}") from error


def is_every_interface(host: str) -> bool:
    """True for the address that means every interface (and, to a client, this machine)."""
    return host in {"0.0.0.0", "::", "*"}  # noqa: S104 - compared with, not bound


def is_loopback(host: str) -> bool:
    """True for a host that only this machine can reach, judged by its spelling alone."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_same_place(one: Address, other: Address) -> bool:
    """True when a listener on ``one`` and a listener on (or a connection to) ``other`` meet.

    Nothing is looked up. A name that only the resolver knows to be this machine is not recognised; the mark that each
    forwarded request carries catches that one at run time.
    """
    if one.port != other.port or one.port == 0:
        return False
    first, second = one.host.lower().rstrip("."), other.host.lower().rstrip(".")
    if first == second:
        return True
    if is_every_interface(first) or is_every_interface(second):
        return (is_every_interface(first) or is_loopback(first)) and (is_every_interface(second) or is_loopback(second))
    # 127.0.0.1 and 127.0.0.2 are two places, and so are 127.0.0.1 and ::1; the name stands for both families.
    return "localhost" in (first, second) and is_loopback(first) and is_loopback(second)
