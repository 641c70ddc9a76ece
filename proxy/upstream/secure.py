"""Generation calls to an ``https://`` upstream: aiohttp's client, feeding the same sinks as the hot path's own."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from proxy.errors import UpstreamBroken
from proxy.upstream.connecting import Connecting
from proxy.upstream.exchange import CUT_MESSAGE, Sink, UpstreamRequest
from proxy.upstream.session import fail_with_connection, reply_head, send
from proxy.wire.http1 import chunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.upstream.connecting import Attempt


class SecureExchange:
    """One reply on its way; ends with its last byte or with :meth:`abort`."""

    def __init__(self, reply: aiohttp.ClientResponse, sink: Sink) -> None:
        self._reply = reply
        self._sink = sink
        self._may_read = asyncio.Event()
        self._may_read.set()
        self.task = asyncio.get_running_loop().create_task(self._feed())

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def abort(self) -> None:
        self.task.cancel()

    def take_whole_chunks(self, sink: Sink, lane: Callable[[bytes], bool]) -> None:
        """Nothing comes framed here."""

    @property
    def open_chunk(self) -> tuple[int, bool]:
        """The framing is made here, so no chunk is ever left open."""
        return (0, False)

    async def _feed(self) -> None:
        head = reply_head(self._reply)
        fail_with_connection(self._reply)
        try:
            self._sink.on_head(head)
            async for piece in self._reply.content.iter_any():
                if piece:
                    self._sink.on_body(piece if head.keeps_length else chunk(piece), piece)
                await self._may_read.wait()
        except (aiohttp.ClientError, TimeoutError):
            self._sink.on_failure(UpstreamBroken(CUT_MESSAGE))
        except ValueError as error:
            # A sink's: what it was given is no reply that it can read.
            self._sink.on_failure(UpstreamBroken(f"the upstream's reply is malformed: {error}"))
        else:
            self._sink.on_end()
        finally:
            self._reply.close()


class SecureExchanges:
    """Sends generation calls over TLS.

    Args:
        base_url: ``https://host[:port]``.
        session: aiohttp's client with a connection for each request.
        connecting: What is shared with others that reach this upstream; ``None`` for one of its own.
    """

    def __init__(self, base_url: str, session: aiohttp.ClientSession, connecting: Connecting | None = None) -> None:
        self._base_url = base_url
        self._session = session
        self._connecting = Connecting() if connecting is None else connecting
        self._waiting = 0
        self._running: set[asyncio.Task[None]] = set()

    async def exchange(self, request: UpstreamRequest, sink: Sink) -> SecureExchange:
        """Send a request and give its reply to a sink. Returns when the head is here.

        Raises:
            UpstreamUnreachable: No connection; nothing was sent.
            UpstreamBroken: No reply that can be read.
        """
        self._waiting += 1
        try:
            reply = await self._connecting.connected(functools.partial(self._send, request), self._in_flight)
        finally:
            self._waiting -= 1
        exchange = SecureExchange(reply, sink)
        self._running.add(exchange.task)
        exchange.task.add_done_callback(self._running.discard)
        return exchange

    def _in_flight(self) -> int:
        return len(self._running) + self._waiting

    async def _send(self, request: UpstreamRequest, attempt: Attempt) -> aiohttp.ClientResponse:
        headers = CIMultiDict((name.decode(), value.decode()) for name, value in request.fields)
        url = URL(self._base_url + request.target, encoded=True)
        return await send(self._session, attempt, request.method, url, headers, request.body)

    async def aclose(self) -> None:
        """End every exchange."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
