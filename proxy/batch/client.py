"""Sends one line's request and brings the whole reply, over the connections that the proxy itself uses upstream."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from proxy.batch.answer import Reply
from proxy.upstream.exchange import UpstreamRequest
from proxy.upstream.pool import Pool
from proxy.wire.headers import first

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.errors import PilotlightError
    from proxy.upstream.secure import SecureExchanges
    from proxy.upstream.session import Sessions
    from proxy.wire.headers import Field
    from proxy.wire.http1 import ReplyHead

_CONNECT_TIMEOUT_S: Final = 5.0
# A list of a thousand texts with 4,096 numbers each has some 90 MB.
_MOST_BYTES: Final = 256 * 1024 * 1024


class _Whole:
    """A sink that keeps everything."""

    __slots__ = ("_head", "_pieces", "_size", "reply")

    def __init__(self) -> None:
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._head: ReplyHead | None = None
        self._pieces: list[bytes] = []
        self._size = 0

    def on_head(self, head: ReplyHead) -> None:
        self._head = head

    def on_body(self, raw: bytes, payload: bytes) -> None:
        self._size += len(payload)
        if self._size > _MOST_BYTES:
            # The exchange makes a broken reply of it.
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        self._pieces.append(payload)

    def on_end(self) -> None:
        if self._head is not None and not self.reply.done():
            fields = self._head.fields
            code = first(fields, b"x-pilotlight-error") or b""
            after = first(fields, b"retry-after") or b""
            retry_after_s = float(after) if after.isdigit() and len(after) < 6 else 0.0
            body = b"".join(self._pieces)
            self.reply.set_result(Reply(self._head.status, body, code.decode("latin-1"), retry_after_s))

    def on_failure(self, error: PilotlightError) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


class Client:
    """Connections to one server. Made on the event loop.

    Args:
        url: ``http://`` or ``https://``, host, port, and a path before Ollama's own where there is one.
        headers: What each request carries beside what HTTP needs.
        connections: Kept open between two requests.
    """

    def __init__(self, url: str, headers: Sequence[tuple[str, str]], connections: int) -> None:
        parts = urlsplit(url)
        self._prefix = parts.path.rstrip("/")
        base = f"{parts.scheme}://{parts.netloc}"
        self._fields: list[Field] = [
            (b"Host", parts.netloc.encode()),
            (b"Content-Type", b"application/json"),
            *((name.encode(), value.encode()) for name, value in headers),
        ]
        self._sessions: Sessions | None = None
        self._exchanges: Pool | SecureExchanges
        if parts.scheme == "https":
            self._exchanges = self._secure(base)
        else:
            self._exchanges = Pool(base, connect_timeout_s=_CONNECT_TIMEOUT_S, max_idle=connections)

    def _secure(self, base: str) -> SecureExchanges:
        # Imported late: without TLS aiohttp is not needed, and it takes its time and memory.
        from proxy.upstream.secure import SecureExchanges
        from proxy.upstream.session import open_sessions

        self._sessions = open_sessions(connect_timeout_s=_CONNECT_TIMEOUT_S, via="", user_agent="")
        return SecureExchanges(base, self._sessions.pooled)

    async def post(self, path: str, body: bytes) -> Reply:
        """Send one request. Cancelled, it closes its connection, which is how Ollama learns to stop.

        Raises:
            UpstreamUnreachable: No connection; nothing was sent.
            UpstreamBroken: No whole reply that can be read.
        """
        sink = _Whole()
        fields = [*self._fields, (b"Content-Length", b"%d" % len(body))]
        exchange = await self._exchanges.exchange(UpstreamRequest("POST", self._prefix + path, fields, body), sink)
        try:
            return await sink.reply
        except asyncio.CancelledError:
            exchange.abort()
            raise

    async def aclose(self) -> None:
        """Close every connection."""
        await self._exchanges.aclose()
        if self._sessions is not None:
            await self._sessions.aclose()
