"""OpenAI's routes translated: what a client gets is what Ollama's own would have given it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re

import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.e2e.pair import Pair, paired
from tests.e2e.test_sameness import EXCHANGES, body_of, head_of, replayed
from tests.peers import Answer, End, client
from tests.rewrite.v1.bodies import requests

# Thinks and calls tools; calls tools; sees; completes in the middle; only embeds; is not there.
MODELS = ["qwen3:8b", "qwen3:8b", "llama3.2:3b", "gemma3:4b", "qwen2.5-coder:7b", "nomic-embed-text", "ghost"]
# The format is looked at when the thought is over, and the stream has begun by then.
FAILS_IN_MID_STREAM = (
    "/v1/chat/completions",
    json.dumps(
        {
            "model": "qwen3:8b",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
            "response_format": {"type": "json_schema", "json_schema": {"schema": "x"}},
        }
    ).encode(),
)
CALL_ID = re.compile(rb"call_[a-z0-9]{8}")


async def test_every_recorded_exchange_is_the_same_where_everything_is_translated() -> None:
    recorded = {one["name"]: one for one in EXCHANGES if one["path"].startswith(("/v1/chat/", "/v1/completions"))}
    async with paired() as pair:
        direct = await replayed(pair.direct)
    async with paired(v1="translate") as pair:
        proxied = await replayed(pair.proxied)
        relayed = [seen.path for seen in pair.simulated.requests if seen.path.startswith(("/v1/chat", "/v1/comp"))]
    for name, exchange in recorded.items():
        one, other = direct[name], proxied[name]
        assert head_of(one) == head_of(other), name
        assert body_of(one) == body_of(other), name
        assert other.status == exchange["reply"]["status"], name
        recorded_body = "".join(text for _, text in exchange["reply"]["chunks"]).encode()
        assert body_of(other) == body_of(dataclasses.replace(other, body=recorded_body)), name
    # What Ollama refuses before it looks for the model, and a model that it does not have.
    assert len(relayed) == 3


def test_any_request_gets_the_same_answer_translated_as_directly() -> None:
    translated = 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        opened = contextlib.AsyncExitStack()
        pair = runner.run(opened_pair(opened))

        @settings(max_examples=150)
        @example(FAILS_IN_MID_STREAM)
        @given(requests(st.sampled_from(MODELS)))
        def compare(request: tuple[str, bytes]) -> None:
            nonlocal translated
            before = len(pair.simulated.requests)
            one, other = runner.run(both(pair, request))
            sent = pair.simulated.requests[-1].path
            translated += sent.startswith("/api/")
            assert len(pair.simulated.requests) > before
            assert head_of(one) == head_of(other), sent
            if other.end is End.COMPLETE:
                assert told(one) == told(other), sent
                assert one.end is other.end, sent
            else:
                assert_differs_as_documented(one, other)

        try:
            compare()
        finally:
            runner.run(opened.aclose())
    assert translated > 40, "hardly anything was translated, so this would say nothing"


async def opened_pair(stack: contextlib.AsyncExitStack) -> Pair:
    return await stack.enter_async_context(paired("demo", v1="translate", residency={"check_every_s": 3600}))


async def both(pair: Pair, request: tuple[str, bytes]) -> tuple[Answer, Answer]:
    return await asked(pair.direct, request), await asked(pair.proxied, request)


async def asked(address: str, request: tuple[str, bytes]) -> Answer:
    path, body = request
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    async with client(address) as peer:
        peer.send(head.encode() + b"\r\n\r\n" + body)
        return await peer.answer()


def assert_differs_as_documented(one: Answer, other: Answer) -> None:
    """Where Ollama's own stream just ends, with a chunk of no model, ours ends in an error."""
    *chunks, lost = told(one).split(b"\n\n")[:-1]
    *same, error = told(other).split(b"\n\n")[:-1]
    assert chunks == same
    assert b'"model":""' in lost
    assert error.startswith(b'data: {"error":')


def told(answer: Answer) -> bytes:
    return CALL_ID.sub(b"call", body_of(answer))
