from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import aiohttp

from proxy.bench.children import free_port
from proxy.doctor.contact import contact, stamping
from proxy.doctor.facts import Reached, Stamp, clock_offset
from tests.peers import unanswering_listener, upstream

if TYPE_CHECKING:
    from tests.peers import Answering, Seen


async def test_what_comes_back_is_kept_as_it_can_be_shown() -> None:
    async def hostile(seen: Seen, reply: Answering) -> None:
        reply.raw(b"HTTP/1.1 404 X\r\nServer: nginx\r\nContent-Length: 4\r\n\r\n\x1b[2J")

    async with upstream(hostile) as server, aiohttp.ClientSession() as session:
        found = await contact(session, f"{server.url}/x", {"Host": "elsewhere"})
        assert server.seen[0].header("host") == "elsewhere"
    assert (found.reached, found.status, found.server, found.body) == (Reached.ANSWERED, 404, "nginx", None)
    assert found.text == "\\x1b[2J"


async def test_each_date_is_noted_with_when_it_can_have_been_made() -> None:
    async def dated(seen: Seen, reply: Answering) -> None:
        date = "Date: Thu, 26 Nov 2026 02:00:00 GMT" if seen.path == "/dated" else "Date: tomorrow"
        reply.head(200, "text/plain", date, "Content-Length: 0", chunked=False)

    stamps: list[Stamp] = []
    async with upstream(dated) as server, aiohttp.ClientSession(trace_configs=[stamping(stamps)]) as session:
        began = time.time()
        for path in ("/dated", "/undated"):
            await contact(session, server.url + path)
        ended = time.time()
    (stamp,) = stamps
    assert stamp.date == 1_795_658_400
    assert began <= stamp.sent <= stamp.received <= ended
    assert clock_offset(stamps) is not None


async def reached(url: str, **timeouts: Any) -> Reached:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeouts.pop("connect_s", 5))
    async with aiohttp.ClientSession(timeout=timeout) as session:
        return (await contact(session, url, **timeouts)).reached


async def test_why_there_is_no_connection_is_said_in_the_words_of_the_system() -> None:
    async with aiohttp.ClientSession() as session:
        found = await contact(session, f"http://127.0.0.1:{free_port()}/")
    assert found.text == "Connection refused"


async def test_why_nothing_answers_is_told_apart() -> None:
    async def silent(seen: Seen, reply: Answering) -> None:
        await asyncio.Event().wait()

    async def gone(seen: Seen, reply: Answering) -> None:
        reply.fin()

    assert await reached(f"http://127.0.0.1:{free_port()}/") is Reached.REFUSED
    assert await reached("http://nowhere.invalid:1/") is Reached.NO_NAME
    listener, waiting = unanswering_listener()
    try:
        port = listener.getsockname()[1]
        assert await reached(f"http://127.0.0.1:{port}/", connect_s=0.1) is Reached.TIMED_OUT
    finally:
        for sock in (listener, *waiting):
            sock.close()
    async with upstream(silent) as server:
        assert await reached(f"{server.url}/", answer_s=0.1) is Reached.SILENT
    async with upstream(gone) as server:
        assert await reached(f"{server.url}/") is Reached.BROKEN

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 X\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as without_tls:
        port = without_tls.sockets[0].getsockname()[1]
        assert await reached(f"https://127.0.0.1:{port}/") is Reached.TLS
