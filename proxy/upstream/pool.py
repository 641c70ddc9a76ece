"""The connections to one ``http://`` upstream.

No limit of its own: requests are bounded in front of it, and a limit here would be a queue that nobody sees.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from proxy.errors import PilotlightError, UpstreamUnreachable
from proxy.upstream.exchange import NoReply, Sink, UpstreamConnection, UpstreamRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.wire.http1 import ReplyHead

# Ollama's server (Go net/http without an IdleTimeout) keeps idle connections for ever; hops in between do not.
IDLE_TIMEOUT_S: Final = 15.0
# What one read can bring, and so what a client that stalls can leave with us beyond its write buffer's mark. The loop
# reads up to 256 KiB at once.
_RECEIVE_BUFFER_BYTES: Final = 32 * 1024


class Exchange:
    """One request on its way, over one connection and, where that one turns out to be dead, over a second.

    It stands between connection and sink only until the first byte of the reply: ``on_body`` is the sink's own.
    """

    __slots__ = ("_connection", "_is_retry", "_pool", "_request", "_sink", "_task", "on_body")

    def __init__(self, pool: Pool, request: bytes, sink: Sink) -> None:
        self._pool = pool
        self._request = request
        self._sink = sink
        self.on_body = sink.on_body
        self._connection: UpstreamConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_retry = False

    def send_on(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        connection.start(self._request, self)

    def on_head(self, head: ReplyHead) -> None:
        self._sink.on_head(head)

    def on_end(self) -> None:
        self._sink.on_end()

    def on_failure(self, error: PilotlightError) -> None:
        connection = self._connection
        reused = connection is not None and connection.exchanges > 1
        if isinstance(error, NoReply) and reused and not self._is_retry:
            self._is_retry = True
            self._task = asyncio.get_running_loop().create_task(self._again())
            return
        self._sink.on_failure(error)

    async def _again(self) -> None:
        try:
            connection = await self._pool.connect()
        except PilotlightError as error:
            self._pool.on_retry(False)
            self._sink.on_failure(error)
            return
        self._pool.on_retry(True)
        self.send_on(connection)

    def abort(self) -> None:
        """Stop: the connection is closed, the sink is not called any more. Safe to call at any time."""
        if self._task is not None:
            self._task.cancel()
        if self._connection is not None and self._connection.carries(self):
            self._connection.abort()

    def pause_reading(self) -> None:
        if self._connection is not None and self._connection.carries(self):
            self._connection.pause_reading()

    def resume_reading(self) -> None:
        if self._connection is not None and self._connection.carries(self):
            self._connection.resume_reading()

    @property
    def open_chunk(self) -> tuple[int, bool]:
        """See :attr:`UpstreamConnection.open_chunk`."""
        return (0, False) if self._connection is None else self._connection.open_chunk


class Pool:
    """Opens, keeps and closes connections.

    Args:
        url: ``http://host:port``, without a path.
        connect_timeout_s: For name look-up and connect together.
        on_retry: Told of each repetition on a fresh connection, with its outcome.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float,
        on_retry: Callable[[bool], None] = lambda ok: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 80
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock
        self._idle: list[UpstreamConnection] = []
        self._all: set[UpstreamConnection] = set()
        self._emptied: asyncio.Event | None = None
        self.on_retry = on_retry

    def __repr__(self) -> str:
        return f"<Pool {len(self._idle)} idle, {self.busy} busy>"

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def busy(self) -> int:
        return len(self._all) - len(self._idle)

    async def exchange(self, request: UpstreamRequest, sink: Sink) -> Exchange:
        """Send a request. Does not suspend where a connection is idle.

        Args:
            request: For this pool's upstream.
            sink: Gets the reply; its first call may come before this returns only after a suspension.

        Returns:
            The exchange, for :meth:`Exchange.abort`.

        Raises:
            UpstreamUnreachable: No connection; nothing was sent.
        """
        connection = self._take()
        if connection is None:
            connection = await self.connect()
        exchange = Exchange(self, request.encode(), sink)
        exchange.send_on(connection)
        return exchange

    async def connect(self) -> UpstreamConnection:
        """Open a connection, busy from the start.

        Raises:
            UpstreamUnreachable: Refused, no such host, or not within the time.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                transport, protocol = await loop.create_connection(self._new, self._host, self._port)
        except (OSError, TimeoutError) as error:
            raise UpstreamUnreachable(f"the upstream cannot be reached: {_reason(error)}") from error
        if not protocol.is_idle:
            protocol.abort()
            raise UpstreamUnreachable("the upstream closed the connection at once")
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        self._all.add(protocol)
        return protocol

    async def aclose(self) -> None:
        """Close every connection, also the busy ones."""
        for connection in list(self._all):
            connection.abort()
        if self._all:
            self._emptied = asyncio.Event()
            await self._emptied.wait()

    def _new(self) -> UpstreamConnection:
        # Counted once it is connected: the loop asks for one before it connects, and never tells it of a failure.
        return UpstreamConnection(self._on_free, self._on_closed)

    def _take(self) -> UpstreamConnection | None:
        expired_before = self._clock() - IDLE_TIMEOUT_S
        while self._idle:
            connection = self._idle.pop()
            if connection.is_idle and connection.idle_since >= expired_before:
                return connection
            connection.abort()
        return None

    def _on_free(self, connection: UpstreamConnection) -> None:
        connection.idle_since = self._clock()
        self._idle.append(connection)

    def _on_closed(self, connection: UpstreamConnection) -> None:
        self._all.discard(connection)
        if not self._all and self._emptied is not None:
            self._emptied.set()
        if connection in self._idle:
            self._idle.remove(connection)


def _reason(error: OSError | TimeoutError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer to the connect"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return "connection failed"
