"""One finished request as a flat row: the log line and ``/requests`` show the same one.

Names carry units. What is not known is left out, so that a line holds only what was measured. Text that comes from
callers is made harmless here, once: no control characters, no lone surrogates, a bounded length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.observe.timeline import parts, start, total_s, ttft_s

if TYPE_CHECKING:
    from proxy.observe.timeline import Timeline

LONGEST_TEXT = 128
_SAME_FRAME_S = 0.0001
"""Where the first token is the answer's first, the two marks may be two readings of the clock."""


def describe(t: Timeline) -> dict[str, Any]:
    """The row of a finished request. Times are milliseconds, of three decimals."""
    row: dict[str, Any] = {
        "request_id": printable(t.request_id),
        "method": printable(t.method, 16),
        "route": t.route,
        "status": t.status,
        "outcome": t.outcome.value,
    }
    if t.endpoint:
        _describe_call(t, row)
    whole_s = total_s(t)
    if whole_s is not None:
        row["total_ms"] = _ms(whole_s)
    row["bytes_in"] = t.bytes_in
    row["bytes_out"] = t.bytes_out
    if t.error_code:
        row["error"] = t.error_code
    if t.incomplete:
        row["incomplete"] = True
    if t.client_disconnect_phase is not None:
        row["client_left"] = t.client_disconnect_phase.value
    if t.key:
        row["key"] = printable(t.key)
    if t.trace_id:
        row["trace_id"] = printable(t.trace_id)
    return row


def _describe_call(t: Timeline, row: dict[str, Any]) -> None:
    row["endpoint"] = t.endpoint
    row["model"] = printable(t.model)
    row["stream"] = t.stream
    row["start"] = start(t).value
    whole_s, split = ttft_s(t), parts(t)
    if whole_s is not None and split is not None:
        row["ttft_ms"] = _ms(whole_s)
        row["queue_ms"] = _ms(split.queue)
        row["load_ms"] = _ms(split.load)
        row["prompt_ms"] = _ms(split.prompt)
        row["proxy_ms"] = _ms(split.proxy)
        row["other_ms"] = _ms(split.other)
        if t.first_answer is not None and t.first_token is not None and t.first_answer - t.first_token > _SAME_FRAME_S:
            row["first_answer_ms"] = _ms(t.first_answer - t.received)
    else:
        # No token came: what the request waited for until then is all there is to tell.
        row["queue_ms"] = _ms(t.queue_s)
        row["load_ms"] = _ms(t.load_wait_s)
    if t.prompt_eval_count is not None:
        row["tokens_in"] = t.prompt_eval_count
    if t.eval_count is not None:
        row["tokens_out"] = t.eval_count
        if t.eval_duration_s is not None and t.eval_duration_s > 0:
            row["tokens_per_s"] = round(t.eval_count / t.eval_duration_s, 2)
    if t.done_reason:
        row["done_reason"] = printable(t.done_reason, 32)
    row["chunks"] = t.chunks
    if t.reused:
        row["reused"] = t.reused
    if t.fallback:
        row["fallback"] = t.fallback
    if t.rule:
        row["rule"] = t.rule
    if t.injected:
        row["injected"] = printable(t.injected)


def printable(text: str, limit: int = LONGEST_TEXT) -> str:
    """The text with everything that could move a terminal's cursor or end a line written out, cut to ``limit``."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text])


def _ms(seconds: float) -> float:
    # A third of what round() costs, eight times per request.
    return int(seconds * 1e6 + 0.5) / 1000
