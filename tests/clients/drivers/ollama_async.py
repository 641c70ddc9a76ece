"""``ollama`` for Python, the asynchronous client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import ollama
from contract import (
    CHAT_MODEL,
    EMBED_MODEL,
    ENDLESS_TOKENS,
    MESSAGES,
    MISSING_MODEL,
    TOKENS,
    TOOL,
    Calls,
    disconnects,
    main,
    noticed,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

OPTIONS = {"temperature": 0, "num_predict": TOKENS}


def calls_to(url: str, control: str) -> Calls:
    def run(call: Callable[[ollama.AsyncClient], Awaitable[Any]]) -> Callable[[], Any]:
        async def alone() -> Any:
            async with ollama.AsyncClient(url) as client:
                return await call(client)

        return lambda: asyncio.run(alone())

    async def listed(client: ollama.AsyncClient) -> Any:
        return sorted(model.model for model in (await client.list()).models)

    async def stream(client: ollama.AsyncClient) -> Any:
        return [part async for part in await client.chat(CHAT_MODEL, MESSAGES, options=OPTIONS, stream=True)]

    async def cancel(client: ollama.AsyncClient) -> Any:
        before = disconnects(control)
        parts = await client.chat(CHAT_MODEL, MESSAGES, options={"num_predict": ENDLESS_TOKENS}, stream=True)
        await anext(parts)
        await parts.aclose()
        return await asyncio.to_thread(noticed, control, before)

    return {
        "list": run(listed),
        "chat": run(lambda client: client.chat(CHAT_MODEL, MESSAGES, options=OPTIONS)),
        "stream": run(stream),
        "tools": run(lambda client: client.chat(CHAT_MODEL, MESSAGES, options=OPTIONS, tools=[TOOL])),
        "embeddings": run(lambda client: client.embed(EMBED_MODEL, ["one text", "another"])),
        "error": run(lambda client: client.chat(EMBED_MODEL, MESSAGES)),
        "cancel": run(cancel),
        "model not found": run(lambda client: client.chat(MISSING_MODEL, MESSAGES)),
    }


main(calls_to)
