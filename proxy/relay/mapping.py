"""What a delivery asks of those who turn one API's reply into another's, or put one together (``proxy.rewrite``)."""

from __future__ import annotations

from typing import Protocol


class FrameMapper(Protocol):
    """Turns the replies of one API into those of another.

    Attributes:
        error: What an error line said that no frame of the other API can tell; "" while there was none.
        finish_reason: Why the answer ended, where the other API says it in its own way; "" where not.
    """

    error: str
    finish_reason: str

    def content_type(self, status: int) -> bytes:
        """Of the mapped reply; b"" for the same."""

    def map_frame(self, line: bytes) -> bytes:
        """One whole line of a stream."""

    def map_body(self, status: int, body: bytes) -> bytes:
        """One whole body that is no stream."""


class Assembler(Protocol):
    """Puts the frames of one reply together."""

    def add(self, line: bytes) -> None: ...

    def finish(self) -> tuple[int, bytes]: ...
