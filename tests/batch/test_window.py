from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.batch.window import Window


@given(st.integers(1, 5), st.randoms(use_true_random=False), st.integers(0, 40))
def test_results_come_in_order_each_once_and_few_are_held(limit: int, random: object, total: int) -> None:
    window: Window[int] = Window(limit)
    under_way: list[int] = []
    out: list[int] = []
    begun = 0
    while len(out) < total:
        if begun < total and not window.is_full:
            assert window.begin() == begun
            under_way.append(begun)
            begun += 1
        elif under_way:
            place = under_way.pop(random.randrange(len(under_way)))  # type: ignore[attr-defined]
            out += window.end(place, place)
        assert len(window._held) < limit
    assert out == list(range(total))
