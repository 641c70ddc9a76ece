"""The lines of a batch, sent and answered: so many at a time, and no more kept than was asked for.

A run owns its workers, its connections and the results that nobody has taken yet. It knows nothing of files.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Self

import orjson

from proxy.batch import answer
from proxy.batch.attempts import Again, Failure, Kind, Stop, Tries
from proxy.batch.client import Client
from proxy.batch.line import PATHS, BrokenLine, compose, digest, parse
from proxy.batch.lines import MOST_BYTES, Line
from proxy.batch.record import Result
from proxy.batch.source import Given, InputUnusable, numbered
from proxy.batch.window import Window
from proxy.errors import UpstreamBroken, UpstreamUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
    from types import TracebackType

    from proxy.batch.job import Job
    from proxy.batch.line import Asked

# Results that wait to be taken. Beyond either, no further line is begun.
_MOST_WAITING: Final = 1024
_MOST_WAITING_BYTES: Final = 16 * 1024 * 1024
# Lines that may be under way or answered while an earlier one is not, where the order is kept.
AHEAD: Final = 256


class BatchStopped(Exception):
    """The run ended before its input did. One line; what has no result yet is as if it had never been sent."""


class ChangedInput(Exception):
    """A line is not the one that has the result of its number. One line, which names both."""


class Run:
    """One pass over an input. Use as a context on the event loop; leaving it ends everything that is under way.

    Args:
        source: Pieces of the input.
        job: What is asked.
        has_result: Told the number and digest of each line; ``True`` leaves it out. May raise ``ChangedInput``.
        on_trouble: Told why a line has to be sent again, and with an empty text when answers come again.

    Attributes:
        left_out: Lines that had a result already.
        repeats: Attempts beyond each line's first.
    """

    def __init__(
        self,
        source: AsyncGenerator[list[Line | Given], None] | AsyncGenerator[list[Line], None],
        job: Job,
        has_result: Callable[[int, str], bool] = lambda number, digest: False,
        on_trouble: Callable[[str], None] = lambda trouble: None,
    ) -> None:
        self._source = source
        self._job = job
        self._has_result = has_result
        self._on_trouble = on_trouble
        self._defaults = job.defaults
        self._salt = self._defaults.encode()
        self._patience = job.patience
        self._clock = time.monotonic
        self._rng = random.Random()  # noqa: S311 - jitter
        self._client: Client | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._ready: deque[Line | Given] = deque()
        self._in_trouble = False
        self._is_exhausted = False
        self._window: Window[tuple[Result, int]] | None = Window(max(AHEAD, job.concurrency)) if job.ordered else None
        self._waiting: list[Result] = []
        self._waiting_bytes = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._has_ended = False
        self._failure: BaseException | None = None
        self._has_answered = False
        self.left_out = 0
        self.repeats = 0

    def __repr__(self) -> str:
        return f"<Run of {self._job.url}, {len(self._waiting)} results wait, {self.left_out} left out>"

    async def __aenter__(self) -> Self:
        self._client = Client(self._job.url, self._job.fields, self._job.concurrency)
        self._supervisor = asyncio.create_task(self._supervise(self._client))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def take(self) -> list[Result]:
        """Every result that is there, as soon as there is one; an empty list at the end.

        Raises:
            BatchStopped, ChangedInput, InputUnusable: What ended the run; once all results before it are taken.
        """
        while not self._waiting:
            if self._has_ended:
                if self._failure is not None:
                    raise self._failure
                return []
            self._filled.clear()
            await self._filled.wait()
        return self.take_now()

    def take_now(self) -> list[Result]:
        """Every result that is there."""
        taken, self._waiting = self._waiting, []
        self._waiting_bytes = 0
        self._room.set()
        return taken

    async def aclose(self) -> None:
        """End what is under way; results that are there can still be taken. Idempotent."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor

    async def _supervise(self, client: Client) -> None:
        workers = [asyncio.create_task(self._work(client)) for _ in range(self._job.concurrency)]
        try:
            # A line that ends the run ends it for all: the others would come to the same.
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            for worker in done:
                self._failure = self._failure or worker.exception()
        finally:
            for worker in workers:
                worker.cancel()
            try:
                await asyncio.gather(*workers, return_exceptions=True)
                await self._source.aclose()
                await client.aclose()
            finally:
                self._has_ended = True
                self._filled.set()

    async def _work(self, client: Client) -> None:
        while True:
            await self._has_room()
            found = await self._next()
            if found is None:
                return
            place = self._window.begin() if self._window is not None else 0
            result, size = await self._result(client, *found)
            self._put(place, result, size)

    async def _has_room(self) -> None:
        while (
            len(self._waiting) >= _MOST_WAITING
            or self._waiting_bytes >= _MOST_WAITING_BYTES
            or (self._window is not None and self._window.is_full)
        ):
            self._room.clear()
            await self._room.wait()

    async def _next(self) -> tuple[Line | Given, str] | None:
        """The next line that has no result yet, with its digest."""
        while True:
            while self._ready:
                line = self._ready.popleft()
                known_by = self._digest(line)
                if not self._is_known(line.number, known_by):
                    return line, known_by
            if self._is_exhausted:
                return None
            async with self._reading:
                if self._ready or self._is_exhausted:
                    continue
                try:
                    self._ready.extend(await anext(self._source))
                except StopAsyncIteration:
                    self._is_exhausted = True
                except InputUnusable as error:
                    self._end_input(error)

    def _is_known(self, number: int, known_by: str) -> bool:
        try:
            is_known = self._has_result(number, known_by)
        except ChangedInput as error:
            self._end_input(error)
            self._ready.clear()
            return True
        self.left_out += is_known
        return is_known

    def _end_input(self, error: Exception) -> None:
        """Nothing more is begun; what is under way gets its result."""
        self._failure = self._failure or error
        self._is_exhausted = True

    def _digest(self, line: Line | Given) -> str:
        raw = line.raw if isinstance(line, Line) else orjson.dumps(line.value, default=repr)
        return digest(raw, self._salt)

    def _put(self, place: int, result: Result, size: int) -> None:
        if self._window is None:
            self._waiting.append(result)
            self._waiting_bytes += size
        else:
            for later, its_size in self._window.end(place, (result, size)):
                self._waiting.append(later)
                self._waiting_bytes += its_size
            self._room.set()
        if self._waiting:
            self._filled.set()

    async def _result(self, client: Client, line: Line | Given, known_by: str) -> tuple[Result, int]:
        began = self._clock()
        try:
            asked = self._asked(line)
        except BrokenLine as error:
            return Result(line.number, known_by, {}, {}, str(error), None, 0, 0.0), 0
        tries = Tries(self._patience, began, names_model=asked.names_model)
        while True:
            came = await self._attempt(client, asked, tries.left_s(self._clock()))
            now = self._clock()
            if not isinstance(came, Failure):
                fields, size = came
                self._has_answered = True
                self._say("")
                return Result(line.number, known_by, asked.carried, fields, None, None, tries.count, now - began), size
            count = tries.count
            step = tries.after(came, now, self._rng.random(), has_answered=self._has_answered)
            if isinstance(step, Stop):
                raise BatchStopped(f"{self._job.url}: {step.message}")
            if not isinstance(step, Again):
                self._has_answered = self._has_answered or came.status is not None
                failed = Result(line.number, known_by, asked.carried, {}, came.message, came.status, count, now - began)
                return failed, len(came.message)
            self.repeats += 1
            self._say(came.message)
            await asyncio.sleep(step.pause_s)

    def _say(self, trouble: str) -> None:
        if trouble or self._in_trouble:
            self._in_trouble = bool(trouble)
            self._on_trouble(trouble)

    def _asked(self, line: Line | Given) -> Asked:
        if isinstance(line, Given):
            return compose(line.value, self._defaults)
        if line.is_too_long:
            raise BrokenLine(f"longer than {MOST_BYTES >> 20} MiB")
        return parse(line.raw, self._defaults)

    async def _attempt(
        self, client: Client, asked: Asked, left_s: float | None
    ) -> tuple[dict[str, Any], int] | Failure:
        try:
            async with asyncio.timeout(left_s):
                reply = await client.post(PATHS[asked.kind], asked.body)
        except TimeoutError:
            return Failure(Kind.LATE, f"no answer within {self._patience.timeout_s:g} s")
        except UpstreamUnreachable as error:
            return Failure(Kind.AWAY, _of_server(error.message), retry_after_s=error.retry_after_s or 0.0)
        except UpstreamBroken as error:
            return Failure(Kind.CUT, _of_server(error.message))
        fields = answer.read(reply, asked)
        return fields if isinstance(fields, Failure) else (fields, len(reply.body))


def _of_server(message: str) -> str:
    return message.replace("the upstream", "the server").replace("upstream connection", "the connection was")


async def run_batch(lines: Iterable[Any] | AsyncIterable[Any], job: Job) -> AsyncGenerator[Result, None]:
    """Results of many prompts, chats or texts, so many at a time as the job says.

    Args:
        lines: What a line of the input stands for: a text (a prompt), a mapping with ``prompt``, ``messages`` or
            ``input``; or ``bytes``, which are such a line's JSON. Taken from only as it is needed.
        job: Server, defaults and how much is tried.

    Yields:
        A result for each, with its number from 1; one with ``error`` where it has none. Take them with
        ``contextlib.aclosing`` where you may stop early: what is under way ends then.

    Raises:
        BatchStopped: The server cannot be reached or does not take the job; results up to then were given out.
    """
    async with Run(numbered(lines), job) as run:
        while results := await run.take():
            for result in results:
                yield result
