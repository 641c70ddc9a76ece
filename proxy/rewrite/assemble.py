"""A streamed reply put together to the one Ollama gives without streaming.

Source: Ollama 0.24.0, ``server/routes.go``, the ends of ``GenerateHandler`` and ``ChatHandler``: the answer is the
*last* frame, with the texts, the thinking and the logprobs of all frames joined; chat joins the tool calls too where
the request had tools. ``streamResponse`` takes the status off an error line, so what fails after the first token is
a 500. The order of the fields is that of the structs in ``api/types.go``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from proxy.errors import UpstreamBroken
from proxy.rewrite.tokens import CHAT_TOKEN, GENERATE_TOKEN
from proxy.wire.gojson import go_quote, read_nested, read_object

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOKEN: Final = {"chat": CHAT_TOKEN, "generate": GENERATE_TOKEN}
# What stands after a field that the last frame does not have and the whole answer may have.
_AFTER_LOGPROBS: Final = {
    "chat": (
        "total_duration",
        "load_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
        "eval_duration",
    ),
    "generate": ("image", "completed", "total"),
}
_AFTER_CALLS: Final = ("tool_name", "tool_call_id")
_AFTER_THINKING: Final = {"chat": ("images", "tool_calls", *_AFTER_CALLS), "generate": ("done",)}


class WholeReply:
    """Collects the lines of one stream.

    Args:
        kind: What the lines are frames of.
        tools: The chat had a list of tools that is not empty.
    """

    __slots__ = ("_calls", "_content", "_error", "_kind", "_last", "_logprobs", "_thinking", "_tools", "complete")

    def __init__(self, kind: Literal["chat", "generate"], *, tools: bool = False) -> None:
        self._kind = kind
        self._tools = tools
        self._content: list[bytes] = []
        self._thinking: list[bytes] = []
        self._logprobs: list[str] = []
        self._calls: list[str] = []
        self._last = b""
        self._error = ""
        #: A last frame or an error has been seen: Ollama has nothing more to say.
        self.complete = False

    def __repr__(self) -> str:
        return f"<WholeReply {self._kind} {len(self._content)} frames{', complete' if self.complete else ''}>"

    def add(self, line: bytes) -> None:
        """Take one whole line. Nothing counts after an error."""
        if self._error or not line.strip():
            return
        token = _TOKEN[self._kind].fullmatch(line)
        if token is None:
            self._add_other(line)
            return
        self._last = line
        self._content.append(token[2])
        if token[3] is not None:
            self._thinking.append(token[3])

    def _add_other(self, line: bytes) -> None:
        self._last = line
        frame = read_object(line)
        if frame is None:
            return  # told by ``finish``, unless more lines follow
        if "error" in frame:
            self.complete = True
            self._error = frame.raw("error")
            return
        texts = read_nested(frame, "message") if self._kind == "chat" else frame
        if texts is not None:
            self._content.append(_inside(texts.raw("content" if self._kind == "chat" else "response")))
            self._thinking.append(_inside(texts.raw("thinking")))
            if self._tools and texts.given("tool_calls"):
                self._calls.append(texts.raw("tool_calls")[1:-1])
        if frame.given("logprobs"):
            self._logprobs.append(frame.raw("logprobs")[1:-1])
        self.complete = self.complete or frame.get("done") is True

    def finish(self) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises:
            UpstreamBroken: No line came, or the last one is no JSON object.
        """
        if self._error:
            # server/routes.go: what is no text was not expected there either.
            text = self._error if self._error[0] == '"' else '"unexpected error format in response"'
            return 500, f'{{"error":{text}}}'.encode("utf-8", "surrogateescape")
        frame = read_object(self._last)
        if frame is None:
            raise UpstreamBroken("Ollama's reply ended without a readable frame")
        content = b"".join(self._content).decode("utf-8", "surrogateescape")
        thinking = b"".join(self._thinking).decode("utf-8", "surrogateescape")
        members = {name: frame.raw(name) for name in frame}
        if self._kind == "generate":
            members = self._with_texts(members, "response", content, thinking)
        elif (message := read_nested(frame, "message")) is not None:
            inner = self._with_texts({name: message.raw(name) for name in message}, "content", content, thinking)
            if self._calls:
                inner = _put(inner, "tool_calls", f"[{','.join(self._calls)}]", _AFTER_CALLS)
            members["message"] = _object(inner)
        if self._logprobs:
            members = _put(members, "logprobs", f"[{','.join(self._logprobs)}]", _AFTER_LOGPROBS[self._kind])
        return 200, _object(members).encode("utf-8", "surrogateescape")

    def _with_texts(self, members: dict[str, str], name: str, content: str, thinking: str) -> dict[str, str]:
        if name in members:
            members[name] = f'"{content}"'
        return _put(members, "thinking", f'"{thinking}"', _AFTER_THINKING[self._kind]) if thinking else members


def _put(members: dict[str, str], name: str, raw: str, following: Sequence[str]) -> dict[str, str]:
    """Set a member where it is, or before the first of those that follow it, or at the end."""
    if name in members:
        return {**members, name: raw}
    order = list(members)
    at = next((place for place, other in enumerate(order) if other in following), len(order))
    order.insert(at, name)
    return {other: raw if other == name else members[other] for other in order}


def _object(members: dict[str, str]) -> str:
    return f"{{{','.join(f'{go_quote(name)}:{raw}' for name, raw in members.items())}}}"


def _inside(raw: str) -> bytes:
    """A string's JSON text without its quotes; empty for anything else."""
    return raw[1:-1].encode("utf-8", "surrogateescape") if raw[:1] == '"' else b""
