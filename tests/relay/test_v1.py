"""OpenAI's chat completions and completions: when they are translated, and what becomes of the reply."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from proxy.edge.keys import hash_key, new_key
from tests.peers import Answering, End, Leave, Seen, framed, ndjson, until, upstream
from tests.stage import FINAL, MODEL, MOMENT, VERSION, answer_own_call, chat, chat_end, chat_token, staged

if TYPE_CHECKING:
    from tests.peers import Answer
    from tests.stage import Stage

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
WITH_OPTIONS = {"models": [{"name": MODEL, "options": {"num_thread": 2}}]}
PROMPT = {"model": MODEL, "prompt": "hi"}
TOO_LONG = {"error": "the input length exceeds the context length"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def answers(seen: Seen, reply: Answering) -> None:
    """An answer of two tokens in the shape of its route."""
    if seen.path.startswith("/v1/"):
        reply.json({"object": "chat.completion", "choices": []})
    elif seen.path == "/api/generate":
        reply.head()
        frame = {"model": MODEL, "created_at": MOMENT, "response": "one", "done": False}
        reply.frames(frame, {**frame, "response": "", "done": True, **FINAL})
        reply.end()
    else:
        reply.head()
        reply.frames(chat_token("one "), chat_token("two"), chat_end())
        reply.end()


async def post(stage: Stage, path: str, body: dict[str, Any], *fields: str) -> Answer:
    async with stage.client(limit=2**22) as opened:
        opened.post(path, body, *fields)
        return await opened.answer()


def sent(stage: Stage) -> list[str]:
    return [seen.path for seen in stage.calls]


# --- when


@pytest.mark.parametrize(
    ("settings", "chat_path", "completion_path"),
    [
        ({}, CHAT, COMPLETIONS),
        (WITH_OPTIONS, "/api/chat", "/api/generate"),
        ({"models": [{"name": MODEL, "long_prompts": "refuse"}]}, "/api/chat", "/api/generate"),
        ({"models": [], "defaults": {"options": {"num_gpu": 99}}}, "/api/chat", "/api/generate"),
        ({"v1": "translate"}, "/api/chat", "/api/generate"),
        ({**WITH_OPTIONS, "v1": "passthrough"}, CHAT, COMPLETIONS),
    ],
)
async def test_a_call_is_translated_where_relaying_it_would_change_the_model(
    settings: dict[str, Any], chat_path: str, completion_path: str
) -> None:
    async with staged(answers, awaits_model=False, **settings) as stage:
        assert (await post(stage, CHAT, chat())).status == 200
        assert (await post(stage, COMPLETIONS, PROMPT)).status == 200
        assert sent(stage) == [chat_path, completion_path]
        action = "applied" if chat_path == "/api/chat" else "skipped"
        assert stage.metric("pilotlight_rewrites_total", rule="v1", action=action) == 2


async def test_a_set_that_a_native_call_gave_the_model_counts_as_well() -> None:
    async with staged(answers, models=[], awaits_model=False) as stage:
        await post(stage, "/api/chat", chat(options={"num_thread": 3}))
        await post(stage, CHAT, chat())
        assert sent(stage) == ["/api/chat", "/api/chat"]
        assert stage.calls[-1].json["options"]["num_thread"] == 3


async def test_a_translated_call_carries_what_every_call_for_the_model_does() -> None:
    async with staged(answers, **WITH_OPTIONS) as stage:
        await post(stage, CHAT, chat(keep_alive=0, options={"num_thread": 9, "num_ctx": 65536}, max_tokens=4))
        (seen,) = stage.calls
        assert seen.json == {
            "model": MODEL,
            "messages": [{"role": "user", "content": "hi"}],
            "options": {"temperature": 1, "top_p": 1, "num_predict": 4, "num_thread": 2},
            "keep_alive": -1,
            "stream": True,
        }


@pytest.mark.parametrize("more", [{"messages": []}, {"max_tokens": 1.5}, {"Model": MODEL}, {"model": "nobody"}])
async def test_what_is_not_certain_goes_as_it_came(more: dict[str, Any]) -> None:
    body = {**chat(), **more}
    async with staged(answers, v1="translate") as stage:
        await post(stage, CHAT, body)
        assert [(seen.path, seen.json) for seen in stage.calls] == [(CHAT, body)]


# --- the reply


async def test_a_stream_becomes_events_as_its_frames_come() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_token("one "))
        await reply.turn()
        reply.frames(chat_token("two"), chat_end())
        reply.end()

    async with staged(script, v1="translate") as stage, stage.client() as opened:
        opened.post(CHAT, chat(stream=True, stream_options={"include_usage": True}))
        answer = await opened.answer()
        assert answer.header("content-type") == "text/event-stream"
        assert answer.header("x-accel-buffering") == "no"
        *events, done = answer.body.decode().split("\n\n")[:-1]
        chunks = [json.loads(event.removeprefix("data: ")) for event in events]
        assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks[:-1]) == "one two"
        assert (chunks[-1]["usage"], done) == (USAGE, "data: [DONE]")
        (row,) = await stage.rows()
    told = {name: row.get(name) for name in ("endpoint", "stream", "tokens_in", "tokens_out", "done_reason", "outcome")}
    assert told == {
        "endpoint": "v1_chat",
        "stream": True,
        "tokens_in": 3,
        "tokens_out": 2,
        "done_reason": "stop",
        "outcome": "ok",
    }
    assert row["ttft_ms"] > 0


@pytest.mark.parametrize("stream_upstream", [True, False])
@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (COMPLETIONS, PROMPT)])
async def test_a_whole_answer_is_asked_for_as_a_stream_where_that_is_on(
    path: str, body: dict[str, Any], stream_upstream: bool
) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if seen.json["stream"]:
            await answers(seen, reply)
        else:
            text = {"message": {"role": "assistant", "content": "x" * 2**19}, "response": "x" * 2**19}
            reply.json({"model": MODEL, "created_at": MOMENT, **text, "done": True, **FINAL})

    async with staged(script, v1="translate", relay={"stream_upstream": stream_upstream}) as stage:
        answer = await post(stage, path, body)
        assert answer.header("content-type") == "application/json"
        assert answer.json["usage"] == USAGE
        assert answer.json["choices"][0]["finish_reason"] == "stop"
        assert len(answer.body) > 2**19 or stream_upstream
        assert stage.calls[0].json["stream"] is stream_upstream
        (row,) = await stage.rows()
        assert (row["tokens_out"], row["done_reason"], row["stream"]) == (2, "stop", False)


async def test_a_reason_that_only_openai_has_is_measured_as_it_is_told() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        call = {"id": "call_1", "function": {"index": 0, "name": "f", "arguments": {}}}
        reply.head()
        reply.frames({**chat_token(""), "message": {"role": "assistant", "content": "", "tool_calls": [call]}})
        reply.frames(chat_end())
        reply.end()

    async with staged(script, v1="translate") as stage:
        for stream in (True, False):
            await post(stage, CHAT, chat(stream=stream, tools=[{"type": "function", "function": {"name": "f"}}]))
        rows = await stage.rows(2)
        assert [row["done_reason"] for row in rows] == ["tool_calls"] * 2
        assert all(row["ttft_ms"] > 0 for row in rows)


async def test_the_form_of_a_stream_is_that_of_the_servers_version() -> None:
    async def own(seen: Seen, reply: Answering) -> None:
        if seen.path == "/api/version":
            reply.json({**VERSION, "version": "0.32.6"})
        else:
            await answer_own_call(seen, reply)

    async with staged(answers, own=own, v1="translate") as stage:
        body = (await post(stage, CHAT, chat(stream=True))).body
        assert body.count(b'"role"') == 1
        assert b'"delta":{},"finish_reason":"stop"' in body


# --- what fails


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [400, 404, 500])
async def test_an_error_of_ollamas_keeps_status_and_text(status: int, stream: bool) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.json({"error": "no <good>"}, status)

    async with staged(script, v1="translate") as stage:
        answer = await post(stage, CHAT, chat(stream=stream))
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
    assert answer.status == status
    assert answer.header("content-type") == "application/json"
    assert answer.json == {"error": {"message": "no <good>", "type": kind, "param": None, "code": None}}
    assert answer.header("x-pilotlight-error") is None


@pytest.mark.parametrize("end", ["error line", "clean end", "cut", "cut in a line"])
async def test_a_failure_in_mid_stream_is_an_error_event_and_no_end(end: str) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_token("one "))
        await reply.turn()
        if end == "error line":
            reply.frames({"error": "the runner died"})
        if end == "cut in a line":
            reply.chunk(ndjson(chat_token("two"))[:20])
            await reply.turn()
        if end.startswith("cut"):
            reply.rst()
        else:
            reply.end()

    async with staged(script, v1="translate") as stage:
        answer = await post(stage, CHAT, chat(stream=True))
        (row,) = await stage.rows()
    assert answer.end is not End.COMPLETE
    assert answer.status == 200
    first, last = answer.body.decode().split("\n\n")[:-1]
    assert json.loads(first.removeprefix("data: "))["choices"][0]["delta"]["content"] == "one "
    error = json.loads(last.removeprefix("data: "))["error"]
    text = "the runner died" if end == "error line" else "upstream connection lost before completion"
    assert error == {"message": text, "type": "api_error", "param": None, "code": "upstream_broken"}
    assert (row["outcome"], row["incomplete"], row["error"]) == ("upstream_error", True, "upstream_broken")


async def test_a_stream_that_is_cut_at_any_byte_ends_in_an_error_event() -> None:
    frames = framed(ndjson(chat_token("one "))) + framed(ndjson(chat_end()))
    whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n" + frames
    # Ollama's answer is whole with the line end of its last frame; what follows is framing.
    is_told = len(whole) - len(b"\r\n")

    async def script(seen: Seen, reply: Answering) -> None:
        cut = int(seen.header("x-cut") or 0)
        reply.raw((whole + b"0\r\n\r\n")[:cut])
        await reply.turn()
        if cut % 2:
            reply.rst()
        else:
            reply.fin()

    async def one(stage: Stage, cut: int) -> None:
        answer = await post(stage, CHAT, chat(stream=True), f"X-Cut: {cut}")
        if answer.status != 200:
            assert (answer.status, answer.json["error"]["code"], answer.end) == (502, None, End.COMPLETE), cut
            return
        assert answer.end in (End.CUT, End.RESET), cut
        events = answer.body.decode().split("\n\n")[:-1]
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "upstream_broken", cut
        assert ("data: [DONE]" in events) == (cut >= is_told), cut

    async with staged(script, v1="translate") as stage:
        for start in range(0, len(whole) + 5, 64):
            cuts = range(start, min(start + 64, len(whole) + 5))
            await asyncio.gather(*(one(stage, cut) for cut in cuts))
        assert stage.metric("pilotlight_rewrites_total", rule="v1", action="applied") == len(whole) + 5
        labels = {"model": f"{MODEL}:latest", "endpoint": "v1_chat", "status": "upstream_error"}
        assert stage.metric("llm_calls_total", **labels) == len(whole) + 5


async def test_a_translated_call_that_leaves_the_queue_takes_no_place_with_it() -> None:
    go_on = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        if len(stage.calls) == 1:
            await go_on.wait()
        await answers(seen, reply)

    async with staged(script, v1="translate", scheduler={"parallel": 1}) as stage, stage.client() as running:
        running.post(CHAT, chat())
        await until(lambda: len(stage.calls) == 1)
        for how in Leave:
            async with stage.client() as leaving:
                leaving.post(CHAT, chat(stream=True))
                await until(lambda: len(stage.proxy.relay.active) == 2)
                leaving.leave(how)
                await until(lambda: len(stage.proxy.relay.active) == 1, 0.5)
        go_on.set()
        assert (await running.answer()).status == 200
        assert (await post(stage, CHAT, chat())).status == 200
        assert sent(stage) == ["/api/chat"] * 2
        rows = await stage.rows(5)
        assert sorted(row["outcome"] for row in rows) == ["cancelled"] * 3 + ["ok"] * 2
        assert {row["client_left"] for row in rows if row["outcome"] == "cancelled"} == {"queued"}


async def test_an_error_after_tokens_is_a_500_where_no_stream_is_wanted() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_token("one "), {"error": "the runner died"})
        reply.end()

    async with staged(script, v1="translate") as stage:
        answer = await post(stage, CHAT, chat())
    assert (answer.status, answer.json["error"]["message"], answer.end) == (500, "the runner died", End.COMPLETE)


async def test_a_long_prompt_is_told_as_for_a_native_call() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if seen.json.get("truncate") is False:
            reply.json(TOO_LONG, 400)
        else:
            await answers(seen, reply)

    async with staged(script, models=[{"name": MODEL, "long_prompts": "tell"}]) as stage:
        answer = await post(stage, CHAT, chat())
        assert (answer.status, answer.header("x-pilotlight-prompt")) == (200, "cut")
    async with staged(script, models=[{"name": MODEL, "long_prompts": "refuse"}]) as stage:
        answer = await post(stage, CHAT, chat(stream=True))
        assert (answer.status, answer.json["error"]["message"]) == (400, TOO_LONG["error"])


# --- what else a native call has


async def test_an_answer_that_is_kept_serves_both_apis() -> None:
    async with staged(answers, v1="translate", cache={"mode": "all"}) as stage:
        native = chat(options={"temperature": 1, "top_p": 1})
        outcomes = []
        for path, body in ((CHAT, chat(stream=True)), (CHAT, chat()), ("/api/chat", native)):
            answer = await post(stage, path, body)
            outcomes.append(answer.header("x-cache"))
            assert "one " in answer.body.decode()
        assert outcomes == ["MISS", "HIT", "HIT"]
        assert sent(stage) == ["/api/chat"]


async def test_a_completion_without_a_temperature_is_not_deterministic() -> None:
    async with staged(answers, v1="translate", cache={"mode": "deterministic"}) as stage:
        outcomes = [
            (await post(stage, CHAT, chat(**more))).header("x-cache")
            for more in ({}, {"temperature": 0}, {"temperature": 0}, {"seed": 3})
        ]
        assert outcomes == ["BYPASS", "MISS", "HIT", "MISS"]


async def test_identical_calls_share_one_run() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_token("one "))
        await reply.turn()
        while len(stage.proxy.relay.active) < 2:
            await reply.turn()
        reply.frames(chat_end())
        reply.end()

    async with staged(script, v1="translate", share_identical=True) as stage, stage.client() as one:
        one.post(CHAT, chat(temperature=0, stream=True))
        await one.head()
        async with stage.client() as other:
            other.post(CHAT, chat(temperature=0))
            answer = await other.answer()
        assert answer.json["choices"][0]["message"]["content"] == "one "
        assert answer.header("x-pilotlight-shared") == "1"
        assert sent(stage) == ["/api/chat"]


async def test_a_fallback_is_asked_in_the_clients_own_words() -> None:
    async def breaks(seen: Seen, reply: Answering) -> None:
        reply.fin()

    async with upstream(answers) as second, staged(breaks, **WITH_OPTIONS, fallback=[{"url": second.url}]) as stage:
        answer = await post(stage, CHAT, chat())
        assert answer.status == 200
        assert {seen.path for seen in stage.calls} == {"/api/chat"}
        assert [(seen.path, seen.json) for seen in second.seen] == [(CHAT, chat())]


@pytest.mark.parametrize(
    ("body", "status"), [(chat(), 403), (chat(model="other"), 404), (chat() | {"Model": "other"}, 400)]
)
async def test_a_key_is_for_its_models_only(body: dict[str, Any], status: int) -> None:
    key = new_key(b"k" * 32)
    listed = [{"name": "k", "hash": hash_key(key), "models": ["other*"]}]
    async with staged(answers, v1="translate", keys=listed) as stage:
        answer = await post(stage, CHAT, body, f"Authorization: Bearer {key}")
        # A model that nobody has is Ollama's to refuse.
        assert answer.status == (200 if status == 404 else status)
        assert sent(stage) == ([CHAT] if status == 404 else [])
