"""Slots, the prompt cache, stop sequences and what goes wrong in mid-stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from proxy.simulator import SimulatedOllama
from proxy.simulator.engine.runner import Stops
from tests.peers import until
from tests.simulator.conftest import simulated
from tests.simulator.replay import get, post, read_reply, request_bytes

DIED = "an error was encountered while running the model: unexpected EOF"


async def test_one_slot_serves_one_request_at_a_time_and_two_serve_two(chat: dict[str, Any]) -> None:
    for parallel in (1, 2):
        async with simulated(parallel=parallel) as ollama:
            await post(ollama.port, "/api/generate", model="one")
            ollama.gate.close()
            calls = [asyncio.create_task(post(ollama.port, "/api/chat", model="one", **chat)) for _ in range(2)]
            await until(lambda ollama=ollama, parallel=parallel: ollama.gate.waiting == parallel)  # type: ignore[misc]
            ollama.gate.open()
            assert [reply.status for reply in await asyncio.gather(*calls)] == [200, 200]


async def test_a_prefix_that_the_slot_holds_is_not_evaluated_again() -> None:
    async with simulated() as ollama:
        system = {"role": "system", "content": "word " * 200}
        first = [system, {"role": "user", "content": "one"}]
        await post(ollama.port, "/api/chat", model="one", messages=first, stream=False, options={"num_predict": 2})
        cold = ollama.evaluated_tokens
        second = [system, {"role": "user", "content": "two"}]
        reply = await post(
            ollama.port, "/api/chat", model="one", messages=second, stream=False, options={"num_predict": 2}
        )
        warm = ollama.evaluated_tokens - cold
        assert cold > 200
        assert warm < 10
        assert reply.json()["prompt_eval_count"] == cold


async def test_the_gate_lets_tokens_out_one_by_one(chat: dict[str, Any]) -> None:
    async with simulated() as ollama:
        ollama.gate.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", ollama.port)
        case = {"method": "POST", "path": "/api/chat", "body": {"model": "one", **chat}}
        writer.write(request_bytes(case, ollama.port))
        ollama.gate.let(1)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        for _ in range(2):
            size = int(await reader.readuntil(b"\r\n"), 16)
            frame = json.loads((await reader.readexactly(size + 2))[:-2])
            assert frame["done"] is False
            assert ollama.gate.waiting <= 1
            ollama.gate.let(1)
        ollama.gate.open()
        writer.close()


async def test_a_client_that_leaves_ends_the_generation(chat: dict[str, Any]) -> None:
    async with simulated() as ollama:
        ollama.gate.close()
        leaving = asyncio.create_task(post(ollama.port, "/api/chat", model="one", **chat))
        await until(lambda: ollama.gate.waiting)
        leaving.cancel()
        await until(lambda: ollama.disconnects)
        assert ollama.gate.waiting == 0
        assert ollama.disconnects[0].left_s is not None
        ollama.gate.open()
        assert (await post(ollama.port, "/api/chat", model="one", **chat)).ended == "complete"


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_a_runner_that_dies_ends_the_stream_with_an_error_line(path: str, chat: dict[str, Any]) -> None:
    body = chat if path == "/api/chat" else {"prompt": "hello", "options": chat["options"]}
    async with simulated() as ollama:
        ollama.fail("error_line", after=2, times=2)
        reply = await post(ollama.port, path, model="one", **body)
        assert (reply.status, reply.ended, len(reply.chunks)) == (200, "complete", 3)
        assert reply.lines()[-1] == {"error": DIED}
        reply = await post(ollama.port, path, model="one", stream=False, **body)
        assert (reply.status, reply.json()) == (500, {"error": DIED})
        assert (await post(ollama.port, path, model="one", **body)).lines()[-1]["done"] is True
        assert ollama.loads == 3


async def test_a_v1_stream_that_dies_ends_without_an_error_and_without_done(chat: dict[str, Any]) -> None:
    async with simulated() as ollama:
        ollama.fail("error_line", after=2)
        reply = await post(ollama.port, "/v1/chat/completions", model="one", stream=True, messages=chat["messages"])
        last = json.loads(reply.chunks[-1].removeprefix("data: "))
        assert last["model"] == ""
        assert last["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert "[DONE]" not in reply.text


@pytest.mark.parametrize(
    ("fault", "ended", "chunks"),
    [
        ({"kind": "cut", "after": 2}, "cut", 2),
        ({"kind": "reset_stream", "after": 2}, "cut", None),
        ({"kind": "cut_line", "after": 2}, "cut", 2),
        ({"kind": "clean_end", "after": 2}, "complete", 2),
        ({"kind": "close"}, "closed before the head", 0),
        ({"kind": "reset"}, "closed before the head", 0),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else None,
)
async def test_planned_faults_happen_once(
    fault: dict[str, Any], ended: str, chunks: int | None, chat: dict[str, Any]
) -> None:
    async with simulated() as ollama:
        kind = fault["kind"]
        ollama.fail(kind, **{name: value for name, value in fault.items() if name != "kind"})
        reply = await post(ollama.port, "/api/chat", model="one", **chat)
        assert reply.ended == ended
        assert chunks is None or len(reply.chunks) == chunks
        assert (await post(ollama.port, "/api/chat", model="one", **chat)).lines()[-1]["done"] is True


async def test_a_planned_status_answers_in_the_place_of_the_handler() -> None:
    async with simulated() as ollama:
        ollama.fail("status", status=503, text="later", path="/api/tags")
        assert (await get(ollama.port, "/api/version")).status == 200
        reply = await get(ollama.port, "/api/tags")
        assert (reply.status, reply.json()) == (503, {"error": "later"})


async def test_a_stalled_stream_sends_nothing_more(chat: dict[str, Any]) -> None:
    async with simulated() as ollama:
        ollama.fail("stall", after=1)
        task = asyncio.create_task(post(ollama.port, "/api/chat", model="one", **chat))
        await until(lambda: ollama.running)
        done, _ = await asyncio.wait({task}, timeout=0.1)
        assert not done
        task.cancel()
        await until(lambda: ollama.disconnects)


async def test_a_token_outside_the_vocabulary_kills_the_server() -> None:
    async with simulated() as ollama:
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", ollama.port)
        await until(lambda: len(ollama.connections) == 1)
        reply = await post(ollama.port, "/api/generate", model="one", prompt="x", context=[5, 1000])
        assert reply.ended == "closed before the head"
        await asyncio.wait_for(ollama.crashed.wait(), 5)
        with contextlib.suppress(ConnectionError):
            assert await idle_reader.read() == b""
        idle_writer.close()
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection("127.0.0.1", ollama.port)
        await ollama.restart()
        assert (await get(ollama.port, "/api/version")).status == 200


async def test_a_token_inside_the_vocabulary_is_harmless() -> None:
    async with simulated() as ollama:
        reply = await post(ollama.port, "/api/generate", model="one", prompt="x", context=[5, 999], stream=False)
        assert reply.status == 200


async def test_refused_connections_come_back() -> None:
    async with simulated() as ollama:
        await ollama.refuse_connections()
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection("127.0.0.1", ollama.port)
        await ollama.accept_connections()
        assert (await get(ollama.port, "/")).text == "Ollama is running"


@pytest.mark.parametrize("sizes", [(1,), (1, 2, 3), (17,)])
async def test_frames_cut_at_any_byte_say_the_same(sizes: tuple[int, ...], chat: dict[str, Any]) -> None:
    async with simulated() as ollama:
        whole = await post(ollama.port, "/api/chat", model="one", **chat)
        ollama.cut_frames(*sizes)
        reader, writer = await asyncio.open_connection("127.0.0.1", ollama.port)
        case = {"method": "POST", "path": "/api/chat", "body": {"model": "one", **chat}}
        writer.write(request_bytes(case, ollama.port))
        cut = await read_reply(reader)
        writer.close()
        texts = [[line["message"]["content"] for line in reply.lines()] for reply in (whole, cut)]
        assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("stops", "pieces", "shown"),
    [
        (["b"], ["a", "b", "c"], ["a"]),
        (["bc"], ["a", "b", "c", "d"], ["a"]),
        (["xy"], ["ax", "z"], ["axz"]),
        (["c d"], ["ab", "bc", " d", "e"], ["ab", "b"]),
        ([], ["a", "b"], ["a", "b"]),
    ],
)
def test_stop_sequences_are_held_back_and_cut(stops: list[str], pieces: list[str], shown: list[str]) -> None:
    parser = Stops(stops)
    out = []
    for piece in pieces:
        given = parser.add(piece, [])
        out += [given.content] if given is not None else []
        if parser.hit:
            break
    rest = parser.rest()
    assert out + ([rest.content] if rest is not None else []) == shown


async def test_text_is_the_same_for_the_same_prompt_and_as_long_as_asked_for() -> None:
    async with SimulatedOllama("recorded", speed=1e6) as ollama:
        body = {"model": "tiny", "prompt": "something new", "stream": False, "options": {"num_predict": 50}}
        first, second = [(await post(ollama.port, "/api/generate", **body)).json() for _ in range(2)]
        assert first["response"] == second["response"]
        assert (first["eval_count"], first["done_reason"]) == (50, "length")
