from __future__ import annotations

import tracemalloc

import orjson

from proxy.observe.recent import LIMIT, Recent


def test_the_newest_is_first_and_the_oldest_goes() -> None:
    recent = Recent(limit=3)

    for n in range(5):
        recent.add({"n": n}, 1_800_000_000.25)

    assert [row["n"] for row in recent.rows()] == [4, 3, 2]
    assert [row["n"] for row in recent.rows(2)] == [4, 3]
    assert recent.rows(0) == []
    assert recent.rows()[0]["finished_at"] == "2027-01-15T08:00:00.250+00:00"


def test_a_thousand_are_kept() -> None:
    recent = Recent()

    for n in range(LIMIT + 10):
        recent.add({"n": n}, 1_800_000_000.25)

    assert len(recent) == LIMIT == 1000
    assert len(orjson.loads(recent.page())["requests"]) == 1000


def test_an_empty_ring_is_a_page_too() -> None:
    assert Recent().page() == b'{"requests":[]}'


def test_a_row_takes_about_as_much_memory_as_it_is_long() -> None:
    # orjson gives back the 8 KiB that it wrote into, however little is in them.
    row = {f"name{n}": "a value" for n in range(30)}
    recent = Recent(limit=100)
    tracemalloc.start()
    try:
        for _ in range(100):
            recent.add(row, 1_800_000_000.25)
        per_row = tracemalloc.get_traced_memory()[0] / 100
    finally:
        tracemalloc.stop()

    assert per_row < 2 * len(orjson.dumps(row))
