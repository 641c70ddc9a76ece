"""Words of OpenAI's API that stand for words of Ollama's: tables for both directions, errors, a stream's lines.

What must live here: what the two APIs call the same thing. What it must not know: who asks whom.

Sources: Ollama 0.24.0, ``openai/openai.go`` (``FromChatRequest``, ``ToChunk``, ``NewError``) and
``middleware/openai.go`` (``writeError``); OpenAI's API reference, chat completions; server-sent events, WHATWG HTML
section 9.2.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.wire.gojson import go_quote, read_object

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Options of Ollama's by the fields of a chat or completion request that mean the same.
OPTIONS: Final[Mapping[str, str]] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "max_tokens": "num_predict",
}

DONE: Final = b"[DONE]"
"""What the last event of a stream says in place of a chunk."""

_TYPES: Final = {400: "invalid_request_error", 404: "not_found_error"}
# api/types.go, ``StatusError.Error``.
_NO_MESSAGE: Final = "something went wrong, please see the ollama server logs for details"


def done_reason(finish_reason: str) -> str:
    """Ollama's word for why an answer ended; one that it has none for stays as it is.

    Calls of tools end with "stop" there; which of the two it was, the calls themselves tell.
    """
    return "stop" if finish_reason in ("tool_calls", "function_call") else finish_reason


def error_type(status: int) -> str:
    """The ``type`` of an error of Ollama's."""
    return _TYPES.get(status, "api_error")


def error_object(status: int, message: str) -> bytes:
    """An error as Ollama's compatibility routes write it, with the line feed of Go's encoder.

    Args:
        status: Decides the ``type``.
        message: The native error text; "" where there was none.
    """
    text = go_quote(message or _NO_MESSAGE)
    return f'{{"error":{{"message":{text},"type":"{error_type(status)}","param":null,"code":null}}}}\n'.encode()


def error_message(body: bytes) -> str:
    """The text of an error body, in whichever of the usual shapes it comes; "" where there is none.

    Args:
        body: ``{"error":{"message":"..."}}``, ``{"error":"..."}``, or one of ``message`` and ``detail`` at the top.
    """
    obj = read_object(body)
    if obj is None:
        return ""
    error = obj.given("error")
    for value in (
        error.get("message") if isinstance(error, dict) else error,
        obj.given("message"),
        obj.given("detail"),
    ):
        if isinstance(value, str) and value:
            return value
    return ""


def event_data(line: bytes) -> bytes | None:
    """The data of one line of a stream; ``None`` for a line that carries none.

    Args:
        line: With its line end. Every event of these APIs has its data on one line.
    """
    if not line.startswith(b"data:"):
        return None
    return line[5:].strip()
