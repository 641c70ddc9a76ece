"""A client that leaves is seen upstream at once, wherever its request is; and takes nothing with it that others share.

R3 wants 50 ms. What is asserted is the order of events, with a deadline ten times as long.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from proxy.errors import ShuttingDown
from proxy.server.app import Proxy
from tests.peers import (
    DEADLINE_S,
    Answering,
    End,
    Leave,
    RawClient,
    Seen,
    client,
    framed,
    ndjson,
    unanswering_listener,
    until,
)
from tests.stage import (
    MODEL,
    VERSION,
    Stage,
    answer_own_call,
    chat,
    chat_end,
    chat_token,
    generate,
    make_settings,
    staged,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SEEN_WITHIN_S = 0.5

EMPTY = ndjson(chat_token(""))
TOKEN = ndjson(chat_token("x"))

Started = asyncio.Event


async def before_the_head(reply: Answering) -> None:
    pass


async def before_the_first_token(reply: Answering) -> None:
    reply.head()
    reply.chunk(EMPTY)


async def streaming(reply: Answering) -> None:
    reply.head()
    reply.chunk(TOKEN)


async def in_mid_chunk(reply: Answering) -> None:
    reply.head()
    reply.raw(framed(TOKEN)[:20])


REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/api/chat", chat()),
    "generate": ("/api/generate", generate()),
    "gathered chat": ("/api/chat", chat(stream=False)),
    "gathered generate": ("/api/generate", generate(stream=False)),
    "v1": ("/v1/chat/completions", chat(stream=True)),
    "translated v1": ("/v1/chat/completions", chat(stream=True)),
    "gathered, translated v1": ("/v1/chat/completions", chat()),
    "embed": ("/api/embed", {"model": MODEL, "input": "x"}),
    "pull": ("/api/pull", {"model": MODEL}),
}


@pytest.mark.parametrize("how", Leave)
@pytest.mark.parametrize("name", REQUESTS)
async def test_a_client_that_leaves_is_seen_upstream(name: str, how: Leave) -> None:
    path, body = REQUESTS[name]
    reached = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        await phase(reply)
        await reply.turn()
        reached.set()
        await seen.left.wait()

    async with staged(script, v1="translate" if "translated" in name else "auto") as stage:
        for phase in (before_the_head, before_the_first_token, streaming, in_mid_chunk):
            reached.clear()
            leaving = await RawClient.open(stage.address)
            leaving.post(path, body)
            async with asyncio.timeout(DEADLINE_S):
                await reached.wait()
                if phase is not before_the_head and "gathered" not in name:
                    await leaving.head()
            seen = stage.calls[-1]
            leaving.leave(how)
            async with asyncio.timeout(SEEN_WITHIN_S):
                await seen.left.wait()
            await leaving.close()
        rows = await stage.rows(4)
        assert {row["outcome"] for row in rows} == {"cancelled"}
        told = [(row["status"], row["client_left"]) for row in reversed(rows)]
        if "gathered" in name:
            assert told == [(499, "waiting")] * 4
        else:
            assert told[0] == (499, "waiting")
            assert set(told[2:]) == {(200, "streaming")}
        assert len(stage.proxy.relay.active) == 0


async def test_the_proxy_reads_on_for_others_when_one_leaves() -> None:
    go_on = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.chunk(TOKEN)
        await go_on.wait()
        reply.frames(chat_end())
        reply.end()

    async with staged(script) as stage, stage.client() as staying:
        leaving = await RawClient.open(stage.address)
        for each in (staying, leaving):
            each.post("/api/chat", chat())
            await each.head()
        leaving.leave(Leave.RST)
        await until(lambda: sum(seen.left.is_set() for seen in stage.calls) == 1)
        go_on.set()
        assert await staying.chunk() == TOKEN
        assert await staying.chunk() == ndjson(chat_end())
        assert await staying.chunk() == b""


async def test_a_client_that_leaves_with_the_last_byte_has_left_nothing() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_token("x"), chat_end())
        reply.end()

    async with staged(script) as stage:
        for _ in range(20):
            async with stage.client() as leaving:
                leaving.post("/api/chat", chat())
                assert (await leaving.answer()).end is End.COMPLETE
        assert {row["outcome"] for row in await stage.rows(20)} == {"ok"}


@pytest.mark.parametrize("how", Leave)
@pytest.mark.parametrize("path", ["/api/chat", "/api/pull"])
async def test_a_client_that_leaves_while_the_upstream_is_being_connected_ends_that(path: str, how: Leave) -> None:
    listener, waiting = unanswering_listener()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    proxy = Proxy(make_settings(url, models=[], upstream={"url": url, "connect_timeout_s": 60}))
    try:
        await proxy.start()
        async with client(proxy.listen_address) as leaving:
            # A body that nobody can read, so that nothing is asked about its model first.
            leaving.post(path, b"[]")
            await until(lambda: len(proxy.relay.active) == 1)
            leaving.leave(how)
            await until(lambda: not proxy.relay.active, SEEN_WITHIN_S)
    finally:
        await proxy.aclose()
        for sock in (listener, *waiting):
            sock.close()


class LoadingOllama:
    """Its model is absent, and loads when it is told to."""

    def __init__(self) -> None:
        self.loading = asyncio.Event()
        self.loaded = asyncio.Event()
        self.aborted = False
        self.loads = 0

    async def __call__(self, seen: Seen, reply: Answering) -> None:
        if seen.path == "/api/ps" and not self.loaded.is_set():
            reply.json({"models": []})
        elif seen.path == "/api/version":
            reply.json(VERSION)
        elif seen.path == "/api/generate" and "prompt" not in seen.json:
            self.loads += 1
            self.loading.set()
            left = asyncio.ensure_future(seen.left.wait())
            done = asyncio.ensure_future(self.loaded.wait())
            await asyncio.wait((left, done), return_when=asyncio.FIRST_COMPLETED)
            self.aborted = self.aborted or left.done()
            left.cancel()
            done.cancel()
            await answer_own_call(seen, reply)
        else:
            await answer_own_call(seen, reply)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("how", Leave)
async def test_the_load_that_a_client_began_outlives_it_and_serves_the_next(how: Leave, path: str) -> None:
    ollama = LoadingOllama()

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_token("x"), chat_end())
        reply.end()

    async with _cold(script, ollama) as stage:
        first = await RawClient.open(stage.address)
        first.post(path, chat())
        await asyncio.wait_for(ollama.loading.wait(), DEADLINE_S)
        first.leave(how)
        await until(lambda: not stage.proxy.relay.active, SEEN_WITHIN_S)
        await first.close()
        assert (await stage.rows())[0]["client_left"] == "queued"
        async with stage.client() as second:
            second.post(path, chat())
            await until(lambda: len(stage.proxy.relay.active) == 1)
            assert stage.calls == []
            ollama.loaded.set()
            assert (await second.answer()).end is End.COMPLETE
        assert (ollama.loads, ollama.aborted) == (1, False)
        assert len(stage.calls) == 1


def _cold(script: Callable[[Seen, Answering], Awaitable[None]], ollama: LoadingOllama) -> Any:
    return staged(script, own=ollama, models=[], awaits_model=False, v1="translate")


async def test_a_client_that_leaves_during_the_wait_for_a_shared_load_leaves_others_waiting() -> None:
    ollama = LoadingOllama()

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_token("x"), chat_end())
        reply.end()

    stage: Stage
    async with _cold(script, ollama) as stage, stage.client() as staying:
        leaving = await RawClient.open(stage.address)
        for each in (leaving, staying):
            each.post("/api/chat", chat())
        await asyncio.wait_for(ollama.loading.wait(), DEADLINE_S)
        await until(lambda: len(stage.proxy.relay.active) == 2)
        leaving.leave(Leave.FIN)
        await until(lambda: len(stage.proxy.relay.active) == 1)
        ollama.loaded.set()
        assert (await staying.answer()).end is End.COMPLETE
        assert ollama.loads == 1


async def test_a_client_that_breaks_off_its_request_sends_nothing_on() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        raise AssertionError("nothing should have been sent")

    async with staged(script) as stage:
        for number, how in enumerate(Leave, 1):
            async with stage.client() as leaving:
                leaving.send(b'POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{"model":"tiny"')
                await until(lambda: len(stage.proxy.relay.active) == 1)
                leaving.leave(how)
                await until(lambda: not stage.proxy.relay.active, SEEN_WITHIN_S)
            row = (await stage.rows(number))[0]
            assert (row["status"], row["outcome"], row["client_left"]) == (499, "cancelled", "queued")
        assert stage.calls == []


async def test_who_waits_for_a_load_is_told_when_we_stop() -> None:
    ollama = LoadingOllama()

    async def script(seen: Seen, reply: Answering) -> None:
        raise AssertionError("nothing should have been sent")

    async with _cold(script, ollama) as stage, stage.client() as waiting:
        waiting.post("/api/chat", chat())
        await asyncio.wait_for(ollama.loading.wait(), DEADLINE_S)
        for call in list(stage.proxy.relay.active):
            call.interrupt(ShuttingDown("we stop", retry_after_s=5))
        answer = await waiting.answer()
        assert (answer.status, answer.json, answer.header("retry-after")) == (503, {"error": "we stop"}, "5")
        (row,) = await stage.rows()
        assert (row["outcome"], row["error"]) == ("rejected", "shutting_down")


async def test_a_client_that_leaves_while_a_stale_connection_is_replaced_ends_that() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if len(stage.calls) == 1:
            reply.head()
            reply.frames(chat_token("x"), chat_end())
            reply.end()
        elif len(stage.calls) == 2:
            reply.fin()
        else:
            await seen.left.wait()

    async with staged(script) as stage:
        leaving = await RawClient.open(stage.address)
        leaving.post("/api/chat", chat())
        await leaving.answer()
        leaving.post("/api/chat", chat())
        await until(lambda: len(stage.calls) == 3)
        leaving.leave(Leave.RST)
        await asyncio.wait_for(stage.calls[2].left.wait(), SEEN_WITHIN_S)
        await leaving.close()
