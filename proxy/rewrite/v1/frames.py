"""What matters of a native frame, for those who write it in OpenAI's words.

Source: Ollama 0.24.0, ``api/types.go`` (``ChatResponse``, ``GenerateResponse``), ``openai/openai.go`` (``ToUsage``).
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.wire.gowrite import rewritten

if TYPE_CHECKING:
    from proxy.wire.gojson import JsonObject

FINGERPRINT: Final = '"system_fingerprint":"fp_ollama"'
EMPTY: Final = '""'
"""The JSON text of an empty string."""

_USAGE: Final = '"usage":{{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{}}}'
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)")
# time.Time{}.Unix()
_NO_TIME: Final = -62_135_596_800


class Frame(NamedTuple):
    """What matters of a native frame, or of a whole native reply: texts of JSON, "" for what is not there.

    Attributes:
        created: Unix seconds.
        model: As it stands.
        role: Of the message.
        content: The answer's piece.
        thinking: The thought's.
        calls: OpenAI's list of calls.
        done: It is the last one.
        reason: Why it is.
        logprobs: As they stand.
        usage: Its tokens, for OpenAI's object.
        debug: Of a prompt that was only rendered.
    """

    created: int
    model: str
    role: str
    content: str
    thinking: str
    calls: str
    done: bool
    reason: str
    logprobs: str
    usage: str
    debug: str


def read_frame(obj: JsonObject) -> Frame:
    """What chat and generate call the same; the texts are theirs to fill in."""
    prompt, answer = (whole_number(obj.given(name)) for name in ("prompt_eval_count", "eval_count"))
    return Frame(
        created=unix(obj.raw("created_at")),
        model=rewritten(obj.raw("model")),
        role="",
        content="",
        thinking="",
        calls="",
        done=obj.given("done") is True,
        reason=unless_empty(obj.raw("done_reason")),
        logprobs=rewritten(obj.raw("logprobs")) if obj.given("logprobs") else "",
        usage=usage_of(prompt, answer),
        debug=rewritten(obj.raw("_debug_info")) if obj.given("_debug_info") else "",
    )


def usage_of(prompt: int, answer: int) -> str:
    """The member of a chunk that tells the tokens."""
    return _USAGE.format(prompt, answer, prompt + answer)


def unless_empty(raw: str) -> str:
    """A string's text as it is written again; "" for an empty one, which is left out."""
    return "" if raw in (EMPTY, "null") else rewritten(raw)


def whole_number(value: object) -> int:
    """A count of Ollama's; 0 for what is none."""
    return value if type(value) is int else 0


def unix(text: str) -> int:
    """The second of the time in a text."""
    found = _TIME.search(text)
    if found is None:
        return _NO_TIME
    try:
        moment = datetime.fromisoformat(found[1] + found[2].replace("Z", "+00:00"))
    except ValueError:
        return _NO_TIME
    return int(moment.timestamp()) if moment.year > 1 else _NO_TIME
