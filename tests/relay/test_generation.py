"""Bodies that are read: bounded, and unchanged wherever they are not understood."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

from tests.peers import Answering, End, Seen, framed
from tests.stage import chat, chat_end, chat_token, generate, staged

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 2048
ROUTES = ("/api/chat", "/api/generate", "/api/embed", "/v1/chat/completions", "/v1/messages")


async def refuse(seen: Seen, reply: Answering) -> None:
    reply.json({"error": "as Ollama says"}, 400)


async def stream(seen: Seen, reply: Answering) -> None:
    reply.head()
    reply.frames(chat_token("x"), chat_end())
    reply.end()


@pytest.mark.parametrize("path", ROUTES)
async def test_a_body_of_the_limit_passes_and_one_more_byte_is_413(path: str) -> None:
    async with staged(refuse, edge={"max_body": LIMIT}) as stage:
        for chunked in (False, True):
            for size in (LIMIT, LIMIT + 1):
                async with stage.client() as client:
                    body = b" " * size
                    if chunked:
                        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                        client.send(head.encode() + framed(body[:1000]) + framed(body[1000:]) + b"0\r\n\r\n")
                    else:
                        client.post(path, body)
                    answer = await client.answer()
                    if size == LIMIT:
                        assert answer.status == 400
                        assert stage.calls[-1].body == body
                    else:
                        assert answer.status == 413
                        assert answer.header("x-pilotlight-error") == "body_too_large"
                        assert "edge.max_body" in answer.body.decode()
        assert len(stage.calls) == 2


async def test_a_body_that_is_too_large_is_not_invited_and_not_read() -> None:
    async with staged(refuse, edge={"max_body": LIMIT}) as stage, stage.client() as client:
        client.send(
            b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n"
        )
        status, fields = await client.head()
        assert status == 413
        assert ("Connection", "close") in fields


async def test_uploads_and_routes_that_are_not_read_have_no_limit() -> None:
    async with staged(refuse, edge={"max_body": LIMIT}) as stage, stage.client() as client:
        for path in ("/api/blobs/sha256:00", "/api/create", "/nope"):
            client.post(path, b"x" * (4 * LIMIT))
            assert (await client.answer()).status == 400
            assert stage.calls[-1].body_bytes == 4 * LIMIT


def odd_bodies() -> Iterator[bytes]:
    yield from (b"", b"{", b"[]", b"null", b"5", b'"x"', b"nope", b"\xff\xfe", b'{"model": "tiny", ')
    for body in (
        {"model": 5},
        {"model": "tiny", "prompt": 5, "messages": "x"},
        {"model": "tiny", "messages": [5], "prompt": ["x"]},
        {"model": "tiny", "options": 5, "prompt": "x"},
        {"model": "tiny", "prompt": "x", "messages": [], "options": {"num_ctx": "big"}},
        {"model": "tiny", "stream": "yes", "prompt": "x"},
        {"model": "tiny", "keep_alive": "abc", "prompt": "x"},
        {"Model": "tiny", "prompt": "x", "keep_alive": "1s"},
        {"model": ""},
        {},
        {"model": "\ud800"},
    ):
        yield json.dumps(body).encode()
    yield b'{"model":"tiny","model":"tiny","prompt":"x"}'
    yield b'{"model":"tiny","prompt":"x","options":{"num_ctx":' + b"9" * 5000 + b"}}"
    yield b'{"model":"tiny","prompt":NaN}'
    yield b"[" * 100_000
    yield b'{"a":' * 20_000
    yield b"{" + b",".join(b'"k%d":1' % number for number in range(20_000)) + b"}"


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed"])
async def test_what_is_not_understood_is_relayed_byte_for_byte(path: str) -> None:
    async with staged(refuse) as stage, stage.client() as client:
        for body in odd_bodies():
            if path == "/api/embed" and (b'"prompt"' in body or b'"messages"' in body):
                # Nothing to embed; that of a wrong type is a name that it does not have.
                continue
            client.post(path, body)
            answer = await client.answer()
            assert (answer.status, answer.json) == (400, {"error": "as Ollama says"}), body[:80]
            assert answer.header("x-pilotlight-error") is None
            assert stage.calls[-1].body == body
            assert stage.calls[-1].path == path


async def test_an_encoded_body_is_relayed_as_it_is() -> None:
    async with staged(refuse) as stage, stage.client() as client:
        for path in ROUTES:
            body = gzip.compress(json.dumps(chat()).encode())
            client.post(path, body, "Content-Encoding: gzip")
            assert (await client.answer()).status == 400
            assert stage.calls[-1].body == body
            assert stage.calls[-1].header("content-encoding") == "gzip"
            assert stage.calls[-1].path == path


async def test_a_v1_body_is_never_changed() -> None:
    async with staged(refuse) as stage, stage.client() as client:
        body = b'{"model" : "tiny", "messages":[],  "keep_alive":"1s", "options":{"num_ctx":1}}'
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"):
            client.post(path, body)
            await client.answer()
            assert stage.calls[-1].body == body


async def test_a_chunked_body_goes_on_with_its_length() -> None:
    async with staged(stream) as stage, stage.client() as client:
        body = json.dumps(chat()).encode()
        pieces = b"".join(framed(body[start : start + 7]) for start in range(0, len(body), 7))
        client.send(
            b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"
        )
        assert (await client.answer()).end is End.COMPLETE
        seen = stage.calls[0]
        assert seen.header("transfer-encoding") is None
        assert seen.header("content-length") == str(len(seen.body))
        assert seen.json == {**chat(), "keep_alive": -1}


async def test_only_the_keep_alive_of_a_kept_model_is_changed_in_an_ordinary_request() -> None:
    async with staged(stream) as stage, stage.client() as client:
        client.post(
            "/api/chat", b'{ "model":"tiny" ,"messages":[{"role":"user","content":"\\u003c"}],"keep_alive":"1s"}'
        )
        await client.answer()
        assert stage.calls[0].body == (
            b'{ "model":"tiny" ,"messages":[{"role":"user","content":"\\u003c"}],"keep_alive":-1}'
        )


async def test_with_streaming_upstream_switched_off_a_whole_reply_is_asked_for_as_such() -> None:
    async def whole(seen: Seen, reply: Answering) -> None:
        assert seen.json["stream"] is False
        reply.json({"model": "tiny", "response": "", "done": True, "message": {"role": "assistant", "content": "x"}})

    async with staged(whole, relay={"stream_upstream": False}) as stage, stage.client() as client:
        client.post("/api/chat", chat(stream=False))
        answer = await client.answer()
        assert (answer.status, answer.json["message"]["content"]) == (200, "x")


async def test_with_rewriting_switched_off_generate_stays_generate() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        assert seen.path == "/api/generate"
        await refuse(seen, reply)

    async with (
        staged(script, rewrite={"generate_to_chat": False}, awaits_model=False) as stage,
        stage.client() as client,
    ):
        client.post("/api/generate", generate())
        assert (await client.answer()).status == 400
