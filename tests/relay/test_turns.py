"""Turns, through the whole proxy: who goes next, who is turned away, and that whoever leaves takes nothing along."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from typing import TYPE_CHECKING, Any

import pytest

from proxy.admission.gate import BUSY
from tests.peers import (
    DEADLINE_S,
    Answer,
    Answering,
    End,
    Leave,
    RawClient,
    Seen,
    client,
    unanswering_listener,
    until,
    until_answered,
)
from tests.relay.test_cancellation import LoadingOllama
from tests.stage import MODEL, SHOW, answer_own_call, chat, chat_end, chat_token, generate, sse, staged, v1_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.stage import Stage

SEEN_WITHIN_S = 0.5

BATCH, INTERACTIVE = "X-Priority: batch", "X-Priority: interactive"
# One runs at a time; whoever waits is in the order that is looked at here.
ONE = {"parallel": 1}
CLASSES = ("interactive", "normal", "batch")
LEAVES = (Leave.FIN, Leave.RST)

# Each API, and what a body for it looks like.
CALLS: dict[str, dict[str, Any]] = {
    "/api/chat": chat(),
    "/api/generate": generate(),
    "/api/embed": {"model": MODEL, "input": "hi"},
    "/v1/chat/completions": chat(stream=True),
    "/v1/responses": {"model": MODEL, "input": "hi"},
    "/v1/messages": chat(max_tokens=9),
}


class Held:
    """Answers nobody before it is let go.

    Attributes:
        order: What reached it, by the text of the question.
        may_answer: Set: everybody is answered at once.
    """

    def __init__(self) -> None:
        self.order: list[str] = []
        self.may_answer = asyncio.Event()
        self._turns = asyncio.Semaphore(0)

    def let_one(self) -> None:
        self._turns.release()

    async def __call__(self, seen: Seen, reply: Answering) -> None:
        self.order.append(_question(seen))
        waits = [asyncio.ensure_future(each) for each in (self.may_answer.wait(), self._turns.acquire())]
        left = asyncio.ensure_future(seen.left.wait())
        await asyncio.wait((*waits, left), return_when=asyncio.FIRST_COMPLETED)
        for each in (*waits, left):
            each.cancel()
        answer(seen, reply)


def _question(seen: Seen) -> str:
    body = seen.json if seen.body.startswith(b"{") else {}
    given = body.get("messages") or body.get("prompt") or body.get("input") or ""
    return given[-1]["content"] if isinstance(given, list) and given and isinstance(given[-1], dict) else str(given)


def answer(seen: Seen, reply: Answering) -> None:
    """What Ollama would say, in the shape of the route."""
    if seen.path == "/v1/chat/completions":
        reply.head(kind="text/event-stream")
        reply.chunk(v1_token("x"))
        reply.chunk(sse({"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        reply.chunk(b"data: [DONE]\n\n")
        reply.end()
    elif seen.path == "/api/chat":
        reply.head()
        reply.frames(chat_token("x"), chat_end())
        reply.end()
    else:
        reply.json({"model": MODEL, "done": True, "response": ""})


def asks(text: str, **more: Any) -> dict[str, Any]:
    return chat(messages=[{"role": "user", "content": text}], **more)


@contextlib.asynccontextmanager
async def clients(stage: Stage, count: int, source: str | None = None) -> AsyncIterator[list[RawClient]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(client(stage.address, source=source)) for _ in range(count)]


async def in_line(stage: Stage, peer: RawClient, text: str, *fields: str, **more: Any) -> None:
    """Ask, and be in the queue, or beyond it."""
    seen = stage.proxy.scheduler.queued + stage.proxy.scheduler.running
    peer.post("/api/chat", asks(text, **more), *fields)
    await until(lambda: stage.proxy.scheduler.queued + stage.proxy.scheduler.running > seen)


async def until_free(stage: Stage, deadline_s: float = DEADLINE_S) -> None:
    """Nothing runs, and nothing waits."""
    scheduler = stage.proxy.scheduler
    await until(lambda: (scheduler.running, scheduler.queued) == (0, 0), deadline_s)


async def metrics(stage: Stage) -> dict[str, float]:
    async with client(stage.proxy.admin_address, limit=2**22) as opened:
        opened.get("/metrics", "Connection: close")
        page = (await opened.answer()).body.decode()
    lines = (line.rpartition(" ") for line in page.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


async def post(stage: Stage, path: str, body: Any, *fields: str, source: str | None = None) -> Answer:
    async with client(stage.address, source=source) as peer:
        peer.post(path, body, *fields)
        return await peer.answer()


def message_of(path: str, answered: Answer) -> str:
    """The text of an error, which has to be in the shape of the API that was called."""
    body = answered.json
    assert (answered.header("content-type") or "").startswith("application/json")
    if path == "/v1/messages":
        assert set(body) == {"type", "error", "request_id"}
        assert body["type"] == "error"
        assert body["request_id"] == answered.header("request-id") == answered.header("x-request-id")
        assert set(body["error"]) == {"type", "message"}
        return body["error"]["message"]
    if path.startswith("/v1/"):
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        return body["error"]["message"]
    assert set(body) == {"error"}
    return body["error"]


def assert_overloaded(path: str, answered: Answer) -> None:
    assert answered.status == 503
    assert message_of(path, answered) == BUSY
    assert answered.header("x-pilotlight-error") == "overloaded"
    assert int(answered.header("retry-after") or 0) >= 1


# --- who goes next


async def test_one_interactive_request_behind_eight_of_batch_is_the_second_that_is_sent() -> None:
    held = Held()
    async with staged(held, scheduler=ONE) as stage, clients(stage, 9) as peers:
        for number, peer in enumerate(peers[:8]):
            await in_line(stage, peer, f"batch {number}", BATCH)
        await in_line(stage, peers[8], "interactive", INTERACTIVE)
        assert held.order == ["batch 0"]
        held.may_answer.set()
        assert [(await peer.answer()).end for peer in peers] == [End.COMPLETE] * 9
        assert held.order == ["batch 0", "interactive", *(f"batch {number}" for number in range(1, 8))]
        await until_free(stage)


async def test_a_request_without_a_class_goes_between_the_two() -> None:
    held = Held()
    async with staged(held, scheduler=ONE) as stage, clients(stage, 4) as peers:
        await in_line(stage, peers[0], "first")
        await in_line(stage, peers[1], "batch", BATCH)
        await in_line(stage, peers[2], "none")
        await in_line(stage, peers[3], "interactive", "X-Priority:  InterActive ")
        held.may_answer.set()
        for peer in peers:
            await peer.answer()
        assert held.order == ["first", "interactive", "none", "batch"]


async def test_two_clients_of_one_class_take_turns() -> None:
    held = Held()
    async with (
        staged(held, scheduler=ONE) as stage,
        clients(stage, 4) as greedy,
        clients(stage, 2, "127.0.0.2") as modest,
    ):
        for number, peer in enumerate(greedy):
            await in_line(stage, peer, f"greedy {number}")
        for number, peer in enumerate(modest):
            await in_line(stage, peer, f"modest {number}")
        held.may_answer.set()
        for peer in (*greedy, *modest):
            await peer.answer()
        assert held.order == ["greedy 0", "modest 0", "greedy 1", "modest 1", "greedy 2", "greedy 3"]


async def test_batch_gets_its_turn_while_interactive_requests_keep_coming() -> None:
    held = Held()
    held.may_answer.set()

    async def keep_asking(number: int) -> None:
        async with client(stage.address) as peer:
            while not answered.is_set():
                peer.post("/api/chat", asks(f"interactive {number}"), INTERACTIVE)
                assert (await peer.answer()).status == 200

    answered = asyncio.Event()
    stage: Stage
    async with staged(held, scheduler={"parallel": 1, "ageing_s": 0.05}) as stage, asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(keep_asking(number))
        await until(lambda: len(held.order) > 8)
        before = len(held.order)
        assert (await post(stage, "/api/chat", asks("batch"), BATCH, source="127.0.0.2")).status == 200
        # It has waited behind others, and they have not ended.
        assert held.order.index("batch") > before + 1
        answered.set()


async def test_the_queue_page_shows_what_waits_in_order_and_no_prompt() -> None:
    held = Held()
    async with (
        staged(held, scheduler=ONE) as stage,
        clients(stage, 2) as peers,
        clients(stage, 1, "127.0.0.2") as others,
    ):
        await in_line(stage, peers[0], "a secret")
        await in_line(stage, peers[1], "a secret", BATCH)
        await in_line(stage, others[0], "a secret", INTERACTIVE)
        status, page = await stage.page("/queue")
        assert status == 200
        waiting = page["waiting"]
        assert [(row["position"], row["priority"], row["effective"], row["client"]) for row in waiting] == [
            (1, "interactive", "interactive", "ip:127.0.0.2"),
            (2, "batch", "batch", "ip:127.0.0.1"),
        ]
        assert {row["model"] for row in waiting} == {f"{MODEL}:latest"}
        assert all(0 <= row["waited_s"] < DEADLINE_S for row in waiting)
        assert page["running"] == {f"{MODEL}:latest": 1}
        assert page["resident"] == [f"{MODEL}:latest"]
        assert "secret" not in json.dumps(page)
        held.may_answer.set()
        for peer in (*peers, *others):
            await peer.answer()
        await until_free(stage)
        _, page = await stage.page("/queue")
        assert (page["waiting"], page["running"]) == ([], {})


@pytest.mark.parametrize(
    ("path", "given", "expected"),
    [
        ("/api/embed", ["one", "two"], "batch"),
        ("/api/embed", ["one"], "normal"),
        ("/api/embed", "one", "normal"),
        ("/v1/embeddings", ["one", "two"], "batch"),
        ("/v1/embeddings", "one", "normal"),
    ],
)
async def test_embeddings_of_a_list_are_batch_and_of_one_text_normal(path: str, given: Any, expected: str) -> None:
    held = Held()
    async with staged(held, scheduler=ONE) as stage, clients(stage, 2) as peers:
        await in_line(stage, peers[0], "first")
        peers[1].post(path, {"model": MODEL, "input": given})
        await until(lambda: stage.proxy.scheduler.queued == 1)
        _, page = await stage.page("/queue")
        assert [row["priority"] for row in page["waiting"]] == [expected]
        held.may_answer.set()
        assert [(await peer.answer()).status for peer in peers] == [200, 200]


async def test_a_list_of_texts_can_be_interactive_where_its_client_says_so() -> None:
    held = Held()
    async with staged(held, scheduler=ONE) as stage, clients(stage, 2) as peers:
        await in_line(stage, peers[0], "first")
        peers[1].post("/api/embed", {"model": MODEL, "input": ["one", "two"]}, INTERACTIVE)
        await until(lambda: stage.proxy.scheduler.queued == 1)
        _, page = await stage.page("/queue")
        assert [row["priority"] for row in page["waiting"]] == ["interactive"]
        held.may_answer.set()
        for peer in peers:
            await peer.answer()


@pytest.mark.parametrize("path", CALLS)
async def test_an_unknown_class_is_refused_in_the_shape_of_the_api_and_names_the_three(path: str) -> None:
    held = Held()
    async with staged(held, scheduler=ONE) as stage:
        for given in ("urgent", "", "interactive, batch", "\xe9"):
            answered = await post(stage, path, CALLS[path], f"X-Priority: {given}")
            assert answered.status == 400
            assert answered.header("x-pilotlight-error") == "bad_request"
            assert set(re.findall("interactive|normal|batch", message_of(path, answered))) == {
                "interactive",
                "normal",
                "batch",
            }
        assert held.order == []


@pytest.mark.parametrize("path", CALLS)
async def test_the_class_is_not_sent_on(path: str) -> None:
    held = Held()
    held.may_answer.set()
    async with staged(held, scheduler=ONE) as stage:
        assert (await post(stage, path, CALLS[path], BATCH)).status == 200
        (seen,) = stage.calls
        assert seen.header("x-priority") is None


# --- who leaves


@pytest.mark.parametrize("how", LEAVES)
async def test_a_waiting_request_whose_client_left_leaves_at_once_and_is_never_sent(how: Leave) -> None:
    held = Held()
    async with staged(held, scheduler=ONE) as stage, clients(stage, 3) as peers:
        for number, peer in enumerate(peers):
            await in_line(stage, peer, str(number))
        peers[1].leave(how)
        await until(lambda: stage.proxy.scheduler.queued == 1, SEEN_WITHIN_S)
        (row,) = await stage.rows()
        assert (row["status"], row["outcome"], row["client_left"]) == (499, "cancelled", "queued")
        assert row["queue_ms"] > 0
        held.may_answer.set()
        for peer in (peers[0], peers[2]):
            assert (await peer.answer()).end is End.COMPLETE
        assert held.order == ["0", "2"]
        await until_free(stage)
        found = await metrics(stage)
        assert found['batch_processor_queue_size{priority="normal"}'] == 0
        assert found['pilotlight_client_disconnects_total{phase="queued"}'] == 1


@pytest.mark.parametrize("how", LEAVES)
async def test_a_client_that_leaves_while_its_model_loads_frees_the_slot(how: Leave) -> None:
    ollama, held = LoadingOllama(), Held()
    async with staged(held, own=ollama, models=[], awaits_model=False, scheduler=ONE) as stage:
        leaving = await RawClient.open(stage.address)
        leaving.post("/api/chat", chat())
        await asyncio.wait_for(ollama.loading.wait(), DEADLINE_S)
        assert stage.proxy.scheduler.running == 1
        async with stage.client() as next_one:
            await in_line(stage, next_one, "next")
            assert stage.proxy.scheduler.queued == 1
            leaving.leave(how)
            await until(lambda: len(stage.proxy.relay.active) == 1, SEEN_WITHIN_S)
            assert (stage.proxy.scheduler.running, stage.proxy.scheduler.queued) == (1, 0)
            ollama.loaded.set()
            held.may_answer.set()
            assert (await next_one.answer()).end is End.COMPLETE
        assert held.order == ["next"]
        await until_free(stage)
        await leaving.close()


@pytest.mark.parametrize("how", LEAVES)
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_client_that_leaves_before_the_head_or_amid_the_stream_frees_the_slot(path: str, how: Leave) -> None:
    begins = False

    async def script(seen: Seen, reply: Answering) -> None:
        if begins:
            reply.head(kind="text/event-stream" if path.startswith("/v1") else "application/x-ndjson")
            if path.startswith("/v1"):
                reply.chunk(v1_token("x"))
            else:
                reply.frames(chat_token("x"))
        await seen.left.wait()

    async with staged(script, scheduler=ONE) as stage:
        for begins in (False, True):
            leaving = await RawClient.open(stage.address)
            sent = len(stage.calls)
            leaving.post(path, chat(stream=True))
            await until(lambda sent=sent: len(stage.calls) > sent)  # type: ignore[misc]
            if begins:
                await leaving.head()
                await leaving.chunk()
            assert stage.proxy.scheduler.running == 1
            leaving.leave(how)
            await until_free(stage, SEEN_WITHIN_S)
            await leaving.close()


@pytest.mark.parametrize("how", LEAVES)
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_a_client_that_leaves_while_its_reply_is_gathered_frees_the_slot(path: str, how: Leave) -> None:
    came = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_token("x"))
        await reply.turn()
        came.set()
        await seen.left.wait()

    async with staged(script, scheduler=ONE) as stage:
        leaving = await RawClient.open(stage.address)
        leaving.post(path, CALLS[path] | {"stream": False})
        await asyncio.wait_for(came.wait(), DEADLINE_S)
        leaving.leave(how)
        await until_free(stage, SEEN_WITHIN_S)
        await leaving.close()


@pytest.mark.parametrize("how", LEAVES)
async def test_a_client_that_leaves_with_its_slot_while_ollama_is_being_connected_frees_it(how: Leave) -> None:
    held = Held()
    held.may_answer.set()
    async with staged(held, scheduler=ONE) as stage:
        await stage.upstream.stop()
        listener, waiting = unanswering_listener(int(stage.upstream.address.rpartition(":")[2]))
        leaving = await RawClient.open(stage.address)
        leaving.post("/api/chat", chat())
        await until(lambda: stage.proxy.scheduler.running == 1)
        leaving.leave(how)
        await until_free(stage, SEEN_WITHIN_S)
        await leaving.close()
        for sock in (listener, *waiting):
            sock.close()


async def test_clients_that_leave_as_they_get_their_slot_leave_no_slot_taken() -> None:
    held = Held()
    async with staged(held, scheduler=ONE) as stage:
        for how in LEAVES * 20:
            first = await RawClient.open(stage.address)
            second = await RawClient.open(stage.address)
            await in_line(stage, first, "first")
            await in_line(stage, second, "second")
            held.let_one()
            # In one go with the answer that frees the slot: what of the two is seen first is nobody's business.
            second.leave(how)
            assert (await first.answer()).end is End.COMPLETE
            await until_free(stage)
            await first.close()
            await second.close()
        assert stage.proxy.relay.active == set()


async def test_a_storm_of_clients_that_leave_leaves_every_slot_free() -> None:
    rng = random.Random(4)

    async def script(seen: Seen, reply: Answering) -> None:
        for _ in range(rng.randrange(4)):
            await reply.turn()
        answer(seen, reply)

    async def come_and_go(stage: Stage) -> None:
        for _ in range(8):
            peer = await RawClient.open(stage.address)
            peer.post("/api/chat", chat(stream=rng.random() < 0.5), f"X-Priority: {rng.choice(CLASSES)}")
            for _ in range(rng.randrange(40)):
                await asyncio.sleep(0)
            if rng.random() < 0.6:
                peer.leave(rng.choice(LEAVES))
            else:
                assert (await peer.answer()).status in (200, 503)
            await peer.close()

    async with staged(script, scheduler={"parallel": 2, "max_queue": 8}) as stage:
        async with asyncio.TaskGroup() as group:
            for _ in range(30):
                group.create_task(come_and_go(stage))
        await until(lambda: not stage.proxy.relay.active)
        await until_free(stage)
        assert [stage.metric("batch_processor_queue_size", priority=each) for each in CLASSES] == [0, 0, 0]
        _, page = await stage.page("/queue")
        assert (page["waiting"], page["running"]) == ([], {})


# --- who is turned away


@pytest.mark.parametrize("path", CALLS)
async def test_a_full_queue_is_told_in_ollamas_own_words_and_nothing_is_sent(path: str) -> None:
    held = Held()
    async with staged(held, scheduler={"parallel": 1, "max_queue": 1}) as stage, clients(stage, 2) as peers:
        for number, peer in enumerate(peers):
            await in_line(stage, peer, str(number))
        assert_overloaded(path, await post(stage, path, CALLS[path]))
        (row,) = await stage.rows()
        assert (row["status"], row["outcome"], row["error"]) == (503, "rejected", "overloaded")
        assert held.order == ["0"]
        held.may_answer.set()
        for peer in peers:
            assert (await peer.answer()).end is End.COMPLETE
        assert held.order == ["0", "1"]
        found = await metrics(stage)
        assert found['batch_processor_rejected_total{reason="full"}'] == 1
        assert found["batch_processor_queue_capacity"] == 1
        await until_free(stage)


@pytest.mark.parametrize("path", CALLS)
async def test_a_wait_that_is_too_long_is_told_in_the_same_words_and_nothing_is_sent(path: str) -> None:
    held = Held()
    async with staged(held, scheduler={"parallel": 1, "max_wait_s": 0.1}) as stage, clients(stage, 1) as peers:
        await in_line(stage, peers[0], "first")
        assert_overloaded(path, await post(stage, path, CALLS[path]))
        (row,) = await stage.rows()
        assert (row["status"], row["outcome"], row["error"]) == (503, "rejected", "overloaded")
        assert row["queue_ms"] >= 100
        assert held.order == ["first"]
        held.may_answer.set()
        await peers[0].answer()
        found = await metrics(stage)
        assert found['batch_processor_rejected_total{reason="timeout"}'] == 1
        assert found['batch_processor_queue_size{priority="normal"}'] == 0
        await until_free(stage)


async def test_of_three_hundred_at_once_exactly_the_slots_and_the_queue_are_admitted() -> None:
    held = Held()
    async with (
        staged(held, scheduler={"parallel": 4, "max_queue": 60}) as stage,
        clients(stage, 300) as peers,
    ):
        for number, peer in enumerate(peers):
            peer.post("/api/chat", asks(str(number)))
        await until(lambda: len(stage.proxy.relay.active) == 64 and len(held.order) == 4)
        scheduler = stage.proxy.scheduler
        assert (scheduler.running, scheduler.queued) == (4, 60)
        refused = asyncio.gather(*(peer.answer() for peer in peers))
        held.may_answer.set()
        answers = await refused
        assert sorted(each.status for each in answers) == [200] * 64 + [503] * 236
        for each in answers:
            if each.status == 503:
                assert_overloaded("/api/chat", each)
        assert len(held.order) == 64
        await until_free(stage)
        assert (await metrics(stage))['batch_processor_rejected_total{reason="full"}'] == 236


FREE: dict[str, tuple[str, str, Any]] = {
    "the root": ("GET", "/", b""),
    "its head": ("HEAD", "/", b""),
    "version": ("GET", "/api/version", b""),
    "tags": ("GET", "/api/tags", b""),
    "ps": ("GET", "/api/ps", b""),
    "show": ("POST", "/api/show", {"model": MODEL}),
    "models": ("GET", "/v1/models", b""),
    "unknown route": ("POST", "/api/new", {"model": MODEL}),
    "unload by generate": ("POST", "/api/generate", {"model": MODEL, "keep_alive": 0}),
    "unload by chat": ("POST", "/api/chat", {"model": MODEL, "messages": [], "keep_alive": "0s"}),
    "unknown model": ("POST", "/api/chat", chat() | {"model": "nobody"}),
    "unknown model, v1": ("POST", "/v1/chat/completions", chat() | {"model": "nobody"}),
    "no model": ("POST", "/api/chat", b"[]"),
    "cloud model by its name": ("POST", "/api/chat", chat() | {"model": "big-cloud"}),
    "cloud model by what it is": ("POST", "/api/chat", chat() | {"model": "remote"}),
    "cloud model, v1": ("POST", "/v1/chat/completions", chat() | {"model": "remote"}),
}


@pytest.mark.parametrize("name", FREE)
async def test_what_costs_nothing_here_never_waits(name: str) -> None:
    held = Held()
    method, path, body = FREE[name]

    async def own(seen: Seen, reply: Answering) -> None:
        if seen.path == "/api/show" and seen.json["model"].startswith("remote"):
            reply.json({**SHOW, "remote_host": "https://ollama.com:443", "remote_model": "big"})
        else:
            await answer_own_call(seen, reply)

    async def script(seen: Seen, reply: Answering) -> None:
        if _question(seen) == "holds the slot":
            await held(seen, reply)
        elif seen.method == "HEAD":
            reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        else:
            reply.json({"for": seen.path})

    async with (
        staged(script, own=own, scheduler={"parallel": 1, "max_queue": 0}) as stage,
        clients(stage, 2) as (slow, quick),
    ):
        await in_line(stage, slow, "holds the slot")
        quick.post(path, body, method=method)
        answered = await quick.answer(is_head=method == "HEAD")
        assert answered.status == 200
        assert answered.header("x-pilotlight-error") is None
        assert method == "HEAD" or answered.json == {"for": path}
        assert stage.proxy.scheduler.running == 1
        held.may_answer.set()
        await slow.answer()


# --- what is told of it


async def test_the_wait_is_told_to_the_client_in_requests_and_in_the_metrics() -> None:
    held = Held()
    async with staged(held, scheduler=ONE) as stage, clients(stage, 2) as peers:
        await in_line(stage, peers[0], "first")
        await in_line(stage, peers[1], "second", BATCH)
        size = 'batch_processor_queue_size{priority="batch"}'
        assert (await metrics(stage))[size] == 1
        held.let_one()
        first = await peers[0].answer()
        held.let_one()
        second = await peers[1].answer()
        waits = [float(_timing(each)["queue"]) for each in (first, second)]
        assert waits[0] < waits[1]
        rows = {row["request_id"]: row for row in await stage.rows(2)}
        row = rows[second.header("x-request-id") or ""]
        assert row["queue_ms"] == pytest.approx(waits[1], abs=0.01)
        parts = sum(row[f"{part}_ms"] for part in ("queue", "load", "prompt", "proxy", "other"))
        assert parts == pytest.approx(row["ttft_ms"], abs=0.01)
        found = await metrics(stage)
        assert found[size] == 0
        part = f'llm_time_to_first_token_part_seconds_sum{{model="{MODEL}:latest",part="queue"}}'
        assert found[part] == pytest.approx(sum(waits) / 1000, abs=0.001)
        for priority in ("normal", "batch"):
            assert found[f'batch_processor_wait_seconds_count{{priority="{priority}"}}'] == 1
        assert found['batch_processor_wait_seconds_sum{priority="normal"}'] == 0
        assert found['batch_processor_wait_seconds_sum{priority="batch"}'] == pytest.approx(waits[1] / 1000, abs=0.01)
        assert found["batch_processor_queue_capacity"] == 512


async def test_the_wait_of_a_gathered_answer_is_told_to_the_client_too() -> None:
    held = Held()
    async with staged(held, scheduler=ONE) as stage, clients(stage, 2) as peers:
        await in_line(stage, peers[0], "first")
        await in_line(stage, peers[1], "second", stream=False)
        held.may_answer.set()
        await peers[0].answer()
        timing = _timing(await peers[1].answer())
        assert 0 < float(timing["queue"]) <= float(timing.get("ttft", "inf"))


def _timing(answered: Answer) -> dict[str, str]:
    given = answered.header("server-timing") or ""
    return dict(re.findall(r"(\w+);dur=([0-9.]+)", given))


# --- Ollama's own queue


def busy(path: str) -> dict[str, Any]:
    """Ollama's 503, recorded."""
    if path == "/v1/messages":
        return {"type": "error", "error": {"type": "overloaded_error", "message": BUSY}}
    if path.startswith("/v1/"):
        return {"error": {"message": BUSY, "type": "api_error", "param": None, "code": None}}
    return {"error": BUSY}


@pytest.mark.parametrize("path", CALLS)
async def test_a_full_queue_of_ollamas_own_is_waited_for(path: str) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if len(stage.calls) <= 3:
            reply.json(busy(path), 503)
        else:
            answer(seen, reply)

    stage: Stage
    async with staged(script, scheduler=ONE) as stage:
        answered = await post(stage, path, CALLS[path])
        assert (answered.status, answered.end) == (200, End.COMPLETE)
        assert len(stage.calls) == 4
        assert len({seen.body for seen in stage.calls}) == 1
        (row,) = await stage.rows()
        assert (row["status"], row["outcome"]) == (200, "ok")
        await until_free(stage)


async def test_it_is_waited_for_too_where_long_prompts_are_refused() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if len(stage.calls) <= 2:
            reply.json(busy("/api/chat"), 503)
        else:
            answer(seen, reply)

    stage: Stage
    async with staged(script, scheduler=ONE, models=[{"name": MODEL, "long_prompts": "refuse"}]) as stage:
        assert (await post(stage, "/api/chat", chat())).status == 200
        assert [seen.json["truncate"] for seen in stage.calls] == [False] * 3


@pytest.mark.parametrize("path", CALLS)
async def test_a_queue_of_ollamas_that_stays_full_is_passed_on_byte_for_byte(path: str) -> None:
    body = json.dumps(busy(path), indent=1).encode()

    async def script(seen: Seen, reply: Answering) -> None:
        reply.whole(body, 503)

    async with staged(script, scheduler={"parallel": 1, "max_wait_s": 0.3}) as stage:
        answered = await post(stage, path, CALLS[path])
        assert (answered.status, answered.body) == (503, body)
        assert answered.header("x-pilotlight-error") is None
        assert len(stage.calls) > 1
        (row,) = await stage.rows()
        assert (row["status"], row["outcome"]) == (503, "upstream_error")
        await until_free(stage)
        assert (await metrics(stage))['pilotlight_upstream_errors_total{kind="http_5xx"}'] == 1


@pytest.mark.parametrize("path", CALLS)
async def test_another_503_is_passed_on_at_once(path: str) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.json({"error": "the model is being moved"}, 503)

    async with staged(script, scheduler=ONE) as stage:
        answered = await post(stage, path, CALLS[path])
        assert (answered.status, answered.json) == (503, {"error": "the model is being moved"})
        assert len(stage.calls) == 1
        await until_free(stage)
        assert (await metrics(stage))['pilotlight_upstream_errors_total{kind="http_5xx"}'] == 1


async def test_only_calls_to_models_wait_for_ollamas_queue() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.json(busy("/api/tags"), 503)

    async with staged(script, scheduler=ONE) as stage, stage.client() as peer:
        peer.get("/api/tags")
        answered = await peer.answer()
        assert (answered.status, answered.json) == (503, {"error": BUSY})
        assert len(stage.calls) == 1


@pytest.mark.parametrize("how", LEAVES)
async def test_a_client_that_leaves_while_ollamas_queue_is_full_frees_its_slot(how: Leave) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.json(busy("/api/chat"), 503)

    async with staged(script, scheduler=ONE) as stage:
        leaving = await RawClient.open(stage.address)
        leaving.post("/api/chat", chat())
        await until(lambda: len(stage.calls) >= 3)
        assert stage.proxy.scheduler.running == 1
        leaving.leave(how)
        await until_free(stage, SEEN_WITHIN_S)
        await leaving.close()
        (row,) = await stage.rows()
        assert (row["status"], row["outcome"]) == (499, "cancelled")


# --- how much one client may ask


@pytest.mark.parametrize("path", CALLS)
async def test_who_asks_too_often_is_told_when_to_come_back_and_nobody_else_notices(path: str) -> None:
    held = Held()
    held.may_answer.set()
    async with staged(held, rate_limit={"rate_per_s": 0.01, "burst": 2}) as stage:
        for _ in range(2):
            assert (await post(stage, path, CALLS[path])).status == 200
        refused = await post(stage, path, CALLS[path])
        assert refused.status == 429
        assert message_of(path, refused)
        assert refused.header("x-pilotlight-error") == "rate_limited"
        assert 1 <= int(refused.header("retry-after") or 0) <= 100
        assert refused.header("connection") == "close"
        assert (await post(stage, path, CALLS[path], source="127.0.0.2")).status == 200
        async with stage.client() as peer:
            for free in ("/", "/api/tags", "/api/ps", "/api/version"):
                peer.get(free)
                assert (await peer.answer()).status == 200
        assert (await metrics(stage))['batch_processor_rejected_total{reason="rate_limit"}'] == 1
        assert len([seen for seen in stage.calls if seen.path in CALLS]) == 3


# --- an Ollama that is away


@pytest.mark.parametrize("body", [chat(), b"[]"], ids=["whose model has to be loaded", "of which nothing is known"])
async def test_an_ollama_that_refuses_is_left_alone_for_a_moment_and_found_again(body: Any) -> None:
    held = Held()
    held.may_answer.set()
    async with staged(held, scheduler=ONE) as stage:
        connecting = stage.proxy._exchanges._connecting
        await stage.upstream.stop()
        refused = [await post(stage, "/api/chat", body)]
        # From now on its model counts as not loaded, so that it is a load that meets the closed port.
        stage.proxy.residency.wake()
        await until(lambda: not stage.proxy.is_ready)
        tried = -1
        # Five failures in a row, some of them of one request.
        while connecting.attempts != tried:
            tried = connecting.attempts
            refused.append(await post(stage, "/api/chat", body))
        assert 1 < len(refused) <= 6
        assert {(each.status, each.header("x-pilotlight-error")) for each in refused} == {(502, "upstream_unreachable")}
        # The last one was answered without an attempt, and knows when to come back.
        assert refused[-1].header("retry-after") == "1"
        assert stage.metric("pilotlight_upstream_breaker_open") == 1
        await until_free(stage)
        await stage.upstream.start()

        async def is_back() -> bool:
            return (await post(stage, "/api/chat", body)).status == 200

        await until_answered(is_back)
        assert await is_back()
        assert stage.metric("pilotlight_upstream_breaker_open") == 0
        await until_free(stage)


# --- when we stop


async def test_who_waits_when_we_stop_is_served_within_the_grace() -> None:
    held = Held()
    async with (
        staged(held, scheduler=ONE, shutdown={"lame_duck_s": 0, "grace_s": 60}) as stage,
        clients(stage, 3) as peers,
    ):
        for number, peer in enumerate(peers):
            await in_line(stage, peer, str(number))
        draining = asyncio.create_task(stage.proxy.drain(asyncio.Event()))
        await until(lambda: stage.proxy.relay.closing)
        held.may_answer.set()
        answers = [await peer.answer() for peer in peers]
        assert [(each.status, each.end) for each in answers] == [(200, End.COMPLETE)] * 3
        await asyncio.wait_for(draining, DEADLINE_S)
        assert held.order == ["0", "1", "2"]
        await until_free(stage)


@pytest.mark.parametrize("path", CALLS)
async def test_who_waits_when_the_grace_is_over_is_told_in_the_shape_of_the_api(path: str) -> None:
    held = Held()
    async with (
        staged(held, scheduler=ONE, shutdown={"lame_duck_s": 0, "grace_s": 0.1}) as stage,
        clients(stage, 3) as peers,
    ):
        await in_line(stage, peers[0], "runs")
        for peer in peers[1:]:
            peer.post(path, CALLS[path])
        await until(lambda: stage.proxy.scheduler.queued == 2)
        await asyncio.wait_for(stage.proxy.drain(asyncio.Event()), DEADLINE_S)
        for peer in peers[1:]:
            answered = await peer.answer()
            assert answered.status == 503
            assert answered.header("x-pilotlight-error") == "shutting_down"
            assert "shutting down" in message_of(path, answered)
            assert int(answered.header("retry-after") or 0) >= 1
        assert (await peers[0].answer()).status == 503
        assert held.order == ["runs"]
        await until_free(stage)
        assert stage.metric("batch_processor_rejected_total", reason="shutdown") == 2


async def test_who_waits_for_ollamas_queue_when_the_grace_is_over_is_told_too() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.json(busy("/api/chat"), 503)

    async with (
        staged(script, scheduler=ONE, shutdown={"lame_duck_s": 0, "grace_s": 0.1}) as stage,
        stage.client() as peer,
    ):
        peer.post("/api/chat", chat())
        await until(lambda: len(stage.calls) >= 2)
        await asyncio.wait_for(stage.proxy.drain(asyncio.Event()), DEADLINE_S)
        answered = await peer.answer()
        assert (answered.status, answered.header("x-pilotlight-error")) == (503, "shutting_down")
        await until_free(stage)
