"""Reading how a reply ended, and what Ollama measured, from its last bytes.

What must live here: the final record of each family, and what ends a reply properly. What it must not know: who asks.
Nothing of an answer's text is kept.

How replies end (Ollama v0.24.0: server/routes.go, middleware/openai.go, middleware/anthropic.go; exchanges.json):

* ``/api/*``: an NDJSON line with ``"done":true`` and, when something was generated, its durations in nanoseconds; or a
  line ``{"error":"..."}`` under status 200. ``pull``, ``push`` and ``create`` end with ``{"status":"success"}``.
* ``/v1/chat/completions``, ``/v1/completions``: ``data: [DONE]``. When the model's runner dies, the stream ends with a
  chunk whose ``model`` is empty, without an error and without ``[DONE]``: an empty ``model`` means failure.
* ``/v1/messages``: the event ``message_stop``; usage is in the ``message_delta`` before it.
* ``/v1/responses``: the event ``response.completed`` (or ``incomplete``), which repeats the whole text; usage is near
  its end. ``response.failed`` has its error inside.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from proxy.observe.timeline import REUSED_CACHE
from proxy.wire.routes import Family

if TYPE_CHECKING:
    from proxy.observe.timeline import Timeline

TAIL_BYTES = 2048
"""A final record without the token list of ``context`` has 300 to 400 bytes, the last three events of a message 400."""

LONGEST_ERROR = 300

# How the other families say what Ollama calls done_reason (openai/openai.go, anthropic/anthropic.go).
_DONE_REASONS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}

_NUMBER = re.compile(
    rb'"(total_duration|load_duration|prompt_eval_count|prompt_eval_duration|eval_count|eval_duration'
    rb'|prompt_tokens|completion_tokens|input_tokens|output_tokens)": ?(\d{1,18})[,}]'
)
_REASON = re.compile(rb'"(?:done_reason|finish_reason|stop_reason)": ?"(\w{1,32})"')


class FinalRecord(NamedTuple):
    """What the end of a reply tells.

    Attributes:
        complete: It ended as a reply of its family ends.
        failed: It ended with an error, or as one whose model died.
        error: Ollama's own error text, shortened; for decisions, not for logs.
        done_reason: In Ollama's words; empty where not told.
    """

    complete: bool
    failed: bool = False
    error: str = ""
    done_reason: str = ""
    load_duration_s: float | None = None
    prompt_eval_duration_s: float | None = None
    eval_duration_s: float | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None

    def onto(self, t: Timeline) -> None:
        """Write what is known into a timeline; of a kept answer, nothing that was measured when it was made."""
        t.done_reason = self.done_reason
        if t.reused == REUSED_CACHE:
            return
        t.load_duration_s = self.load_duration_s
        t.prompt_eval_duration_s = self.prompt_eval_duration_s
        t.eval_duration_s = self.eval_duration_s
        t.prompt_eval_count = self.prompt_eval_count
        t.eval_count = self.eval_count


class Tail:
    """The last bytes of a body, at the cost of a list append per piece.

    Args:
        limit_bytes: At least so many are kept, at most twice as many and one piece.
    """

    __slots__ = ("_limit_bytes", "_pieces", "_size")

    def __init__(self, limit_bytes: int = TAIL_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, payload: bytes) -> None:
        self._pieces.append(payload)
        self._size += len(payload)
        if self._size > 2 * self._limit_bytes:
            kept = b"".join(self._pieces)[-self._limit_bytes :]
            self._pieces = [kept]
            self._size = len(kept)

    def read(self) -> bytes:
        return b"".join(self._pieces)[-self._limit_bytes :]


def read_final(tail: bytes, family: Family, *, stream: bool = True) -> FinalRecord | None:
    """Read the end of a reply with status 200.

    Args:
        tail: Its last bytes without chunk framing. More than ``TAIL_BYTES`` may be given, no more are looked at; the
            beginning may be cut anywhere, also within the last line.
        family: Whose shapes the reply has.
        stream: Whether it is a stream of frames; else one JSON value, whose completeness its framing has to tell.

    Returns:
        ``None`` when it does not end as a reply of its family ends, and not with an error either: it was cut.
    """
    tail = tail[-TAIL_BYTES:]
    if not stream:
        return _read_whole(tail.strip())
    if family is Family.API:
        return _read_line(tail)
    return _read_events(tail, family)


def _read_line(tail: bytes) -> FinalRecord | None:
    if not tail.endswith(b"\n"):
        return None
    line = tail.rstrip().rpartition(b"\n")[2]
    record = _parse(line)
    if record is None:
        # Its beginning is cut off: an old-style generate has all tokens of the conversation in its final record, an
        # image model the image. A frame in mid-stream would end with done:false (api/types.go: GenerateResponse).
        is_end = line.endswith(b"}") and not line.startswith(b"{") and not line.endswith(b'"done":false}')
        return _measured(line, _numbers(line)) if is_end else None
    if "error" in record:
        return FinalRecord(complete=False, failed=True, error=_text(record["error"]))
    if record.get("done") is True:
        return _record(record, _text(record.get("done_reason")))
    return FinalRecord(complete=True) if record.get("status") == "success" else None


def _read_whole(tail: bytes) -> FinalRecord | None:
    record = _parse(tail)
    if record is None:
        return _measured(tail, _numbers(tail)) if tail.endswith(b"}") else None
    if record.get("error"):
        return FinalRecord(complete=False, failed=True, error=_error_text(record["error"]))
    return _record(record, _reason(record))


def _read_events(tail: bytes, family: Family) -> FinalRecord | None:
    """The last events of a stream, from behind: the end of it, and before that the one with the usage."""
    if not tail.endswith(b"\n"):
        return None
    complete = False
    reason = ""
    usage: dict[str, Any] = {}
    for line in reversed(tail.split(b"\n")):
        if line == b"data: [DONE]":
            complete = True
            continue
        event = _parse(line[6:]) if line.startswith(b"data: ") else None
        if event is None:
            if line.endswith((b'"type":"response.completed"}', b'"type":"response.incomplete"}')):
                return _measured(line, _numbers(line))
            continue
        kind = event.get("type")
        if kind in ("error", "response.failed") or event.get("error"):
            error = event.get("error") or _object(event.get("response")).get("error")
            return FinalRecord(complete=False, failed=True, error=_error_text(error))
        if event.get("model") == "" and family is Family.OPENAI and not complete:
            return FinalRecord(complete=False, failed=True)
        if kind in ("response.completed", "response.incomplete"):
            return _record(_object(event.get("response")), "")
        complete = complete or kind == "message_stop"
        reason = reason or _reason(event)
        usage = usage or _object(event.get("usage"))
        if not complete or reason:
            break
    return _record({"usage": usage}, reason) if complete else None


def _record(record: dict[str, Any], reason: str) -> FinalRecord:
    usage = _object(record.get("usage"))
    # Go leaves out a duration that is 0, so a missing one is unknown only where there is none at all.
    absent = 0 if "total_duration" in record else None
    return FinalRecord(
        complete=True,
        done_reason=_DONE_REASONS.get(reason, reason),
        load_duration_s=_seconds(record.get("load_duration", absent)),
        prompt_eval_duration_s=_seconds(record.get("prompt_eval_duration", absent)),
        eval_duration_s=_seconds(record.get("eval_duration", absent)),
        prompt_eval_count=_count(
            record.get("prompt_eval_count", usage.get("prompt_tokens", usage.get("input_tokens", absent)))
        ),
        eval_count=_count(record.get("eval_count", usage.get("completion_tokens", usage.get("output_tokens", absent)))),
    )


def _measured(line: bytes, numbers: dict[str, Any]) -> FinalRecord:
    """A record whose beginning is missing: what its last numbers say."""
    reason = _REASON.search(line)
    return _record({**numbers, "usage": numbers}, "" if reason is None else reason[1].decode("ascii", "replace"))


def _numbers(line: bytes) -> dict[str, Any]:
    return {found[1].decode(): int(found[2]) for found in _NUMBER.finditer(line)}


def _reason(record: dict[str, Any]) -> str:
    choices = record.get("choices")
    if isinstance(choices, list) and choices:
        return _text(_object(choices[0]).get("finish_reason"))
    delta = _object(record.get("delta"))
    return _text(record.get("done_reason") or record.get("stop_reason") or delta.get("stop_reason"))


def _error_text(error: object) -> str:
    return _text(error["message"] if isinstance(error, dict) and "message" in error else error)


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value[:LONGEST_ERROR] if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63 else None


def _seconds(nanoseconds: object) -> float | None:
    count = _count(nanoseconds)
    return None if count is None else count / 1e9
