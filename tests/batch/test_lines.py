from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.batch.lines import Line, Numbered


def cut(data: bytes, sizes: list[int], most_bytes: int = 2**20) -> list[Line]:
    numbered = Numbered(most_bytes)
    found = []
    at = 0
    for size in [*sizes, len(data)]:
        found += numbered.feed(data[at : at + size])
        at += size
    return [*found, *numbered.end()]


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(0, 10)))
def test_lines_are_numbered_the_same_wherever_the_stream_is_cut(parts: list[bytes], sizes: list[int]) -> None:
    data = b"\n".join(parts)
    expected = [
        Line(number, raw) for number, raw in enumerate(data.split(b"\n"), 1) if raw.strip() and raw[:1] != b"\xef"
    ]
    assert [line for line in cut(data, sizes) if line.raw[:1] != b"\xef"] == expected


def test_empty_lines_are_counted_and_left_out() -> None:
    assert cut(b"a\n\n \r\nb", []) == [Line(1, b"a"), Line(4, b"b")]


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert cut(b"\xef\xbb\xbf1\n\xef\xbb\xbf2\n", [2]) == [Line(1, b"1"), Line(2, b"\xef\xbb\xbf2")]


def test_a_line_that_is_too_long_is_passed_over_without_keeping_it() -> None:
    numbered = Numbered(10)
    assert numbered.feed(b"a\n" + b"x" * 8) == [Line(1, b"a")]
    for _ in range(1000):
        assert numbered.feed(b"x" * 8) == []
    assert sum(map(len, numbered._pieces)) <= 30
    (long, after) = numbered.feed(b"\nb\n")
    assert (long.number, long.is_too_long) == (2, True)
    assert after == Line(3, b"b")
