"""How a reply reaches the client: piece by piece, mapped or as it is, and what its last bytes are."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.kinds import CHAT_FRAMES, EMBED, EVENTS, GATHERED, LINES, STREAMS, V1_FRAMES, WHOLE, Kind, named
from tests.peers import Answering, End, Seen, framed, joined, ndjson
from tests.stage import MODEL, MOMENT, chat, chat_end, chat_token, generate, staged, v1_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


# --- the bytes of the error frame


@pytest.mark.parametrize("owed", [1, 2, 20, 60, 200])
async def test_the_error_line_fills_the_chunk_that_was_cut(owed: int) -> None:
    frame = ndjson(chat_token("x" * 300))

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.raw(framed(frame)[: -2 - owed])
        reply.fin()

    async with staged(script) as stage, stage.client() as client:
        client.post("/api/chat", chat())
        await client.head()
        raw = await client.reader.read(-1)
    out = frame[:-owed] + b'\n{"error":"upstream connection lost before completion"}\n'
    size, _, rest = raw.partition(b"\r\n")
    assert int(size, 16) == len(frame)
    filled, rest = rest[: len(frame)], rest[len(frame) :]
    assert out.startswith(filled)
    if len(out) > len(frame):
        left = out[len(frame) :]
        assert rest == b"\r\n" + framed(left)
    else:
        assert filled == out
        assert rest == (b"\r\n" if len(out) == len(frame) else b"")


async def test_a_whole_answer_is_translated_however_long_it_is() -> None:
    text = "x" * 2**19

    async def script(seen: Seen, reply: Answering) -> None:
        reply.json({**chat_end(), "message": {"role": "assistant", "content": text}})

    async with staged(script, relay={"stream_upstream": False}) as stage, stage.client(limit=2**22) as client:
        client.post("/api/generate", generate(stream=False))
        answer = await client.answer()
        assert stage.calls[0].path == "/api/chat"
        assert answer.json["response"] == text
        (row,) = await stage.rows()
        assert row["tokens_out"] == 2


async def test_an_error_line_of_ollamas_passes_as_it_is() -> None:
    line = b'{"error":"an error was encountered while running the model: unexpected EOF"}\n'

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.chunk(CHAT_FRAMES[0])
        reply.chunk(line)
        reply.end()

    async with staged(script) as stage, stage.client() as client:
        for body in (chat(), generate()):
            client.post("/api/chat" if "messages" in body else "/api/generate", body)
            answer = await client.answer()
            assert answer.end is End.COMPLETE
            assert answer.body.endswith(b"\n" + line)
            assert answer.body.count(b"error") == 2
        assert [row["outcome"] for row in await stage.rows(2)] == ["upstream_error"] * 2


@pytest.mark.parametrize("kind", GATHERED, ids=named)
async def test_an_error_line_after_tokens_is_a_500_for_who_asked_for_no_stream(kind: Kind) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.chunk(CHAT_FRAMES[0])
        reply.frames({"error": "the runner died"})
        reply.end()

    async with staged(script) as stage, stage.client() as client:
        client.post(kind.path, kind.body)
        answer = await client.answer()
    assert (answer.status, answer.json, answer.end) == (500, {"error": "the runner died"}, End.COMPLETE)
    assert answer.header("x-pilotlight-error") is None


async def test_a_v1_chunk_with_an_empty_model_is_followed_by_an_error_event() -> None:
    last = v1_token("", model="")

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head(kind=EVENTS)
        reply.chunk(V1_FRAMES[0])
        reply.chunk(last)
        reply.end()

    kind = STREAMS[2]
    async with staged(script) as stage, stage.client() as client:
        client.post(kind.path, kind.body)
        answer = await client.answer()
        assert answer.end is End.CUT
        assert answer.body.startswith(V1_FRAMES[0] + last)
        assert kind.error(answer.body) == "upstream connection lost before completion"
        assert (await stage.rows())[0]["outcome"] == "upstream_error"


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_an_error_status_of_ollamas_passes_untouched(status: int) -> None:
    body = b'{"error":"something that only Ollama can tell"}'

    async def script(seen: Seen, reply: Answering) -> None:
        reply.whole(body, status)

    async with staged(script) as stage, stage.client() as client:
        for kind in (*STREAMS, *GATHERED, EMBED):
            client.post(kind.path, kind.body)
            answer = await client.answer()
            assert (answer.status, answer.body, answer.end) == (status, body, End.COMPLETE)
            assert answer.header("content-type") == WHOLE
            assert answer.header("x-pilotlight-error") is None


# --- a client that knows no chunks


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/pull"])
async def test_an_old_client_gets_a_reset_where_the_end_would_look_like_the_end(path: str) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.chunk(CHAT_FRAMES[0])
        await reply.turn()
        reply.fin()

    body = json.dumps(generate() if path == "/api/generate" else chat()).encode()
    async with staged(script) as stage, stage.client() as client:
        client.send(
            b"POST %b HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
        )
        answer = await client.answer()
        assert answer.end is End.RESET


# --- tokens are not held back


def slicing(size: int) -> Callable[[Answering, bytes], Awaitable[None]]:
    async def send(reply: Answering, data: bytes) -> None:
        await reply.sliced(data, size)

    return send


async def at_once(reply: Answering, data: bytes) -> None:
    reply.raw(data)


@pytest.mark.parametrize("send", [at_once, slicing(1), slicing(7)], ids=["whole", "byte by byte", "by seven"])
@pytest.mark.parametrize("kind", STREAMS, ids=named)
async def test_a_token_arrives_before_the_next_one_is_made(kind: Kind, send: Any) -> None:
    acknowledged: asyncio.Queue[None] = asyncio.Queue()

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head(kind=kind.type)
        for frame in kind.frames:
            await send(reply, framed(frame))
            await acknowledged.get()
        reply.end()

    async with staged(script) as stage, stage.client() as client:
        client.post(kind.path, kind.body)
        status, _ = await client.head()
        assert status == 200
        got = b""
        for number, frame in enumerate(kind.frames):
            piece = b""
            while len(piece) < len(frame) if kind.path != "/api/generate" else not piece.endswith(b"\n"):
                piece += await client.chunk()
            got += piece
            if kind.path != "/api/generate":
                assert piece == frame
            else:
                assert json.loads(piece)["response"] == ("Hel", "lo", "")[number]
            acknowledged.put_nowait(None)
        assert await client.chunk() == b""


@pytest.mark.parametrize("kind", [*STREAMS, *GATHERED], ids=named)
async def test_a_reply_is_the_same_wherever_its_bytes_were_cut(kind: Kind) -> None:
    raw = b"".join(map(framed, kind.frames)) + b"0\r\n\r\n"
    cut = 0

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head(kind=kind.type)
        await reply.turn()
        reply.raw(raw[:cut])
        await reply.turn()
        reply.raw(raw[cut:])

    async with staged(script) as stage, stage.client() as client:
        answers = []
        for cut in range(len(raw)):  # noqa: B007 - the script reads it
            client.post(kind.path, kind.body)
            answers.append(await client.answer())
        assert {answer.end for answer in answers} == {End.COMPLETE}
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 1
        if kind.streams and kind.path != "/api/generate":
            assert answers[0].body == b"".join(kind.frames)


async def test_a_mapped_stream_has_generates_frames_and_its_own_context() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        assert (seen.path, seen.json["messages"]) == ("/api/chat", [{"role": "user", "content": "hi"}])
        reply.head()
        reply.raw(framed(joined([chat_token("Hel"), chat_token("lo"), chat_end()])))
        reply.end()

    async with staged(script) as stage, stage.client() as client:
        client.post("/api/generate", generate())
        first, second, last = (await client.answer()).lines
        assert first == {"model": MODEL, "created_at": MOMENT, "response": "Hel", "done": False}
        assert second["response"] == "lo"
        assert (last["response"], last["done"], last["done_reason"]) == ("", True, "stop")
        assert all(0 <= element <= 255 for element in last["context"])


async def test_a_close_delimited_reply_arrives_whole_and_framed() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head(200, LINES, chunked=False)
        for frame in CHAT_FRAMES:
            reply.raw(frame)
            await reply.turn()
        reply.fin()

    async with staged(script) as stage, stage.client() as client:
        for body in (chat(), chat(stream=False)):
            client.post("/api/chat", body)
            answer = await client.answer()
            assert (answer.status, answer.end) == (200, End.COMPLETE)
            if "stream" not in body:
                assert answer.body == b"".join(CHAT_FRAMES)


@pytest.mark.parametrize("kind", STREAMS, ids=named)
async def test_a_stream_with_a_length_arrives_whole_and_in_chunks(kind: Kind) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.whole(b"".join(kind.frames), kind=kind.type)

    async with staged(script) as stage:
        for _ in range(2):
            async with stage.client() as client:
                client.post(kind.path, kind.body)
                answer = await client.answer()
            assert (answer.end, answer.header("content-length")) == (End.COMPLETE, None)
            if kind.path == "/api/generate":
                assert [line["response"] for line in answer.lines] == ["Hel", "lo", ""]
            else:
                assert answer.body == b"".join(kind.frames)


async def test_an_error_status_with_the_type_of_a_stream_is_no_stream_that_was_cut() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.whole(b'{"error":"no"}', 500, "application/x-ndjson")

    async with staged(script) as stage, stage.client() as client:
        client.post("/api/chat", chat())
        answer = await client.answer()
        assert (answer.status, answer.body, answer.end) == (500, b'{"error":"no"}', End.COMPLETE)
        (row,) = await stage.rows()
        assert row.get("error") is None
