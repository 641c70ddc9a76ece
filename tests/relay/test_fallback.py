"""Where Ollama cannot answer, another one is asked: in order, before the first byte, and said so."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from proxy.rewrite import context
from tests.peers import DEADLINE_S, Answering, End, Leave, RawClient, Seen, ndjson, until, upstream
from tests.stage import (
    MODEL,
    answer_own_call,
    chat,
    chat_end,
    chat_token,
    generate,
    staged,
    v1_token,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.peers import Answer, ScriptedUpstream
    from tests.stage import Stage

TOKEN, END = ndjson(chat_token("x")), ndjson(chat_end())
DONE = b"data: [DONE]\n\n"
QUEUE_FULL = {"error": "server busy, please try again.  maximum pending requests exceeded"}
MISSING = {"error": f"model '{MODEL}' not found"}


async def streams(seen: Seen, reply: Answering) -> None:
    """A whole answer in the shape of its route."""
    if seen.path == "/v1/chat/completions":
        reply.head(200, "text/event-stream")
        reply.chunk(v1_token("x"))
        reply.chunk(DONE)
        reply.end()
    elif seen.path == "/api/embed":
        reply.json({"model": MODEL, "embeddings": [[1]]})
    elif seen.json.get("stream") is False:
        reply.json({**chat_end(), "message": {"role": "assistant", "content": "x"}})
    else:
        reply.head()
        reply.chunk(TOKEN)
        reply.chunk(END)
        reply.end()


async def closes(seen: Seen, reply: Answering) -> None:
    reply.fin()


async def resets(seen: Seen, reply: Answering) -> None:
    reply.rst()


async def has_no_such_model(seen: Seen, reply: Answering) -> None:
    reply.json(MISSING, 404)


async def cannot_load(seen: Seen, reply: Answering) -> None:
    reply.json({"error": "out of memory"}, 500)


async def is_overrun(seen: Seen, reply: Answering) -> None:
    reply.json(QUEUE_FULL, 503)


async def garbage(seen: Seen, reply: Answering) -> None:
    reply.raw(b"nonsense\r\n\r\n")


async def breaks_off(seen: Seen, reply: Answering) -> None:
    reply.head()
    reply.chunk(TOKEN)
    await reply.turn()
    reply.rst()


@contextlib.asynccontextmanager
async def behind(
    script: Any, *others: Any, models: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[tuple[Stage, list[ScriptedUpstream]]]:
    """A stage with fallbacks, each with a script."""
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(upstream(other)) for other in others]
        fallback = [{"url": server.url, "models": models or {}} for server in servers]
        stage = await stack.enter_async_context(staged(script, fallback=fallback, **settings))
        yield stage, servers


async def ask(stage: Stage, body: Any = None, path: str = "/api/chat", *more: str) -> Answer:
    async with stage.client() as client:
        client.post(path, chat() if body is None else body, *more)
        return await client.answer()


def told(stage: Stage, server: ScriptedUpstream) -> tuple[float, float]:
    """How often it is counted to have answered, and to have not."""
    ok, failed = (
        stage.metric("pilotlight_fallback_total", provider=server.address, result=result) for result in ("ok", "failed")
    )
    return ok, failed


# --- when


@pytest.mark.parametrize("fails", [closes, resets, garbage, is_overrun])
async def test_another_one_is_asked_where_ollama_does_not_answer(fails: Any) -> None:
    async with behind(fails, streams, scheduler={"max_wait_s": 0.01}) as (stage, (other,)):
        answer = await ask(stage)
        assert (answer.status, answer.end, answer.body) == (200, End.COMPLETE, TOKEN + END)
        assert answer.header("x-pilotlight-upstream") == other.address
        assert answer.header("x-pilotlight-error") is None
        assert told(stage, other) == (1, 0)
        (row,) = await stage.rows()
        assert (row["status"], row["outcome"], row["stream"]) == (200, "ok", True)
        assert row["fallback"] == other.address
        assert "error" not in row
        assert stage.proxy.scheduler.slots()[0] == 0


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/api/chat", b'{ "model":"tiny" ,"messages":[{"role":"user","content":"\\u0061"}]}', TOKEN + END),
        ("/api/generate", json.dumps(generate()).encode(), TOKEN + END),
        ("/v1/chat/completions", json.dumps(chat(stream=True)).encode(), v1_token("x") + DONE),
        ("/api/embed", b'{"input":"x","model":"tiny"}', b'{"model":"tiny","embeddings":[[1]]}'),
    ],
)
@pytest.mark.parametrize("renames", [False, True])
async def test_it_is_asked_in_the_clients_own_words_but_for_the_models_name(
    path: str, body: bytes, expected: bytes, renames: bool
) -> None:
    models = {"tiny:latest": "large"} if renames else {}
    async with behind(closes, streams, models=models, embed_batch={MODEL: {}}) as (stage, (other,)):
        await stage.upstream.stop()
        answer = await ask(stage, body, path, "Authorization: Bearer a", "X-Api-Key: b", "X-Request-Id: mine")
        assert (answer.status, answer.body) == (200, expected)
        assert answer.header("x-pilotlight-upstream") == other.address
        assert answer.header("x-request-id") == "mine"
        (seen,) = other.seen
        assert seen.path == path
        assert seen.body == (body.replace(b'"tiny"', b'"large"') if renames else body)
        assert seen.header("host") == other.address
        # The client's credential is for whoever it called.
        assert (seen.header("authorization"), seen.header("x-api-key")) == (None, None)
        assert seen.header("content-length") == str(len(seen.body))
        assert (seen.header("via") or "").startswith("1.1 pilotlight-")
        assert seen.header("x-request-id") == "mine"
        (row,) = await stage.rows()
        # Nothing was put in, and no rule was followed, of what was sent in the end.
        assert "injected" not in row
        assert "rule" not in row


async def test_a_model_that_cannot_be_loaded_is_asked_for_elsewhere() -> None:
    resident, failed = [True], asyncio.Event()

    async def own(seen: Seen, reply: Answering) -> None:
        if seen.path == "/api/ps" and not resident[0]:
            reply.json({"models": []})
        elif seen.path == "/api/generate" and not resident[0]:
            reply.json({"error": "out of memory"}, 500)
            failed.set()
        else:
            await answer_own_call(seen, reply)

    async with behind(closes, streams, own=own) as (stage, (other,)):
        resident[0] = False
        stage.proxy.residency.wake()
        async with asyncio.timeout(DEADLINE_S):
            await failed.wait()
        answer = await ask(stage)
        assert (answer.status, answer.body) == (200, TOKEN + END)
        assert answer.header("x-pilotlight-upstream") == other.address
        assert not stage.calls
        await other.stop()
        answer = await ask(stage)
        assert (answer.status, answer.json) == (500, {"error": "out of memory"})
        assert answer.header("x-pilotlight-error") == "load_failed"


async def test_a_load_that_meets_ollamas_full_queue_is_waited_for() -> None:
    resident, refused = [True], [0]

    async def own(seen: Seen, reply: Answering) -> None:
        if seen.path == "/api/ps" and not resident[0]:
            reply.json({"models": []})
        elif seen.path == "/api/generate" and not resident[0] and refused[0] < 4:
            refused[0] += 1
            reply.json(QUEUE_FULL, 503)
        else:
            resident[0] = resident[0] or seen.path == "/api/generate"
            await answer_own_call(seen, reply)

    async with behind(streams, own=own) as (stage, _):
        resident[0] = False
        stage.proxy.residency.wake()
        await until(lambda: refused[0] > 0)
        answer = await ask(stage)
        assert (answer.status, answer.body) == (200, TOKEN + END)
        assert refused[0] > 1


async def test_a_model_that_is_unknown_because_ollama_is_away_is_asked_for_elsewhere() -> None:
    async with behind(closes, streams) as (stage, (other,)):
        await stage.upstream.stop()
        answer = await ask(stage, chat(model="elsewhere"))
        assert (answer.status, answer.body) == (200, TOKEN + END)
        assert other.seen[0].json["model"] == "elsewhere"


async def test_an_answer_that_is_gathered_may_break_off_and_be_asked_for_again() -> None:
    """Nothing of it has reached the client."""
    async with behind(breaks_off, streams) as (stage, (other,)):
        answer = await ask(stage, chat(stream=False))
        assert (answer.status, answer.json["message"]["content"]) == (200, "x")
        assert answer.header("x-pilotlight-upstream") == other.address
        assert other.seen[0].json == chat(stream=False)
        (row,) = await stage.rows()
        assert (row["outcome"], row["chunks"], row.get("incomplete")) == ("ok", 1, None)
        # The first token of the try that broke off was nobody's.
        assert "ttft_ms" not in row


async def test_a_breaker_that_is_open_leads_there_at_once() -> None:
    async with behind(closes, streams) as (stage, (other,)):
        await stage.upstream.stop()
        while not stage.metric("pilotlight_upstream_breaker_open"):
            assert (await ask(stage)).status == 200
        connecting = stage.proxy._exchanges._connecting
        before = connecting.attempts
        for _ in range(20):
            answer = await ask(stage)
            assert (answer.status, answer.header("x-pilotlight-upstream")) == (200, other.address)
        # A probe from time to time, and not three attempts for each.
        assert connecting.attempts - before <= 5
        assert told(stage, other)[1] == 0


async def test_ollama_is_asked_again_once_it_is_back() -> None:
    async with behind(streams, streams) as (stage, (other,)):
        await stage.upstream.stop()
        assert (await ask(stage)).header("x-pilotlight-upstream") == other.address
        await stage.upstream.start()
        answer = await ask(stage)
        assert answer.header("x-pilotlight-upstream") == stage.upstream.address
        assert len(other.seen) == 1


# --- in which order


@pytest.mark.parametrize("passes", [has_no_such_model, cannot_load, is_overrun, closes, garbage])
async def test_one_that_does_not_answer_either_is_passed_over(passes: Any) -> None:
    async with behind(closes, passes, streams, streams) as (stage, (first, second, third)):
        answer = await ask(stage)
        assert (answer.status, answer.body) == (200, TOKEN + END)
        assert answer.header("x-pilotlight-upstream") == second.address
        assert [name.lower() for name, _ in answer.fields].count("x-pilotlight-upstream") == 1
        assert (told(stage, first), told(stage, second), told(stage, third)) == ((0, 1), (1, 0), (0, 0))
        assert len(first.seen) == 1
        assert not third.seen


async def test_one_that_refuses_is_passed_over() -> None:
    async with behind(closes, streams, streams) as (stage, (first, second)):
        await first.stop()
        answer = await ask(stage)
        assert (answer.status, answer.header("x-pilotlight-upstream")) == (200, second.address)
        assert told(stage, first) == (0, 1)


async def test_what_one_of_them_says_about_the_request_is_the_answer() -> None:
    async def refuses(seen: Seen, reply: Answering) -> None:
        reply.json({"error": "invalid options"}, 400)

    async with behind(closes, refuses, streams) as (stage, (first, second)):
        answer = await ask(stage)
        assert (answer.status, answer.json) == (400, {"error": "invalid options"})
        assert answer.header("x-pilotlight-upstream") == first.address
        assert not second.seen


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/api/chat", lambda value: value["error"]),
        ("/v1/chat/completions", lambda value: value["error"]["message"]),
        ("/v1/messages", lambda value: value["error"]["message"]),
    ],
)
async def test_where_nobody_answers_the_first_error_is_told_in_shape(path: str, error: Callable[[Any], str]) -> None:
    async with behind(closes, has_no_such_model, cannot_load) as (stage, others):
        for refused in (False, True):
            if refused:
                await stage.upstream.stop()
            answer = await ask(stage, chat(stream=True), path)
            assert (answer.status, answer.end) == (502, End.COMPLETE)
            code = "upstream_unreachable" if refused else "upstream_broken"
            assert answer.header("x-pilotlight-error") == code
            assert answer.header("x-pilotlight-upstream") is None
            # Residency may have noticed first, and says it in words of its own.
            assert ("cannot be reached" if refused else "upstream") in error(answer.json)
        assert [told(stage, other) for other in others] == [(0, 2), (0, 2)]
        for row in await stage.rows(2):
            assert (row["status"], row["outcome"]) == (502, "upstream_error")
            assert "fallback" not in row
            assert row["bytes_out"] > 0


async def test_a_queue_that_stays_full_everywhere_is_told_in_ollamas_words() -> None:
    async with behind(is_overrun, is_overrun, scheduler={"max_wait_s": 0.01}) as (stage, (other,)):
        answer = await ask(stage)
        assert (answer.status, answer.json) == (503, QUEUE_FULL)
        assert told(stage, other) == (0, 1)


# --- whose credentials


CREDENTIALS = ("Authorization: Bearer a", "X-API-Key: b", "Cookie: session=c")


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({}, (None, None, None)),
        ({"client_credentials": True}, ("Bearer a", "b", "session=c")),
        ({"key_env": "OTHER_KEY"}, ("Bearer ours", None, None)),
    ],
)
async def test_a_credential_goes_there_only_where_the_settings_say_so(
    more: dict[str, Any], shown: tuple[str | None, ...]
) -> None:
    async with upstream(streams) as other:
        fallback = [{"url": other.url, **more}]
        async with staged(closes, fallback=fallback, fallback_keys={"OTHER_KEY": "ours"}) as stage:
            assert (await ask(stage, None, "/api/chat", *CREDENTIALS)).status == 200
        assert tuple(map(other.seen[0].header, ("authorization", "x-api-key", "cookie"))) == shown
        # Ollama itself gets what is the client's business with it.
        (seen,) = stage.calls
        assert tuple(map(seen.header, ("authorization", "x-api-key", "cookie"))) == ("Bearer a", "b", "session=c")


# --- when not


async def test_after_the_first_byte_nobody_else_is_asked() -> None:
    async with behind(breaks_off, streams) as (stage, (other,)):
        answer = await ask(stage)
        assert (answer.status, answer.end) == (200, End.CUT)
        assert answer.header("x-pilotlight-upstream") == stage.upstream.address
        assert answer.chunks[0] == TOKEN
        assert b"upstream connection lost" in answer.chunks[-1]
        assert not other.seen


async def test_one_that_breaks_off_in_mid_stream_is_told_and_nobody_else_is_asked() -> None:
    async with behind(closes, breaks_off, streams) as (stage, (first, second)):
        answer = await ask(stage)
        assert (answer.status, answer.end) == (200, End.CUT)
        assert answer.header("x-pilotlight-upstream") == first.address
        assert answer.chunks[0] == TOKEN
        assert b"upstream connection lost" in answer.chunks[-1]
        assert not second.seen
        assert len(stage.calls) == 1
        assert told(stage, first) == (0, 1)
        (row,) = await stage.rows()
        assert (row["outcome"], row["incomplete"], row["error"]) == ("upstream_error", True, "upstream_broken")
        assert row["fallback"] == first.address


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_what_ollama_says_itself_is_passed_on(status: int) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.json({"error": "as Ollama says"}, status)

    async with behind(script, streams) as (stage, (other,)):
        answer = await ask(stage)
        assert (answer.status, answer.json) == (status, {"error": "as Ollama says"})
        assert answer.header("x-pilotlight-upstream") == stage.upstream.address
        assert not other.seen


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/tags"), ("POST", "/api/show"), ("POST", "/api/pull"), ("GET", "/v1/models")]
)
async def test_what_is_no_call_to_a_model_goes_to_ollama_alone(method: str, path: str) -> None:
    async with behind(closes, streams) as (stage, (other,)):
        await stage.upstream.stop()
        async with stage.client() as client:
            client.post(path, {"model": MODEL}, method=method)
            answer = await client.answer()
        assert answer.status == 502
        assert answer.header("x-pilotlight-upstream") is None
        assert not other.seen


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/generate", {"model": MODEL}),
        ("/api/generate", {"model": MODEL, "keep_alive": 0}),
        ("/api/chat", {"model": MODEL, "messages": []}),
    ],
)
async def test_what_is_about_the_memory_of_this_ollama_goes_to_it_alone(path: str, body: dict[str, Any]) -> None:
    async with behind(closes, streams) as (stage, (other,)):
        answer = await ask(stage, body, path)
        assert (answer.status, answer.header("x-pilotlight-error")) == (502, "upstream_broken")
        assert other.seen == []


async def test_a_conversation_whose_context_is_ours_goes_on_at_this_ollama_alone() -> None:
    own = json.loads(context.encode('[{"role":"user","content":"hi"},{"role":"assistant","content":"x"}]'))
    async with behind(closes, streams) as (stage, (other,)):
        answer = await ask(stage, generate(context=own), "/api/generate")
        assert answer.status == 502
        assert other.seen == []
        assert (await ask(stage, generate(context=[1, 2, 3]), "/api/generate")).status == 200
        assert len(other.seen) == 1


async def test_a_full_queue_of_our_own_overruns_nobody_else() -> None:
    go_on = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        await go_on.wait()
        await streams(seen, reply)

    async with behind(script, streams, scheduler={"parallel": 1, "max_queue": 1}) as (stage, (other,)):
        async with stage.client() as running, stage.client() as waiting:
            running.post("/api/chat", chat())
            await until(lambda: len(stage.calls) == 1)
            waiting.post("/api/chat", chat())
            await until(lambda: len(stage.proxy.scheduler.snapshot(0.0).waiting) == 1)
            answer = await ask(stage)
            assert (answer.status, answer.json) == (503, QUEUE_FULL)
            go_on.set()
            for each in (running, waiting):
                assert (await each.answer()).status == 200
        assert not other.seen


async def test_without_a_fallback_nothing_is_said_about_who_answered() -> None:
    async with staged(streams) as stage:
        assert (await ask(stage)).header("x-pilotlight-upstream") is None
        await stage.upstream.stop()
        answer = await ask(stage)
        assert (answer.status, answer.header("x-pilotlight-upstream")) == (502, None)


# --- beside the rest


async def test_the_place_at_ollama_is_free_while_another_one_answers() -> None:
    go_on = asyncio.Event()

    async def slow(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.chunk(TOKEN)
        await go_on.wait()
        reply.chunk(END)
        reply.end()

    async with behind(closes, slow, scheduler={"parallel": 1}) as (stage, _), stage.client() as client:
        client.post("/api/chat", chat())
        await client.head()
        assert stage.proxy.scheduler.slots()[0] == 0
        go_on.set()
        assert await client.chunk() == TOKEN


@pytest.mark.parametrize("how", Leave)
async def test_a_client_that_leaves_is_seen_by_whoever_answers(how: Leave) -> None:
    async def slow(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.chunk(TOKEN)
        await seen.left.wait()

    async with behind(closes, slow, streams) as (stage, (first, second)):
        leaving = await RawClient.open(stage.address)
        leaving.post("/api/chat", chat())
        await leaving.head()
        leaving.leave(how)
        async with asyncio.timeout(DEADLINE_S):
            await first.seen[0].left.wait()
        await leaving.close()
        (row,) = await stage.rows()
        assert (row["outcome"], row["client_left"]) == ("cancelled", "streaming")
        assert not second.seen


async def test_a_stop_ends_what_another_one_answers() -> None:
    async def slow(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.chunk(TOKEN)
        await seen.left.wait()

    shutdown = {"lame_duck_s": 0, "grace_s": 0.1}
    async with behind(closes, slow, shutdown=shutdown) as (stage, _), stage.client() as client:
        client.post("/api/chat", chat())
        await client.head()
        assert await client.chunk() == TOKEN
        await stage.proxy.drain(asyncio.Event())
        assert b"shutting down" in await client.chunk()
        assert await client.at_end()


async def test_a_stop_while_another_one_is_silent_asks_nobody_else() -> None:
    async def silent(seen: Seen, reply: Answering) -> None:
        await seen.left.wait()

    shutdown = {"lame_duck_s": 0, "grace_s": 0.1}
    async with behind(closes, silent, streams, shutdown=shutdown) as (stage, (first, second)):
        async with stage.client() as client:
            client.post("/api/chat", chat())
            await until(lambda: len(first.seen) == 1)
            await stage.proxy.drain(asyncio.Event())
            answer = await client.answer()
            assert (answer.status, answer.header("x-pilotlight-error")) == (503, "shutting_down")
        async with asyncio.timeout(DEADLINE_S):
            await first.seen[0].left.wait()
        assert not second.seen


async def test_one_that_is_silent_for_too_long_is_passed_over() -> None:
    async def silent(seen: Seen, reply: Answering) -> None:
        await seen.left.wait()

    async with behind(closes, silent, streams, relay={"idle_timeout_s": 0.1}) as (stage, (first, second)):
        answer = await ask(stage)
        assert (answer.status, answer.header("x-pilotlight-upstream")) == (200, second.address)
        assert told(stage, first) == (0, 1)


async def test_what_another_one_answers_is_neither_kept_nor_shared() -> None:
    fail = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        await fail.wait()
        reply.fin()

    body = chat(options={"temperature": 0})
    settings = {"cache": {"mode": "deterministic"}, "share_identical": True}
    async with behind(script, streams, **settings) as (stage, (other,)):
        async with stage.client() as first, stage.client() as second:
            for each in (first, second):
                each.post("/api/chat", body)
            await until(lambda: stage.metric("pilotlight_shared_total") == 1)
            fail.set()
            for each in (first, second):
                answer = await each.answer()
                assert (answer.status, answer.body) == (200, TOKEN + END)
                assert answer.header("x-pilotlight-upstream") == other.address
                assert answer.header("x-pilotlight-shared") is None
                assert answer.header("x-cache") is None
        assert len(other.seen) == 2
        assert stage.metric("cache_entries", cache="response") == 0
        rows = await stage.rows(2)
        assert all("reused" not in row for row in rows)
        assert stage.metric("llm_tokens_total", model=f"{MODEL}:latest", type="output") == 4
