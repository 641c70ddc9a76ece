"""The way out of a connection, over real sockets: every byte, in order, and none to anybody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
import struct
from typing import TYPE_CHECKING, cast

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.outlet import Outlet
from tests.peers import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LOOPS = pytest.mark.parametrize("make_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
DEADLINE_S = 20.0


class Writing(asyncio.Protocol):
    """One end of a connection, which is told what a protocol is told."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.outlet: Outlet
        self.pauses: list[bool] = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self.transport = cast("asyncio.Transport", transport)
        self.outlet = Outlet(self.transport)

    def pause_writing(self) -> None:
        self.pauses.append(True)

    def resume_writing(self) -> None:
        self.pauses.append(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Writing, socket.socket]]:
    """An outlet with little room in the kernel, and the socket at its other end."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as far:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        far.setblocking(False)
        near, _ = await asyncio.gather(
            loop.run_in_executor(None, lambda: listener.accept()[0]),
            loop.sock_connect(far, listener.getsockname()),
        )
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        near.setblocking(False)
        _, writing = await loop.create_connection(Writing, sock=near)
        try:
            yield writing, far
        finally:
            if not writing.transport.is_closing():
                writing.transport.abort()
            async with asyncio.timeout(DEADLINE_S):
                await writing.lost


def run(make_loop: Callable[[], asyncio.AbstractEventLoop], main: object) -> None:
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main)  # type: ignore[arg-type]


async def read_all(far: socket.socket, sizes: random.Random) -> bytes:
    loop, found = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(DEADLINE_S):
        while piece := await loop.sock_recv(far, sizes.choice((1, 100, 3000, 2**16))):
            found += piece
    return bytes(found)


@LOOPS
@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from((1, 10, 3000, 20_000, 90_000)), st.sampled_from((0, 0, 0, 1, 2))), max_size=25),
    st.integers(0, 2**16),
)
def test_bytes_arrive_in_the_order_in_which_they_were_written(
    make_loop: Callable[[], asyncio.AbstractEventLoop], writes: list[tuple[int, int]], seed: int
) -> None:
    """However much the kernel takes, and whether a turn of the loop was between two writes or not."""
    dice = random.Random(seed)
    pieces = [dice.randbytes(size) for size, _ in writes]

    async def main() -> None:
        async with connected() as (writing, far):
            loop = asyncio.get_running_loop()
            for piece, (_, how) in zip(pieces, writes, strict=True):
                if how == 1:
                    # From a callback of the loop, in the same turn as others.
                    loop.call_soon(writing.outlet.write, piece)
                    await asyncio.sleep(0)
                else:
                    writing.outlet.write(piece)
                if how == 2:
                    with contextlib.suppress(BlockingIOError):
                        received.extend(far.recv(5000))
                    await asyncio.sleep(0)
            writing.transport.close()
            received.extend(await read_all(far, dice))

    received = bytearray()
    run(make_loop, main())
    assert bytes(received) == b"".join(pieces)


@LOOPS
def test_what_is_written_is_there_before_the_turn_is_over(make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        async with connected() as (writing, far):
            writing.outlet.write(b"token")
            assert far.recv(100) == b"token"

    run(make_loop, main())


@LOOPS
def test_what_the_kernel_does_not_take_is_counted_by_the_transport(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        async with connected() as (writing, far):
            for _ in range(40):
                writing.outlet.write(bytes(10_000))
            await until(lambda: bool(writing.pauses))
            assert writing.pauses == [True]
            assert 100_000 < writing.transport.get_write_buffer_size() < 400_000
            writing.transport.close()
            assert len(await read_all(far, random.Random(1))) == 400_000
            assert writing.pauses == [True, False]

    run(make_loop, main())


@LOOPS
def test_a_peer_that_has_reset_the_connection_is_told_of_by_the_transport(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        async with connected() as (writing, far):
            writing.transport.pause_reading()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            far.close()
            async with asyncio.timeout(DEADLINE_S):
                while not writing.lost.done():
                    writing.outlet.write(b"x")
                    await asyncio.sleep(0)
            assert isinstance(writing.lost.result(), ConnectionError)
            writing.outlet.write(b"y")

    run(make_loop, main())


@LOOPS
@pytest.mark.parametrize("how", ["close", "abort"])
def test_nothing_is_written_to_who_has_the_descriptor_next(
    make_loop: Callable[[], asyncio.AbstractEventLoop], how: str
) -> None:
    async def main() -> None:
        # Before the connection, so that neither end gets its number.
        reading, other = os.pipe()
        os.set_blocking(reading, False)
        async with connected() as (writing, _):
            descriptor = writing.transport.get_extra_info("socket").fileno()
            getattr(writing.transport, how)()
            writing.outlet.write(b"while it closes")
            async with asyncio.timeout(DEADLINE_S):
                await writing.lost
            # uvloop closes the socket after it has told of it.
            await until(lambda: not _is_open(descriptor))
            os.dup2(other, descriptor)
            try:
                writing.outlet.write(b"for another")
                with pytest.raises(BlockingIOError):
                    os.read(reading, 100)
            finally:
                for each in {reading, other, descriptor}:
                    os.close(each)

    run(make_loop, main())


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


class Told(asyncio.Transport):
    """A transport that encrypts, as far as an outlet sees: its socket must not be written to."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"socket": sock, "sslcontext": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)})
        self.written: list[bytes] = []

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))


async def test_where_a_transport_encrypts_everything_goes_through_it() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.setblocking(False)
        transport = Told(near)
        outlet = Outlet(transport)
        outlet.write(b"secret")
        await asyncio.sleep(0)
        outlet.write(b"too")
        assert transport.written == [b"secret", b"too"]
        with pytest.raises(BlockingIOError):
            far.recv(10)
