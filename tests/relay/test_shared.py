"""Requests that are the same and under way at once share one run at Ollama, and it belongs to none of them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from proxy.observe.labels import BYPASS_REASONS
from proxy.server.app import Proxy
from tests.peers import DEADLINE_S, Answering, End, Leave, RawClient, Seen, client, ndjson, until, upstream
from tests.stage import (
    MODEL,
    answer_own_call,
    chat,
    chat_end,
    chat_token,
    generate,
    is_own_call,
    make_settings,
    staged,
    v1_token,
)

if TYPE_CHECKING:
    from tests.peers import Answer
    from tests.stage import Stage

GREEDY = {"temperature": 0}
FIRST, SECOND, END = ndjson(chat_token("a")), ndjson(chat_token("b")), ndjson(chat_end())
WHOLE = FIRST + SECOND + END
DONE = b"data: [DONE]\n\n"


def question(text: str = "hi", **more: Any) -> dict[str, Any]:
    """One with but one answer."""
    return chat(**{"messages": [{"role": "user", "content": text}], "options": GREEDY, **more})


class Paced:
    """Answers with one token at once and with the rest when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, seen: Seen, reply: Answering) -> None:
        if seen.path == "/v1/chat/completions":
            reply.head(200, "text/event-stream")
            reply.chunk(v1_token("a"))
            await self.go_on.wait()
            reply.chunk(v1_token("b"))
            reply.chunk(DONE)
        else:
            reply.head()
            reply.chunk(FIRST)
            await self.go_on.wait()
            reply.chunk(SECOND)
            reply.chunk(END)
        reply.end()


async def rest(client: RawClient) -> bytes:
    """What is left of a chunked body."""
    pieces = []
    while piece := await client.chunk():
        pieces.append(piece)
    return b"".join(pieces)


async def until_joined(stage: Stage, count: int) -> None:
    await until(lambda: stage.metric("pilotlight_shared_total") == count)


async def until_free(stage: Stage) -> None:
    """Every place is free again, and nothing is held any more."""
    await until(lambda: not stage.proxy.relay.active and len(stage.proxy.memory.flights) == 0)
    await until(lambda: stage.proxy.scheduler.slots()[0] == 0)
    assert not stage.proxy.scheduler.snapshot(0.0).waiting


# --- together


@pytest.mark.parametrize(
    ("path", "body", "chunks"),
    [
        ("/api/chat", question(), [FIRST, SECOND, END]),
        ("/v1/chat/completions", question(stream=True, temperature=0), [v1_token("a"), v1_token("b"), DONE]),
    ],
)
async def test_whoever_asks_the_same_meanwhile_gets_the_whole_stream_of_one_run(
    path: str, body: dict[str, Any], chunks: list[bytes]
) -> None:
    paced = Paced()
    async with staged(paced, share_identical=True) as stage:
        async with stage.client() as first, stage.client() as second:
            first.post(path, body)
            _, fields = await first.head()
            assert not any(name.lower() == "x-pilotlight-shared" for name, _ in fields)
            assert await first.chunk() == chunks[0]
            # The first token is long out when the other one comes.
            second.post(path, body)
            _, fields = await second.head()
            assert ("X-Pilotlight-Shared", "1") in fields
            assert await second.chunk() == chunks[0]
            assert stage.proxy.scheduler.slots()[0] == 1
            paced.go_on.set()
            for each in (first, second):
                assert await rest(each) == b"".join(chunks[1:])
        assert len(stage.calls) == 1
        await until_free(stage)
        newer, older = await stage.rows(2)
        assert sorted(row.get("reused", "") for row in (newer, older)) == ["", "shared"]
        assert stage.metric("llm_tokens_total", model=f"{MODEL}:latest", type="output") <= 2
        assert stage.metric("pilotlight_shared_total") == 1


async def test_each_gets_it_in_its_own_shape() -> None:
    paced = Paced()
    async with staged(paced, share_identical=True) as stage:
        async with stage.client() as streaming, stage.client() as whole, stage.client() as generating:
            streaming.post("/api/chat", question())
            assert (await streaming.head())[0] == 200
            whole.post("/api/chat", question(stream=False))
            generating.post("/api/generate", generate(options=GREEDY))
            await until_joined(stage, 2)
            paced.go_on.set()
            assert await rest(streaming) == WHOLE
            answer = await whole.answer()
            assert answer.json["message"]["content"] == "ab"
            answer = await generating.answer()
            assert [line["response"] for line in answer.lines] == ["a", "b", ""]
            assert answer.header("x-pilotlight-shared") == "1"
        assert len(stage.calls) == 1
        await until_free(stage)


async def test_with_a_cache_a_shared_run_is_kept_once() -> None:
    paced = Paced()
    async with staged(paced, share_identical=True, cache={"mode": "deterministic"}) as stage:
        async with stage.client() as first, stage.client() as second:
            first.post("/api/chat", question())
            await first.head()
            second.post("/api/chat", question())
            await until_joined(stage, 1)
            paced.go_on.set()
            assert await rest(first) == WHOLE
            joined = await second.answer()
            assert (joined.header("x-cache"), joined.header("x-pilotlight-shared")) == ("MISS", "1")
            second.post("/api/chat", question())
            kept = await second.answer()
            assert (kept.header("x-cache"), kept.header("x-pilotlight-shared")) == ("HIT", None)
            assert kept.body == joined.body
        assert stage.metric("cache_entries", cache="response") == 1
        assert len(stage.calls) == 1


# --- leaving


@pytest.mark.parametrize("how", Leave)
async def test_the_first_that_leaves_does_not_stop_the_run(how: Leave) -> None:
    paced = Paced()
    async with staged(paced, share_identical=True, cache={"mode": "deterministic"}) as stage:
        first = await RawClient.open(stage.address)
        async with stage.client() as second:
            first.post("/api/chat", question())
            await first.head()
            second.post("/api/chat", question())
            await until_joined(stage, 1)
            first.leave(how)
            await until(lambda: len(stage.proxy.relay.active) == 1)
            assert stage.proxy.scheduler.slots()[0] == 1
            assert not stage.calls[0].left.is_set()
            paced.go_on.set()
            answer = await second.answer()
            assert (answer.end, answer.body) == (End.COMPLETE, WHOLE)
            await first.close()
        await until_free(stage)
        assert len(stage.calls) == 1
        assert stage.metric("cache_entries", cache="response") == 1


@pytest.mark.parametrize("how", Leave)
async def test_the_run_stops_when_the_last_one_has_left(how: Leave) -> None:
    async with staged(Paced(), share_identical=True, cache={"mode": "deterministic"}) as stage:
        leaving = [await RawClient.open(stage.address) for _ in range(3)]
        for each in leaving:
            each.post("/api/chat", question())
            await each.head()
        assert len(stage.calls) == 1
        for each in leaving:
            assert not stage.calls[0].left.is_set()
            each.leave(how)
        async with asyncio.timeout(DEADLINE_S):
            await stage.calls[0].left.wait()
        await until_free(stage)
        for each in leaving:
            await each.close()
        rows = await stage.rows(3)
        assert {row["outcome"] for row in rows} == {"cancelled"}
        assert stage.metric("cache_entries", cache="response") == 0


async def test_one_that_waits_for_its_place_is_taken_out_when_the_last_one_has_left() -> None:
    paced = Paced()
    async with staged(paced, share_identical=True, scheduler={"parallel": 1}) as stage:
        async with stage.client() as busy, stage.client() as second:
            busy.post("/api/chat", question("other"))
            await busy.head()
            first = await RawClient.open(stage.address)
            first.post("/api/chat", question())
            await until(lambda: len(stage.proxy.scheduler.snapshot(0.0).waiting) == 1)
            second.post("/api/chat", question())
            await until_joined(stage, 1)
            first.leave(Leave.RST)
            await until(lambda: len(stage.proxy.relay.active) == 2)
            # The other one still wants it.
            assert len(stage.proxy.scheduler.snapshot(0.0).waiting) == 1
            second.leave(Leave.RST)
            await until(lambda: len(stage.proxy.relay.active) == 1)
            await until(lambda: not stage.proxy.scheduler.snapshot(0.0).waiting)
            paced.go_on.set()
            assert await rest(busy) == WHOLE
            await first.close()
        assert len(stage.calls) == 1
        await until_free(stage)
        told = [(row["outcome"], row.get("client_left")) for row in await stage.rows(3)]
        assert told.count(("ok", None)) == 1
        assert ("cancelled", "queued") in told


async def test_one_that_joined_a_run_in_the_queue_gets_its_answer_when_the_first_has_left() -> None:
    paced = Paced()
    async with staged(paced, share_identical=True, scheduler={"parallel": 1}) as stage:
        async with stage.client() as busy, stage.client() as second:
            busy.post("/api/chat", question("other"))
            await busy.head()
            first = await RawClient.open(stage.address)
            first.post("/api/chat", question())
            await until(lambda: len(stage.proxy.scheduler.snapshot(0.0).waiting) == 1)
            second.post("/api/chat", question())
            await until_joined(stage, 1)
            first.leave(Leave.FIN)
            await until(lambda: len(stage.proxy.relay.active) == 2)
            paced.go_on.set()
            answer = await second.answer()
            assert (answer.end, answer.body) == (End.COMPLETE, WHOLE)
            await first.close()
        await until_free(stage)
        assert len(stage.calls) == 2


async def test_one_that_waits_for_a_load_gives_its_place_back_when_the_last_one_has_left() -> None:
    resident = [True]
    loading, loaded = asyncio.Event(), asyncio.Event()

    async def own(seen: Seen, reply: Answering) -> None:
        if seen.path == "/api/ps" and not resident[0]:
            reply.json({"models": []})
        elif seen.path == "/api/generate" and not resident[0]:
            loading.set()
            await loaded.wait()
            resident[0] = True
            await answer_own_call(seen, reply)
        else:
            await answer_own_call(seen, reply)

    paced = Paced()
    async with staged(paced, own=own, share_identical=True) as stage:
        resident[0] = False
        stage.proxy.residency.wake()
        async with asyncio.timeout(DEADLINE_S):
            await loading.wait()
        leaving = [await RawClient.open(stage.address) for _ in range(2)]
        for each in leaving:
            each.post("/api/chat", question())
        await until_joined(stage, 1)
        # The run takes its place in a task of its own, which may be later than the second one's joining.
        await until(lambda: stage.proxy.scheduler.slots()[0] == 1)
        for each in leaving:
            each.leave(Leave.RST)
        await until_free(stage)
        loaded.set()
        assert not stage.calls


# --- apart


@pytest.mark.parametrize(
    ("one", "other", "fields"),
    [
        (question(), question(), ["X-API-Key: b"]),
        (question(), question(), ["Authorization: Bearer b"]),
        (question(), question(), ["Cache-Control: no-cache"]),
        (question("a"), question("b"), []),
        (question(options={"seed": 1}), question(options={"seed": 2}), []),
        (chat(), chat(), []),
        # No two of these are certain to be the same.
        (question(format={"maximum": 2**70}), question(format={"maximum": 2**70}), []),
    ],
)
async def test_what_is_not_the_same_or_not_certain_to_be_is_run_by_itself(
    one: dict[str, Any], other: dict[str, Any], fields: list[str]
) -> None:
    paced = Paced()
    async with staged(paced, share_identical=True) as stage:
        async with stage.client() as first, stage.client() as second:
            first.post("/api/chat", one)
            await first.head()
            second.post("/api/chat", other, *fields)
            await until(lambda: len(stage.calls) == 2)
            paced.go_on.set()
            answer = await second.answer()
            assert answer.header("x-pilotlight-shared") is None
            assert answer.header("x-cache") is None
        assert stage.metric("pilotlight_shared_total") == 0
        # There is no cache that could be bypassed.
        assert all(stage.metric("cache_bypass_total", reason=reason) == 0 for reason in BYPASS_REASONS)


async def test_without_being_asked_for_nothing_is_shared() -> None:
    paced = Paced()
    async with (
        staged(paced, cache={"mode": "deterministic"}) as stage,
        stage.client() as first,
        stage.client() as second,
    ):
        for each in (first, second):
            each.post("/api/chat", question())
        await until(lambda: len(stage.calls) == 2)
        paced.go_on.set()
        for each in (first, second):
            assert (await each.answer()).header("x-pilotlight-shared") is None


async def test_one_after_the_other_is_not_shared_without_a_cache() -> None:
    paced = Paced()
    paced.go_on.set()
    async with staged(paced, share_identical=True) as stage, stage.client() as client:
        for _ in range(3):
            client.post("/api/chat", question())
            answer = await client.answer()
            assert (answer.body, answer.header("x-pilotlight-shared")) == (WHOLE, None)
            assert stage.proxy.scheduler.slots()[0] == 0
        assert len(stage.calls) == 3


# --- failing


async def together(stage: Stage, fail: asyncio.Event, path: str, body: dict[str, Any]) -> list[Answer]:
    async with stage.client() as first, stage.client() as second:
        for each in (first, second):
            each.post(path, body)
        await until_joined(stage, 1)
        fail.set()
        return [await each.answer() for each in (first, second)]


@pytest.mark.parametrize(
    ("path", "body"), [("/api/chat", question()), ("/v1/chat/completions", question(stream=True, temperature=0))]
)
async def test_a_run_that_breaks_off_ends_every_stream_with_an_error(path: str, body: dict[str, Any]) -> None:
    fail = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        if path == "/api/chat":
            reply.head()
            reply.chunk(FIRST)
        else:
            reply.head(200, "text/event-stream")
            reply.chunk(v1_token("a"))
        await fail.wait()
        reply.rst()

    async with staged(script, share_identical=True) as stage:
        answers = await together(stage, fail, path, body)
        for answer in answers:
            assert answer.status == 200
            assert answer.end is End.CUT
            assert b'"error"' in answer.chunks[-1]
            assert b"upstream connection lost" in answer.chunks[-1]
        await until_free(stage)
        assert len(stage.calls) == 1
        assert {row["outcome"] for row in await stage.rows(2)} == {"upstream_error"}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_run_without_a_reply_is_502_for_everyone(stream: bool) -> None:
    fail = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        await fail.wait()
        reply.fin()

    async with staged(script, share_identical=True) as stage:
        for answer in await together(stage, fail, "/api/chat", question(stream=stream)):
            assert (answer.status, answer.end) == (502, End.COMPLETE)
            assert answer.header("x-pilotlight-error") == "upstream_broken"
            assert answer.json["error"]
        await until_free(stage)


async def test_an_error_of_ollamas_own_reaches_everyone_as_it_is() -> None:
    fail = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        await fail.wait()
        reply.json({"error": "invalid options"}, 400)

    async with staged(script, share_identical=True) as stage:
        for answer in await together(stage, fail, "/api/chat", question()):
            assert (answer.status, answer.json) == (400, {"error": "invalid options"})
        await until_free(stage)
        assert {row["outcome"] for row in await stage.rows(2)} == {"client_error"}


async def test_a_load_that_fails_is_told_to_everyone_who_waited_for_it() -> None:
    resident = [True]
    loading, fail = asyncio.Event(), asyncio.Event()

    async def own(seen: Seen, reply: Answering) -> None:
        if seen.path == "/api/ps" and not resident[0]:
            reply.json({"models": []})
        elif seen.path == "/api/generate" and not resident[0]:
            loading.set()
            await fail.wait()
            reply.json({"error": "out of memory"}, 500)
        else:
            await answer_own_call(seen, reply)

    async with staged(Paced(), own=own, share_identical=True) as stage:
        resident[0] = False
        stage.proxy.residency.wake()
        async with asyncio.timeout(DEADLINE_S):
            await loading.wait()
        for answer in await together(stage, fail, "/api/chat", question()):
            assert (answer.status, answer.json) == (500, {"error": "out of memory"})
            assert answer.header("x-pilotlight-error") == "load_failed"
        await until_free(stage)
        assert not stage.calls


async def test_a_full_queue_of_ollamas_is_asked_again_for_everyone_in_one_run() -> None:
    fail = asyncio.Event()
    paced = Paced()
    paced.go_on.set()
    busy = {"error": "server busy, please try again.  maximum pending requests exceeded"}

    async def script(seen: Seen, reply: Answering) -> None:
        if len(stage.calls) == 1:
            await fail.wait()
            reply.json(busy, 503)
            return
        # The second one waits for whoever comes later.
        await until(lambda: len(stage.proxy.memory.flights) == 1)
        await paced(seen, reply)

    async with staged(script, share_identical=True) as stage:
        for answer in await together(stage, fail, "/api/chat", question()):
            assert (answer.status, answer.body) == (200, WHOLE)
        await until_free(stage)


async def test_a_silent_upstream_is_a_limit_of_the_run_and_not_of_the_wait_for_it() -> None:
    """``idle_timeout_s`` is about a reply; who waits for a place has max_wait_s."""
    paced = Paced()
    silence_s = 0.5
    async with (
        staged(paced, share_identical=True, scheduler={"parallel": 1}, relay={"idle_timeout_s": silence_s}) as stage,
        stage.client() as busy,
        stage.client() as first,
        stage.client() as second,
    ):
        busy.post("/api/chat", question("other"))
        await busy.head()
        first.post("/api/chat", question())
        await until(lambda: len(stage.proxy.scheduler.snapshot(0.0).waiting) == 1)
        second.post("/api/chat", question())
        await until_joined(stage, 1)
        # The one that runs is ended by its own silence, long after the others began to wait.
        assert await busy.chunk() == FIRST
        assert b"sent nothing" in await busy.chunk()
        assert await busy.at_end()
        paced.go_on.set()
        for each in (first, second):
            answer = await each.answer()
            assert (answer.status, answer.body) == (200, WHOLE)


# --- the prompt that is too long


@pytest.mark.parametrize("what", ["tell", "grow", "refuse"])
async def test_what_becomes_of_a_prompt_that_is_too_long_is_the_same_when_runs_are_shared(what: str) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if seen.json.get("truncate") is False:
            reply.json({"error": "the input length exceeds the context length"}, 400)
            return
        reply.head()
        reply.chunk(FIRST)
        reply.chunk(END)
        reply.end()

    models = [{"name": MODEL, "long_prompts": what}]
    async with staged(script, share_identical=True, cache={"mode": "deterministic"}, models=models) as stage:
        async with stage.client() as client:
            for _ in range(2):
                client.post("/api/chat", question())
                answer = await client.answer()
                if what == "refuse":
                    assert answer.status == 400
                else:
                    assert (answer.status, answer.header("x-pilotlight-prompt")) == (200, "cut")
        await until_free(stage)


# --- stopping


@pytest.mark.parametrize("waits_for", ["nothing", "its place", "a load"])
async def test_a_stop_ends_a_shared_run_for_everyone_in_shape(waits_for: str) -> None:
    async def dispatch(seen: Seen, reply: Answering) -> None:
        if not is_own_call(seen):
            await Paced()(seen, reply)
        elif waits_for == "a load" and seen.path == "/api/ps":
            reply.json({"models": []})
        elif waits_for == "a load" and seen.path == "/api/generate":
            await seen.left.wait()
        else:
            await answer_own_call(seen, reply)

    async with upstream(dispatch) as server, contextlib.AsyncExitStack() as stack:
        shutdown = {"lame_duck_s": 0, "grace_s": 0.1}
        proxy = Proxy(make_settings(server.url, share_identical=True, scheduler={"parallel": 1}, shutdown=shutdown))
        await proxy.start()
        stack.push_async_callback(proxy.aclose)
        address = proxy.listen_address
        async with client(address) as busy, client(address) as first, client(address) as second:
            if waits_for != "a load":
                await until(lambda: proxy.is_ready)
            if waits_for == "its place":
                busy.post("/api/chat", question("other"))
                await busy.head()
            for each in (first, second):
                each.post("/api/chat", question())
            await until(lambda: proxy.metrics._registry.get_sample_value("pilotlight_shared_total") == 1)
            if waits_for == "nothing":
                for each in (first, second):
                    await each.head()
                    assert await each.chunk() == FIRST
            await proxy.drain(asyncio.Event())
            assert not proxy.relay.active
            for each in (first, second):
                if waits_for == "nothing":
                    assert b"shutting down" in await each.chunk()
                    assert await each.at_end()
                else:
                    answer = await each.answer()
                    assert (answer.status, answer.header("x-pilotlight-error")) == (503, "shutting_down")
            await proxy.aclose()
        assert len(proxy.memory.flights) == 0
        assert proxy.scheduler.slots()[0] == 0
