"""What is refused at the door, what every request leaves behind, and how each kind of ending is told."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import Answering, End, Leave, RawClient, Seen, until, upstream
from tests.stage import chat, chat_end, chat_token, generate, staged

if TYPE_CHECKING:
    from tests.peers import Answer
    from tests.stage import Stage


async def plain(seen: Seen, reply: Answering) -> None:
    reply.whole(b"ok", kind="text/plain")


async def stream(seen: Seen, reply: Answering) -> None:
    reply.head()
    reply.frames(chat_token("x"), chat_end())
    reply.end()


async def send(stage: Stage, data: bytes) -> Answer:
    async with stage.client() as client:
        client.send(data)
        return await client.answer()


# --- at the door


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", 405, "method_not_allowed"),
        (b"GET ftp://x/y HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400, "bad_request"),
        (b"GET http://user@evil/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400, "bad_request"),
        (b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nX: \xe9\r\n\r\n", 400, "bad_request"),
        (b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\n bad : 1\r\n\r\n", 400, "bad_request"),
        (b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "bad_request"),
        (b"G\x00T /x HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (
            b"POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            501,
            "not_implemented",
        ),
    ],
)
async def test_what_is_unfit_is_refused_and_reaches_nobody(data: bytes, status: int, code: str) -> None:
    async with staged(plain) as stage:
        answer = await send(stage, data)
        assert (answer.status, answer.header("x-pilotlight-error")) == (status, code)
        assert answer.header("content-type") == "application/json; charset=utf-8"
        assert set(answer.json) == {"error"}
        assert answer.header("server") is None
        assert stage.calls == []


async def test_http_09_is_refused() -> None:
    async with staged(plain) as stage, stage.client() as client:
        client.send(b"GET /x\r\n\r\n")
        assert b"505" in await client.reader.readline()
        assert stage.calls == []


async def test_options_of_the_whole_server_is_answered_here() -> None:
    async with staged(plain) as stage, stage.client() as client:
        for _ in range(2):
            client.send(b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            answer = await client.answer()
            assert (answer.status, answer.end, answer.body) == (200, End.COMPLETE, b"")
        assert stage.calls == []


async def test_an_absolute_target_that_is_ours_goes_to_our_upstream_and_its_authority_counts_as_host() -> None:
    async with staged(plain) as stage:
        for path in (b"/p?q=1", b"/api/chat"):
            answer = await send(stage, _absolute(stage.address, path, host=b"evil.example"))
            assert answer.status == 200
            assert stage.calls[-1].target == path.decode()
            hosts = [value for name, value in stage.calls[-1].fields if name.lower() == "host"]
            assert hosts == [stage.upstream.address]


async def test_an_absolute_target_for_another_name_or_port_is_misdirected() -> None:
    async with staged(plain) as stage:
        port = stage.address.rpartition(":")[2]
        other_port = stage.upstream.address.rpartition(":")[2]
        for authority in (f"evil.example:{port}", f"127.0.0.1:{other_port}", "127.0.0.1", "localhost:80", "[::1]"):
            answer = await send(stage, _absolute(authority, b"/x", host=stage.address.encode()))
            assert (answer.status, answer.header("x-pilotlight-error")) == (421, "misdirected_host"), authority
        assert stage.calls == []


def _absolute(authority: str, path: bytes, *, host: bytes) -> bytes:
    head = b"POST http://%b%b HTTP/1.1\r\nHost: %b\r\nContent-Length: 2\r\n\r\n"
    return head % (authority.encode(), path, host) + b"[]"


async def test_an_upgrade_is_relayed_as_a_plain_request_on_a_connection_that_ends() -> None:
    async with staged(plain) as stage, stage.client() as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        client.send(b"GET /smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.header("connection")) == (200, "close")
        assert await client.at_end()
        assert [seen.target for seen in stage.calls] == ["/x"]
        assert stage.calls[0].header("upgrade") is None


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/show", "/x"])
async def test_an_old_client_is_served(path: str) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        await (stream if path == "/api/chat" or path == "/api/generate" else plain)(seen, reply)

    body = json.dumps(generate() if path == "/api/generate" else chat()).encode()
    async with staged(script) as stage:
        # Neither Host nor keep-alive, as HTTP/1.0 has it; Ollama wants a Host from who speaks 1.1, as we do.
        answer = await send(
            stage, b"POST %b HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
        )
        assert (answer.status, answer.end) == (200, End.COMPLETE)
        assert answer.header("transfer-encoding") is None
        assert stage.calls[0].header("host") == stage.upstream.address
        assert stage.calls[0].start_line.endswith("HTTP/1.1")
        if path == "/api/chat":
            assert [line["done"] for line in answer.lines] == [False, True]


async def test_a_request_that_was_here_before_is_a_loop() -> None:
    async with staged(plain) as stage, stage.client() as client:
        client.get("/x")
        await client.answer()
        client.get("/x", f"Via: 1.0 other, {stage.calls[0].header('via')}")
        answer = await client.answer()
        assert (answer.status, answer.header("x-pilotlight-error")) == (508, "loop")
        assert len(stage.calls) == 1
        assert "upstream.url" in str(stage.proxy.failed.result())


async def test_another_proxys_via_is_continued() -> None:
    async with staged(plain) as stage, stage.client() as client:
        for path in ("/x", "/api/chat"):
            client.post(path, b"[]", "Via: 1.0 fred", "Via: 1.1 pilotlight-0000")
            await client.answer()
            assert (stage.calls[-1].header("via") or "").startswith("1.0 fred, 1.1 pilotlight-0000, 1.1 pilotlight-")


def _hostile_targets(port: int) -> list[bytes]:
    spots = [
        f"127.0.0.1:{port}",
        f"localhost:{port}",
        f"[::1]:{port}",
        f"127.1:{port}",
        f"0:{port}",
        f"2130706433:{port}",
    ]
    shapes = [
        "http://{}/",
        "https://{}/x",
        "HTTP://{}",
        "http://{}?x",
        "//{}/",
        "///{}/",
        "////{}/",
        "/\\{}/",
        "\\\\{}/",
        "/@{}/",
        "http://a@{}/",
        "http://a:b@{}/",
        "/http://{}/",
        "/x?url=http://{}/",
        "/%2f%2f{}/",
        "/%5c{}",
        "/..//{}/",
        "/.//{}/",
        "/;@{}/",
        "http://x#@{}/",
        "http://x\\@{}/",
        ".{}",
        ":{}",
        "{}",
        "@{}/",
        "*//{}/",
        "http:/{}/",
        "http:{}/",
        "http:////{}/",
        "ws://{}/",
        "file://{}/",
        "gopher://{}/",
        "/x\tHTTP/1.1 http://{}/",
        "/x http://{}/",
    ]
    return [shape.format(spot).encode() for spot in spots for shape in shapes]


async def test_no_target_leads_to_another_server() -> None:
    """S3: a second listener sees nothing, whatever the target and the Host say."""
    visited = 0

    async def elsewhere(seen: Seen, reply: Answering) -> None:
        nonlocal visited
        visited += 1
        reply.whole(b"pwned")

    async with upstream(elsewhere) as other, staged(plain) as stage:
        targets = _hostile_targets(int(other.url.rpartition(":")[2]))
        assert len(targets) > 200
        host = other.address.encode()
        for target in targets:
            for method, fields in (
                (b"GET", b"Host: 127.0.0.1\r\n"),
                (b"POST", b"Host: %b\r\nX-Forwarded-Host: %b\r\nContent-Length: 0\r\n" % (host, host)),
            ):
                async with stage.client() as client:
                    client.send(b"%b %b HTTP/1.1\r\n%bConnection: close\r\n\r\n" % (method, target, fields))
                    answer = await client.answer()
                    assert answer.status < 500 or answer.status in (501, 505), (target, answer)
                    assert b"pwned" not in answer.body
        assert (visited, other.connections) == (0, 0)


# --- what every request leaves behind


async def test_a_valid_request_id_is_kept_and_another_replaced() -> None:
    async with staged(plain) as stage, stage.client() as client:
        for path in ("/x", "/api/chat"):
            client.post(path, b"[]", "X-Request-Id: abc-123")
            answer = await client.answer()
            assert answer.header("x-request-id") == "abc-123" == stage.calls[-1].header("x-request-id")
            client.post(path, b"[]", "X-Request-Id: " + "a" * 200, "X-Request-Id: b")
            answer = await client.answer()
            made = answer.header("x-request-id") or ""
            assert 8 <= len(made) <= 32
            assert [value for name, value in stage.calls[-1].fields if name.lower() == "x-request-id"] == [made]
        assert (await stage.rows(4))[0]["request_id"] == made


async def test_streams_forbid_buffering_and_whole_replies_say_nothing_of_it() -> None:
    async with staged(stream) as stage, stage.client() as client:
        for path, body in (("/api/chat", chat()), ("/api/generate", generate())):
            client.post(path, body)
            answer = await client.answer()
            assert answer.header("x-accel-buffering") == "no"
            assert answer.header("cache-control") == "no-cache, no-transform"
            assert "upstream;dur=" in (answer.header("server-timing") or "")
        client.post("/api/chat", chat(stream=False))
        answer = await client.answer()
        assert answer.header("x-accel-buffering") is None
        assert "ttft;dur=" in (answer.header("server-timing") or "")


async def one(stage: Stage, path: str, body: Any) -> tuple[Answer, dict[str, Any]]:
    before = len((await stage.page("/requests"))[1]["requests"])
    async with stage.client() as client:
        client.post(path, body)
        answer = await client.answer()
    return answer, (await stage.rows(before + 1))[0]


async def test_each_kind_of_ending_is_told() -> None:
    async with staged(stream) as stage:
        _, row = await one(stage, "/api/chat", chat())
        assert (row["status"], row["outcome"], row["endpoint"]) == (200, "ok", "api_chat")
        assert row["ttft_ms"] > 0
        assert (row["tokens_in"], row["tokens_out"], row["done_reason"]) == (3, 2, "stop")
        assert "error" not in row

        async def not_found(seen: Seen, reply: Answering) -> None:
            reply.json({"error": "no"}, 404)

        stage.script = not_found
        _, row = await one(stage, "/api/chat", chat())
        assert (row["status"], row["outcome"]) == (404, "client_error")
        assert "error" not in row

        async def busy(seen: Seen, reply: Answering) -> None:
            reply.json({"error": "no"}, 503)

        stage.script = busy
        _, row = await one(stage, "/api/chat", chat())
        assert (row["status"], row["outcome"]) == (503, "upstream_error")

        async def dies(seen: Seen, reply: Answering) -> None:
            reply.fin()

        stage.script = dies
        answer, row = await one(stage, "/api/chat", chat())
        assert answer.status == row["status"] == 502
        assert (row["outcome"], row["error"]) == ("upstream_error", "upstream_broken")

        async def breaks_off(seen: Seen, reply: Answering) -> None:
            reply.head()
            reply.frames(chat_token("x"))
            reply.fin()

        stage.script = breaks_off
        _, row = await one(stage, "/api/chat", chat())
        assert (row["status"], row["outcome"], row["error"], row["incomplete"]) == (
            200,
            "upstream_error",
            "upstream_broken",
            True,
        )

        _, row = await one(stage, "/api/generate", generate(context=[999999]))
        assert (row["status"], row["outcome"], row["error"]) == (400, "client_error", "bad_request")


async def test_who_left_and_when_is_told() -> None:
    async def silent(seen: Seen, reply: Answering) -> None:
        await seen.left.wait()

    async def begins(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_token("x"))
        await seen.left.wait()

    async with staged(silent) as stage:
        for number, (script, told) in enumerate(((silent, (499, "waiting")), (begins, (200, "streaming"))), 1):
            stage.script = script
            client = await RawClient.open(stage.address)
            client.post("/api/chat", chat())
            await until(lambda number=number: len(stage.calls) == number)  # type: ignore[misc]
            if script is begins:
                await client.head()
            client.leave(Leave.FIN)
            row = (await stage.rows(number))[0]
            assert row["outcome"] == "cancelled"
            assert (row["status"], row["client_left"]) == told
            await client.close()


async def test_a_request_in_the_shape_of_its_family_and_with_its_id() -> None:
    async def dies(seen: Seen, reply: Answering) -> None:
        reply.rst()

    async with staged(dies) as stage:
        for path in ("/v1/messages", "/v1/chat/completions", "/v1/responses", "/api/chat", "/nope", "/v1/nope"):
            answer, _ = await one(stage, path, chat())
            assert answer.status == 502
            if path == "/v1/messages":
                assert answer.json["type"] == "error"
                assert answer.header("request-id") == answer.json["request_id"] == answer.header("x-request-id")
            elif path.startswith("/v1/"):
                assert set(answer.json["error"]) == {"message", "type", "param", "code"}
            else:
                assert isinstance(answer.json["error"], str)


async def test_models_that_nobody_has_are_relayed_as_they_came() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.json({"error": "model 'ghost' not found"}, 404)

    async with staged(script) as stage:
        body = b'{"model":"ghost", "prompt" : "x","keep_alive":"1s"}'
        answer, row = await one(stage, "/api/generate", body)
        assert (answer.status, stage.calls[0].body, stage.calls[0].path) == (404, body, "/api/generate")
        assert (row["model"], row["outcome"]) == ("ghost", "client_error")


async def test_the_relay_tells_when_it_is_empty() -> None:
    release = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        await release.wait()
        await stream(seen, reply)

    async with staged(script) as stage, stage.client() as client:
        relay = stage.proxy.relay
        await asyncio.wait_for(relay.wait_idle(), 1)
        client.post("/api/chat", chat())
        await until(lambda: len(stage.calls) == 1)
        assert repr(relay) == "<Relay 1 active>"
        waiting = asyncio.create_task(relay.wait_idle())
        await asyncio.sleep(0)
        assert not waiting.done()
        release.set()
        await client.answer()
        await asyncio.wait_for(waiting, 5)
