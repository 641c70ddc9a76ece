"""Requests as they come in: whole, in pieces, chunked, pipelined, malformed, half."""

from __future__ import annotations

import asyncio
import hashlib
import math

import pytest

from proxy.simulator import SimulatedOllama
from tests.peers import until
from tests.simulator.replay import read_reply

HOST = b"Host: 127.0.0.1\r\n"


async def exchange(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    reply = await reader.read()
    writer.close()
    return reply


@pytest.mark.parametrize(
    ("request_bytes", "status_line"),
    [
        (b"GET /api/version HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request: missing required Host header"),
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", b"HTTP/1.1 400 Bad Request: malformed Host header"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"bad header: x\r\n\r\n", b"HTTP/1.1 400 Bad Request: invalid header name"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"nocolon\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"garbage\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET api HTTP/1.1\r\n" + HOST + b"\r\n", b"HTTP/1.1 400 Bad Request"),
        (
            b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
            b"HTTP/1.1 505 HTTP Version Not Supported: unsupported protocol version",
        ),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n", b"HTTP/1.1 501 Not Implemented"),
        (
            b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 1_100_000 + b"\r\n\r\n",
            b"HTTP/1.1 431 Request Header Fields Too Large",
        ),
    ],
)
async def test_malformed_heads_are_answered_as_go_answers_them(request_bytes: bytes, status_line: bytes) -> None:
    async with SimulatedOllama("recorded", speed=math.inf) as ollama:
        reply = await exchange(ollama.port, request_bytes)
        assert reply.split(b"\r\n")[0] == status_line
        assert b"Connection: close\r\n" in reply


async def test_pipelined_requests_are_answered_in_order() -> None:
    one = b"GET /api/version HTTP/1.1\r\n" + HOST + b"\r\n"
    two = b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    async with SimulatedOllama("recorded", speed=math.inf) as ollama:
        reply = await exchange(ollama.port, one + two)
        assert reply.index(b'{"version"') < reply.index(b"Ollama is running")


async def test_a_chunked_upload_is_hashed_as_it_comes() -> None:
    data = b"z" * 3_000_000
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    head = f"POST /api/blobs/{digest} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with SimulatedOllama("recorded", speed=math.inf) as ollama:
        reader, writer = await asyncio.open_connection("127.0.0.1", ollama.port)
        writer.write(head)
        for start in range(0, len(data), 100_000):
            writer.write(b"186a0\r\n" + data[start : start + 100_000] + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        assert (await read_reply(reader)).status == 201
        writer.close()
        assert ollama.requests[-1].body_bytes == len(data)
        assert ollama.state.store.blobs[digest].content is None


async def test_a_body_that_ends_too_early_is_an_error() -> None:
    request = b"POST /api/show HTTP/1.1\r\n" + HOST + b"Content-Length: 50\r\n\r\n{"
    async with SimulatedOllama("recorded", speed=math.inf) as ollama:
        reader, writer = await asyncio.open_connection("127.0.0.1", ollama.port)
        writer.write(request)
        await until(lambda: ollama.requests)
        writer.write_eof()
        assert b'{"error":"unexpected EOF"}' in await reader.read()
        writer.close()


async def test_expect_continue_is_answered_before_the_body() -> None:
    head = b"POST /api/show HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    async with SimulatedOllama("recorded", speed=math.inf) as ollama:
        reader, writer = await asyncio.open_connection("127.0.0.1", ollama.port)
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await read_reply(reader)).json() == {"error": "model is required"}
        writer.close()
