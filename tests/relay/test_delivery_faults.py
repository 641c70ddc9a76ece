"""A reply that breaks off is never taken for a whole one: R1, every break in every kind of reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.kinds import EMBED, EMBEDDING, GATHERED, STREAMS, WHOLE, Kind, named, whole_error
from tests.peers import Answering, End, Seen, framed
from tests.stage import Stage, staged

if TYPE_CHECKING:
    from tests.peers import Answer, Script

CUT_TEXTS = (
    "upstream connection lost before completion",
    "the upstream's reply is malformed: malformed chunk size",
    "the upstream's reply is malformed: a chunk without its line end",
    "Ollama's reply ended without a readable frame",
)


async def never(seen: Seen, reply: Answering) -> None:
    raise AssertionError("nothing should have been sent")


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


async def a_length_without_the_final_frame(kind: Kind, reply: Answering) -> None:
    reply.whole(b"".join(kind.frames[:-1]), kind=kind.type)


async def a_length_of_nothing(kind: Kind, reply: Answering) -> None:
    # What Go makes of a handler that writes no body.
    reply.whole(b"", kind=kind.type)


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
    a_length_without_the_final_frame,
    a_length_of_nothing,
    close_delimited_without_the_final_frame,
    close_delimited_reset,
)
ENDS_CLEANLY = (
    clean_end_without_the_final_frame,
    clean_end_in_mid_line,
    a_length_without_the_final_frame,
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
