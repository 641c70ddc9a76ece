"""Sends one recorded request over a connection of its own, and reads the reply exactly as it is framed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Reply:
    """A reply as recorded: header order kept, one text for each chunk."""

    status: int = 0
    reason: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[str] = field(default_factory=list)
    ended: str = "complete"

    @property
    def text(self) -> str:
        return "".join(self.chunks)

    def json(self) -> Any:
        return json.loads(self.text)

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.text.splitlines() if line]


def request_bytes(case: dict[str, Any], port: int) -> bytes:
    body = case.get("body")
    data = b""
    if isinstance(body, dict) and set(body) == {"raw"}:
        data = body["raw"].encode()
    elif body is not None:
        data = json.dumps(body).encode()
    headers = [tuple(header) for header in case.get("headers") or []]
    names = {name.lower() for name, _ in headers}
    if "host" not in names:
        headers.insert(0, ("Host", f"127.0.0.1:{port}"))
    if body is not None and "content-type" not in names:
        headers.append(("Content-Type", "application/json"))
    if body is not None:
        headers.append(("Content-Length", str(len(data))))
    head = f"{case['method']} {case['path']} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"{head}\r\n".encode() + data


async def send(case: dict[str, Any], port: int) -> Reply:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request_bytes(case, port))
        return await read_reply(reader, case["method"])
    finally:
        writer.close()


async def post(port: int, path: str, /, **body: Any) -> Reply:
    return await send({"method": "POST", "path": path, "body": body}, port)


async def get(port: int, path: str) -> Reply:
    return await send({"method": "GET", "path": path}, port)


async def read_reply(reader: asyncio.StreamReader, method: str = "POST") -> Reply:
    reply = Reply()
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        reply.ended = "closed before the head"
        return reply
    first, *lines = head.split("\r\n")[:-2]
    _, status, reply.reason = first.split(" ", 2)
    reply.status = int(status)
    for line in lines:
        name, _, value = line.partition(": ")
        reply.headers.append((name, value))
    fields = {name.lower(): value for name, value in reply.headers}
    if method == "HEAD" or reply.status == 204:
        return reply
    try:
        if fields.get("transfer-encoding") == "chunked":
            await _read_chunks(reader, reply)
        elif int(fields.get("content-length", "0")):
            reply.chunks.append((await reader.readexactly(int(fields["content-length"]))).decode())
    except (asyncio.IncompleteReadError, ConnectionError):
        reply.ended = "cut"
    return reply


async def _read_chunks(reader: asyncio.StreamReader, reply: Reply) -> None:
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        reply.chunks.append((await reader.readexactly(size)).decode())
        await reader.readexactly(2)
    await reader.readexactly(2)
