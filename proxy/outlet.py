"""The way out of a connection, by which what is written leaves at once.

uvloop collects what is written and sends it when the turn of the loop is over, after everything else that is done in
it; so a token would wait for the book-keeping about it. Here the kernel gets it first, and the transport only what the
kernel did not take, with the limits and the closing that come with it.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

_NO_FD: Final = -1


class Outlet:
    """Writes to one connection. Whoever has one must write in no other way.

    Args:
        transport: The connection's. Where it encrypts, everything goes through it.
    """

    __slots__ = ("_fd", "_is_behind", "_is_uncounted", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        sock = transport.get_extra_info("socket")
        is_plain = sock is not None and transport.get_extra_info("sslcontext") is None
        self._transport = transport
        self._fd: int = sock.fileno() if is_plain else _NO_FD
        # The transport was given something, and may have it still.
        self._is_behind = not is_plain
        # It was given something that it has not offered to the kernel yet, and does not count it.
        self._is_uncounted = False

    def __repr__(self) -> str:
        return f"<Outlet {self._fd}{', behind' if self._is_behind else ''}>"

    def write(self, data: bytes) -> None:
        """Send, or have it sent after what is still to be sent; a connection that is closing takes nothing."""
        transport = self._transport
        if transport.is_closing():
            return
        if not self._is_behind or self._has_caught_up():
            try:
                sent = os.write(self._fd, data)
            except OSError:
                # Full, or broken: then the transport finds it out, and tells the protocol.
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
            self._is_behind = True
        if self._fd != _NO_FD and not self._is_uncounted:
            self._is_uncounted = True
            asyncio.get_running_loop().call_soon(self._count)
        transport.write(data)

    def _has_caught_up(self) -> bool:
        if self._fd != _NO_FD and not self._is_uncounted and not self._transport.get_write_buffer_size():
            self._is_behind = False
        return not self._is_behind

    def _count(self) -> None:
        """A new turn of the loop: what the kernel has not taken by now is counted."""
        self._is_uncounted = False
