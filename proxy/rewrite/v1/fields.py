"""The fields of the requests that are translated, and whether Ollama takes a body for one of them.

What must live here: the type of every field, as Go decodes it. What must not: what the fields mean. Where Ollama's
verdict is not certain the answer is no, because such a body is relayed, and Ollama's own answer goes back.

Source: Ollama 0.24.0, ``openai/openai.go`` (``ChatCompletionRequest``, ``CompletionRequest``, ``Message``,
``ToolCall``), ``api/types.go`` (``Tool``).
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from proxy.rewrite.acceptance import is_flag, is_int64, is_number, is_text
from proxy.wire.gojson import UNREAD

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.wire.gojson import JsonObject

    Takes = Callable[[object], bool]

CHAT_PATH: Final = "/v1/chat/completions"
COMPLETION_PATH: Final = "/v1/completions"

_LARGEST_FLOAT32: Final = 3.4028234663852886e38
_MOST_DIGITS: Final = 308
# server/routes.go, both handlers: another number is refused before anything is loaded.
_TOP_LOGPROBS: Final = range(21)
# Fields of OpenAI's and of Ollama's own API that clients send to /v1 and that are about no answer: they identify,
# store and bill, or they are Ollama's own (keep_alive, options) and its /v1 ignores them in every version.
_ABOUT_NO_ANSWER: Final = frozenset(
    (
        "keep_alive",
        "metadata",
        "options",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    )
)


class Struct:
    """The question whether Go decodes a value into a struct, each of its members into the field of that very name.

    Args:
        fields: Names and questions. Go's decoder takes null for every type, and passes over names that are not here.
    """

    __slots__ = ("_folded", "fields")

    def __init__(self, fields: Mapping[str, Takes]) -> None:
        self.fields = fields
        self._folded = frozenset(name.casefold() for name in fields)

    def __call__(self, value: object) -> bool:
        if not isinstance(value, dict):
            return False
        for name, item in value.items():
            takes = self.fields.get(name)
            if takes is None:
                if name.casefold() in self._folded:
                    return False
            elif item is not None and not takes(item):
                return False
        return True

    def knows(self, value: Mapping[str, object]) -> bool:
        """Whether the fields are all that is said in an object; null says nothing."""
        return all(name in self.fields or item is None for name, item in value.items())


def _anything(value: object) -> bool:
    return value is not UNREAD


def _list_of(takes: Takes) -> Takes:
    return lambda value: isinstance(value, list) and all(map(takes, value))


def _is_float32(value: object) -> bool:
    return isinstance(value, int | float) and is_number(value) and abs(value) <= _LARGEST_FLOAT32


def _is_top_logprobs(value: object) -> bool:
    return is_int64(value) and value in _TOP_LOGPROBS


def _is_logprobs_count(value: object) -> bool:
    return isinstance(value, int) and is_int64(value) and value < _TOP_LOGPROBS.stop


def _are_properties(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_property, value.values()))


def _is_type(value: object) -> bool:
    return is_text(value) or (isinstance(value, list) and all(map(is_text, value)))


def _is_property(value: object) -> bool:
    return _PROPERTY(value)


_PROPERTY: Final = Struct(
    {
        "anyOf": _list_of(_is_property),
        "type": _is_type,
        "items": _anything,
        "description": is_text,
        "enum": _list_of(_anything),
        "properties": _are_properties,
        "required": _list_of(is_text),
    }
)
_PARAMETERS: Final = Struct(
    {
        "type": is_text,
        "$defs": _anything,
        "items": _anything,
        "required": _list_of(is_text),
        "properties": _are_properties,
    }
)
_TOOL: Final = Struct(
    {
        "type": is_text,
        "items": _anything,
        "function": Struct({"name": is_text, "description": is_text, "parameters": _PARAMETERS}),
    }
)
_TOOL_CALL: Final = Struct(
    {
        "id": is_text,
        "index": is_int64,
        "type": is_text,
        "function": Struct({"name": is_text, "arguments": is_text}),
    }
)
MESSAGE: Final = Struct(
    {
        "role": is_text,
        "content": _anything,
        "reasoning": is_text,
        "tool_calls": _list_of(_TOOL_CALL),
        "name": is_text,
        "tool_call_id": is_text,
    }
)
_STREAM_OPTIONS: Final = Struct({"include_usage": is_flag})
_RESPONSE_FORMAT: Final = Struct({"type": is_text, "json_schema": Struct({"schema": _anything})})

REQUESTS: Final[Mapping[str, Struct]] = {
    CHAT_PATH: Struct(
        {
            "model": is_text,
            "messages": _list_of(MESSAGE),
            "stream": is_flag,
            "stream_options": _STREAM_OPTIONS,
            "max_tokens": is_int64,
            "seed": is_int64,
            "stop": _anything,
            "temperature": is_number,
            "frequency_penalty": is_number,
            "presence_penalty": is_number,
            "top_p": is_number,
            "response_format": _RESPONSE_FORMAT,
            "tools": _list_of(_TOOL),
            "reasoning": Struct({"effort": is_text}),
            "reasoning_effort": is_text,
            "logprobs": is_flag,
            "top_logprobs": _is_top_logprobs,
            "_debug_render_only": is_flag,
        }
    ),
    COMPLETION_PATH: Struct(
        {
            "model": is_text,
            "prompt": is_text,
            "frequency_penalty": _is_float32,
            "max_tokens": is_int64,
            "presence_penalty": _is_float32,
            "seed": is_int64,
            "stop": _anything,
            "stream": is_flag,
            "stream_options": _STREAM_OPTIONS,
            "temperature": _is_float32,
            "top_p": _is_float32,
            "suffix": is_text,
            "logprobs": _is_logprobs_count,
            "_debug_render_only": is_flag,
        }
    ),
}
"""The routes that are translated, and what Ollama knows of their requests."""

_NAMES: Final = {path: frozenset(request.fields) for path, request in REQUESTS.items()}


def fits(path: str, obj: JsonObject, *, is_read: bool) -> bool:
    """Whether Ollama takes a body, and every name in it means one thing.

    Args:
        path: One of ``REQUESTS``.
        obj: The body.
        is_read: A field that is not known here is certain to be ignored; otherwise a later Ollama may know it.
    """
    text = obj.text[obj.start : obj.end]
    if obj.odd_for(_NAMES[path]):
        return False
    request = REQUESTS[path]
    values = {member.name: member.value for member in obj.members}
    if not request(values) or not (is_read or _is_known(request, values)):
        return False
    return reads_alike(text)


def _is_known(request: Struct, values: Mapping[str, Any]) -> bool:
    return request.knows({name: value for name, value in values.items() if name not in _ABOUT_NO_ANSWER}) and all(
        map(MESSAGE.knows, values.get("messages") or ())
    )


class _Unsure(ValueError):
    """Go may read something else."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Unsure("a name stands twice")
    return found


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Unsure("a number is too large")
    return value


def _whole(text: str) -> int:
    # More digits than a float64 can have before the point.
    if len(text) > _MOST_DIGITS:
        raise _Unsure("a number is too large")
    return int(text)


_decoder: Final = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_int=_whole)


def reads_alike(text: str) -> bool:
    """Whether Go takes every value of a JSON text, and sees the one that Python sees.

    Go looks at each of several members with one name, and Python at the last; and where any type is taken, a number has
    to be one that a ``float64`` holds.
    """
    try:
        _decoder.decode(text)
    except (ValueError, RecursionError):
        return False
    return True
