"""What Ollama answered, as the fields of a result or as a failure. Pure.

Source of the fields: Ollama 0.24.0, api/types.go (``GenerateResponse``, ``ChatResponse``, ``EmbedResponse``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import orjson

from proxy.batch.attempts import Failure, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.batch.line import Asked

# Of every answer: known, or of no use where nothing streams. The ``context`` of a prompt is longer than its answer.
_DROPPED: Final = frozenset(("created_at", "done", "context"))
_MOST_TEXT: Final = 300
# By kind of line: where Ollama has what was made, what it is, and how a result calls it.
_MADE: Final[Mapping[str, tuple[str, type, str]]] = {
    "prompt": ("response", str, "text"),
    "messages": ("message", dict, "message"),
    "input": ("embeddings", list, "embeddings"),
}


class Reply(NamedTuple):
    """One HTTP reply, whole.

    Attributes:
        error_code: Of ``X-Pilotlight-Error``; empty where Ollama itself answers.
        retry_after_s: Of ``Retry-After``; 0 where there is none in seconds.
    """

    status: int
    body: bytes
    error_code: str = ""
    retry_after_s: float = 0.0


def read(reply: Reply, asked: Asked) -> dict[str, Any] | Failure:
    """The fields of the line's result, in the order in which they are written.

    Returns:
        ``text``, ``message``, ``embedding`` (for one text) or ``embeddings`` (for a list) first, then what else Ollama
        answered under Ollama's names: ``model``, ``done_reason``, counts, durations in nanoseconds.
    """
    try:
        answer = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        answer = None
    if reply.status != 200:
        return _failure(reply, answer)
    if not isinstance(answer, dict):
        return Failure(Kind.STRANGE, "the answer is not Ollama's: no JSON object", 200)
    if "error" in answer:
        # Behind a proxy that assembles a stream, an error can come under 200.
        return Failure(Kind.FAILED, _text(answer["error"]), 200)
    return _result(answer, asked)


def _result(answer: dict[str, Any], asked: Asked) -> dict[str, Any] | Failure:
    name, kind, shown = _MADE[asked.kind]
    made = answer.pop(name, None)
    if not isinstance(made, kind):
        return Failure(Kind.STRANGE, f"the answer is not Ollama's: no {name}", 200)
    made = cast("Any", made)
    if asked.kind != "input" and answer.get("done") is not True:
        return Failure(Kind.CUT, "the answer is not complete", 200)
    if asked.is_single:
        if len(made) != 1:
            return Failure(Kind.STRANGE, f"the answer is not Ollama's: {len(made)} embeddings for one text", 200)
        shown, made = "embedding", made[0]
    return {shown: made, **{field: value for field, value in answer.items() if field not in _DROPPED}}


def _failure(reply: Reply, answer: object) -> Failure:
    status = reply.status
    said = answer.get("error") if isinstance(answer, dict) else None
    if said is None and status not in (413, 429, 502, 503, 504):
        # A status alone is another program's; these are said by hops in between, too.
        return Failure(Kind.STRANGE, f"the answer is not Ollama's: status {status} without an error text", status)
    text = f"status {status}" if said is None else _text(said)
    return Failure(_kind(status, reply.error_code), text, status, reply.retry_after_s)


def _kind(status: int, code: str) -> Kind:
    if code == "upstream_unreachable":
        return Kind.AWAY
    if status in (401, 421, 508) or code == "origin_refused":
        return Kind.DENIED
    if status in (429, 503):
        return Kind.BUSY
    if status == 403:
        return Kind.FORBIDDEN
    if status == 404:
        return Kind.NO_MODEL
    if status == 408 or status >= 500:
        return Kind.FAILED
    return Kind.REFUSED


def _text(said: object) -> str:
    text = said if isinstance(said, str) else orjson.dumps(said).decode()
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 3] + "..."
