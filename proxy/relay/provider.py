"""A reply of a provider's on its way to one client: a sink that stands before the delivery, as if Ollama had answered.

What must live here: which head goes on (none of the provider's own fields does), and that nothing of its framing is
left. What it must not know: the two APIs (``rewrite.provider``), who is asked next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import PilotlightError, UpstreamBroken
from proxy.relay.courier import nothing
from proxy.wire.headers import first
from proxy.wire.http1 import ReplyHead, chunk
from proxy.wire.lines import LineSplitter
from proxy.wire.openai import error_message, error_object
from proxy.wire.routes import Family
from proxy.wire.shapes import JSON_TYPE, error_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.rewrite.provider.plan import Plan
    from proxy.upstream.exchange import Flow, Sink
    from proxy.wire.headers import Field

# Of what is not a stream; embeddings of some thousand texts have tens of MiB.
_LARGEST_BYTES: Final = 64 * 2**20
_HIDDEN: Final = b"(key)"
_UNREADABLE: Final = "the provider's reply cannot be read"


def is_no_answer(head: ReplyHead) -> bool:
    """Whether a provider's reply says nothing about the request.

    Its key is refused, there is nothing left to pay with, it does not have the model, it is overrun, or it has moved.
    """
    return head.status in (401, 402, 403, 404, 408, 429) or head.status >= 500 or 300 <= head.status < 400


class ProviderSink:
    """Translates one reply.

    Args:
        sink: Gets it as the client's route answers.
        plan: What was asked.
        family: Whose shape an error has.
        key: Never passed on, should the provider repeat it.
        on_activity: Told of what comes and is not passed on, or not yet: a provider that says that it is still there.
    """

    def __init__(
        self, sink: Sink, plan: Plan, family: Family, key: str, on_activity: Callable[[], None] = nothing
    ) -> None:
        self._sink = sink
        self._plan = plan
        self._family = family
        self._key = key.encode()
        self._on_activity = on_activity
        self._head: ReplyHead | None = None
        self._lines: LineSplitter | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_over = False

    def __repr__(self) -> str:
        return f"<ProviderSink {'over' if self._is_over else 'under way'}>"

    def on_head(self, head: ReplyHead) -> None:
        self._head = head
        if (first(head.fields, b"content-encoding") or b"identity").strip().lower() != b"identity":
            self._fail(UpstreamBroken("the provider's reply is encoded"))
        elif head.status == 200 and (head.content_type == b"text/event-stream") != self._plan.streams:
            self._fail(UpstreamBroken(_UNREADABLE))
        elif head.status == 200 and self._plan.streams:
            self._lines = LineSplitter()
            self._sink.on_head(_head(head, 200, self._plan.translation.stream_type, None))

    def on_body(self, raw: bytes, payload: bytes) -> None:
        if self._is_over:
            return
        if self._lines is not None:
            self._translate(self._lines.feed(payload))
            return
        self._on_activity()
        self._pieces.append(payload)
        self._size += len(payload)
        if self._size > _LARGEST_BYTES:
            self._fail(UpstreamBroken("the provider's reply is too large"))

    def on_end(self) -> None:
        if self._is_over or self._head is None:
            return
        if self._lines is not None:
            if self._lines.rest:
                self._translate([self._lines.rest + b"\n"])
        else:
            try:
                self._tell_whole(self._head, b"".join(self._pieces))
            except UpstreamBroken as error:
                self._fail(error)
                return
        self._is_over = True
        self._sink.on_end()

    def on_failure(self, error: PilotlightError) -> None:
        if not self._is_over:
            self._fail(error)

    def _translate(self, lines: list[bytes]) -> None:
        told = b"".join(map(self._plan.translation.feed, lines))
        if self._key and self._key in told:
            told = told.replace(self._key, _HIDDEN)
        if told:
            self._sink.on_body(chunk(told), told)
        else:
            self._on_activity()

    def _tell_whole(self, head: ReplyHead, body: bytes) -> None:
        if head.status == 200:
            kind, told = self._plan.translation.whole_type, self._plan.translation.whole(body)
        else:
            kind, told = self._error(head.status, body)
        if self._key:
            told = told.replace(self._key, _HIDDEN)
        self._sink.on_head(_head(head, head.status, kind, len(told)))
        if told:
            self._sink.on_body(told, told)

    def _error(self, status: int, body: bytes) -> tuple[bytes, bytes]:
        """A refusal, in the shape of the API that was called; of the provider's words only the message."""
        text = error_message(body) or f"the provider answered with status {status}"
        if self._family is Family.API:
            return JSON_TYPE, error_body(self._family, status, text)
        return b"application/json", error_object(status, text)

    def _fail(self, error: PilotlightError) -> None:
        self._is_over = True
        self._sink.on_failure(error)


class ProviderFlow:
    """Steers the exchange behind a translated reply. No chunk of ours is ever left open."""

    open_chunk: tuple[int, bool] = (0, False)

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    def pause_reading(self) -> None:
        self._flow.pause_reading()

    def resume_reading(self) -> None:
        self._flow.resume_reading()

    def abort(self) -> None:
        self._flow.abort()

    def take_whole_chunks(self, sink: Sink, lane: Callable[[bytes], bool]) -> None:
        """Nothing goes past the translation."""


def _head(head: ReplyHead, status: int, kind: bytes, length_bytes: int | None) -> ReplyHead:
    fields: list[Field] = [(b"Content-Type", kind)]
    date = first(head.fields, b"date")
    if date is not None:
        fields.append((b"Date", date))
    if length_bytes is not None:
        fields.append((b"Content-Length", b"%d" % length_bytes))
    return ReplyHead(
        status=status,
        reason=b"",
        fields=tuple(fields),
        chunked=length_bytes is None,
        length_bytes=length_bytes,
        reusable=False,
        content_type=kind.partition(b";")[0],
    )
