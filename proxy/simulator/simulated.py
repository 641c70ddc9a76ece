"""The simulated Ollama as an object: what tests and the command line work with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from proxy.simulator.engine.runner import Pace
from proxy.simulator.handler import Handler
from proxy.simulator.net.connection import Connection
from proxy.simulator.profiles import Profile, read_profile
from proxy.simulator.state import Environment, SeenRequest, ServerState
from proxy.simulator.table import build_routes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from proxy.simulator.engine.faults import Fault, Faults, Gate
    from proxy.simulator.engine.scheduler import LoadRecord


class SimulatedOllama:
    """A server that behaves like Ollama 0.24.0, on a loopback port.

    Args:
        profile: a built-in profile's name, or a profile made with ``build_profile``.
        speed: divides every duration of generating and loading; ``math.inf`` for no waiting at all.
        load_scale: divides the duration of loads in addition.
        host, port: where to listen; port 0 picks one.
        environment: switches that the real server takes from its environment.
        parallel, max_loaded, max_queue, vram_bytes, keep_alive_ns: override the profile's machine (see ``Machine``).

    Use it as an async context manager, or call ``start`` and ``aclose``.
    """

    def __init__(
        self,
        profile: str | Profile = "recorded",
        *,
        speed: float = 1.0,
        load_scale: float = 1.0,
        host: str = "127.0.0.1",
        port: int = 0,
        environment: Environment | None = None,
        **machine: int | float | None,
    ) -> None:
        made = read_profile(profile) if isinstance(profile, str) else profile
        environment = environment or Environment()
        if environment.library is None:
            environment.library = made.library
        changed = {name: value for name, value in machine.items() if value is not None}
        self.state = ServerState(made.store, made.machine.with_changes(changed), Pace(speed, load_scale), environment)
        self.host = host
        self.port = port
        self.connections: set[Connection] = set()
        self.connections_total = 0
        self.crashed = asyncio.Event()
        self._cut_bytes: Sequence[int] = ()
        self._server: asyncio.Server | None = None

    def __repr__(self) -> str:
        return f"<SimulatedOllama {self.url} loaded={len(self.state.scheduler.loaded)}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # -- life

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen; with port 0, ``port`` is the one that was picked."""
        loop = asyncio.get_running_loop()
        handler = Handler(self.state, build_routes(), self.crash)
        self._server = await loop.create_server(
            lambda: Connection(handler, self._opened, self._closed), self.host, self.port
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self.crashed.clear()
        self.state.scheduler.start()

    async def aclose(self) -> None:
        """Stop as on SIGTERM: connections are cut, runners are gone. Safe to call twice."""
        self._stop_listening(reset=False)
        await self.state.scheduler.aclose()
        await asyncio.sleep(0)

    def crash(self) -> None:
        """Die as a killed process does: connections are reset, nothing listens."""
        self._stop_listening(reset=True)
        self.crashed.set()

    async def restart(self) -> None:
        """A new process on the same port: nothing is loaded; counters and faults are kept."""
        await self.aclose()
        self.state.restart()
        await self.start()

    async def refuse_connections(self) -> None:
        """Stop listening; open connections go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def accept_connections(self) -> None:
        """Listen again after ``refuse_connections``."""
        loop = asyncio.get_running_loop()
        handler = Handler(self.state, build_routes(), self.crash)
        self._server = await loop.create_server(
            lambda: Connection(handler, self._opened, self._closed), self.host, self.port
        )

    def _stop_listening(self, *, reset: bool) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.cut(reset=reset)

    def _opened(self, connection: Connection) -> None:
        self.connections.add(connection)
        self.connections_total += 1
        if self._cut_bytes:
            connection.cut_sizes = self._cut_bytes

    def _closed(self, connection: Connection) -> None:
        self.connections.discard(connection)

    # -- what goes wrong, and what is let out

    @property
    def faults(self) -> Faults:
        """Planned faults."""
        return self.state.faults

    @property
    def gate(self) -> Gate:
        """The gate for tokens: open until closed."""
        return self.state.gate

    def fail(self, kind: str, **details: object) -> Fault:
        """Plan a fault (see ``Faults.add``)."""
        return self.state.faults.add(kind, **details)

    def cut_frames(self, *sizes: int) -> None:
        """Send the bytes of later connections in pieces of these sizes, the last one repeated; none: as they are."""
        self._cut_bytes = sizes

    # -- what was seen

    @property
    def requests(self) -> list[SeenRequest]:
        """Every request, in order of arrival."""
        return self.state.requests

    def requests_for(self, path: str) -> list[SeenRequest]:
        """The requests for one path."""
        return [request for request in self.state.requests if request.path == path]

    @property
    def disconnects(self) -> list[SeenRequest]:
        """Requests whose client left early; ``left_s`` says when (``time.monotonic``)."""
        return self.state.disconnects()

    @property
    def load_records(self) -> list[LoadRecord]:
        """Every load, reloads and aborted ones included."""
        return self.state.scheduler.loads

    @property
    def loads(self) -> int:
        """Loads that came to their end."""
        return sum(record.outcome == "ok" for record in self.load_records)

    @property
    def reloads(self) -> int:
        """Loads for which a runner of the same weights had to go first."""
        return sum(record.was_reload for record in self.load_records)

    @property
    def running(self) -> list[str]:
        """The names that /api/ps shows."""
        return [runner.model.short_name for runner in self.state.scheduler.loaded.values()]

    @property
    def evaluated_tokens(self) -> int:
        """Prompt tokens that loaded runners have evaluated, cached ones not counted."""
        return sum(runner.evaluated_tokens for runner in self.state.scheduler.loaded.values())
