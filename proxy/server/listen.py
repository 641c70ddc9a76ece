"""The listening port: its connections, and those of them that are to end."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from aiohttp import http_parser

from proxy.relay.call import DEADLINES
from proxy.server.connection import Connection
from proxy.server.heads import Heads

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.relay.call import Deadlines
    from proxy.server.connection import Serves

# Silence before the first byte of a request, and between two requests.
KEEPALIVE_TIMEOUT_S: Final = 75.0
HEAD_TIMEOUT_S: Final = DEADLINES.head_s
BACKLOG: Final = 2048


class Listener:
    """Makes connections, and knows them.

    Args:
        relay: Serves the requests.
        on_error: Told of malformed requests and of errors that nobody caught.
        write_stall_s: Longest time for which a client's full buffer stays full; 0 for no limit.
        clock: Monotonic seconds.
        deadlines: For clients that send.

    Attributes:
        connections: Those that are open.
        heads: Of requests, as they were read.
        is_stopping: No connection is kept after the reply that is under way.
    """

    def __init__(
        self,
        relay: Serves,
        *,
        on_error: Callable[[str, BaseException | None], None],
        write_stall_s: float = 0,
        clock: Callable[[], float] = time.monotonic,
        deadlines: Deadlines = DEADLINES,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_error = on_error
        self._head_timeout_s = deadlines.head_s
        self.relay = relay
        self.clock = clock
        self.write_stall_s = write_stall_s
        self.heads = Heads()
        self.connections: set[Connection] = set()
        self.is_stopping = False

    def __repr__(self) -> str:
        return f"<Listener {len(self.connections)} connections, {self.heads!r}>"

    def __call__(self) -> Connection:
        return Connection(self, self._loop)

    def on_error(self, what: str, error: BaseException | None) -> None:
        self._on_error(what, error)

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)

    def drop_slow(self) -> None:
        """Drop connections that stay silent, or whose request's head does not come to an end.

        To be called about once a second: a timer for each would be set anew with every request.
        """
        now = self.clock()
        for connection in list(self.connections):
            if connection.task is not None:
                continue
            if connection.head_received is None:
                if connection.idle_since < now - KEEPALIVE_TIMEOUT_S:
                    connection.close()
            elif connection.head_received < now - self._head_timeout_s:
                self._on_error("slow request head", None)
                connection.abort()

    def close_idle(self) -> None:
        """Close connections on which nothing is being served, and keep no others afterwards."""
        self.is_stopping = True
        for connection in list(self.connections):
            if connection.task is None:
                connection.close()

    async def shutdown(self, timeout_s: float) -> None:
        """Close every connection; drop those whose client does not take the rest within the time."""
        self.is_stopping = True
        serving = [connection.task for connection in self.connections if connection.task is not None]
        if serving:
            await asyncio.wait(serving, timeout=timeout_s)
        open_ones = list(self.connections)
        for connection in open_ones:
            connection.lost = self._loop.create_future()
            connection.close()
        if open_ones:
            await asyncio.wait([each.lost for each in open_ones if each.lost is not None], timeout=timeout_s)
        for connection in open_ones:
            connection.abort()
        # The loop tells of the end in its next turn.
        await asyncio.sleep(0)


def require_c_parser() -> None:
    """Refuse to serve with aiohttp's parser in Python, which has accepted what the C one refuses.

    Raises:
        RuntimeError: The C extension is missing or switched off (``AIOHTTP_NO_EXTENSIONS``).
    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise RuntimeError("aiohttp's C parser is missing; install a wheel of aiohttp that has it")
