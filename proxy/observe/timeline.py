"""When each thing happened to one request, and what the first token had to wait for.

What must live here: the marks of a request and the arithmetic over them. What it must not know: where the marks are
read off, and who shows them. Marks are seconds on the monotonic clock of one process; ``None`` means that it did not
happen. Nothing in here ever holds a prompt, an answer or the value of a header.

The way of a request and its marks::

    received -- queue_s -- load_wait_s -- sent -- upstream_head -- token_read, first_token ... last_token -- finished
    \\___________________ our side _________/\\______ load, prompt evaluation, the rest: Ollama's side ______/

The parts of the time to first token, which sum to the whole exactly:

* ``queue``: waiting for a slot.
* ``load``: waiting for a load that the proxy shares among requests, and then Ollama's own ``load_duration``.
* ``prompt``: Ollama's ``prompt_eval_duration``.
* ``proxy``: our own work, before the request was sent and between reading the first token and writing it.
* ``other``: the rest, which is Ollama's own queue, its first decode and the network, and an upstream that did not
  answer before a fallback did.

Ollama's durations come from its final record (api/types.go, ``Metrics``, v0.24.0). They are measured by another
process, and the final record's may include a little that lies before the request reached it: so each part is cut to
what is left of the time that it can have been in.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.wire.routes import Family

COLD_LOAD_S = 0.1
"""A longer ``load_duration`` means that the model was loaded for this request; a resident one reports 1 to 3 ms."""

REUSED_CACHE = "cache"
REUSED_SHARED = "shared"

_TICKS_PER_S = 1 << 27
"""Durations are whole numbers of 2**-27 s (7.5 ns): up to two years, floats add and subtract those without rounding."""


class Outcome(enum.StrEnum):
    """How a call ended: the ``status`` label of ``llm_calls_total``."""

    OK = "ok"
    CLIENT_ERROR = "client_error"
    UPSTREAM_ERROR = "upstream_error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


def outcome_of(status: int) -> Outcome:
    """How a call ended whose reply has this status, as far as the status tells."""
    if status >= 500:
        return Outcome.UPSTREAM_ERROR
    return Outcome.CLIENT_ERROR if status >= 400 else Outcome.OK


class Start(enum.StrEnum):
    """Whether a call found its model resident: the ``start`` label of the time to first token."""

    WARM = "warm"
    COLD = "cold"
    UNKNOWN = "unknown"


class Phase(enum.StrEnum):
    """Where a client was when it left: the ``phase`` label of ``pilotlight_client_disconnects_total``."""

    QUEUED = "queued"
    WAITING = "waiting"
    STREAMING = "streaming"


@dataclass(slots=True)
class Timeline:
    """The record of one request. The relay writes it; everything else in ``observe`` reads it once it is finished.

    Attributes:
        request_id: The id that went to the client as ``X-Request-Id``.
        endpoint: Label of an inference call (``api_chat`` ...), empty for everything else.
        family: Whose shapes the replies have.
        route: The route's template, never the caller's own path.
        method: As sent.
        model: The caller's text; becomes a label only where ``labels`` lets it.
        received: The first byte of the request's head. All other marks are on the same clock.
        sent: The last byte of the request went upstream.
        upstream_head: The upstream's status line and headers are here.
        first_byte: The first byte of the body was written to the client.
        token_read: The piece with the first token was read from the upstream.
        first_token: The first frame with content, thinking or a tool call was written to the client.
        first_answer: The same for content or a tool call; later than ``first_token`` where a model thinks first.
        last_token: The last piece of the stream that was written.
        finished: The last byte of the response was written, or the request ended otherwise.
        queue_s: Waited for a slot.
        load_wait_s: Waited for a load owned by the proxy.
        failed_s: Spent on an upstream that did not answer, before another one was asked.
        load_duration_s, prompt_eval_duration_s, eval_duration_s: Ollama's, in seconds; ``None`` where not told.
        prompt_eval_count, eval_count: Tokens read and written; ``None`` where not told.
        done_reason: Ollama's ``done_reason``, or what ``finish_reason`` and ``stop_reason`` mean in its words.
        status: The status that the client got; 499 where it left before one was sent.
        stream: The reply was relayed piece by piece.
        chunks: Pieces of the body that were written.
        rule: What decided about generate to chat: 1 to 9, 0 where nothing was to decide.
        injected: What the proxy put into the request or overrode, for instance ``keep_alive,num_ctx``; names only.
        error_code: What went out as ``X-Pilotlight-Error``, else empty.
        incomplete: The upstream's reply ended without its final record, or was cut.
        client_disconnect_phase: Set when the client left before the end.
        trace_id: From the request's ``traceparent``; the exemplar's id. Empty where there was none.
        key: The name of the key that was shown.
        reused: Answered without a run of its own: from the cache, or by the run of an identical request.
        fallback: ``host:port`` of the one that answered in Ollama's place.
    """

    request_id: str
    endpoint: str
    family: Family
    route: str
    method: str
    received: float
    model: str = ""
    sent: float | None = None
    upstream_head: float | None = None
    first_byte: float | None = None
    token_read: float | None = None
    first_token: float | None = None
    first_answer: float | None = None
    last_token: float | None = None
    finished: float | None = None
    queue_s: float = 0.0
    load_wait_s: float = 0.0
    failed_s: float = 0.0
    load_duration_s: float | None = None
    prompt_eval_duration_s: float | None = None
    eval_duration_s: float | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    done_reason: str = ""
    status: int = 0
    outcome: Outcome = Outcome.OK
    stream: bool = False
    chunks: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    rule: int = 0
    injected: str = ""
    error_code: str = ""
    incomplete: bool = False
    client_disconnect_phase: Phase | None = None
    trace_id: str = ""
    reused: str = ""
    key: str = ""
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the time to first token went, in seconds. None is negative, and they sum to it exactly."""

    queue: float
    load: float
    prompt: float
    proxy: float
    other: float


def ttft_s(t: Timeline) -> float | None:
    """Seconds from the first byte of the request to the first token at the client; ``None`` without a token."""
    return None if t.first_token is None else _ticks(t.first_token - t.received) / _TICKS_PER_S


def total_s(t: Timeline) -> float | None:
    """Seconds from the first byte of the request to the end of the response; ``None`` while it is under way."""
    return None if t.finished is None else max(0.0, t.finished - t.received)


def parts(t: Timeline) -> Parts | None:
    """Split the time to first token.

    Args:
        t: May lack everything that only the final record tells; what is not known is in ``other``.

    Returns:
        Five parts, each at least 0, whose sum is ``ttft_s(t)`` exactly; ``None`` without a first token.
    """
    if t.first_token is None:
        return None
    left = _ticks(t.first_token - t.received)
    # Our side of the clock first: those are differences of marks of this process, so they can be trusted most.
    ours = left if t.sent is None else min(left, _ticks(t.sent - t.received))
    queue = min(ours, _ticks(t.queue_s))
    load_wait = min(ours - queue, _ticks(t.load_wait_s))
    failed = min(ours - queue - load_wait, _ticks(t.failed_s))
    proxy = ours - queue - load_wait - failed
    # Not our work, and not that of the one who answered: so it is in the rest.
    left -= ours - failed
    if t.token_read is not None:
        writing = min(left, _ticks(t.first_token - t.token_read))
        proxy += writing
        left -= writing
    load = min(left, _ticks(t.load_duration_s))
    left -= load
    prompt = min(left, _ticks(t.prompt_eval_duration_s))
    left -= prompt
    return Parts(
        queue=queue / _TICKS_PER_S,
        load=(load_wait + load) / _TICKS_PER_S,
        prompt=prompt / _TICKS_PER_S,
        proxy=proxy / _TICKS_PER_S,
        other=left / _TICKS_PER_S,
    )


def is_cold(t: Timeline) -> bool:
    """Whether the model had to be loaded: by Ollama for this request, or by the proxy while the request waited."""
    return t.load_wait_s > 0 or (t.load_duration_s is not None and t.load_duration_s > COLD_LOAD_S)


def start(t: Timeline) -> Start:
    """Cold or warm, or unknown where neither a wait for a load nor a final record with its durations tells."""
    if is_cold(t):
        return Start.COLD
    return Start.UNKNOWN if t.load_duration_s is None else Start.WARM


def server_timing(t: Timeline) -> bytes:
    """The ``Server-Timing`` value for the head that is about to be sent, in milliseconds.

    Returns:
        While a stream begins: ``queue``, ``load`` (the wait for a shared load), ``upstream`` (until its head) and
        ``proxy``. For a reply that was put together before its head is sent, the five parts and ``ttft``. Empty
        when nothing was sent upstream. Names are those of RFC 9110 tokens (W3C Server Timing, section 2).
    """
    # Looked at first, because a stream's head is sent before there is a token, and nothing is out yet.
    if t.first_token is not None and (split := parts(t)) is not None:
        return _timing(
            queue=split.queue,
            load=split.load,
            prompt=split.prompt,
            proxy=split.proxy,
            other=split.other,
            ttft=ttft_s(t) or 0.0,
        )
    sent = t.sent
    if sent is None:
        return b""
    queue_s, load_s = t.queue_s, t.load_wait_s
    before_s = sent - t.received - queue_s - load_s - t.failed_s
    if before_s < 0:
        before_s = 0.0
    if t.upstream_head is None:
        return _timing(queue=queue_s, load=load_s, proxy=before_s)
    upstream_s = t.upstream_head - sent
    if upstream_s < 0:
        upstream_s = 0.0
    # Every stream's head has this one: so in one piece, and not by way of text.
    return b"queue;dur=%.3f, load;dur=%.3f, upstream;dur=%.3f, proxy;dur=%.3f" % (
        queue_s * 1000,
        load_s * 1000,
        upstream_s * 1000,
        before_s * 1000,
    )


def _timing(**seconds: float) -> bytes:
    return b", ".join([b"%b;dur=%.3f" % (name.encode(), value * 1000) for name, value in seconds.items()])


def _ticks(seconds: float | None) -> int:
    return 0 if seconds is None or seconds <= 0 else round(seconds * _TICKS_PER_S)
