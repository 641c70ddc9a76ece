"""Telling thinking from content in what a model writes (Ollama v0.24.0 ``thinking/parser.go``)."""

from __future__ import annotations


class ThinkingParser:
    """Takes raw text and gives (thinking, content); holds back what is not yet certain."""

    def __init__(self, opening: str, closing: str) -> None:
        self._opening = opening
        self._closing = closing
        self._state = "looking"
        self._held = ""

    def add(self, text: str) -> tuple[str, str]:
        """The thinking and the content that may go out now."""
        self._held += text
        thinking = content = ""
        again = True
        while again:
            more_thinking, more_content, again = self._eat()
            thinking += more_thinking
            content += more_content
        return thinking, content

    def _eat(self) -> tuple[str, str, bool]:
        if self._state == "looking":
            return self._look()
        if self._state == "started":
            self._held = self._held.lstrip()
            if self._held:
                self._state = "thinking"
            return "", "", bool(self._held)
        if self._state == "thinking":
            return self._think()
        held, self._held = self._held, ""
        if self._state == "ended":
            held = held.lstrip()
            if held:
                self._state = "done"
        return "", held, False

    def _look(self) -> tuple[str, str, bool]:
        trimmed = self._held.lstrip()
        if trimmed.startswith(self._opening):
            self._held = trimmed[len(self._opening) :].lstrip()
            self._state = "thinking" if self._held else "started"
            return "", "", True
        if self._opening.startswith(trimmed):
            return "", "", False
        self._state = "done"
        held, self._held = self._held, ""
        return "", held, False

    def _think(self) -> tuple[str, str, bool]:
        before, found, after = self._held.partition(self._closing)
        if found:
            after = after.lstrip()
            self._held = ""
            self._state = "done" if after else "ended"
            return before, after, False
        longest = min(len(self._closing), len(before))
        overlap = next((size for size in range(longest, 0, -1) if before.endswith(self._closing[:size])), 0)
        self._held = before[len(before) - overlap :]
        return before[: len(before) - overlap], "", False
