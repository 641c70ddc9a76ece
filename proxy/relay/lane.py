"""The fast lane: from the socket of Ollama to that of the client in one step, for what nearly every token is.

Once a reply that is passed on as it came has shown its first token, there is nothing left to decide about a piece that
is one whole chunk. On the usual way it goes through five objects of four layers; between two tokens other programs have
had the processor, and finding all those in memory again takes longer than what they do. The lane has only what it needs
at hand, and takes nothing apart. Whatever is not one whole chunk it leaves to the usual way, which is also told of
everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.wire.http1 import CHUNK_STARTS

if TYPE_CHECKING:
    from collections.abc import Callable

_LENGTHS = len(CHUNK_STARTS)


class FastLane:
    """The lane of one reply, whose head is out and whose body is chunked.

    Args:
        write: To the client.
        clock: Monotonic seconds.
        times: Gets the time of each piece.
        chunks: Gets each piece, with its framing.
        settle: Empties both lists.
        most: How long they may become.
    """

    __slots__ = ("_chunks", "_clock", "_most", "_settle", "_times", "_write")

    def __init__(
        self,
        write: Callable[[bytes], None],
        clock: Callable[[], float],
        times: list[float],
        chunks: list[bytes],
        settle: Callable[[], None],
        most: int,
    ) -> None:
        self._write = write
        self._clock = clock
        self._times = times
        self._chunks = chunks
        self._settle = settle
        self._most = most

    def __repr__(self) -> str:
        return f"<FastLane {len(self._times)} noted>"

    def take(self, data: bytes) -> bool:
        """Take what was read between two chunks; False: it is not one whole chunk, and nothing was done."""
        size = len(data)
        if size >= _LENGTHS or not data.startswith(CHUNK_STARTS[size]) or data[-2:] != b"\r\n":
            return False
        self._write(data)
        times = self._times
        times.append(self._clock())
        self._chunks.append(data)
        if len(times) >= self._most:
            self._settle()
        return True
