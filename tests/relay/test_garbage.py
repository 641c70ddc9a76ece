"""What a call leaves behind is gone with it: nothing waits for the garbage collector.

Memory that only the collector frees is had again late, so that each call begins in memory that no cache holds
(measured: a tenth of the processor time of a passed token), and the collector's walk makes every stream wait.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import Answering, RawClient, Seen, until
from tests.stage import chat, chat_end, chat_token, generate, staged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.stage import Stage


async def script(seen: Seen, reply: Answering) -> None:
    if seen.path in ("/api/tags", "/unknown"):
        reply.json({"models": []})
    elif b"absent" in seen.body:
        reply.json({"error": "model 'absent' not found"}, 404)
    else:
        reply.head()
        for _ in range(3):
            reply.frames(chat_token("x"))
            await reply.turn()
        if b"cut" in seen.body:
            reply.fin()
        elif b"stay" in seen.body:
            await seen.left.wait()
        else:
            reply.frames(chat_end())
            reply.end()


def said(text: str, **more: Any) -> dict[str, Any]:
    return chat(messages=[{"role": "user", "content": text}], **more)


CALLS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "chat": ("/api/chat", said("hi")),
    "generate": ("/api/generate", generate()),
    "whole": ("/api/chat", said("hi", stream=False)),
    "whole generate": ("/api/generate", generate(stream=False)),
    "openai": ("/v1/chat/completions", chat(stream=True)),
    "absent": ("/api/chat", {**chat(), "model": "absent"}),
    "cut": ("/api/chat", said("cut")),
    "left": ("/api/chat", said("stay")),
    "refused": ("/api/chat", {"model": 7, "keep_alive": [], "Model": "x"}),
    "tags": ("/api/tags", None),
    "unknown": ("/unknown", None),
}


async def call(stage: Stage, name: str) -> None:
    path, body = CALLS[name]
    async with stage.client() as asking:
        if body is None:
            asking.get(path)
        else:
            asking.post(path, body)
        await (_leave(asking) if name == "left" else asking.answer())
    await until(lambda: not stage.proxy.relay.active and not stage.proxy._listener.connections)
    # What the upstream of this test remembers is none of ours.
    stage.upstream.seen.clear()
    await stage.page("/requests")


async def _leave(asking: RawClient) -> None:
    await asking.head()
    await asking.chunk()


@contextlib.contextmanager
def collecting() -> Iterator[list[str]]:
    """Names of the types of ours that only the collector would free, once the context is left."""
    found: list[str] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        kinds = (type(each) for each in gc.garbage)
        found += [kind.__qualname__ for kind in kinds if kind.__module__.startswith("proxy.")]
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()


@pytest.mark.parametrize("name", CALLS)
async def test_nothing_of_a_call_waits_for_the_collector(name: str) -> None:
    async with staged(script) as stage:
        # What is remembered is made at the first ones.
        for _ in range(3):
            await call(stage, name)
        with collecting() as left:
            for _ in range(3):
                await call(stage, name)
            await asyncio.sleep(0)
        assert collections.Counter(left) == {}
