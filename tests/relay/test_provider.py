"""Where Ollama cannot answer, a provider with OpenAI's API is asked in its own words, and its answer is Ollama's.

Two stand for it: a server under a script, and the simulated Ollama's own ``/v1``, whose native answers say what the
translated ones have to be.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import ollama
import openai
import pytest
from structlog.testing import capture_logs

from proxy.errors import UpstreamBroken
from proxy.relay.courier import nothing
from proxy.relay.provider import ProviderSink
from proxy.rewrite.provider.plan import plan
from proxy.simulator.simulated import SimulatedOllama
from proxy.wire.gojson import read_object
from proxy.wire.http1 import ReplyHead
from proxy.wire.routes import Family, classify
from tests.e2e.pair import paired
from tests.peers import DEADLINE_S, Answering, End, Leave, RawClient, Seen, client, until, upstream
from tests.relay.test_fallback import ask, closes, told
from tests.stage import MODEL, chat, generate, sse, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.errors import PilotlightError
    from tests.e2e.pair import Pair
    from tests.peers import Answer, Script, ScriptedUpstream
    from tests.stage import Stage

KEY = "sk-Secret-1"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
DONE = b"data: [DONE]\n\n"
# What a provider tells and nobody here has to know.
NOISE = ("Set-Cookie: a=b", "Server: cloud", "X-RateLimit-Remaining: 9", "OpenAI-Organization: us", "Date: today")


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    return sse({"id": "c1", "object": "chat.completion.chunk", "model": "theirs", "choices": choices, **more})


async def answers(seen: Seen, reply: Answering) -> None:
    """A whole answer in the shape of its route."""
    if seen.path.endswith("/embeddings"):
        reply.json({"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "model": "theirs", "usage": USAGE})
    elif seen.json.get("stream"):
        reply.head(200, "text/event-stream; charset=utf-8", *NOISE)
        for piece in (chunk({"content": "a"}), b": still here\n\n", chunk({}, "stop"), chunk(usage=USAGE), DONE):
            reply.chunk(piece)
        reply.end()
    else:
        said = {"role": "assistant", "content": "a"}
        choices = [{"index": 0, "message": said, "text": "a", "finish_reason": "stop"}]
        reply.json({"id": "c1", "model": "theirs", "choices": choices, "usage": USAGE})


@contextlib.asynccontextmanager
async def behind(
    provider: Script, *, then: list[dict[str, Any]] | None = None, path: str = "/api/v9", **settings: Any
) -> AsyncIterator[tuple[Stage, ScriptedUpstream]]:
    """An Ollama that answers nobody, and a provider."""
    async with upstream(provider) as server:
        entry = {"url": server.url + path, "kind": "openai", "key_env": "PROVIDER_KEY", "models": {MODEL: "theirs"}}
        fallback = [entry, *(then or [])]
        async with staged(closes, fallback=fallback, fallback_keys={"PROVIDER_KEY": KEY}, **settings) as stage:
            yield stage, server


def frames(answer: Answer) -> list[Any]:
    return [json.loads(line) for line in answer.body.splitlines()]


# --- what it is asked


async def test_a_chat_is_asked_in_its_words_with_its_key_and_nothing_of_the_clients_head() -> None:
    async with behind(answers) as (stage, server):
        shown = ("Authorization: Bearer client", "X-API-Key: client", "Cookie: client", "X-Request-Id: mine")
        answer = await ask(stage, chat(options={"num_predict": 5}), "/api/chat?x=1", *shown, "Origin: http://localhost")
        assert (answer.status, answer.end) == (200, End.COMPLETE)
        (seen,) = server.seen
        assert (seen.method, seen.target) == ("POST", "/api/v9/chat/completions")
        assert seen.json == {
            "model": "theirs",
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 5,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        assert {name.lower(): value for name, value in seen.fields} == {
            "host": server.address,
            "user-agent": seen.header("user-agent"),
            "accept": "text/event-stream",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "content-length": str(len(seen.body)),
            "authorization": f"Bearer {KEY}",
        }
        assert re.fullmatch(r"pilotlight/[\w.]+", seen.header("user-agent") or "")


async def test_without_a_path_its_api_starts_at_v1() -> None:
    async with behind(answers, path="") as (stage, server):
        assert (await ask(stage)).status == 200
        assert server.seen[0].target == "/v1/chat/completions"


async def test_without_a_key_none_is_shown() -> None:
    async with upstream(answers) as server:
        fallback = [{"url": server.url, "kind": "openai", "models": {MODEL: "theirs"}}]
        async with staged(closes, fallback=fallback) as stage:
            assert (await ask(stage, None, "/api/chat", "Authorization: Bearer client")).status == 200
        assert server.seen[0].header("authorization") is None


# --- what comes back


async def test_its_stream_is_ollamas_stream() -> None:
    async with behind(answers) as (stage, server):
        answer = await ask(stage)
        assert [name.lower() for name, _ in answer.fields if not name.lower().startswith("x-")] == [
            *("content-type", "date", "cache-control", "server-timing", "transfer-encoding")
        ]
        assert answer.header("content-type") == "application/x-ndjson"
        assert answer.header("x-pilotlight-upstream") == server.address
        first, last = frames(answer)
        assert (first["model"], first["message"]["content"], first["done"]) == (MODEL, "a", False)
        assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("stop", 3, 2)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", last["created_at"])
        assert told(stage, server) == (1, 0)
        (row,) = await stage.rows()
        assert (row["outcome"], row["tokens_in"], row["tokens_out"], row["stream"]) == ("ok", 3, 2, True)
        assert "ttft_ms" in row
        assert stage.metric("llm_tokens_total", model=f"{MODEL}:latest", type="output") == 2


async def test_a_piece_goes_on_when_it_comes() -> None:
    go_on = asyncio.Event()

    async def framed(seen: Seen, reply: Answering) -> None:
        # In chunks that are cut anywhere, for which no line is.
        reply.head(200, "text/event-stream")
        data = chunk({"content": "a"}) + chunk({"content": "b"})
        for start in range(0, len(data), 7):
            reply.chunk(data[start : start + 7])
            await reply.turn()
        await go_on.wait()
        reply.chunk(chunk({}, "stop") + DONE.rstrip())
        reply.end()

    async with behind(framed) as (stage, _), stage.client() as opened:
        opened.post("/api/chat", chat())
        await opened.head()
        got = b""
        while got.count(b"\n") < 2:
            got += await opened.chunk()
        assert [json.loads(line)["message"]["content"] for line in got.splitlines()] == ["a", "b"]
        go_on.set()
        assert json.loads(await opened.chunk())["done"] is True


@pytest.mark.parametrize(
    ("path", "body", "there"),
    [
        ("/v1/chat/completions", chat(stream=False), "/api/v9/chat/completions"),
        ("/v1/completions", {"model": MODEL, "prompt": "hi"}, "/api/v9/completions"),
        ("/v1/embeddings", {"model": MODEL, "input": "hi"}, "/api/v9/embeddings"),
    ],
)
async def test_a_v1_call_goes_there_as_it_came_and_comes_back_under_our_name(
    path: str, body: dict[str, Any], there: str
) -> None:
    async with behind(answers) as (stage, server):
        answer = await ask(stage, body, path)
        assert (answer.status, answer.header("content-type")) == (200, "application/json")
        assert (answer.json["model"], answer.json["usage"]) == (MODEL, USAGE)
        assert (server.seen[0].path, server.seen[0].json) == (there, {**body, "model": "theirs"})
        (row,) = await stage.rows()
        assert (row["outcome"], row["tokens_in"]) == ("ok", 3)


async def test_a_v1_stream_keeps_its_events() -> None:
    async with behind(answers) as (stage, _):
        answer = await ask(stage, chat(stream=True), "/v1/chat/completions")
        assert answer.header("content-type") == "text/event-stream"
        expected = chunk({"content": "a"}) + b": still here\n\n" + chunk({}, "stop") + chunk(usage=USAGE) + DONE
        assert answer.body == expected.replace(b'"theirs"', f'"{MODEL}"'.encode())


@pytest.mark.parametrize("stream", [True, False])
async def test_a_generate_is_answered_as_one_and_can_go_on_there(stream: bool) -> None:
    async with behind(answers) as (stage, server):
        answer = await ask(stage, generate(stream=stream, system="be brief"), "/api/generate")
        last = frames(answer)[-1]
        assert "".join(frame["response"] for frame in frames(answer)) == "a"
        assert (last["done_reason"], last["eval_count"]) == ("stop", 2)
        again = await ask(stage, generate(stream=stream, prompt="more", context=last["context"]), "/api/generate")
        assert again.status == 200
        told_then = [(message["role"], message["content"]) for message in server.seen[1].json["messages"]]
        assert told_then == [("system", "be brief"), ("user", "hi"), ("assistant", "a"), ("user", "more")]


# --- who is asked


NOT_FOR_IT: list[tuple[str, Any]] = [
    ("/api/chat", chat(model="another")),
    ("/api/chat", chat(options={"top_k": 1})),
    ("/api/generate", generate(raw=True)),
    ("/api/embeddings", {"model": MODEL, "prompt": "hi"}),
    ("/v1/messages", chat(max_tokens=1)),
    ("/v1/responses", {"model": MODEL, "input": "hi"}),
    ("/v1/chat/completions", b"not json"),
]


async def test_what_is_not_for_it_goes_past_it_to_the_next() -> None:
    async def ok(seen: Seen, reply: Answering) -> None:
        reply.json({"fine": True})

    async with upstream(ok) as second, behind(answers, then=[{"url": second.url}]) as (stage, server):
        for path, body in NOT_FOR_IT:
            answer = await ask(stage, body, path)
            assert (answer.status, answer.json) == (200, {"fine": True})
            assert answer.header("x-pilotlight-upstream") == second.address
        assert not server.seen
        assert (told(stage, server), told(stage, second)) == ((0, 0), (len(NOT_FOR_IT), 0))


async def test_where_there_is_nobody_else_the_first_error_is_told() -> None:
    async with behind(answers) as (stage, server):
        answer = await ask(stage, chat(model="another"))
        assert (answer.status, answer.header("x-pilotlight-error")) == (502, "upstream_broken")
        assert answer.header("x-pilotlight-upstream") is None
        assert not server.seen


# --- what goes wrong


@pytest.mark.parametrize(
    ("path", "error"),
    [("/api/chat", lambda body: body["error"]), ("/v1/chat/completions", lambda body: body["error"]["message"])],
)
async def test_what_it_says_about_the_request_is_the_answer_in_the_shape_of_the_api(path: str, error: Any) -> None:
    status = 0

    async def refuses(seen: Seen, reply: Answering) -> None:
        reply.json({"error": {"message": f"no such thing; key {KEY}", "type": "invalid", "code": "x"}}, status)

    async with behind(refuses) as (stage, server):
        for status in (400, 413, 422):
            for stream in (True, False):
                answer = await ask(stage, chat(stream=stream), path)
                assert (answer.status, answer.end) == (status, End.COMPLETE)
                assert error(answer.json) == "no such thing; key (key)"
                assert answer.header("x-pilotlight-upstream") == server.address
        assert told(stage, server) == (6, 0)


async def test_what_says_nothing_about_the_request_leads_to_the_next() -> None:
    statuses = [301, 401, 402, 403, 404, 408, 429, 500, 503]
    left = [*statuses]

    async def away(seen: Seen, reply: Answering) -> None:
        reply.json({"error": {"message": f"Incorrect API key provided: {KEY}"}}, left.pop(0))

    async with upstream(answers) as second:
        entry = {"url": second.url, "kind": "openai", "models": {MODEL: "other"}}
        async with behind(away, then=[entry]) as (stage, server):
            while left:
                answer = await ask(stage)
                assert (answer.status, answer.header("x-pilotlight-upstream")) == (200, second.address)
            assert (told(stage, server), told(stage, second)) == ((0, len(statuses)), (len(statuses), 0))
            assert second.seen[0].json["model"] == "other"


async def test_a_key_that_is_refused_is_logged_once_and_told_to_no_client() -> None:
    async def refuses(seen: Seen, reply: Answering) -> None:
        reply.json({"error": {"message": f"Incorrect API key provided: {KEY}"}}, 401)

    async with behind(refuses) as (stage, server):
        with capture_logs() as logs:
            for _ in range(2):
                answer = await ask(stage)
                assert (answer.status, answer.header("x-pilotlight-error")) == (502, "upstream_broken")
                assert KEY.encode() not in answer.body
        found = [entry for entry in logs if "refuses its key" in entry["event"]]
        assert [(entry["fallback"], entry["status"]) for entry in found] == [(server.address, 401)]
        assert KEY not in repr(logs)


async def nonsense(seen: Seen, reply: Answering) -> None:
    reply.whole(b"<html>", 200, "text/html")


async def not_a_stream(seen: Seen, reply: Answering) -> None:
    reply.json({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]})


async def compressed(seen: Seen, reply: Answering) -> None:
    reply.head(200, "text/event-stream", "Content-Encoding: gzip")
    reply.end()


async def an_error_under_200(seen: Seen, reply: Answering) -> None:
    reply.json({"error": {"message": "no credits"}})


async def test_what_is_no_answer_is_passed_over() -> None:
    cases = [(nonsense, True), (nonsense, False), (not_a_stream, True), (compressed, True), (an_error_under_200, False)]
    scripts = iter([script for script, _ in cases])

    async def provider(seen: Seen, reply: Answering) -> None:
        await next(scripts)(seen, reply)

    async with upstream(answers) as second:
        entry = {"url": second.url, "kind": "openai", "models": {MODEL: "other"}}
        async with behind(provider, then=[entry]) as (stage, server):
            for _, stream in cases:
                answer = await ask(stage, chat(stream=stream))
                assert (answer.status, answer.header("x-pilotlight-upstream")) == (200, second.address)
            assert told(stage, server) == (0, len(cases))


async def breaks_off(seen: Seen, reply: Answering) -> None:
    reply.head(200, "text/event-stream")
    reply.chunk(chunk({"content": "a"}))
    await reply.turn()
    reply.raw(b"40\r\ndata: {")
    await reply.turn()
    reply.rst()


async def ends_early(seen: Seen, reply: Answering) -> None:
    reply.head(200, "text/event-stream")
    reply.chunk(chunk({"content": "a"}))
    reply.end()


async def ends_without_a_reason(seen: Seen, reply: Answering) -> None:
    reply.head(200, "text/event-stream")
    reply.chunk(chunk({"content": "a"}) + DONE)
    reply.end()


@pytest.mark.parametrize("provider", [breaks_off, ends_early, ends_without_a_reason])
async def test_a_stream_that_breaks_off_is_told_and_nobody_else_is_asked(provider: Script) -> None:
    async with upstream(answers) as second:
        entry = {"url": second.url, "kind": "openai", "models": {MODEL: "other"}}
        async with behind(provider, then=[entry]) as (stage, server):
            answer = await ask(stage)
            assert (answer.status, answer.end) == (200, End.CUT)
            first, last = frames(answer)
            assert (first["message"]["content"], list(last)) == ("a", ["error"])
            assert not second.seen
            assert told(stage, server) == (0, 1)
            (row,) = await stage.rows()
            assert (row["outcome"], row["incomplete"], row["error"]) == ("upstream_error", True, "upstream_broken")


async def test_an_error_under_way_is_ollamas_error_line() -> None:
    async def fails(seen: Seen, reply: Answering) -> None:
        reply.head(200, "text/event-stream")
        reply.chunk(chunk({"content": "a"}))
        reply.chunk(sse({"error": {"message": f"overloaded {KEY}", "code": 529}}, "error"))
        reply.end()

    async with behind(fails) as (stage, _):
        answer = await ask(stage)
        assert frames(answer)[-1] == {"error": "overloaded (key)"}
        (row,) = await stage.rows()
        assert row["outcome"] == "upstream_error"


class Taken:
    """A sink that remembers what it was given."""

    def __init__(self) -> None:
        self.payload = b""
        self.ends: list[PilotlightError | None] = []
        self.heads: list[ReplyHead] = []

    def on_head(self, head: ReplyHead) -> None:
        self.heads.append(head)

    def on_body(self, raw: bytes, payload: bytes) -> None:
        assert payload in raw
        self.payload += payload

    def on_end(self) -> None:
        self.ends.append(None)

    def on_failure(self, error: PilotlightError) -> None:
        self.ends.append(error)


def translating(body: dict[str, Any], on_activity: Any = nothing) -> tuple[Taken, ProviderSink]:
    obj = read_object(json.dumps(body).encode())
    assert obj is not None
    planned = plan(classify("POST", "/api/chat"), obj, "theirs", own_context=True, stamp=lambda: "now")
    assert planned is not None
    taken = Taken()
    return taken, ProviderSink(taken, planned, Family.API, KEY, on_activity)


def head(status: int = 200, kind: bytes = b"text/event-stream") -> ReplyHead:
    return ReplyHead(status, b"OK", ((b"Content-Type", kind),), True, None, False, kind)


def test_a_provider_that_says_that_it_is_still_there_is_not_silent() -> None:
    activity: list[bool] = []
    taken, sink = translating(chat(), lambda: activity.append(True))
    sink.on_head(head())
    for piece in (b": still", b" here\n\n"):
        sink.on_body(piece, piece)
    assert (len(activity), taken.payload) == (2, b"")
    sink.on_body(b"", chunk({"content": "a"}))
    assert len(activity) == 2
    assert taken.payload


def test_a_whole_answer_beyond_all_measure_is_given_up_and_nothing_follows() -> None:
    taken, sink = translating(chat(stream=False))
    sink.on_head(head(kind=b"application/json"))
    for _ in range(65):
        sink.on_body(b"", bytes(2**20))
    sink.on_end()
    sink.on_failure(UpstreamBroken("late"))
    assert [error.message for error in taken.ends if error] == ["the provider's reply is too large"]
    assert not taken.heads


@pytest.mark.parametrize("how", Leave)
async def test_a_client_that_leaves_ends_the_call_there(how: Leave) -> None:
    async def slow(seen: Seen, reply: Answering) -> None:
        reply.head(200, "text/event-stream")
        reply.chunk(chunk({"content": "a"}))
        await seen.left.wait()

    async with behind(slow) as (stage, server):
        leaving = await RawClient.open(stage.address)
        leaving.post("/api/chat", chat())
        await leaving.head()
        leaving.leave(how)
        async with asyncio.timeout(DEADLINE_S):
            await server.seen[0].left.wait()
        await leaving.close()
        (row,) = await stage.rows()
        assert (row["outcome"], row["client_left"]) == ("cancelled", "streaming")


async def test_its_key_is_on_no_page_in_no_header_and_in_no_log() -> None:
    async with behind(answers) as (stage, server):
        with capture_logs() as logs:
            answer = await ask(stage)
            await server.stop()
            failed = await ask(stage)
        assert failed.status == 502
        for page in ("/requests", "/stats", "/models", "/queue"):
            _, shown = await stage.page(page)
            assert KEY not in json.dumps(shown)
        async with client(stage.proxy.admin_address, limit=2**22) as opened:
            opened.get("/metrics", "Connection: close")
            assert KEY.encode() not in (await opened.answer()).body
        assert KEY not in repr((logs, answer.fields, failed.fields, failed.body, stage.proxy._others))


# --- beside the native answers of the same server

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}
OPTIONS = {"temperature": 0, "seed": 1, "num_predict": 12}
HISTORY = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "weather <there>?"},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "get_weather", "arguments": {"a": 1}}}]},
    {"role": "tool", "content": "sunny", "tool_name": "get_weather"},
]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/api/chat", {"messages": [{"role": "user", "content": "tell me"}]}),
    "system": ("/api/chat", {"messages": HISTORY[:2]}),
    "tools": ("/api/chat", {"messages": HISTORY[:2], "tools": [TOOL], "options": {"temperature": 0}}),
    "results": ("/api/chat", {"messages": HISTORY, "think": True}),
    "schema": ("/api/chat", {"messages": HISTORY[1:2], "format": SCHEMA, "options": {"temperature": 0}}),
    "length": ("/api/chat", {"messages": HISTORY[:2], "options": {**OPTIONS, "num_predict": 3}}),
    "stop": ("/api/chat", {"messages": HISTORY[:2], "options": {**OPTIONS, "stop": ["e"]}}),
    "generate": ("/api/generate", {"prompt": "tell me", "system": "be brief"}),
}


def meaning(answer: Answer) -> dict[str, Any]:
    """What an answer says, whole or in frames; without times, and the ids that servers make up."""
    assert answer.status == 200, answer.body
    said: dict[str, Any] = {"content": "", "thinking": "", "tool_calls": []}
    for frame in frames(answer):
        message = frame.get("message", frame)
        said["content"] += message.get("content", message.get("response", ""))
        said["thinking"] += message.get("thinking", "")
        said["tool_calls"] += [call["function"] for call in message.get("tool_calls", ())]
    names = ("model", "done", "done_reason", "prompt_eval_count", "eval_count")
    return said | {name: frame.get(name) for name in names}


@contextlib.asynccontextmanager
async def beside() -> AsyncIterator[tuple[Pair, str]]:
    """A proxy whose Ollama is gone, with another simulated one as its provider; and that one's address."""
    async with SimulatedOllama("demo", speed=float("inf")) as there:
        entry = {
            "url": there.url,
            "kind": "openai",
            "models": {"qwen3:8b": "qwen3:8b", "nomic-embed-text": "nomic-embed-text"},
        }
        async with paired("demo", fallback=[entry]) as pair:
            await pair.until_ready()
            pair.simulated.crash()
            yield pair, f"127.0.0.1:{there.port}"


async def post(address: str, path: str, body: dict[str, Any]) -> Answer:
    async with client(address, limit=2**20) as opened:
        opened.post(path, body)
        return await opened.answer()


async def test_a_native_call_means_the_same_there_as_natively() -> None:
    async with beside() as (pair, there):
        for name, (path, given) in CASES.items():
            for stream in (True, False):
                body = {"model": "qwen3:8b", "options": OPTIONS, "stream": stream, **given}
                expected = await post(there, path, body)
                got = await post(pair.proxied, path, body)
                assert got.header("x-pilotlight-upstream") == there
                assert got.header("content-type") == expected.header("content-type")
                assert meaning(got) == meaning(expected), (name, stream)
                if name in ("tools", "chat"):
                    assert meaning(got)["tool_calls" if name == "tools" else "thinking"]


async def test_texts_are_embedded_there_as_natively() -> None:
    async with beside() as (pair, there):
        for texts in ("hello", ["hello", "world"]):
            body = {"model": "nomic-embed-text", "input": texts}
            expected, got = await post(there, "/api/embed", body), await post(pair.proxied, "/api/embed", body)
            for name in ("model", "embeddings", "prompt_eval_count"):
                assert got.json[name] == expected.json[name]


async def test_the_clients_of_both_apis_notice_nothing() -> None:
    async with beside() as (pair, _):
        async with ollama.AsyncClient(f"http://{pair.proxied}") as native:
            messages = [{"role": "user", "content": "weather?"}]
            parts = [part async for part in await native.chat("qwen3:8b", messages, stream=True, options=OPTIONS)]
            assert (parts[-1].done, parts[-1].done_reason, parts[-1].model) == (True, "length", "qwen3:8b")
            answer = await native.chat("qwen3:8b", messages, tools=[TOOL])
            assert answer.message.tool_calls is not None
            assert answer.message.tool_calls[0].function.name == "get_weather"
        async with openai.AsyncOpenAI(base_url=f"http://{pair.proxied}/v1", api_key="client", max_retries=0) as other:
            stream = await other.chat.completions.create(
                model="qwen3:8b", messages=messages, stream=True, max_tokens=5, stream_options={"include_usage": True}
            )
            chunks = [part async for part in stream]
            assert {part.model for part in chunks} == {"qwen3:8b"}
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.completion_tokens == 5


async def test_a_failure_under_way_is_raised_by_the_client() -> None:
    async with SimulatedOllama("demo", speed=float("inf")) as there:
        entry = {"url": there.url, "kind": "openai", "models": {"qwen3:8b": "qwen3:8b"}}
        async with paired("demo", fallback=[entry]) as pair:
            await pair.until_ready()
            pair.simulated.crash()
            for kind in ("cut", "cut_line", "reset_stream", "clean_end", "error_line"):
                there.fail(kind, after=3, path="/v1/chat/completions")
                async with ollama.AsyncClient(f"http://{pair.proxied}") as native:
                    stream = await native.chat("qwen3:8b", [{"role": "user", "content": "hi"}], stream=True)
                    with pytest.raises(ollama.ResponseError):
                        _ = [part async for part in stream]
            await until(lambda: not pair.proxy.relay.active)
