"""The whole program inside one loop: what it holds, it lets go of."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path

import pytest

from proxy.server.app import Proxy
from tests.peers import Answering, Seen, client, until, upstream
from tests.stage import answer_own_call, chat, chat_end, chat_token, generate, is_own_call, make_settings, staged


async def stream(seen: Seen, reply: Answering) -> None:
    if is_own_call(seen):
        await answer_own_call(seen, reply)
        return
    reply.head()
    reply.frames(chat_token("x"), chat_end())
    reply.end()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def one_life(url: str) -> None:
    proxy = Proxy(make_settings(url))
    await proxy.start()
    await until(lambda: proxy.is_ready)
    async with client(proxy.listen_address) as asking, client(proxy.listen_address) as idle:
        for path, body in (("/api/chat", chat()), ("/api/generate", generate()), ("/api/tags", {})):
            asking.post(path, body)
            await asking.answer()
        idle.get("/api/version")
        await idle.answer()
        await proxy.drain(_set())
        await proxy.aclose()
        await proxy.aclose()
        assert await idle.at_end()


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files where Linux lists them")
async def test_many_starts_and_stops_leave_nothing() -> None:
    async with upstream(stream) as server:
        await one_life(server.url)
        await until(lambda: not server.open)
        gc.collect()
        files, tasks = open_files(), len(asyncio.all_tasks())
        for _ in range(10):
            await one_life(server.url)
        await until(lambda: not server.open)
        gc.collect()
        assert len(asyncio.all_tasks()) == tasks
        assert open_files() <= files


async def test_after_requests_of_every_kind_nothing_is_held() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if seen.header("x-die"):
            reply.fin()
        else:
            await stream(seen, reply)

    async with staged(script) as stage:
        tasks = len(asyncio.all_tasks())
        for _ in range(20):
            async with stage.client() as asking:
                asking.post("/api/chat", chat(), "X-Die: 1")
                await asking.answer()
                asking.post("/api/chat", chat(stream=False))
                await asking.answer()
                asking.post("/api/pull", {"model": "x"}, "X-Die: 1")
                await asking.answer()
                asking.post("/api/chat", chat())
                await asking.head()
        await until(lambda: not stage.proxy._listener.connections)
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert not stage.proxy.relay.active
        pool = stage.proxy._exchanges
        assert repr(pool).endswith(" 0 busy>")
        _, page = await stage.page("/stats")
        assert page


async def test_a_start_that_fails_can_be_closed() -> None:
    async with upstream(stream) as server:
        proxy = Proxy(make_settings(server.url, listen=server.address))
        with pytest.raises(OSError, match="in use"):
            await proxy.start()
        await proxy.aclose()


async def test_it_is_ready_only_while_it_is_not_draining() -> None:
    async with staged(stream) as stage:
        assert (await stage.page("/readyz"))[0] == 200
        draining = asyncio.create_task(stage.proxy.drain(asyncio.Event()))
        await asyncio.sleep(0)
        assert (await stage.page("/readyz"))[0] == 503
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
