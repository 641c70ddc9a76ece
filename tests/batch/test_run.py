"""A run against a server that is small and real, or not there."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from proxy.batch import BatchStopped, Job, Result, run_batch
from proxy.batch.run import AHEAD
from tests.peers import upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.peers import Answering, Seen


def prompt_of(seen: Seen) -> str:
    prompt: str = seen.json["prompt"]
    return prompt


def say(reply: Answering, text: str) -> None:
    reply.json({"model": "tiny", "response": text, "done": True, "eval_count": 1})


async def echo(seen: Seen, reply: Answering) -> None:
    say(reply, prompt_of(seen).upper())


async def results(lines: Any, url: str, **job: Any) -> list[Result]:
    return [result async for result in run_batch(lines, Job(url=url, model="tiny", **job))]


async def take(lines: Any, job: Job, into: list[int]) -> None:
    """Numbers of the lines that have a result, as long as there are some."""
    async for result in run_batch(lines, job):
        into.append(result.line)


async def test_every_line_has_its_result_in_order() -> None:
    async with upstream(echo) as server:
        came = await results(["a", b'"b"', {"prompt": "c", "id": 3}, b"{", "e"], server.url)
    assert [result.line for result in came] == [1, 2, 3, 4, 5]
    assert [result.fields.get("text") for result in came] == ["A", "B", "C", None, "E"]
    assert came[2].carried == {"id": 3}
    assert (came[3].error, came[3].attempts) == (came[3].error, 0)
    assert came[3].error is not None
    assert came[3].error.startswith("not JSON")
    assert {seen.header("X-Priority") for seen in server.seen} == {"batch"}


async def test_in_order_a_late_first_line_holds_few_others_back() -> None:
    answered = 0
    most = 0
    many = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        nonlocal answered, most
        if prompt_of(seen) == "0":
            await many.wait()
            # Nothing but time tells that no more will come.
            await asyncio.sleep(0.05)
            most = answered
        answered += 1
        if answered == AHEAD - 1:
            many.set()
        say(reply, prompt_of(seen))

    async with upstream(script) as server:
        came = await results([str(number) for number in range(AHEAD + 50)], server.url)
    assert most == AHEAD - 1
    assert [result.line for result in came] == list(range(1, AHEAD + 51))


async def test_unordered_results_come_as_they_come() -> None:
    second = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        if prompt_of(seen) == "1":
            await second.wait()
        say(reply, prompt_of(seen))
        if prompt_of(seen) == "2":
            second.set()

    async with upstream(script) as server:
        came = await results(["1", "2"], server.url, ordered=False)
    assert [result.line for result in came] == [2, 1]


async def test_so_many_at_a_time_and_no_more() -> None:
    now = most = 0
    full = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 3:
            full.set()
        await full.wait()
        now -= 1
        say(reply, "")

    async with upstream(script) as server:
        await results([str(number) for number in range(12)], server.url, concurrency=3)
    assert most == 3


async def test_lines_are_taken_only_as_results_are() -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "x"

    async with upstream(echo) as server:
        async with contextlib.aclosing(run_batch(endless(), Job(url=server.url, model="tiny"))) as batch:
            assert (await anext(batch)).line == 1
            before = -1
            while before != taken:
                before = taken
                await asyncio.sleep(0.05)
        assert taken < 2000


async def test_leaving_early_ends_what_is_under_way() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if prompt_of(seen) == "quick":
            say(reply, "")
        else:
            await seen.left.wait()

    async with upstream(script) as server:
        async with contextlib.aclosing(run_batch(["quick", "slow"], Job(url=server.url, model="tiny"))) as batch:
            await anext(batch)
        async with asyncio.timeout(10):
            for seen in server.seen:
                if prompt_of(seen) == "slow":
                    await seen.left.wait()


@pytest.mark.parametrize("fault", ["cut", "500", "503", "502"])
async def test_a_line_is_sent_again_after_what_will_pass_and_has_one_result(fault: str) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if len(server.seen) > 1:
            say(reply, "good")
        elif fault == "cut":
            reply.head(200, "application/json")
            reply.chunk(b'{"response": "ba')
            await reply.drain()
            reply.fin()
        elif fault == "502":
            reply.whole(b"<html>", 502)
        else:
            reply.json({"error": "not now"}, int(fault))

    async with upstream(script) as server:
        (result,) = await results(["a"], server.url)
    assert (result.fields["text"], result.attempts, result.error) == ("good", 2, None)


async def test_a_line_that_always_fails_has_an_error_and_the_others_go_on() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if prompt_of(seen) == "bad":
            reply.json({"error": "cannot"}, 500)
        else:
            say(reply, "")

    async with upstream(script) as server:
        came = await results(["bad", "good"], server.url, retries=1)
    assert [(result.error, result.status, result.attempts) for result in came] == [("cannot", 500, 2), (None, None, 1)]


async def test_a_line_that_takes_too_long_has_an_error() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        await seen.left.wait()

    async with upstream(script) as server:
        (result,) = await results(["a"], server.url, timeout_s=0.1)
    assert result.error == "no answer within 0.1 s"


async def test_a_model_that_is_not_there_ends_the_run_unless_the_line_names_it() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if seen.json["model"] == "nope":
            reply.json({"error": "model 'nope' not found"}, 404)
        else:
            say(reply, "")

    async with upstream(script) as server:
        came = await results([{"prompt": "a", "model": "nope"}, "b"], server.url)
        assert [result.error for result in came] == ["model 'nope' not found", None]
        with pytest.raises(BatchStopped, match="model 'nope' not found"):
            await take(["a", "b"], Job(url=server.url, model="nope"), [])


async def test_a_server_that_is_not_there_ends_the_run_at_once() -> None:
    async with upstream(echo) as server:
        pass
    with pytest.raises(BatchStopped, match=f"{server.url}: the server cannot be reached: connection refused"):
        await results(["a", "b"], server.url)


async def test_what_answers_and_is_no_ollama_ends_the_run() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.whole(b"<html>not found", 404)

    async with upstream(script) as server:
        with pytest.raises(BatchStopped, match="the answer is not Ollama's: status 404 without an error text"):
            await results(["a"], server.url)


async def test_results_before_a_stop_are_given_out() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if prompt_of(seen) == "9":
            reply.json({"error": "a valid API key is needed"}, 401)
        else:
            say(reply, "")

    came: list[int] = []
    async with upstream(script) as server:
        with pytest.raises(BatchStopped, match="a valid API key is needed"):
            await take(map(str, range(20)), Job(url=server.url, model="tiny", concurrency=1), came)
    assert came == list(range(1, 10))


async def test_a_server_that_restarts_is_waited_for() -> None:
    restarted = False

    async def script(seen: Seen, reply: Answering) -> None:
        nonlocal restarted
        if len(server.seen) >= 5 and not restarted:
            restarted = True
            stopped.set()
            await seen.left.wait()
            return
        say(reply, prompt_of(seen))

    async def restart() -> None:
        await stopped.wait()
        await server.stop()
        # Refused for a while: this is what is tested.
        await asyncio.sleep(0.5)
        await server.start()

    stopped = asyncio.Event()
    async with upstream(script) as server:
        restarting = asyncio.ensure_future(restart())
        came = await results([str(number) for number in range(10)], server.url, concurrency=2)
        await restarting
    assert [result.fields.get("text") for result in came] == [str(number) for number in range(10)]


async def test_a_server_that_stays_away_ends_the_run() -> None:
    came: list[int] = []
    async with upstream(_with_code) as server:
        with pytest.raises(BatchStopped, match="the upstream cannot be reached"):
            await take(["1", "2"], Job(url=server.url, model="tiny", concurrency=1, away_s=0.1), came)
    assert came == [1]


async def _with_code(seen: Seen, reply: Answering) -> None:
    """A proxy that is there, before an Ollama that is not."""
    if prompt_of(seen) == "1":
        say(reply, "")
        return
    body = b'{"error":"the upstream cannot be reached"}'
    fields = ("X-Pilotlight-Error: upstream_unreachable", f"Content-Length: {len(body)}")
    reply.head(502, "application/json", *fields, chunked=False)
    reply.raw(body)


async def test_a_program_may_give_lines_as_they_come() -> None:
    async def lines() -> AsyncIterator[str]:
        for text in ("a", "b"):
            await asyncio.sleep(0)
            yield text

    async with upstream(echo) as server:
        assert [result.fields["text"] for result in await results(lines(), server.url)] == ["A", "B"]


async def test_an_error_of_the_source_reaches_whoever_takes_results() -> None:
    def lines() -> Iterator[str]:
        yield "a"
        raise ZeroDivisionError

    async with upstream(echo) as server:
        with pytest.raises(ZeroDivisionError):
            await results(lines(), server.url)
