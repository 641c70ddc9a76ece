"""Switches on a port of their own."""

from __future__ import annotations

import asyncio
import math

from proxy.simulator import SimulatedOllama
from proxy.simulator.control import Control
from tests.simulator.replay import get, post, send


async def test_faults_state_gate_and_restart_from_outside() -> None:
    async with SimulatedOllama("recorded", speed=math.inf) as ollama:
        control = Control(ollama, "127.0.0.1", 0)
        await control.start()
        try:
            assert (await post(control.port, "/_sim/faults", kind="close", path="/api/tags")).json() == {"planned": 1}
            assert (await get(ollama.port, "/api/tags")).ended == "closed before the head"
            bad = await post(control.port, "/_sim/faults", kind="nonsense")
            assert (bad.status, "no such fault" in bad.json()["error"]) == (400, True)
            await post(ollama.port, "/api/generate", model="tiny")
            assert (await get(control.port, "/_sim/state")).json()["running"] == ["tiny:latest"]
            await post(control.port, "/_sim/gate", close=True)
            call = asyncio.create_task(post(ollama.port, "/api/generate", model="tiny", prompt="x"))
            await post(control.port, "/_sim/gate", open=True)
            assert (await call).status == 200
            assert (await post(control.port, "/_sim/restart")).json() == {"restarted": True}
            assert (await get(ollama.port, "/api/ps")).json() == {"models": []}
            await post(control.port, "/_sim/faults", kind="close")
            await send({"method": "DELETE", "path": "/_sim/faults"}, control.port)
            assert (await get(ollama.port, "/")).status == 200
            assert (await get(control.port, "/_sim/nothing")).status == 404
        finally:
            await control.aclose()
