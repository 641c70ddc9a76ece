"""Finding the first token in a stream without parsing it.

What must live here: which bytes mean that a frame has content, thinking or a tool call, for each family. What it must
not know: time. A stream that is not mapped is searched for the first token until it is there, and never again after.

Why a search is enough: Ollama writes compact JSON (Go's ``encoding/json``), and inside a JSON string every quote is
written ``\\"`` and every line feed ``\\n``. So ``"content":"`` with bare quotes is always a key and its value, and a
line that begins with ``event:`` is always an event, whatever the model or the caller wrote. Parts of a caller's own
JSON appear bare only inside the arguments of a tool call, which is a token itself. Streams of ``/v1/responses`` echo
more of the request (``response.created`` holds its tools), so there only the lines with the event's name count.

Source of the shapes: Ollama v0.24.0: api/types.go, openai/openai.go, openai/responses.go, anthropic/anthropic.go.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from proxy.wire.routes import Family

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN = 1
"""The first token of any kind is in this piece."""
ANSWER = 2
"""The first token of the answer, which thinking is not part of, is in this piece."""

_KEPT = 63
"""What may be the first half of a match is kept for the next piece; the longest match has 49 bytes."""

# A space after the colon is allowed for: a remote model's frames may come from another JSON encoder. The quote is in
# front of the alternatives because the search is twice as fast that way.
_TOOL_CALLS = rb'tool_calls": ?\[ ?\{'
_ANY: Mapping[Family, re.Pattern[bytes]] = {
    Family.API: re.compile(
        rb'"(?:content": ?"[^"]|response": ?"[^"]|thinking": ?"[^"]|image": ?"[^"]|' + _TOOL_CALLS + rb")"
    ),
    Family.OPENAI: re.compile(rb'"(?:content": ?"[^"]|text": ?"[^"]|reasoning": ?"[^"]|' + _TOOL_CALLS + rb")"),
    Family.ANTHROPIC: re.compile(
        rb'"type": ?"(?:(?:text|thinking|input_json)_delta", ?"(?:text|thinking|partial_json)": ?"[^"]|tool_use")'
    ),
    Family.RESPONSES: re.compile(
        rb"\nevent: response\.(?:output_text\.delta|function_call_arguments\.d|reasoning_(?:summary_)?text\.delta)"
    ),
}
_ANSWER: Mapping[Family, re.Pattern[bytes]] = {
    Family.API: re.compile(rb'"(?:content": ?"[^"]|response": ?"[^"]|image": ?"[^"]|' + _TOOL_CALLS + rb")"),
    Family.OPENAI: re.compile(rb'"(?:content": ?"[^"]|text": ?"[^"]|' + _TOOL_CALLS + rb")"),
    Family.ANTHROPIC: re.compile(
        rb'"type": ?"(?:(?:text|input_json)_delta", ?"(?:text|partial_json)": ?"[^"]|tool_use")'
    ),
    Family.RESPONSES: re.compile(rb"\nevent: response\.(?:output_text\.delta|function_call_arguments\.d)"),
}
# What stands before the first byte: as if a line had ended, where an event's name has to begin one. One table of all
# three, because to look into a table for a member of an enumeration is a call of its own.
_SOUGHT: Mapping[Family, tuple[re.Pattern[bytes], re.Pattern[bytes], bytes]] = {
    family: (_ANY[family], _ANSWER[family], b"\n" if family is Family.RESPONSES else b"") for family in Family
}


class FirstToken:
    """Looks at the pieces of one reply until its first token and its first answer token were seen.

    Attributes:
        done: Both were found; ``feed`` needs no further pieces.
    """

    __slots__ = ("_answer", "_any", "_before", "_seen", "_tail", "done")

    def __init__(self, family: Family) -> None:
        any_token, answer, before = _SOUGHT[family]
        self._any = any_token.search
        self._answer = answer.search
        self._before = self._tail = before
        self._seen = False
        self.done = False

    def feed(self, payload: bytes) -> int:
        """Look at the next piece of the body, without its chunk framing, wherever it was cut.

        Returns:
            What this piece completed: 0, ``TOKEN``, ``ANSWER``, or both at once.
        """
        if self.done:
            return 0
        data = self._tail + payload if self._tail else payload
        # No pattern spans a line feed but by beginning with one.
        self._tail = self._before if payload.endswith(b"\n") else data[-_KEPT:]
        found = 0
        if not self._seen:
            if self._any(data) is None:
                return 0
            self._seen = True
            found = TOKEN
        if self._answer(data) is not None:
            self.done = True
            found |= ANSWER
        return found
