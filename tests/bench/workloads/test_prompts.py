from __future__ import annotations

from itertools import combinations

import pytest

from proxy.bench.workloads.prompts import Prompts, long_system, read_prompts


def test_no_two_prompts_begin_alike_and_another_seed_gives_others() -> None:
    first, second = Prompts(1), Prompts(2)
    texts = [prompts() for prompts in (first, second) for _ in range(50)]
    assert all(one[:11] != other[:11] for one, other in combinations(texts, 2))


def test_the_same_seed_gives_the_same_prompts() -> None:
    first, second = Prompts(1), Prompts(1)
    assert [first() for _ in range(20)] == [second() for _ in range(20)]
    assert long_system(1) == long_system(1) != long_system(2)


def test_the_users_prompts_come_in_turn_and_are_made_unique() -> None:
    prompts = Prompts(1, ["why?", "how?"])
    texts = [prompts() for _ in range(4)]
    assert [text.rpartition(": ")[2] for text in texts] == ["why?", "how?", "why?", "how?"]
    assert len(set(texts)) == 4


def test_the_long_system_prompt_takes_more_than_a_thousand_words() -> None:
    assert len(long_system(1).split()) > 1000


def test_a_file_has_a_prompt_a_line() -> None:
    assert read_prompts("why?\n\n  how? \r\n") == ["why?", "how?"]
    with pytest.raises(ValueError, match="has no prompt"):
        read_prompts(" \n\n")
