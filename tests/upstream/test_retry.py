"""The retry matrix, cell by cell."""

from __future__ import annotations

import json
import random

import pytest

from proxy.upstream.retry import Situation, changes_nothing, is_queue_full, may_repeat, queue_full_delay_s
from proxy.wire.routes import classify, table

BUSY = "server busy, please try again.  maximum pending requests exceeded"

# What changes nothing and what may, each in Ollama's own spelling or in none of its.
REPEATABLE = [
    *((method, path) for method, path in table() if classify(method, path).is_inference),
    ("POST", "/api/chat?x=/api/delete"),
    ("POST", "/api/show"),
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/api/version"),
    ("GET", "/api/tags"),
    ("HEAD", "/api/tags"),
    ("GET", "/api/ps"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("HEAD", "/api/blobs/sha256:00"),
    ("OPTIONS", "/api/chat"),
]
ONCE = [
    ("POST", "/api/pull"),
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
    ("POST", "/api/push"),
    ("POST", "/api/blobs/sha256:00"),
    ("POST", "/api/signout"),
    ("DELETE", "/api/user/keys/abc"),
    ("POST", "/api/experimental/web_search"),
    ("POST", "/nope"),
    ("PUT", "/api/show"),
    ("POST", "/api/chat/"),
    ("POST", "/API/SHOW"),
    ("BREW", "/api/tags"),
    ("get", "/api/tags"),
]


@pytest.mark.parametrize(
    ("situation", "for_repeatable", "for_once"),
    [
        (Situation.CONNECT_FAILED, True, True),
        (Situation.REUSED_NO_REPLY, True, False),
        (Situation.FRESH_NO_REPLY, False, False),
        (Situation.QUEUE_FULL, True, False),
        (Situation.BYTES_SENT, False, False),
    ],
)
def test_the_matrix(situation: Situation, for_repeatable: bool, for_once: bool) -> None:
    assert {may_repeat(*request, situation) for request in REPEATABLE} == {for_repeatable}
    assert {may_repeat(*request, situation) for request in ONCE} == {for_once}


def test_every_situation_has_its_row() -> None:
    for situation in Situation:
        assert may_repeat("GET", "/", situation) in (True, False)


def test_every_route_that_is_more_than_relayed_stands_on_one_side() -> None:
    for request in table():
        assert (request in REPEATABLE) != (request in ONCE)
        assert changes_nothing(*request) == (request in REPEATABLE)


@pytest.mark.parametrize(
    ("status", "body", "full"),
    [
        (503, {"error": BUSY}, True),
        (503, {"error": {"message": BUSY, "type": "api_error", "param": None, "code": None}}, True),
        (503, {"type": "error", "error": {"type": "overloaded_error", "message": BUSY}}, True),
        (500, {"error": BUSY}, False),
        (200, {"response": BUSY}, False),
        (503, {"error": BUSY.replace("  ", " ")}, False),
        (503, {"error": "cloud is disabled"}, False),
    ],
)
def test_a_full_queue_is_known_by_its_status_and_its_text(status: int, body: object, full: bool) -> None:
    assert is_queue_full(status, json.dumps(body).encode()) is full


def test_no_body_is_no_full_queue() -> None:
    assert not is_queue_full(503, b"")


def test_the_pauses_double_up_to_two_seconds_and_are_drawn_from_nothing_on() -> None:
    assert [queue_full_delay_s(attempt, 1.0) for attempt in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert queue_full_delay_s(10_000, 1.0) == 2.0
    assert queue_full_delay_s(3, 0.0) == 0.0
    rng = random.Random(1)
    drawn = [queue_full_delay_s(3, rng.random()) for _ in range(1000)]
    assert 0.0 <= min(drawn) < 0.05
    assert 0.75 < max(drawn) <= 0.8
