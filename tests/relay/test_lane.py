from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.relay.lane import FastLane
from proxy.wire.http1 import ChunkFollower, chunk, whole_chunk


class Lane:
    """A lane and all that it is told."""

    def __init__(self, most: int = 4) -> None:
        self.written = b""
        self.times: list[float] = []
        self.chunks: list[bytes] = []
        self.settled = 0
        self.take = FastLane(self.write, lambda: 7.0, self.times, self.chunks, self.settle, most).take

    def write(self, data: bytes) -> None:
        self.written += data

    def settle(self) -> None:
        self.settled += 1
        self.times.clear()
        self.chunks.clear()


def test_a_whole_chunk_goes_out_as_it_came_and_is_told() -> None:
    lane = Lane()

    assert lane.take(b"5\r\nhello\r\n")

    assert lane.written == b"5\r\nhello\r\n"
    assert (lane.times, lane.chunks) == ([7.0], [b"5\r\nhello\r\n"])


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

    assert (lane.written, lane.times, lane.chunks) == (b"", [], [])


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

    usual = b""
    for start, end in itertools.pairwise(cuts):
        piece = stream[start:end]
        if not (follower.is_between_chunks and lane.take(piece)):
            raw, payload = follower.feed(piece)
            lane.written += raw
            usual += payload

    assert lane.written == stream
    assert len(usual) + sum(len(whole_chunk(taken)) for taken in lane.chunks) == sum(map(len, payloads))
