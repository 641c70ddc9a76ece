from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.urls import without_user


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://host:1/path", "http://host:1/path"),
        ("nginx", "nginx"),
        ("", ""),
        ("http://user:secret@host:1", "http://...@host:1"),
        ("http://secret@host", "http://...@host"),
        ("http://user:a/b@c@host", "http://...@host"),
        ("//user:secret@host", "//...@host"),
    ],
)
def test_user_and_password_are_left_out(text: str, shown: str) -> None:
    assert without_user(text) == shown


@given(st.text(), st.text())
def test_nothing_of_what_stands_before_the_host_is_shown(user: str, password: str) -> None:
    assert without_user(f"http://{user}:{password}@host:1") == "http://...@host:1"
