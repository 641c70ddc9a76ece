"""The simulated Ollama with the whole proxy in front of it."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxy.server.app import Proxy
from proxy.settings import Settings
from proxy.simulator.simulated import SimulatedOllama
from tests.peers import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEADLINE_S = 20.0


@dataclass
class Pair:
    """A simulated Ollama and the proxy in front of it."""

    simulated: SimulatedOllama
    proxy: Proxy

    @property
    def direct(self) -> str:
        return f"127.0.0.1:{self.simulated.port}"

    @property
    def proxied(self) -> str:
        return self.proxy.listen_address

    @property
    def running(self) -> list[str]:
        """What is loaded, counted at the server; without the tag."""
        return sorted(name.partition(":")[0] for name in self.simulated.running)

    async def until_ready(self) -> None:
        await until(lambda: self.proxy.is_ready)


@contextlib.asynccontextmanager
async def paired(
    profile: Any = "recorded", *, simulator: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Pair]:
    """Start both, as production does, on ports of their own."""
    options = {"speed": math.inf, **(simulator or {})}
    async with SimulatedOllama(profile, **options) as simulated:
        given = {
            "listen": "127.0.0.1:0",
            "admin": "127.0.0.1:0",
            "upstream": {"url": simulated.url},
            "shutdown": {"lame_duck_s": 0, "grace_s": 1},
            **settings,
        }
        proxy = Proxy(Settings.model_validate(given))
        await proxy.start()
        try:
            yield Pair(simulated, proxy)
        finally:
            await proxy.aclose()
