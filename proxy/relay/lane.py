"""The fast lane: from the socket of Ollama to that of the client in one step, for what nearly every token is.

Once a reply that is passed on as it came has shown its first token, there is nothing left to decide about a piece that
is one whole chunk. On the usual way it goes through five objects of four layers; between two tokens other programs have
had the processor, and finding all those in memory again takes longer than what they do. The lane has only what it needs
at hand. Whatever is not one whole chunk it leaves to the usual way, which is also told of everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.observe.final import TAIL_BYTES
from proxy.wire.http1 import CHUNK_SIZES

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.relay.reply import ClientReply


def fast_lane(
    reply: ClientReply,
    times: list[float],
    kept: list[bytes],
    *,
    clock: Callable[[], float],
    settle: Callable[[], None],
    most: int,
) -> Callable[[bytes], bool]:
    """Build the lane of one reply.

    Args:
        reply: Its head is out, its body is chunked; told of each piece.
        times: Gets the time of each piece.
        kept: Gets each piece, without framing.
        clock: Monotonic seconds.
        settle: Empties both lists.
        most: How long they may become.

    Returns:
        Takes what was read between two chunks; False: it is not one whole chunk, and nothing was done.
    """
    write, sizes = reply.send, CHUNK_SIZES
    note_time, note_piece = times.append, kept.append

    def take(data: bytes) -> bool:
        end = data.find(b"\r\n", 0, 6)
        size = sizes.get(data[:end]) if end > 0 else None
        if size is None or size + end + 4 != len(data) or size > TAIL_BYTES or data[-2:] != b"\r\n":
            return False
        write(data)
        payload = data[end + 2 : -2]
        reply.body_bytes += size
        reply.last_piece = payload
        note_time(clock())
        note_piece(payload)
        if len(times) >= most:
            settle()
        return True

    return take
