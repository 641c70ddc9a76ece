"""The demonstration: first token direct against proxied, on two simulated Ollamas of the same kind.

Two, because a model that the proxy keeps resident would be resident for the direct calls too. The calls of a workload
go to both in turn, so that whatever else the machine does falls on both alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from statistics import mean
from typing import TYPE_CHECKING, Any

import aiohttp

from proxy.bench.children import Child, ChildError, free_port
from proxy.bench.first_token import MeasureError, measure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

MODEL = "llama3.2:3b"
_QUESTION = "Why is the sky blue?"

# How long the simulated Ollamas keep a model without being asked; Ollama's own default is five minutes.
SERVER_KEEP_ALIVE_S = 2
_READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a workload.

    Attributes:
        pause_s: Silence before it.
        counted: Its first token goes into the table.
    """

    extra: Mapping[str, Any] = field(default_factory=dict)
    pause_s: float = 0
    counted: bool = True
    path: str = "/api/chat"

    def body(self) -> dict[str, Any]:
        options = {"num_predict": 8, **self.extra.get("options", {})}
        asked: dict[str, Any] = {"prompt": _QUESTION}
        if self.path == "/api/chat":
            asked = {"messages": [{"role": "user", "content": _QUESTION}]}
        return {"model": MODEL, **asked, **self.extra, "options": options}


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    calls: tuple[Call, ...]


WORKLOADS = (
    Workload("first request after start", (Call(),)),
    Workload(
        f"after an idle gap of {SERVER_KEEP_ALIVE_S + 1} s",
        (Call(counted=False), Call(pause_s=SERVER_KEEP_ALIVE_S + 1)),
    ),
    Workload(
        "clients with differing runner options",
        tuple(
            Call({"options": options}) for options in ({}, {"num_batch": 256}, {"num_ctx": 8192}, {"num_thread": 2}) * 2
        ),
    ),
    Workload('after a client with keep_alive "1s"', (Call({"keep_alive": "1s"}, counted=False), Call(pause_s=2))),
    Workload("/api/generate, one after the other", (Call(counted=False), *(Call(path="/api/generate"),) * 20)),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One workload on both ways: mean first token of the counted calls, and the loads that the servers counted."""

    name: str
    direct_s: float
    proxied_s: float
    direct_loads: int
    proxied_loads: int


class DemoError(Exception):
    """The demonstration cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where calls go, and the control port of the simulated server that they reach."""

    url: str
    control_url: str


@dataclass(frozen=True, slots=True)
class Stage:
    """What is running, and how long the proxy took to be ready."""

    direct: Way
    proxied: Way
    admin_url: str
    ready_s: float


@contextlib.asynccontextmanager
async def stage(folder: Path, environ: Mapping[str, str], tell: Callable[[str], None]) -> AsyncIterator[Stage]:
    """Two simulated Ollamas and a proxy in front of the second; all end when the context is left.

    Args:
        folder: Takes what the programs write.
        environ: Theirs, without settings of ours.
        tell: Is told each step.

    Raises:
        DemoError: One of them did not start, or the proxy did not become ready.
    """
    direct, direct_control, behind, behind_control, listen, admin = (free_port() for _ in range(6))
    ollama = {**environ, "OLLAMA_KEEP_ALIVE": f"{SERVER_KEEP_ALIVE_S}s"}
    serve = ["serve", "--upstream", f"http://127.0.0.1:{behind}", "--listen", f"127.0.0.1:{listen}"]
    serve += ["--admin", f"127.0.0.1:{admin}", "--model", MODEL]
    try:
        async with (
            Child(_simulate(direct, direct_control), folder / "direct.log", ollama) as first,
            Child(_simulate(behind, behind_control), folder / "behind.log", ollama) as second,
        ):
            tell("starting two simulated Ollamas")
            await first.wait_listening(direct_control)
            await second.wait_listening(behind_control)
            tell("starting the proxy in front of the second; it loads the model")
            started = asyncio.get_running_loop().time()
            async with Child(serve, folder / "proxy.log", environ) as proxy:
                await proxy.wait_listening(admin)
                admin_url = f"http://127.0.0.1:{admin}"
                await _wait_ready(proxy, f"{admin_url}/readyz")
                ready_s = asyncio.get_running_loop().time() - started
                yield Stage(_way(direct, direct_control), _way(listen, behind_control), admin_url, ready_s)
    except ChildError as error:
        raise DemoError(str(error)) from error


def _simulate(port: int, control_port: int) -> list[str]:
    return ["simulate", "--listen", f"127.0.0.1:{port}", "--control", f"127.0.0.1:{control_port}"]


def _way(port: int, control_port: int) -> Way:
    return Way(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{control_port}")


async def _wait_ready(proxy: Child, url: str) -> None:
    async with aiohttp.ClientSession() as session:

        async def is_ready() -> bool:
            try:
                async with session.get(url) as response:
                    return response.status == 200
            except aiohttp.ClientError:
                return False

        await proxy.wait_until(is_ready, _READY_S, "did not become ready")


async def run(scene: Stage, tell: Callable[[str], None], workloads: Sequence[Workload] = WORKLOADS) -> list[Row]:
    """Every workload, once.

    Raises:
        DemoError: A call gave no token.
    """
    rows = []
    timeout = aiohttp.ClientTimeout(total=120)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for workload in workloads:
                tell(workload.name)
                rows.append(await _run_workload(session, scene, workload))
    except (MeasureError, aiohttp.ClientError, TimeoutError) as error:
        raise DemoError(str(error) or "a call took longer than two minutes") from error
    return rows


async def _run_workload(session: aiohttp.ClientSession, scene: Stage, workload: Workload) -> Row:
    direct: list[float] = []
    proxied: list[float] = []
    before = [await _loads(session, way) for way in (scene.direct, scene.proxied)]
    for call in workload.calls:
        await asyncio.sleep(call.pause_s)
        for way, found in ((scene.direct, direct), (scene.proxied, proxied)):
            measured = await measure(session, f"{way.url}{call.path}", call.body())
            if call.counted:
                found.append(measured.first_token_s)
    after = [await _loads(session, way) for way in (scene.direct, scene.proxied)]
    return Row(workload.name, mean(direct), mean(proxied), after[0] - before[0], after[1] - before[1])


async def _loads(session: aiohttp.ClientSession, way: Way) -> int:
    """How often the server has loaded a model, as it counts itself."""
    async with session.get(f"{way.control_url}/_sim/state") as response:
        loads: int = (await response.json())["loads"]
        return loads


def example_calls(scene: Stage) -> list[str]:
    """Commands to try while it stays up."""
    body = json.dumps({"model": MODEL, "prompt": _QUESTION})
    return [
        f"curl {scene.proxied.url}/api/generate -d '{body}'     # proxied",
        f"curl {scene.direct.url}/api/generate -d '{body}'     # direct",
        f"curl {scene.admin_url}/requests",
        f"curl {scene.admin_url}/metrics",
    ]
