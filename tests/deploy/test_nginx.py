"""The committed configuration of nginx, run by the real one in front of the proxy, or of a scripted server instead."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.bench.children import free_port
from proxy.edge.keys import hash_key, new_key
from proxy.edge.scopes import Scope, routes
from tests.deploy.prepared import needs_openssl, prepare
from tests.nginx import COMMITTED, NGINX, command, needs_nginx, nginx, render_committed
from tests.peers import End, Leave, RawClient, unanswering_listener, until, upstream
from tests.stage import BLOB, Stage, chat, chat_end, chat_token, generate, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from tests.peers import Answering, Script, ScriptedUpstream, Seen

pytestmark = [*needs_nginx, needs_openssl]

KEY = new_key(bytes(range(32)))
SHOWN = f"Authorization: Bearer {KEY}"
OWN_ID = "X-Request-ID: one-of-mine"


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``deploy/prepare`` fills."""
    return prepare(tmp_path_factory.mktemp("prepared")) / "secrets"


class Front:
    """nginx, and how to connect to it."""

    def __init__(self, port: int, secrets: Path, folder: Path) -> None:
        self.port = port
        self.url = f"https://localhost:{port}"
        self.tls = ssl.create_default_context(cafile=secrets / "tls.pem")
        self._log = folder / "log"

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[RawClient]:
        streams = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls, server_hostname="localhost")
        client = RawClient(*streams)
        try:
            yield client
        finally:
            with contextlib.suppress(ssl.SSLError, OSError):
                await client.close()

    def log(self) -> list[dict[str, Any]]:
        """The lines of its access log."""
        lines = self._log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@contextlib.asynccontextmanager
async def front(
    folder: Path, secrets: Path, behind: str, replaced: Mapping[str, str] | None = None
) -> AsyncIterator[Front]:
    port = free_port()
    conf = render_committed(folder, port=port, upstream=behind, secrets=secrets, replaced=replaced)
    async with nginx(folder, conf, port):
        yield Front(port, secrets, folder)


@contextlib.asynccontextmanager
async def whole(folder: Path, secrets: Path, script: Script) -> AsyncIterator[tuple[Stage, Front]]:
    """nginx, the proxy with keys, a scripted Ollama."""
    keys = [{"name": "phone", "hash": hash_key(KEY), "scopes": ["infer", "read", "manage"]}]
    edge = {"trusted_proxies": ["127.0.0.1"]}
    async with staged(script, keys=keys, edge=edge) as stage, front(folder, secrets, stage.address) as opened:
        yield stage, opened


@contextlib.asynccontextmanager
async def fronted(folder: Path, secrets: Path, script: Script) -> AsyncIterator[tuple[ScriptedUpstream, Front]]:
    """nginx, and a scripted server where Pilotlight would be."""
    async with upstream(script) as behind, front(folder, secrets, behind.address) as opened:
        yield behind, opened


async def answer(seen: Seen, reply: Answering) -> None:
    await seen.whole.wait()
    reply.json({"path": seen.path})


def test_nginx_takes_the_committed_configuration(tmp_path: Path, secrets: Path) -> None:
    conf = render_committed(tmp_path, port=free_port(), upstream="127.0.0.1:1", secrets=secrets)
    assert NGINX is not None
    tested = subprocess.run([NGINX, *command(tmp_path, conf, "-t")], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stderr
    assert "warn" not in tested.stderr


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_each_token_arrives_before_the_next_is_made(tmp_path: Path, secrets: Path, path: str) -> None:
    arrived = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head(kind="application/x-ndjson" if path.startswith("/api") else "text/event-stream")
        for place in range(5):
            reply.frames(chat_token(f"t{place}"))
            async with asyncio.timeout(10):
                await arrived.wait()
            arrived.clear()
        reply.end()

    async with whole(tmp_path, secrets, script) as (_, opened), opened.client() as client:
        client.post(path, chat(stream=True), SHOWN)
        status, _ = await client.head()
        assert status == 200
        for place in range(5):
            assert f"t{place}".encode() in await client.chunk()
            arrived.set()


async def test_what_has_no_chunks_arrives_in_pieces_too(tmp_path: Path, secrets: Path) -> None:
    """Chunks would be passed on one by one even where nginx buffers."""
    arrived = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        reply.head(chunked=False)
        for place in range(3):
            reply.raw(b"t%d" % place)
            async with asyncio.timeout(10):
                await arrived.wait()
            arrived.clear()
        reply.fin()

    async with fronted(tmp_path, secrets, script) as (_, opened), opened.client() as client:
        client.post("/api/chat", chat(stream=True))
        await client.head()
        for place in range(3):
            assert await client.chunk() == b"t%d" % place
            arrived.set()


def leave(client: RawClient, how: Leave) -> None:
    """As a program does: with TLS's goodbye, for whose answer it does not wait, or without."""
    if how is Leave.RST:
        client.leave(how)
        return
    client.writer.close()
    with socket.socket(fileno=os.dup(client.writer.get_extra_info("socket").fileno())) as connection:
        connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("has_begun", [False, True], ids=["before the first token", "in mid-stream"])
@pytest.mark.parametrize("how", [Leave.FIN, Leave.RST])
async def test_a_client_that_leaves_is_noticed_upstream(
    tmp_path: Path, secrets: Path, how: Leave, has_begun: bool
) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if has_begun:
            reply.head()
            reply.frames(chat_token("a"))
        await seen.left.wait()

    async with whole(tmp_path, secrets, script) as (stage, opened), opened.client() as client:
        client.post("/api/chat", chat(stream=True), SHOWN)
        if has_begun:
            await client.head()
        await until(lambda: bool(stage.calls))
        leave(client, how)
        async with asyncio.timeout(10):
            await stage.calls[0].left.wait()


async def test_a_stream_that_ollama_cuts_is_told_and_seen_as_cut(tmp_path: Path, secrets: Path) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_token("a"))
        reply.rst()

    async with whole(tmp_path, secrets, script) as (_, opened), opened.client() as client:
        client.post("/api/chat", chat(stream=True), SHOWN)
        found = await client.answer()
        assert found.end in (End.CUT, End.RESET)
        assert "error" in found.lines[-1]


async def test_a_stream_that_pilotlight_cuts_is_seen_as_cut(tmp_path: Path, secrets: Path) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_token("a"))
        reply.fin()

    async with fronted(tmp_path, secrets, script) as (_, opened), opened.client() as client:
        client.post("/api/chat", chat(stream=True))
        found = await client.answer()
    assert (found.end, found.lines) == (End.CUT, [chat_token("a")])


async def test_the_first_bytes_of_an_upload_reach_ollama_before_the_last_are_sent(
    tmp_path: Path, secrets: Path
) -> None:
    half = bytes(3 * 2**20)

    async def script(seen: Seen, reply: Answering) -> None:
        await seen.whole.wait()
        reply.head(201, chunked=False)
        reply.fin()

    async with whole(tmp_path, secrets, script) as (stage, opened), opened.client() as client:
        stage.upstream.answers_early = lambda seen: seen.path.startswith("/api/blobs/")
        lines = [
            f"POST /api/blobs/sha256:{BLOB} HTTP/1.1",
            "Host: localhost",
            SHOWN,
            f"Content-Length: {2 * len(half)}",
        ]
        client.send("\r\n".join([*lines, "", ""]).encode() + half)
        # What nginx, the proxy and the kernel have in hand is less than a MiB; nothing is written to a file.
        await until(lambda: bool(stage.calls) and stage.calls[0].body_bytes >= len(half) - 2**20)
        assert not stage.calls[0].whole.is_set()
        client.send(half)
        found = await client.answer()
        assert (found.status, stage.calls[0].body_bytes) == (201, 2 * len(half))


async def test_a_stranger_is_refused_and_shown_by_his_own_address(tmp_path: Path, secrets: Path) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        await seen.whole.wait()
        reply.head()
        reply.frames(chat_end())
        reply.end()

    async with whole(tmp_path, secrets, script) as (stage, opened), opened.client() as client:
        statuses = []
        for path, body, *more in (
            ("/api/chat", chat()),
            ("/api/pull", {"model": "x"}),
            ("/api/chat", chat(), SHOWN, OWN_ID, "Forwarded: for=192.0.2.1", "X-Forwarded-For: 192.0.2.2"),
        ):
            client.post(path, body, *more)
            statuses.append((await client.answer()).status)
        assert statuses == [401, 403, 200]
        (row, *_) = await stage.rows(1)
        assert row["request_id"] == "one-of-mine"
    assert [line["status"] for line in opened.log()] == statuses
    last = opened.log()[-1]
    assert (last["request_id"], last["path"], last["client"], last["ended"]) == (
        "one-of-mine",
        "/api/chat",
        "127.0.0.1",
        "OK",
    )
    assert float(last["head_s"]) <= float(last["upstream_s"])


async def test_what_goes_on_names_the_client_and_a_connection_is_kept(tmp_path: Path, secrets: Path) -> None:
    forged = "X-Forwarded-For: 192.0.2.2", "Forwarded: for=192.0.2.1", 'X-Request-ID: a"b'
    async with fronted(tmp_path, secrets, answer) as (behind, opened), opened.client() as client:
        for more in ((), forged):
            client.get("/api/tags?a=%2F", *more)
            assert (await client.answer()).status == 200
    plain, other = behind.seen
    assert plain.start_line == "GET /api/tags?a=%2F HTTP/1.1"
    assert [plain.header(name) for name in ("host", "x-forwarded-for", "x-forwarded-proto", "connection")] == [
        "127.0.0.1",
        "127.0.0.1",
        "https",
        None,
    ]
    assert (other.header("x-forwarded-for"), other.header("forwarded")) == ("192.0.2.2, 127.0.0.1", None)
    # nginx writes its own in hexadecimal where the client's could not stand in an error as it is.
    assert all(len(seen.header("x-request-id") or "") == 32 for seen in behind.seen)
    assert behind.connections == 1


async def test_a_websocket_passes_in_both_directions(tmp_path: Path, secrets: Path) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        passed = web.WebSocketResponse()
        await passed.prepare(request)
        async for message in passed:
            await passed.send_str(f"{request.headers['X-Forwarded-For']}: {message.data}")
        return passed

    app = web.Application()
    app.router.add_get("/ws/chat", echo)
    async with (
        TestServer(app, host="127.0.0.1") as behind,
        front(tmp_path, secrets, f"127.0.0.1:{behind.port}") as opened,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{opened.url}/ws/chat", ssl=opened.tls) as opened_socket,
    ):
        for text in ("one", "two"):
            await opened_socket.send_str(text)
            assert await opened_socket.receive_str(timeout=10) == f"127.0.0.1: {text}"


SHAPES = {
    "/api/chat": lambda body: isinstance(body["error"], str),
    "/v1/chat/completions": lambda body: set(body["error"]) == {"message", "type", "param", "code"},
    "/v1/messages": lambda body: (body["type"], set(body["error"])) == ("error", {"type", "message"}),
}


async def errors_at(opened: Front, *fields: str) -> list[tuple[int, bool, str | None, bool]]:
    """For each API: status, whether its shape is right, Retry-After, whether the request's id came back."""
    found = []
    for path, is_right in SHAPES.items():
        async with opened.client() as client:
            client.post(path, chat(), OWN_ID, *fields)
            reply = await client.answer()
        assert (reply.header("content-type") or "").startswith("application/json")
        has_id = reply.header("x-request-id") == "one-of-mine"
        found.append((reply.status, is_right(reply.json), reply.header("retry-after"), has_id))
    return found


async def test_a_proxy_that_is_away_is_a_502_in_the_shape_of_the_api(tmp_path: Path, secrets: Path) -> None:
    async with front(tmp_path, secrets, f"127.0.0.1:{free_port()}") as opened:
        assert await errors_at(opened) == [(502, True, "5", True)] * 3


async def test_a_proxy_that_does_not_answer_is_a_504_in_the_shape_of_the_api(tmp_path: Path, secrets: Path) -> None:
    listener, waiting = unanswering_listener()
    sooner = {"proxy_connect_timeout 5s;": "proxy_connect_timeout 200ms;"}
    try:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        async with front(tmp_path, secrets, address, sooner) as opened:
            assert await errors_at(opened) == [(504, True, None, True)] * 3
    finally:
        for each in (listener, *waiting):
            each.close()


async def test_a_call_that_is_too_large_is_a_413_as_json(tmp_path: Path, secrets: Path) -> None:
    async with fronted(tmp_path, secrets, answer) as (_, opened), opened.client() as client:
        client.send(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (256 * 2**20 + 1))
        reply = await client.answer()
    assert (reply.status, reply.json) == (413, {"error": "the request body is too large"})


async def test_calls_to_models_are_limited_and_asking_what_there_is_is_not(tmp_path: Path, secrets: Path) -> None:
    # So slow that nothing comes back while the test runs.
    slower = {"rate=10r/s;": "rate=1r/m;"}
    async with upstream(answer) as behind, front(tmp_path, secrets, behind.address, slower) as opened:
        async with opened.client() as client:
            for _ in range(30):
                client.post("/api/generate", generate())
            assert [(await client.answer()).status for _ in range(30)] == [200] * 21 + [429] * 9
        assert await errors_at(opened) == [(429, True, "1", True)] * 3
        async with opened.client() as client:
            for _ in range(60):
                client.get("/api/tags")
            assert {(await client.answer()).status for _ in range(60)} == {200}


async def test_plain_http_on_the_port_of_tls_is_a_400_as_json(tmp_path: Path, secrets: Path) -> None:
    async with front(tmp_path, secrets, "127.0.0.1:1") as opened:
        client = await RawClient.open(f"127.0.0.1:{opened.port}")
        client.get("/api/tags")
        reply = await client.answer()
        await client.close()
    assert (reply.status, list(reply.json)) == (400, ["error"])


def test_the_calls_that_are_limited_are_those_to_models() -> None:
    (pattern,) = re.findall(r"location ~ (\S+) {", (COMMITTED / "nginx.conf").read_text(encoding="utf-8"))
    known = routes()
    found = {path for _, path in known if re.search(pattern, path)}
    assert found == {path for (_, path), scope in known.items() if scope is Scope.INFER}
