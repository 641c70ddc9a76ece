"""What is no call to a model crosses the proxy as it is: every route, method, header and byte."""

from __future__ import annotations

import asyncio
import gzip
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.peers import Answering, End, RawClient, Seen, framed
from tests.stage import answer_own_call, chat, staged

# The last one by aiohttp, for its own hop.
ADDED_UPSTREAM = {"x-request-id", "via", "connection"}
ADDED_TO_CLIENT = {"x-request-id", "request-id", "server-timing", "transfer-encoding", "connection"}


async def plain(seen: Seen, reply: Answering) -> None:
    reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"" if seen.method == "HEAD" else b"ok"))


def passed(seen: Seen) -> list[tuple[str, str]]:
    """The fields that reached the upstream, but for those that the proxy adds by its documents, and Host's place."""
    return [field for field in seen.fields if field[0].lower() not in ADDED_UPSTREAM | {"host"}]


ROUTES = [
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/api/version"),
    ("GET", "/api/tags"),
    ("HEAD", "/api/tags"),
    ("GET", "/api/ps"),
    ("POST", "/api/show"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
    ("POST", "/api/blobs/sha256:00"),
    ("HEAD", "/api/blobs/sha256:00"),
    ("POST", "/api/me"),
    ("DELETE", "/api/user/keys/abc"),
    ("POST", "/api/experimental/web_search"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/audio/transcriptions"),
    ("GET", "/nope"),
    ("GET", "/api/chat"),
    ("PUT", "/api/chat"),
    ("PATCH", "/x"),
    ("OPTIONS", "/api/chat"),
    ("TRACE", "/x"),
    ("POST", "/API/CHAT"),
    ("POST", "/api/chat/"),
]


async def test_every_route_and_method_is_relayed() -> None:
    async with staged(plain) as stage, stage.client() as client:
        for method, path in ROUTES:
            body = b"\x00not json\xff" if method in ("POST", "PUT", "PATCH") else b""
            if body:
                client.post(path, body, method=method)
            else:
                client.get(path, method=method)
            answer = await client.answer(is_head=method == "HEAD")
            seen = stage.calls[-1]
            assert (seen.method, seen.target, seen.body) == (method, path, body)
            assert (answer.status, answer.end, answer.header("content-length")) == (200, End.COMPLETE, "2")
            assert answer.body == (b"" if method == "HEAD" else b"ok")


TARGETS = [
    "/a%2Fb",
    "/a%2fb",
    "/%2e%2e/%2E%2E",
    "/%zz",
    "/%",
    "/a//b",
    "/../x",
    "/./x",
    "/a;b:c@d!$&'()*+,=~",
    '/[x]{y}|z^`"<>\\',
    "/x%0d%0aX:1",
    "/x%00",
    "/?",
    "/p?q=1&q=2&=&%20=+",
    "/p?a=%2F%zz//[]",
    "/p?x=http://y/?z#",
    "/p?" + "k" * 4000,
    "/api/chat?x=1",
]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_path_and_query_arrive_as_they_were_spelt(method: str) -> None:
    async with staged(plain) as stage, stage.client() as client:
        for target in TARGETS:
            if method == "POST":
                client.post(target, b"{}")
            else:
                client.get(target)
            assert (await client.answer()).status == 200, target
            # A fragment is the browser's and is cut; so is the mark of an empty query.
            sent = target.partition("#")[0].removesuffix("?") or "/"
            assert stage.calls[-1].target.removesuffix("?") == sent
        assert all(seen.header("host") == stage.upstream.address for seen in stage.calls)


async def test_a_target_that_begins_with_two_slashes_reaches_nobody() -> None:
    async with staged(plain) as stage:
        for target in ("//evil.example/p", "///x", "//"):
            async with stage.client() as client:
                client.get(target)
                assert (await client.answer()).status == 400
        assert stage.calls == []


async def test_fields_of_a_request_arrive_in_order_with_case_and_repetitions() -> None:
    # To Ollama there is no page and no name of ours: see edge.guard.
    not_sent_on = {"Origin", "Referer", "X-Priority", "Access-Control-Request-Method"}
    fields = [
        ("X-Twice", "1"),
        ("X-Twice", "2"),
        ("Accept", "*/*"),
        ("user-agent", "ollama/0.24.0"),
        ("AUTHORIZATION", "Bearer sk-1"),
        ("Cookie", "a=1; b=2"),
        ("Origin", "http://localhost:3000"),
        ("X-Priority", "batch"),
        ("Access-Control-Request-Method", "POST"),
        ("Referer", "http://a/b"),
        ("Accept-Encoding", "gzip, br"),
        ("X_Under", "score"),
        ("X-Empty", ""),
        ("X-Utf8", "\u00e9\u4e16".encode().decode("latin-1")),
        ("X-Forwarded-For", "10.0.0.1"),
        ("Forwarded", "for=10.0.0.1"),
    ]
    # A client that is spoken for is a stranger.
    async with staged(plain, edge={"allow_anonymous": True}) as stage, stage.client() as client:
        for path in ("/api/tags", "/api/chat"):
            lines = [f"{name}: {value}" for name, value in fields]
            body = b"" if path == "/api/tags" else b"[]"
            method = "POST" if body else "GET"
            length = [f"Content-Length: {len(body)}"] if body else []
            head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost:99", *lines, *length, "", ""])
            client.send(head.encode("latin-1") + body)
            assert (await client.answer()).status == 200
            seen = stage.calls[-1]
            expected = [field for field in fields if field[0] not in not_sent_on]
            assert [field for field in passed(seen) if field[0].lower() != "content-length"] == expected
            assert seen.header("host") == stage.upstream.address
            assert (seen.header("via") or "").startswith("1.1 pilotlight-")


async def test_a_repetition_in_another_case_is_not_lost() -> None:
    async with staged(plain) as stage, stage.client() as client:
        client.get("/", "X-A: 1", "x-a: 2", "Accept: a", "accept: b")
        await client.answer()
        values = [(name.lower(), value) for name, value in passed(stage.calls[-1])]
        assert values == [("x-a", "1"), ("x-a", "2"), ("accept", "a"), ("accept", "b")]


async def test_hop_by_hop_fields_are_dropped_both_ways() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.raw(
            b"HTTP/1.1 200 OK\r\nConnection: X-Private, keep-alive\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n"
            b"Proxy-Authenticate: Basic\r\nTrailer: X-T\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok"
        )

    more = (
        "Connection: X-Secret, Content-Length, host, TE",
        "X-Secret: 1",
        "Keep-Alive: 5",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
        "Trailer: X",
        "Proxy-Authorization: Basic eA==",
        "X-Stays: 1",
    )
    async with staged(script) as stage, stage.client() as client:
        for path in ("/api/show", "/api/chat"):
            client.post(path, b"[]", *more)
            answer = await client.answer()
            names = {name.lower() for name, _ in stage.calls[-1].fields}
            assert names - ADDED_UPSTREAM == {"host", "content-type", "content-length", "x-stays"}
            assert stage.calls[-1].body == b"[]"
            assert {name.lower() for name, _ in answer.fields} - ADDED_TO_CLIENT == {"x-kept", "content-length"}
            assert answer.body == b"ok"


async def test_fields_of_a_reply_arrive_in_order_with_case_and_repetitions() -> None:
    fields = (
        b"content-TYPE: text/x\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX: 1\r\nx: 2\r\nDate: yesterday\r\n"
        b'ETag: W/"1"\r\nContent-Length: 0\r\n'
    )

    async def script(seen: Seen, reply: Answering) -> None:
        reply.raw(b"HTTP/1.1 299 Odd  Reason\r\n" + fields + b"\r\n")

    async with staged(script) as stage, stage.client() as client:
        for path in ("/api/show", "/api/chat"):
            client.post(path, b"[]")
            raw = await client.reader.readuntil(b"\r\n\r\n")
            assert raw.startswith(b"HTTP/1.1 299 Odd  Reason\r\n" + fields)
            assert b"server:" not in raw.lower().replace(b"server-timing:", b"")


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("path", ["/api/show", "/api/chat", "/v1/embeddings"])
async def test_a_body_arrives_whole_however_it_is_framed(path: str, framing: str) -> None:
    body = bytes(range(256)) * 2000

    async def script(seen: Seen, reply: Answering) -> None:
        more = (f"Content-Length: {len(body)}",) if framing == "length" else ()
        reply.head(200, "application/octet-stream", *more, chunked=framing == "chunked")
        for start in range(0, len(body), 7777):
            piece = body[start : start + 7777]
            reply.raw(framed(piece) if framing == "chunked" else piece)
            await reply.drain()
        if framing == "chunked":
            reply.end()
        elif framing == "close":
            reply.fin()

    async with staged(script) as stage, stage.client() as client:
        for _ in range(2):
            client.post(path, b"[]")
            answer = await client.answer()
            assert (answer.status, answer.end) == (200, End.COMPLETE)
            assert answer.body == body
            assert (answer.header("content-length") is not None) == (framing == "length")


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("path", ["/x", "/api/chat"])
async def test_a_reply_without_body_leaves_the_connection_in_step(path: str, status: int) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        length = b"Content-Length: 99\r\n" if status == 304 else b""
        reply.raw(b"HTTP/1.1 %d X\r\nX: y\r\n%b\r\n" % (status, length))

    async with staged(script) as stage, stage.client() as client:
        for _ in range(3):
            client.post(path, b"[]")
            answer = await client.answer()
            assert (answer.status, answer.header("x")) == (status, "y")
            assert answer.header("transfer-encoding") is None


@pytest.mark.parametrize("path", ["/api/show", "/api/chat"])
async def test_an_encoded_reply_is_not_touched(path: str) -> None:
    body = gzip.compress(b"x" * 1000)

    async def script(seen: Seen, reply: Answering) -> None:
        reply.raw(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )

    async with staged(script) as stage, stage.client() as client:
        client.post(path, b"[]", "Accept-Encoding: gzip")
        answer = await client.answer()
        assert (answer.header("content-encoding"), answer.body) == ("gzip", body)


async def test_redirects_are_not_followed_and_cookies_are_not_kept() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.raw(
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nSet-Cookie: session=1; Path=/\r\n"
            b"Content-Length: 0\r\n\r\n"
        )

    async with staged(script) as stage, stage.client() as client:
        for method, path in (("GET", "/a"), ("POST", "/a"), ("POST", "/api/chat")):
            client.post(path, b"[]", method=method)
            answer = await client.answer()
            assert (answer.status, answer.header("location")) == (302, "http://127.0.0.1:1/")
            assert stage.calls[-1].header("cookie") is None
        assert len(stage.calls) == 3


async def test_interim_replies_are_dropped() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        await reply.turn()
        await plain(seen, reply)

    async with staged(script) as stage, stage.client() as client:
        for path in ("/x", "/api/chat"):
            client.post(path, b"[]")
            status, _ = await client.head()
            assert status == 200
            await client.reader.readexactly(2)


# --- Hypothesis: nothing that can be sent is changed (R11)

_TOKEN = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=12
)
_VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FFF, exclude_characters="\x7f"), max_size=30)
_PATH = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#?"), max_size=40).filter(
    lambda path: not path.startswith("/")
)
_QUERY = st.none() | st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), min_size=1, max_size=40
)
_RESERVED = {
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "via", "host",
    "proxy-authenticate", "proxy-authorization", "content-length", "expect", "x-request-id", "content-encoding",
    "content-type", "server", "date", "server-timing", "request-id", "cache-control", "x-accel-buffering",
    "origin", "referer", "x-priority", "access-control-request-method", "access-control-request-headers",
}  # fmt: skip
_FIELDS = st.lists(
    st.tuples(_TOKEN.filter(lambda name: name.lower() not in _RESERVED), _VALUE.map(str.strip)), max_size=6
)


class Case:
    """Runs examples on one proxy, on the loop of the test."""

    def __init__(self, fields: list[tuple[str, str]], body: bytes, cuts: list[int], chunked: bool) -> None:
        self.fields = fields
        self.body = body
        self.cuts = cuts
        self.chunked = chunked

    @property
    def lines(self) -> bytes:
        return b"".join(f"{name}: {value}\r\n".encode() for name, value in self.fields)

    def framed(self) -> tuple[bytes, bytes]:
        """The framing field and the body in it."""
        if not self.chunked:
            return b"Content-Length: %d\r\n" % len(self.body), self.body
        edges = sorted({0, len(self.body), *(cut % (len(self.body) + 1) for cut in self.cuts)})
        pieces = [self.body[start:end] for start, end in itertools.pairwise(edges)]
        return b"Transfer-Encoding: chunked\r\n", b"".join(map(framed, pieces)) + b"0\r\n\r\n"


_CASES = st.builds(Case, _FIELDS, st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=5), st.booleans())


def test_arbitrary_requests_and_replies_arrive_unchanged() -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        manager = staged(plain)
        stage = runner.run(manager.__aenter__())

        async def check(method: str, target: str, request: Case, answered: Case, byte_by_byte: bool) -> None:
            reply_framing, reply_body = answered.framed()

            async def script(seen: Seen, reply: Answering) -> None:
                data = b"HTTP/1.1 200 OK\r\n" + answered.lines + reply_framing + b"\r\n" + reply_body
                await (reply.sliced(data, 1) if byte_by_byte and len(data) < 400 else reply.sliced(data, 97))

            stage.script = script
            framing, body = request.framed()
            head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
            client = await RawClient.open(stage.address)
            client.send(head + request.lines + framing + b"\r\n" + body)
            answer = await client.answer()
            await client.close()
            seen = stage.calls[-1]
            assert (seen.method, seen.target) == (method, target)
            assert seen.body == request.body
            expected = [(name, value.encode().decode("latin-1")) for name, value in request.fields]
            assert [f for f in passed(seen) if f[0].lower() not in ("content-length", "transfer-encoding")] == expected
            assert (answer.status, answer.end, answer.body) == (200, End.COMPLETE, answered.body)
            ours = ADDED_TO_CLIENT | {"content-length"}
            expected = [(name, value.encode().decode("latin-1")) for name, value in answered.fields]
            assert [f for f in answer.fields if f[0].lower() not in ours] == expected

        @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
        @given(st.sampled_from(["POST", "PUT", "DELETE"]), _PATH, _QUERY, _CASES, _CASES, st.booleans(), st.booleans())
        def example(
            method: str, path: str, query: str | None, request: Case, answered: Case, cut: bool, is_call: bool
        ) -> None:
            target = f"/{path}" + (f"?{query}" if query is not None else "")
            if is_call:
                method, target = "POST", "/v1/embeddings" + (f"?{query}" if query is not None else "")
            runner.run(check(method, target, request, answered, cut))

        try:
            example()
        finally:
            runner.run(manager.__aexit__(None, None, None))


# --- what must not happen twice, and what may


@pytest.mark.parametrize(
    ("method", "path", "most"),
    [
        ("DELETE", "/api/delete", 1),
        ("POST", "/api/create", 1),
        ("POST", "/api/pull", 1),
        ("POST", "/api/push", 1),
        ("POST", "/api/copy", 1),
        ("POST", "/api/blobs/sha256:00", 1),
        ("PUT", "/x", 1),
        ("GET", "/api/tags", 2),
        ("HEAD", "/api/tags", 2),
    ],
)
async def test_only_what_changes_nothing_is_sent_again(method: str, path: str, most: int) -> None:
    dying = False

    async def script(seen: Seen, reply: Answering) -> None:
        if dying:
            reply.fin()
        else:
            await plain(seen, reply)

    async with staged(script) as stage, stage.client() as client:
        for dying in (False, True):
            client.post(path, b"{}" if method != "GET" and method != "HEAD" else b"", method=method)
            answer = await client.answer(is_head=method == "HEAD")
            assert answer.status == (502 if dying else 200)
        assert 2 <= len(stage.calls) <= 1 + most


async def test_a_get_on_a_connection_that_ollama_has_closed_succeeds() -> None:
    count = 0

    async def script(seen: Seen, reply: Answering) -> None:
        nonlocal count
        count += 1
        if count == 2:
            reply.fin()
        else:
            await plain(seen, reply)

    async with staged(script) as stage, stage.client() as client:
        for _ in range(2):
            client.get("/api/tags")
            assert (await client.answer()).status == 200
        assert count == 3


async def test_what_manages_models_makes_them_asked_for_again() -> None:
    shows = 0

    async def own(seen: Seen, reply: Answering) -> None:
        nonlocal shows
        shows += seen.path == "/api/show"
        await answer_own_call(seen, reply)

    async def script(seen: Seen, reply: Answering) -> None:
        reply.json({"error": "x"}, 404)

    async with staged(script, own=own) as stage, stage.client() as client:
        before = shows
        for method, path, body in (
            ("POST", "/api/chat", chat()),
            ("DELETE", "/api/delete", {}),
            ("POST", "/api/chat", chat()),
        ):
            client.post(path, body, method=method)
            await client.answer()
        assert shows == before + 1
