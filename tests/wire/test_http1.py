"""Reading reply heads and following chunks, on bytes."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.http1 import LAST_CHUNK, ChunkFollower, ProtocolError, chunk, parse_head


def feed_all(follower: ChunkFollower, pieces: list[bytes]) -> tuple[bytes, bytes]:
    raw = payload = b""
    for piece in pieces:
        more_raw, more_payload = follower.feed(piece)
        raw += more_raw
        payload += more_payload
    return raw, payload


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


class TestHead:
    def test_a_stream_of_ollama_is_chunked_and_leaves_the_connection_usable(self) -> None:
        head = parse_head(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nDate: x\r\nTransfer-Encoding: chunked"
        )
        assert head is not None
        assert (head.status, head.reason, head.chunked, head.length_bytes, head.reusable) == (
            200,
            b"OK",
            True,
            None,
            True,
        )
        assert head.is_stream
        assert head.fields[1] == (b"Date", b"x")

    def test_a_body_without_length_ends_with_the_connection(self) -> None:
        head = parse_head(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8")
        assert head is not None
        assert (head.chunked, head.length_bytes, head.reusable) == (False, None, False)
        assert head.content_type == b"text/plain"

    def test_connection_close_makes_it_unusable_afterwards(self) -> None:
        head = parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Close")
        assert head is not None
        assert not head.reusable

    @pytest.mark.parametrize("status", [204, 304])
    def test_statuses_without_body_have_none_whatever_the_head_says(self, status: int) -> None:
        head = parse_head(b"HTTP/1.1 %d X\r\nContent-Length: 12" % status)
        assert head is not None
        assert head.length_bytes == 0

    def test_an_interim_reply_is_dropped(self) -> None:
        assert parse_head(b"HTTP/1.1 103 Early Hints\r\nLink: </x>") is None

    def test_an_empty_reason_and_an_empty_value_are_fine(self) -> None:
        head = parse_head(b"HTTP/1.1 200 \r\nX-Empty:\r\nContent-Length: 0")
        assert head is not None
        assert head.fields[0] == (b"X-Empty", b"")

    @pytest.mark.parametrize(
        "head",
        [
            b"",
            b"HTTP/2.0 200 OK",
            b"HTTP/1.1 99 OK",
            b"HTTP/1.1 2000 OK",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3",
            b"HTTP/1.1 200 OK\r\nContent-Length: +2",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0x2",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
            b"HTTP/1.1 200 OK\r\nName : value",
            b"HTTP/1.1 200 OK\r\n folded: value",
            b"HTTP/1.1 200 OK\r\nName: a\x00b",
            b"HTTP/1.1 200 OK\r\nName: a\nb",
            b"HTTP/1.1 200 OK\r\nno colon",
        ],
    )
    def test_what_has_two_readings_is_refused(self, head: bytes) -> None:
        with pytest.raises(ProtocolError):
            parse_head(head)

    @given(st.binary(max_size=200))
    def test_arbitrary_bytes_are_a_head_or_a_protocol_error(self, head: bytes) -> None:
        with contextlib.suppress(ProtocolError):
            parse_head(b"HTTP/1.1 200 OK\r\n" + head)


class TestChunks:
    @given(
        st.lists(st.binary(min_size=1, max_size=40), max_size=8),
        st.lists(st.integers(min_value=0, max_value=10_000), max_size=30),
        st.sampled_from([LAST_CHUNK, b"000\r\n\r\n", b"0;ext=1\r\nTrailer: x\r\n\r\n"]),
    )
    def test_wherever_it_is_cut_payload_and_framing_come_through(
        self, payloads: list[bytes], places: list[int], end: bytes
    ) -> None:
        body = b"".join(map(chunk, payloads))
        follower = ChunkFollower()
        raw, payload = feed_all(follower, cut(body + end, places))
        assert payload == b"".join(payloads)
        assert raw == body
        assert follower.done
        assert follower.surplus == b""

    @given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4))
    def test_nothing_of_a_payload_is_held_back(self, payloads: list[bytes]) -> None:
        body = b"".join(map(chunk, payloads))
        for end in range(len(body)):
            follower = ChunkFollower()
            _, payload = follower.feed(body[:end])
            # A size line cut in two is the only thing that may be missing, and no byte of a payload is in it.
            size_lines = [b"%x\r\n" % len(item) for item in payloads]
            expected, at = b"", 0
            for size_line, item in zip(size_lines, payloads, strict=True):
                at += len(size_line)
                expected += body[at:end][: len(item)] if end > at else b""
                at += len(item) + 2
            assert payload == expected

    def test_what_an_open_chunk_still_owes_is_known(self) -> None:
        follower = ChunkFollower()
        follower.feed(b"5\r\nab")
        assert (follower.owed_bytes, follower.owes_line_end) == (3, False)
        follower.feed(b"cde")
        assert (follower.owed_bytes, follower.owes_line_end) == (0, True)
        follower.feed(b"\r\n")
        assert (follower.owed_bytes, follower.owes_line_end) == (0, False)

    def test_bytes_after_the_end_are_told(self) -> None:
        follower = ChunkFollower()
        follower.feed(b"1\r\na\r\n0\r\n\r\nHTTP/1.1 200")
        assert follower.done
        assert follower.surplus == b"HTTP/1.1 200"

    def test_zeros_and_line_ends_inside_a_payload_are_no_end(self) -> None:
        payload = b'{"response":"0\r\n\r\n"}\n'
        follower = ChunkFollower()
        raw, got = follower.feed(chunk(payload))
        assert got == payload
        assert raw == chunk(payload)
        assert not follower.done

    @pytest.mark.parametrize(
        "body",
        [
            b"x\r\n",
            b"-1\r\na\r\n",
            b"0x1\r\na\r\n",
            b"1_0\r\n",
            b"\r\n",
            b" 1\r\na\r\n",
            b"1\r\nab\r\n",
            b"1" * 300,
            b"f" * 16 + b"\r\n",
        ],
    )
    def test_broken_framing_is_an_error(self, body: bytes) -> None:
        with pytest.raises(ProtocolError):
            ChunkFollower().feed(body + b"      ")

    def test_an_endless_trailer_is_an_error(self) -> None:
        follower = ChunkFollower()
        follower.feed(b"0\r\n")
        with pytest.raises(ProtocolError):
            follower.feed(b"x" * 10_000)


@pytest.mark.parametrize(
    ("status", "kind", "is_stream"),
    [
        (200, "application/x-ndjson", True),
        (200, "text/event-stream; charset=utf-8", True),
        (200, "application/json", False),
        (500, "application/x-ndjson", False),
    ],
)
def test_the_length_of_a_stream_is_kept_from_the_client(status: int, kind: str, is_stream: bool) -> None:
    for framing in ("Content-Length: 5", "Transfer-Encoding: chunked"):
        head = parse_head(f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{framing}".encode())
        assert head is not None
        assert head.is_stream is is_stream
        assert head.keeps_length is (head.length_bytes is not None and not is_stream)
