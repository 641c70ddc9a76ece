"""The two ends that a proxy stands between, small and real, with every byte under control.

``ScriptedUpstream`` answers each request with a coroutine of the test's own; ``RawClient`` sends bytes and says how the
answer ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import ssl

DEADLINE_S = 10.0

_LENGTH = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)
_CHUNKED = re.compile(rb"^transfer-encoding: *chunked", re.IGNORECASE | re.MULTILINE)


@dataclass
class Seen:
    """One request as the upstream saw it.

    Attributes:
        head: Start line and fields, as they arrived.
        body: As far as it was kept.
        body_bytes: How much of it arrived.
        whole: Set once all of it is here.
        left: Set once the peer closed the connection; ``left_at`` is the loop's time of it.
    """

    head: bytes
    body: bytes = b""
    body_bytes: int = 0
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    left_at: float | None = None

    @property
    def start_line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def method(self) -> str:
        return self.start_line.split(" ")[0]

    @property
    def target(self) -> str:
        return self.start_line.split(" ")[1]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def fields(self) -> list[tuple[str, str]]:
        return _fields(self.head)

    def header(self, name: str) -> str | None:
        return _header(self.fields, name)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Answering:
    """What a script writes with: one connection of the upstream's."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    @property
    def transport(self) -> asyncio.Transport:
        return self._connection.transport

    def raw(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def head(self, status: int = 200, kind: str = "application/x-ndjson", *more: str, chunked: bool = True) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", *more]
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        self.raw("\r\n".join([*lines, "", ""]).encode())

    def chunk(self, payload: bytes) -> None:
        self.raw(framed(payload))

    def frames(self, *frames: dict[str, Any]) -> None:
        for frame in frames:
            self.chunk(ndjson(frame))

    def end(self) -> None:
        self.raw(b"0\r\n\r\n")

    def whole(self, body: bytes, status: int = 200, kind: str = "application/json; charset=utf-8") -> None:
        self.raw(
            b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (status, kind.encode(), len(body), body)
        )

    def json(self, value: Any, status: int = 200) -> None:
        self.whole(json.dumps(value, separators=(",", ":")).encode(), status)

    async def sliced(self, data: bytes, size: int = 1) -> None:
        """Write in pieces, each of which has the chance to arrive alone."""
        for start in range(0, len(data), size):
            self.raw(data[start : start + size])
            await self.turn()

    async def turn(self) -> None:
        """Let what was written leave, and the other side read it."""
        for _ in range(3):
            await asyncio.sleep(0)

    async def drain(self) -> None:
        """Wait until the write buffer is below its mark."""
        await self._connection.writable.wait()

    def fin(self) -> None:
        self.transport.close()

    def half_close(self) -> None:
        """Say that nothing more will come, and go on reading: how Go ends a connection with an unread body."""
        self.transport.write_eof()

    def rst(self) -> None:
        """End with a reset instead of an end of stream."""
        _reset(self.transport)


Script = Callable[[Seen, Answering], Awaitable[None]]


class ScriptedUpstream:
    """A raw server on loopback.

    Args:
        script: Answers one request. May be replaced at any time.
        tls: Speak TLS with this context.

    Attributes:
        seen: Every request, in order of arrival.
        connections: How many were ever accepted.
        answers_early: Which requests are handed to the script before their body is here. Their body is only counted.
    """

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self._tls = tls
        self.seen: list[Seen] = []
        self.connections = 0
        self.answers_early: Callable[[Seen], bool] = lambda seen: False
        self.open: set[_Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"https://{self.address}" if self._tls else f"http://{self.address}"

    def calls(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == path]

    async def start(self) -> None:
        """Listen; after a ``stop`` on the same port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self._port, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections and cut those that are open."""
        if self._server is not None:
            self._server.close()
        for task in list(self.tasks):
            task.cancel()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        # Again and again: one that was accepted before the end may turn up after it.
        while self.open:
            for connection in list(self.open):
                connection.transport.abort()
            await asyncio.sleep(0)
        for result in results:
            if isinstance(result, Exception):
                raise result


class _Connection(asyncio.Protocol):
    """Reads requests one after the other and has each answered by the script."""

    def __init__(self, server: ScriptedUpstream) -> None:
        self._server = server
        self._buffer = b""
        self._current: Seen | None = None
        self._task: asyncio.Task[None] | None = None
        self._body: _Body = _Body(b"")
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._server.open.add(self)
        self._server.connections += 1

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._read()

    def eof_received(self) -> None:
        self._note_left()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.open.discard(self)
        self.writable.set()
        self._note_left()

    def _note_left(self) -> None:
        if self._current is not None and not self._current.left.is_set():
            self._current.left_at = asyncio.get_running_loop().time()
            self._current.left.set()

    def _read(self) -> None:
        seen = self._current
        if seen is not None and not seen.whole.is_set():
            self._take_body(seen)
        elif self._task is None and b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            self._body = _Body(head)
            seen = self._current = Seen(head)
            if self._server.answers_early(seen):
                self._body.keep = False
                self._answer(seen)
            self._take_body(seen)

    def _take_body(self, seen: Seen) -> None:
        self._buffer = self._body.feed(self._buffer)
        seen.body = bytes(self._body.kept)
        seen.body_bytes = self._body.size
        if self._body.done:
            seen.whole.set()
            if self._task is None:
                self._answer(seen)

    def _answer(self, seen: Seen) -> None:
        self._server.seen.append(seen)
        self._task = asyncio.get_running_loop().create_task(_run(self._server.script, seen, Answering(self)))
        self._server.tasks.add(self._task)
        self._task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled() or task.exception() is None:
            # A failed script stays, for ``stop`` to raise its error.
            self._server.tasks.discard(task)
        if not self.transport.is_closing():
            self._read()


class _Body:
    """Follows a request's body."""

    def __init__(self, head: bytes) -> None:
        length = _LENGTH.search(head)
        self._chunked = _CHUNKED.search(head) is not None
        self._owed = int(length[1]) if length is not None else 0
        self.keep = True
        self.kept = bytearray()
        self.size = 0
        self.done = not self._chunked and not self._owed

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to the body; the rest."""
        while data and not self.done:
            if self._owed:
                piece = data[: self._owed]
                self._owed -= len(piece)
                data = data[len(piece) :]
                self.size += len(piece)
                if self.keep:
                    self.kept += piece
                self.done = not self._owed and not self._chunked
                continue
            # Between two chunks: the line end of the one before, then a size line.
            line, mark, rest = data.removeprefix(b"\r\n").partition(b"\r\n")
            if not mark or data == b"\r":
                break
            self._owed = int(line.split(b";")[0], 16)
            if not self._owed:
                if b"\r\n" not in rest:
                    break
                self.done = True
                return rest.partition(b"\r\n")[2]
            data = rest
        return data


async def _run(script: Script, seen: Seen, reply: Answering) -> None:
    await script(seen, reply)


@contextlib.asynccontextmanager
async def upstream(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedUpstream]:
    server = ScriptedUpstream(script, tls)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class End(enum.Enum):
    """How an answer ended."""

    COMPLETE = "complete"
    CUT = "cut"
    RESET = "reset"
    TIMEOUT = "timeout"


class Leave(enum.Enum):
    """How a client leaves."""

    FIN = "fin"
    RST = "rst"
    HALF_CLOSE = "half-close"


@dataclass
class Answer:
    """One answer as the client saw it."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes
    chunks: list[bytes]
    end: End

    def header(self, name: str) -> str | None:
        return _header(self.fields, name)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines() if line]


class RawClient:
    """One connection. Sends what it is told and reads answers by their framing, strictly."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, address: str, *, limit: int = 2**16, source: str | None = None) -> RawClient:
        host, _, port = address.rpartition(":")
        local = None if source is None else (source, 0)
        return cls(*await asyncio.open_connection(host, int(port), limit=limit, local_addr=local))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def post(self, path: str, body: Any, *more: str, method: str = "POST") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *more]
        self.send("\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode() + data)

    def get(self, path: str, *more: str, method: str = "GET") -> None:
        self.send("\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *more, "", ""]).encode())

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        async with asyncio.timeout(DEADLINE_S):
            raw = (await self.reader.readuntil(b"\r\n\r\n"))[:-4]
        return int(raw.split(b" ")[1]), _fields(raw)

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty for the last one."""
        async with asyncio.timeout(DEADLINE_S):
            size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
            data = await self.reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def answer(self, *, is_head: bool = False) -> Answer:
        """The next answer, whole, and how it ended."""
        while True:
            status, fields = await self.head()
            if status >= 200:
                break
        answer = Answer(status, fields, b"", [], End.COMPLETE)
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._body(answer, is_head)
        except asyncio.IncompleteReadError as error:
            answer.body += error.partial
            answer.end = End.CUT
        except ConnectionError:
            answer.end = End.RESET
        except TimeoutError:
            answer.end = End.TIMEOUT
        return answer

    async def _body(self, answer: Answer, is_head: bool) -> None:
        if is_head or answer.status in (204, 304):
            return
        length = answer.header("content-length")
        if answer.header("transfer-encoding") == "chunked":
            while True:
                size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
                data = await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
                if not size:
                    return
                answer.body += data
                answer.chunks.append(data)
        elif length is not None:
            answer.body = await self.reader.readexactly(int(length))
        else:
            answer.body = await self.reader.read()

    async def at_end(self) -> bool:
        """Whether the server has closed the connection, within the deadline."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await self.reader.read(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def leave(self, how: Leave) -> None:
        if how is Leave.FIN:
            self.writer.close()
        elif how is Leave.RST:
            _reset(self.writer.transport)
        else:
            self.writer.write_eof()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def client(address: str, *, limit: int = 2**16, source: str | None = None) -> AsyncIterator[RawClient]:
    """A connection; ``source`` is the address that it comes from, of which 127.0.0.0/8 has many."""
    opened = await RawClient.open(address, limit=limit, source=source)
    try:
        yield opened
    finally:
        await opened.close()


def unanswering_listener(port: int = 0) -> tuple[socket.socket, list[socket.socket]]:
    """A listener whose queue is full, and the sockets that fill it: a further connect waits until one is accepted."""
    listener = socket.create_server(("127.0.0.1", port), backlog=0)
    waiting = []
    for _ in range(3):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
        waiting.append(sock)
    return listener, waiting


def framed(payload: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def ndjson(frame: dict[str, Any]) -> bytes:
    """One frame as Ollama writes it."""
    return json.dumps(frame, separators=(",", ":")).encode() + b"\n"


def joined(frames: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(map(ndjson, frames))


async def until(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Wait for something that nothing announces."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - as said
            await asyncio.sleep(0.001)


async def until_answered(question: Callable[[], Awaitable[bool]], deadline_s: float = DEADLINE_S) -> None:
    """The same for what has to be asked for: until the answer is yes."""
    async with asyncio.timeout(deadline_s):
        while not await question():  # noqa: ASYNC110 - as said
            await asyncio.sleep(0.01)


def _fields(head: bytes) -> list[tuple[str, str]]:
    found = []
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        found.append((name, value.strip(" ")))
    return found


def _header(fields: list[tuple[str, str]], name: str) -> str | None:
    return next((value for key, value in fields if key.lower() == name.lower()), None)


def _reset(transport: asyncio.WriteTransport) -> None:
    sock: socket.socket = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
