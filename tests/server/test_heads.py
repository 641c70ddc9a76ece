"""Heads that are remembered: what is taken for a head of before is, byte for byte, what aiohttp's parser would say."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from proxy.relay.head import RequestHead, read_head
from proxy.server.heads import Heads, Known, measure, repeatable

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage

LENGTH = b"Content-Length: "


class Parsed(NamedTuple):
    """What aiohttp's parser makes of some bytes.

    Attributes:
        messages: In order.
        bodies: As far as they came; ``None`` for one that has no end yet.
    """

    messages: list[RawRequestMessage]
    bodies: list[bytes | None]


def parsed(data: bytes) -> Parsed | None:
    """Read bytes as the listening port does without a memory; ``None``: they are no requests."""

    async def feed() -> Parsed | None:
        loop = asyncio.get_running_loop()
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, auto_decompress=False, max_msg_queue_size=32)
        try:
            pairs, _, _ = parser.feed_data(data)
        except HttpProcessingError:
            return None
        bodies = [await body.read() if body.is_eof() else None for _, body in pairs]
        return Parsed([message for message, _ in pairs], bodies)

    return asyncio.run(feed())


def remember(heads: Heads, data: bytes) -> RequestHead | None:
    """Offer a request to a memory; what it keeps of it."""
    measured, found = measure(data), parsed(data)
    if measured is None or found is None or len(found.messages) != 1:
        return None
    head = repeatable(data, measured, found.messages[0])
    if head is not None:
        heads.remember(measured, head)
    return head


def remembered(data: bytes) -> tuple[Heads, RequestHead | None]:
    """A memory that was offered one request."""
    heads = Heads()
    return heads, remember(heads, data)


def recalled(heads: Heads, data: bytes) -> tuple[Known, bytes] | None:
    """What the memory says about a request; ``None``: it goes to the parser."""
    measured = measure(data)
    known = None if measured is None else heads.find(measured)
    if known is None:
        return None
    body = known.body_of(data)
    return None if body is None else (known, body)


def request(body: bytes, *more: bytes, path: bytes = b"/api/chat", length: bytes | None = None) -> bytes:
    told = LENGTH + (b"%d" % len(body) if length is None else length)
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: 127.0.0.1", *more, told]
    return b"\r\n".join([*lines, b"", body])


def summary(head: RequestHead) -> tuple[object, ...]:
    """What a head says, but for its length."""
    fields = [field for field in head.fields if field[0].lower() != b"content-length"]
    return (head.method, head.path, fields, head.route, head.is_http11, head.closes, head.upgrades, head.manages)


ODD = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b"0",
    b"\x00",
    b"\xff",
    b"Content-Length: 3\r\n",
    b"content-length:3",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Connection: close\r\n",
    b" folded\r\n",
    b"POST /api/chat HTTP/1.1\r\n",
    b"HTTP/1.0",
    b"DELETE /api/delete",
    b"_",
    b"+",
]
BODIES = st.sampled_from(
    [b"", b"{}", b"x" * 12, b"\r\n", b"\r\n\r\n", b"7\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"{}\x00"]
)
HEADS = st.lists(
    st.sampled_from(
        [b"Accept: */*", b"accept:", b"Connection: keep-alive", b"Connection: close", b"X-Priority: high", b"X: a:b\tc"]
    ),
    max_size=3,
)
CHANGES = st.lists(st.tuples(st.integers(0, 200), st.sampled_from(ODD), st.integers(0, 4)), max_size=2)
PATHS = st.sampled_from(
    [b"/api/chat", b"/api/generate?x=1", b"/v1/chat/completions", b"/api/tags", b"//api/chat", b"*"]
)


def changed(data: bytes, changes: list[tuple[int, bytes, int]]) -> bytes:
    for at, odd, gone in changes:
        place = at % (len(data) + 1)
        data = data[:place] + odd + data[place + gone :]
    return data


@given(PATHS, HEADS, BODIES, BODIES, CHANGES, CHANGES)
def test_what_is_recalled_is_what_the_parser_says(
    path: bytes,
    more: list[bytes],
    first: bytes,
    second: bytes,
    before: list[tuple[int, bytes, int]],
    after: list[tuple[int, bytes, int]],
) -> None:
    heads, _ = remembered(changed(request(first, *more, path=path), before))
    data = changed(request(second, *more, path=path), after)
    _agrees(heads, data)
    _agrees(heads, changed(changed(request(second, *more, path=path), before), after))


def _agrees(heads: Heads, data: bytes) -> None:
    found = recalled(heads, data)
    if found is None:
        return
    known, body = found
    plain = parsed(data)
    assert plain is not None
    (message,) = plain.messages
    version = (message.version.major, message.version.minor)
    read = read_head(message.method, message.path, version, message.raw_headers, closes=message.should_close)
    assert summary(known.head) == summary(read)
    assert plain.bodies == [body]


@given(HEADS, BODIES, BODIES)
def test_the_same_head_with_another_length_is_recalled(more: list[bytes], first: bytes, second: bytes) -> None:
    heads, head = remembered(request(first, *more))
    assert head is not None
    found = recalled(heads, request(second, *more))
    assert found is not None
    assert (found[0].head, found[1]) == (head, second)


@pytest.mark.parametrize(
    "data",
    [
        request(b"{}", path=b"/api/tags"),
        request(b"{}", path=b"/nobody/knows"),
        request(b"{}", b"Expect: 100-continue"),
        request(b"{}", b"Connection: upgrade", b"Upgrade: websocket"),
        request(b"{}", b"Content-Length: 2"),
        request(b"{}", path=b"http://127.0.0.1/api/chat"),
        request(b"{}", b"X: " + b"y" * 4096),
        b"POST /api/chat HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["no model", "unknown", "expect", "upgrade", "two lengths", "absolute", "long", "chunked", "no length"],
)
def test_only_plain_calls_to_models_are_remembered(data: bytes) -> None:
    heads, head = remembered(data)
    assert head is None
    assert len(heads) == 0


@pytest.mark.parametrize(
    "data",
    [
        request(b"{}") + b"G",
        request(b"{}")[:-1],
        request(b"{}", length=b"3"),
        request(b"{}", length=b"1"),
        request(b"{}", length=b"+2"),
        request(b"{}", length=b"-2"),
        request(b"{}", length=b"2_"),
        request(b"{}", length=b"2 "),
        request(b"{}", length=b" 2"),
        request(b"{}", length=b"2,2"),
        request(b"{}", length="\u0662".encode()),
        request(b"{}", length=b"0" * 15 + b"2"),
        request(b"{}", length=b""),
        request(b"{}").replace(b"Host", b"host"),
        request(b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_anything_else_goes_to_the_parser(data: bytes) -> None:
    heads, head = remembered(request(b"{}"))
    assert head is not None
    assert recalled(heads, data) is None


def test_the_memory_is_bounded_and_forgets_the_oldest() -> None:
    heads = Heads()
    data = [request(b"{}", b"X: %d" % number) for number in range(300)]
    for each in data:
        assert remember(heads, each) is not None
    assert len(heads) == 256
    assert [recalled(heads, each) is not None for each in data] == [False] * 44 + [True] * 256


def test_a_head_that_is_remembered_again_drives_out_no_other() -> None:
    heads = Heads()
    data = [request(b"{}", b"X: %d" % number) for number in range(256)]
    for each in (*data, *data):
        assert remember(heads, each) is not None
    assert all(recalled(heads, each) is not None for each in data)


def test_a_known_head_does_not_show_what_its_fields_hold() -> None:
    heads, _ = remembered(request(b"{}", b"Authorization: Bearer secret"))
    found = recalled(heads, request(b"{}", b"Authorization: Bearer secret"))
    assert found is not None
    assert "secret" not in f"{found[0]!r} {heads!r} {found[0].head!r}"
