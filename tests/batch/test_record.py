from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.batch.record import ByLine, Done, Read, Result, decode

DIGESTS = st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}")


def test_an_output_line_is_what_the_page_says() -> None:
    good = Result(3, "0" * 16, {"id": "a"}, {"text": "Yes.", "eval_count": 2}, None, None, 1, 0.12345)
    bad = Result(4, "0" * 16, {}, {}, "no", 400, 1, 0.0)
    assert json.loads(good.encode()) == {
        "line": 3,
        "digest": "0" * 16,
        "id": "a",
        "text": "Yes.",
        "eval_count": 2,
        "attempts": 1,
        "elapsed_s": 0.123,
    }
    assert json.loads(bad.encode()) == {
        "line": 4,
        "digest": "0" * 16,
        "error": "no",
        "status": 400,
        "attempts": 1,
        "elapsed_s": 0.0,
    }
    assert good.encode().endswith(b"}\n")


@given(st.integers(1, 2**40), DIGESTS, st.text(), st.none() | st.text())
def test_an_output_line_is_read_back(line: int, known_by: str, text: str, error: str | None) -> None:
    raw = Result(line, known_by, {}, {"text": text}, error, None, 1, 0.0).encode()
    assert raw.count(b"\n") == 1
    assert decode(raw) == Read(line, known_by, error is not None)
    assert decode(raw[:-2]) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\x00",
        b"[]",
        b"{}",
        b'{"line": 0, "digest": "0000000000000000"}',
        b'{"line": "1", "digest": "0000000000000000"}',
        b'{"line": 1, "digest": "00"}',
        b'{"line": 1, "digest": "zzzzzzzzzzzzzzzz"}',
    ],
)
def test_what_is_no_result_is_not_taken_for_one(raw: bytes) -> None:
    assert decode(raw) is None


@given(st.dictionaries(st.integers(1, 10_000), DIGESTS, max_size=30))
def test_what_is_done_is_known_by_line_and_digest(results: dict[int, str]) -> None:
    done = Done()
    for line, known_by in results.items():
        assert done.add(Read(line, known_by, line % 2 == 0))
        assert not done.add(Read(line, known_by, False))
    assert (done.count, done.last) == (len(results), max(results, default=0))
    assert done.errors == sum(line % 2 == 0 for line in results)
    for line in range(1, 50):
        assert done.knows(line) is (line in results)
    for line, known_by in results.items():
        assert done.is_of(line, known_by)
        assert not done.is_of(line, f"{int(known_by, 16) ^ 2:016x}")
        assert done.has_error(line) is (line % 2 == 0)


@given(st.dictionaries(st.integers(1, 10**9), st.integers(1, 2**63), max_size=20))
def test_numbers_by_line_come_in_the_order_of_lines(values: dict[int, int]) -> None:
    numbers = ByLine()
    for line, value in values.items():
        numbers[line] = value
    assert list(numbers.lines()) == sorted(values)
    assert all(numbers[line] == value for line, value in values.items())
