"""The official ``ollama`` client gives the same results through the proxy as directly."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import ollama
import pytest

from tests.e2e.pair import DEADLINE_S, Pair, paired

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS = {"temperature": 0, "seed": 1, "num_predict": 6}
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "tell me"}]

# Times, and the one documented exception: a rewritten generate carries a context of the proxy's own.
_OWN_TIME = re.compile(r"(created_at|modified_at|expires_at|\w+_duration)$")


def plain(value: Any) -> Any:
    """What a client returned, without what differs between any two calls."""
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if not _OWN_TIME.search(key) and key != "context"}
    return [plain(item) for item in value] if isinstance(value, list) else value


CALLS: dict[str, Callable[[ollama.Client], Any]] = {
    "chat": lambda c: c.chat("tiny", MESSAGES, options=OPTIONS),
    "chat stream": lambda c: list(c.chat("tiny", MESSAGES, options=OPTIONS, stream=True)),
    "chat tools": lambda c: c.chat("tools", MESSAGES, tools=[_tool()], options=OPTIONS),
    "generate": lambda c: c.generate("tiny", "tell me", options=OPTIONS),
    "generate stream": lambda c: list(c.generate("tiny", "tell me", options=OPTIONS, stream=True)),
    "generate system": lambda c: c.generate("tiny", "tell me", system="be brief", options=OPTIONS),
    "generate raw": lambda c: c.generate("tiny", "tell me", raw=True, options=OPTIONS),
    "generate suffix": lambda c: c.generate("suffix", "def f(", suffix="return x", options=OPTIONS),
    "generate legacy": lambda c: c.generate("legacy", "tell me", options=OPTIONS),
    "embed": lambda c: c.embed("tiny", "hello"),
    "embed list": lambda c: c.embed("tiny", ["hello", "world"]),
    "embeddings": lambda c: c.embeddings("tiny", "hello"),
    "list": lambda c: sorted(plain(c.list())["models"], key=lambda row: row["model"]),
    "show": lambda c: c.show("legacy"),
    "ps": lambda c: sorted(row["model"] for row in plain(c.ps())["models"]),
    "copy and delete": lambda c: [c.copy("tiny", "tiny2"), c.delete("tiny2")],
    "create": lambda c: [list(c.create("tiny3", from_="tiny", system="x", stream=True)), c.delete("tiny3")],
}

FAILURES: dict[str, Callable[[ollama.Client], Any]] = {
    "chat missing": lambda c: c.chat("ghost", MESSAGES),
    "generate missing": lambda c: list(c.generate("ghost", "x", stream=True)),
    "embed missing": lambda c: c.embed("ghost", "x"),
    "show missing": lambda c: c.show("ghost"),
    "delete missing": lambda c: c.delete("ghost"),
    "tools unsupported": lambda c: c.chat("tiny", MESSAGES, tools=[_tool()]),
    "think unsupported": lambda c: c.generate("tiny", "x", think=True),
    "pull missing": lambda c: list(c.pull("no-such-model", stream=True)),
}


def _tool() -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }


def failure_of(call: Callable[[ollama.Client], Any], client: ollama.Client) -> tuple[int, str]:
    with pytest.raises(ollama.ResponseError) as caught:
        call(client)
    return caught.value.status_code, caught.value.error


async def test_every_call_of_the_client_returns_the_same() -> None:
    async with paired(models=[{"name": "tiny"}]) as pair:
        await pair.until_ready()
        with ollama.Client(f"http://{pair.direct}") as direct, ollama.Client(f"http://{pair.proxied}") as proxied:
            for name, call in CALLS.items():
                expected = plain(await asyncio.to_thread(call, direct))
                got = plain(await asyncio.to_thread(call, proxied))
                assert got == expected, name


async def test_every_failure_of_the_client_is_the_same() -> None:
    async with paired() as pair:
        with ollama.Client(f"http://{pair.direct}") as direct, ollama.Client(f"http://{pair.proxied}") as proxied:
            for name, call in FAILURES.items():
                expected = await asyncio.to_thread(failure_of, call, direct)
                assert await asyncio.to_thread(failure_of, call, proxied) == expected, name


async def test_the_asynchronous_client_streams_chat_generate_and_embed_alike() -> None:
    async with paired(models=[{"name": "tiny"}]) as pair:
        await pair.until_ready()
        results = []
        for address in (pair.direct, pair.proxied):
            async with ollama.AsyncClient(f"http://{address}") as client:
                if address == pair.proxied:
                    await until_rewritten(pair, client)
                results.append(await everything(client))
        assert results[0] == results[1]


async def test_a_conversation_by_context_reaches_the_model_as_its_messages() -> None:
    async with paired(models=[{"name": "tiny"}]) as pair:
        await pair.until_ready()
        async with ollama.AsyncClient(f"http://{pair.proxied}") as client:
            await until_rewritten(pair, client)
            first = await client.generate("tiny", "tell me", system="be brief", options=OPTIONS)
            second = await client.generate("tiny", "and then?", context=first.context, options=OPTIONS)
            third = await client.generate("tiny", "why?", context=second.context, options=OPTIONS)
        sent = json.loads(pair.simulated.requests_for("/api/chat")[-1].body)
        assert sent["messages"] == [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "tell me"},
            {"role": "assistant", "content": first.response},
            {"role": "user", "content": "and then?"},
            {"role": "assistant", "content": second.response},
            {"role": "user", "content": "why?"},
        ]
        assert third.response


async def everything(client: ollama.AsyncClient) -> list[Any]:
    options = OPTIONS
    return [
        [plain(part) async for part in await client.chat("tiny", MESSAGES, options=options, stream=True)],
        [plain(part) async for part in await client.generate("tiny", "tell me", options=options, stream=True)],
        plain(await client.embed("tiny", "hello")),
        plain(await client.show("tiny")),
        sorted(row["model"] for row in plain(await client.list())["models"]),
    ]


async def until_rewritten(pair: Pair, client: ollama.AsyncClient) -> None:
    """The probe runs beside the first request; wait until a generate goes as chat."""
    async with asyncio.timeout(DEADLINE_S):
        while not any(b'"content":"x"' in seen.body for seen in pair.simulated.requests_for("/api/chat")):
            await client.generate("tiny", "x", options={"num_predict": 1})
