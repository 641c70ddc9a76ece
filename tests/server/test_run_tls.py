"""The program in front of an Ollama behind TLS: generations go another way there, with the same promises."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.kinds import GATHERED, STREAMS
from tests.peers import Answering, End, Leave, RawClient, Seen, client, until, upstream
from tests.server.test_run import assert_clean, program
from tests.stage import answer_own_call, chat, chat_end, chat_token, is_own_call, sse

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that is its own authority: its file, and a server's context with it."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return str(cert), context


async def test_every_kind_of_reply_arrives_breaks_off_and_is_cancelled(
    certificate: tuple[str, ssl.SSLContext],
) -> None:
    cert, context = certificate
    fault = ""

    async def script(seen: Seen, reply: Answering) -> None:
        if is_own_call(seen):
            await answer_own_call(seen, reply)
            return
        reply.head(kind=kind.type)
        reply.chunk(kind.frames[0])
        await asyncio.sleep(0.01)
        if fault == "cut":
            reply.transport.abort()
            return
        if fault == "silent":
            reached.set()
            await seen.left.wait()
            return
        for frame in kind.frames[1:]:
            reply.chunk(frame)
        reply.end()

    async with upstream(script, context) as server, program(server.url, SSL_CERT_FILE=cert) as running:
        await running.until_ready()
        for kind in (*STREAMS, *GATHERED):
            fault = ""
            async with client(running.listen) as asking:
                asking.post(kind.path, kind.body)
                answer = await asking.answer()
                assert (answer.status, answer.end) == (200, End.COMPLETE), kind
                if kind.streams and kind.path != "/api/generate":
                    assert answer.body == b"".join(kind.frames)

                fault = "cut"
                asking.post(kind.path, kind.body)
                answer = await asking.answer()
                if kind.streams:
                    assert answer.end is End.CUT
                    assert kind.error(answer.body) == "upstream connection lost before completion"
                else:
                    assert (answer.status, answer.header("x-pilotlight-error")) == (502, "upstream_broken")

            fault, reached = "silent", asyncio.Event()
            leaving = await RawClient.open(running.listen)
            leaving.post(kind.path, kind.body)
            await asyncio.wait_for(reached.wait(), 10)
            seen = server.seen[-1]
            leaving.leave(Leave.FIN)
            await asyncio.wait_for(seen.left.wait(), 0.5)
            await leaving.close()
        assert_clean(running)


async def test_a_provider_is_asked_over_tls_with_the_key_of_the_environment(
    certificate: tuple[str, ssl.SSLContext],
) -> None:
    cert, context = certificate
    key = "sk-Secret-1"

    async def provider(seen: Seen, reply: Answering) -> None:
        choice = {"delta": {"content": "x"}, "message": {"content": "x"}, "finish_reason": "stop"}
        if seen.json.get("stream"):
            reply.head(200, "text/event-stream")
            reply.chunk(sse({"model": "theirs", "choices": [choice]}) + b"data: [DONE]\n\n")
            reply.end()
        else:
            reply.json({"model": "theirs", "choices": [choice]})

    async with upstream(provider, context) as server, upstream(provider) as gone:
        await gone.stop()
        fallback = [{"url": server.url, "kind": "openai", "key_env": "PROVIDER_KEY", "models": {"tiny": "theirs"}}]
        environ = {"SSL_CERT_FILE": cert, "PROVIDER_KEY": key, "PILOTLIGHT_FALLBACK": json.dumps(fallback)}
        async with program(gone.url, model=False, **environ) as running:
            await until(lambda: bool(running.listen), 30)
            async with client(running.listen) as asking:
                for path, stream in (("/api/chat", True), ("/api/chat", False), ("/v1/chat/completions", True)):
                    asking.post(path, chat(stream=stream), "Authorization: Bearer client")
                    answer = await asking.answer()
                    assert (answer.status, answer.end) == (200, End.COMPLETE)
                    assert answer.header("x-pilotlight-upstream") == server.address
                    assert b'"model":"tiny"' in answer.body
            assert [seen.header("authorization") for seen in server.seen] == [f"Bearer {key}"] * 3
            assert {seen.path for seen in server.seen} == {"/v1/chat/completions"}
            assert_clean(running)
            assert key.encode() not in running.out + running.error


async def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: tuple[str, ssl.SSLContext]) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.frames(chat_token("x"), chat_end())

    async with upstream(script, certificate[1]) as server, program(server.url, model=False) as running:
        await until(lambda: bool(running.listen), 30)
        async with client(running.listen) as asking:
            for path in ("/api/chat", "/api/tags"):
                asking.post(path, json.dumps(chat()).encode())
                answer = await asking.answer()
                assert (answer.status, answer.header("x-pilotlight-error")) == (502, "upstream_unreachable")
        assert server.seen == []
        assert_clean(running)
