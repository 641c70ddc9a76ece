"""A page in Chromium that a test looks into while it lives, by the browser's own protocol (DevTools)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.e2e.browser import launched
from tests.peers import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_DEADLINE_S = 30.0


class Tab:
    """One page.

    Attributes:
        complaints: What the page, or the browser about it, wrote to the console as an error or a warning.
        requests: Where the page fetched from.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._loaded = asyncio.Event()

    async def read(self) -> None:
        """Take what the browser tells, until it ends."""
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            elif told["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif told["method"] == "Network.requestWillBeSent":
                self.requests.append(told["params"]["request"]["url"])
            elif told["method"] == "Runtime.exceptionThrown":
                self.complaints.append(str(told["params"]["exceptionDetails"]))
            elif told["method"] == "Runtime.consoleAPICalled" and told["params"]["type"] in ("error", "warning"):
                self.complaints.append(str(told["params"]["args"]))
            elif told["method"] == "Log.entryAdded" and told["params"]["entry"]["level"] in ("error", "warning"):
                self.complaints.append(str(told["params"]["entry"]))

    async def tell(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        return await self._answers[number]

    async def go(self, url: str) -> None:
        """Open a page; returns when it has loaded."""
        self._loaded.clear()
        await self.tell("Page.navigate", url=url)
        async with asyncio.timeout(_DEADLINE_S):
            await self._loaded.wait()

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        told = await self.tell("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        result = told["result"]
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Wait until an expression is true."""
        waiting = (
            "new Promise((resolve) => { const look = () => { const value = (() => %s)();"
            " value ? resolve(value) : setTimeout(look, 50); }; look(); })"
        )
        async with asyncio.timeout(_DEADLINE_S):
            return await self.evaluate(waiting % expression)


@contextlib.asynccontextmanager
async def opened(url: str, folder: Path, *, dark: bool = False) -> AsyncIterator[Tab]:
    """A browser with one page, opened once its console and its requests are watched."""
    async with launched(folder, "--remote-debugging-port=0", "about:blank"), aiohttp.ClientSession() as session:
        port = await _port(folder / "profile" / "DevToolsActivePort")
        async with session.get(f"http://127.0.0.1:{port}/json/list") as reply:
            pages = [each for each in await reply.json() if each["type"] == "page"]
        async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            tab = Tab(socket)
            reading = asyncio.create_task(tab.read())
            try:
                for domain in ("Runtime", "Log", "Network", "Page"):
                    await tab.tell(f"{domain}.enable")
                if dark:
                    features = [{"name": "prefers-color-scheme", "value": "dark"}]
                    await tab.tell("Emulation.setEmulatedMedia", features=features)
                await tab.go(url)
                yield tab
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)


async def _port(file: Path) -> int:
    """Where the browser listens, once it does."""
    await until(lambda: _told(file) is not None)
    return _told(file) or 0


def _told(file: Path) -> int | None:
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return int(lines[0]) if len(lines) > 1 else None
