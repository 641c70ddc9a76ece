"""Cutting a byte stream into lines, wherever the pieces were cut."""

from __future__ import annotations


class LineSplitter:
    """Yields whole lines, each with its line feed.

    Args:
        limit_bytes: A line longer than this raises ``ValueError``. Ollama's own clients give up above 8 MB.
    """

    __slots__ = ("_limit_bytes", "_rest")

    def __init__(self, limit_bytes: int = 64 * 1024 * 1024) -> None:
        self._rest = b""
        self._limit_bytes = limit_bytes

    def feed(self, data: bytes) -> list[bytes]:
        """Lines that are complete with this piece. A last line without its line feed is kept back."""
        if not self._rest and data.endswith(b"\n") and data.count(b"\n") == 1:
            return [data]
        lines = _split(self._rest + data)
        self._rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        if len(self._rest) > self._limit_bytes:
            raise ValueError(f"a line is longer than {self._limit_bytes} bytes")
        return lines

    @property
    def rest(self) -> bytes:
        """What came after the last line feed."""
        return self._rest


def _split(data: bytes) -> list[bytes]:
    parts = data.split(b"\n")
    lines = [part + b"\n" for part in parts[:-1]]
    if parts[-1]:
        lines.append(parts[-1])
    return lines
