"""The requests of the native API, as Go structs.

Source: Ollama v0.24.0 ``api/types.go``. Names and order of fields decide error texts and what is passed over.
"""

from __future__ import annotations

from typing import Final

from proxy.simulator.golang.clock import MAX_DURATION_NS, NANOSECONDS, go_quote, parse_duration
from proxy.simulator.golang.jsonbind import (
    ANY,
    BOOL,
    INT,
    RAW,
    STRING,
    Bytes,
    Custom,
    Integer,
    Map,
    Pointer,
    Reader,
    Slice,
    Struct,
    bind,
    plain,
    unmarshal,
)
from proxy.simulator.golang.jsonin import GoError, Node, parse

_GO_KINDS: Final = {bool: "bool", list: "[]interface {}"}


def _duration(raw: bytes) -> object:
    """``api.Duration``: nanoseconds; a negative one means for ever."""
    value = plain(parse(raw))
    if isinstance(value, float):
        if value < 0:
            return MAX_DURATION_NS
        nanoseconds = value * NANOSECONDS
        # Go converts a float that is too large to the smallest integer (amd64).
        return int(nanoseconds) if nanoseconds < MAX_DURATION_NS else -MAX_DURATION_NS - 1
    if isinstance(value, str):
        nanoseconds_given = parse_duration(value)
        return MAX_DURATION_NS if nanoseconds_given < 0 else nanoseconds_given
    kind = _GO_KINDS.get(type(value), "map[string]interface {}")
    raise GoError(f"Unsupported type: '{kind}'")


def _think(raw: bytes) -> object:
    """``api.ThinkValue``: a bool or one of four levels."""
    value = plain(parse(raw))
    if isinstance(value, bool) or value is None:
        return bool(value)
    if not isinstance(value, str):
        raise GoError('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')
    if value not in ("high", "medium", "low", "max"):
        raise GoError(
            f'invalid think value: {go_quote(value)} (must be "high", "medium", "low", "max", true, or false)'
        )
    return value


def _property_type(raw: bytes) -> object:
    """``api.PropertyType``: a string or a list of strings."""
    node = parse(raw)
    if node.kind == "string":
        return [node.text()]
    if node.kind == "null":
        return [""]
    return bind(node, raw, Slice(STRING))


def _members(raw: bytes) -> list[tuple[str, Node]]:
    node = parse(raw)
    if node.kind == "null":
        return []
    if node.kind != "object":
        # jsonparser's MalformedObjectError, by way of go-ordered-map
        raise GoError("Value looks like object, but can't find closing '}' symbol")
    return node.members()


def _properties(raw: bytes) -> object:
    """``api.ToolPropertiesMap``: ordered, the values are ``api.ToolProperty``."""
    return {name: bind(member, raw, TOOL_PROPERTY) for name, member in _members(raw)}


def read_arguments(raw: bytes) -> object:
    """``api.ToolCallFunctionArguments``: ordered, the values are anything."""
    return {name: plain(member) for name, member in _members(raw)}


class _ToolProperty(Struct):
    """``api.ToolProperty``: only the fields that are written (``omitempty``), a single type as a text."""

    def zero(self) -> object:
        return {}

    def read(self, reader: Reader, node: Node, previous: object) -> object:
        value = super().read(reader, node, previous)
        if not isinstance(value, dict):
            return value
        empty: tuple[object, ...] = (None, "", [])
        shown = {
            name: value[name]
            for name in self.fields
            if (value.get(name) not in empty or (name == "items" and value.get(name) is not None))
        }
        kinds = shown.get("type")
        if isinstance(kinds, list) and len(kinds) == 1:
            shown["type"] = kinds[0]
        return shown


_PROPERTIES: Final = Custom("api.ToolPropertiesMap", _properties)
TOOL_PROPERTY: Final = _ToolProperty("api.ToolProperty", {})
TOOL_PROPERTY.define(
    {
        "anyOf": Slice(TOOL_PROPERTY),
        "type": Custom("api.PropertyType", _property_type),
        "items": ANY,
        "description": STRING,
        "enum": Slice(ANY),
        "properties": Pointer(_PROPERTIES),
        "required": Slice(STRING),
    }
)
TOOL_PARAMETERS: Final = Struct(
    "api.ToolFunctionParameters",
    {
        "type": STRING,
        "$defs": ANY,
        "items": ANY,
        "required": Slice(STRING),
        "properties": Pointer(_PROPERTIES),
    },
)
TOOL: Final = Struct(
    "api.Tool",
    {
        "type": STRING,
        "items": ANY,
        "function": Struct("api.ToolFunction", {"name": STRING, "description": STRING, "parameters": TOOL_PARAMETERS}),
    },
)
TOOL_CALL: Final = Struct(
    "api.ToolCall",
    {
        "id": STRING,
        "function": Struct(
            "api.ToolCallFunction",
            {"index": INT, "name": STRING, "arguments": Custom("api.ToolCallFunctionArguments", read_arguments)},
        ),
    },
)
IMAGE: Final = Bytes("api.ImageData")
_ALIAS: Final = Struct(
    "api.Alias",
    {
        "role": STRING,
        "content": STRING,
        "thinking": STRING,
        "images": Slice(IMAGE),
        "tool_calls": Slice(TOOL_CALL),
        "tool_name": STRING,
        "tool_call_id": STRING,
    },
)


def _message(raw: bytes) -> object:
    """``api.Message``: the role is folded to lower case."""
    value = unmarshal(raw, _ALIAS)
    assert isinstance(value, dict)  # noqa: S101 - a struct is always a dict
    return {**value, "role": str(value["role"]).lower()}


MESSAGE: Final = Custom("api.Message", _message, _ALIAS.zero)
DURATION: Final = Custom("api.Duration", _duration)
THINK: Final = Custom("api.ThinkValue", _think)
_INT32: Final = Integer("int32", 32)

GENERATE: Final = Struct(
    "api.GenerateRequest",
    {
        "model": STRING,
        "prompt": STRING,
        "suffix": STRING,
        "system": STRING,
        "template": STRING,
        "context": Slice(INT),
        "stream": Pointer(BOOL),
        "raw": BOOL,
        "format": RAW,
        "keep_alive": Pointer(DURATION),
        "images": Slice(IMAGE),
        "options": Map(ANY),
        "think": Pointer(THINK),
        "truncate": Pointer(BOOL),
        "shift": Pointer(BOOL),
        "_debug_render_only": BOOL,
        "logprobs": BOOL,
        "top_logprobs": INT,
        "width": _INT32,
        "height": _INT32,
        "steps": _INT32,
    },
)
CHAT: Final = Struct(
    "api.ChatRequest",
    {
        "model": STRING,
        "messages": Slice(MESSAGE),
        "stream": Pointer(BOOL),
        "format": RAW,
        "keep_alive": Pointer(DURATION),
        "tools": Slice(TOOL, "api.Tools"),
        "options": Map(ANY),
        "think": Pointer(THINK),
        "truncate": Pointer(BOOL),
        "shift": Pointer(BOOL),
        "_debug_render_only": BOOL,
        "logprobs": BOOL,
        "top_logprobs": INT,
    },
)
EMBED: Final = Struct(
    "api.EmbedRequest",
    {
        "model": STRING,
        "input": ANY,
        "keep_alive": Pointer(DURATION),
        "truncate": Pointer(BOOL),
        "dimensions": INT,
        "options": Map(ANY),
    },
)
EMBEDDINGS: Final = Struct(
    "api.EmbeddingRequest",
    {"model": STRING, "prompt": STRING, "keep_alive": Pointer(DURATION), "options": Map(ANY)},
)
CREATE: Final = Struct(
    "api.CreateRequest",
    {
        "model": STRING,
        "stream": Pointer(BOOL),
        "quantize": STRING,
        "from": STRING,
        "remote_host": STRING,
        "files": Map(STRING),
        "adapters": Map(STRING),
        "template": STRING,
        "license": ANY,
        "system": STRING,
        "parameters": Map(ANY),
        "messages": Slice(MESSAGE),
        "renderer": STRING,
        "parser": STRING,
        "requires": STRING,
        "info": Map(ANY),
        "name": STRING,
        "quantization": STRING,
    },
)
DELETE: Final = Struct("api.DeleteRequest", {"model": STRING, "name": STRING})
SHOW: Final = Struct(
    "api.ShowRequest",
    {
        "model": STRING,
        "system": STRING,
        "template": STRING,
        "verbose": BOOL,
        "options": Map(ANY),
        "name": STRING,
    },
)
COPY: Final = Struct("api.CopyRequest", {"source": STRING, "destination": STRING})
PULL: Final = Struct(
    "api.PullRequest",
    {
        "model": STRING,
        "insecure": BOOL,
        "username": STRING,
        "password": STRING,
        "stream": Pointer(BOOL),
        "name": STRING,
    },
)
PUSH: Final = Struct("api.PushRequest", dict(PULL.fields))
