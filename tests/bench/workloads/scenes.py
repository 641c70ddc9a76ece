"""Simulated servers of known speeds, with a real proxy in front, for what measures them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxy.bench.run import Bench
from proxy.bench.workloads.plan import Plan
from proxy.bench.workloads.server import Server
from proxy.server.app import Proxy
from proxy.settings import Settings
from proxy.simulator import SimulatedOllama, build_profile
from tests.peers import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.bench.results import Run
    from proxy.bench.run import Step

GIB = 2**30
LOAD_S = 0.25
TOKEN_S = 0.01
SYSTEM = "Keep to the rules of the house, and say so where something is not known. " * 12


def profile(**weights: Any) -> Any:
    """Two models of which one fits, and one call at a time."""
    speeds = {"load_s": LOAD_S, "prompt_tokens_per_s": 2000.0, "tokens_per_s": 1 / TOKEN_S, **weights}
    held = {"size_bytes": 2 * GIB, "resident_bytes": 2 * GIB, **speeds}
    template = "{{ if .System }}{{ .System }}\n{{ end }}{{ .Prompt }}"
    return build_profile(
        {
            "machine": {"vram_bytes": 3 * GIB, "parallel": 1, "max_loaded": 1},
            "weights": {"one": held, "two": {**held, "size_bytes": GIB}, "vectors": {**held, "embedding_only": True}},
            "models": [{"name": name, "weights": name, "template": template} for name in ("one", "two", "vectors")],
        }
    )


def plan(*workloads: str, **more: Any) -> Plan:
    """Little of everything, for the model ``one``."""
    given: dict[str, Any] = {
        "model": "one",
        "second_model": "two",
        "runs": 1,
        "calls": 3,
        "concurrency": 3,
        "num_predict": 2,
        "background_calls": 2,
        "keep_alive": "100ms",
        "settle_s": 2.0,
        **more,
    }
    return Plan(workloads=workloads, **given)


@dataclass
class Stage:
    """What is measured.

    Attributes:
        behind: The server behind the proxy; where both sides are one, ``direct`` itself.
    """

    direct: SimulatedOllama
    behind: SimulatedOllama
    proxy: Proxy

    @property
    def via_url(self) -> str:
        return f"http://{self.proxy.listen_address}"


@contextlib.asynccontextmanager
async def staged(
    *, shared: bool = False, check_every_s: float = 0.2, load_s: float = LOAD_S, **settings: Any
) -> AsyncIterator[Stage]:
    """Two servers, or one, and a proxy that keeps the model ``one``, ready."""
    async with contextlib.AsyncExitStack() as stack:
        direct = await stack.enter_async_context(SimulatedOllama(profile(load_s=load_s)))
        behind = direct if shared else await stack.enter_async_context(SimulatedOllama(profile(load_s=load_s)))
        proxy = Proxy(
            Settings.model_validate(
                {
                    "listen": "127.0.0.1:0",
                    "admin": "127.0.0.1:0",
                    "upstream": {"url": behind.url},
                    "models": [{"name": "one"}],
                    "scheduler": {"parallel": 1, "max_loaded_models": 1},
                    "residency": {"check_every_s": check_every_s},
                    "shutdown": {"lame_duck_s": 0, "grace_s": 1},
                    **settings,
                }
            )
        )
        await proxy.start()
        stack.push_async_callback(proxy.aclose)
        await until(lambda: proxy.is_ready)
        yield Stage(direct, behind, proxy)


@contextlib.asynccontextmanager
async def entered(stage: Stage, wanted: Plan, *, told: list[Step] | None = None) -> AsyncIterator[Bench]:
    """What measures this stage, prepared."""
    async with Server("--direct", stage.direct.url, {}) as direct, Server("--via", stage.via_url, {}) as via:
        bench = Bench(wanted, direct, via, (told if told is not None else []).append)
        await bench.prepare()
        yield bench


async def measured(wanted: Plan, **staging: Any) -> Run:
    """All of a plan."""
    async with staged(**staging) as stage, entered(stage, wanted) as bench:
        await bench.measure()
        return bench.result()
