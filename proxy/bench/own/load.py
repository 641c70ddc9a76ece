"""The clients of ``scripts/bench relay``: sockets, and as little else as possible.

They run in the process of the benchmark itself, apart from the stand-in and from what is measured.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import TYPE_CHECKING, Any, Final, Self, cast

from proxy.bench.own.standin import MODEL, TOKENS
from proxy.wire.http1 import ChunkFollower, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_TIMEOUT_S: Final = 20.0
_TOKEN: Final = b'"done":false}'
_FINAL: Final = b'"done":true'
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_OPENING_AT_ONCE: Final = 50

# The client asks for options of its own and for a short stay, so that a proxy that unifies those has to do it.
_ASKED: Final = {"options": {"temperature": 0.2, "num_ctx": 2048}, "keep_alive": "5m"}
# As many different prompts, so that nothing of a proxy's can live on the last one.
PROMPTS: Final = 50


class LoadError(Exception):
    """A call was not answered as the stand-in answers."""


def request(path: str, pace: str, number: int = 0) -> bytes:
    """The bytes of one call.

    Args:
        path: ``/api/chat`` or ``/api/generate``.
        pace: How the stand-in is to answer: burst, paced or idle.
        number: Which prompt; they differ in text and length, by up to 50 digits.
    """
    number %= PROMPTS
    prompt = f"Why is the sky blue over {number * '1'} places? Answer in {number + 1} sentences."
    asks = {"prompt": prompt} if path == "/api/generate" else {"messages": [{"role": "user", "content": prompt}]}
    body = json.dumps({"model": MODEL, **asks, **_ASKED}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:11434\r\nUser-Agent: bench\r\nAccept: application/json\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nX-Stand-In: {pace}\r\n\r\n"
    )
    return head.encode() + body


async def fetch(port: int, path: str) -> tuple[int, Any]:
    """Status of a small page, and its JSON; ``None`` where it is none.

    Raises:
        OSError: Nothing listens.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        body = await reader.readexactly(int(length or 0))
    except asyncio.IncompleteReadError as error:
        raise LoadError(f"{path} was not answered whole") from error
    finally:
        writer.close()
    return int(head.split(b" ", 2)[1]), json.loads(body) if body.startswith(b"{") else None


class Caller:
    """One client that asks again and again on one connection. It blocks: nothing else may run while it measures."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._socket.close()

    def first_token_s(self, call: bytes) -> float:
        """Send a call and read its reply to the end.

        Returns:
            Seconds from just before sending to the arrival of the first frame with a token.

        Raises:
            LoadError: The connection ended, or the reply is not the stand-in's.
            TimeoutError: Nothing came for a long time.
        """
        receive = self._socket.recv
        received = b""
        started = time.perf_counter()
        self._socket.sendall(call)
        while _TOKEN not in received:
            received = _longer(received, receive(65536))
        elapsed_s = time.perf_counter() - started
        while not received.endswith(_LAST_CHUNK):
            received = _longer(received, receive(65536))
        check(received)
        return elapsed_s


def _longer(received: bytes, piece: bytes) -> bytes:
    if not piece:
        raise LoadError(f"the connection ended within a reply: {received[-200:]!r}")
    return received + piece


def check(received: bytes) -> None:
    """See that a whole reply holds every token and the final record, however it was cut into chunks.

    Raises:
        LoadError: It does not.
    """
    head, _, framed = received.partition(b"\r\n\r\n")
    follower = ChunkFollower()
    try:
        _, payload = follower.feed(framed)
    except ProtocolError as error:
        raise LoadError(f"broken framing: {error}") from error
    is_whole = follower.done and not follower.surplus and head.startswith(b"HTTP/1.1 200 ")
    if not is_whole or payload.count(_TOKEN) != TOKENS or _FINAL not in payload:
        raise LoadError(f"not the reply of the stand-in: {received[:300]!r}")


class Streams:
    """Many clients at once, each with a connection of its own that is kept.

    Use as a context: leaving it closes the connections.

    Args:
        port: Of loopback.
        count: How many.
    """

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._count = count
        self._clients: list[_Client] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        try:
            while len(self._clients) < self._count:
                for _ in range(min(_OPENING_AT_ONCE, self._count - len(self._clients))):
                    _, client = await loop.create_connection(_Client, "127.0.0.1", self._port)
                    self._clients.append(client)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for client in self._clients:
            client.close()

    async def read_replies(self, calls: Sequence[bytes], replies: int, spread_s: float) -> int:
        """Each client reads so many replies, one after the other.

        Args:
            calls: What they send: each client begins with another one, and goes on with the next.
            replies: How many each reads.
            spread_s: The time over which the clients begin, evenly; they stay apart by as much.

        Returns:
            The number of tokens that arrived.

        Raises:
            LoadError: A reply was not the stand-in's.
        """

        async def read(client: _Client, number: int) -> None:
            await asyncio.sleep(spread_s * number / self._count)
            for reply in range(replies):
                await client.ask(calls[(number + reply) % len(calls)], whole=True)

        async with asyncio.timeout(_TIMEOUT_S * replies):
            await _all([read(client, number) for number, client in enumerate(self._clients)])
        return self._count * replies * TOKENS

    async def begin(self, call: bytes) -> None:
        """Each client asks once, and has its first token."""
        for first in range(0, self._count, _OPENING_AT_ONCE):
            some = self._clients[first : first + _OPENING_AT_ONCE]
            async with asyncio.timeout(_TIMEOUT_S):
                await _all([client.ask(call, whole=False) for client in some])


async def _all(waits: list[Any]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


class _Client(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received: list[bytes] = []
        self._until_last = True
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(LoadError("the connection ended within a reply"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, call: bytes, *, whole: bool) -> None:
        """Send a call and wait for its first token, or for all of it."""
        if self._transport is None:
            raise LoadError("the connection was closed between two replies")
        self._received = []
        self._until_last = whole
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(call)
        await self._waiter
        if whole:
            check(b"".join(self._received))

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        if self._waiter is None or self._waiter.done():
            return
        if not self._until_last:
            if _TOKEN in b"".join(self._received):
                self._waiter.set_result(None)
        elif data.endswith(b"\r\n\r\n") and b"".join(self._received[-3:]).endswith(_LAST_CHUNK):
            self._waiter.set_result(None)
