"""Native frames as Ollama writes them, and the events that a stream of them becomes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from proxy.rewrite.v1.dialect import Dialect
from proxy.rewrite.v1.reply import mapper
from proxy.rewrite.v1.request import Translated

if TYPE_CHECKING:
    from proxy.rewrite.v1.mapper import Mapper

OLDER, NEWER = Dialect(), Dialect(role_once=True)
MOMENT = "2026-11-21T04:45:16.123456789Z"
SECOND = 1795236316
METRICS = {"total_duration": 5, "load_duration": 1, "prompt_eval_count": 11, "eval_count": 6}
USAGE = {"prompt_tokens": 11, "completion_tokens": 6, "total_tokens": 17}
CALL = {"id": "call_abcdefgh", "function": {"index": 0, "name": "f", "arguments": {"b": 1, "a": "<x>"}}}
OPENAI_CALL = {
    "id": "call_abcdefgh",
    "index": 0,
    "type": "function",
    "function": {"name": "f", "arguments": '{"b":1,"a":"\\u003cx\\u003e"}'},
}


def line(value: dict[str, Any]) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").encode() + b"\n"


def chat_frame(content: str = "", *, created_at: str = MOMENT, done: bool = False, **more: Any) -> bytes:
    message = {"role": "assistant", "content": content}
    message |= {name: more.pop(name) for name in ("thinking", "tool_calls") if name in more}
    return line({"model": "m", "created_at": created_at, "message": message, "done": done, **more})


def generate_frame(response: str = "", *, created_at: str = MOMENT, done: bool = False, **more: Any) -> bytes:
    return line({"model": "m", "created_at": created_at, "response": response, "done": done, **more})


def asked(path: str = "/api/chat", *, streams: bool = True, usage: bool = False) -> Translated:
    return Translated(path, b"", streams, usage)


def new_mapper(dialect: Dialect = OLDER, path: str = "/api/chat", **how: Any) -> Mapper:
    return mapper(asked(path, **how), 7, dialect)


def events(mapped: Mapper, *lines: bytes) -> list[Any]:
    """Every event of the stream, read; the last may be the text that ends it."""
    stream = b"".join(map(mapped.map_frame, lines)).decode()
    assert stream == "" or stream.endswith("\n\n")
    found = [event.removeprefix("data: ") for event in stream.split("\n\n")[:-1]]
    return [event if event == "[DONE]" else json.loads(event) for event in found]


def choices(mapped: Mapper, *lines: bytes) -> list[Any]:
    """The only choice of each event that has one."""
    return [event["choices"][0] for event in events(mapped, *lines) if event != "[DONE]" and event["choices"]]
