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
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

DEADLINE_S = 10.0

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass
class Seen:
    """One request as the upstream saw it."""

    head: bytes
    body: bytes
    left: asyncio.Event = field(default_factory=asyncio.Event)
    left_at: float | None = None

    @property
    def start_line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode()

    @property
    def path(self) -> str:
        return self.start_line.split(" ")[1]

    @property
    def fields(self) -> list[tuple[str, str]]:
        lines = self.head.split(b"\r\n")[1:]
        return [tuple(line.decode("latin-1").split(": ", 1)) for line in lines if line]  # type: ignore[misc]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Answering:
    """What a script writes with."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def raw(self, data: bytes) -> None:
        self.writer.write(data)

    def head(self, status: int = 200, kind: str = "application/x-ndjson", *more: str, chunked: bool = True) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", *more]
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        self.raw("\r\n".join([*lines, "", ""]).encode())

    def chunk(self, payload: bytes) -> None:
        self.raw(b"%x\r\n%b\r\n" % (len(payload), payload))

    def frames(self, *frames: dict[str, Any]) -> None:
        for frame in frames:
            self.chunk(json.dumps(frame, separators=(",", ":")).encode() + b"\n")

    def end(self) -> None:
        self.raw(b"0\r\n\r\n")

    def json(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value, separators=(",", ":")).encode()
        self.raw(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n%b"
            % (status, len(body), body)
        )

    async def drain(self) -> None:
        await self.writer.drain()

    def fin(self) -> None:
        self.writer.close()

    def rst(self) -> None:
        """End with a reset instead of an end of stream."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Seen, Answering], Awaitable[None]]


class ScriptedUpstream:
    """A raw server on loopback. ``script`` may be replaced at any time."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[Seen] = []
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def calls(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path.partition("?")[0] == path]

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        seen = Seen(head[:-4], b"")
        length = _LENGTH.search(head)
        if length is not None:
            seen.body = await reader.readexactly(int(length[1]))
        elif b"chunked" in head.lower():
            seen.body = await _read_chunked(reader)
        self.seen.append(seen)
        watching = asyncio.create_task(self._watch(reader, seen))
        answering = asyncio.create_task(_run(self.script(seen, Answering(reader, writer))))
        try:
            await asyncio.wait((watching, answering), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                return False
            await answering
            await writer.drain()
        finally:
            for task in (watching, answering):
                task.cancel()
            await asyncio.gather(watching, answering, return_exceptions=True)
        return not writer.is_closing()

    async def _watch(self, reader: asyncio.StreamReader, seen: Seen) -> None:
        """Notice that the other side left, while an answer is under way."""
        while not reader.at_eof() and reader.exception() is None:
            if reader._buffer:  # type: ignore[attr-defined]  # the next request, which is not ours to take
                return await asyncio.Event().wait() is None or None
            with contextlib.suppress(ConnectionError):
                await reader._wait_for_data("watch")  # type: ignore[attr-defined]
        seen.left_at = asyncio.get_running_loop().time()
        seen.left.set()


async def _run(awaitable: Awaitable[None]) -> None:
    await awaitable


async def _read_chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return body


@contextlib.asynccontextmanager
async def upstream(script: Script) -> AsyncIterator[ScriptedUpstream]:
    server = ScriptedUpstream(script)
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


@dataclass
class Answer:
    """One answer as the client saw it."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes
    chunks: list[bytes]
    end: End

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)

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
    async def open(cls, address: str) -> RawClient:
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

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
            raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        return int(first.split(" ")[1]), [tuple(line.split(": ", 1)) for line in lines]  # type: ignore[misc]

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

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def reset(self) -> None:
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def client(address: str) -> AsyncIterator[RawClient]:
    opened = await RawClient.open(address)
    try:
        yield opened
    finally:
        await opened.close()
