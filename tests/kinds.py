"""Every kind of reply that can be under way, as data: what is asked, what comes, and how a failure is told in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.peers import ndjson
from tests.stage import MODEL, chat, chat_end, chat_token, generate, sse, v1_token

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Kind:
    """One kind of reply.

    Attributes:
        frames: What the upstream sends, one complete piece each; the last one ends the reply.
        error: Finds the text of an error frame in what the client got, ``None`` where there is none.
    """

    name: str
    path: str
    body: dict[str, Any]
    type: str
    frames: tuple[bytes, ...]
    error: Callable[[bytes], str | None]
    streams: bool = True


def ndjson_error(body: bytes) -> str | None:
    try:
        return json.loads(body.rstrip(b"\n").rpartition(b"\n")[2]).get("error")
    except ValueError:
        return None


def last_event(body: bytes) -> tuple[str, dict[str, Any]]:
    """Name and data of the last event, read as the specification of server-sent events has it."""
    assert body.endswith(b"\n\n")
    lines = body.rstrip(b"\n").rpartition(b"\n\n")[2].decode().split("\n")
    fields = dict(line.partition(": ")[::2] for line in lines)
    return fields.get("event", ""), json.loads(fields["data"])


def openai_error(body: bytes) -> str | None:
    assert b"[DONE]" not in body
    _, data = last_event(body)
    error = data["error"]
    assert error["type"] == "api_error"
    assert error["param"] is None
    return error["message"]


def anthropic_error(body: bytes) -> str | None:
    name, data = last_event(body)
    assert name == data["type"] == "error"
    assert data["error"]["type"] == "api_error"
    return data["error"]["message"]


def responses_error(body: bytes) -> str | None:
    name, data = last_event(body)
    assert name == data["type"] == "response.failed"
    return data["response"]["error"]["message"]


def whole_error(body: bytes) -> str | None:
    return json.loads(body)["error"]


CHAT_FRAMES = (ndjson(chat_token("Hel")), ndjson(chat_token("lo")), ndjson(chat_end()))
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
WHOLE = "application/json; charset=utf-8"
MESSAGE = (
    sse({"type": "message_start", "message": {"id": "msg_1"}}, "message_start"),
    sse({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}}, "content_block_delta"),
    sse({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}, "message_delta")
    + sse({"type": "message_stop"}, "message_stop"),
)
RESPONSE = (
    sse({"type": "response.created", "response": {"status": "in_progress"}}, "response.created"),
    sse({"type": "response.output_text.delta", "delta": "Hi"}, "response.output_text.delta"),
    sse({"type": "response.completed", "response": {"status": "completed"}}, "response.completed"),
)
V1_FRAMES = (v1_token("Hel"), v1_token("lo"), b"data: [DONE]\n\n")
EMBEDDING = json.dumps({"model": MODEL, "embeddings": [[0.5] * 50]}).encode()
PROGRESS = tuple(ndjson({"status": text}) for text in ("pulling manifest", "pulling 123", "success"))

STREAMS = (
    Kind("chat", "/api/chat", chat(), LINES, CHAT_FRAMES, ndjson_error),
    Kind("generate", "/api/generate", generate(), LINES, CHAT_FRAMES, ndjson_error),
    Kind("v1 chat", "/v1/chat/completions", chat(stream=True), EVENTS, V1_FRAMES, openai_error),
    Kind("messages", "/v1/messages", chat(stream=True, max_tokens=4), EVENTS, MESSAGE, anthropic_error),
    Kind(
        "responses", "/v1/responses", {"model": MODEL, "input": "hi", "stream": True}, EVENTS, RESPONSE, responses_error
    ),
    Kind("pull", "/api/pull", {"model": MODEL}, LINES, PROGRESS, ndjson_error),
)
GATHERED = (
    Kind("gathered chat", "/api/chat", chat(stream=False), LINES, CHAT_FRAMES, whole_error, streams=False),
    Kind("gathered generate", "/api/generate", generate(stream=False), LINES, CHAT_FRAMES, whole_error, streams=False),
)
EMBED = Kind("embed", "/api/embed", {"model": MODEL, "input": "x"}, WHOLE, (EMBEDDING,), whole_error, streams=False)


def named(kind: object) -> str:
    return str(getattr(kind, "name", getattr(kind, "__name__", kind)))
