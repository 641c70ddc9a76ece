from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

from proxy.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from proxy.simulator import SimulatedOllama
from proxy.upstream.ollama import LoadReply, Ollama

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def talk() -> AsyncIterator[tuple[Ollama, SimulatedOllama]]:
    async with (
        SimulatedOllama("recorded", load_scale=10) as server,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        yield Ollama(session, server.url), server


async def test_version_tags_and_show_say_what_ollama_says() -> None:
    async with talk() as (ollama, _):
        assert await ollama.version() == "0.24.0"
        assert {tag.name for tag in await ollama.tags()} >= {"tiny:latest", "mid:latest"}
        shown = await ollama.show("tiny")
        assert shown is not None
        assert shown["capabilities"] == ["completion"]
        assert await ollama.show("ghost") is None


async def test_a_load_shows_in_ps_until_it_is_unloaded() -> None:
    async with talk() as (ollama, _):
        reply = await ollama.load("tiny", {"num_ctx": 1024}, -1, embedding_only=False, timeout_s=10)
        assert reply.ok
        (row,) = await ollama.ps()
        assert (row.name, row.context_length) == ("tiny:latest", 1024)
        assert row.expires_unix is not None
        assert row.expires_unix > 4e9
        assert await ollama.unload("tiny")
        assert await ollama.ps() == []


async def test_a_status_of_ollamas_own_is_the_answer_to_a_load() -> None:
    async with talk() as (ollama, server):
        missing = await ollama.load("ghost", {}, None, embedding_only=False, timeout_s=10)
        assert (missing.status, missing.error) == (404, "model 'ghost' not found")
        server.fail("load_error", text="no room")
        failed = await ollama.load("tiny", {}, None, embedding_only=False, timeout_s=10)
        assert failed.status == 500
        assert "no room" in failed.error
        assert not failed.ok


def test_a_load_is_good_when_it_has_a_good_status_and_no_error() -> None:
    assert LoadReply(200, "", 0.1).ok
    assert not LoadReply(200, "odd", 0.1).ok


async def test_nothing_listening_is_unreachable() -> None:
    async with talk() as (ollama, server):
        await server.refuse_connections()
        with pytest.raises(UpstreamUnreachable):
            await ollama.version()


async def test_a_connection_that_died_while_it_was_idle_is_no_failure() -> None:
    async with talk() as (ollama, server):
        await ollama.show("tiny")
        server.crash()
        await server.restart()
        assert await ollama.show("tiny") is not None


async def test_a_connection_that_breaks_twice_is_broken() -> None:
    async with talk() as (ollama, server):
        server.fail("close", path="/api/show", times=2)
        with pytest.raises(UpstreamBroken):
            await ollama.show("tiny")
        assert len(server.requests_for("/api/show")) == 2


async def test_too_slow_is_a_timeout() -> None:
    async with talk() as (ollama, server):
        server.fail("load_stall")
        with pytest.raises(UpstreamTimeout):
            await ollama.load("tiny", {}, None, embedding_only=False, timeout_s=0.05)


async def test_an_answer_that_is_no_json_is_broken() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, aiohttp.ClientSession() as session:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UpstreamBroken, match="not a JSON object"):
            await Ollama(session, f"http://127.0.0.1:{port}").ps()


async def test_a_refusal_in_plain_text_is_a_status_and_no_answer() -> None:
    async with talk() as (ollama, _):
        answer = await ollama.call("/api/nope", {})
        assert answer.status == 404
        assert answer.error


async def test_a_pull_that_fails_says_why() -> None:
    async with talk() as (ollama, _):
        with pytest.raises(UpstreamBroken, match="pull of nowhere failed"):
            async for _frame in ollama.pull("nowhere"):
                pass


async def test_rendering_answers_with_ollamas_own_bytes() -> None:
    async with talk() as (ollama, _):
        body = {"model": "tiny", "prompt": "x", "_debug_render_only": True, "stream": False}
        rendered = json.loads(await ollama.render("/api/generate", json.dumps(body).encode()))
        assert "x" in rendered["_debug_info"]["rendered_template"]
