"""A real browser, and the site that the page in it comes from."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from tests.stage import chat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DEADLINE_S = 45.0
CHROMIUM = shutil.which("chromium")
needs_chromium = [
    pytest.mark.chromium,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

# The columns of the table in docs/security.md.
COLUMNS = ("a page that may call", "any other page", "a page under a rebound name")
JSON = {"Content-Type": "application/json"}

# Nothing but the page is fetched, and no name leads off this machine.
_FLAGS = (
    "--headless",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--host-resolver-rules=MAP *.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_PAGE = """<!doctype html><meta charset="utf-8"><title>a page</title><script type="module">
const server = %s, attempts = %s, results = {};
async function make(attempt) {
  try {
    const reply = await fetch(server + attempt.path, attempt.init);
    const seen = {type: reply.type, status: reply.status, headers: Object.fromEntries(reply.headers)};
    if (attempt.stream && reply.body) {
      const reader = reply.body.getReader(), decoder = new TextDecoder();
      const first = await reader.read();
      seen.first = decoder.decode(first.value);
      await fetch("/first-piece", {method: "POST"});
      seen.rest = "";
      for (let piece = await reader.read(); !piece.done; piece = await reader.read())
        seen.rest += decoder.decode(piece.value);
    } else seen.text = await reply.text();
    return seen;
  } catch (error) { return {rejected: String(error)}; }
}
for (const [name, attempt] of Object.entries(attempts)) results[name] = await make(attempt);
await fetch("/report", {method: "POST", body: JSON.stringify(results)});
</script>"""


@contextlib.asynccontextmanager
async def launched(folder: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A browser of its own, within the deadline; what it writes is in ``log`` of the folder."""
    assert CHROMIUM is not None
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with (folder / "log").open("wb") as log:
        browser = await asyncio.create_subprocess_exec(
            CHROMIUM,
            *_FLAGS,
            *as_root,
            f"--user-data-dir={folder / 'profile'}",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield browser
    finally:
        # The group is its own: it is many processes.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(browser.pid, signal.SIGKILL)
        await browser.wait()


@dataclass(frozen=True, slots=True)
class Opened:
    """What became of a page that was opened from a file.

    Attributes:
        console: Lines that the page, or the browser about it, wrote there.
        requests: Where the page wanted to fetch from; the browser's own errands are left out.
    """

    console: tuple[str, ...]
    requests: tuple[str, ...]


async def open_file(page: Path, folder: Path) -> Opened:
    """Open a page from the disk, let it load, and print it to ``page.pdf`` in the folder."""
    flags = ("--enable-logging=stderr", f"--log-net-log={folder / 'net.json'}", f"--print-to-pdf={folder / 'page.pdf'}")
    async with launched(folder, *flags, page.as_uri()) as browser:
        await browser.wait()
    log = (folder / "log").read_text(encoding="utf-8", errors="replace")
    net = json.loads((folder / "net.json").read_text(encoding="utf-8"))
    begun = net["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    requests = (event["params"] for event in net["events"] if event["type"] == begun and "url" in event["params"])
    return Opened(
        tuple(line.partition("] ")[2] for line in log.splitlines() if ":CONSOLE" in line),
        tuple(each["url"] for each in requests if each["initiator"] != "not an origin"),
    )


class Site:
    """Serves one page that makes its attempts when it is opened, and takes its report.

    Attributes:
        server: Where the page's requests go, as ``http://host:port``; empty: to the site's own name.
        attempts: By their names: ``path``, ``init`` as for ``fetch``, and ``stream``.
        relays_to: Where everything goes that is not the site's own; so a name looks that was rebound meanwhile.
        first_piece: Set when the page has read the first piece of a stream.
    """

    def __init__(self) -> None:
        self.server = ""
        self.attempts: dict[str, Any] = {}
        self.relays_to = ""
        self.first_piece = asyncio.Event()
        self.port = 0
        self._report: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def visit(self, name: str, folder: Path) -> dict[str, Any]:
        """Open the page under a name of the site's, and return what its attempts came to."""
        async with launched(folder, f"http://{name}:{self.port}/"):
            return await self._report

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/":
            return web.Response(
                text=_PAGE % (json.dumps(self.server), json.dumps(self.attempts)), content_type="text/html"
            )
        if request.path == "/report":
            self._report.set_result(json.loads(await request.text()))
            return web.Response()
        if request.path == "/first-piece":
            self.first_piece.set()
            return web.Response()
        if not self.relays_to:
            return web.Response(status=404)
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method,
                f"http://{self.relays_to}{request.path_qs}",
                headers=request.headers,
                data=await request.read() or None,
            ) as reply,
        ):
            return web.Response(status=reply.status, body=await reply.read(), headers={"X-Relayed": "1"})


@contextlib.asynccontextmanager
async def opened_site() -> AsyncIterator[Site]:
    site = Site()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", site.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        site.port = runner.addresses[0][1]
        yield site
    finally:
        await runner.cleanup()


def post(name: str, headers: dict[str, str], *, path: str = "/api/chat", **init: Any) -> dict[str, Any]:
    """A call whose body says which attempt it is."""
    body = {**chat(stream=False), "messages": [{"role": "user", "content": f"<{name}>"}]}
    return {"path": path, "init": {"method": "POST", "headers": headers, "body": json.dumps(body), **init}}


def attempts() -> dict[str, Any]:
    stream = post("reads a stream", JSON)
    body = {**json.loads(stream["init"]["body"]), "stream": True}
    return {
        "reads `/api/tags`": {"path": "/api/tags?reads `/api/tags`", "init": {}},
        "posts JSON": post("posts JSON", JSON),
        "posts `text/plain`": post("posts `text/plain`", {"Content-Type": "text/plain"}),
        "posts `text/plain`, `no-cors`": post(
            "posts `text/plain`, `no-cors`", {"Content-Type": "text/plain"}, mode="no-cors"
        ),
        "reads a stream": {**stream, "stream": True, "init": {**stream["init"], "body": json.dumps(body)}},
        "deletes a model": {
            "path": "/api/delete",
            "init": {"method": "DELETE", "headers": JSON, "body": json.dumps({"model": "<deletes a model>"})},
        },
        "pulls a model with `text/plain`": {
            "path": "/api/pull",
            "init": {
                "method": "POST",
                "headers": {"Content-Type": "text/plain"},
                "body": json.dumps({"model": "<pulls a model with `text/plain`>"}),
            },
        },
    }


def table_rows(page: str, beginning: str) -> list[list[str]]:
    """The table of a document whose heading begins like this, heading first."""
    _, _, rest = page.partition(f"\n{beginning}")
    assert rest, beginning
    lines = (beginning + rest.partition("\n\n")[0]).splitlines()
    heading, _, *rows = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines)
    return [heading, *rows]
