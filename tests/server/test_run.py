"""The program as a process: what signals do, how it ends, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.peers import Answering, End, RawClient, Seen, client, until, until_answered, upstream
from tests.stage import answer_own_call, chat, chat_end, chat_token, generate, is_own_call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parent.parent.parent
READY_S = 30.0


class Program:
    """One ``python -m proxy serve``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = b""
        self.error = b""
        self.listen = ""
        self.admin = ""
        assert process.stdout is not None
        assert process.stderr is not None
        self._reading = asyncio.gather(self._read_out(process.stdout), self._read_error(process.stderr))

    async def _read_out(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            self.out += line
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event["event"] == "listening":
                    self.listen, self.admin = event["listen"], event["admin"]

    async def _read_error(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            self.error += line

    async def ready(self) -> int:
        """Status of ``/readyz``."""
        async with client(self.admin) as opened:
            opened.get("/readyz", "Connection: close")
            return (await opened.answer()).status

    async def until_ready(self) -> None:
        await until(lambda: bool(self.admin), READY_S)

        async def is_ready() -> bool:
            return await self.ready() == 200

        await until_answered(is_ready, READY_S)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def code(self) -> int:
        async with asyncio.timeout(READY_S):
            await self._reading
            return await self.process.wait()

    def rss_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024


@contextlib.asynccontextmanager
async def program(url: str, *more: str, model: bool = True, **environ: str) -> AsyncIterator[Program]:
    """The program in front of an upstream, ended in whatever state it is left."""
    arguments = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstream", url, *more]
    if model:
        arguments += ["--model", "tiny"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-X", "dev", "-m", "proxy", "serve", *arguments),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "OLLAMA_NUM_PARALLEL": "1024", **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    running = Program(process)
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await running.code()


class Streams:
    """An Ollama whose streams end when they are told to."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.running = 0

    async def __call__(self, seen: Seen, reply: Answering) -> None:
        if is_own_call(seen):
            await answer_own_call(seen, reply)
            return
        if seen.path not in ("/api/chat", "/api/pull"):
            reply.json({"ok": True})
            return
        reply.head()
        if seen.path == "/api/pull":
            reply.frames({"status": "pulling"})
        else:
            reply.frames(chat_token("x"))
        self.running += 1
        await self.end.wait()
        reply.frames({"status": "success"} if seen.path == "/api/pull" else chat_end())
        reply.end()


STREAMS = (("/api/chat", chat()), ("/api/generate", generate()), ("/api/pull", {"model": "tiny"}))


@contextlib.asynccontextmanager
async def begun(running: Program, ollama: Streams) -> AsyncIterator[list[RawClient]]:
    """Clients with a stream each, of which the head and a frame are here."""
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for path, body in STREAMS:
            each = await stack.enter_async_context(client(running.listen))
            each.post(path, body)
            assert (await each.head())[0] == 200
            assert await each.chunk()
            opened.append(each)
        assert ollama.running == len(STREAMS)
        yield opened


async def rest(each: RawClient) -> tuple[bytes, bool]:
    """What is still to come, and whether it ends as a whole reply does."""
    body = b""
    try:
        while piece := await each.chunk():
            body += piece
    except asyncio.IncompleteReadError:
        return body, False
    return body, True


async def refuses(address: str) -> bool:
    try:
        opened = await RawClient.open(address)
    except ConnectionRefusedError:
        return True
    await opened.close()
    return False


async def until_refused(address: str) -> None:
    await until_answered(lambda: refuses(address))


async def until_not_ready(running: Program) -> None:
    async def is_not_ready() -> bool:
        return await running.ready() == 503

    await until_answered(is_not_ready)


def assert_clean(running: Program) -> None:
    for output in (running.out, running.error):
        assert b"Traceback" not in output, output.decode()
        assert b"Warning" not in output, output.decode()
    assert running.error == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_streams_finish_and_ends_with_0(number: signal.Signals) -> None:
    ollama = Streams()
    environ = {"PILOTLIGHT_SHUTDOWN__LAME_DUCK_S": "1"}
    async with upstream(ollama) as server, program(server.url, **environ) as running:
        await running.until_ready()
        async with begun(running, ollama) as opened, client(running.listen) as idle:
            idle.get("/api/version")
            assert (await idle.answer()).header("connection") is None
            running.send(number)
            # Lame duck: not ready any more, still serving, and saying good-bye.
            await until_not_ready(running)
            idle.get("/api/version")
            answer = await idle.answer()
            assert (answer.status, answer.header("connection")) == (200, "close")
            await until_refused(running.listen)
            ollama.end.set()
            for each, (path, _) in zip(opened, STREAMS, strict=True):
                body, complete = await rest(each)
                assert complete, path
                assert b"error" not in body
        assert await running.code() == 0
        assert_clean(running)
        assert b'"event":"draining"' in running.out.replace(b'": ', b'":')


async def test_past_the_grace_time_streams_end_with_an_error_frame() -> None:
    ollama = Streams()
    environ = {"PILOTLIGHT_SHUTDOWN__LAME_DUCK_S": "0", "PILOTLIGHT_SHUTDOWN__GRACE_S": "0.2"}
    async with upstream(ollama) as server, program(server.url, **environ) as running:
        await running.until_ready()
        async with begun(running, ollama) as opened, client(running.listen) as waiting:
            # One that has no head yet can still be given a status.
            waiting.post("/api/chat", chat(stream=False))
            await until(lambda: ollama.running == len(STREAMS) + 1)
            running.send(signal.SIGTERM)
            for each, (path, _) in zip(opened, STREAMS, strict=True):
                body, complete = await rest(each)
                assert not complete, path
                assert body.endswith(b'{"error":"the proxy is shutting down"}\n'), path
            answer = await waiting.answer()
            assert (answer.status, answer.end) == (503, End.COMPLETE)
            assert answer.header("x-pilotlight-error") == "shutting_down"
            assert answer.header("retry-after") == "5"
        assert await running.code() == 0
        assert_clean(running)
        outcomes = re.findall(rb'"outcome": ?"(\w+)"', running.out)
        assert outcomes[-4:] == [b"rejected"] * 4


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_the_second_signal_ends_it_at_once(first: signal.Signals) -> None:
    ollama = Streams()
    environ = {"PILOTLIGHT_SHUTDOWN__LAME_DUCK_S": "600", "PILOTLIGHT_SHUTDOWN__GRACE_S": "3600"}
    async with upstream(ollama) as server, program(server.url, **environ) as running:
        await running.until_ready()
        async with begun(running, ollama) as opened:
            running.send(first)
            await until_not_ready(running)
            running.send(signal.SIGINT)
            assert await running.code() == 0
            for each in opened:
                _, complete = await rest(each)
                assert not complete
        assert_clean(running)


async def test_settings_are_read_anew_by_signal_and_file_while_streams_go_on(tmp_path: Path) -> None:
    ollama = Streams()
    path, fresh = tmp_path / "pilotlight.yaml", tmp_path / "fresh"
    path.write_text("", encoding="utf-8")
    async with upstream(ollama) as server, program(server.url, "--config", str(path)) as running:
        await running.until_ready()
        async with begun(running, ollama) as opened, client(running.listen) as one, client(running.listen) as two:
            fresh.write_text("rate_limit: {rate_per_s: 0.001}\nrelay: {write_stall_s: 7}\n", encoding="utf-8")
            fresh.replace(path)
            await until(lambda: running.out.count(b"settings reloaded") == 1)
            one.post("/api/chat", chat())
            await until(lambda: ollama.running == len(STREAMS) + 1)
            two.post("/api/chat", chat())
            assert (await two.answer()).status == 429
            running.send(signal.SIGHUP)
            await until(lambda: running.out.count(b"settings reloaded") == 2)
            assert running.out.count(b"relay.write_stall_s") == 2
            ollama.end.set()
            for each in opened:
                body, complete = await rest(each)
                assert complete
                assert b"error" not in body
        running.send(signal.SIGTERM)
        assert await running.code() == 0
        assert_clean(running)


async def test_a_signal_ends_it_while_ollama_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    async with program(url, PILOTLIGHT_SHUTDOWN__LAME_DUCK_S="0") as running:
        await until(lambda: bool(running.listen), READY_S)
        async with client(running.listen) as asking:
            for path in ("/api/chat", "/api/tags"):
                asking.post(path, b"[]")
                assert (await asking.answer()).status == 502
        running.send(signal.SIGTERM)
        assert await running.code() == 0
        assert_clean(running)


async def test_a_port_in_use_is_one_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flag in ("--listen", "--admin"):
            async with program("http://127.0.0.1:1", flag, f"127.0.0.1:{port}", model=False) as running:
                assert await running.code() == 1
                said = f"pilotlight: cannot listen on 127.0.0.1:{port}: Address already in use\n"
                assert running.error.decode() == said
                assert b"Traceback" not in running.out


async def test_without_the_c_parser_it_does_not_start() -> None:
    async with program("http://127.0.0.1:1", model=False, AIOHTTP_NO_EXTENSIONS="1") as running:
        assert await running.code() == 1
        assert b"C parser" in running.error
        assert running.error.count(b"\n") == 1


async def test_settings_that_make_it_its_own_upstream_are_exit_code_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with program(f"http://localhost:{port}", "--listen", f"127.0.0.1:{port}", model=False) as running:
        assert await running.code() == 2
        assert running.error.startswith(b"pilotlight: upstream.url: ")
        assert running.error.count(b"\n") == 1
        assert running.out == b""


async def test_an_upstream_that_leads_back_by_another_way_is_exit_code_2() -> None:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Another address of the proxy's own: what arrives here arrives there."""
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    forwarder = await asyncio.start_server(forward, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{forwarder.sockets[0].getsockname()[1]}"
    try:
        async with program(url, "--listen", f"127.0.0.1:{port}") as running:
            assert await running.code() == 2
            assert b"upstream.url: leads back to this proxy" in running.error
            assert running.error.count(b"\n") == 1
            assert b"Traceback" not in running.out
    finally:
        forwarder.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_an_upload_of_any_size_takes_no_memory() -> None:
    """R12: 256 MiB, of which the proxy never holds more than its buffers."""
    size = 256 * 2**20
    piece = b"\x00" * 2**18

    async def script(seen: Seen, reply: Answering) -> None:
        if is_own_call(seen):
            await answer_own_call(seen, reply)
            return
        await seen.whole.wait()
        reply.raw(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    async with upstream(script) as server, program(server.url) as running:
        server.answers_early = lambda seen: seen.path.startswith("/api/blobs")
        await running.until_ready()
        most = 0
        async with client(running.listen) as uploading:
            before = running.rss_bytes()
            head = f"POST /api/blobs/sha256:00 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n"
            uploading.send(head.encode())
            for number in range(size // len(piece)):
                uploading.send(piece)
                await uploading.writer.drain()
                if number % 50 == 0:
                    most = max(most, running.rss_bytes())
            assert (await uploading.answer()).status == 201
            (uploaded,) = (seen for seen in server.seen if seen.path.startswith("/api/blobs"))
            assert uploaded.body_bytes == size
        assert most - before < 16 * 2**20


async def test_readers_that_stall_cost_little_and_end() -> None:
    """R7: at most 384 KiB each, however fast the upstream is."""
    clients = 100

    async def script(seen: Seen, reply: Answering) -> None:
        if is_own_call(seen):
            await answer_own_call(seen, reply)
            return
        reply.head()
        while not seen.left.is_set():
            reply.frames(chat_token("x" * 8_000))
            await reply.drain()
            await asyncio.sleep(0)

    async with (
        upstream(script) as server,
        program(server.url, PILOTLIGHT_RELAY__WRITE_STALL_S="3") as running,
        contextlib.AsyncExitStack() as stack,
    ):
        await running.until_ready()
        most = before = running.rss_bytes()
        stalled = [await RawClient.open(running.listen) for _ in range(clients)]
        for each in stalled:
            stack.callback(each.writer.transport.abort)
            each.writer.transport.pause_reading()
            each.post("/api/chat", chat())

        def all_gone() -> bool:
            nonlocal most
            most = max(most, running.rss_bytes())
            calls = [seen for seen in server.seen if not is_own_call(seen)]
            return len(calls) == clients and all(seen.left.is_set() for seen in calls)

        await until(all_gone, READY_S)
        assert (most - before) / clients < 384 * 1024


async def test_readers_that_stall_do_not_hold_up_the_end() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        if is_own_call(seen):
            await answer_own_call(seen, reply)
            return
        reply.head()
        while not seen.left.is_set():
            reply.frames(chat_token("x" * 8_000))
            await reply.drain()
            await asyncio.sleep(0)

    environ = {"PILOTLIGHT_SHUTDOWN__LAME_DUCK_S": "0", "PILOTLIGHT_SHUTDOWN__GRACE_S": "0.2"}
    async with upstream(script) as server, program(server.url, **environ) as running:
        await running.until_ready()
        stalled = []
        for path, body in STREAMS:
            each = await RawClient.open(running.listen)
            each.writer.transport.pause_reading()
            each.post(path, body)
            stalled.append(each)
        # And one that never sends the body that it has announced.
        async with client(running.listen) as silent:
            silent.send(b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{")
            await until(lambda: len([seen for seen in server.seen if not is_own_call(seen)]) == len(STREAMS))
            running.send(signal.SIGTERM)
            assert await running.code() == 0
        for each in stalled:
            each.writer.transport.abort()
        assert_clean(running)
