"""Single texts to embed leave together where the settings say so, and nobody can tell but by the clock."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import struct
from typing import TYPE_CHECKING, Any

import ollama
import openai
import pytest

from tests.e2e.pair import paired
from tests.peers import DEADLINE_S, Answering, End, Leave, RawClient, Seen, until
from tests.stage import MODEL, chat, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.peers import Answer
    from tests.stage import Stage

BATCH = {MODEL: {"max": 4}}
# Numbers as no serializer of ours would write them.
VECTORS = {"a": "[0.10,1e-07,-0]", "b": "[1.0, 2E+2,0.30000000000000004]", "c": "[123456789.12345679]"}
TOO_LONG = {"error": "the input length exceeds the context length"}
QUEUE_FULL = {"error": "server busy, please try again.  maximum pending requests exceeded"}


def one(text: object, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": text, **more}


def texts_of(seen: Seen) -> list[str]:
    given = seen.json["input"]
    return [given] if isinstance(given, str) else given


def reply_for(texts: list[str], count: int | None = None) -> bytes:
    vectors = ",".join(VECTORS.get(text, "[9]") for text in texts)
    counted = "" if count is None else f',"prompt_eval_count":{count}'
    return f'{{"model":"{MODEL}","embeddings":[{vectors}],"total_duration":14,"load_duration":1{counted}}}'.encode()


class Held:
    """Answers embeddings; the first one when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self._is_first = True

    async def __call__(self, seen: Seen, reply: Answering) -> None:
        is_first, self._is_first = self._is_first, False
        if is_first:
            await self.go_on.wait()
        texts = texts_of(seen)
        if "too long" in texts:
            reply.json(TOO_LONG, 400)
        else:
            reply.whole(reply_for(texts, len(texts)))


@contextlib.asynccontextmanager
async def behind(stage: Stage, *bodies: dict[str, Any]) -> AsyncIterator[list[RawClient]]:
    """Clients that came while another one's text is under way, each in its turn."""
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for body in bodies:
            opened = await stack.enter_async_context(stage.client())
            count = len(stage.proxy.relay.active)
            opened.post("/api/embed", body)
            # The next one comes when this one waits.
            await until(lambda count=count: len(stage.proxy.relay.active) == count + 1 and _is_gathered(stage, count))
            clients.append(opened)
        yield clients


def _is_gathered(stage: Stage, count: int) -> bool:
    return sum(call.timeline.sent is not None for call in stage.proxy.relay.active) == count + 1


async def answers(clients: list[RawClient]) -> list[Answer]:
    return [await each.answer() for each in clients]


# --- alone


async def test_one_text_alone_leaves_at_once_as_it_came() -> None:
    held = Held()
    held.go_on.set()
    async with staged(held, embed_batch=BATCH) as stage, stage.client() as client:
        client.post("/api/embed", b'{ "model":"tiny" ,"input":"\\u0061","options":{"seed":1}}')
        answer = await client.answer()
        assert (answer.status, answer.end, answer.body) == (200, End.COMPLETE, reply_for(["a"], 1))
        assert answer.header("content-type") == "application/json; charset=utf-8"
        assert answer.header("content-length") == str(len(answer.body))
        assert answer.header("x-request-id")
        (seen,) = stage.calls
        assert seen.body == b'{ "model":"tiny" ,"input":"\\u0061","options":{"seed":1},"keep_alive":-1}'
        (row,) = await stage.rows()
        assert (row["endpoint"], row["status"], row["outcome"], row["tokens_in"]) == ("api_embed", 200, "ok", 1)
        assert stage.metric("pilotlight_embed_batches_total") == 0
        assert stage.metric("llm_tokens_total", model=f"{MODEL}:latest", type="input") == 1
        assert stage.proxy.scheduler.slots()[0] == 0


# --- together


async def test_what_comes_meanwhile_leaves_as_one_and_each_gets_its_own_vector_as_it_was_written() -> None:
    held = Held()
    async with staged(held, embed_batch=BATCH) as stage:
        async with behind(stage, one("first"), one("b"), one(["a"]), one("c")) as clients:
            held.go_on.set()
            got = await answers(clients)
        assert [texts_of(seen) for seen in stage.calls] == [["first"], ["b", "a", "c"]]
        assert stage.calls[1].json == {"model": MODEL, "input": ["b", "a", "c"], "keep_alive": -1}
        # Ollama's members in Ollama's order; the count of tokens is nobody's alone.
        assert [answer.body for answer in got[1:]] == [reply_for([text]) for text in ("b", "a", "c")]
        assert {answer.status for answer in got} == {200}
        assert len({answer.header("x-request-id") for answer in got}) == 4
        assert stage.metric("pilotlight_embed_batches_total") == 1
        assert stage.metric("pilotlight_embed_batched_texts_total") == 3
        assert stage.metric("llm_tokens_total", model=f"{MODEL}:latest", type="input") == 4
        rows = await stage.rows(4)
        assert [(row["endpoint"], row["status"], row["outcome"]) for row in rows] == [("api_embed", 200, "ok")] * 4
        assert stage.metric("llm_calls_total", model=f"{MODEL}:latest", endpoint="api_embed", status="ok") == 4
        assert stage.proxy.scheduler.slots()[0] == 0


async def test_no_more_leave_together_than_may_and_the_order_is_kept() -> None:
    held = Held()
    async with staged(held, embed_batch=BATCH) as stage:
        texts = ["first", *(f"text {number}" for number in range(7))]
        async with behind(stage, *map(one, texts)) as clients:
            held.go_on.set()
            assert {answer.status for answer in await answers(clients)} == {200}
        assert [texts_of(seen) for seen in stage.calls] == [texts[:1], texts[1:5], texts[5:]]


async def test_a_batch_takes_one_place_and_waits_for_it() -> None:
    held = Held()
    chatting = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        if seen.path == "/api/chat":
            await chatting.wait()
            reply.json({"error": "enough"}, 400)
        else:
            await held(seen, reply)

    async with staged(script, embed_batch=BATCH, scheduler={"parallel": 1}) as stage, stage.client() as other:
        other.post("/api/chat", chat())
        await until(lambda: len(stage.calls) == 1)
        async with stage.client() as first, stage.client() as second, stage.client() as third:
            for each in (first, second, third):
                each.post("/api/embed", one("a"))
            await until(lambda: len(stage.proxy.relay.active) == 4)
            await until(lambda: len(stage.proxy.scheduler.snapshot(0.0).waiting) == 1)
            held.go_on.set()
            chatting.set()
            assert {answer.status for answer in await answers([first, second, third])} == {200}
        assert [texts_of(seen) for seen in stage.calls[1:]] == [["a"], ["a", "a"]]
        assert stage.proxy.scheduler.slots()[0] == 0


async def test_calls_that_show_the_same_credential_leave_together_with_it() -> None:
    held = Held()
    shown = "Authorization: Bearer a"
    async with staged(held, embed_batch=BATCH) as stage:
        async with stage.client() as first, stage.client() as second, stage.client() as third, stage.client() as other:
            first.post("/api/embed", one("first"), shown)
            await until(lambda: len(stage.calls) == 1)
            second.post("/api/embed", one("a"), shown, "X-Request-Id: mine")
            third.post("/v1/embeddings", one("b"), "authorization: Bearer a")
            await until(lambda: len(stage.proxy.relay.active) == 3 and _is_gathered(stage, 2))
            other.post("/api/embed", one("c"), "Authorization: Bearer b")
            assert (await other.answer()).body == reply_for(["c"], 1)
            held.go_on.set()
            assert [answer.status for answer in await answers([first, second, third])] == [200] * 3
        sent = [(texts_of(seen), seen.header("authorization"), seen.header("x-request-id")) for seen in stage.calls]
        assert sent[0] == (["first"], "Bearer a", None)
        assert sent[1] == (["c"], "Bearer b", None)
        assert sent[2] == (["a", "b"], "Bearer a", None)
        assert stage.metric("pilotlight_embed_batches_total") == 1


# --- in OpenAI's words


def v1_reply(text: str, count: int = 0, vector: str | None = None) -> bytes:
    said = VECTORS.get(text, "[9]") if vector is None else vector
    return (
        f'{{"object":"list","data":[{{"object":"embedding","embedding":{said},"index":0}}],'
        f'"model":"{MODEL}","usage":{{"prompt_tokens":{count},"total_tokens":{count}}}}}\n'
    ).encode()


async def test_a_v1_call_for_one_text_alone_is_asked_natively_with_what_keeps_the_model() -> None:
    held = Held()
    held.go_on.set()
    models = [{"name": MODEL, "options": {"num_ctx": 2048}}]
    async with staged(held, embed_batch=BATCH, models=models) as stage, stage.client() as client:
        client.post("/v1/embeddings", one(["a"], encoding_format="float", user="x"))
        answer = await client.answer()
        assert (answer.status, answer.end, answer.body) == (200, End.COMPLETE, v1_reply("a", 1))
        assert answer.header("content-type") == "application/json"
        (seen,) = stage.calls
        expected = {**one("a"), "options": {"num_ctx": 2048}, "keep_alive": -1}
        assert (seen.path, seen.json) == ("/api/embed", expected)
        (row,) = await stage.rows()
        assert (row["endpoint"], row["status"], row["outcome"], row["tokens_in"]) == ("v1_embeddings", 200, "ok", 1)
        assert stage.metric("llm_calls_total", model=f"{MODEL}:latest", endpoint="v1_embeddings", status="ok") == 1


async def test_calls_of_both_apis_leave_together_and_each_gets_its_own_shape() -> None:
    held = Held()
    async with staged(held, embed_batch=BATCH) as stage:
        async with behind(stage, one("first"), one("b")) as (first, native), stage.client() as floats:
            floats.post("/v1/embeddings", one("a"))
            async with stage.client() as packed:
                packed.post("/v1/embeddings", one("c", encoding_format="base64"))
                await until(lambda: _is_gathered(stage, 3))
                held.go_on.set()
                got = await answers([first, native, floats, packed])
        assert sorted(texts_of(stage.calls[1])) == ["a", "b", "c"]
        assert [answer.body for answer in got[1:]] == [
            reply_for(["b"]),
            v1_reply("a"),
            v1_reply("c", vector=f'"{base64.b64encode(struct.pack("<f", 123456789.12345679)).decode()}"'),
        ]
        assert stage.metric("pilotlight_embed_batched_texts_total") == 3


async def test_an_error_of_a_text_is_told_to_a_v1_call_in_its_shape() -> None:
    held = Held()
    held.go_on.set()
    async with staged(held, embed_batch=BATCH) as stage, stage.client() as client:
        client.post("/v1/embeddings", one("too long"))
        answer = await client.answer()
        assert (answer.status, answer.header("content-type")) == (400, "application/json")
        assert answer.json["error"] == {
            "message": TOO_LONG["error"],
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }


async def test_a_reply_without_a_vector_is_no_answer_to_a_v1_call() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.json({"model": MODEL, "embeddings": []})

    async with staged(script, embed_batch=BATCH) as stage, stage.client() as client:
        client.post("/v1/embeddings", one("a"))
        answer = await client.answer()
        assert (answer.status, answer.header("x-pilotlight-error")) == (502, "upstream_broken")


# --- apart


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        ("/api/embed", one(["a", "b"]), []),
        ("/api/embed", one("a", dimensions=1), []),
        ("/api/embeddings", {"model": MODEL, "prompt": "a"}, []),
        ("/v1/embeddings", one(["a", "b"]), []),
        ("/v1/embeddings", one([1, 2]), []),
        ("/v1/embeddings", one("a", encoding_format="float16"), []),
        ("/api/embed", {**one("a"), "model": f"{MODEL}:other"}, []),
        # It waits among its own.
        ("/api/embed", one("a"), ["X-Priority: interactive"]),
        ("/api/embed", one("a"), ["X-Priority: batch"]),
        # Whose call it is may matter to whoever answers.
        ("/api/embed", one("a"), ["Authorization: Bearer a"]),
        ("/api/embed", one("a"), ["X-API-Key: a"]),
        ("/api/embed", one("a"), ["Cookie: session=a"]),
    ],
)
async def test_everything_else_neither_waits_nor_joins(path: str, body: dict[str, Any], fields: list[str]) -> None:
    held = Held()

    async def script(seen: Seen, reply: Answering) -> None:
        if seen.path == "/api/embed" and seen.json == {**one("first"), "keep_alive": -1}:
            await held(seen, reply)
        else:
            reply.json({"seen": True})

    async with staged(script, embed_batch=BATCH) as stage:
        async with behind(stage, one("first")) as (first,), stage.client() as client:
            client.post(path, body, *fields)
            answer = await client.answer()
            assert (answer.status, answer.json) == (200, {"seen": True})
            assert stage.calls[-1].path == path
            for field in fields:
                name, _, value = field.partition(": ")
                # Which class it has is nobody's business but ours.
                assert stage.calls[-1].header(name) == (None if name == "X-Priority" else value)
            held.go_on.set()
            assert (await first.answer()).status == 200
        assert stage.metric("pilotlight_embed_batches_total") == 0


async def test_without_being_asked_for_nothing_is_gathered() -> None:
    held = Held()
    for models in ({}, {"another": {}}):
        async with staged(held, embed_batch=models) as stage, stage.client() as first, stage.client() as second:
            for each in (first, second):
                each.post("/api/embed", one("a"))
            await until(lambda: len(stage.calls) == 2)
            held.go_on.set()
            await answers([first, second])


# --- errors


async def test_a_text_that_is_too_long_is_its_owners_error_alone() -> None:
    held = Held()
    async with staged(held, embed_batch=BATCH) as stage:
        async with behind(stage, one("first"), one("a"), one("too long"), one("b")) as clients:
            held.go_on.set()
            got = await answers(clients)
        assert [answer.status for answer in got] == [200, 200, 400, 200]
        assert got[1].body == reply_for(["a"], 1)
        assert got[2].json == TOO_LONG
        assert got[2].header("x-pilotlight-error") is None
        assert got[3].body == reply_for(["b"], 1)
        rows = await stage.rows(4)
        assert sorted(row["outcome"] for row in rows) == ["client_error", "ok", "ok", "ok"]


async def test_a_full_queue_of_ollamas_is_asked_again_and_not_by_each_alone() -> None:
    held = Held()

    async def script(seen: Seen, reply: Answering) -> None:
        if len(stage.calls) == 2:
            reply.json(QUEUE_FULL, 503)
        else:
            await held(seen, reply)

    async with staged(script, embed_batch=BATCH) as stage:
        async with behind(stage, one("first"), one("a"), one("b")) as clients:
            held.go_on.set()
            assert [answer.status for answer in await answers(clients)] == [200] * 3
        assert [texts_of(seen) for seen in stage.calls] == [["first"], ["a", "b"], ["a", "b"]]


async def test_a_queue_that_stays_full_is_told_to_everyone_in_ollamas_words() -> None:
    held = Held()

    async def script(seen: Seen, reply: Answering) -> None:
        if len(stage.calls) > 1:
            reply.json(QUEUE_FULL, 503)
        else:
            await held(seen, reply)

    async with staged(script, embed_batch=BATCH, scheduler={"max_wait_s": 0.01}) as stage:
        async with behind(stage, one("first"), one("a"), one("b")) as clients:
            held.go_on.set()
            for answer in (await answers(clients))[1:]:
                assert (answer.status, answer.json) == (503, QUEUE_FULL)
        assert all(texts_of(seen) == ["a", "b"] for seen in stage.calls[1:])


async def test_a_batch_without_a_reply_is_502_for_everyone_in_it() -> None:
    held = Held()

    async def script(seen: Seen, reply: Answering) -> None:
        if len(stage.calls) > 1:
            reply.rst()
        else:
            await held(seen, reply)

    async with staged(script, embed_batch=BATCH) as stage:
        async with behind(stage, one("first"), one("a"), one("b")) as clients:
            held.go_on.set()
            for answer in (await answers(clients))[1:]:
                assert (answer.status, answer.header("x-pilotlight-error")) == (502, "upstream_broken")
        assert stage.proxy.scheduler.slots()[0] == 0


async def test_silence_has_the_same_limit_as_for_any_other_reply() -> None:
    async with staged(Held(), embed_batch=BATCH, relay={"idle_timeout_s": 0.1}) as stage, stage.client() as client:
        client.post("/api/embed", one("a"))
        answer = await client.answer()
        assert (answer.status, answer.header("x-pilotlight-error")) == (504, "upstream_timeout")
        async with asyncio.timeout(DEADLINE_S):
            await stage.calls[0].left.wait()
        assert stage.proxy.scheduler.slots()[0] == 0


# --- leaving


@pytest.mark.parametrize("how", Leave)
async def test_one_that_leaves_while_it_waits_is_not_sent(how: Leave) -> None:
    held = Held()
    async with staged(held, embed_batch=BATCH) as stage:
        async with behind(stage, one("first"), one("a"), one("b")) as clients:
            clients[1].leave(how)
            await until(lambda: len(stage.proxy.relay.active) == 2)
            held.go_on.set()
            assert (await clients[2].answer()).status == 200
        assert [texts_of(seen) for seen in stage.calls] == [["first"], ["b"]]
        assert [row["outcome"] for row in await stage.rows(3)].count("cancelled") == 1


@pytest.mark.parametrize("how", Leave)
async def test_the_last_one_that_leaves_ends_the_call_to_ollama(how: Leave) -> None:
    async with staged(Held(), embed_batch=BATCH) as stage:
        async with behind(stage, one("first")) as (client,):
            await until(lambda: len(stage.calls) == 1)
            client.leave(how)
            async with asyncio.timeout(DEADLINE_S):
                await stage.calls[0].left.wait()
            await until(lambda: stage.proxy.scheduler.slots()[0] == 0)
        (row,) = await stage.rows()
        assert (row["outcome"], row["client_left"], row["status"]) == ("cancelled", "waiting", 499)


async def test_a_stop_tells_everyone_who_waits() -> None:
    async with staged(Held(), embed_batch=BATCH, shutdown={"lame_duck_s": 0, "grace_s": 0.1}) as stage:
        async with behind(stage, one("first"), one("a"), one("b")) as clients:
            await stage.proxy.drain(asyncio.Event())
            for answer in await answers(clients):
                assert (answer.status, answer.header("x-pilotlight-error")) == (503, "shutting_down")
        assert not stage.proxy.relay.active


# --- the real client


async def test_the_client_gets_the_same_vectors_through_the_proxy_as_directly() -> None:
    texts = ["hello", "world", "ü\u2028", "a" * 200, "hello"]
    async with paired(models=[{"name": "tiny"}], embed_batch={"tiny": {"max": 3}}) as pair:
        await pair.until_ready()
        async with (
            ollama.AsyncClient(f"http://{pair.direct}") as direct,
            ollama.AsyncClient(f"http://{pair.proxied}") as proxied,
        ):
            expected = [await direct.embed("tiny", text) for text in texts]
            one_by_one = [await proxied.embed("tiny", text) for text in texts]
            at_once = await asyncio.gather(*(proxied.embed("tiny", text) for text in texts))
        for want, alone, together in zip(expected, one_by_one, at_once, strict=True):
            assert together.embeddings == alone.embeddings == want.embeddings
            assert alone.prompt_eval_count == want.prompt_eval_count
            assert together.model == alone.model == want.model
        sent = [json.loads(seen.body)["input"] for seen in pair.simulated.requests_for("/api/embed")]
        assert sum(isinstance(texts, list) for texts in sent) >= 1


async def test_openais_client_gets_the_same_vectors_through_the_proxy_as_directly() -> None:
    texts = ["hello", "world", "ü\u2028", "hello"]
    formats: list[Any] = ["float", "base64"]
    async with paired(models=[{"name": "tiny"}], embed_batch={"tiny": {"max": 3}}) as pair:
        await pair.until_ready()
        async with (
            openai.AsyncOpenAI(base_url=f"http://{pair.direct}/v1", api_key="none") as direct,
            openai.AsyncOpenAI(base_url=f"http://{pair.proxied}/v1", api_key="none") as proxied,
        ):
            calls = [{"model": "tiny", "input": text, "encoding_format": form} for text in texts for form in formats]
            calls += [{"model": "tiny", "input": ["hello"], "dimensions": 8}]
            expected = [await direct.embeddings.create(**call) for call in calls]
            alone = [await proxied.embeddings.create(**call) for call in calls]
            together = await asyncio.gather(*(proxied.embeddings.create(**call) for call in calls))
            assert alone == expected
            assert [each.data for each in together] == [each.data for each in expected]
            assert {each.usage.prompt_tokens for each in together} <= {0, *(each.usage.prompt_tokens for each in alone)}
            for client in (direct, proxied):
                with pytest.raises(openai.NotFoundError):
                    await client.embeddings.create(model="ghost", input="x")
        assert pair.simulated.reloads == 0
        assert any(
            isinstance(json.loads(seen.body)["input"], list) for seen in pair.simulated.requests_for("/api/embed")
        )
