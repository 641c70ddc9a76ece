from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.batch.record import Result
from proxy.batch.recovery import NotOurs, Recovery, Spans


def record(line: int, error: str | None = None) -> bytes:
    return Result(line, f"{line:016x}", {}, {"text": "x" * (line % 7)}, error, None, 1, 0.0).encode()


def recovered(data: bytes) -> Recovery:
    found = Recovery()
    found.feed(data.splitlines(keepends=True))
    found.check()
    return found


@given(st.lists(st.integers(1, 50), unique=True, max_size=10), st.data())
def test_a_file_that_was_torn_anywhere_keeps_its_whole_results_and_nothing_else(
    lines: list[int], data: st.DataObject
) -> None:
    records = [record(line) for line in lines]
    whole = b"".join(records)
    cut = data.draw(st.integers(0, len(whole)))
    kept = 0
    while kept < len(records) and len(b"".join(records[: kept + 1])) <= cut:
        kept += 1

    found = recovered(whole[:cut])

    assert found.keep_bytes == len(b"".join(records[:kept]))
    assert found.cut_bytes == cut - found.keep_bytes
    assert found.done.count == kept
    assert all(found.done.knows(line) for line in lines[:kept])
    assert found.in_order is (lines[:kept] == sorted(lines[:kept]))


@given(st.binary(max_size=60))
def test_any_rubbish_behind_the_results_is_cut_off(rubbish: bytes) -> None:
    if b'"line"' in rubbish:
        return
    found = Recovery()
    found.feed([record(1), *rubbish.splitlines(keepends=True)])
    assert found.keep_bytes == len(record(1))


@pytest.mark.parametrize("torn", [b"{", b'{"line":1', b'{"line":12,"digest":"00', b"\x00" * 100, record(1)[:-1]])
def test_a_first_result_that_was_torn_is_cut_off(torn: bytes) -> None:
    assert recovered(torn).cut_bytes == len(torn)


@pytest.mark.parametrize("text", [b"shopping list\n", b'{"prompt": "mine"}\n', b'{"line": "mine"}', b"{}\n{}\n"])
def test_somebodys_file_is_not_taken_for_a_torn_one(text: bytes) -> None:
    with pytest.raises(NotOurs):
        recovered(text)


def test_something_else_among_the_results_is_not_touched() -> None:
    with pytest.raises(NotOurs, match="line 2 is no result"):
        recovered(record(1) + b"mine\n" + record(2))


def test_two_results_of_one_line_are_not_gone_on_with() -> None:
    with pytest.raises(NotOurs, match="line 2 is a second result of line 1"):
        recovered(record(1) + record(1))


def test_spans_come_in_the_order_of_the_lines() -> None:
    spans = Spans()
    for line, start in ((7, 0), (2, 10), (5000, 20)):
        spans.add(line, start, 10)
    assert list(spans.in_order()) == [(10, 10), (0, 10), (20, 10)]
