"""aiohttp's client as this proxy needs it. Only this folder touches ``aiohttp.ClientSession``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from proxy.wire.headers import first
from proxy.wire.http1 import ReplyHead

if TYPE_CHECKING:
    import asyncio

# Ollama's own replies have small heads; hops in between add to them.
_MAX_FIELD_BYTES: Final = 64 * 1024
# A stalled reader costs twice this, so it is far below aiohttp's 256 KiB.
_READ_BUFFER_BYTES: Final = 16 * 1024

INVENTED_FIELDS: Final = frozenset({"Accept", "Accept-Encoding", "User-Agent", "Content-Type"})


@dataclass(frozen=True, slots=True)
class Sessions:
    """Two clients of one upstream.

    Attributes:
        pooled: Reuses connections. aiohttp repeats GET, HEAD and OPTIONS once when a reused one turns out dead.
        fresh: A connection for each request and no repetition, for what must not happen twice.
        control: For the proxy's own calls; carries its name.
    """

    pooled: aiohttp.ClientSession
    fresh: aiohttp.ClientSession
    control: aiohttp.ClientSession

    async def aclose(self) -> None:
        for session in (self.pooled, self.fresh, self.control):
            await session.close()


def open_sessions(*, connect_timeout_s: float, via: str, user_agent: str) -> Sessions:
    """Open the clients. Must be called on the event loop.

    Args:
        connect_timeout_s: For one connect.
        via: This proxy's entry for the ``Via`` field of its own calls, by which it knows itself.
        user_agent: Of its own calls.
    """

    def session(*, reuse: bool, headers: dict[str, str] | None = None) -> aiohttp.ClientSession:
        # limit=0: aiohttp's default would make request 101 wait where nobody sees it.
        connector = aiohttp.TCPConnector(limit=0, force_close=not reuse)
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            read_bufsize=_READ_BUFFER_BYTES,
            max_field_size=_MAX_FIELD_BYTES,
            max_line_size=_MAX_FIELD_BYTES,
            headers=headers,
        )

    fresh = session(reuse=False)
    # aiohttp repeats PUT and DELETE too, on fresh connections as well (client.py, ``IDEMPOTENT_METHODS``): a delete
    # could run twice. There is no public switch.
    fresh._retry_connection = False
    return Sessions(
        pooled=session(reuse=True),
        fresh=fresh,
        control=session(reuse=True, headers={"Via": via, "User-Agent": user_agent}),
    )


def fail_with_connection(reply: aiohttp.ClientResponse) -> None:
    """Have a reply's body fail where its connection is lost before its end.

    aiohttp 3.14.5 leaves a reader waiting for ever after broken chunk framing, and takes a reset for the end of a body
    that ends with its connection (client_proto.py, ``data_received`` and ``connection_lost``).
    """
    connection = reply.connection
    closed = connection.protocol.closed if connection is not None and connection.protocol is not None else None
    if closed is None:
        return
    content = reply.content
    is_framed = "Content-Length" in reply.headers or "Transfer-Encoding" in reply.headers

    def on_closed(closed: asyncio.Future[None]) -> None:
        was_reset = not closed.cancelled() and closed.exception() is not None
        if content.exception() is None and (not content.is_eof() or (was_reset and not is_framed)):
            content.set_exception(aiohttp.ClientPayloadError("the connection was lost"))

    closed.add_done_callback(on_closed)


def reply_head(reply: aiohttp.ClientResponse) -> ReplyHead:
    """The head of a reply that aiohttp's client read; the connection is aiohttp's to keep."""
    fields = tuple(reply.raw_headers)
    length = first(fields, b"content-length")
    return ReplyHead(
        status=reply.status,
        reason=(reply.reason or "").encode("latin-1", "replace"),
        fields=fields,
        chunked=length is None,
        length_bytes=None if length is None else int(length),
        reusable=False,
        content_type=(first(fields, b"content-type") or b"").partition(b";")[0].strip().lower(),
    )
