"""Cutting a user's file into numbered lines. Pure.

``wire.lines`` cuts what Ollama sends, and gives up at a line that is too long; here it is passed over, because the
lines behind it are as good as any.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MOST_BYTES: Final = 64 * 1024 * 1024
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """One line of the input.

    Attributes:
        number: From 1.
        raw: Without its line feed; the beginning only where it is too long.
    """

    number: int
    raw: bytes
    is_too_long: bool = False


class Numbered:
    """Numbers the lines of a stream that is cut anywhere; empty ones are counted and left out.

    Args:
        most_bytes: A line may have.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._pieces: list[bytes] = []
        self._size = 0
        self._number = 0

    def feed(self, data: bytes) -> list[Line]:
        """Lines that are complete with this piece."""
        *whole, rest = data.split(b"\n")
        found: list[Line] = []
        for piece in whole:
            self._hold(piece)
            found += self._cut()
        self._hold(rest)
        return found

    def end(self) -> list[Line]:
        """The last line, where it has no line feed."""
        return self._cut() if self._pieces else []

    def _hold(self, piece: bytes) -> None:
        self._size += len(piece)
        # Beyond the limit nothing is kept, so that one line cannot take all memory.
        if piece and self._size - len(piece) <= self._most_bytes:
            self._pieces.append(piece[: self._most_bytes + 1])

    def _cut(self) -> list[Line]:
        raw = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        size, self._size, self._pieces = self._size, 0, []
        self._number += 1
        if self._number == 1:
            raw = raw.removeprefix(_BYTE_ORDER_MARK)
        if size > self._most_bytes:
            return [Line(self._number, raw[:1024], is_too_long=True)]
        return [Line(self._number, raw)] if raw.strip() else []
