"""The ways to the stand-in that are compared: direct, through nginx, through Pilotlight.

Each program listens on a free port of loopback, keeps what it writes in a folder that is gone afterwards, and gets an
environment without settings of the caller's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxy.bench.children import ENVIRON, Child, ChildError, free_port, processors
from proxy.bench.own.figures import DIRECT, NGINX, PILOTLIGHT
from proxy.bench.own.load import Caller, LoadError, fetch, request
from proxy.bench.own.proc import family
from proxy.bench.own.standin import MODEL, NUM_CTX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

_READY_S: Final = 30.0

# As docs and guides have it for Ollama: nothing is held back, connections are kept on both sides, one line of log.
_NGINX_CONF: Final = """
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 8192;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log {folder}/nginx-access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000;
    upstream ollama {{
        server 127.0.0.1:{upstream};
        keepalive 64;
        keepalive_requests 1000000;
    }}
    server {{
        listen 127.0.0.1:{listen} backlog=2048;
        location / {{
            proxy_pass http://ollama;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 900s;
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the stand-in.

    Attributes:
        port: Where clients call.
        pids: The processes between the client and the stand-in.
    """

    name: str
    port: int
    pids: tuple[int, ...] = field(default=())


def find_nginx() -> str | None:
    """The program; Debian keeps it where the path of a plain user does not look."""
    return shutil.which("nginx") or shutil.which("nginx", path=ENVIRON["PATH"])


@contextlib.asynccontextmanager
async def open_ways(folder: Path, nginx: str | None, tell: Callable[[str], None]) -> AsyncIterator[Sequence[Way]]:
    """Start the programs; all end when the context is left.

    Args:
        folder: For their files.
        nginx: The program; ``None``: without it.
        tell: Is told each step.

    Raises:
        ChildError: One of them did not start, or did not become ready.
    """
    measured, others = processors()
    upstream = free_port()
    async with contextlib.AsyncExitStack() as stack:
        standin = Child(
            [str(upstream)],
            folder / "standin.log",
            ENVIRON,
            program=(sys.executable, "-m", "proxy.bench.own.standin"),
            cpus=others,
        )
        tell("starting the stand-in")
        await (await stack.enter_async_context(standin)).wait_listening(upstream)
        ways = [Way(DIRECT, upstream)]
        if nginx is not None:
            tell("starting nginx")
            ways.append(await _start_nginx(stack, nginx, folder, upstream, measured))
        tell("starting Pilotlight; it makes itself acquainted with the stand-in")
        ways.append(await _start_pilotlight(stack, folder, upstream, measured))
        yield ways


async def _start_nginx(
    stack: contextlib.AsyncExitStack, program: str, folder: Path, upstream: int, cpus: frozenset[int] | None
) -> Way:
    listen = free_port()
    conf = folder / "nginx.conf"
    # As root its workers become somebody else, who may not enter our folder.
    user = "user root;" if os.geteuid() == 0 else ""
    conf.write_text(_NGINX_CONF.format(folder=folder, listen=listen, upstream=upstream, user=user))
    arguments = ["-e", str(folder / "nginx-error.log"), "-p", str(folder), "-c", str(conf)]
    child = Child(arguments, folder / "nginx.log", ENVIRON, program=(program,), cpus=cpus)
    await stack.enter_async_context(child)
    await child.wait_listening(listen)
    return Way(NGINX, listen, family(_pid(child)))


async def _start_pilotlight(
    stack: contextlib.AsyncExitStack, folder: Path, upstream: int, cpus: frozenset[int] | None
) -> Way:
    """With everything on: a kept model, options and ``keep_alive`` of its own, generate as chat, metrics and log."""
    listen, admin = free_port(), free_port()
    config = folder / "pilotlight.yaml"
    settings = {
        "listen": f"127.0.0.1:{listen}",
        "admin": f"127.0.0.1:{admin}",
        "upstream": {"url": f"http://127.0.0.1:{upstream}"},
        "models": [{"name": MODEL, "keep_alive": -1, "options": {"num_ctx": NUM_CTX}}],
        # The queue is in the way of every request, but what waits in it cannot be measured.
        "scheduler": {"parallel": 1024},
    }
    # What is JSON is YAML.
    config.write_text(json.dumps(settings))
    child = Child(["serve", "--config", str(config)], folder / "pilotlight.log", ENVIRON, cpus=cpus)
    await stack.enter_async_context(child)
    await child.wait_listening(admin)

    async def is_ready() -> bool:
        return (await fetch(admin, "/readyz"))[0] == 200

    await child.wait_until(is_ready, _READY_S, "did not become ready")
    pid = _pid(child)
    way = Way(PILOTLIGHT, listen, (pid,))

    async def is_mapped() -> bool:
        _, before = await fetch(upstream, "/asked")
        caller = Caller(listen)
        try:
            caller.first_token_s(request("/api/generate", "burst"))
        except LoadError as error:
            raise ChildError(child.describe(str(error))) from error
        finally:
            caller.close()
        _, after = await fetch(upstream, "/asked")
        return bool(after["/api/chat"] > before["/api/chat"])

    await child.wait_until(is_mapped, _READY_S, "did not ask generate as chat")
    return way


def _pid(child: Child) -> int:
    if child.pid is None:
        raise ChildError(child.describe("is not running"))
    return child.pid
