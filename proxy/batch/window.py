"""Results in the order of their lines, with a bound on how many wait for an earlier one. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class Window(Generic[T]):
    """Holds back what came too early.

    Args:
        limit: Places that may be handed out beyond the oldest one without a result.
    """

    __slots__ = ("_held", "_limit", "_next_in", "_next_out")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[int, T] = {}
        self._next_in = 0
        self._next_out = 0

    def __repr__(self) -> str:
        return f"<Window {self._next_in - self._next_out} open, {len(self._held)} held>"

    @property
    def is_full(self) -> bool:
        """Whether the oldest one has to come before another may begin."""
        return self._next_in - self._next_out >= self._limit

    def begin(self) -> int:
        """The next place."""
        place = self._next_in
        self._next_in += 1
        return place

    def end(self, place: int, result: T) -> Iterator[T]:
        """Take a result; those that are now in turn, which have to be consumed."""
        self._held[place] = result
        while self._next_out in self._held:
            out = self._held.pop(self._next_out)
            self._next_out += 1
            yield out
