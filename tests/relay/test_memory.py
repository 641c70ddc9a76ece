"""An answer that is kept is given again as it was, to whom it belongs, and to nobody else."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import DEADLINE_S, Answering, End, Leave, RawClient, Seen, framed, ndjson, until
from tests.stage import (
    DIGEST,
    MODEL,
    TAGS,
    answer_own_call,
    chat,
    chat_end,
    chat_token,
    generate,
    staged,
    v1_token,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.peers import Answer
    from tests.stage import Stage

GREEDY = {"temperature": 0}
DETERMINISTIC = {"mode": "deterministic"}
DONE = b"data: [DONE]\n\n"


def question(text: str = "hi", **more: Any) -> dict[str, Any]:
    """One with but one answer."""
    return chat(**{"messages": [{"role": "user", "content": text}], "options": GREEDY, **more})


class Numbered:
    """Answers every request with another number, as a stream or whole, in the shape of its route."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    async def __call__(self, seen: Seen, reply: Answering) -> None:
        number = next(self._numbers)
        if seen.path == "/v1/chat/completions":
            reply.head(200, "text/event-stream")
            # Two events in one chunk: framing is not what is kept.
            reply.chunk(v1_token("number ") + v1_token(str(number)))
            reply.chunk(DONE)
            reply.end()
        elif seen.path == "/api/embed":
            reply.json({"model": MODEL, "embeddings": [[number]], "prompt_eval_count": 1})
        else:
            reply.head()
            reply.frames(chat_token("number "), chat_token(str(number)), chat_end())
            reply.end()


async def ask(
    client: RawClient, body: dict[str, Any] | None = None, *more: str, path: str = "/api/chat"
) -> tuple[Answer, str | None]:
    """An answer, and what it says about where it comes from."""
    client.post(path, question() if body is None else body, *more)
    answer = await client.answer()
    assert answer.end is End.COMPLETE
    return answer, answer.header("x-cache")


def text_of(answer: Answer) -> str:
    return "".join(line["message"]["content"] if "message" in line else line["response"] for line in answer.lines)


# --- what is given again


@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 7}, {"temperature": 0.8, "seed": 0}])
async def test_the_second_identical_request_gets_the_same_answer_without_ollama(options: dict[str, Any]) -> None:
    async with staged(Numbered(), cache=DETERMINISTIC) as stage, stage.client() as client:
        first, first_cache = await ask(client, question(options=options))
        second, second_cache = await ask(client, question(options=options))
        assert (first_cache, second_cache) == ("MISS", "HIT")
        assert (second.status, second.body, second.chunks) == (200, first.body, first.chunks)
        assert second.header("content-type") == first.header("content-type")
        assert second.header("transfer-encoding") == "chunked"
        assert first.header("age") is None
        assert int(second.header("age") or "") >= 0
        assert first.header("x-request-id") != second.header("x-request-id")
        assert len(stage.calls) == 1


async def test_a_replay_is_a_stream_of_the_frames_however_they_came() -> None:
    frames = [chat_token("a"), chat_token("b"), chat_end()]

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        data = b"".join(map(ndjson, frames))
        reply.chunk(data[:30])
        reply.chunk(data[30:])
        reply.end()

    async with staged(script, cache=DETERMINISTIC) as stage, stage.client() as client:
        first, _ = await ask(client)
        second, cache = await ask(client)
        assert cache == "HIT"
        assert second.body == first.body
        assert second.chunks == list(map(ndjson, frames))


async def test_what_reaches_ollama_as_the_same_is_answered_by_the_same() -> None:
    """Generate is asked as chat, and what is wanted whole as a stream."""
    async with staged(Numbered(), cache=DETERMINISTIC) as stage, stage.client() as client:
        streamed, cache = await ask(client, question())
        assert cache == "MISS"
        for path, body in (
            ("/api/chat", question(stream=True)),
            ("/api/chat", question(stream=False)),
            ("/api/generate", generate(options=GREEDY)),
            ("/api/generate", generate(options=GREEDY, stream=False)),
            ("/api/chat", question(keep_alive="9m")),
        ):
            answer, cache = await ask(client, body, path=path)
            assert (cache, text_of(answer)) == ("HIT", "number 1"), (path, body)
            shape = "response" if path == "/api/generate" else "message"
            assert all(shape in line for line in answer.lines)
            if body.get("stream") is False:
                assert len(answer.lines) == 1
                assert answer.header("content-length") == str(len(answer.body))
                assert answer.header("content-type") == "application/json; charset=utf-8"
            else:
                assert len(answer.lines) == len(streamed.lines)
        assert len(stage.calls) == 1


async def test_a_generate_is_given_again_with_a_context_that_goes_on() -> None:
    async with staged(Numbered(), cache=DETERMINISTIC) as stage, stage.client() as client:
        first, _ = await ask(client, generate(options=GREEDY, stream=False), path="/api/generate")
        second, cache = await ask(client, generate(options=GREEDY, stream=False), path="/api/generate")
        assert cache == "HIT"
        assert second.json == first.json
        await ask(client, generate(context=second.json["context"], prompt="on"), path="/api/generate")
        assert [message["content"] for message in stage.calls[-1].json["messages"]] == ["hi", "number 1", "on"]


async def test_a_v1_stream_is_given_again_event_by_event() -> None:
    body = question(stream=True, temperature=0)
    async with staged(Numbered(), cache=DETERMINISTIC) as stage, stage.client() as client:
        first, first_cache = await ask(client, body, path="/v1/chat/completions")
        second, second_cache = await ask(client, body, path="/v1/chat/completions")
        assert (first_cache, second_cache) == ("MISS", "HIT")
        assert second.body == first.body
        assert second.chunks == [v1_token("number "), v1_token("1"), DONE]
        assert second.header("content-type") == "text/event-stream"
        assert len(stage.calls) == 1


async def test_embeddings_are_kept_because_nothing_is_sampled() -> None:
    async with staged(Numbered(), cache=DETERMINISTIC) as stage, stage.client() as client:
        body = {"model": MODEL, "input": "x"}
        first, _ = await ask(client, body, path="/api/embed")
        second, cache = await ask(client, body, path="/api/embed")
        assert (cache, second.body) == ("HIT", first.body)
        assert len(stage.calls) == 1


async def test_an_older_client_gets_the_kept_answer_without_chunks() -> None:
    async with staged(Numbered(), cache=DETERMINISTIC) as stage:
        async with stage.client() as client:
            first, _ = await ask(client)
        async with stage.client() as old:
            body = json.dumps(question()).encode()
            old.send(b"POST /api/chat HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            second = await old.answer()
        assert second.header("x-cache") == "HIT"
        assert second.header("transfer-encoding") is None
        assert second.body == first.body


# --- what is not


async def test_without_a_seed_an_answer_is_kept_in_mode_all_only() -> None:
    for mode, expected in (("deterministic", ["BYPASS", "BYPASS"]), ("all", ["MISS", "HIT"])):
        async with staged(Numbered(), cache={"mode": mode}) as stage, stage.client() as client:
            assert [(await ask(client, chat()))[1] for _ in range(2)] == expected
            assert stage.metric("cache_bypass_total", reason="sampling") == (2 if mode == "deterministic" else 0)
            assert len(stage.calls) == expected.count("BYPASS") + expected.count("MISS")


@pytest.mark.parametrize("mode", ["deterministic", "all"])
@pytest.mark.parametrize(
    ("reason", "more", "fields"),
    [
        ("header", {}, ["Cache-Control: no-cache"]),
        ("header", {}, ["Cache-Control: max-age=0, no-store"]),
        ("header", {}, ["Pragma: no-cache"]),
        ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}, []),
        ("size", {"format": {"enum": ["x" * 2**20]}}, []),
        # No two of these are certain to be the same.
        ("other", {"format": {"maximum": 2**70}}, []),
    ],
)
async def test_what_the_cache_is_not_for_bypasses_it_with_its_reason(
    mode: str, reason: str, more: dict[str, Any], fields: list[str]
) -> None:
    async with staged(Numbered(), cache={"mode": mode}) as stage, stage.client() as client:
        await ask(client)
        for _ in range(2):
            _, cache = await ask(client, question(**more), *fields)
            assert cache == "BYPASS"
        assert stage.metric("cache_bypass_total", reason=reason) == 2
        assert stage.metric("cache_entries", cache="response") == 1
        assert len(stage.calls) == 3


async def error_line(reply: Answering) -> None:
    reply.head()
    reply.frames(chat_token("x"), {"error": "the runner is gone"})
    reply.end()


async def cut(reply: Answering) -> None:
    reply.head()
    reply.frames(chat_token("x"))
    reply.fin()


async def without_a_final_frame(reply: Answering) -> None:
    reply.head()
    reply.frames(chat_token("x"))
    reply.end()


async def bad_request(reply: Answering) -> None:
    reply.json({"error": "no"}, 400)


async def not_found(reply: Answering) -> None:
    reply.json({"error": f"model '{MODEL}' not found"}, 404)


async def broken(reply: Answering) -> None:
    reply.json({"error": "out of memory"}, 500)


async def not_storable(reply: Answering) -> None:
    reply.head(200, "application/x-ndjson", "Cache-Control: no-store")
    reply.frames(chat_token("x"), chat_end())
    reply.end()


@pytest.mark.parametrize(
    "fails", [error_line, cut, without_a_final_frame, bad_request, not_found, broken, not_storable]
)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_no_whole_answer_is_never_given_again(fails: Callable[[Answering], Any], stream: bool) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        await fails(reply)

    async with staged(script, cache=DETERMINISTIC) as stage:
        for asked in (1, 2):
            async with stage.client() as client:
                client.post("/api/chat", question(stream=stream))
                answer = await client.answer()
                assert answer.header("x-cache") == "MISS"
                assert len(stage.calls) == asked
        assert stage.metric("cache_entries", cache="response") == 0
        assert stage.metric("cache_hits_total", cache="response") == 0


async def test_an_answer_whose_client_left_is_not_kept() -> None:
    go_on = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_token("x"))
        if len(stage.calls) == 1:
            await seen.left.wait()
            go_on.set()
        reply.frames(chat_end())
        reply.end()

    async with staged(script, cache=DETERMINISTIC) as stage:
        leaving = await RawClient.open(stage.address)
        leaving.post("/api/chat", question())
        await leaving.head()
        await leaving.close()
        async with asyncio.timeout(DEADLINE_S):
            await go_on.wait()
        async with stage.client() as client:
            assert (await ask(client))[1] == "MISS"


async def test_nobody_gets_what_another_credential_was_answered() -> None:
    async with staged(Numbered(), cache=DETERMINISTIC) as stage, stage.client() as client:
        credentials: list[list[str]] = [
            [],
            ["X-API-Key: a"],
            ["X-API-Key: b"],
            ["Authorization: Bearer a"],
            ["X-API-Key: a", "Authorization: Bearer a"],
            ["Authorization: Bearer a", "Authorization: Bearer b"],
            ["Authorization: Bearer a", "Authorization: Bearer c"],
            ["Cookie: session=a"],
        ]
        for number, fields in enumerate(credentials, 1):
            answer, cache = await ask(client, None, *fields)
            assert (cache, text_of(answer)) == ("MISS", f"number {number}"), fields
        for number, fields in enumerate(credentials, 1):
            answer, cache = await ask(client, None, *fields)
            assert (cache, text_of(answer)) == ("HIT", f"number {number}"), fields


async def test_whatever_is_asked_in_whatever_order_each_gets_only_its_own() -> None:
    """S7: no cross hit, also when models change."""
    digest = [DIGEST]

    async def own(seen: Seen, reply: Answering) -> None:
        if seen.path == "/api/tags":
            reply.json({"models": [{**TAGS["models"][0], "digest": digest[0]}]})
        else:
            await answer_own_call(seen, reply)

    async def script(seen: Seen, reply: Answering) -> None:
        if seen.path == "/api/pull":
            reply.json({"status": "success"})
            return
        asked = seen.json["messages"][0]["content"]
        reply.head()
        told = [digest[0][:2], seen.header("x-api-key"), asked, seen.json["options"].get("seed")]
        reply.frames(chat_token(json.dumps(told)), chat_end())
        reply.end()

    dice = random.Random(7)
    async with staged(script, own=own, cache={**DETERMINISTIC, "max_entries": 12}) as stage, stage.client() as client:
        for _ in range(400):
            if dice.random() < 0.05:
                digest[0] = dice.choice("abc") * 64
                client.post("/api/pull", {"model": MODEL, "stream": False})
                await client.answer()
            key, text, seed = dice.choice("kq"), dice.choice("xyz"), dice.choice((None, 1, 2))
            options = {"temperature": 0} if seed is None else {"seed": seed}
            answer, _ = await ask(client, question(text, options=options), f"X-API-Key: {key}")
            assert json.loads(text_of(answer)) == [digest[0][:2], key, text, seed]
        assert stage.metric("cache_hits_total", cache="response") > 50
        assert stage.metric("cache_evictions_total", cache="response", reason="flush") > 0
        assert stage.metric("cache_evictions_total", cache="response", reason="size") > 0


# --- how long


async def test_another_digest_of_the_model_ends_its_answers() -> None:
    digest = [DIGEST]

    async def own(seen: Seen, reply: Answering) -> None:
        if seen.path == "/api/tags":
            reply.json({"models": [{**TAGS["models"][0], "digest": digest[0]}]})
        else:
            await answer_own_call(seen, reply)

    async with staged(Numbered(), own=own, cache=DETERMINISTIC) as stage, stage.client() as client:
        await ask(client)
        digest[0] = "d" * 64
        # Tags are read again for a name that is not among them.
        await ask(client, chat(model=f"{MODEL}:other"))
        assert stage.metric("cache_evictions_total", cache="response", reason="flush") == 1
        assert stage.metric("cache_entries", cache="response") == 0
        answer, cache = await ask(client)
        assert (cache, text_of(answer)) == ("MISS", "number 3")
        assert (await ask(client))[1] == "HIT"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/create"), ("POST", "/api/copy"), ("DELETE", "/api/delete"), ("POST", "/api/pull")],
)
async def test_what_changes_models_through_the_proxy_ends_their_answers(method: str, path: str) -> None:
    numbered = Numbered()

    async def script(seen: Seen, reply: Answering) -> None:
        if seen.path == path:
            reply.json({"status": "success"})
        else:
            await numbered(seen, reply)

    async with staged(script, cache=DETERMINISTIC) as stage, stage.client() as client:
        await ask(client)
        client.post(path, {"model": MODEL}, method=method)
        assert (await client.answer()).status == 200
        assert stage.metric("cache_entries", cache="response") == 0
        assert stage.metric("cache_evictions_total", cache="response", reason="flush") == 1
        answer, cache = await ask(client)
        assert (cache, text_of(answer)) == ("MISS", "number 2")


async def test_a_pull_whose_client_leaves_ends_them_too() -> None:
    numbered = Numbered()
    pulled = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        if seen.path == "/api/pull":
            reply.head()
            reply.frames({"status": "success"})
            await seen.left.wait()
            pulled.set()
        else:
            await numbered(seen, reply)

    async with staged(script, cache=DETERMINISTIC) as stage, stage.client() as client:
        await ask(client)
        leaving = await RawClient.open(stage.address)
        leaving.post("/api/pull", {"model": MODEL})
        await leaving.head()
        await leaving.close()
        async with asyncio.timeout(DEADLINE_S):
            await pulled.wait()
        await until(lambda: stage.metric("cache_evictions_total", cache="response", reason="flush") == 1)


async def test_an_answer_is_kept_for_its_time_only() -> None:
    async with staged(Numbered(), cache={**DETERMINISTIC, "ttl_s": 0.05}) as stage, stage.client() as client:
        await ask(client)

        def is_gone() -> bool:
            stage.proxy.memory.tell()
            return stage.metric("cache_evictions_total", cache="response", reason="ttl") == 1

        await until(is_gone)
        assert stage.metric("cache_entries", cache="response") == 0
        answer, cache = await ask(client)
        assert (cache, text_of(answer)) == ("MISS", "number 2")


async def test_the_one_that_was_not_asked_for_longest_makes_room() -> None:
    async with staged(Numbered(), cache={**DETERMINISTIC, "max_entries": 2}) as stage, stage.client() as client:
        told = [(await ask(client, question(text)))[1] for text in "abacab"]
        assert told == ["MISS", "MISS", "HIT", "MISS", "HIT", "MISS"]
        assert stage.metric("cache_entries", cache="response") == 2
        assert stage.metric("cache_evictions_total", cache="response", reason="size") == 2
        assert stage.metric("cache_hits_total", cache="response") == 2
        assert stage.metric("cache_misses_total", cache="response") == 4


async def test_the_bytes_of_all_answers_are_bounded_and_one_takes_an_eighth_at_most() -> None:
    limit = 2**16

    async def script(seen: Seen, reply: Answering) -> None:
        length = int(seen.json["messages"][0]["content"].partition(" ")[0])
        reply.head()
        reply.frames(chat_token("x" * length), chat_end())
        reply.end()

    async with staged(script, cache={**DETERMINISTIC, "max_bytes": limit}) as stage, stage.client() as client:
        too_large = question(str(limit // 8))
        assert [(await ask(client, too_large))[1] for _ in range(2)] == ["MISS", "MISS"]
        assert stage.metric("cache_size_bytes", cache="response") == 0
        for number in range(40):
            await ask(client, question(f"4000 {number}"))
            assert 0 < stage.metric("cache_size_bytes", cache="response") <= limit
        assert stage.metric("cache_evictions_total", cache="response", reason="size") > 20
        assert (await ask(client, question("4000 39")))[1] == "HIT"


# --- what it costs


async def test_a_hit_does_not_wait_for_a_slot() -> None:
    blocks = asyncio.Event()
    numbered = Numbered()

    async def script(seen: Seen, reply: Answering) -> None:
        if seen.json["messages"][0]["content"] == "long":
            await blocks.wait()
        await numbered(seen, reply)

    async with staged(script, cache=DETERMINISTIC, scheduler={"parallel": 1}) as stage:
        async with stage.client() as busy, stage.client() as client:
            await ask(client)
            busy.post("/api/chat", question("long"))
            await until(lambda: len(stage.calls) == 2)
            answer, cache = await ask(client)
            assert (cache, text_of(answer)) == ("HIT", "number 1")
            blocks.set()
            assert (await busy.answer()).end is End.COMPLETE
        assert stage.proxy.scheduler.slots()[0] == 0


async def test_a_hit_does_not_wait_for_a_load() -> None:
    resident = [True]
    loading, loaded = asyncio.Event(), asyncio.Event()

    async def own(seen: Seen, reply: Answering) -> None:
        if seen.path == "/api/ps" and not resident[0]:
            reply.json({"models": []})
        elif seen.path == "/api/generate" and not resident[0]:
            loading.set()
            await loaded.wait()
            await answer_own_call(seen, reply)
        else:
            await answer_own_call(seen, reply)

    async with staged(Numbered(), own=own, cache=DETERMINISTIC) as stage, stage.client() as client:
        await ask(client)
        resident[0] = False
        stage.proxy.residency.wake()
        async with asyncio.timeout(DEADLINE_S):
            await loading.wait()
        answer, cache = await ask(client)
        assert (cache, text_of(answer)) == ("HIT", "number 1")
        loaded.set()


async def test_a_hit_counts_neither_tokens_nor_a_first_token() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        # As if Ollama had loaded the model for it.
        reply.frames(chat_token("x"), {**chat_end(), "load_duration": 9 * 10**9})
        reply.end()

    async with staged(script, cache=DETERMINISTIC) as stage, stage.client() as client:
        await ask(client)
        (first,) = await stage.rows()
        names = [
            "llm_tokens_total",
            "llm_request_tokens_count",
            "llm_time_to_first_token_seconds_count",
            "llm_inter_chunk_latency_seconds_count",
            "llm_load_duration_seconds_count",
            "llm_finished_total",
            "pilotlight_overhead_seconds_count",
        ]
        before = all_samples(stage, names)
        assert before
        await ask(client)
        second, _ = await stage.rows(2)
        assert all_samples(stage, names) == before
        assert first["start"] == "cold"
        assert "reused" not in first
        assert second["reused"] == "cache"
        assert second["start"] != "cold"
        assert second["load_ms"] == 0
        assert "tokens_out" not in second
        assert (second["status"], second["outcome"], second["stream"]) == (200, "ok", True)
        assert stage.metric("cache_hits_total", cache="response") == 1


def all_samples(stage: Stage, names: list[str]) -> dict[str, float]:
    """Samples with one of these names, whatever their labels; a name that is no metric is left out."""
    page = stage.proxy.metrics.encode()[0].decode()
    found = {}
    for line in page.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in names:
            key, _, value = line.rpartition(" ")
            found[key] = float(value)
    return found


# --- clients


async def large(seen: Seen, reply: Answering) -> None:
    reply.head()
    for _ in range(100):
        reply.raw(framed(ndjson(chat_token("x" * 60_000))))
        await reply.drain()
    reply.frames(chat_end())
    reply.end()


@pytest.mark.parametrize("how", Leave)
async def test_a_client_that_leaves_in_a_replay_ends_it(how: Leave) -> None:
    async with staged(large, cache=DETERMINISTIC) as stage:
        async with stage.client() as client:
            whole, _ = await ask(client)
        leaving = await RawClient.open(stage.address, limit=1024)
        leaving.writer.transport.pause_reading()
        leaving.post("/api/chat", question())
        await until(lambda: any(call.reply.started for call in stage.proxy.relay.active))
        leaving.leave(how)
        await until(lambda: not stage.proxy.relay.active)
        row, _ = await stage.rows(2)
        assert (row["outcome"], row["client_left"], row["reused"]) == ("cancelled", "streaming", "cache")
        await leaving.close()
        async with stage.client() as client:
            again, cache = await ask(client)
            assert (cache, again.body) == ("HIT", whole.body)
        assert len(stage.calls) == 1


async def test_a_client_that_reads_slowly_holds_no_copy_of_a_kept_answer_in_memory() -> None:
    async with staged(large, cache=DETERMINISTIC) as stage:
        async with stage.client() as client:
            whole, _ = await ask(client)
        async with stage.client(limit=1024) as slow, stage.client() as other:
            slow.writer.transport.pause_reading()
            slow.post("/api/chat", question())
            await until(lambda: any(call.reply.started for call in stage.proxy.relay.active))
            (call,) = stage.proxy.relay.active
            transport = call.reply._connection.transport
            assert transport is not None
            # Others are served meanwhile.
            for _ in range(3):
                assert (await ask(other))[1] == "HIT"
            assert 0 < transport.get_write_buffer_size() < 512 * 1024
            slow.writer.transport.resume_reading()
            answer = await slow.answer()
            assert answer.body == whole.body


# --- off


async def test_without_being_asked_for_nothing_is_kept_and_nothing_is_told() -> None:
    async with staged(Numbered()) as stage, stage.client() as client:
        for number in (1, 2):
            answer, cache = await ask(client)
            assert (cache, text_of(answer)) == (None, f"number {number}")
            assert answer.header("age") is None
            assert answer.header("x-pilotlight-shared") is None
        assert stage.metric("cache_entries", cache="response") == 0
        for name in ("cache_hits_total", "cache_misses_total"):
            assert stage.metric(name, cache="response") == 0
        assert all(stage.metric("cache_bypass_total", reason=reason) == 0 for reason in ("sampling", "header", "other"))
        assert all("reused" not in row for row in await stage.rows(2))
