"""A simulated Ollama, residency in front of it, and a clock that can be turned on."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.observe.metrics import Metrics
from proxy.residency.catalogue import Catalogue
from proxy.residency.service import Residency
from proxy.settings import Settings
from proxy.simulator import SimulatedOllama, build_profile
from proxy.upstream.ollama import Answer, Ollama

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from proxy.residency.prepared import Prepared

MB = 10**6
TEMPLATE = "{{- range .Messages }}<|{{ .Role }}|>{{ .Content }}<|end|>{{ end }}<|assistant|>"
# Weights of 100 MB and, with 4,096 tokens of context, another 4 MB.
WEIGHTS: dict[str, Any] = {
    "size_bytes": 100 * MB,
    "resident_bytes": 100 * MB,
    "bytes_per_context_token": 1_000,
    "context_length": 32_768,
    "load_s": 0.2,
}
MODELS = {"one": "w1", "one-again": "w1", "two": "w2", "three": "w3", "embedder": "w4"}


def profile_data(**machine: Any) -> dict[str, Any]:
    weights = {key: dict(WEIGHTS) for key in sorted(set(MODELS.values()))}
    weights["w4"]["embedding_only"] = True
    models: list[dict[str, Any]] = [
        {"name": name, "weights": key, "template": TEMPLATE} for name, key in MODELS.items()
    ]
    models[1]["parameters"] = {"num_ctx": 1024}
    library = [{"name": "fresh", "weights": "w9", "template": TEMPLATE}]
    library_weights = {"w9": {**WEIGHTS, "size_bytes": 50_000}}
    return {
        "machine": machine,
        "weights": weights,
        "models": models,
        "library": library,
        "library_weights": library_weights,
    }


class Clock:
    """The two clocks of this machine, and what the test adds to both."""

    def __init__(self) -> None:
        self.added_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.added_s

    def wall(self) -> float:
        return time.time() + self.added_s

    def advance(self, seconds: float) -> None:
        self.added_s += seconds


@dataclass
class Scene:
    """What a test works with."""

    server: SimulatedOllama
    ollama: Ollama
    metrics: Metrics
    catalogue: Catalogue
    residency: Residency
    clock: Clock

    async def settle(self) -> None:
        """Steps until nothing is left to do."""
        for _ in range(30):
            await self.residency.step()
            if not await self.residency.idle():
                continue
            return
        raise AssertionError(f"never settles: {self.residency!r} {self.residency.models()}")

    async def prepare(self, name: str, options: dict[str, Any] | None = None, **more: Any) -> Prepared:
        facts = await self.catalogue.facts(name)
        assert facts is not None
        return await self.residency.prepare(facts, options, **more)

    async def chat(self, name: str, options: dict[str, Any] | None = None, **more: Any) -> Answer:
        """What the relay does with one chat."""
        prepared = await self.prepare(name, options, **more)
        sent = {**(options or {}), **prepared.set_options, "num_predict": 1}
        body: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": "hello"}]}
        body["options"] = {key: value for key, value in sent.items() if key not in prepared.remove_options}
        keep_alive = prepared.keep_alive if prepared.keep_alive is not None else more.get("keep_alive")
        if keep_alive is not None:
            body["keep_alive"] = keep_alive
        return await self.run(name, "/api/chat", {**body, "stream": False})

    async def run(self, name: str, path: str, body: dict[str, Any]) -> Answer:
        facts = await self.catalogue.facts(name)
        assert facts is not None
        self.residency.started(facts)
        load_s = None
        try:
            answer = await self.ollama.call(path, body, timeout_s=10)
            load_s = answer.body.get("load_duration", 0) / 1e9
            return answer
        finally:
            self.residency.finished(facts, load_s=load_s)

    def model(self, name: str) -> dict[str, Any]:
        """The row of /models."""
        (row,) = [row for row in self.residency.models() if f"{name}:latest" in row["names"]]
        return row

    def state(self, name: str) -> str:
        return str(self.model(name)["state"])

    def metric(self, name: str, **labels: str) -> float:
        page, _ = self.metrics.encode()
        for family in text_string_to_metric_families(page.decode()):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return 0.0


async def until(what: Callable[[], bool], deadline_s: float = 10.0) -> None:
    """Wait until something is so. What is waited for decides, not the time."""
    async with asyncio.timeout(deadline_s):
        while not what():  # noqa: ASYNC110 - the server under test has no event for everything
            await asyncio.sleep(0.002)


@asynccontextmanager
async def open_scene(
    *models: dict[str, Any], machine: dict[str, Any] | None = None, load_scale: float = 10.0, **more: Any
) -> AsyncIterator[Scene]:
    settings = Settings.model_validate({"models": list(models), **more})
    clock = Clock()
    async with AsyncExitStack() as stack:
        profile = build_profile(profile_data(**(machine or {})))
        server = await stack.enter_async_context(SimulatedOllama(profile, load_scale=load_scale))
        session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        ollama = Ollama(session, server.url)
        metrics = Metrics(known_models=[model["name"] for model in models])
        catalogue = Catalogue(ollama, metrics)
        residency = Residency(settings, ollama, catalogue, metrics, clock, clock.wall)
        stack.push_async_callback(residency.aclose)
        yield Scene(server, ollama, metrics, catalogue, residency, clock)


@pytest.fixture
def scene() -> Callable[..., Any]:
    """``async with scene(model, ..., machine={...}, residency={...}) as s:``"""
    return open_scene
