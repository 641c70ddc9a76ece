from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.lines import LineSplitter


@given(st.binary(max_size=200), st.lists(st.integers(min_value=1, max_value=50), max_size=20))
def test_lines_are_the_same_wherever_the_stream_was_cut(data: bytes, sizes: list[int]) -> None:
    splitter = LineSplitter()
    lines: list[bytes] = []
    rest = data
    for size in sizes:
        lines += splitter.feed(rest[:size])
        rest = rest[size:]
    lines += splitter.feed(rest)
    assert b"".join(lines) + splitter.rest == data
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    assert b"\n" not in splitter.rest


def test_a_line_without_end_is_an_error() -> None:
    splitter = LineSplitter(limit_bytes=10)
    with pytest.raises(ValueError, match="longer than 10 bytes"):
        splitter.feed(b"x" * 11)
