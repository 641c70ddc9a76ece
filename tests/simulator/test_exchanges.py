"""Every exchange that was recorded with the real Ollama 0.24.0, sent to the simulated one.

Status, reason, headers in their order, the boundaries of chunks, order and types of JSON members and error texts must
be the same to the letter. What may differ stands in one table, ``MAY_DIFFER``.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from proxy.simulator import SimulatedOllama
from tests.simulator.replay import Reply, send

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent.parent / "data" / "exchanges.json").read_text())

# What may differ from the recording, and why: a pattern, and what it is replaced by on both sides.
MAY_DIFFER: tuple[tuple[str, str, str], ...] = (
    ("times of an answer", r'"(created_at|modified_at|expires_at)":"[^"]*Z"', r'"\1":"TIME"'),
    ("seconds of an answer", r'"(created|created_at|completed_at)":\d+', r'"\1":0'),
    ("durations", r'"(total|load|prompt_eval|eval)_duration":\d+', r'"\1_duration":0'),
    ("ids drawn by lot", r'"(chatcmpl-|cmpl-|resp_|msg_|req_)[0-9a-f]+"', r'"\1ID"'),
)
# Ollama walks a map here: models of the same second come in any order.
ANY_ORDER = ("/api/tags",)
DATE = "Date"


def comparable(text: str) -> str:
    for _, pattern, replacement in MAY_DIFFER:
        text = re.sub(pattern, replacement, text)
    return text


def in_order(path: str, chunks: list[str]) -> list[str]:
    if path not in ANY_ORDER or not chunks:
        return chunks
    listed = json.loads("".join(chunks))
    listed["models"].sort(key=lambda model: model["name"])
    return [json.dumps(listed)]


def content_length(name: str, value: str, *, exact: bool) -> tuple[str, str]:
    """Durations and times have more or fewer digits: where the text may differ its length may, too."""
    return (name, value if exact or name != "Content-Length" else "N")


def seen(path: str, reply: Reply) -> dict[str, Any]:
    text = "".join(reply.chunks)
    exact = comparable(text) == text
    return {
        "status": reply.status,
        "reason": reply.reason,
        "headers": [content_length(name, value, exact=exact) for name, value in reply.headers if name != DATE],
        "chunks": [comparable(chunk) for chunk in in_order(path, reply.chunks)],
        "ended": reply.ended,
    }


def recorded(case: dict[str, Any]) -> Reply:
    reply = case["reply"]
    headers = [(name, value) for name, value in reply["headers"]]
    chunks = [text for _, text in reply["chunks"]]
    return Reply(reply["status"], reply["reason"], headers, chunks, reply["ended"])


@pytest.mark.parametrize("together", [True, False], ids=["in one life of the server", "each on a fresh server"])
async def test_every_recorded_exchange_is_the_same(together: bool) -> None:
    wrong = []
    if together:
        async with SimulatedOllama("recorded", speed=math.inf) as ollama:
            for case in CASES:
                wrong += await differences(case, ollama.port)
    else:
        for case in CASES:
            if case["name"] in NEEDS_EARLIER:
                continue
            async with SimulatedOllama("recorded", speed=math.inf) as ollama:
                wrong += await differences(case, ollama.port)
    assert wrong == []


# These look at what an earlier exchange has left behind.
NEEDS_EARLIER = ("ps pinned", "delete", "blob head", "delete tiny3")


async def differences(case: dict[str, Any], port: int) -> list[str]:
    reply = await send(case, port)
    expected, actual = seen(case["path"], recorded(case)), seen(case["path"], reply)
    return [
        f"{case['name']}: {key}: recorded {expected[key]!r}, simulated {actual[key]!r}"
        for key in expected
        if expected[key] != actual[key]
    ]


def test_the_table_leaves_texts_and_counts_alone() -> None:
    kept = '{"response":" taeli","prompt_eval_count":11,"eval_count":6,"context":[691,116],"error":"x"}'
    assert comparable(kept) == kept


def test_all_recorded_prompts_are_answered_with_the_recorded_tokens() -> None:
    """The replay would not notice an empty recording."""
    texts = [chunk for case in CASES for _, chunk in case["reply"]["chunks"] if "taeli" in chunk]
    assert len(texts) > 10
