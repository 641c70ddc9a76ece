"""Traffic that gives every series a reason to move: all routes, classes, faults and limits."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.stack import KEYS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.deploy.stack import Stack

ROUNDS: Final = 5
_APP: Final = {"X-API-Key": KEYS["app"]}
_SLOW: Final = {"X-API-Key": KEYS["slow"]}


def chat(model: str, text: str, **options: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "options": {"num_predict": 6, **options}}


class Load:
    """Clients of one stack; ``statuses`` counts what they were answered."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.statuses: dict[int, int] = {}
        self._asked = 0

    async def run(self) -> None:
        for turn in range(ROUNDS):
            async with asyncio.TaskGroup() as group:
                for call in self._round(turn):
                    group.create_task(call)
        await self._until_moved("pilotlight_incomplete_total", self._cut)
        await self._until_moved("pilotlight_prompts_cut_total", self._write_too_much)
        await self._until_moved("batch_processor_rejected_total", self._flood, reason="full")
        await self._until_moved("pilotlight_shared_total", self._ask_alike)
        await self._until_moved("cache_evictions_total", self._ask_alike)
        await self._until_moved("pilotlight_embed_batches_total", self._embed)
        await self._until_moved("pilotlight_upstream_retries_total", self._close)
        await self._until_moved("pilotlight_fallback_total", self._go_away)
        await self._until_moved("pilotlight_upstream_breaker_open", self._go_away)

    async def _until_moved(self, name: str, action: Callable[[], Awaitable[None]], **labels: str) -> None:
        """Do what moves a metric until it has: on a busy machine two that should meet may miss each other."""
        while not await self._value(name, labels):
            await action()

    async def _value(self, name: str, labels: Mapping[str, str]) -> float:
        """The sum over a metric's series, as the admin port has it now."""
        async with self._stack.session.get(f"http://{self._stack.admin}/metrics") as reply:
            page = await reply.text()
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        return sum(
            sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def _round(self, turn: int) -> list[Any]:
        post = self._post
        same = chat("keeper", "the same each time", temperature=0)
        v1 = {"model": "keeper", "max_tokens": 6, "messages": [{"role": "user", "content": f"v1 {turn}"}]}
        calls = [
            post("/api/chat", chat("keeper", f"quick {turn}"), {**_APP, "X-Priority": "interactive"}),
            post("/api/chat", chat("keeper", f"other options {turn}", num_ctx=1024, num_batch=64)),
            post("/api/chat", {**chat("keeper", f"night {turn}"), "stream": False}, {"X-Priority": "batch"}),
            post("/api/generate", {"model": "second", "prompt": f"plain {turn}", "options": {"num_predict": 6}}),
            post("/api/chat", same),
            self._ask_alike(),
            self._embed(),
            post("/v1/chat/completions", {**v1, "stream": True, "stream_options": {"include_usage": True}}),
            post("/v1/messages", v1),
            post("/api/chat", chat("keeper", f"too often {turn}"), _SLOW),
            post("/api/chat", chat("nobody-has-this", "hello")),
            self._get("/api/tags"),
            self._get("/no/such/page"),
            self._leave(chat("second", f"left {turn}", num_predict=200)),
            self._by_nginx(chat("keeper", f"from afar {turn}")),
        ]
        if turn % 3 == 1:
            calls.append(post("/api/chat", chat("visitor", f"visit {turn}")))
        if turn == 4:
            calls.append(self._fault("status", status=500, text="out of order", path="/api/chat"))
        return calls

    async def _cut(self) -> None:
        await self._fault("cut", after=2, path="/api/chat")

    async def _close(self) -> None:
        await self._fault("close", path="/api/chat")

    async def _write_too_much(self) -> None:
        await self._post("/api/chat", chat("keeper", "a word too many " * 1000))

    async def _flood(self) -> None:
        bodies = [{**chat("keeper", f"flood {number}"), "stream": False} for number in range(30)]
        await asyncio.gather(*(self._post("/api/chat", body) for body in bodies))

    async def _ask_alike(self) -> None:
        """The same question from two, and one that nobody asked before."""
        self._asked += 1
        body = chat("second", f"alike {self._asked}", seed=self._asked)
        await asyncio.gather(self._post("/api/chat", body), self._post("/api/chat", body))

    async def _embed(self) -> None:
        bodies = [{"model": "embedder", "input": f"text {number}"} for number in range(4)]
        await asyncio.gather(*(self._post("/api/embed", body) for body in bodies))

    async def _go_away(self) -> None:
        await self._stack.simulate("restart")
        await self._stack.simulate("refuse", seconds=2)
        bodies = [chat("keeper", f"while it is away {number}") for number in range(8)]
        await asyncio.gather(*(self._post("/api/chat", body) for body in bodies))

    async def _post(self, path: str, body: dict[str, Any], fields: Mapping[str, str] = _APP) -> None:
        async with self._stack.session.post(f"http://{self._stack.proxy}{path}", json=body, headers=fields) as reply:
            self.statuses[reply.status] = self.statuses.get(reply.status, 0) + 1
            # A fault that was planned may meet any of them; such a stream ends without its last chunk.
            with contextlib.suppress(aiohttp.ClientPayloadError):
                await reply.read()

    async def _get(self, path: str) -> None:
        async with self._stack.session.get(f"http://{self._stack.proxy}{path}") as reply:
            await reply.read()

    async def _leave(self, body: dict[str, Any]) -> None:
        """Read a first piece, and go."""
        async with self._stack.session.post(f"http://{self._stack.proxy}/api/chat", json=body) as reply:
            with contextlib.suppress(aiohttp.ClientPayloadError):
                await reply.content.readline()
            reply.close()

    async def _by_nginx(self, body: dict[str, Any]) -> None:
        url = f"{self._stack.front_url}/api/chat"
        async with self._stack.session.post(url, json=body, headers=_APP, ssl=self._stack.tls) as reply:
            self.statuses[reply.status] = self.statuses.get(reply.status, 0) + 1
            with contextlib.suppress(aiohttp.ClientPayloadError):
                await reply.read()

    async def _fault(self, kind: str, **details: Any) -> None:
        await self._stack.simulate("faults", kind=kind, **details)
        await self._post("/api/chat", chat("second", f"meets {kind}"))
