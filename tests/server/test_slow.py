"""S2: who sends slowly is told to leave in time, and nobody else notices. Who reads slowly: ``relay.test_limits``."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from proxy.relay.call import Deadlines
from tests.peers import RawClient
from tests.relay.test_guard import ask, plain
from tests.stage import staged

if TYPE_CHECKING:
    from collections.abc import Iterable

SLOW = 100
LIMIT_S = 1.0
# The heads are looked at once a second, and two busy cores look a little later.
LATEST_S = LIMIT_S + 1 + 1.5
DRIP_S = 0.1

HEAD = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\n"


class Slow:
    """One client that sends byte after byte until it is told to leave."""

    def __init__(self, first: bytes, drip: Iterable[bytes]) -> None:
        self._first = first
        self._drip = drip
        self.answer = b""
        self.lasted_s = 0.0

    async def run(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        peer = await RawClient.open(address)
        peer.send(self._first)
        dripping = asyncio.create_task(self._send(peer))
        try:
            async with asyncio.timeout(30):
                with contextlib.suppress(ConnectionError):
                    while piece := await peer.reader.read(2**16):
                        self.answer += piece
        finally:
            self.lasted_s = loop.time() - began
            dripping.cancel()
            await asyncio.gather(dripping, return_exceptions=True)
            peer.writer.transport.abort()

    async def _send(self, peer: RawClient) -> None:
        for byte in self._drip:
            # Not to win a race: it is what a slow client is.
            await asyncio.sleep(DRIP_S)
            peer.send(byte)


def bodies(path: bytes, drip: bytes) -> tuple[bytes, Iterable[bytes]]:
    return HEAD % path + b"Content-Length: 100000\r\n\r\n{", itertools.repeat(drip)


KINDS: dict[str, tuple[bytes, Iterable[bytes], bytes, float]] = {
    "heads": (b"GET / HTTP/1.1\r\nX-", itertools.repeat(b"a"), b"", LATEST_S),
    "heads in lines": (b"GET / HTTP/1.1\r\n", itertools.repeat(b"X: y\r\n"), b"", LATEST_S),
    "heads of which nothing comes": (b"G", (), b"", LATEST_S),
    "bodies": (*bodies(b"/api/chat", b" "), b"HTTP/1.1 408 ", LATEST_S),
    "bodies in chunks": (
        HEAD % b"/v1/messages" + b"Transfer-Encoding: chunked\r\n\r\n",
        itertools.repeat(b"1\r\n \r\n"),
        b"HTTP/1.1 408 ",
        LATEST_S,
    ),
    # After the answer it is read for another two seconds, so that the client sees it.
    "uploads that stop": (HEAD % b"/api/blobs/x" + b"Content-Length: 9\r\n\r\nab", (), b"HTTP/1.1 408 ", LATEST_S + 2),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_who_sends_slowly_is_gone_in_time_while_others_are_served(kind: str) -> None:
    first, drip, expected, latest_s = KINDS[kind]
    deadlines = Deadlines(head_s=LIMIT_S, body_s=LIMIT_S, piece_s=LIMIT_S)
    with capture_logs() as logged:
        async with staged(plain, deadlines=deadlines) as stage:
            slow = [Slow(first, drip) for _ in range(SLOW)]
            attack = asyncio.gather(*(each.run(stage.address) for each in slow))
            served = 0
            while not attack.done():
                answer = await ask(stage.address, "POST", "/api/chat")
                assert answer.status == 200
                served += 1
                # 20 a second.
                await asyncio.wait((attack,), timeout=0.05)
            await attack
            assert served >= 10
            assert not stage.proxy.relay.active
    for each in slow:
        assert each.answer.startswith(expected)
        assert bool(each.answer) is bool(expected)
        assert LIMIT_S * 0.9 < each.lasted_s < latest_s
    assert [line for line in logged if line["log_level"] in ("error", "critical")] == []


async def test_an_upload_may_take_long_as_long_as_it_goes_on() -> None:
    async with staged(plain, deadlines=Deadlines(body_s=0.3, piece_s=5)) as stage, stage.client() as peer:
        peer.send(HEAD % b"/api/blobs/x" + b"Content-Length: 10\r\n\r\n")
        for _ in range(10):
            await asyncio.sleep(DRIP_S)
            peer.send(b"x")
        assert (await peer.answer()).status == 200
        assert stage.calls[-1].body == b"x" * 10


async def test_an_upload_that_stops_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """The server reads on after its answer, which must not meet the error that ended the upload."""
    async with staged(plain, deadlines=Deadlines(piece_s=0.1)) as stage, stage.client() as peer:
        peer.send(HEAD % b"/api/blobs/x" + b"Content-Length: 10\r\n\r\nx")
        answer = await peer.answer()
        assert (answer.status, answer.header("connection")) == (408, "close")
        peer.send(b"yy")
        assert await peer.at_end()
        assert (await stage.rows())[0]["status"] == 408
    assert caplog.records == []


@pytest.mark.timeout(180)
@pytest.mark.parametrize("attack", ["-H", "-B"])
async def test_slowhttptest_closes_no_door(attack: str) -> None:
    program = shutil.which("slowhttptest")
    if program is None:
        pytest.skip("slowhttptest is not installed (Debian has it)")
    async with staged(plain, deadlines=Deadlines(head_s=5, body_s=5, piece_s=5)) as stage:
        url = f"http://{stage.address}/api/chat"
        command = (program, attack, "-c", "500", "-r", "200", "-i", "1", "-l", "20", "-p", "2", "-u", url)
        running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        ended = asyncio.create_task(running.wait())
        while not ended.done():
            assert (await ask(stage.address, "POST", "/api/chat")).status == 200
            await asyncio.wait((ended,), timeout=0.05)
        assert await ended == 0
