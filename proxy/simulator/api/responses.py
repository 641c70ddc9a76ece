"""The request of /v1/responses, as Go structs with their own readers (Ollama v0.24.0 ``openai/responses.go``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxy.simulator.api.v1 import RESPONSES_TOOL
from proxy.simulator.golang.clock import go_quote
from proxy.simulator.golang.jsonbind import (
    BOOL,
    FLOAT64,
    INT,
    RAW,
    STRING,
    Custom,
    GoType,
    Pointer,
    Slice,
    Struct,
    unmarshal,
    unmarshal_struct,
)
from proxy.simulator.golang.jsonin import GoError

Item = Mapping[str, object]

_TYPE: Final = 'Type string "json:\\"type\\""'
_ROLE: Final = 'Role string "json:\\"role\\""'
_PEEK_CONTENT: Final = Struct(f"struct {{ {_TYPE} }}", {"type": STRING})
_PEEK: Final = Struct(f"struct {{ {_TYPE}; {_ROLE} }}", {"type": STRING, "role": STRING})
_AUX_MESSAGE: Final = Struct(
    f'struct {{ {_TYPE}; {_ROLE}; Content json.RawMessage "json:\\"content\\"" }}',
    {"type": STRING, "role": STRING, "content": RAW},
)
_AUX_OUTPUT: Final = Struct(
    f'struct {{ {_TYPE}; CallID string "json:\\"call_id\\""; Output json.RawMessage "json:\\"output\\"" }}',
    {"type": STRING, "call_id": STRING, "output": RAW},
)
_CONTENT: Final[Mapping[str, Struct]] = {
    "input_text": Struct("openai.ResponsesTextContent", {"type": STRING, "text": STRING}),
    "output_text": Struct("openai.ResponsesOutputTextContent", {"type": STRING, "text": STRING}),
    "input_image": Struct(
        "openai.ResponsesImageContent",
        {"type": STRING, "detail": STRING, "file_id": STRING, "image_url": STRING},
    ),
    "input_file": Struct(
        "openai.ResponsesFileContent",
        {"type": STRING, "file_data": STRING, "file_id": STRING, "file_url": STRING, "filename": STRING},
    ),
}
_FUNCTION_CALL: Final = Struct(
    "openai.ResponsesFunctionCall",
    {"id": STRING, "type": STRING, "call_id": STRING, "name": STRING, "arguments": STRING},
)
_REASONING_INPUT: Final = Struct(
    "openai.ResponsesReasoningInput",
    {
        "id": STRING,
        "type": STRING,
        "summary": Slice(Struct("openai.ResponsesReasoningSummary", {"type": STRING, "text": STRING})),
        "encrypted_content": STRING,
    },
)


def _try(raw: bytes, into: GoType) -> object:
    """The value, or None where it has another type."""
    try:
        return unmarshal(raw, into)
    except GoError:
        return None


def _raw_items(raw: bytes, what: str) -> list[bytes]:
    try:
        items = unmarshal(raw, Slice(RAW))
    except GoError as error:
        raise GoError(f"{what} must be a string or array: {error}") from None
    return [item for item in items if isinstance(item, bytes)] if isinstance(items, list) else []


def _contents(raw: bytes, what: str) -> list[Item]:
    out: list[Item] = []
    for index, item in enumerate(_raw_items(raw, what)):
        try:
            kind = str(unmarshal_struct(item, _PEEK_CONTENT)["type"])
            if kind not in _CONTENT:
                raise GoError(f"unknown content type: {kind}")
            out.append(unmarshal_struct(item, _CONTENT[kind]))
        except GoError as error:
            raise GoError(f"{what}[{index}]: {error}") from None
    return out


def _message(raw: bytes) -> Item:
    aux = unmarshal_struct(raw, _AUX_MESSAGE)
    content = aux["content"]
    parts: list[Item] = []
    if isinstance(content, bytes) and content:
        text = _try(content, STRING)
        parts = [{"type": "input_text", "text": text}] if text is not None else _contents(content, "content")
    return {"kind": "message", "role": aux["role"], "content": parts}


def _output(raw: bytes) -> Item:
    aux = unmarshal_struct(raw, _AUX_OUTPUT)
    output = aux["output"]
    parts: list[Item] = []
    text: object = ""
    if isinstance(output, bytes) and output:
        text = _try(output, STRING)
        if text is None:
            parts = _contents(output, "output")
            text = "".join(str(part["text"]) for part in parts if "text" in part)
    return {"kind": "function_call_output", "call_id": aux["call_id"], "output": text, "items": parts}


def _item(raw: bytes) -> Item:
    peek = unmarshal_struct(raw, _PEEK)
    kind = str(peek["type"]) or ("message" if peek["role"] else "")
    if kind == "message":
        return _message(raw)
    if kind == "function_call":
        return {"kind": kind, **unmarshal_struct(raw, _FUNCTION_CALL)}
    if kind == "function_call_output":
        return _output(raw)
    if kind == "reasoning":
        return {"kind": kind, **unmarshal_struct(raw, _REASONING_INPUT)}
    if not kind:
        raise GoError("input item missing required 'type' field")
    raise GoError(f"unknown input item type: {go_quote(kind)}")


def _input(raw: bytes) -> object:
    """``ResponsesInput``: a text, or a list of items."""
    text = _try(raw, STRING)
    if text is not None:
        return {"text": text, "items": []}
    items: list[Item] = []
    for index, item in enumerate(_raw_items(raw, "input")):
        try:
            items.append(_item(item))
        except GoError as error:
            raise GoError(f"input[{index}]: {error}") from None
    return {"text": "", "items": items}


def _empty_input() -> object:
    return {"text": "", "items": []}


_TEXT_FORMAT: Final = Struct(
    "openai.ResponsesTextFormat", {"type": STRING, "name": STRING, "schema": RAW, "strict": Pointer(BOOL)}
)
RESPONSES: Final = Struct(
    "openai.ResponsesRequest",
    {
        "model": STRING,
        "background": BOOL,
        "conversation": RAW,
        "include": Slice(STRING),
        "input": Custom("openai.ResponsesInput", _input, _empty_input),
        "instructions": STRING,
        "max_output_tokens": Pointer(INT),
        "reasoning": Struct(
            "openai.ResponsesReasoning", {"effort": STRING, "generate_summary": STRING, "summary": STRING}
        ),
        "temperature": Pointer(FLOAT64),
        "text": Pointer(Struct("openai.ResponsesText", {"format": Pointer(_TEXT_FORMAT)})),
        "top_p": Pointer(FLOAT64),
        "truncation": Pointer(STRING),
        "tools": Slice(RESPONSES_TOOL),
        "stream": Pointer(BOOL),
    },
)
