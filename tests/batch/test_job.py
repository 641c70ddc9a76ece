from __future__ import annotations

from typing import Any

import pytest

from proxy.batch import Job


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "127.0.0.1:11435"}, "url: must be http://HOST"),
        ({"url": "http://"}, "url: must be"),
        ({"url": "http://a:99999"}, "url: must be"),
        ({"url": "http://a/?x=1"}, "url: must be"),
        ({"url": "http://a b"}, "url: must be"),
        ({"url": "http://user:pw@a"}, "url: must have no user and password"),
        ({"concurrency": 0}, "concurrency: must be 1 to 1024"),
        ({"priority": "low"}, "priority: must be batch, normal, interactive"),
        ({"retries": -1}, "retries: must be 0 or more"),
        ({"timeout_s": float("nan")}, "timeout_s: must be 0 or more"),
        ({"key": "a\nb"}, "key: must be visible"),
        ({"headers": (("a b", "c"),)}, "headers: 'a b' is no header"),
        ({"headers": (("a", "c\r\nd: e"),)}, "headers: 'a' is no header"),
        ({"headers": (("Content-Length", "1"),)}, "headers: Content-Length is set by each request"),
    ],
)
def test_what_cannot_be_used_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.split(":")[0]) as caught:
        Job(**given)
    assert said in str(caught.value)


def test_a_key_is_shown_and_never_printed() -> None:
    job = Job(key="pl_secret", headers=(("X-Team", "a"),))
    assert job.fields == [("X-Priority", "batch"), ("X-API-Key", "pl_secret"), ("X-Team", "a")]
    assert "secret" not in repr(job)
