"""Remembered heads: what is served by one is what the parser would have read, or it goes to the parser."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from hypothesis import assume, example, given
from hypothesis import strategies as st

from proxy.relay.head import RequestHead, read_head
from proxy.server.heads import Heads, Known, measure, repeatable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp.http_parser import RawRequestMessage

PLAIN = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nAccept: */*\r\n\r\n{}"
# What a body may hold to look like the end of a request, or the beginning of one.
LIKE_A_HEAD = b"\r\n\r\nGET / HTTP/1.1\r\nContent-Length: 3\r\n\r\n"


class Parsed(NamedTuple):
    message: RawRequestMessage
    body: bytes
    is_whole: bool


def parsed(data: bytes) -> list[Parsed] | None:
    """What aiohttp's parser makes of it; ``None`` where it refuses it."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**20, auto_decompress=False)
        messages, _, _ = parser.feed_data(data)
        return [Parsed(message, body.read_nowait(), body.is_eof()) for message, body in messages]
    except HttpProcessingError:
        return None
    finally:
        loop.close()


def read(message: RawRequestMessage) -> RequestHead:
    version = (message.version.major, message.version.minor)
    return read_head(message.method, message.path, version, message.raw_headers, closes=message.should_close)


def said(head: RequestHead) -> dict[str, object]:
    """Everything that a head says, but for the length of the body."""
    fields = [field for field in head.fields if field[0].lower() != b"content-length"]
    rest = ("method", "path", "route", "authority", "is_http11", "closes", "upgrades", "manages")
    rest += ("request_id", "trace_id", "unfit")
    return {"fields": fields, **{name: getattr(head, name) for name in rest}}


def remembered(data: bytes) -> tuple[Heads, Known] | None:
    """The memory after the parser was given this; ``None`` where nothing may be kept of it."""
    messages, measured, heads = parsed(data), measure(data), Heads()
    if messages is None or len(messages) != 1 or measured is None:
        return None
    head = repeatable(data, measured, messages[0].message)
    if head is None:
        return None
    heads.remember(measured, head)
    known = heads.find(measured)
    assert known is not None
    return heads, known


def check(heads: Heads, known: Known, data: bytes) -> bool:
    """Whether it is served from memory; then it has to be as the parser would have it."""
    measured = measure(data)
    found = None if measured is None else heads.find(measured)
    assert found in (None, known)
    body = known.body_of(data)
    if body is None:
        return False
    assert found is known
    messages = parsed(data)
    assert messages is not None
    assert len(messages) == 1
    (only,) = messages
    assert only.is_whole
    assert only.body == body
    assert said(read(only.message)) == said(known.head)
    return True


NAMES = st.sampled_from(
    [
        b"Host",
        b"Accept",
        b"x-request-id",
        b"traceparent",
        b"Content-Type",
        b"Connection",
        b"Via",
        b"Authorization",
        b"Expect",
        b"Upgrade",
        b"Transfer-Encoding",
        b"Content-Length",
        b"Content-length2",
        b"X-Content-Length",
        b"x",
    ]
)
VALUES = st.one_of(
    st.sampled_from(
        [
            b"",
            b"x",
            b"close",
            b"keep-alive",
            b"chunked",
            b"100-continue",
            b"7",
            b" 7 ",
            b"\t",
            b"a\r\n b",
            b"upgrade",
            b"websocket",
            b"content-length: 4",
            b"00-" + b"a" * 32 + b"-1-1",
            b"\xc3\xa9",
            b"\xff",
        ]
    ),
    st.binary(max_size=8),
)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=5)
PATHS = st.sampled_from([b"/api/chat", b"/api/chat?a=1", b"/v1/messages", b"/api/tags", b"http://x/api/chat", b"*"])
NUMBERS = st.one_of(st.none(), st.sampled_from([b"+5", b"5 ", b"05", b"-1", b"5, 5", b"0x5", b"", b"\t5", b"5\xb2"]))


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[bytes], bytes, bytes]:
    """The lines of a head in front of the length, what is in front of the number, and what follows it."""
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0"]))
    lines = [b"POST %b HTTP/%b" % (draw(PATHS), version), b"Host: x"]
    lines += [name + b":" + value for name, value in draw(FIELDS)]
    name = draw(st.sampled_from([b"Content-Length:", b"content-length: ", b"CONTENT-LENGTH:\t "]))
    after = b"".join(b"\r\n" + name + b": " + value for name, value in draw(FIELDS))
    return lines, name, after + b"\r\n\r\n"


def built(request: tuple[list[bytes], bytes, bytes], number: bytes, body: bytes) -> bytes:
    lines, name, after = request
    return b"\r\n".join(lines) + b"\r\n" + name + number + after + body


BODIES = st.one_of(st.binary(max_size=30), st.just(LIKE_A_HEAD), st.just(b""))


@given(requests(), BODIES, BODIES, NUMBERS, st.integers(0, 14))
@example(([b"POST /api/chat HTTP/1.1", b"Host: x"], b"Content-Length: ", b"\r\n\r\n"), b"{}", LIKE_A_HEAD, None, 3)
def test_a_remembered_head_is_the_one_that_the_parser_reads(
    request_: tuple[list[bytes], bytes, bytes], first: bytes, second: bytes, number: bytes | None, zeros: int
) -> None:
    kept = remembered(built(request_, b"%d" % len(first), first))
    assume(kept is not None)
    assert kept is not None
    heads, known = kept
    number = number or (b"0" * zeros + b"%d" % len(second))[-15:]
    is_plain = number.isdigit() and int(number) == len(second)
    assert check(heads, known, built(request_, number, second)) is is_plain


@given(BODIES, st.data())
def test_what_is_not_the_same_byte_for_byte_goes_to_the_parser(body: bytes, data: st.DataObject) -> None:
    kept = remembered(PLAIN)
    assert kept is not None
    whole = PLAIN[:-4].replace(b": 2", b": %d" % len(body)) + b"\r\n\r\n" + body
    assert check(*kept, whole)
    at = data.draw(st.integers(0, len(whole) - 1))
    there = data.draw(st.integers(0, 2))
    piece = data.draw(st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b"0", b"9", b"\x00", b"C", b":", LIKE_A_HEAD]))
    changed = whole[:at] + piece + whole[at + there :]
    is_served = check(*kept, changed)
    head_end = whole.index(b"\r\n\r\n") + 4
    if is_served and changed != whole:
        digits = whole.index(b"Length: ") + 8
        # The number may have changed together with the body, or the body alone.
        assert changed[:digits] == whole[:digits]
        assert changed.partition(b"\r\n\r\n")[0][digits:].lstrip(b"0123456789") == whole[:head_end][digits:-4].lstrip(
            b"0123456789"
        )


@given(BODIES, st.binary(min_size=1, max_size=40))
def test_a_request_that_is_not_whole_or_not_alone_goes_to_the_parser(body: bytes, more: bytes) -> None:
    kept = remembered(PLAIN)
    assert kept is not None
    _, known = kept
    whole = PLAIN[:-4].replace(b": 2", b": %d" % len(body)) + b"\r\n\r\n" + body
    assert known.body_of(whole) == body
    assert all(known.body_of(whole[:cut]) is None for cut in range(len(whole)))
    assert known.body_of(whole + more) is None
    assert known.body_of(whole + whole) is None


@pytest.mark.parametrize(
    "data",
    [
        PLAIN.replace(b"Accept: */*", b"Content-Length: 2"),
        PLAIN.replace(b"Accept: */*", b"Transfer-Encoding: chunked"),
        PLAIN.replace(b"Accept: */*", b"Expect: 100-continue"),
        PLAIN.replace(b"Accept: */*", b"Connection: upgrade\r\nUpgrade: websocket"),
        PLAIN.replace(b"Accept: */*", b"Connection: upgrade\r\nUpgrade: h2c"),
        PLAIN.replace(b"Accept: */*", b"Accept: */*\r\n and more"),
        PLAIN.replace(b"/api/chat", b"http://x/api/chat"),
        PLAIN.replace(b"/api/chat", b"/api/pull"),
        PLAIN.replace(b"/api/chat", b"//api/chat"),
        PLAIN.replace(b"Content-Length: 2\r\n", b"").replace(b"{}", b""),
        PLAIN.replace(b"Length: 2", b"Length: +2"),
        PLAIN.replace(b"Length: 2", b"Length: 2, 2"),
        PLAIN.replace(b"Length: 2", b"Length: 2 "),
        PLAIN.replace(b"Length: 2", b"Length: " + b"0" * 15 + b"2"),
        PLAIN.replace(b"*/*", b"\xff"),
        PLAIN.replace(b"*/*", b"x" * 4096),
        PLAIN.replace(b"\r\n", b"\n", 1),
        b"\r\n" + PLAIN,
    ],
)
def test_what_is_not_plain_is_not_remembered(data: bytes) -> None:
    assert remembered(PLAIN) is not None
    assert remembered(data) is None


def test_only_the_newest_heads_are_remembered() -> None:
    heads = Heads()
    all_of_them = [PLAIN.replace(b"*/*", b"%d" % number) for number in range(300)]
    for data in all_of_them:
        measured, messages = measure(data), parsed(data)
        assert measured is not None
        assert messages is not None
        head = repeatable(data, measured, messages[0].message)
        assert head is not None
        heads.remember(measured, head)
    assert len(heads) == 256
    assert [is_known(heads, data) for data in all_of_them] == [False] * 44 + [True] * 256


def is_known(heads: Heads, data: bytes) -> bool:
    measured = measure(data)
    return measured is not None and heads.find(measured) is not None


def test_a_head_that_is_remembered_again_drives_out_no_other() -> None:
    heads = Heads()
    datas: Sequence[bytes] = [PLAIN.replace(b"*/*", b"%d" % number) for number in range(256)]
    for data in [*datas, datas[-1]]:
        measured, messages = measure(data), parsed(data)
        assert measured is not None
        assert messages is not None
        head = repeatable(data, measured, messages[0].message)
        assert head is not None
        heads.remember(measured, head)
    assert all(is_known(heads, data) for data in datas)


def test_what_is_remembered_shows_no_credentials() -> None:
    kept = remembered(PLAIN.replace(b"Accept: */*", b"Authorization: Bearer secret"))
    assert kept is not None
    heads, known = kept
    assert "secret" not in repr(heads) + repr(known)
    assert "secret" not in repr(known.head)
