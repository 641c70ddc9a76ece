"""A chat's reply as the reply to a generate: frame by frame, in generate's own order of fields.

Source: Ollama 0.24.0, ``api/types.go``, ``GenerateResponse`` and ``ChatResponse`` (order and ``omitempty``), and
``server/routes.go``: generate hands out tool calls only with its last frame and without ids, chat with any frame and
with ids it makes up.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.rewrite import context
from proxy.rewrite.tokens import CHAT_TOKEN
from proxy.wire.gojson import JsonObject, decode_string, go_quote, read_nested, read_object

# The order of GenerateResponse; "message" stands for response, thinking and tool calls.
_BEFORE: Final = ("model", "remote_model", "remote_host", "created_at")
_METRICS: Final = (
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)
_PLACED: Final = frozenset((*_BEFORE, *_METRICS, "message", "done", "done_reason", "_debug_info", "logprobs"))
_MADE_UP_ID = re.compile(r'(?<=[\[,])\{"id":"call_[a-z0-9]{8}",(?="function":)')
_NO_CHAT: Final = '" does not support chat'
_NO_GENERATE: Final = '" does not support generate'


class GenerateMapper:
    """Maps the lines of one chat reply, and collects what the next request's context has to hold.

    Args:
        messages: JSON text of the messages that were asked, from ``Decision.messages``.

    A line is mapped once, in order. The mapper belongs to one reply.
    """

    __slots__ = ("_content", "_messages", "_thinking", "error", "finish_reason")

    def __init__(self, messages: str) -> None:
        self._messages = messages
        self._content: list[bytes] = []
        self._thinking: list[bytes] = []
        # Generate has the same lines for errors, and the same reasons.
        self.error = self.finish_reason = ""

    def __repr__(self) -> str:
        return f"<GenerateMapper {len(self._content)} frames>"

    def map_frame(self, line: bytes) -> bytes:
        """Map one whole line, or one whole body where the reply is not a stream.

        Args:
            line: With or without its line feed, which is kept.

        Returns:
            Generate's line; empty for a frame that generate would not have sent. A line that is no chat frame comes
            back as it is, but for an error's text.
        """
        token = CHAT_TOKEN.fullmatch(line)
        if token is None:
            return self._map_other(line)
        head, content, thinking, end = token.groups()
        self._content.append(content)
        if thinking is None:
            return b'%b,"response":"%b","done":false}%b' % (head, content, end)
        self._thinking.append(thinking)
        return b'%b,"response":"%b","thinking":"%b","done":false}%b' % (head, content, thinking, end)

    def map_body(self, status: int, body: bytes) -> bytes:
        """Map one whole body, which has the shape of a line."""
        return self.map_frame(body)

    def content_type(self, status: int) -> bytes:
        """The same as chat's."""
        return b""

    def _map_other(self, line: bytes) -> bytes:
        frame = read_object(line)
        message = None if frame is None else read_nested(frame, "message")
        if frame is None or message is None:
            return map_error(line)
        response, thinking, calls = message.raw("content") or '""', message.raw("thinking"), message.raw("tool_calls")
        self._content.append(_inside(response))
        self._thinking.append(_inside(thinking))
        done = frame.get("done") is True
        if not done:
            if calls and response == '""' and not thinking and "logprobs" not in frame:
                return b""
            calls = ""
        text = ",".join(self._members(frame, response, thinking, _MADE_UP_ID.sub("{", calls)))
        return f"{{{text}}}".encode("utf-8", "surrogateescape") + (b"\n" if line.endswith(b"\n") else b"")

    def _members(self, frame: JsonObject, response: str, thinking: str, calls: str) -> list[str]:
        members = [f'"{name}":{frame.raw(name)}' for name in _BEFORE if name in frame]
        members.append(f'"response":{response}')
        if thinking:
            members.append(f'"thinking":{thinking}')
        members.extend(f'"{name}":{frame.raw(name)}' for name in ("done", "done_reason") if name in frame)
        if frame.get("done") is True and frame.get("done_reason") not in ("load", "unload"):
            members.append(f'"context":{self._context()}')
        members.extend(f'"{name}":{frame.raw(name)}' for name in _METRICS if name in frame)
        if calls:
            members.append(f'"tool_calls":{calls}')
        members.extend(f'"{name}":{frame.raw(name)}' for name in ("_debug_info", "logprobs") if name in frame)
        members.extend(f"{go_quote(name)}:{frame.raw(name)}" for name in frame if name not in _PLACED)
        return members

    def _context(self) -> str:
        """The conversation with this reply. The texts are joined as they came, escaped by Ollama."""
        content = b"".join(self._content).decode("utf-8", "surrogateescape")
        thinking = b"".join(self._thinking).decode("utf-8", "surrogateescape")
        thought = f',"thinking":"{thinking}"' if thinking else ""
        return context.encode(f'{self._messages[:-1]},{{"role":"assistant","content":"{content}"{thought}}}]')


def _inside(raw: str) -> bytes:
    """A string's JSON text without its quotes; empty for anything else."""
    return raw[1:-1].encode("utf-8", "surrogateescape") if raw[:1] == '"' else b""


def map_error(body: bytes) -> bytes:
    """Where an error of chat names chat, name generate; everything else stays as it is, byte for byte.

    Args:
        body: An error body or an error line, or anything.

    Source: ``server/routes.go``: of the errors that both handlers share only ``errCapabilityCompletion`` differs.
    """
    if b"does not support chat" not in body:
        return body
    frame = read_object(body)
    raw = "" if frame is None else frame.raw("error")
    if frame is None or raw[:1] != '"':
        return body
    text = decode_string(raw)
    if not text.endswith(_NO_CHAT):
        return body
    mapped = go_quote(text.removesuffix(_NO_CHAT) + _NO_GENERATE)
    return body.replace(raw.encode("utf-8", "surrogateescape"), mapped.encode(), 1)
