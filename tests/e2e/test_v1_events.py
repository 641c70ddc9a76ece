"""``/v1/messages`` and ``/v1/responses``, with the clients that they are made for.

They are relayed: what they say is the same as directly, what they cost is seen, and a stream that does not end is an
error to the client and never looks complete.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from tests.e2e.pair import Pair, paired
from tests.peers import Answering, Seen, client, until
from tests.stage import MODEL, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

QUESTION: list[Any] = [{"role": "user", "content": "weather there?"}]
MODEL_WITH_ALL = "qwen3:8b"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
ANTHROPIC_TOOL: Any = {"name": "get_weather", "description": "w", "input_schema": PARAMETERS}
RESPONSES_TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "w",
    "strict": False,
    "parameters": PARAMETERS,
}
# Ids and times differ between any two answers.
_OWN = ("id", "item_id", "response_id", "call_id", "created_at", "completed_at", "sequence_number", "partial_json")


class Clients:
    """One of each for one address."""

    def __init__(self, address: str) -> None:
        self.openai = openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0, timeout=20)
        self.anthropic = anthropic.AsyncAnthropic(
            base_url=f"http://{address}", api_key="none", max_retries=0, timeout=20
        )

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.openai.close()
        await self.anthropic.close()

    async def messages(self, **more: Any) -> AsyncIterator[Any]:
        body = {"model": MODEL_WITH_ALL, "max_tokens": 40, "messages": QUESTION, "stream": True, **more}
        async for event in await self.anthropic.messages.create(**body):
            yield event

    async def responses(self, **more: Any) -> AsyncIterator[Any]:
        body = {"model": MODEL_WITH_ALL, "max_output_tokens": 40, "input": QUESTION, "stream": True, **more}
        async for event in await self.openai.responses.create(**body):
            yield event


STREAMS: dict[str, Callable[..., AsyncIterator[Any]]] = {
    "v1_messages": Clients.messages,
    "v1_responses": Clients.responses,
}
ERRORS: dict[str, type[Exception]] = {"v1_messages": anthropic.APIError, "v1_responses": openai.APIError}


def plain(value: Any) -> Any:
    """What a client returned, without what differs between any two calls."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items() if name not in _OWN}
    return [plain(item) for item in value] if isinstance(value, list) else value


async def rows(pair: Pair) -> list[dict[str, Any]]:
    """The newest requests, newest first."""
    async with client(pair.proxy.admin_address, limit=2**20) as opened:
        opened.get("/requests", "Connection: close")
        return (await opened.answer()).json["requests"]


async def collected(events: AsyncIterator[Any]) -> list[Any]:
    return [plain(event) async for event in events]


# --- as directly, and seen


@pytest.mark.parametrize(
    ("endpoint", "more"),
    [
        ("v1_messages", {}),
        ("v1_messages", {"tools": [ANTHROPIC_TOOL], "max_tokens": 200}),
        ("v1_responses", {}),
        ("v1_responses", {"tools": [RESPONSES_TOOL], "max_output_tokens": 200}),
    ],
)
async def test_a_stream_is_the_same_as_directly_and_its_tokens_are_seen(endpoint: str, more: dict[str, Any]) -> None:
    async with paired("demo") as pair, Clients(pair.direct) as direct, Clients(pair.proxied) as proxied:
        expected = await collected(STREAMS[endpoint](direct, **more))
        got = await collected(STREAMS[endpoint](proxied, **more))
        assert got == expected
        (row, *_) = await rows(pair)
        assert (row["endpoint"], row["status"], row["outcome"], row["stream"]) == (endpoint, 200, "ok", True)
        usage = json.dumps(expected)
        assert row["ttft_ms"] > 0
        assert f'"output_tokens": {row["tokens_out"]}' in usage
        assert f'"input_tokens": {row["tokens_in"]}' in usage


async def test_whole_answers_are_the_same_as_directly_and_their_tokens_are_seen() -> None:
    async with paired("demo") as pair, Clients(pair.direct) as direct, Clients(pair.proxied) as proxied:
        expected: list[Any] = []
        got: list[Any] = []
        for clients, answers in ((direct, expected), (proxied, got)):
            answers.append(
                await clients.anthropic.messages.create(model=MODEL_WITH_ALL, max_tokens=9, messages=QUESTION)
            )
            answers.append(
                await clients.openai.responses.create(model=MODEL_WITH_ALL, max_output_tokens=9, input=QUESTION)
            )
        assert plain(got) == plain(expected)
        seen = [(row["endpoint"], row["outcome"], row["tokens_in"], row["tokens_out"]) for row in await rows(pair)]
        assert seen == [
            (endpoint, "ok", answer.usage.input_tokens, answer.usage.output_tokens)
            for endpoint, answer in zip(("v1_responses", "v1_messages"), reversed(got), strict=True)
        ]


@pytest.mark.parametrize("endpoint", STREAMS)
async def test_the_first_token_is_the_first_of_any_kind(endpoint: str) -> None:
    """A model that thinks has told its first token long before its answer begins."""
    async with paired("demo") as pair, Clients(pair.proxied) as proxied:
        pair.simulated.gate.close()
        task = asyncio.create_task(collected(STREAMS[endpoint](proxied)))
        # The tag that opens the thinking, and a word of it.
        await until(lambda: pair.simulated.gate.waiting > 0)
        pair.simulated.gate.let(4)
        (call,) = pair.proxy.relay.active
        await until(lambda: call.timeline.first_token is not None)
        assert call.timeline.first_answer is None
        pair.simulated.gate.open()
        await task
        assert call.timeline.first_answer is not None


# --- cut


FAULTS = ("cut", "cut_line", "reset_stream", "clean_end", "error_line")


@pytest.mark.parametrize("endpoint", STREAMS)
async def test_a_stream_that_does_not_end_is_raised_by_the_client(endpoint: str) -> None:
    async with paired("demo") as pair, Clients(pair.proxied) as proxied:
        for kind in FAULTS:
            pair.simulated.fail(kind, after=3)
            with pytest.raises((ERRORS[endpoint], json.JSONDecodeError)) as caught:
                await collected(STREAMS[endpoint](proxied))
            # Half an event cannot be unsent, and is no JSON to anybody. Every other end is told by an event of ours.
            if kind != "cut_line":
                assert isinstance(caught.value, ERRORS[endpoint]), kind
                assert "upstream connection lost before completion" in str(caught.value), kind
            await until(lambda: not pair.proxy.relay.active)
            (row, *_) = await rows(pair)
            assert (row["endpoint"], row["outcome"], row["incomplete"]) == (endpoint, "upstream_error", True), kind


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/v1/messages", {"type": "error", "error": {"type": "api_error"}}),
        ("/v1/responses", {"type": "response.failed", "response": {"status": "failed"}}),
    ],
)
async def test_a_cut_stream_ends_with_the_event_of_its_format_and_without_a_last_chunk(
    path: str, last: dict[str, Any]
) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head(200, "text/event-stream")
        reply.chunk(b'event: ping\ndata: {"type":"ping"}\n\n')
        await reply.turn()
        reply.rst()

    async with staged(script) as stage, stage.client() as opened:
        opened.post(path, {"model": MODEL, "max_tokens": 1, "messages": QUESTION, "input": "x", "stream": True})
        answer = await opened.answer()
        assert answer.end.name == "CUT"
        name, data = answer.chunks[-1].decode().rstrip("\n").split("\ndata: ")
        assert name == f"event: {last['type']}"
        told = json.loads(data)
        inner = told.get("response", told)
        assert told["type"] == last["type"]
        assert inner["error"]["message"] == "upstream connection lost before completion"
        assert inner.get("status") == last.get("response", {}).get("status")


async def test_an_error_of_ollamas_is_the_clients_own_error() -> None:
    async with paired("demo") as pair, Clients(pair.proxied) as proxied:
        with pytest.raises(anthropic.NotFoundError):
            await proxied.anthropic.messages.create(model="ghost", max_tokens=1, messages=QUESTION)
        with pytest.raises(openai.NotFoundError):
            await proxied.openai.responses.create(model="ghost", input="x")
        for path in ("/v1/messages", "/v1/responses"):
            pair.simulated.fail("close", path=path, times=-1)
        with pytest.raises(anthropic.InternalServerError):
            await proxied.anthropic.messages.create(model=MODEL_WITH_ALL, max_tokens=1, messages=QUESTION)
        with pytest.raises(openai.InternalServerError):
            await proxied.openai.responses.create(model=MODEL_WITH_ALL, input="x")
        assert {row["outcome"] for row in (await rows(pair))[:2]} == {"upstream_error"}


# --- what a relayed call does to a model that is kept


@pytest.mark.parametrize("endpoint", STREAMS)
async def test_a_model_that_such_a_call_reloads_is_put_right_by_the_next_native_request(endpoint: str) -> None:
    models = [{"name": MODEL_WITH_ALL, "options": {"num_ctx": 8192}}]
    async with (
        paired("demo", models=models, residency={"check_every_s": 3600}) as pair,
        Clients(pair.proxied) as proxied,
    ):
        await pair.until_ready()
        assert (pair.simulated.loads, context_length(pair)) == (1, 8192)
        await collected(STREAMS[endpoint](proxied))
        assert pair.simulated.reloads == 1
        assert context_length(pair) != 8192
        async with client(pair.proxied) as opened:
            opened.post("/api/chat", {"model": MODEL_WITH_ALL, "messages": QUESTION, "stream": False})
            answer = await opened.answer()
        assert (answer.status, pair.simulated.reloads, context_length(pair)) == (200, 2, 8192)
        # Put right before it was sent, so that the request itself found the model loaded.
        assert answer.json["load_duration"] < 100_000_000


def context_length(pair: Pair) -> int:
    (runner,) = pair.simulated.state.scheduler.loaded.values()
    return runner.options.num_ctx


# --- bodies that are encoded


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_an_encoded_body_goes_on_as_it_came(coding: str, path: str) -> None:
    body = json.dumps({"model": MODEL, "input": "x", "stream": True}).encode()
    # What is in it is nobody's business here; a frame of zstd may be anything.
    sent = gzip.compress(body) if coding == "gzip" else b"\x28\xb5\x2f\xfd" + bytes(range(256))
    event = b'event: response.completed\ndata: {"response":{"usage":{}},"type":"response.completed"}\n\n'
    event += b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head(200, "text/event-stream")
        reply.chunk(event)
        reply.end()

    async with staged(script) as stage, stage.client() as opened:
        opened.post(path, sent, f"Content-Encoding: {coding}")
        answer = await opened.answer()
        assert (answer.status, answer.body) == (200, event)
        (seen,) = stage.calls
        assert (seen.path, seen.header("content-encoding"), seen.body) == (path, coding, sent)
