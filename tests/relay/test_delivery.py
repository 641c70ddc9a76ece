"""How a reply reaches the client: piece by piece, and never as if it were complete when it is not."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import Answering, End, Seen, framed, joined, ndjson
from tests.stage import MODEL, MOMENT, Stage, chat, chat_end, chat_token, generate, sse, staged, v1_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.peers import Answer, Script

PULL = {"model": MODEL}
CUT_TEXTS = (
    "upstream connection lost before completion",
    "the upstream's reply is malformed: malformed chunk size",
    "the upstream's reply is malformed: a chunk without its line end",
    "Ollama's reply ended without a readable frame",
)


@dataclass(frozen=True)
class Kind:
    """One kind of reply.

    Attributes:
        frames: What the upstream sends, one complete piece each; the last one ends the reply.
        error: Finds the text of an error frame in what the client got, ``None`` where there is none.
    """

    name: str
    path: str
    body: dict[str, Any]
    type: str
    frames: tuple[bytes, ...]
    error: Callable[[bytes], str | None]
    streams: bool = True


def ndjson_error(body: bytes) -> str | None:
    try:
        return json.loads(body.rstrip(b"\n").rpartition(b"\n")[2]).get("error")
    except ValueError:
        return None


def last_event(body: bytes) -> tuple[str, dict[str, Any]]:
    """Name and data of the last event, read as the specification of server-sent events has it."""
    assert body.endswith(b"\n\n")
    lines = body.rstrip(b"\n").rpartition(b"\n\n")[2].decode().split("\n")
    fields = dict(line.partition(": ")[::2] for line in lines)
    return fields.get("event", ""), json.loads(fields["data"])


def openai_error(body: bytes) -> str | None:
    assert b"[DONE]" not in body
    _, data = last_event(body)
    error = data["error"]
    assert error["type"] == "api_error"
    assert error["param"] is None
    return error["message"]


def anthropic_error(body: bytes) -> str | None:
    name, data = last_event(body)
    assert name == data["type"] == "error"
    assert data["error"]["type"] == "api_error"
    return data["error"]["message"]


def responses_error(body: bytes) -> str | None:
    name, data = last_event(body)
    assert name == data["type"] == "response.failed"
    return data["response"]["error"]["message"]


def whole_error(body: bytes) -> str | None:
    return json.loads(body)["error"]


CHAT_FRAMES = (ndjson(chat_token("Hel")), ndjson(chat_token("lo")), ndjson(chat_end()))
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
WHOLE = "application/json; charset=utf-8"
MESSAGE = (
    sse({"type": "message_start", "message": {"id": "msg_1"}}, "message_start"),
    sse({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}}, "content_block_delta"),
    sse({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}, "message_delta")
    + sse({"type": "message_stop"}, "message_stop"),
)
RESPONSE = (
    sse({"type": "response.created", "response": {"status": "in_progress"}}, "response.created"),
    sse({"type": "response.output_text.delta", "delta": "Hi"}, "response.output_text.delta"),
    sse({"type": "response.completed", "response": {"status": "completed"}}, "response.completed"),
)
V1_FRAMES = (v1_token("Hel"), v1_token("lo"), b"data: [DONE]\n\n")
EMBEDDING = json.dumps({"model": MODEL, "embeddings": [[0.5] * 50]}).encode()
PROGRESS = tuple(ndjson({"status": text}) for text in ("pulling manifest", "pulling 123", "success"))

STREAMS = (
    Kind("chat", "/api/chat", chat(), LINES, CHAT_FRAMES, ndjson_error),
    Kind("generate", "/api/generate", generate(), LINES, CHAT_FRAMES, ndjson_error),
    Kind("v1 chat", "/v1/chat/completions", chat(stream=True), EVENTS, V1_FRAMES, openai_error),
    Kind("messages", "/v1/messages", chat(stream=True, max_tokens=4), EVENTS, MESSAGE, anthropic_error),
    Kind("responses", "/v1/responses", {"model": MODEL, "input": "hi", "stream": True}, EVENTS, RESPONSE, responses_error),
    Kind("pull", "/api/pull", PULL, LINES, PROGRESS, ndjson_error),
)
GATHERED = (
    Kind("gathered chat", "/api/chat", chat(stream=False), LINES, CHAT_FRAMES, whole_error, streams=False),
    Kind("gathered generate", "/api/generate", generate(stream=False), LINES, CHAT_FRAMES, whole_error, streams=False),
)
EMBED = Kind("embed", "/api/embed", {"model": MODEL, "input": "x"}, WHOLE, (EMBEDDING,), whole_error, streams=False)


async def never(seen: Seen, reply: Answering) -> None:
    raise AssertionError("nothing should have been sent")


def named(kind: object) -> str:
    return str(getattr(kind, "name", getattr(kind, "__name__", kind)))


async def ask(stage: Stage, kind: Kind, script: Script) -> Answer:
    """The answer to one request, which ends in a failure of the upstream's."""
    stage.script = script
    count = len((await stage.page("/requests"))[1]["requests"])
    async with stage.client() as client:
        client.post(kind.path, kind.body)
        answer = await client.answer()
        if answer.end is not End.COMPLETE:
            assert await client.at_end()
    row = (await stage.rows(count + 1))[0]
    assert row["status"] == answer.status
    assert row["outcome"] == "upstream_error" or row["incomplete"], row
    assert row.get("error", "") == (answer.header("x-pilotlight-error") or row.get("error", ""))
    return answer


def assert_is_told(kind: Kind, answer: Answer, prefix: bytes = b"") -> None:
    """An explicit error in the family's shape: under a status, or as the last frame of a body without its end."""
    if answer.status != 200:
        assert answer.status == 502
        assert answer.end is End.COMPLETE
        assert answer.header("x-pilotlight-error") in ("upstream_broken", "upstream_unreachable")
        assert answer.json["error"] if kind.path.startswith("/api") else answer.json["error"]["message"]
        return
    assert answer.end in (End.CUT, End.RESET)
    assert answer.body.startswith(prefix)
    if kind.streams:
        assert kind.error(answer.body) in CUT_TEXTS, answer.body


# --- what can happen to an upstream once its head is out


async def fin_after_head(kind: Kind, reply: Answering) -> None:
    reply.head(kind=kind.type)
    reply.fin()


async def fin_between_frames(kind: Kind, reply: Answering) -> None:
    reply.head(kind=kind.type)
    reply.chunk(kind.frames[0])
    reply.fin()


async def rst_between_frames(kind: Kind, reply: Answering) -> None:
    reply.head(kind=kind.type)
    reply.chunk(kind.frames[0])
    await reply.turn()
    reply.rst()


async def fin_in_mid_line(kind: Kind, reply: Answering) -> None:
    reply.head(kind=kind.type)
    reply.chunk(kind.frames[0])
    reply.chunk(kind.frames[-1][:-5])
    reply.fin()


async def fin_in_mid_chunk(kind: Kind, reply: Answering) -> None:
    reply.head(kind=kind.type)
    reply.raw(framed(kind.frames[-1])[:-20])
    reply.fin()


async def fin_before_a_chunks_line_end(kind: Kind, reply: Answering) -> None:
    reply.head(kind=kind.type)
    reply.raw(framed(kind.frames[0])[:-2])
    reply.fin()


async def fin_in_a_chunks_line_end(kind: Kind, reply: Answering) -> None:
    reply.head(kind=kind.type)
    reply.raw(framed(kind.frames[0])[:-1])
    reply.fin()


async def fin_in_a_size_line(kind: Kind, reply: Answering) -> None:
    reply.head(kind=kind.type)
    reply.chunk(kind.frames[0])
    reply.raw(b"1")
    reply.fin()


async def fin_in_the_trailer(kind: Kind, reply: Answering) -> None:
    reply.head(kind=kind.type)
    reply.chunk(kind.frames[0])
    reply.raw(b"0\r\n")
    reply.fin()


async def malformed_chunk_size(kind: Kind, reply: Answering) -> None:
    reply.head(kind=kind.type)
    reply.chunk(kind.frames[0])
    await reply.turn()
    reply.raw(b"zz\r\nabc\r\n")


async def malformed_chunk_end(kind: Kind, reply: Answering) -> None:
    reply.head(kind=kind.type)
    sent = framed(kind.frames[0])
    reply.raw(sent[:-6])
    await reply.turn()
    reply.raw(sent[-6:-2] + b"XX")


async def short_length(kind: Kind, reply: Answering) -> None:
    reply.head(200, kind.type, f"Content-Length: {len(b''.join(kind.frames))}", chunked=False)
    reply.raw(b"".join(kind.frames)[:-7])
    reply.fin()


async def clean_end_without_the_final_frame(kind: Kind, reply: Answering) -> None:
    reply.head(kind=kind.type)
    for frame in kind.frames[:-1]:
        reply.chunk(frame)
    reply.end()


async def clean_end_in_mid_line(kind: Kind, reply: Answering) -> None:
    reply.head(kind=kind.type)
    reply.chunk(kind.frames[0])
    reply.chunk(kind.frames[-1][:-6])
    reply.end()


async def clean_end_without_any_frame(kind: Kind, reply: Answering) -> None:
    reply.head(kind=kind.type)
    reply.end()


async def close_delimited_without_the_final_frame(kind: Kind, reply: Answering) -> None:
    reply.head(200, kind.type, chunked=False)
    reply.raw(kind.frames[0])
    reply.fin()


async def close_delimited_reset(kind: Kind, reply: Answering) -> None:
    reply.head(200, kind.type, chunked=False)
    reply.raw(kind.frames[0])
    await reply.turn()
    reply.rst()


BREAKS = (
    fin_after_head,
    fin_between_frames,
    rst_between_frames,
    fin_in_mid_line,
    fin_in_mid_chunk,
    fin_before_a_chunks_line_end,
    fin_in_a_chunks_line_end,
    fin_in_a_size_line,
    fin_in_the_trailer,
    malformed_chunk_size,
    malformed_chunk_end,
    short_length,
    clean_end_without_the_final_frame,
    clean_end_in_mid_line,
    clean_end_without_any_frame,
    close_delimited_without_the_final_frame,
    close_delimited_reset,
)
# With a length the frame would not fit in: the missing bytes tell it.
TOLD_BY_LENGTH = (short_length,)
ENDS_CLEANLY = (
    clean_end_without_the_final_frame,
    clean_end_in_mid_line,
    close_delimited_without_the_final_frame,
)


@pytest.mark.parametrize("kind", [*STREAMS, *GATHERED], ids=named)
async def test_a_reply_that_breaks_off_ends_in_an_explicit_error(kind: Kind) -> None:
    async with staged(never) as stage:
        for broken in BREAKS:

            async def script(seen: Seen, reply: Answering, broken: Any = broken) -> None:
                await broken(kind, reply)

            answer = await ask(stage, kind, script)
            if broken in ENDS_CLEANLY and not kind.streams and answer.status == 200:
                # As Ollama itself answers it: what came, told to be unfinished.
                assert answer.json["done"] is False
            elif not kind.streams:
                assert answer.status == 502, broken
                assert whole_error(answer.body) in CUT_TEXTS
            elif broken in TOLD_BY_LENGTH:
                assert answer.end in (End.CUT, End.RESET), broken
            else:
                assert_is_told(kind, answer)


# --- before the head


async def fin_before_head(reply: Answering) -> None:
    reply.fin()


async def rst_before_head(reply: Answering) -> None:
    reply.rst()


async def fin_in_the_head(reply: Answering) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\nContent-Ty")
    reply.fin()


async def rst_in_the_head(reply: Answering) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\nContent-Ty")
    await reply.turn()
    reply.rst()


async def no_http(reply: Answering) -> None:
    reply.raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


async def too_large_a_head(reply: Answering) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\nX: %b\r\n\r\n" % (b"a" * 100_000))


async def two_framings(reply: Answering) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")


async def two_lengths(reply: Answering) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}")


NO_HEAD = (
    fin_before_head,
    rst_before_head,
    fin_in_the_head,
    rst_in_the_head,
    no_http,
    too_large_a_head,
    two_framings,
    two_lengths,
)


@pytest.mark.parametrize("kind", [*STREAMS, *GATHERED, EMBED], ids=named)
async def test_without_a_readable_head_the_status_is_502_in_the_familys_shape(kind: Kind) -> None:
    async with staged(never) as stage:
        for broken in NO_HEAD:

            async def script(seen: Seen, reply: Answering, broken: Any = broken) -> None:
                await broken(reply)

            answer = await ask(stage, kind, script)
            assert answer.status == 502, broken
            assert answer.header("x-pilotlight-error") == "upstream_broken"
            assert answer.header("content-type") == WHOLE
            assert_is_told(kind, answer)
            if kind.path == "/v1/messages":
                assert answer.json["type"] == "error"
                assert answer.json["request_id"] == answer.header("x-request-id")


async def test_an_upstream_that_refuses_is_unreachable_in_the_familys_shape() -> None:
    async with staged(never) as stage:
        await stage.upstream.stop()
        for kind in (*STREAMS, *GATHERED, EMBED):
            answer = await ask(stage, kind, never)
            assert answer.status == 502
            assert answer.header("x-pilotlight-error") == "upstream_unreachable"
            assert_is_told(kind, answer)


async def embed_cut(reply: Answering) -> None:
    reply.head(200, WHOLE, f"Content-Length: {len(EMBEDDING)}", chunked=False)
    reply.raw(EMBEDDING[:-1])
    reply.fin()


async def embed_cut_in_a_chunk(reply: Answering) -> None:
    reply.head(200, WHOLE)
    reply.raw(framed(EMBEDDING)[:-9])
    await reply.turn()
    reply.rst()


async def test_a_whole_reply_that_breaks_off_is_cut_at_the_client_too() -> None:
    async with staged(never) as stage:
        for broken in (embed_cut, embed_cut_in_a_chunk):

            async def script(seen: Seen, reply: Answering, broken: Any = broken) -> None:
                await broken(reply)

            answer = await ask(stage, EMBED, script)
            assert answer.status == 200
            assert answer.end in (End.CUT, End.RESET)


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

    async with staged(never) as stage:
        answer = await ask(stage, kind, script)
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
    async with staged(never) as stage:
        answer = await ask(stage, kind, script)
    assert answer.body.startswith(V1_FRAMES[0] + last)
    assert_is_told(kind, answer)


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_an_error_status_of_ollamas_passes_untouched(status: int) -> None:
    body = b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'

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
        client.send(b"POST %b HTTP/1.0\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body))
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
