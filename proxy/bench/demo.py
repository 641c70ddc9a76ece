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
from proxy.bench.first_token import Measured, MeasureError, measure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

MODEL = "llama3.2:3b"
_QUESTION = "Why is the sky blue?"

# How long the simulated Ollamas keep a model without being asked; Ollama's own default is five minutes.
SERVER_KEEP_ALIVE_S = 2
_LISTEN_S = 20.0
_READY_S = 30.0
_POLL_S = 0.05


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
    Workload("/api/generate, one after the other", (Call(counted=False), *(Call(path="/api/generate"),) * 10)),
)


@dataclass(frozen=True, slots=True)
class Row:
    """The counted calls of one workload, on both ways."""

    name: str
    direct: tuple[Measured, ...]
    proxied: tuple[Measured, ...]

    @property
    def direct_s(self) -> float:
        return mean(call.first_token_s for call in self.direct)

    @property
    def proxied_s(self) -> float:
        return mean(call.first_token_s for call in self.proxied)


class DemoError(Exception):
    """The demonstration cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What is running: the three addresses, and how long the proxy took to be ready."""

    direct_url: str
    proxied_url: str
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
    direct, behind, listen, admin = (free_port() for _ in range(4))
    ollama = {**environ, "OLLAMA_KEEP_ALIVE": f"{SERVER_KEEP_ALIVE_S}s"}
    serve = ["serve", "--upstream", f"http://127.0.0.1:{behind}", "--listen", f"127.0.0.1:{listen}"]
    serve += ["--admin", f"127.0.0.1:{admin}", "--model", MODEL]
    try:
        async with (
            Child(["simulate", "--listen", f"127.0.0.1:{direct}"], folder / "direct.log", ollama) as first,
            Child(["simulate", "--listen", f"127.0.0.1:{behind}"], folder / "behind.log", ollama) as second,
        ):
            tell("starting two simulated Ollamas")
            await first.wait_listening(direct, _LISTEN_S)
            await second.wait_listening(behind, _LISTEN_S)
            tell("starting the proxy in front of the second; it loads the model")
            started = asyncio.get_running_loop().time()
            async with Child(serve, folder / "proxy.log", environ) as proxy:
                await proxy.wait_listening(admin, _LISTEN_S)
                admin_url = f"http://127.0.0.1:{admin}"
                await _wait_ready(proxy, f"{admin_url}/readyz")
                ready_s = asyncio.get_running_loop().time() - started
                yield Stage(f"http://127.0.0.1:{direct}", f"http://127.0.0.1:{listen}", admin_url, ready_s)
    except ChildError as error:
        raise DemoError(str(error)) from error


async def _wait_ready(proxy: Child, url: str) -> None:
    async with aiohttp.ClientSession() as session:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_S):
                while proxy.is_running:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get(url) as response:
                            if response.status == 200:
                                return
                    await asyncio.sleep(_POLL_S)
    raise ChildError(proxy.describe("did not become ready"))


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
    except (MeasureError, TimeoutError) as error:
        raise DemoError(str(error) or "a call took longer than two minutes") from error
    return rows


async def _run_workload(session: aiohttp.ClientSession, scene: Stage, workload: Workload) -> Row:
    direct: list[Measured] = []
    proxied: list[Measured] = []
    for call in workload.calls:
        await asyncio.sleep(call.pause_s)
        for base_url, found in ((scene.direct_url, direct), (scene.proxied_url, proxied)):
            measured = await measure(session, f"{base_url}{call.path}", call.body())
            if call.counted:
                found.append(measured)
    return Row(workload.name, tuple(direct), tuple(proxied))


def example_calls(scene: Stage) -> list[str]:
    """Commands to try while it stays up."""
    body = json.dumps({"model": MODEL, "prompt": _QUESTION})
    return [
        f"curl {scene.proxied_url}/api/generate -d '{body}'     # proxied",
        f"curl {scene.direct_url}/api/generate -d '{body}'     # direct",
        f"curl {scene.admin_url}/requests",
        f"curl {scene.admin_url}/metrics",
    ]
