"""S1, S9: requests that are none, and bodies that are odd, hurt nobody and slip past nobody."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import logging
import random
from collections import Counter
from typing import TYPE_CHECKING, cast

import h11
import pytest
import structlog

from proxy.observe import logs
from proxy.relay.call import Deadlines
from proxy.server.app import Proxy
from tests.peers import RawClient, until
from tests.relay.test_guard import STRANGER, ask, plain
from tests.stage import MODEL, PS, SHOW, TAGS, VERSION, chat, make_settings, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

COUNT = 10_000
# Short ones, so that what never comes to an end does so here.
DEADLINES = Deadlines(head_s=0.5, body_s=0.5, piece_s=0.5)
# The heads are looked at once a second; the rest is for a busy machine.
LONGEST_S = 0.5 + 1 + 8


class Strict(asyncio.Protocol):
    """An Ollama that reads with h11, and notes whatever is not as HTTP wants it or was not sent by the proxy."""

    def __init__(self, log: StrictLog) -> None:
        self._log = log
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._feed(data)

    def eof_received(self) -> None:
        if self._http.their_state is h11.SEND_BODY:
            self._log.aborted += 1
        else:
            self._feed(b"")

    def _feed(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._request = event
                    self._log.note(event)
                elif isinstance(event, h11.EndOfMessage):
                    self._answer()
                elif not isinstance(event, h11.Data):
                    return
        except h11.RemoteProtocolError as error:
            self._log.errors.append(f"{error}: {data[:200]!r}")
            self._transport.close()

    def _answer(self) -> None:
        assert self._request is not None
        path = self._request.target.decode().partition("?")[0]
        pages = {"/api/version": VERSION, "/api/tags": TAGS, "/api/ps": PS, "/api/show": SHOW}
        body = json.dumps(pages.get(path, {"model": MODEL, "response": "", "done": True})).encode()
        fields = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        out = self._http.send(h11.Response(status_code=200, headers=fields)) or b""
        if self._request.method != b"HEAD":
            out += self._http.send(h11.Data(body)) or b""
        self._transport.write(out + (self._http.send(h11.EndOfMessage()) or b""))
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self._transport.close()


class StrictLog:
    """What all connections noted."""

    def __init__(self) -> None:
        self.requests = self.aborted = 0
        self.errors: list[str] = []
        self.strange: list[h11.Request] = []
        self.address = b""

    def note(self, request: h11.Request) -> None:
        fields = dict(request.headers)
        is_own = fields.get(b"user-agent", b"").startswith(b"pilotlight/")
        self.requests += not is_own
        hosts = [value for name, value in request.headers if name == b"host"]
        leaked = {b"origin", b"referer", b"expect"} & fields.keys()
        if b"pilotlight-" not in fields.get(b"via", b"") or hosts != [self.address] or (leaked and not is_own):
            self.strange.append(request)


def seeds() -> list[bytes]:
    """Requests as they should be, and as they are tried."""
    host = b"Host: 127.0.0.1\r\n"
    found = [
        b"%b %b HTTP/1.1\r\n%b%bConnection: close\r\n\r\n" % (method, target, host, more)
        for method in (b"GET", b"HEAD", b"OPTIONS", b"DELETE")
        for target in (b"/", b"/api/tags", b"/api/x%2fy?q=1", b"*", b"http://127.0.0.1/x", b"//x/y")
        for more in (b"", b"Origin: http://localhost\r\nReferer: http://a/\r\nX-A: 1\r\nX-a: 2\r\n")
    ]
    chat_body = json.dumps(chat(stream=False)).encode()
    for path in (b"/api/chat", b"/api/show", b"/v1/messages", b"/api/blobs/sha256:00", b"/api/embed"):
        for body in (b"{}", chat_body):
            head = b"POST %b HTTP/1.1\r\n%bConnection: close\r\n" % (path, host)
            found += [
                head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
                head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
                head
                + b"Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n%x;e=1\r\n%b\r\n0\r\nX: 1\r\n\r\n"
                % (len(body), body),
                b"POST %b HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (path, len(body), body),
            ]
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    found += [
        b"POST /api/chat HTTP/1.1\r\n%b%b\r\n\r\n0\r\n\r\n%b" % (host, framing, smuggled)
        for framing in (
            b"Content-Length: 5\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked\r\nContent-Length: 5",
            b"Transfer-Encoding: gzip, chunked",
            b"Transfer-Encoding: chunked, identity",
            b"Transfer-Encoding : chunked",
            b"Content-Length: 5\r\nContent-Length: 6",
            b"Content-Length: +5",
            b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 5",
            b"Expect: 100-continue\r\nContent-Length: 5",
        )
    ]
    found += [
        b"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
    ]
    return found


PIECES = [
    *(bytes([byte]) for byte in b"\x00\r\n\t :;,\x0b\x7f\x80\xe9\xff0%/\\#"),
    *(
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"\r",
        b"HTTP/1.1",
        b"HTTP/9.9",
        b"chunked",
        b"-1",
        b"0x5",
        b"%00",
        b"%0d%0a",
        b"../",
    ),
    *(b"Content-Length: 7\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: evil.example\r\n"),
    *(
        b"Transfer-Encoding: xchunked\r\n",
        b"Connection: host, content-length, via\r\n",
        b"Via: 1.1 x\r\n",
        b" folded\r\n",
    ),
    *(
        b"Expect: 100-continue\r\n",
        b"Upgrade: websocket\r\nConnection: upgrade\r\n",
        b"99999999999999999999",
        b"A" * 9000,
    ),
]


def mutated(seed: int, count: int) -> Iterator[bytes]:
    """Requests with what does not belong there, the same ones each time."""
    dice = random.Random(seed)
    whole = seeds()
    assert len(whole) >= 80
    for number in range(count):
        data = whole[number % len(whole)]
        for _ in range(dice.choice((1, 1, 1, 2, 4))):
            at, to = sorted(dice.randrange(len(data) + 1) for _ in range(2))
            to = min(to, at + 40)
            match dice.randrange(6):
                case 0:
                    data = data[:at] + dice.choice(PIECES) + data[at:]
                case 1:
                    data = data[:at] + dice.choice(PIECES) + data[to:]
                case 2:
                    data = data[:at] + data[to:]
                case 3:
                    data = data[:to] + data[at:]
                case 4:
                    lines = data.split(b"\r\n")
                    lines.insert(dice.randrange(1, len(lines) + 1), dice.choice(PIECES).removesuffix(b"\r\n"))
                    data = b"\r\n".join(lines)
                case _:
                    data = data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]
        yield data or b"x"


@contextlib.contextmanager
def production_log() -> Iterator[io.BytesIO]:
    """The log of the whole process, as ``run`` installs it."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.BytesIO()
    logs.install(stream, "json", "info", is_terminal=False)
    try:
        yield stream
    finally:
        structlog.configure(**before)
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)


@contextlib.asynccontextmanager
async def before_strict_upstream() -> AsyncIterator[tuple[Proxy, StrictLog]]:
    noted = StrictLog()
    server = await asyncio.get_running_loop().create_server(lambda: Strict(noted), "127.0.0.1", 0)
    noted.address = "{}:{}".format(*server.sockets[0].getsockname()).encode()
    proxy = Proxy(make_settings(f"http://{noted.address.decode()}"), deadlines=DEADLINES)
    try:
        await proxy.start()
        await until(lambda: proxy.is_ready)
        yield proxy, noted
    finally:
        await proxy.aclose()
        server.close()


async def ending(address: str, data: bytes) -> str:
    """How a request ended: the first digit of its status, or that the connection did."""
    peer = await RawClient.open(address, limit=2**20)
    try:
        peer.send(data)
        while True:
            line = await peer.reader.readline()
            if not line.startswith(b"HTTP/1.1 1"):
                break
            # The rest of an interim head is its blank line.
            assert await peer.reader.readline() == b"\r\n"
        return line[9:10].decode() or "closed"
    except (ConnectionError, asyncio.IncompleteReadError):
        return "closed"
    finally:
        peer.writer.transport.abort()


@pytest.mark.timeout(180)
async def test_ten_thousand_malformed_requests_neither_hurt_nor_slip_through(
    record_property: Callable[[str, object], None],
) -> None:
    """Slow, because it is ten thousand connections, and some of them wait for their deadline."""
    ends: Counter[str] = Counter()
    longest_s = 0.0
    loop = asyncio.get_running_loop()
    began = loop.time()
    with production_log() as written:
        async with before_strict_upstream() as (proxy, noted):
            requests = mutated(1, COUNT)

            async def ask_all() -> None:
                nonlocal longest_s
                for data in requests:
                    at = loop.time()
                    async with asyncio.timeout(30):
                        ends[await ending(proxy.listen_address, data)] += 1
                    longest_s = max(longest_s, loop.time() - at)

            await asyncio.gather(*(ask_all() for _ in range(48)))
            await until(lambda: not proxy.relay.active)
            answer = await ask(proxy.listen_address, "GET", "/api/tags")
            assert (answer.status, proxy.failed.done()) == (200, False)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    others = [line for line in lines if line["event"] not in ("request", "managed")]
    seconds = loop.time() - began
    figures = {"seconds": round(seconds, 1), "ends": dict(ends), "longest_s": round(longest_s, 2), "lines": len(others)}
    record_property("S1", {**figures, "upstream": noted.requests, "aborted": noted.aborted, "requests": len(lines)})
    assert sum(ends.values()) == COUNT
    assert set(ends) <= {"2", "4", "5", "closed"}
    assert longest_s < LONGEST_S
    assert noted.errors == []
    assert noted.strange == []
    assert noted.requests > 100, "what is whole still passes"
    assert [line for line in lines if line["level"] in ("error", "critical")] == []
    assert len(others) <= 100
    assert all("exception" not in line for line in lines)


# --- S9: odd JSON

_DEEP = 100_000
ODD_BODIES = {
    "nested lists": b'{"model":"tiny","messages":' + b"[" * _DEEP + b"]" * _DEEP + b"}",
    "nested objects": b'{"model":"tiny","options":' + b'{"a":' * _DEEP + b"1" + b"}" * _DEEP + b"}",
    "unclosed": b'{"model":"tiny","messages":' + b"[" * _DEEP,
    "nested and allowed": b'{"model":"tiny","x":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "many names": b'{"model":"tiny",' + b",".join(b'"k%d":%d' % (n, n) for n in range(100_000)) + b"}",
    "many equal names": b'{"model":"tiny"' + b',"a":1' * 100_000 + b"}",
    "a long integer": b'{"model":"tiny","keep_alive":' + b"9" * 100_000 + b"}",
    "a long exponent": b'{"model":"tiny","options":{"num_ctx":1e99999999}}',
    "a big number": b'{"model":"tiny","options":{"num_ctx":123456789012345678901234567890}}',
    "duplicates": b'{"model":"tiny","model":"other","stream":false,"stream":true}',
    "lone surrogates": b'{"model":"tiny","messages":[{"role":"user","content":"\\ud800 \\udfff\\ud800"}]}',
    "a surrogate in a name": b'{"model":"ti\\ud800ny","\\udfff":1}',
    "bytes that are no text": b'{"model":"ti\xff\xfeny","prompt":"\xed\xa0\x80"}',
    "NaN": b'{"model":"tiny","options":{"temperature":NaN}}',
    "Infinity": b'{"model":"tiny","keep_alive":-Infinity}',
    "NUL": b'{"model":"tiny\\u0000","prompt":"\x00"}',
    "a mark of order": b'\xef\xbb\xbf{"model":"tiny"}',
    "no object": b"[1,2,3]",
    "a number": b"5",
    "nothing": b"",
    "white space": b" " * 100_000,
    "two values": b'{"model":"tiny"}{"model":"other"}',
}
PATHS = (
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/responses",
    "/api/show",
)


@pytest.mark.parametrize("name", ODD_BODIES)
async def test_odd_json_is_refused_or_goes_on_unchanged(name: str) -> None:
    body = ODD_BODIES[name]
    async with staged(plain, cache={"mode": "all"}) as stage:
        for path in PATHS:
            before = len(stage.calls)
            answer = await ask(stage.address, "POST", path, body=body)
            assert answer.status in (200, 400), (path, answer.status)
            passed = stage.calls[before:]
            assert len(passed) == (answer.status == 200)
            for seen in passed:
                assert seen.body == body or _is_rewritten(seen.body), path
        assert (await ask(stage.address, "GET", "/api/tags")).status == 200


def _is_rewritten(sent: bytes) -> bool:
    """What is understood may go on with members that are ours to set, and without what Ollama does not read."""
    return sent.startswith(b'{"model":"ti') and sent.endswith(b'"keep_alive":-1}')


@pytest.mark.parametrize("path", PATHS)
async def test_a_bomb_is_refused_or_passed_unread(path: str) -> None:
    bomb = gzip.compress(bytes(64 * 2**20))
    assert len(bomb) < 100_000
    async with staged(plain, edge={"allow_anonymous": True, "max_body": 2**20}) as stage:
        for fields in ((), (STRANGER,)):
            for coding in ("gzip", "zstd", "br", "deflate"):
                before = len(stage.calls)
                answer = await ask(stage.address, "POST", path, f"Content-Encoding: {coding}", *fields, body=bomb)
                assert answer.status in (200, 400)
                assert [seen.body for seen in stage.calls[before:]] == [bomb] * (answer.status == 200)


# --- S12: what stands in the log


async def test_nothing_that_is_sent_ends_a_line_or_moves_a_cursor() -> None:
    evil = "\x1b[2Jcanary\x85\x9b"
    with production_log() as written:
        async with staged(plain) as stage:
            for host, fields, path in (
                (f"127.0.0.1{evil}", (), "/"),
                ("127.0.0.1", (f"Origin: http://localhost{evil}",), "/"),
                ("127.0.0.1", (f"X-API-Key: {evil}",), "/api/pull"),
                ("127.0.0.1", (f"X-Request-Id: {evil}", f"X-Forwarded-For: {evil}"), "/api/pull"),
                ("127.0.0.1", (f"Forwarded: for={evil}",), "/api/blobs/%0a%0d%1b[2Jcanary"),
                ("127.0.0.1", ("traceparent: 00-" + "a" * 31 + "\x1b-b-01",), f"/api/blobs/{evil}"),
                ("127.0.0.1\r\n\tfolded", (), "/canary%0acanary"),
            ):
                for method in ("GET", "POST", "P\x1bST"):
                    await ask(stage.address, method, path, *fields, host=host)
            metrics = (await ask(stage.proxy.admin_address, "GET", "/metrics")).body
            for page in ("/requests", "/stats", "/queue"):
                shown = (await ask(stage.proxy.admin_address, "GET", page)).body
                assert b"\x1b" not in shown
                assert b"\\u001b" not in shown
    assert b"canary" not in metrics
    for line in written.getvalue().decode().split("\n")[:-1]:
        assert line.isprintable()
        assert "\\u001b" not in line
        json.loads(line)


async def test_no_name_of_a_callers_becomes_a_label() -> None:
    async with staged(plain, edge={"hosts": ["*"]}) as stage:

        async def series() -> int:
            page = (await ask(stage.proxy.admin_address, "GET", "/metrics")).body
            assert b"canary" not in page
            return len(page.splitlines())

        async def round_of(start: int) -> None:
            for number in range(start, start + 100):
                name = f"canary-{number}"
                fields = (f"X-API-Key: {name}", f"X-Forwarded-For: 10.0.0.{number}", f"Origin: http://{name}.example")
                await ask(stage.address, "GET", "/api/tags", host=f"{name}.example")
                await ask(stage.address, "GET", f"/{name}", fields[0])
                await ask(stage.address, "GET", "/api/tags", fields[1])
                await ask(stage.address, "GET", "/api/tags", fields[2])

        await round_of(0)
        lines = await series()
        await round_of(100)
        assert await series() == lines
