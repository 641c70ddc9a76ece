"""Calls of several applications at once, for pictures of what watches them: people who chat, a batch, other models."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any, Final

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_QUESTIONS: Final = (
    "Why is the sky blue?",
    "Write a haiku about nginx.",
    "Summarise the meeting.",
    "Name three birds.",
)
_MODELS: Final = ("llama3.2:3b", "llama3.2:1b", "gemma3:4b")


@contextlib.asynccontextmanager
async def applications(url: str) -> AsyncIterator[None]:
    """Have four applications at work for as long as the context lasts.

    Args:
        url: Where Ollama's API is.
    """
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        at_work = [asyncio.create_task(work(session, url)) for work in (_people, _people, _batch, _others)]
        try:
            yield
        finally:
            for task in at_work:
                task.cancel()
            await asyncio.gather(*at_work, return_exceptions=True)


async def _people(session: aiohttp.ClientSession, url: str) -> None:
    for nth in itertools.count():
        asked = {"messages": [{"role": "user", "content": f"{_QUESTIONS[nth % 4]} ({nth})"}]}
        await _call(session, f"{url}/api/chat", {"model": _MODELS[0], **asked}, "interactive", 12)
        await asyncio.sleep(1.5)


async def _batch(session: aiohttp.ClientSession, url: str) -> None:
    """Six at a time, as a program does that has ten thousand."""
    for nth in itertools.count():
        calls = [{"model": _MODELS[0], "prompt": f"Classify ticket {nth}-{each}."} for each in range(6)]
        await asyncio.gather(*(_call(session, f"{url}/api/generate", call, "batch", 16) for call in calls))


async def _others(session: aiohttp.ClientSession, url: str) -> None:
    for nth in itertools.count():
        model = _MODELS[1 + nth % 2] if nth % 5 else "missing"
        asked = {"model": model, "messages": [{"role": "user", "content": _QUESTIONS[nth % 4]}]}
        await _call(session, f"{url}/v1/chat/completions", asked, "normal", 10)
        await asyncio.sleep(2.5)


async def _call(session: aiohttp.ClientSession, url: str, body: Mapping[str, Any], priority: str, tokens: int) -> None:
    limit = {"max_tokens": tokens} if "/v1/" in url else {"options": {"num_predict": tokens}}
    headers = {"X-Priority": priority}
    async with session.post(url, json={**body, **limit, "stream": True}, headers=headers) as reply:
        await reply.read()
