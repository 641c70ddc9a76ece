"""Embeddings of single texts that several clients ask for at once, in one call to Ollama.

The first part is pure: which calls go together, how they become one, how its reply is cut up again. The second waits:
a call goes out at once where none of its kind is under way; what comes meanwhile leaves together afterwards. So nothing
is slower than it was alone, and a flood of small calls becomes a few larger ones.

Source: Ollama 0.24.0, server/routes.go, ``EmbedHandler``; api/types.go, ``EmbedRequest`` and ``EmbedResponse``.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.errors import ShuttingDown
from proxy.reuse.key import canonical_without
from proxy.wire.durations import parse_keep_alive
from proxy.wire.gojson import JsonObject, read_object, splice

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from proxy.wire.headers import Field

    Reply = tuple[int, list[Field], bytes]

MAX_TEXTS: Final = 10

# envconfig/config.go: how long Ollama keeps a model for a request that does not say.
_DEFAULT_KEEP_ALIVE_S: Final = 300.0
# What is true of each text as well as of the whole. ``prompt_eval_count`` is a sum whose parts nobody told.
_KEPT: Final = frozenset(("model", "embeddings", "total_duration", "load_duration"))
# A vector: numbers, so no bracket and no quote inside.
_VECTOR = re.compile(r'[ \t\n\r]*(\[[^\[\]"{}]*\])[ \t\n\r]*(,?)')


# --- what goes together


class GatherKey(NamedTuple):
    """Calls with the same key may leave as one.

    Attributes:
        model: As the client spells it.
        rest: Everything else that decides about the answer, in canonical form.
        credentials: Whose call it is, where that is said; what a batch is sent with.
    """

    model: str
    rest: bytes
    credentials: tuple[Field, ...] = ()

    def __repr__(self) -> str:
        return f"<GatherKey {self.model!r}{', with credentials' if self.credentials else ''}>"


def gather_key(body: bytes, credentials: tuple[Field, ...] = ()) -> GatherKey | None:
    """The key of a body for ``/api/embed``.

    Args:
        body: The body.
        credentials: The fields of its head that say whose call it is.

    Returns:
        ``None`` where it asks for anything but one text, or where there are two readings. An empty text is none: Ollama
        takes it alone as a mere load, and among others as an error.
    """
    obj = read_object(body)
    if obj is None or obj.odd or not _text(obj):
        return None
    try:
        parse_keep_alive(obj.given("keep_alive"))
    except ValueError:
        return None
    model = obj.given("model")
    rest = canonical_without(body, ("input",))
    return GatherKey(model, rest, credentials) if isinstance(model, str) and model and rest is not None else None


def merged_body(bodies: Sequence[bytes]) -> bytes:
    """One body for several with the same key, with their texts in order.

    The first one lends everything else, and the one that keeps the model longest its ``keep_alive``.

    Raises:
        ValueError: One of them has no key.
    """
    objects = [obj for obj in map(read_object, bodies) if obj is not None]
    texts = [_text(obj) for obj in objects]
    if not all(texts) or len(texts) != len(bodies):
        raise ValueError("not the bodies of single texts")
    put = {"input": f"[{','.join(texts)}]"}
    longest = max(objects, key=_keep_alive_s)
    if longest.given("keep_alive") is None:
        return splice(objects[0], put, ("keep_alive",))
    return splice(objects[0], put | {"keep_alive": longest.raw("keep_alive")})


def split(reply: bytes, count: int) -> list[bytes] | None:
    """Cut the reply to a merged body into replies for each text.

    Args:
        reply: The body of a reply with status 200.
        count: How many texts were asked for.

    Returns:
        One body for each text, in order: Ollama's members in Ollama's order, each number as it was written; the
        durations are those of the whole. ``None`` where it is not a reply with so many vectors.
    """
    obj = read_object(reply)
    if obj is None or obj.odd:
        return None
    vectors = _vectors(obj.raw("embeddings"))
    if vectors is None or len(vectors) != count:
        return None
    unknown: frozenset[str] = frozenset() if count == 1 else frozenset(obj) - _KEPT
    return [splice(obj, {"embeddings": f"[{vector}]"}, unknown) for vector in vectors]


def _text(obj: JsonObject) -> str:
    """The JSON text of the one string that is asked for; "" where it is not one string, or an empty one."""
    value, raw = obj.given("input"), obj.raw("input")
    if isinstance(value, list) and len(value) == 1:
        value, raw = value[0], raw[1:-1].strip(" \t\n\r")
    return raw if isinstance(value, str) and value else ""


def _keep_alive_s(obj: JsonObject) -> float:
    seconds = parse_keep_alive(obj.given("keep_alive"))
    return _DEFAULT_KEEP_ALIVE_S if seconds is None else seconds


def _vectors(raw: str) -> list[str] | None:
    """The JSON texts of the arrays in an array. It was read as JSON before, so only its shape is asked for."""
    if raw[:1] != "[":
        return None
    found: list[str] = []
    at = 1
    while True:
        vector = _VECTOR.match(raw, at)
        if vector is None:
            return None
        found.append(vector[1])
        at = vector.end()
        if not vector[2]:
            return found if raw[at:] == "]" else None


# --- gathering


@dataclass(slots=True, eq=False)
class _Waiter:
    """One client's call.

    Attributes:
        since: When it came, in the loop's time.
    """

    body: bytes
    since: float
    reply: asyncio.Future[Reply]


@dataclass(slots=True, eq=False)
class _Batch:
    """One exchange, for those who wait for it."""

    waiters: list[_Waiter]
    task: asyncio.Task[None] = field(init=False)


@dataclass(slots=True, eq=False)
class _Line:
    """All calls with one key.

    Attributes:
        waiting: Have come and not left.
        under_way: More than one only where a batch failed and each of it is tried alone.
        timer: Runs while a batch waits for company.
    """

    waiting: list[_Waiter]
    under_way: list[_Batch] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None

    def stop_waiting(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Gatherer:
    """Sends embedding calls, together where that costs nobody time.

    Args:
        send: Sends one body with its key to ``/api/embed`` and returns status, fields and body of the reply. Cancelled
            when nobody waits for it any more.
        max_texts: How many texts leave together.
        wait_s: How long a call that found another one under way waits for company, from its arrival, where that one
            ended sooner.
    """

    def __init__(
        self, send: Callable[[GatherKey, bytes], Awaitable[Reply]], *, max_texts: int = MAX_TEXTS, wait_s: float = 0.0
    ) -> None:
        self._send = send
        self._max_texts = max_texts
        self._wait_s = wait_s
        self._lines: dict[GatherKey, _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        waiting = sum(len(line.waiting) for line in self._lines.values())
        return f"<Gatherer {len(self._tasks)} under way, {waiting} waiting>"

    async def ask(self, key: GatherKey, body: bytes) -> Reply:
        """Get one text embedded.

        Args:
            key: Of the body.
            body: For ``/api/embed``.

        Returns:
            Status, fields and body as they would be for this body alone, but for ``prompt_eval_count`` where it did not
            go alone.

        Raises:
            PilotlightError: What ``send`` raised.
            ShuttingDown: Closed meanwhile.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(body, loop.time(), loop.create_future())
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line([waiter])
            self._leave(key, line)
        else:
            line.waiting.append(waiter)
            if line.timer is not None and len(line.waiting) >= self._max_texts:
                self._leave(key, line)
        try:
            return await waiter.reply
        finally:
            self._take_out(key, line, waiter)

    async def aclose(self) -> None:
        """End every exchange; whoever waits is told."""
        for key, line in list(self._lines.items()):
            for waiter in [*line.waiting, *(waiter for batch in line.under_way for waiter in batch.waiters)]:
                if not waiter.reply.done():
                    waiter.reply.set_exception(ShuttingDown("the proxy is shutting down"))
            line.waiting.clear()
            self._drop_if_empty(key, line)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take_out(self, key: GatherKey, line: _Line, waiter: _Waiter) -> None:
        """Whoever left is not sent and not waited for. Does nothing for one that has its reply."""
        if waiter in line.waiting:
            line.waiting.remove(waiter)
            self._drop_if_empty(key, line)
        for batch in line.under_way:
            if waiter in batch.waiters and all(other.reply.done() for other in batch.waiters):
                batch.task.cancel()

    def _leave(self, key: GatherKey, line: _Line) -> None:
        line.stop_waiting()
        batch, line.waiting = line.waiting[: self._max_texts], line.waiting[self._max_texts :]
        self._launch(key, line, batch)

    def _launch(self, key: GatherKey, line: _Line, waiters: list[_Waiter]) -> None:
        batch = _Batch(waiters)
        line.under_way.append(batch)
        batch.task = asyncio.create_task(self._carry(key, line, batch), name=f"embed {len(waiters)} texts")
        self._tasks.add(batch.task)
        batch.task.add_done_callback(lambda task: self._on_done(key, line, batch))

    async def _carry(self, key: GatherKey, line: _Line, batch: _Batch) -> None:
        waiters = batch.waiters
        if len(waiters) == 1:
            _answer(waiters[0], await self._send(key, waiters[0].body))
            return
        status, fields, body = await self._send(key, merged_body([waiter.body for waiter in waiters]))
        parts = split(body, len(waiters)) if status == 200 else None
        if parts is not None:
            for waiter, part in zip(waiters, parts, strict=True):
                _answer(waiter, (status, _with_length(fields, part), part))
            return
        if status == 503:
            # It is overrun, whatever the texts are: each alone would only be more of them.
            for waiter in waiters:
                _answer(waiter, (status, fields, body))
            return
        # One text that is too long fails all of them. Alone, each owner gets its own error or answer.
        batch.waiters = []
        for waiter in waiters:
            if not waiter.reply.done():
                self._launch(key, line, [waiter])

    def _on_done(self, key: GatherKey, line: _Line, batch: _Batch) -> None:
        self._tasks.discard(batch.task)
        line.under_way.remove(batch)
        error = None if batch.task.cancelled() else batch.task.exception()
        for waiter in batch.waiters:
            if not waiter.reply.done():
                if error is None:
                    waiter.reply.cancel()
                else:
                    waiter.reply.set_exception(error)
        if line.under_way:
            return
        if not line.waiting:
            self._drop_if_empty(key, line)
            return
        loop = asyncio.get_running_loop()
        left_s = line.waiting[0].since + self._wait_s - loop.time()
        if left_s > 0 and len(line.waiting) < self._max_texts:
            line.timer = loop.call_later(left_s, self._leave, key, line)
        else:
            self._leave(key, line)

    def _drop_if_empty(self, key: GatherKey, line: _Line) -> None:
        if not line.waiting and not line.under_way:
            line.stop_waiting()
            if self._lines.get(key) is line:
                del self._lines[key]


def _answer(waiter: _Waiter, reply: Reply) -> None:
    if not waiter.reply.done():
        waiter.reply.set_result(reply)


def _with_length(fields: Sequence[Field], body: bytes) -> list[Field]:
    """The fields of the whole for a part of it."""
    framing = (b"content-length", b"transfer-encoding")
    return [*(one for one in fields if one[0].lower() not in framing), (b"Content-Length", b"%d" % len(body))]
