"""Prompts as Ollama 0.24.0 renders them, asked for with ``_debug_render_only``."""

from __future__ import annotations

import math
from typing import Any

import pytest

from proxy.simulator import SimulatedOllama
from tests.simulator.replay import post

TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "d",
        "parameters": {
            "type": "object",
            "properties": {"z": {"type": "string", "description": "<x>"}, "a": {"type": ["string", "null"]}},
            "required": ["z"],
        },
    },
}
TOOL_TEXT = (
    '[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object","required":["z"],'
    '"properties":{"a":{"type":["string","null"]},"z":{"type":"string","description":"\\u003cx\\u003e"}}}}}]'
)
EMPTIES = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {
            "type": "object",
            "items": False,
            "required": [],
            "properties": {"a": {"items": "", "type": []}},
        },
    },
}
EMPTIES_TEXT = (
    '[{"type":"function","function":{"name":"f","description":"","parameters":{"type":"object","items":false,'
    '"properties":{"a":{"items":""}}}}}]'
)
USER = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    ("model", "messages", "more", "rendered"),
    [
        ("tiny", [USER, USER], {}, "<|user|>q\n\nq<|eos|><|assistant|>"),
        ("tiny", [{"role": "USER", "content": "x"}], {}, "<|user|>x<|eos|><|assistant|>"),
        ("tools", [USER], {"tools": [TOOL]}, f"<|system|>{TOOL_TEXT}<|eos|><|user|>q<|eos|><|assistant|>"),
        ("tools", [USER], {"tools": [EMPTIES]}, f"<|system|>{EMPTIES_TEXT}<|eos|><|user|>q<|eos|><|assistant|>"),
        (
            "tools",
            [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"z": 1, "a": "<"}}}]}],
            {},
            '<|user|>q<|eos|><|assistant|>{"name": "f", "arguments": {"a":"\\u003c","z":1}}<|eos|><|assistant|>',
        ),
        (
            "legacy",
            [{"role": "assistant", "content": "pre"}],
            {},
            "<|system|>You are a tiny model.<|eos|><|user|>hello there<|eos|><|assistant|>hi\n\npre",
        ),
        (
            "tiny",
            [{"role": "system", "content": "S"}, {"role": "user", "content": "long " * 40}, USER],
            {"options": {"num_ctx": 40}},
            "<|system|>S<|eos|><|user|>q<|eos|><|assistant|>",
        ),
        (
            "tiny",
            [{"role": "user", "content": "x", "images": ["aGVsbG8="]}],
            {},
            "<|user|>[img-0]x<|eos|><|assistant|>",
        ),
    ],
)
async def test_chat_renders(model: str, messages: list[Any], more: dict[str, Any], rendered: str) -> None:
    async with SimulatedOllama("recorded", speed=math.inf) as ollama:
        reply = await post(ollama.port, "/api/chat", model=model, messages=messages, _debug_render_only=True, **more)
        assert reply.json()["_debug_info"]["rendered_template"] == rendered


@pytest.mark.parametrize(
    ("body", "rendered"),
    [
        ({"model": "suffix", "prompt": "a", "suffix": "b"}, "<|system|>a<|user|>b<|assistant|>"),
        ({"model": "tiny", "prompt": "a", "context": [691, 0, 104, 105]}, "<|user|>hi<|user|>a<|eos|><|assistant|>"),
        ({"model": "tiny", "prompt": "a", "raw": True}, "a"),
        ({"model": "tiny", "prompt": "a", "template": "{{ .System }}|{{ .Prompt }}|{{ .Response }}|tail"}, "|a|"),
        ({"model": "tiny", "prompt": "see [img]", "images": ["aGVsbG8="]}, "<|user|>see [img-0]<|eos|><|assistant|>"),
    ],
)
async def test_generate_renders(body: dict[str, Any], rendered: str) -> None:
    async with SimulatedOllama("recorded", speed=math.inf) as ollama:
        reply = await post(ollama.port, "/api/generate", _debug_render_only=True, **body)
        assert reply.json()["_debug_info"]["rendered_template"] == rendered
