"""The requests of the compatibility routes, as Go structs.

Source: Ollama v0.24.0 ``openai/openai.go``, ``openai/responses.go``, ``anthropic/anthropic.go``.
"""

from __future__ import annotations

from typing import Final

from proxy.simulator.api.requests import TOOL, read_arguments
from proxy.simulator.golang.jsonbind import (
    ANY,
    BOOL,
    FLOAT32,
    FLOAT64,
    INT,
    RAW,
    STRING,
    Custom,
    Integer,
    Map,
    Pointer,
    Slice,
    Struct,
    unmarshal,
    unmarshal_struct,
)
from proxy.simulator.golang.jsonin import GoError

_STREAM_OPTIONS: Final = Struct("openai.StreamOptions", {"include_usage": BOOL})
_TOOL_CALL: Final = Struct(
    "openai.ToolCall",
    {
        "id": STRING,
        "index": INT,
        "type": STRING,
        "function": Struct(
            'struct { Name string "json:\\"name\\""; Arguments string "json:\\"arguments\\"" }',
            {"name": STRING, "arguments": STRING},
        ),
    },
)
_MESSAGE: Final = Struct(
    "openai.Message",
    {
        "role": STRING,
        "content": ANY,
        "reasoning": STRING,
        "tool_calls": Slice(_TOOL_CALL),
        "name": STRING,
        "tool_call_id": STRING,
    },
)
CHAT_COMPLETION: Final = Struct(
    "openai.ChatCompletionRequest",
    {
        "model": STRING,
        "messages": Slice(_MESSAGE),
        "stream": BOOL,
        "stream_options": Pointer(_STREAM_OPTIONS),
        "max_tokens": Pointer(INT),
        "seed": Pointer(INT),
        "stop": ANY,
        "temperature": Pointer(FLOAT64),
        "frequency_penalty": Pointer(FLOAT64),
        "presence_penalty": Pointer(FLOAT64),
        "top_p": Pointer(FLOAT64),
        "response_format": Pointer(
            Struct(
                "openai.ResponseFormat",
                {"type": STRING, "json_schema": Pointer(Struct("openai.JsonSchema", {"schema": RAW}))},
            )
        ),
        "tools": Slice(TOOL),
        "reasoning": Pointer(Struct("openai.Reasoning", {"effort": STRING})),
        "reasoning_effort": Pointer(STRING),
        "logprobs": Pointer(BOOL),
        "top_logprobs": INT,
        "_debug_render_only": BOOL,
    },
)
COMPLETION: Final = Struct(
    "openai.CompletionRequest",
    {
        "model": STRING,
        "prompt": STRING,
        "frequency_penalty": FLOAT32,
        "max_tokens": Pointer(INT),
        "presence_penalty": FLOAT32,
        "seed": Pointer(INT),
        "stop": ANY,
        "stream": BOOL,
        "stream_options": Pointer(_STREAM_OPTIONS),
        "temperature": Pointer(FLOAT32),
        "top_p": FLOAT32,
        "suffix": STRING,
        "logprobs": Pointer(INT),
        "_debug_render_only": BOOL,
    },
)
EMBEDDING: Final = Struct(
    "openai.EmbedRequest",
    {"input": ANY, "model": STRING, "dimensions": INT, "encoding_format": STRING},
)
_SEED64: Final = Pointer(Integer("int64", 64))
IMAGE_GENERATION: Final = Struct(
    "openai.ImageGenerationRequest",
    {
        "model": STRING,
        "prompt": STRING,
        "n": INT,
        "size": STRING,
        "response_format": STRING,
        "seed": _SEED64,
    },
)
IMAGE_EDIT: Final = Struct(
    "openai.ImageEditRequest",
    {"model": STRING, "prompt": STRING, "image": STRING, "size": STRING, "seed": _SEED64},
)

# -- Anthropic

_BLOCK: Final = Struct(
    "anthropic.ContentBlock",
    {
        "type": STRING,
        "text": Pointer(STRING),
        "citations": Slice(ANY),
        "source": Pointer(
            Struct("anthropic.ImageSource", {"type": STRING, "media_type": STRING, "data": STRING, "url": STRING})
        ),
        "id": STRING,
        "name": STRING,
        "input": Custom("api.ToolCallFunctionArguments", read_arguments),
        "tool_use_id": STRING,
        "content": ANY,
        "is_error": BOOL,
        "thinking": Pointer(STRING),
        "signature": STRING,
    },
)
_BARE_PARAM: Final = Struct(
    'struct { Role string "json:\\"role\\""; Content json.RawMessage "json:\\"content\\"" }',
    {"role": STRING, "content": RAW},
)


def _message_param(raw: bytes) -> object:
    """``MessageParam``: content is a text or a list of blocks."""
    bare = unmarshal_struct(raw, _BARE_PARAM)
    content = bare["content"]
    if not isinstance(content, bytes):
        raise GoError("unexpected end of JSON input")
    if content == b"null":
        return {"role": bare["role"], "content": [{**_zero_block(), "type": "text", "text": ""}]}
    try:
        text = unmarshal(content, STRING)
    except GoError:
        return {"role": bare["role"], "content": unmarshal(content, Slice(_BLOCK))}
    return {"role": bare["role"], "content": [{**_zero_block(), "type": "text", "text": text}]}


def _zero_block() -> dict[str, object]:
    zero = _BLOCK.zero()
    assert isinstance(zero, dict)  # noqa: S101 - a struct is always a dict
    return zero


def _message_zero() -> object:
    return {"role": "", "content": None}


MESSAGES: Final = Struct(
    "anthropic.MessagesRequest",
    {
        "model": STRING,
        "max_tokens": INT,
        "messages": Slice(Custom("anthropic.MessageParam", _message_param, _message_zero)),
        "system": ANY,
        "stream": BOOL,
        "temperature": Pointer(FLOAT64),
        "top_p": Pointer(FLOAT64),
        "top_k": Pointer(INT),
        "stop_sequences": Slice(STRING),
        "tools": Slice(
            Struct(
                "anthropic.Tool",
                {"type": STRING, "name": STRING, "description": STRING, "input_schema": RAW, "max_uses": INT},
            )
        ),
        "tool_choice": Pointer(
            Struct("anthropic.ToolChoice", {"type": STRING, "name": STRING, "disable_parallel_tool_use": BOOL})
        ),
        "thinking": Pointer(Struct("anthropic.ThinkingConfig", {"type": STRING, "budget_tokens": INT})),
        "metadata": Pointer(Struct("anthropic.Metadata", {"user_id": STRING})),
        "output_config": Pointer(Struct("anthropic.OutputConfig", {"effort": STRING})),
    },
)
RESPONSES_TOOL: Final = Struct(
    "openai.ResponsesTool",
    {
        "type": STRING,
        "name": STRING,
        "description": Pointer(STRING),
        "strict": Pointer(BOOL),
        "parameters": Map(ANY),
    },
)
