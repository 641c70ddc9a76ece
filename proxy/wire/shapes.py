"""Errors of the proxy's own, in the shape of the API that was called.

Sources: Ollama 0.24.0 server/routes.go, openai/openai.go (``NewError``), anthropic/anthropic.go; recorded replies.
A client can tell ours from Ollama's by ``X-Pilotlight-Error``.
"""

from __future__ import annotations

import orjson

from proxy.wire.openai import error_type
from proxy.wire.routes import Family

JSON_TYPE = b"application/json; charset=utf-8"

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(family: Family, status: int, message: str, request_id: str = "") -> bytes:
    """The body of an error reply.

    Args:
        family: Of the route that was called.
        status: Decides the ``type`` where the shape has one.
        message: For people; carries no path, address or key.
        request_id: Anthropic's shape repeats it.
    """
    if family is Family.ANTHROPIC:
        kind = _ANTHROPIC_TYPES.get(status, "api_error")
        return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id})
    if family is Family.API:
        return orjson.dumps({"error": message})
    return orjson.dumps({"error": {"message": message, "type": error_type(status), "param": None, "code": None}})


def stream_error(family: Family, message: str, code: str) -> bytes:
    """The frame that ends a stream which cannot be completed.

    It is followed by the end of the connection without the last chunk, never by ``[DONE]`` or a final record.
    """
    if family is Family.API:
        return orjson.dumps({"error": message}) + b"\n"
    if family is Family.OPENAI:
        error = {"error": {"message": message, "type": "api_error", "param": None, "code": code}}
        return b"data: " + orjson.dumps(error) + b"\n\n"
    if family is Family.RESPONSES:
        # OpenAI's clients raise for an ``error`` at the top of an event; who reads events by their type finds it below.
        told = {"code": "server_error", "message": message}
        failed = {
            "type": "response.failed",
            "response": {"object": "response", "status": "failed", "error": told},
            "error": {"type": "api_error", **told, "param": None},
        }
        return b"event: response.failed\ndata: " + orjson.dumps(failed) + b"\n\n"
    broken = {"type": "error", "error": {"type": "api_error", "message": message}}
    return b"event: error\ndata: " + orjson.dumps(broken) + b"\n\n"


def stream_separator(family: Family, tail: bytes) -> bytes:
    """What closes a frame that was cut, so that the error frame is read as one of its own.

    Args:
        family: NDJSON frames end with a line feed, server-sent events with a blank line.
        tail: The last bytes that went to the client, at least two where there were as many.
    """
    if not tail:
        return b""
    if family is Family.API:
        return b"" if tail.endswith(b"\n") else b"\n"
    if tail.endswith(b"\n\n"):
        return b""
    return b"\n" if tail.endswith(b"\n") else b"\n\n"
