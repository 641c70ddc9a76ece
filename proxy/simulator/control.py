"""The control port: faults, gate and restarts from outside, on a port of its own under ``/_sim/``.

| call | does |
| --- | --- |
| ``GET /_sim/state`` | what is loaded, counters |
| ``POST /_sim/faults`` | plan a fault: ``{"kind": "cut", "after": 3, "times": 1, ...}`` |
| ``DELETE /_sim/faults`` | forget all faults |
| ``POST /_sim/gate`` | ``{"close": true}``, ``{"let": 5}`` or ``{"open": true}`` |
| ``POST /_sim/restart`` | a new process: connections are cut, nothing is loaded |
| ``POST /_sim/refuse`` | ``{"seconds": 5}``: refuse connections for so long |
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

from proxy.simulator.engine.faults import KINDS
from proxy.simulator.net.connection import Connection, Exchange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.simulator.simulated import SimulatedOllama

_NOT_FOUND: Final[dict[str, object]] = {
    "error": "no such call; there are state, faults, gate, restart and refuse under /_sim/"
}


class Control:
    """The control port of one simulated server."""

    def __init__(self, simulated: SimulatedOllama, host: str, port: int) -> None:
        self._simulated = simulated
        self._host = host
        self.port = port
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._later: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._handle, self._connections.add, self._connections.discard), self._host, self.port
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.cut()
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)

    async def _handle(self, exchange: Exchange) -> None:
        call = (exchange.head.method, exchange.head.path)
        try:
            given = json.loads(await exchange.body() or b"{}")
            if not isinstance(given, dict):
                raise ValueError("a JSON object is needed")
            answer = await self._do(call, given)
            status = 200
        except (ValueError, TypeError) as error:
            status, answer = 400, {"error": str(error)}
        if answer is None:
            status, answer = 404, _NOT_FOUND
        exchange.response.set_header("Content-Type", "application/json")
        exchange.response.write_header(status)
        exchange.response.write(json.dumps(answer).encode())

    async def _do(self, call: tuple[str, str], given: Mapping[str, object]) -> dict[str, object] | None:
        simulated = self._simulated
        if call == ("GET", "/_sim/state"):
            return self._state()
        if call == ("POST", "/_sim/faults"):
            details = {name: value for name, value in given.items() if name != "kind"}
            simulated.fail(str(given.get("kind", "")), **details)
            return {"planned": len(simulated.faults.waiting)}
        if call == ("DELETE", "/_sim/faults"):
            simulated.faults.clear()
            return {"planned": 0}
        if call == ("POST", "/_sim/gate"):
            self._gate(given)
            return {"waiting": simulated.gate.waiting}
        if call == ("POST", "/_sim/restart"):
            await simulated.restart()
            return {"restarted": True}
        if call == ("POST", "/_sim/refuse"):
            seconds = given.get("seconds", 1)
            if not isinstance(seconds, int | float):
                raise ValueError("seconds: a number is needed")
            await simulated.refuse_connections()
            task = asyncio.get_running_loop().create_task(self._accept_after(seconds))
            self._later.add(task)
            task.add_done_callback(self._later.discard)
            return {"refusing_s": seconds}
        return None

    async def _accept_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._simulated.accept_connections()

    def _gate(self, given: Mapping[str, object]) -> None:
        gate = self._simulated.gate
        tokens = given.get("let", 0)
        if given.get("close"):
            gate.close()
        if isinstance(tokens, int) and tokens > 0:
            gate.let(tokens)
        if given.get("open"):
            gate.open()

    def _state(self) -> dict[str, object]:
        simulated = self._simulated
        return {
            "running": simulated.running,
            "loads": simulated.loads,
            "reloads": simulated.reloads,
            "requests": len(simulated.requests),
            "disconnects": len(simulated.disconnects),
            "queued": simulated.state.scheduler.waiting,
            "faults": [fault.kind for fault in simulated.faults.waiting],
            "fault_kinds": KINDS,
        }
