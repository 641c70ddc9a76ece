from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from proxy.bench.children import free_port
from proxy.bench.own.load import LoadError, Streams, check, fetch, request
from proxy.bench.own.standin import NUM_CTX, TOKENS, Answers, serve, stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def port() -> AsyncIterator[int]:
    found = free_port()
    task = asyncio.create_task(serve(found))
    while True:
        with contextlib.suppress(OSError):
            await fetch(found, "/api/version")
            break
        await asyncio.sleep(0)
    yield found
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_a_stream_is_one_line_in_one_chunk_for_each_token_and_the_final_record(path: str) -> None:
    chunks = stream(path)
    assert len(chunks) == TOKENS + 1
    for chunk in chunks:
        size, _, rest = chunk.partition(b"\r\n")
        assert len(rest) == int(size, 16) + 2
        assert rest.endswith(b"}\n\r\n")
    final = json.loads(chunks[-1].split(b"\r\n")[1])
    assert (final["done"], final["eval_count"]) == (True, TOKENS)


def test_what_is_no_stream_is_told_from_the_body() -> None:
    answers = Answers()
    assert answers.whole("/api/chat", request("/api/chat", "burst").partition(b"\r\n\r\n")[2]) is None
    loaded = answers.whole("/api/generate", b'{"model":"standin"}')
    rendered = answers.whole("/api/generate", b'{"prompt":"x","_debug_render_only":true}')
    assert loaded is not None
    assert b'"done_reason":"load"' in loaded
    assert rendered is not None
    assert b'"rendered_template"' in rendered


async def test_it_lists_its_model_as_loaded(port: int) -> None:
    status, running = await fetch(port, "/api/ps")
    assert status == 200
    assert running["models"][0]["context_length"] == NUM_CTX


@pytest.mark.parametrize("pace", ["burst", "paced"])
async def test_clients_read_whole_replies_on_one_connection(port: int, pace: str) -> None:
    async with Streams(port, 3) as streams:
        calls = [request("/api/chat", pace, number) for number in range(3)]
        assert await streams.read_replies(calls, 2, 0) == 6 * TOKENS
    assert (await fetch(port, "/asked"))[1]["/api/chat"] == 6


async def test_an_idle_stream_has_its_first_token(port: int) -> None:
    async with Streams(port, 2) as streams:
        await streams.begin(request("/api/generate", "idle"))


def test_a_reply_that_lacks_a_token_or_its_end_is_an_error() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = stream("/api/chat")
    check(head + b"".join(chunks) + b"0\r\n\r\n")
    for broken in (
        head + b"".join(chunks),
        head + b"".join(chunks[1:]) + b"0\r\n\r\n",
        head + b"".join(chunks[:-1]) + b"0\r\n\r\n",
        head.replace(b"200", b"502") + b"".join(chunks) + b"0\r\n\r\n",
        head + b"".join(chunks)[1:] + b"0\r\n\r\n",
    ):
        with pytest.raises(LoadError):
            check(broken)
