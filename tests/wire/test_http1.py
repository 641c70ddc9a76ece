"""Reading reply heads and following chunks, on bytes."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.http1 import (
    LAST_CHUNK,
    ChunkFollower,
    MouldedFields,
    ProtocolError,
    ReplyHead,
    chunk,
    parse_head,
    whole_chunk,
)


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


DATES = (b"Mon, 21 Sep 2026 16:40:11 GMT", b"Tue, 22 Sep 2026 00:00:00 GMT")
NO_DATES = (
    b"",
    b"x",
    b"Mon, 21 Sep 2026 16:40:11 CET",
    b"Mon, 21 Sep 2026 16:40:11 GMTx",
    b"Mon, 21 Sep 2026 16:40:11 GMT ",
    b" Mon, 21 Sep 2026 16:40:11 GMT",
    b"Mon, 21 Sep 2026 16:40:1\x00 GMT",
    b"Monday, 21-Sep-26 16:40:11 GMT",
    b"Mon Sep 21 16:40:11 2026",
)
STATUS_LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.0 200",
        b"HTTP/1.1 404 Not Found",
        b"HTTP/1.1 103 E",
        b"HTTP/1.1 101 S",
        b"HTTP/2 200",
    ]
)
LINES = st.sampled_from(
    [
        b"Content-Type: application/x-ndjson",
        b"content-type: text/event-stream; charset=utf-8",
        b"Content-Length: 5",
        b"Content-Length: 6",
        b"Content-Length: x",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip",
        b"Connection: close",
        b"Connection: Date",
        b"Vary: Origin",
        b"X-Other: a\x00b",
        b"no colon",
        b"X-Empty:",
        b"X-Date: Mon, 21 Sep 2026 16:40:11 GMT",
        b"SET-cookie: a=b",
        b"X-Long: " + b"x" * 1024,
    ]
)
DATE_LINES = st.builds(lambda value: b"Date: " + value, st.sampled_from((*DATES, *NO_DATES)) | st.binary(max_size=40))


def outcome(head: bytes) -> ReplyHead | str | None:
    """What becomes of a head, its fields in a plain tuple, or what is said about it."""
    try:
        parsed = parse_head(head)
    except ProtocolError as error:
        return str(error)
    return None if parsed is None else parsed._replace(fields=tuple(parsed.fields))


def spelt_differently(head: bytes) -> bytes:
    """The same head, in which no date is ever taken out: its field's name is spelt in another way."""
    return head.replace(b"\r\nDate: ", b"\r\nDATE: ")


class TestRememberedHeads:
    @given(STATUS_LINES, st.lists(LINES | DATE_LINES, max_size=6))
    def test_a_head_is_read_as_it_would_be_without_a_memory(self, status_line: bytes, lines: list[bytes]) -> None:
        head = b"\r\n".join([status_line, *lines])
        expected = outcome(spelt_differently(head))
        if isinstance(expected, ReplyHead):
            names = {b"DATE": b"Date"}
            expected = expected._replace(
                fields=tuple((names.get(name, name), value) for name, value in expected.fields)
            )
        assert outcome(head) == expected
        assert outcome(head) == expected

    @given(st.binary(max_size=60), st.sampled_from(DATES), st.binary(max_size=60))
    def test_whatever_stands_around_a_date_is_looked_at(self, before: bytes, date: bytes, after: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nX: " + before + b"\r\nDate: " + date + after
        expected = outcome(spelt_differently(head))
        if isinstance(expected, ReplyHead):
            assert isinstance(outcome(head), ReplyHead)
            assert [value for _, value in parsed(head).fields] == [value for _, value in expected.fields]
        else:
            assert outcome(head) == expected

    def test_heads_that_differ_in_their_date_alone_share_a_mould_and_keep_their_dates(self) -> None:
        heads = [parsed(b"HTTP/1.1 200 OK\r\nX: 1\r\nDate: %b\r\nContent-Length: 2" % date) for date in DATES]
        assert [head.fields[1] for head in heads] == [(b"Date", date) for date in DATES]
        assert mould_of(heads[0]) is mould_of(heads[1])
        others = (
            b"HTTP/1.1 200 OK\r\nX: 1\r\nDate: %b\r\nContent-Length: 3",
            b"HTTP/1.1 200 OK\r\nDate: %b\r\nX: 1\r\nContent-Length: 2",
            b"HTTP/1.1 201 OK\r\nX: 1\r\nDate: %b\r\nContent-Length: 2",
        )
        assert len({mould_of(parsed(other % DATES[0])) for other in others} | {mould_of(heads[0])}) == 4

    def test_only_the_first_of_two_dates_is_taken_out_wherever_they_stand(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nDate: %b\r\nDate: \r\nContent-Length: 2"
        assert [value for _, value in parsed(head % DATES[0]).fields] == [DATES[0], b"", b"2"]
        # The bytes around its date are those of the other one.
        head = b"HTTP/1.1 200 OK\r\nDate: \r\nDate: %b\r\nContent-Length: 2"
        assert [value for _, value in parsed(head % DATES[0]).fields] == [b"", DATES[0], b"2"]

    @pytest.mark.parametrize("date", NO_DATES)
    def test_what_is_no_date_of_the_usual_shape_is_not_taken_out(self, date: bytes) -> None:
        head = outcome(b"HTTP/1.1 200 OK\r\nDate: %b\r\nContent-Length: 2" % date)
        if isinstance(head, ReplyHead):
            fields = parsed(b"HTTP/1.1 200 OK\r\nDate: %b\r\nContent-Length: 2" % date).fields
            assert (type(fields), fields[0]) == (tuple, (b"Date", date.strip()))

    @pytest.mark.parametrize("line", [b"Set-Cookie: a=b", b"sEt-cOOkie: a=b", b"X: " + b"x" * 1024])
    def test_heads_with_a_cookie_and_long_ones_are_not_remembered(self, line: bytes) -> None:
        for lines in ((line, b"Date: " + DATES[0]), (b"Date: " + DATES[0], line)):
            head = parsed(b"\r\n".join((b"HTTP/1.1 200 OK", *lines)))
            assert type(head.fields) is tuple

    def test_an_upstream_cannot_fill_the_memory(self) -> None:
        first = parsed(b"HTTP/1.1 200 OK\r\nDate: %b\r\nX: first" % DATES[0])
        for number in range(1000):
            parsed(b"HTTP/1.1 200 OK\r\nDate: %b\r\nX: %d" % (DATES[0], number))
        again = parsed(b"HTTP/1.1 200 OK\r\nDate: %b\r\nX: first" % DATES[0])
        assert again == first
        assert mould_of(again) is not mould_of(first)

    def test_a_head_that_is_made_of_another_one_has_no_mould(self) -> None:
        head = parsed(b"HTTP/1.1 200 OK\r\nDate: %b\r\nContent-Length: 2" % DATES[0])
        made = head._replace(fields=(*head.fields, (b"Age", b"1")))
        assert not isinstance(made.fields, MouldedFields)

    @given(st.integers(min_value=-5, max_value=4), st.slices(4))
    def test_its_fields_are_a_sequence_like_any_other(self, index: int, places: slice) -> None:
        fields = parsed(b"HTTP/1.1 200 OK\r\nX: 1\r\nDate: %b\r\nX: 2\r\nY: 3" % DATES[0]).fields
        plain = ((b"X", b"1"), (b"Date", DATES[0]), (b"X", b"2"), (b"Y", b"3"))
        assert isinstance(fields, MouldedFields)
        assert (len(fields), list(fields), fields, hash(fields), repr(fields)) == (
            len(plain),
            list(plain),
            plain,
            hash(plain),
            repr(plain),
        )
        assert fields != plain[:3]
        assert fields[places] == plain[places]
        if -len(plain) <= index < len(plain):
            assert fields[index] == plain[index]
        else:
            with pytest.raises(IndexError):
                fields[index]


def parsed(head: bytes) -> ReplyHead:
    found = parse_head(head)
    assert found is not None
    return found


def mould_of(head: ReplyHead) -> object:
    assert isinstance(head.fields, MouldedFields)
    return head.fields.mould


class TestChunks:
    @given(st.binary(max_size=1100))
    def test_a_whole_chunk_is_known_at_sight(self, payload: bytes) -> None:
        expected = payload if 0 < len(payload) < 1024 else b""
        assert whole_chunk(chunk(payload)) == expected
        for more in (b"0", b"\r\n", LAST_CHUNK):
            assert whole_chunk(chunk(payload) + more) == b""
        assert whole_chunk(chunk(payload)[:-1]) == b""

    @given(st.binary(max_size=20) | st.builds(lambda size, data: size + data, st.sampled_from([b"2\r\n"]), st.binary()))
    def test_nothing_else_is_taken_for_a_whole_chunk(self, data: bytes) -> None:
        payload = whole_chunk(data)
        assert not payload or chunk(payload) == data

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
