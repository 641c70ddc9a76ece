"""What a real Ollama 0.24.0 sent, read by the detector of first tokens and the reader of final records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.observe.final import read_final
from proxy.observe.first_token import ANSWER, TOKEN, FirstToken
from proxy.wire.routes import classify

RECORDED = json.loads((Path(__file__).parent.parent / "data" / "exchanges.json").read_text(encoding="utf-8"))
CALLS = [case for case in RECORDED if classify(case["method"], case["path"]).is_inference]


def is_stream(case: dict[str, Any]) -> bool:
    kinds = [value for name, value in case["reply"]["headers"] if name == "Content-Type"]
    return bool(kinds) and kinds[0].startswith(("application/x-ndjson", "text/event-stream"))


def pieces(case: dict[str, Any]) -> list[bytes]:
    return [text.encode() for _, text in case["reply"]["chunks"]]


STREAMS = [case for case in CALLS if is_stream(case) and case["reply"]["status"] == 200]
WHOLE = [case for case in CALLS if not is_stream(case) and case["reply"]["status"] == 200]
REFUSED = [case for case in CALLS if case["reply"]["status"] >= 400]


def name_of(case: dict[str, Any]) -> str:
    return str(case["name"])


@pytest.mark.parametrize("case", STREAMS, ids=name_of)
def test_a_recorded_stream_has_its_first_token_in_the_first_piece_with_text(case: dict[str, Any]) -> None:
    detector = FirstToken(classify(case["method"], case["path"]).family)

    found = [detector.feed(piece) for piece in pieces(case)]

    # Every text of the recording begins with a space; frames that only begin something have none.
    expected = next(at for at, piece in enumerate(pieces(case)) if b'":" ' in piece)
    assert found[expected] == TOKEN | ANSWER
    assert sum(found) == TOKEN | ANSWER


@pytest.mark.parametrize("case", STREAMS, ids=name_of)
def test_a_recorded_stream_is_complete_and_only_as_a_whole(case: dict[str, Any]) -> None:
    family = classify(case["method"], case["path"]).family
    body = b"".join(pieces(case))

    record = read_final(body, family)

    assert record is not None
    assert record.complete
    assert not record.failed
    assert read_final(body[:-20], family) is None
    assert read_final(b"".join(pieces(case)[:-1]), family) is None
    if case["path"].startswith("/api/"):
        end = json.loads(body.splitlines()[-1])
        assert record.done_reason == end["done_reason"]
        assert record.load_duration_s == end["load_duration"] / 1e9
        assert (record.prompt_eval_count, record.eval_count) == (end["prompt_eval_count"], end["eval_count"])


@pytest.mark.parametrize("case", WHOLE, ids=name_of)
def test_a_recorded_whole_reply_is_read(case: dict[str, Any]) -> None:
    family = classify(case["method"], case["path"]).family
    body = b"".join(pieces(case))

    record = read_final(body, family, stream=False)

    assert record is not None
    assert record.complete
    assert not record.failed
    reply = json.loads(body)
    usage = reply.get("usage", {})
    expected = reply.get("prompt_eval_count", usage.get("prompt_tokens", usage.get("input_tokens")))
    assert record.prompt_eval_count == expected


@pytest.mark.parametrize("case", REFUSED, ids=name_of)
def test_a_recorded_refusal_has_no_token_and_is_a_failure(case: dict[str, Any]) -> None:
    family = classify(case["method"], case["path"]).family
    body = b"".join(pieces(case))

    assert FirstToken(family).feed(body) == 0
    record = read_final(body, family, stream=False)
    if body.startswith(b"{"):
        assert record is not None
        assert record.failed
        assert record.error


def test_the_recording_has_every_kind() -> None:
    assert len(STREAMS) >= 5
    assert len(WHOLE) >= 20
    assert len(REFUSED) >= 15
