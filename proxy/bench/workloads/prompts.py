"""The texts of the calls. Pure.

No two prompts of a run begin alike, so that neither a prompt cache, nor a cache of answers, nor the sharing of equal
requests makes one call cheaper than the others. The seed decides about all of them.
"""

from __future__ import annotations

import random
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_THINGS: Final = ("a bridge", "the tide", "a violin", "bread dough", "a compass", "frost", "a sail", "an echo", "rust")
_QUESTIONS: Final = (
    "Explain in plain words how {} works.",
    "What would a child ask first about {}?",
    "Name two things that people get wrong about {}.",
    "Write one sentence that describes {} without naming it.",
)
_RULES: Final = (
    "Answer in the language of the question and keep to the point.",
    "Say so where something is not known, and never invent a source.",
    "Prefer short sentences; a list only where there are several things to list.",
    "Do not repeat the question, and do not apologise.",
    "Give numbers with their units, and say how sure they are.",
    "Where a step can destroy something, warn before it and not after it.",
)
# Some 1,500 tokens: a system prompt as assistants with tools and house rules have it.
_SYSTEM_RULES: Final = 96


class Prompts:
    """Gives a text for each call.

    Args:
        seed: The same one gives the same texts in the same order.
        given: Texts of the user's, taken in turn; empty: questions of ours.
    """

    def __init__(self, seed: int, given: Sequence[str] = ()) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - texts, not secrets
        self._given = given
        self._numbers = count(1)
        self._run = f"{self._chance.randrange(16**6):06x}"

    def __call__(self) -> str:
        number = next(self._numbers)
        if self._given:
            text = self._given[(number - 1) % len(self._given)]
        else:
            text = self._chance.choice(_QUESTIONS).format(self._chance.choice(_THINGS))
        # In front, because what is alike at the beginning of two prompts is read once.
        return f"{number:04d}-{self._run}: {text}"


def long_system(seed: int) -> str:
    """A system prompt that takes a while to read, the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - as above
    rules = "\n".join(f"{number}. {chance.choice(_RULES)}" for number in range(1, _SYSTEM_RULES + 1))
    return f"You are the assistant of house {chance.randrange(16**6):06x}. These are its rules.\n{rules}"


def read_prompts(text: str) -> list[str]:
    """The prompts of a file: one a line, blank lines are none.

    Raises:
        ValueError: There is none.
    """
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise ValueError("has no prompt: one a line is expected")
    return found
