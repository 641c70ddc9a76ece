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
from proxy.upstream.breaker import Verdict
from proxy.upstream.connecting import Connecting
from proxy.upstream.exchange import NoReply, Sink, UpstreamConnection, UpstreamRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.upstream.connecting import Attempt
    from proxy.wire.http1 import ReplyHead

# Ollama's server (Go net/http without an IdleTimeout) keeps idle connections for ever; hops in between do not.
IDLE_TIMEOUT_S: Final = 15.0
# What one read can bring, and so what a client that stalls can leave with us beyond its write buffer's mark. The loop
# reads up to 256 KiB at once.
_RECEIVE_BUFFER_BYTES: Final = 32 * 1024


class Exchange:
    """One request on its way, over one connection and, where that one turns out to be dead, over a second.

    It stands between connection and sink only until the first byte of the reply: ``on_body`` is the sink's own.

    A second one is for calls to models (``retry``), and nothing else comes here. No budget refuses it, because a
    restart of Ollama makes every idle connection stale at once.
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
        breaker = self._pool.breaker
        if breaker.failures:
            breaker.on_success(self._pool.clock())
        self._sink.on_head(head)

    def on_end(self) -> None:
        self._sink.on_end()

    def on_failure(self, error: PilotlightError) -> None:
        connection = self._connection
        if isinstance(error, NoReply):
            reused = connection is not None and connection.exchanges > 1
            if reused and not self._is_retry:
                self._is_retry = True
                self._task = asyncio.get_running_loop().create_task(self._again())
                return
            self._pool.breaker.on_failure(self._pool.clock(), Verdict.PASS)
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

    def take_whole_chunks(self, sink: Sink, lane: Callable[[bytes], bool]) -> None:
        """See :meth:`UpstreamConnection.take_whole_chunks`; not where others stand before the sink."""
        if sink is self._sink and self._connection is not None and self._connection.carries(self):
            self._connection.take_whole_chunks(lane)

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
        connecting: What is shared with others that reach this upstream; ``None`` for one of its own.
        max_idle: So many connections are kept while nothing runs on them.
        clock: Monotonic seconds.

    Attributes:
        breaker: Of the connecting, which is consulted before each connect; told here of answers and of their absence.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float,
        on_retry: Callable[[bool], None] = lambda ok: None,
        connecting: Connecting | None = None,
        max_idle: int = 100,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 80
        self._connect_timeout_s = connect_timeout_s
        self._max_idle = max_idle
        self._connecting = Connecting(clock=clock) if connecting is None else connecting
        self.breaker = self._connecting.breaker
        self.clock = clock
        self._waiting = 0
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
        """Open a connection, busy from the start; in up to three attempts.

        Raises:
            UpstreamUnreachable: Refused, no such host, or not within the time; or the upstream failed so often that
                it is left alone for a moment.
        """
        self._waiting += 1
        try:
            return await self._connecting.connected(self._connect, self._in_flight)
        finally:
            self._waiting -= 1

    def _in_flight(self) -> int:
        return self.busy + self._waiting

    async def _connect(self, attempt: Attempt) -> UpstreamConnection:
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
        expired_before = self.clock() - IDLE_TIMEOUT_S
        while self._idle:
            connection = self._idle.pop()
            if connection.is_idle and connection.idle_since >= expired_before:
                return connection
            connection.abort()
        return None

    def _on_free(self, connection: UpstreamConnection) -> None:
        if len(self._idle) >= self._max_idle:
            connection.abort()
            return
        connection.idle_since = self.clock()
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
