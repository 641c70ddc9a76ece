"""Tool calls and thinking in what a model writes."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.simulator.engine.thoughts import ThinkingParser
from proxy.simulator.engine.toolcalls import ToolParser

TOOLS: list[dict[str, Any]] = [{"function": {"name": "get"}}, {"function": {"name": "get_weather"}}]


def parsed(tag: str, *pieces: str) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    parser, calls, content = ToolParser(TOOLS, tag), [], ""
    for piece in pieces:
        found, shown = parser.add(piece)
        calls += [(call["function"]["name"], call["function"]["arguments"]) for call in found]  # type: ignore[index]
        content += shown
    return calls, content + parser.rest()


@pytest.mark.parametrize(
    ("tag", "pieces", "calls", "content"),
    [
        ("{", ['{"name": "get_', 'weather", "arguments": {"city": "Oslo"}}'], [("get_weather", {"city": "Oslo"})], ""),
        ("<call>", ["Sure ", "<ca", 'll>{"name":"get","parameters":{"a":1}}'], [("get", {"a": 1})], "Sure "),
        ("{", ["No call: ", "x"], [], "No call: x"),
        # Ollama 0.24.0 does not empty its buffer here, and tells the end twice.
        ("{", ["No call: {}"], [], "No call: {}{}"),
        ("{", ['{"x": 1}'], [], '{"x": 1}'),
        ("[", ['[{"name":"get","arguments":{}}]'], [("get", {})], ""),
        ("<c>", ['<c>{"get": {"a": 2}}'], [("get", {"a": 2})], ""),
    ],
)
def test_calls_are_found_and_content_is_let_through(
    tag: str, pieces: list[str], calls: list[Any], content: str
) -> None:
    assert parsed(tag, *pieces) == (calls, content)


@pytest.mark.parametrize(
    ("pieces", "thinking", "content"),
    [
        (["<think>", "\n", "a", " b", "</think>", "\n\n", "c"], "a b", "c"),
        (["<thi", "nk>a</th", "ink>b"], "a", "b"),
        (["no tag"], "", "no tag"),
        (["  <think>a"], "a", ""),
        (["<think>a<", "/b"], "a</b", ""),
    ],
)
def test_thinking_is_told_from_content(pieces: list[str], thinking: str, content: str) -> None:
    parser = ThinkingParser("<think>", "</think>")
    parts = [parser.add(piece) for piece in pieces]
    assert ("".join(part for part, _ in parts), "".join(part for _, part in parts)) == (thinking, content)
