"""The fields of the native inference requests, and whether a body fits them.

Source: Ollama 0.24.0, ``api/types.go``: ``GenerateRequest``, ``ChatRequest``, ``Message``, ``EmbedRequest``,
``EmbeddingRequest``. As for generate (``acceptance``), a value of which Ollama's verdict is not certain does not fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.rewrite.acceptance import GENERATE_FIELDS, is_int64

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.wire.gojson import JsonObject

_TEXTS_OF_A_MESSAGE: Final = frozenset(("role", "content", "thinking", "tool_name", "tool_call_id"))
_LISTS_OF_A_MESSAGE: Final = frozenset(("images", "tool_calls"))


def _are_messages(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(message, dict) and _is_message(message) for message in value)


def _is_message(message: Mapping[str, object]) -> bool:
    for name, value in message.items():
        if value is None:
            continue
        if name in _TEXTS_OF_A_MESSAGE:
            if not isinstance(value, str):
                return False
        elif name in _LISTS_OF_A_MESSAGE and not isinstance(value, list):
            return False
    return True


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_input(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _same_as_generate(*names: str) -> dict[str, Callable[[object], bool]]:
    return {name: GENERATE_FIELDS[name] for name in names}


_CHAT: Final = {
    **_same_as_generate("model", "stream", "format", "keep_alive", "options", "think", "truncate", "shift"),
    **_same_as_generate("_debug_render_only", "logprobs", "top_logprobs"),
    "messages": _are_messages,
    "tools": _is_list_of_objects,
}

_EMBED: Final = {
    **_same_as_generate("model", "keep_alive", "truncate", "options"),
    "input": _is_input,
    "dimensions": is_int64,
}

_EMBEDDINGS: Final = _same_as_generate("model", "prompt", "keep_alive", "options")

#: Each native inference route, and what it knows.
FIELDS: Final[Mapping[str, Mapping[str, Callable[[object], bool]]]] = {
    "/api/generate": GENERATE_FIELDS,
    "/api/chat": _CHAT,
    "/api/embed": _EMBED,
    "/api/embeddings": _EMBEDDINGS,
}

KNOWN_NAMES: Final = {path: frozenset(fields) for path, fields in FIELDS.items()}


def fits(path: str, obj: JsonObject) -> bool:
    """Whether Ollama takes every value of a body.

    Args:
        path: A native inference route.
        obj: The body; its names are certain (``odd_for`` said no). Members that the route does not know are passed
            over, as Ollama passes them over.
    """
    fields = FIELDS[path]
    for member in obj.members:
        takes = fields.get(member.name)
        if takes is not None and member.value is not None and not takes(member.value):
            return False
    return True
