"""A decision that is kept: it holds for nobody else, not past its key, and not past a change of keys."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.edge.guard import Guard
from proxy.edge.keys import hash_key, new_key
from proxy.errors import Unauthorized
from proxy.settings import Settings

NOW = 1_800_000_000.0
HERE = {"peer": "127.0.0.1", "local": "127.0.0.1"}
KEY = new_key(b"k" * 32)


def settings(*keys: dict[str, Any]) -> Settings:
    return Settings.model_validate({"upstream": {"url": "http://127.0.0.1:1"}, "keys": list(keys)})


def guard_of(given: Settings) -> Guard:
    return Guard(given, own_names=(), authority=b"127.0.0.1:11434", secret=b"s" * 16)


def listed(**more: Any) -> dict[str, Any]:
    return {"name": "laptop", "hash": hash_key(KEY), **more}


def fields(key: str = "") -> list[tuple[bytes, bytes]]:
    shown = [(b"Authorization", f"Bearer {key}".encode())] if key else []
    return [(b"Host", b"127.0.0.1"), *shown]


def admit(guard: Guard, key: str = "", **more: Any) -> Any:
    return guard.admit("POST", "/api/chat", fields(key), now_unix=NOW, **{**HERE, **more})


@pytest.mark.parametrize("key", ["", KEY])
def test_a_kept_decision_holds_again(key: str) -> None:
    guard = guard_of(settings(listed()))
    admitted = admit(guard, key)
    grant = guard.grant(admitted, **HERE)
    assert guard.recall(grant, **HERE, now_unix=NOW) is admitted


@pytest.mark.parametrize(
    "elsewhere",
    [{"peer": "127.0.0.2"}, {"peer": "10.0.0.1"}, {"peer": ""}, {"local": "10.0.0.1"}, {"local": ""}],
)
def test_it_holds_for_no_other_connection(elsewhere: dict[str, str]) -> None:
    guard = guard_of(settings())
    grant = guard.grant(admit(guard), **HERE)
    assert guard.recall(grant, **{**HERE, **elsewhere}, now_unix=NOW) is None


def test_it_does_not_outlive_its_key() -> None:
    guard = guard_of(settings(listed(expires="2027-01-15T08:00:10Z")))
    grant = guard.grant(admit(guard, KEY), **HERE)
    assert guard.recall(grant, **HERE, now_unix=NOW + 9.9) is not None
    assert guard.recall(grant, **HERE, now_unix=NOW + 10) is None


@pytest.mark.parametrize("key", ["", KEY])
def test_it_does_not_outlive_a_change_of_keys(key: str) -> None:
    guard = guard_of(settings(listed()))
    grant = guard.grant(admit(guard, key), **HERE)
    guard.replace_keys(settings())
    assert guard.recall(grant, **HERE, now_unix=NOW) is None


def test_a_key_that_was_revoked_is_refused_again() -> None:
    guard = guard_of(settings(listed()))
    guard.grant(admit(guard, KEY), **HERE)
    guard.replace_keys(settings({"name": "other", "hash": hash_key(new_key(b"o" * 32))}))
    with pytest.raises(Unauthorized):
        admit(guard, KEY)


def test_nothing_is_kept_of_a_browsers_question() -> None:
    guard = guard_of(settings())
    asks = [*fields(), (b"Origin", b"http://localhost:3000"), (b"Access-Control-Request-Method", b"POST")]
    admitted = guard.admit("OPTIONS", "/api/chat", asks, now_unix=NOW, **HERE)
    assert admitted.answer is not None
    assert guard.grant(admitted, **HERE) is None


def test_without_a_kept_decision_there_is_none() -> None:
    assert guard_of(settings()).recall(None, **HERE, now_unix=NOW) is None
