"""Finding tool calls in what a model writes (Ollama v0.24.0 ``tools/tools.go``)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from proxy.simulator.golang.jsonout import GoMap

ToolCall = dict[str, object]


class ToolParser:
    """Takes content and gives (calls, content); holds back what may be a call."""

    def __init__(self, tools: Sequence[Mapping[str, object]], tag: str) -> None:
        self._names = [_name(tool) for tool in tools]
        self._tag = tag
        self._state = "looking"
        self._held = ""
        self._count = 0

    def add(self, text: str) -> tuple[list[ToolCall], str]:
        """The calls that are complete, and the content that may go out now."""
        if self._state == "done":
            return [], text
        self._held += text
        content = ""
        if self._state == "looking":
            at, found = self._find_tag()
            content, self._held = (self._held, "") if at < 0 else (self._held[:at], self._held[at:])
            if self._tag in ("{", "[") and content.strip():
                self._state = "done"
                return [], content + self._held
            if not found:
                return [], content
            self._state = "calling"
        calls: list[ToolCall] = []
        while (call := self._parse()) is not None:
            calls.append(call)
        if self._is_complete():
            self._state = "done"
            content, self._held = self._held, ""
        return calls, content

    def rest(self) -> str:
        """What is left at the end, where it turned out to be no call."""
        return "" if self._count or self._tag not in ("{", "[") else self._held

    def _find_tag(self) -> tuple[int, bool]:
        at = self._held.find(self._tag)
        if at >= 0:
            return at, True
        for size in range(min(len(self._held), len(self._tag)), 0, -1):
            if self._held.endswith(self._tag[:size]):
                return len(self._held) - size, False
        return -1, False

    def _parse(self) -> ToolCall | None:
        name, end = self._find_tool()
        if not name:
            return None
        found, last = _arguments(name, self._held)
        if found is None:
            return None
        call: ToolCall = {
            "id": "",
            "function": {"index": self._count, "name": name, "arguments": found},
        }
        self._count += 1
        self._held = self._held[max(end, last) :]
        return call

    def _find_tool(self) -> tuple[str, int]:
        longest = max((len(name) for name in self._names), default=0)
        for size in range(1, min(len(self._held), longest) + 1):
            tail = self._held[len(self._held) - size :]
            if any(len(tail) < len(name) and name.startswith(tail) for name in self._names):
                return "", 0
        places = [(self._held.find(name), -len(name), name) for name in self._names if name and name in self._held]
        if not places:
            return "", 0
        start, _, name = min(places)
        return name, start + len(name)

    def _is_complete(self) -> bool:
        pairs = {"{": "}", "[": "]"}
        if self._tag not in pairs:
            return False
        depth = 0
        for letter in self._held:
            if letter == self._tag:
                depth += 1
            elif letter == pairs[self._tag]:
                depth -= 1
                if depth == 0:
                    return True
        return False


def _name(tool: Mapping[str, object]) -> str:
    function = tool.get("function")
    return str(function.get("name", "")) if isinstance(function, Mapping) else ""


def _arguments(name: str, text: str) -> tuple[GoMap | None, int]:
    """The first object in ``text`` that looks like arguments, and where it ends."""
    start, depth = -1, 0
    in_string = escaped = False
    for at, letter in enumerate(text):
        if escaped:
            escaped = False
        elif letter == "\\":
            escaped = True
        elif letter == '"':
            in_string = not in_string
        elif in_string:
            continue
        elif letter == "{":
            start = at if depth == 0 else start
            depth += 1
        elif letter == "}":
            depth -= 1
            if depth == 0 and start != -1:
                data = _object(text[start : at + 1])
                if data is None:
                    start = -1
                    continue
                found, inner = _search(name, data)
                return (GoMap(inner or {}), at) if found else (GoMap(data), at)
            depth = max(depth, 0)
    return None, 0


def _object(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _search(name: str, data: Mapping[str, object]) -> tuple[bool, dict[str, object] | None]:
    if "name" in data:
        for key in ("arguments", "parameters"):
            inner = _mapping(data.get(key))
            if inner is not None:
                return True, inner
        return True, None
    inner = _mapping(data.get(name))
    if inner is not None:
        return True, inner
    for value in data.values():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, dict):
                found, inner = _search(name, child)
                if found:
                    return True, inner
    return False, None


def _mapping(value: object) -> dict[str, object] | None:
    if isinstance(value, dict):
        return value
    return _object(value) if isinstance(value, str) else None
