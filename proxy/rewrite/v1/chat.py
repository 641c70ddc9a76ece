"""Replies of ``/api/chat`` as those of ``/v1/chat/completions``.

What must live here: every byte of a chunk, in the order in which Ollama's own middleware writes it.

Source: Ollama 0.24.0, ``openai/openai.go`` (``ToChunks``, ``toChunk``, ``ToChatCompletion``); 0.32.6,
``ToStreamChunks`` and ``FinishChunk`` there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.rewrite.tokens import CHAT_TOKEN
from proxy.rewrite.v1.frames import EMPTY, FINGERPRINT, Frame, read_frame, unless_empty
from proxy.rewrite.v1.mapper import Mapper
from proxy.rewrite.v1.toolcalls import to_openai
from proxy.wire.gojson import JsonObject, read_nested
from proxy.wire.gowrite import rewritten

if TYPE_CHECKING:
    from proxy.rewrite.v1.dialect import Dialect
    from proxy.rewrite.v1.request import Translated

_TOOL_CALLS: Final = '"tool_calls"'
_STOP: Final = '"stop"'


class ChatMapper(Mapper):
    """Maps one reply.

    Args:
        asked: The request.
        identity: The completion's ``id``.
        dialect: The server's.
    """

    def __init__(self, asked: Translated, identity: str, dialect: Dialect) -> None:
        super().__init__(asked, identity)
        self._role_once = dialect.role_once
        self._has_called = False
        self._has_begun = False
        self._created: int | None = None

    def map_line(self, line: bytes) -> bytes:
        token = CHAT_TOKEN.fullmatch(line)
        if token is None or (self._role_once and not self._has_begun) or b"\\ufffd" in line:
            return super().map_line(line)
        head, content, thinking, _ = token.groups()
        if (content and thinking) or not self.follows(head):
            return super().map_line(line)
        if not thinking:
            return self.before + content + self.after
        return b'%b","reasoning":"%b%b' % (self.before, thinking, self.after)

    def around(self, created: int, model: str) -> tuple[str, str]:
        opened = self._open(self._time(created), model)
        return f'data: {opened}{{"index":0,"delta":{{{self._role()}"content":"', '"},"finish_reason":null}]}\n\n'

    def read(self, obj: JsonObject) -> Frame | None:
        message = read_nested(obj, "message")
        if message is None:
            return None
        calls = message.given("tool_calls")
        try:
            written = to_openai(calls) if isinstance(calls, list) and calls else ""
        except ValueError:
            return None
        return read_frame(obj)._replace(
            role=message.raw("role") or EMPTY,
            content=rewritten(message.raw("content")) or EMPTY,
            thinking=unless_empty(message.raw("thinking")),
            calls=written,
        )

    def chunks(self, frame: Frame) -> list[str]:
        frame = frame._replace(created=self._time(frame.created))
        chunks = self._finish_apart(frame) if self._role_once else self._finish_inside(frame)
        if frame.done and self.includes_usage:
            chunks.append(f"{self._open(frame.created, frame.model)}],{frame.usage}}}")
        return chunks

    def _finish_inside(self, frame: Frame) -> list[str]:
        """As before 0.32.6."""
        reason = _TOOL_CALLS if frame.reason and (frame.calls or self._has_called) else frame.reason
        self._has_called = self._has_called or bool(frame.calls)
        finish = self.finish(reason)
        if not _is_mixed(frame):
            return [self._chunk(frame, finish)]
        # The thought comes first, with the logprobs of both.
        thought = frame._replace(content=EMPTY, calls="")
        return [self._chunk(thought, "null"), self._chunk(frame._replace(thinking="", logprobs=""), finish)]

    def _finish_apart(self, frame: Frame) -> list[str]:
        """As since 0.32.6."""
        chunks = []
        says_nothing = frame.content == EMPTY and not (frame.thinking or frame.calls or frame.logprobs)
        self._has_called = self._has_called or bool(frame.calls)
        if not (frame.done and says_nothing and self._has_begun):
            if _is_mixed(frame):
                chunks.append(self._chunk(frame._replace(content="", calls=""), "null"))
                self._has_begun = True
                frame = frame._replace(thinking="", logprobs="")
            chunks.append(self._chunk(frame, "null"))
            self._has_begun = True
        if frame.done:
            reason = frame.reason or _STOP
            finish = self.finish(_TOOL_CALLS if reason == _STOP and self._has_called else reason)
            opened = self._open(frame.created, frame.model)
            chunks.append(f'{opened}{{"index":0,"delta":{{}},"finish_reason":{finish}}}]}}')
        return chunks

    def whole(self, frame: Frame) -> str:
        is_called = frame.calls and (not self._role_once or frame.reason == _STOP)
        finish = self.finish(_TOOL_CALLS if is_called else frame.reason)
        message = f'"role":{frame.role},{_members(frame)}'
        debug = f',"_debug_info":{frame.debug}' if frame.debug else ""
        return (
            f'{self._open(frame.created, frame.model, "chat.completion")}{{"index":0,"message":{{{message}}},'
            f'"finish_reason":{finish}{_logprobs(frame)}}}],{frame.usage}{debug}}}'
        )

    def _chunk(self, frame: Frame, finish: str) -> str:
        delta = f"{self._role()}{_members(frame)}"
        opened = self._open(frame.created, frame.model)
        return f'{opened}{{"index":0,"delta":{{{delta}}},"finish_reason":{finish}{_logprobs(frame)}}}]}}'

    def _open(self, created: int, model: str, kind: str = "chat.completion.chunk") -> str:
        """The beginning of an object, up to its choices."""
        return f'{{"id":{self.identity},"object":"{kind}","created":{created},"model":{model},{FINGERPRINT},"choices":['

    def _role(self) -> str:
        return "" if self._role_once and self._has_begun else '"role":"assistant",'

    def _time(self, created: int) -> int:
        if not self._role_once:
            return created
        self._created = created if self._created is None else self._created
        return self._created


def _is_mixed(frame: Frame) -> bool:
    """Thought and answer at once, which OpenAI's chunks keep apart."""
    return bool(frame.thinking and (frame.content != EMPTY or frame.calls))


def _members(frame: Frame) -> str:
    """Of a message or a delta, behind the role."""
    content = f'"content":{frame.content}' if frame.content else ""
    reasoning = f'"reasoning":{frame.thinking}' if frame.thinking else ""
    calls = f'"tool_calls":{frame.calls}' if frame.calls else ""
    return ",".join(filter(None, (content, reasoning, calls)))


def _logprobs(frame: Frame) -> str:
    return f',"logprobs":{{"content":{frame.logprobs}}}' if frame.logprobs else ""
