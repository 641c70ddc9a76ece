"""One request inside the proxy: what was received, what goes back, and how it is ended from outside."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from aiohttp import StreamReader

from proxy.admission.priority import NORMAL
from proxy.errors import BodyTooLarge, PilotlightError, RequestTimeout

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from proxy.admission.priority import Priority
    from proxy.edge.guard import Admitted
    from proxy.observe.timeline import Timeline
    from proxy.relay.delivery import Delivery
    from proxy.relay.head import RequestHead
    from proxy.relay.reply import ClientConnection, ClientReply
    from proxy.wire.headers import Field, Names
    from proxy.wire.routes import Route

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
T = TypeVar("T")

BODY_TIMEOUT_S: Final = 120.0
"""For the whole body of a call to a model."""
PIECE_TIMEOUT_S: Final = 30.0
"""Between two pieces of an upload, which may take hours as a whole."""
HEAD_TIMEOUT_S: Final = 15.0
"""From the first byte of a head to its last; a client that sends one byte after the other holds a connection."""


class Deadlines(NamedTuple):
    """How long a client may take to send."""

    head_s: float = HEAD_TIMEOUT_S
    body_s: float = BODY_TIMEOUT_S
    piece_s: float = PIECE_TIMEOUT_S


DEADLINES: Final = Deadlines()


class WholeBody:
    """A body that is here already, read as aiohttp's ``StreamReader`` is."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def is_eof(self) -> bool:
        """All of it has arrived."""
        return True

    def at_eof(self) -> bool:
        """All of it was read."""
        return not self._data

    def exception(self) -> BaseException | None:
        return None

    @property
    def unread_bytes(self) -> int:
        return len(self._data)

    def take(self) -> bytes:
        """What was not read yet."""
        data, self._data = self._data, b""
        return data

    async def readany(self) -> bytes:
        return self.take()


Body = WholeBody | StreamReader


class Inbound(NamedTuple):
    """What the listening port hands in.

    Attributes:
        head: As it was read.
        body: To be read once.
        connection: The client's.
        received: When the first byte of the head arrived; monotonic seconds.
        told_bytes: How long the body is, where the head was remembered without it.
    """

    head: RequestHead
    body: Body
    connection: ClientConnection
    received: float
    told_bytes: int | None = None


@dataclass(slots=True, eq=False)
class Call:
    """One request on its way.

    Attributes:
        head: As it was read, and remembered for others like it.
        method, path, route: Of it.
        fields: The request's: as received; once admitted, as they go on.
        names: Of these fields.
        body: The client's, to be read once.
        connection: The client's.
        reply: Its answer.
        timeline: Its marks.
        added: Fields that every reply to it gets.
        task: In which it is served, for ending it while it waits.
        is_managing: It changes models, and so stands in the audit log.
        deadlines: For its client.
        delivery: While a generation's reply is under way.
        interrupted: Set when the call is ended from our side before a delivery began.
        client: Whose turn it takes in the queue, and whose bucket.
        admitted: What the guard decided about it.
        priority: Its class there.
        body_error: Why its body was not read to the end.
        told_bytes: How long its body is, where its head does not say it.
    """

    head: RequestHead
    method: str
    path: str
    route: Route
    fields: Sequence[Field]
    names: Names
    body: Body
    connection: ClientConnection
    reply: ClientReply
    timeline: Timeline
    added: list[Field]
    task: asyncio.Task[None] | None
    is_managing: bool = False
    deadlines: Deadlines = DEADLINES
    delivery: Delivery | None = None
    interrupted: PilotlightError | None = None
    client: str = ""
    admitted: Admitted | None = None
    priority: Priority = NORMAL
    body_error: PilotlightError | None = None
    told_bytes: int | None = None

    @property
    def received(self) -> Sequence[Field]:
        """Its fields before the guard took some away; only for whose it is. May hold a key."""
        return self.head.fields

    def interrupt(self, error: PilotlightError) -> None:
        """End the call with an error: as a frame where a stream began, as a status where none did."""
        self.interrupted = error
        delivery = self.delivery
        if delivery is not None and not delivery.is_over and not delivery.is_queued:
            delivery.fail(error)
        elif self.task is not None:
            self.task.cancel()

    def given(self, name: bytes) -> bytes | None:
        """The first value of a field of the request, or ``None``. ``name`` in lower case."""
        return self.names.first(self.fields, name)

    def invite_body(self) -> None:
        """Answer ``Expect: 100-continue``, now that the body is wanted (RFC 9110 section 10.1.1)."""
        expect = self.given(b"expect")
        if expect is not None and expect.strip().lower() == b"100-continue":
            self.connection.write(_CONTINUE)

    async def read_body(self, limit_bytes: int) -> bytes:
        """The whole body.

        Raises:
            BodyTooLarge: It is longer than the limit; at most one read more than that was taken.
        """
        if isinstance(self.body, WholeBody):
            if self.body.unread_bytes > limit_bytes:
                raise BodyTooLarge(_too_large(limit_bytes))
            return self.body.take()
        told, told_bytes = self.given(b"content-length"), self.told_bytes
        if told is not None and told.isdigit():
            told_bytes = int(told)
        if told_bytes is not None and told_bytes > limit_bytes:
            raise BodyTooLarge(_too_large(limit_bytes))
        self.invite_body()
        if not self.body.is_eof():
            # It is still on its way, from a client that may be slow on purpose.
            return await in_time(self._read(limit_bytes), self.deadlines.body_s)
        return await self._read(limit_bytes)

    async def _read(self, limit_bytes: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while not self.body.at_eof():
            piece = await self.body.readany()
            size += len(piece)
            if size > limit_bytes:
                raise BodyTooLarge(_too_large(limit_bytes))
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def in_time(reading: Coroutine[object, object, T], timeout_s: float) -> T:
    """Read from a client within a time.

    Raises:
        RequestTimeout: It took longer.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await reading
    except TimeoutError:
        raise RequestTimeout("the request's body did not come in time") from None


def _too_large(limit_bytes: int) -> str:
    return f"the request body is larger than {limit_bytes} bytes (edge.max_body)"
