"""A native chat or embed in the words of OpenAI's API.

What must live here: what can be said there, and how. What it must not know: which provider it is. Nothing is guessed: a
request that means something that cannot be said there has no translation, and whoever asked for it is told so.

Left out, because it decides nothing about the answer: ``keep_alive``, ``shift``, ``truncate`` (a provider refuses what
is too long), the options that a runner is started with, ``num_keep``, options that Ollama passes over, and the thinking
of earlier messages. ``think`` as true is what a model that thinks does anyway; as false it is kept from the client.

Sources: Ollama 0.24.0, ``api/types.go`` (``ChatRequest``, ``Message``, ``Options``); OpenAI's API reference, chat
completions and embeddings.
"""

from __future__ import annotations

import binascii
import json
import math
from typing import TYPE_CHECKING, Any, Final

from proxy.rewrite.fields import KNOWN_NAMES, fits
from proxy.wire.gojson import go_quote
from proxy.wire.openai import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxy.wire.gojson import JsonObject

# They change which token comes next, and nobody there could do the same.
_UNSAYABLE: Final = frozenset(("top_k", "min_p", "typical_p", "repeat_last_n", "repeat_penalty"))
_WHOLE: Final = frozenset(("seed", "num_predict"))
# "max" of Ollama's has no counterpart.
_EFFORTS: Final = ("low", "medium", "high")
_ROLES: Final = frozenset(("system", "user", "assistant", "tool"))
_IMAGES: Final = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"))


class Unsayable(Exception):
    """It means something that OpenAI's API has no words for."""


def chat_request(obj: JsonObject, model: str, messages: list[Any], *, path: str, streams: bool) -> bytes | None:
    """The body of a chat completion that asks the same.

    Args:
        obj: The body of a chat, or of a generate that can be said as one.
        model: What the provider calls the model.
        messages: Native ones: the chat's own, or those that say what the generate does.
        path: Of the native route.
        streams: The client wants a stream.

    Returns:
        ``None`` where it cannot be said there, and for what Ollama refuses or could read in another way.
    """
    if obj.odd_for(KNOWN_NAMES[path]) or not fits(path, obj) or obj.given("_debug_render_only"):
        return None
    try:
        said = dict(_members(obj, messages))
    except Unsayable:
        return None
    if streams:
        said |= {"stream": "true", "stream_options": '{"include_usage":true}'}
    return _object({"model": go_quote(model), **said})


def embed_request(obj: JsonObject, model: str) -> bytes | None:
    """The body of an embeddings call that asks the same as an ``/api/embed``; ``None`` as for :func:`chat_request`."""
    path = "/api/embed"
    texts = obj.given("input")
    if obj.odd_for(KNOWN_NAMES[path]) or not fits(path, obj):
        return None
    if not texts or (isinstance(texts, list) and not all(texts)):
        return None
    said = {"model": go_quote(model), "input": _dump(texts), "encoding_format": '"float"'}
    if obj.given("dimensions"):
        said["dimensions"] = str(obj.given("dimensions"))
    return _object(said)


def _members(obj: JsonObject, messages: list[Any]) -> Iterator[tuple[str, str]]:
    yield "messages", _dump(list(_messages(messages)))
    if obj.given("tools"):
        yield "tools", obj.raw("tools")
    form = obj.given("format")
    if form == "json":
        yield "response_format", '{"type":"json_object"}'
    elif isinstance(form, dict):
        schema = f'{{"name":"response","schema":{obj.raw("format")}}}'
        yield "response_format", f'{{"type":"json_schema","json_schema":{schema}}}'
    elif form not in (None, ""):
        raise Unsayable
    think = obj.given("think")
    if isinstance(think, str) and think:
        if think not in _EFFORTS:
            raise Unsayable
        yield "reasoning_effort", go_quote(think)
    if obj.given("logprobs"):
        yield "logprobs", "true"
        if obj.given("top_logprobs"):
            yield "top_logprobs", str(obj.given("top_logprobs"))
    yield from _options(obj.given("options") or {})


def _options(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if any(options.get(name) is not None for name in _UNSAYABLE):
        raise Unsayable
    for field, name in OPTIONS.items():
        value = options.get(name)
        if name in _WHOLE and value is not None:
            if math.isinf(value):
                raise Unsayable
            # Ollama cuts the decimals off (api/types.go, ``Options.FromMap``).
            value = int(value)
            # Less than 1 token is no limit there, and a seed below 0 is none.
            if value < (1 if name == "num_predict" else 0):
                continue
        if value is not None and value != []:
            yield field, _dump(value)


def _messages(given: list[Any]) -> Iterator[dict[str, Any]]:
    """The conversation. Results of tools need the id of their call, which native ones may leave out."""
    unanswered: list[tuple[str, str]] = []
    calls = 0
    for message in given:
        role, content = message.get("role"), message.get("content") or ""
        if role not in _ROLES or (message.get("images") and role != "user"):
            raise Unsayable
        if role == "tool":
            yield {"role": role, "tool_call_id": _answered(message, unanswered), "content": content}
        elif role == "assistant" and message.get("tool_calls"):
            told = []
            for call in message["tool_calls"]:
                calls += 1
                told.append(_call(call, calls))
                unanswered.append((told[-1]["id"], told[-1]["function"]["name"]))
            yield {"role": role, "content": content or None, "tool_calls": told}
        elif message.get("images"):
            parts = [{"type": "text", "text": content}] if content else []
            yield {"role": role, "content": [*parts, *map(_image, message["images"])]}
        else:
            yield {"role": role, "content": content}


def _call(call: Any, number: int) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise Unsayable
    name, arguments, identity = function.get("name"), function.get("arguments") or {}, call.get("id")
    if not isinstance(name, str) or not isinstance(arguments, dict) or not isinstance(identity, str | None):
        raise Unsayable
    said = {"name": name, "arguments": _dump(arguments)}
    return {"id": identity or f"call_{number}", "type": "function", "function": said}


def _answered(message: Mapping[str, Any], unanswered: list[tuple[str, str]]) -> str:
    """Which call a result belongs to: by its id, else by the name of the tool, else the first one in order."""
    identity, name = message.get("tool_call_id"), message.get("tool_name")
    for call in unanswered:
        if (call[0] == identity) if identity else (not name or call[1] == name):
            unanswered.remove(call)
            return call[0]
    raise Unsayable


def _image(packed: Any) -> dict[str, Any]:
    if not isinstance(packed, str):
        raise Unsayable
    text = packed.replace("\n", "").replace("\r", "")
    try:
        start = binascii.a2b_base64(text[:16], strict_mode=True)
        binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise Unsayable from None
    kind = next((kind for mark, kind in _IMAGES if start.startswith(mark)), "")
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        kind = "webp"
    if not kind:
        raise Unsayable
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{text}"}}


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError):
        # A number beyond all floats, which Ollama refuses too, or more levels than anybody means.
        raise Unsayable from None


def _object(said: Mapping[str, str]) -> bytes:
    text = ",".join(f"{go_quote(name)}:{raw}" for name, raw in said.items())
    return f"{{{text}}}".encode("utf-8", "surrogateescape")
