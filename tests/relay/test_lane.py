from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.relay.lane import fast_lane
from proxy.relay.reply import ClientReply
from proxy.wire.http1 import ChunkFollower, chunk

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Client:
    """A client's connection, as far as a lane uses one."""

    transport: asyncio.Transport | None = None
    task: asyncio.Task[None] | None = None

    def __init__(self) -> None:
        self.written = b""
        self.on_writable: Callable[[bool], None] | None = None
        self.client = ""
        self.writing_paused = False

    def write(self, data: bytes) -> None:
        self.written += data


class Lane:
    """A lane and all that it is told."""

    def __init__(self, most: int = 4) -> None:
        self.client = Client()
        self.reply = ClientReply(self.client, is_http11=True, is_head=False, close=False)
        self.reply.start(200, b"", [], has_length=False)
        self.client.written = b""
        self.times: list[float] = []
        self.kept: list[bytes] = []
        self.settled = 0
        self.take = fast_lane(
            self.reply,
            self.times,
            self.kept,
            clock=lambda: 7.0,
            settle=self.settle,
            most=most,
        )

    def settle(self) -> None:
        self.settled += 1
        self.times.clear()
        self.kept[:] = [b"".join(self.kept)]


def test_a_whole_chunk_goes_out_as_it_came_and_is_told() -> None:
    lane = Lane()

    assert lane.take(b"5\r\nhello\r\n")

    assert lane.client.written == b"5\r\nhello\r\n"
    assert (lane.times, lane.kept) == ([7.0], [b"hello"])
    assert (lane.reply.body_bytes, lane.reply.tail) == (5, b"lo")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"5",
        b"5\r\nhel",
        b"5\r\nhello",
        b"5\r\nhello\r\n5\r\nworld\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"0\r\n\r\n",
        b"05\r\nhello\r\n",
        b"5;name=value\r\nhello\r\n",
        b"4\r\nhello\r\n",
        b"6\r\nhello\r\n",
        b"5\r\nhello\n\n",
        b"x\r\nhello\r\n",
        b"\r\n5\r\nhello\r\n",
        chunk(b"x" * 5000),
    ],
)
def test_anything_else_is_left_to_the_usual_way(data: bytes) -> None:
    lane = Lane()

    assert not lane.take(data)

    assert lane.client.written == b""
    assert (lane.times, lane.kept, lane.reply.body_bytes) == ([], [], 0)


def test_what_is_noted_does_not_pile_up() -> None:
    lane = Lane(most=4)

    for _ in range(11):
        assert lane.take(b"5\r\nhello\r\n")

    assert lane.settled == 2
    assert len(lane.times) == 3


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=20), st.data())
def test_lane_and_usual_way_together_pass_on_every_byte_once(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(chunk, payloads))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream)), max_size=12)) | {0, len(stream)})
    lane, follower = Lane(most=1000), ChunkFollower()

    for start, end in itertools.pairwise(cuts):
        piece = stream[start:end]
        if not (follower.is_between_chunks and lane.take(piece)):
            lane.reply.write_framed(*follower.feed(piece))

    assert lane.client.written == stream
    assert lane.reply.body_bytes == sum(map(len, payloads))
