"""What every driver of a Python client does: the same calls to two servers, and what came of them as JSON.

A driver is a program of the clients' own environment. It reads ``{"direct": URL, "proxied": URL, "control": URL}`` from
standard input and writes ``{"direct": {CALL: OUTCOME}, "proxied": {CALL: OUTCOME}}``. An outcome is ``{"ok": value}``
or ``{"raised": class, "says": text}``.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

Calls = dict[str, Callable[[], Any]]

CHAT_MODEL = "talker"
EMBED_MODEL = "embedder"
MISSING_MODEL = "ghost"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me <something>."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TOKENS = 6
#: More than any test waits for.
ENDLESS_TOKENS = 100_000
_NOTICE_S = 10.0

# What differs between any two calls, in whatever client's words.
_OWN = re.compile(r"created(_at)?|modified_at|expires_at|\w+_durations?|id|.*_id|_?response_ms|_hidden_params|time.*")

_DRAWN = re.compile(r"\breq_[0-9a-f]{24}\b")


def plain(value: Any) -> Any:
    """Anything that a client returns as JSON, without what differs between any two calls."""
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    elif hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items() if not _OWN.fullmatch(str(key))}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def disconnects(control: str) -> int:
    """How many clients left the server early."""
    with urllib.request.urlopen(f"{control}/_sim/state") as answer:  # noqa: S310 - our own, on loopback
        return int(json.load(answer)["disconnects"])


def noticed(control: str, before: int) -> dict[str, bool]:
    """Whether the server notices that a client left, after ``before`` others."""
    deadline = time.monotonic() + _NOTICE_S
    while disconnects(control) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    return {"the server noticed": disconnects(control) > before}


def cancelled(control: str, stream: Iterator[Any], close: Callable[[], Any]) -> dict[str, bool]:
    """Take one piece of an endless stream and leave; whether the server noticed.

    Args:
        stream: The client's.
        close: The client's way of leaving early.
    """
    before = disconnects(control)
    next(iter(stream))
    close()
    return noticed(control, before)


def main(calls_to: Callable[[str, str], Calls]) -> None:
    """Run a driver.

    Args:
        calls_to: Makes the calls of one client: from a server's base URL, and that of the control port.
    """
    given = json.load(sys.stdin)
    # Some libraries print.
    out, sys.stdout = sys.stdout, sys.stderr
    outcomes: dict[str, dict[str, Any]] = {}
    for side in ("direct", "proxied"):
        url = given[side]
        calls = calls_to(url, given["control"])
        outcomes[side] = {name: _outcome(call, url) for name, call in calls.items()}
    out.write(json.dumps(outcomes))


def _outcome(call: Callable[[], Any], url: str) -> dict[str, Any]:
    try:
        return {"ok": plain(call())}
    except Exception as error:  # what a client raises is what is looked at
        says = str(error).replace(url, "SERVER").replace(url.removeprefix("http://"), "SERVER")
        says = _DRAWN.sub("", says)
        return {"raised": type(error).__name__, "says": says}
