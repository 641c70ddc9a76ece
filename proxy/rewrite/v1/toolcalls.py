"""Calls of tools: OpenAI's have their arguments as a text, Ollama's as an object.

Source: Ollama 0.24.0, ``openai/openai.go`` (``FromCompletionToolCall``, ``ToToolCalls``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.rewrite.v1.fields import reads_alike
from proxy.rewrite.v1.frames import whole_number
from proxy.wire.gojson import go_quote, read_text
from proxy.wire.gowrite import go_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SPACE = " \t\n\r"


def to_native(calls: Sequence[Mapping[str, Any]]) -> str | None:
    """The JSON text of Ollama's list for a list of OpenAI's.

    Args:
        calls: Decoded, of the types that ``fields`` asks for.

    Returns:
        ``None`` where the arguments of one are no JSON object, or not certain to be read in one way.
    """
    written = []
    for call in calls:
        function = call.get("function") or {}
        arguments = _object(function.get("arguments") or "")
        if arguments is None:
            return None
        identity = f'"id":{go_quote(call["id"])},' if call.get("id") else ""
        name = go_quote(function.get("name") or "")
        written.append(f'{{{identity}"function":{{"name":{name},"arguments":{arguments}}}}}')
    return f"[{','.join(written)}]"


def _object(arguments: str) -> str | None:
    obj = read_text(arguments)
    if obj is None or arguments[obj.end :].strip(_SPACE) or not reads_alike(arguments[obj.start : obj.end]):
        return None
    return arguments[obj.start : obj.end]


def to_openai(calls: Sequence[Any]) -> str:
    """The JSON text of OpenAI's list for a list of Ollama's.

    Args:
        calls: Decoded, from a frame of Ollama's.

    Raises:
        ValueError: It is none of Ollama's.
    """
    written = []
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise ValueError("a tool call without a function")
        arguments = go_text(function.get("arguments") or {}, is_sorted=False)
        written.append(
            f'{{"id":{_text(call.get("id"))},"index":{whole_number(function.get("index"))},"type":"function",'
            f'"function":{{"name":{_text(function.get("name"))},"arguments":{go_quote(arguments)}}}}}'
        )
    return f"[{','.join(written)}]"


def _text(value: object) -> str:
    return go_quote(value if isinstance(value, str) else "")
