"""Messages of a chat: OpenAI's as Ollama's own middleware makes them into Ollama's, its oddities included.

Source: Ollama 0.24.0, ``openai/openai.go`` (``FromChatRequest``, ``nameFromToolCallID``, ``decodeImageURL``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from proxy.rewrite.acceptance import is_base64
from proxy.rewrite.v1 import toolcalls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Message = Mapping[str, Any]
    # Members of a native message, each with its JSON text; those without one are left out.
    Native = dict[str, str]

_DATA_URLS: Final = ("data:;base64,", *(f"data:image/{kind};base64," for kind in ("jpeg", "jpg", "png", "webp")))


class Refused(ValueError):
    """Ollama's middleware refuses it, or may."""


def native_messages(messages: Sequence[Message]) -> str:
    """The JSON text of Ollama's messages.

    Args:
        messages: Decoded, of the types that ``fields`` asks for.

    Raises:
        Refused: One of them is.
    """
    out: list[Native] = []
    for message in messages:
        _add(out, message, messages)
    return f"[{','.join(map(_written, out))}]"


def _add(out: list[Native], message: Message, everything: Sequence[Message]) -> None:
    role = message.get("role") or ""
    content = message.get("content")
    calls = message.get("tool_calls")
    extra = {
        "thinking": _quoted(message.get("reasoning")),
        "tool_calls": _native_calls(calls),
        "tool_name": _quoted(_tool_name(message, everything) if role.lower() == "tool" else ""),
        "tool_call_id": _quoted(message.get("tool_call_id")),
    }
    if isinstance(content, str):
        out.append({**_plain(role, content), **extra})
    elif isinstance(content, list):
        out.extend(_part(role, part) for part in content)
        # Each part is a message of its own. The last one, whosever it is, gets the calls and what goes with them;
        # without calls all that is dropped.
        if out and calls:
            out[-1] |= extra
    elif calls is None:
        raise Refused("content may be missing only beside tool calls")
    else:
        out.append({**_plain(role, ""), **extra, "tool_name": ""})


def _plain(role: str, content: str) -> Native:
    return {"role": _text(role), "content": _text(content)}


def _native_calls(calls: Sequence[Message] | None) -> str:
    if not calls:
        return ""
    written = toolcalls.to_native(calls)
    if written is None:
        raise Refused("invalid tool call arguments")
    return written


def _tool_name(message: Message, everything: Sequence[Message]) -> str:
    """The name of the tool whose result this is; where it is not said, that of the last call with its id."""
    name, identity = message.get("name") or "", message.get("tool_call_id") or ""
    if name or not identity:
        return name
    for other in reversed(everything):
        for call in other.get("tool_calls") or ():
            if (call.get("id") or "") == identity:
                return (call.get("function") or {}).get("name") or ""
    return ""


def _part(role: str, part: object) -> Native:
    if isinstance(part, dict):
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            return _plain(role, part["text"])
        if kind == "image_url":
            held = part.get("image_url")
            return _image(role, _data_of_url(held.get("url") if isinstance(held, dict) else held))
        if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
            return _image(role, part["input_audio"].get("data"))
    raise Refused("invalid message format")


def _image(role: str, data: object) -> Native:
    if not isinstance(data, str) or not is_base64(data):
        raise Refused("no base64")
    return {**_plain(role, ""), "images": f"[{_text(data)}]"}


def _data_of_url(url: object) -> str | None:
    if isinstance(url, str):
        for beginning in _DATA_URLS:
            if url.startswith(beginning):
                return url[len(beginning) :]
    return None


def _text(value: str) -> str:
    # Pictures are megabytes, and this is the fastest way to write them. No lone surrogate is left in what gojson read.
    return orjson.dumps(value).decode()


def _quoted(text: str | None) -> str:
    return _text(text) if text else ""


def _written(message: Native) -> str:
    members = [f'"{name}":{text}' for name, text in message.items() if text]
    return f"{{{','.join(members)}}}"
