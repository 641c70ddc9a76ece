"""The official Python client against the simulated server."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import ollama
import pytest

from proxy.simulator import SimulatedOllama

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@asynccontextmanager
async def client_of(profile: str) -> AsyncIterator[ollama.AsyncClient]:
    async with SimulatedOllama(profile, speed=1e6) as simulated, ollama.AsyncClient(host=simulated.url) as client:
        yield client


async def test_chat_and_generate_with_and_without_streaming() -> None:
    async with client_of("recorded") as client:
        options = {"temperature": 0, "num_predict": 6}
        messages = [{"role": "user", "content": "tell me"}]
        whole = await client.chat(model="tiny", messages=messages, options=options)
        parts = [
            part async for part in await client.chat(model="tiny", messages=messages, options=options, stream=True)
        ]
        assert whole.message.content == "".join(part.message.content or "" for part in parts)
        generated = await client.generate(model="tiny", prompt="tell me", options=options)
        assert generated.response == whole.message.content == " taeli fonka elimi elilon zenfonn lozens"
        assert generated.context


async def test_embed_list_show_ps_copy_delete_create() -> None:
    async with client_of("recorded") as client:
        embedded = await client.embed(model="tiny", input=["a", "b"], dimensions=8)
        assert [len(vector) for vector in embedded.embeddings] == [8, 8]
        assert len((await client.list()).models) == 6
        shown = await client.show("legacy")
        assert (shown.template or "").startswith("{{ if .System }}")
        assert [model.name for model in (await client.ps()).models] == ["tiny:latest"]
        await client.copy("tiny", "other")
        await client.delete("other")
        progress = [
            part.status async for part in await client.create(model="own", from_="tiny", system="S", stream=True)
        ]
        assert progress[-1] == "success"
        with pytest.raises(ollama.ResponseError, match="not found"):
            await client.show("ghost")


async def test_pull_tells_progress() -> None:
    async with client_of("demo") as client:
        progress = [part async for part in await client.pull("smollm2:135m", stream=True)]
        assert progress[0].status == "pulling manifest"
        assert any(part.completed and part.total and part.completed <= part.total for part in progress)
        assert progress[-1].status == "success"
        assert "smollm2:135m" in [model.model for model in (await client.list()).models]


async def test_thinking_tools_and_vision_of_the_demo_models() -> None:
    async with client_of("demo") as client:
        question = [{"role": "user", "content": "What is the weather in Oslo?"}]
        called = await client.chat(model="qwen3:8b", messages=question, tools=[TOOL], think=True)
        assert called.message.thinking
        assert called.message.tool_calls
        assert called.message.tool_calls[0].function.name == "get_weather"
        answer = [*question, called.message, {"role": "tool", "content": "sunny", "tool_name": "get_weather"}]
        spoken = await client.chat(model="qwen3:8b", messages=answer, tools=[TOOL], think=False)
        assert spoken.message.content
        assert not spoken.message.thinking
        seen = await client.chat(
            model="gemma3:4b", messages=[{"role": "user", "content": "What is this?", "images": ["aGVsbG8="]}]
        )
        assert seen.message.content
        with pytest.raises(ollama.ResponseError, match="does not support chat"):
            await client.chat(model="nomic-embed-text", messages=question)
        with pytest.raises(ollama.ResponseError, match=r"ollama\.com: no such host"):
            await client.chat(model="gpt-oss:120b-cloud", messages=question)
