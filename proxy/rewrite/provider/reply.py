"""A provider's reply as Ollama would have given it.

What must live here: chunk by chunk, or whole, into native frames. What it must not know: connections, and what becomes
of an answer that does not end.

A stream is translated line by line. It ends well with ``[DONE]`` after a ``finish_reason``, and only then has a last
frame; without one it is not taken for a whole answer. Calls of tools come in pieces and are told whole, as Ollama does.
Durations are Ollama's own measurements and left out.

Sources: OpenAI's API reference, chat completions (chunk object), embeddings; Ollama 0.24.0, ``api/types.go``
(``ChatResponse``, ``Message``, ``ToolCall``, ``EmbedResponse``). ``reasoning`` is OpenRouter's and vLLM's word,
``reasoning_content`` DeepSeek's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from proxy.errors import UpstreamBroken
from proxy.wire.gojson import go_quote, read_object, splice
from proxy.wire.openai import DONE, done_reason, error_message, event_data

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.rewrite.reply import GenerateMapper

_UNREADABLE: Final = "the provider's reply cannot be read"
_BROKEN_CALL: Final = "the provider's call of a tool cannot be read"
_ENDED_IN_ERROR: Final = "the provider's answer ended in an error"
_THOUGHTS: Final = ("reasoning", "reasoning_content")


class Translation(Protocol):
    """Turns one reply with status 200 into what the client's route answers.

    Attributes:
        stream_type: The ``Content-Type`` of its stream.
        whole_type: That of a whole answer.
    """

    stream_type: bytes
    whole_type: bytes

    def feed(self, line: bytes) -> bytes:
        """What one line of a stream becomes; may be nothing. Its line end may be of any kind."""

    def whole(self, body: bytes) -> bytes:
        """What a whole body becomes.

        Raises:
            UpstreamBroken: It is no answer.
        """


class ChatReply:
    """A chat completion as an ``/api/chat``.

    Args:
        model: As the client spells it.
        stamp: The time of now, for ``created_at``.
        tells_thinking: False for a client that asked for none.
    """

    stream_type = b"application/x-ndjson"
    whole_type = b"application/json; charset=utf-8"

    def __init__(self, model: str, stamp: Callable[[], str], *, tells_thinking: bool = True) -> None:
        self._model = go_quote(model)
        self._stamp = stamp
        self._tells_thinking = tells_thinking
        self._reason = ""
        self._usage: dict[str, Any] = {}
        self._calls = _Calls()
        self._is_over = False

    def __repr__(self) -> str:
        return f"<ChatReply {'over' if self._is_over else 'under way'}>"

    def feed(self, line: bytes) -> bytes:
        data = event_data(line)
        if not data or self._is_over:
            return b""
        try:
            if data == DONE:
                return self._end()
            return self._chunk(_object_of(data))
        except UpstreamBroken as error:
            return self._fail(error.message)

    def whole(self, body: bytes) -> bytes:
        answer = _object_of(body)
        choice = _first(answer.get("choices"))
        message = _dict(choice.get("message"))
        if not message:
            raise UpstreamBroken(_UNREADABLE)
        self._usage, self._reason = _dict(answer.get("usage")), _finish(choice)
        if self._reason == "error":
            raise UpstreamBroken(_ENDED_IN_ERROR)
        calls = _Calls()
        for index, call in enumerate(_list(message.get("tool_calls"))):
            calls.add({**_dict(call), "index": index})
        return self._frame(_text(message), self._thinking(message), calls.told(), choice, is_last=True)

    def _chunk(self, chunk: dict[str, Any]) -> bytes:
        if chunk.get("error"):
            return self._fail(error_message(json.dumps(chunk).encode()) or _UNREADABLE)
        self._usage = _dict(chunk.get("usage")) or self._usage
        choice = _first(chunk.get("choices"))
        delta = _dict(choice.get("delta"))
        for call in _list(delta.get("tool_calls")):
            self._calls.add(_dict(call))
        text, thinking = _text(delta), self._thinking(delta)
        frames = self._frame(text, thinking, "", choice) + b"\n" if text or thinking or _logprobs(choice) else b""
        reason = _finish(choice)
        if reason == "error":
            return frames + self._fail(_ENDED_IN_ERROR)
        if reason:
            self._reason = reason
            frames += self._told_calls()
        return frames

    def _told_calls(self) -> bytes:
        told, self._calls = self._calls.told(), _Calls()
        return self._frame("", "", told, {}) + b"\n" if told else b""

    def _end(self) -> bytes:
        if not self._reason:
            # It broke off, however it says so; whoever brings the reply sees that there is no last frame.
            self._is_over = True
            return b""
        frames = self._told_calls()
        self._is_over = True
        return frames + self._frame("", "", "", {}, is_last=True) + b"\n"

    def _fail(self, message: str) -> bytes:
        self._is_over = True
        return f'{{"error":{go_quote(message)}}}\n'.encode()

    def _thinking(self, message: dict[str, Any]) -> str:
        found = [message[name] for name in _THOUGHTS if isinstance(message.get(name), str) and message[name]]
        return found[0] if found and self._tells_thinking else ""

    def _frame(self, text: str, thinking: str, calls: str, choice: dict[str, Any], *, is_last: bool = False) -> bytes:
        said = f'"role":"assistant","content":{go_quote(text)}'
        said += f',"thinking":{go_quote(thinking)}' if thinking else ""
        said += f',"tool_calls":[{calls}]' if calls else ""
        end = '"done":true' if is_last else '"done":false'
        end += f',"done_reason":{go_quote(done_reason(self._reason))}' if is_last and self._reason else ""
        logprobs = _logprobs(choice)
        end += f',"logprobs":{json.dumps(logprobs, separators=(",", ":"))}' if logprobs else ""
        if is_last:
            for name, field in (("prompt_eval_count", "prompt_tokens"), ("eval_count", "completion_tokens")):
                count = self._usage.get(field)
                end += f',"{name}":{count}' if type(count) is int and count > 0 else ""
        head = f'"model":{self._model},"created_at":"{self._stamp()}"'
        return f'{{{head},"message":{{{said}}},{end}}}'.encode("utf-8", "surrogateescape")


class GenerateReply:
    """A chat completion as an ``/api/generate`` that was said as a chat.

    Args:
        reply: The same as an ``/api/chat``.
        mapper: Maps its frames.
    """

    stream_type = ChatReply.stream_type
    whole_type = ChatReply.whole_type

    def __init__(self, reply: ChatReply, mapper: GenerateMapper) -> None:
        self._reply = reply
        self._mapper = mapper

    def feed(self, line: bytes) -> bytes:
        return b"".join(map(self._mapper.map_frame, self._reply.feed(line).splitlines(keepends=True)))

    def whole(self, body: bytes) -> bytes:
        return self._mapper.map_body(200, self._reply.whole(body))


class EmbedReply:
    """Embeddings as an ``/api/embed``; they never come as a stream.

    Args:
        model: As the client spells it.
        count: How many vectors were asked for.
    """

    stream_type = b"application/x-ndjson"
    whole_type = b"application/json; charset=utf-8"

    def __init__(self, model: str, count: int) -> None:
        self._model = model
        self._count = count

    def feed(self, line: bytes) -> bytes:
        return b""

    def whole(self, body: bytes) -> bytes:
        answer = _object_of(body)
        rows = [_dict(row) for row in _list(answer.get("data"))]
        found = {str(row.get("index", at)): row.get("embedding") for at, row in enumerate(rows)}
        vectors = [found.get(str(at)) for at in range(self._count)]
        if len(rows) != self._count or not all(map(_is_vector, vectors)):
            raise UpstreamBroken(_UNREADABLE)
        count = _dict(answer.get("usage")).get("prompt_tokens")
        counted = f',"prompt_eval_count":{count}' if type(count) is int and count > 0 else ""
        told = json.dumps(vectors, separators=(",", ":"))
        return f'{{"model":{go_quote(self._model)},"embeddings":{told}{counted}}}'.encode()


class Renamed:
    """A reply to a ``/v1`` call, with our name of the model in place of the provider's.

    Args:
        model: As the client spells it.
    """

    stream_type = b"text/event-stream"
    whole_type = b"application/json"

    def __init__(self, model: str) -> None:
        self._model = go_quote(model)

    def feed(self, line: bytes) -> bytes:
        data = event_data(line)
        if data is None:
            return line.rstrip(b"\r\n") + b"\n"
        chunk = read_object(data)
        named = data if chunk is None or "model" not in chunk else splice(chunk, {"model": self._model})
        return b"data: " + named + b"\n"

    def whole(self, body: bytes) -> bytes:
        answer = read_object(body)
        if answer is None:
            raise UpstreamBroken(_UNREADABLE)
        return splice(answer, {"model": self._model}) if "model" in answer else body


class _Calls:
    """Calls of tools, put together from their pieces."""

    def __init__(self) -> None:
        self._calls: list[dict[str, Any]] = []

    def add(self, piece: dict[str, Any]) -> None:
        """Take one piece. One with another id begins another call, also where a provider numbers all of them 0."""
        function, identity, index = _dict(piece.get("function")), piece.get("id") or "", piece.get("index", 0)
        fits = [call for call in self._calls if call["index"] == index and identity in ("", call["id"])]
        if not fits:
            fits = [{"index": index, "id": identity, "name": "", "arguments": ""}]
            self._calls += fits
        for name in ("name", "arguments"):
            value = function.get(name)
            fits[-1][name] += value if isinstance(value, str) else ""

    def told(self) -> str:
        """All of them, as the members of a native list; "" where there are none.

        Raises:
            UpstreamBroken: The arguments of one are no JSON object.
        """
        return ",".join(self._one(number, call) for number, call in enumerate(self._calls))

    def _one(self, number: int, call: dict[str, Any]) -> str:
        arguments = call["arguments"].strip() or "{}"
        if not isinstance(_read(arguments), dict) or not call["name"] or not isinstance(call["id"], str):
            raise UpstreamBroken(_BROKEN_CALL)
        identity = f'"id":{go_quote(call["id"])},' if call["id"] else ""
        # A line end can stand between two members, never inside a string; it would end the frame.
        arguments = arguments.replace("\n", "").replace("\r", "")
        return f'{{{identity}"function":{{"index":{number},"name":{go_quote(call["name"])},"arguments":{arguments}}}}}'


def _refuse_constant(name: str) -> NoReturn:
    """NaN and Infinity are no JSON, whatever Python says."""
    raise ValueError(name)


def _read(text: bytes | str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None


def _object_of(data: bytes) -> dict[str, Any]:
    value = _read(data)
    if not isinstance(value, dict):
        raise UpstreamBroken(_UNREADABLE)
    return value


def _text(message: dict[str, Any]) -> str:
    """What it says; where it will not say what it was asked for, that.

    Raises:
        UpstreamBroken: It is not text.
    """
    for name in ("content", "refusal"):
        value = message.get(name)
        if value:
            if not isinstance(value, str):
                raise UpstreamBroken(_UNREADABLE)
            return value
    return ""


def _finish(choice: dict[str, Any]) -> str:
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) else ""


def _logprobs(choice: dict[str, Any]) -> list[Any]:
    return _list(_dict(choice.get("logprobs")).get("content"))


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and {int, float}.issuperset(map(type, value))


def _first(value: Any) -> dict[str, Any]:
    return _dict(value[0]) if isinstance(value, list) and value else {}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
