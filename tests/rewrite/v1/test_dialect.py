"""Which version of Ollama speaks how."""

from __future__ import annotations

import pytest

from proxy.rewrite.v1.dialect import Dialect, dialect


@pytest.mark.parametrize(
    ("version", "role_once", "is_read"),
    [
        ("0.24.0", False, True),
        ("0.32.5", False, True),
        ("0.32.6", True, True),
        ("0.33.0-rc2", True, True),
        ("0.34.0", True, False),
        ("1.0.0", True, False),
        ("0.0.0", False, True),
    ],
)
def test_the_form_of_a_stream_goes_by_the_version(version: str, role_once: bool, is_read: bool) -> None:
    assert dialect(version) == Dialect(role_once, is_read)


@pytest.mark.parametrize("version", ["", "main", "0.24"])
def test_a_version_that_is_none_counts_as_the_first_that_was_read(version: str) -> None:
    assert dialect(version) == dialect("0.24.0")
