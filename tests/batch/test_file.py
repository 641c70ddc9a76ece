"""From file to file, against a small server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from proxy.batch import BatchStopped, ChangedInput, Job, Journal, OutputFailed, Source, Tally, run_file
from proxy.batch.journal import Pipe
from tests.peers import upstream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.peers import Answering, Seen


async def answer(seen: Seen, reply: Answering) -> None:
    if seen.json["prompt"] == "bad":
        reply.json({"error": "cannot"}, 400)
    else:
        reply.json({"response": "Yes.", "done": True, "prompt_eval_count": 3, "eval_count": 2})


class Files:
    """An input, an output, and what came of it."""

    def __init__(self, folder: Path) -> None:
        self.input = folder / "in.jsonl"
        self.output = folder / "out.jsonl"

    def write(self, *prompts: str) -> None:
        self.input.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))

    @contextlib.contextmanager
    def source(self) -> Iterator[Source]:
        descriptor = os.open(self.input, os.O_RDONLY)
        try:
            yield Source(descriptor, "in.jsonl")
        finally:
            os.close(descriptor)

    async def run(self, url: str, *, again: bool = False, **job: Any) -> Tally:
        made = Job(url=url, model="tiny", **job)
        with self.source() as source, Journal(self.output, again=again, ordered=made.ordered) as journal:
            return await run_file(source, journal, made)

    @property
    def lines(self) -> list[int]:
        return [json.loads(line)["line"] for line in self.output.read_bytes().splitlines()]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def test_a_second_run_does_what_is_left_and_a_third_nothing(files: Files) -> None:
    async with upstream(answer) as server:
        files.write("a", "b")
        first = await files.run(server.url)
        files.write("a", "b", "bad", "d")
        second = await files.run(server.url)
        third = await files.run(server.url)
        assert len(server.seen) == 4
    assert (first.before, first.done, first.errors) == (0, 2, 0)
    assert (first.prompt_tokens, first.tokens) == (6, 4)
    assert (second.before, second.done, second.errors, second.named) == (2, 2, 1, (3,))
    assert (third.before, third.done, third.errors) == (4, 0, 1)
    assert files.lines == [1, 2, 3, 4]


async def test_nothing_is_said_to_be_done_that_is_not_in_the_file(files: Files) -> None:
    files.write(*(str(number) for number in range(500)))
    told = []

    def tell(tally: Tally) -> None:
        told.append((tally.done, len(files.lines)))

    async with upstream(answer) as server:
        job = Job(url=server.url, model="tiny")
        with files.source() as source, Journal(files.output) as journal:
            await run_file(source, journal, job, tell)
    assert told[-1] == (500, 500)
    assert all(done == there for done, there in told)


async def test_cancelled_it_writes_what_was_answered_and_a_later_run_goes_on(files: Files) -> None:
    files.write(*(str(number) for number in range(30)))
    reached = asyncio.Event()
    let = False

    async def script(seen: Seen, reply: Answering) -> None:
        if seen.json["prompt"] == "20" and not let:
            reached.set()
            await seen.left.wait()
        else:
            await answer(seen, reply)

    async with upstream(script) as server:
        running = asyncio.ensure_future(files.run(server.url, concurrency=1))
        await asyncio.wait_for(reached.wait(), 10)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert files.lines == list(range(1, 21))
        let = True
        assert (await files.run(server.url)).before == 20
        assert len([seen for seen in server.seen if seen.json["prompt"] == "20"]) == 2
        assert len(server.seen) == 31
    assert files.lines == list(range(1, 31))


async def test_a_slow_line_holds_no_result_back_and_the_file_is_in_order_at_the_end(files: Files) -> None:
    files.write("slow", *(str(number) for number in range(300)))
    others = asyncio.Event()
    count = 0

    async def script(seen: Seen, reply: Answering) -> None:
        nonlocal count
        if seen.json["prompt"] == "slow":
            await others.wait()
        count += 1
        if count == 300:
            others.set()
        await answer(seen, reply)

    async with upstream(script) as server:
        await files.run(server.url)
    assert files.lines == list(range(1, 302))


async def test_as_they_come_they_stay(files: Files) -> None:
    files.write("1", "2")
    second = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        if seen.json["prompt"] == "1":
            await second.wait()
        await answer(seen, reply)
        second.set()

    async with upstream(script) as server:
        await files.run(server.url, ordered=False)
    assert files.lines == [2, 1]


async def test_a_line_that_was_changed_is_told_and_costs_nothing_that_is_done(files: Files) -> None:
    async with upstream(answer) as server:
        files.write("a", "b", "c")
        await files.run(server.url)
        before = files.output.read_bytes()
        files.write("a", "changed", "c")
        with pytest.raises(ChangedInput, match="line 2 was answered when it, or the model, system or options for all"):
            await files.run(server.url)
        files.write("a", "b", "c")
        with pytest.raises(ChangedInput, match="line 1 was answered when it"):
            await files.run(server.url, system="Other.")
        files.write("a")
        with pytest.raises(ChangedInput, match="has become shorter, 2 of the lines"):
            await files.run(server.url)
        assert len(server.seen) == 3
    assert files.output.read_bytes() == before


async def test_a_line_with_an_error_may_be_mended_and_is_done_again(files: Files) -> None:
    async with upstream(answer) as server:
        files.write("a", "bad", "c")
        await files.run(server.url)
        files.write("a", "mended", "c")
        with pytest.raises(ChangedInput, match="--retry-errors takes its error back"):
            await files.run(server.url)
        tally = await files.run(server.url, again=True)
    assert (tally.before, tally.done, tally.errors) == (2, 1, 0)
    assert files.lines == [1, 2, 3]


async def test_a_stop_keeps_what_is_done(files: Files) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if seen.json["prompt"] == "7":
            reply.json({"error": "a valid API key is needed"}, 401)
        else:
            await answer(seen, reply)

    files.write(*(str(number) for number in range(20)))
    async with upstream(script) as server:
        with pytest.raises(BatchStopped):
            await files.run(server.url, concurrency=1)
    assert files.lines == list(range(1, 8))


async def test_a_disk_that_fails_ends_the_run_and_what_was_there_stays(files: Files) -> None:
    class Full(Journal):
        """Takes one group; then the disk is full."""

        taken = 0

        def append(self, records: Sequence[bytes]) -> None:
            if self.taken:
                raise OutputFailed("out.jsonl: No space left on device")
            super().append(records)
            self.taken = len(records)

    files.write(*(str(number) for number in range(200)))
    async with upstream(answer) as server:
        with files.source() as source, Full(files.output) as journal:
            with pytest.raises(OutputFailed, match="No space left"):
                await run_file(source, journal, Job(url=server.url, model="tiny"))
            assert len(files.lines) == journal.taken
        await files.run(server.url)
    assert files.lines == list(range(1, 201))


async def test_however_often_it_is_cancelled_nothing_is_written_beside_what_is_being_written(files: Files) -> None:
    class Slow(Journal):
        """Says when it writes, and goes on when it is let."""

        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.writing, self.let = threading.Event(), threading.Event()
            self.at_once = 0

        def append(self, records: Sequence[bytes]) -> None:
            self.at_once += 1
            assert self.at_once == 1
            self.writing.set()
            assert self.let.wait(10)
            super().append(records)
            self.at_once -= 1

    files.write(*(str(number) for number in range(100)))
    async with upstream(answer) as server:
        with files.source() as source, Slow(files.output) as journal:
            running = asyncio.ensure_future(run_file(source, journal, Job(url=server.url, model="tiny")))
            await asyncio.to_thread(journal.writing.wait, 10)
            for _ in range(3):
                running.cancel()
                await asyncio.sleep(0)
            assert not running.done()
            journal.let.set()
            with pytest.raises(asyncio.CancelledError):
                await running
        before = len(files.lines)
        assert (await files.run(server.url)).before == before > 0
    assert files.lines == list(range(1, 101))


async def test_into_a_pipe_results_go_in_order(files: Files) -> None:
    first = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        if seen.json["prompt"] == "0":
            await first.wait()
        if seen.json["prompt"] == "9":
            first.set()
        await answer(seen, reply)

    files.write(*(str(number) for number in range(20)))
    ours, theirs = os.pipe()
    async with upstream(script) as server:
        with files.source() as source:
            await run_file(source, Pipe(theirs, "standard output"), Job(url=server.url, model="tiny"))
    os.close(theirs)
    with os.fdopen(ours, "rb") as file:
        assert [json.loads(line)["line"] for line in file] == list(range(1, 21))
