"""A chat completion or completion as the native request that Ollama's own middleware would make of it.

What must live here: what each field becomes, defaults included. What must not: runner options and ``keep_alive``, which
are put in by others, and the reply.

Source: Ollama 0.24.0, ``openai/openai.go`` (``FromChatRequest``, ``FromCompleteRequest``). The middleware writes
``temperature`` and ``top_p`` of 1.0 where the client says nothing, over what the Modelfile says; for a completion the
penalties too, as 0.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.rewrite.v1.fields import CHAT_PATH, REQUESTS, fits
from proxy.rewrite.v1.messages import Refused, native_messages
from proxy.wire.gojson import go_quote, read_nested
from proxy.wire.gowrite import compact
from proxy.wire.openai import OPTIONS

if TYPE_CHECKING:
    from proxy.rewrite.v1.dialect import Dialect
    from proxy.wire.gojson import JsonObject

_EFFORTS: Final = frozenset(("high", "medium", "low", "max", "none"))
_DEFAULTS: Final = {"temperature": "1", "top_p": "1"}
_COMPLETION_DEFAULTS: Final = {**_DEFAULTS, "frequency_penalty": "0", "presence_penalty": "0"}


class Translated(NamedTuple):
    """A native request.

    Attributes:
        path: Where it goes: ``/api/chat`` or ``/api/generate``.
        body: For there.
        streams: The client wants a stream.
        includes_usage: Its stream ends with a chunk that has the usage.
    """

    path: str
    body: bytes
    streams: bool
    includes_usage: bool

    @property
    def is_chat(self) -> bool:
        return self.path == "/api/chat"


def translate(path: str, obj: JsonObject, dialect: Dialect) -> Translated | None:
    """Make the native request.

    Args:
        path: Of the route that was called.
        obj: The body.
        dialect: The server's.

    Returns:
        ``None`` for every other route, for what Ollama refuses, and for what is not certain to mean the same there.
    """
    if path not in REQUESTS or not fits(path, obj, is_read=dialect.is_read) or not obj.given("model"):
        return None
    try:
        members = _chat(obj) if path == CHAT_PATH else _generate(obj)
    except Refused:
        return None
    streams = obj.given("stream") is True
    members |= {"stream": "true" if streams else "false"}
    if obj.given("_debug_render_only"):
        members["_debug_render_only"] = "true"
    usage = (obj.given("stream_options") or {}).get("include_usage") is True
    text = ",".join(f'"{name}":{raw}' for name, raw in members.items())
    native = "/api/chat" if path == CHAT_PATH else "/api/generate"
    return Translated(native, f"{{{text}}}".encode("utf-8", "surrogateescape"), streams, usage)


def _chat(obj: JsonObject) -> dict[str, str]:
    if not obj.given("messages"):
        raise Refused("messages")
    members = {"model": obj.raw("model"), "messages": native_messages(obj.given("messages"))}
    if form := _format(obj):
        members["format"] = form
    if obj.given("tools"):
        members["tools"] = obj.raw("tools")
    members["options"] = _options(obj, _DEFAULTS, _stops(obj, strict=False))
    if think := _think(obj):
        members["think"] = think
    if obj.given("logprobs"):
        members["logprobs"] = "true"
    if obj.given("top_logprobs"):
        members["top_logprobs"] = obj.raw("top_logprobs")
    return members


def _generate(obj: JsonObject) -> dict[str, str]:
    members = {"model": obj.raw("model"), "prompt": obj.raw("prompt") if obj.given("prompt") else '""'}
    if obj.given("suffix"):
        members["suffix"] = obj.raw("suffix")
    members["options"] = _options(obj, _COMPLETION_DEFAULTS, _stops(obj, strict=True), zero_is_absent=("top_p",))
    count = obj.given("logprobs")
    if count is not None and count > 0:
        members |= {"logprobs": "true", "top_logprobs": str(count)}
    return members


def _options(
    obj: JsonObject, defaults: dict[str, str], stops: list[str], *, zero_is_absent: tuple[str, ...] = ()
) -> str:
    texts = dict(defaults)
    for name, option in OPTIONS.items():
        value = obj.given(name)
        if name != "stop" and value is not None and not (name in zero_is_absent and _is_zero32(value)):
            texts[option] = obj.raw(name)
    if stops:
        texts["stop"] = f"[{','.join(map(go_quote, stops))}]"
    members = [f'"{option}":{raw}' for option, raw in texts.items()]
    return f"{{{','.join(members)}}}"


def _stops(obj: JsonObject, *, strict: bool) -> list[str]:
    """The texts that end an answer; values of another type are passed over, but for those in a completion's list."""
    stop = obj.given("stop")
    if isinstance(stop, str):
        return [stop]
    if not isinstance(stop, list):
        return []
    stops = [text for text in stop if isinstance(text, str)]
    if strict and len(stops) != len(stop):
        raise Refused("stop")
    return stops


def _format(obj: JsonObject) -> str:
    """The ``format``, as a text of JSON; "" for none."""
    wanted = read_nested(obj, "response_format")
    kind = "" if wanted is None else wanted.given("type") or ""
    if not kind.isascii():
        raise Refused("a type between spaces that only Go trims")
    kind = kind.strip(" \t\n\r\v\f").lower()
    if kind == "json_object":
        return '"json"'
    schema = None if wanted is None or kind != "json_schema" else read_nested(wanted, "json_schema")
    return "" if schema is None else compact(schema.raw("schema"))


def _think(obj: JsonObject) -> str:
    reasoning = obj.given("reasoning")
    effort = (reasoning.get("effort") if reasoning is not None else obj.given("reasoning_effort")) or ""
    if effort and effort not in _EFFORTS:
        # 0.24 refuses it; later versions know more.
        raise Refused("effort")
    return {"": "", "none": "false"}.get(effort, f'"{effort}"')


def _is_zero32(value: float) -> bool:
    """Whether Go holds it as 0 in a ``float32``."""
    return struct.unpack("<f", struct.pack("<f", value)) == (0.0,)
