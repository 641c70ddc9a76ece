"""The services with what compose gives them: commands, environment, the files of ``deploy/prepare``; as processes."""

from __future__ import annotations

import contextlib
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from proxy.bench.children import Child, free_port
from tests.deploy.prepared import needs_openssl, prepare
from tests.deploy.rendered import BASE, program, render
from tests.nginx import needs_nginx, nginx, render_committed
from tests.peers import until_answered
from tests.stage import chat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [
    *needs_nginx,
    needs_openssl,
    pytest.mark.timeout(300),
]

MODEL = "llama3.2:3b"


@dataclass
class Composed:
    """What is running."""

    edge: str
    proxy: str
    admin: str
    keys: dict[str, str]
    session: aiohttp.ClientSession
    tls: ssl.SSLContext

    async def status(self, url: str, *, key: str = "", host: str = "", body: dict[str, Any] | None = None) -> int:
        fields = {"Authorization": f"Bearer {self.keys[key]}"} if key else {}
        fields |= {"Host": host} if host else {}
        method = "GET" if body is None else "POST"
        async with self.session.request(method, url, json=body, headers=fields, ssl=self.tls) as reply:
            await reply.read()
            return reply.status


@contextlib.asynccontextmanager
async def composed(folder: Path, env: str) -> AsyncIterator[Composed]:
    """With these lines in ``.env``."""
    if program()[0] is None:
        pytest.skip(program()[1])
    (folder / ".env").write_text(env, encoding="utf-8")
    deploy = prepare(folder, MODEL)
    services = render(BASE, "docker-compose.simulated.yml", profiles=("edge",), env=str(folder / ".env"))["services"]
    at = {name: f"127.0.0.1:{free_port()}" for name in ("ollama", "proxy", "admin")}
    here = {
        "0.0.0.0:11434": at["ollama"],
        "ollama:11434": at["ollama"],
        "0.0.0.0:11435": at["proxy"],
        "0.0.0.0:11436": at["admin"],
        "172.30.114.0/24": "127.0.0.1",
        "/etc/pilotlight": str(deploy / "settings"),
    }

    def moved(text: str) -> str:
        for there, place in here.items():
            text = text.replace(there, place)
        return text

    def child(name: str) -> Child:
        environ = {key: moved(value) for key, value in services[name]["environment"].items()}
        environ |= {"PATH": os.environ["PATH"], "PILOTLIGHT_SHUTDOWN__LAME_DUCK_S": "0"}
        return Child([moved(word) for word in services[name]["command"]], folder / f"{name}.log", environ)

    secrets = deploy / "secrets"
    keys = {name: (secrets / f"{name}.key").read_text(encoding="ascii").strip() for name in ("manage", "read")}
    port = free_port()
    conf = render_committed(folder, port=port, upstream=at["proxy"], secrets=secrets)
    tls = ssl.create_default_context(cafile=secrets / "tls.pem")
    async with (
        child("ollama"),
        child("pilotlight") as pilotlight,
        nginx(folder, conf, port),
        aiohttp.ClientSession() as session,
    ):
        await pilotlight.wait_listening(int(at["admin"].rpartition(":")[2]), 30)
        yield Composed(
            f"https://localhost:{port}", f"http://{at['proxy']}", f"http://{at['admin']}", keys, session, tls
        )


async def test_as_it_comes_this_machine_calls_and_only_the_key_manages(tmp_path: Path) -> None:
    async with composed(tmp_path, "") as running:

        async def is_resident() -> bool:
            return await running.status(f"{running.admin}/readyz") == 200

        # The model of the settings file, which the simulated Ollama has.
        await until_answered(is_resident, 60)
        assert await running.status(f"{running.proxy}/api/chat", body=chat(model=MODEL)) == 200
        # nginx is not published, but who comes by it is a stranger all the same.
        assert await running.status(f"{running.edge}/api/copy", body={"source": MODEL, "destination": "b"}) == 403
        copy = {"source": MODEL, "destination": "c"}
        assert await running.status(f"{running.edge}/api/copy", key="manage", body=copy) == 200
        assert await running.status(f"{running.edge}/api/copy", key="read", body=copy) == 403


async def test_where_nginx_is_published_everybody_shows_a_key_and_prometheus_does(tmp_path: Path) -> None:
    async with composed(tmp_path, "EDGE_ADDRESS=0.0.0.0\nPUBLIC_HOST=models.example\n") as running:
        url = f"{running.edge}/api/tags"
        assert await running.status(url) == 401
        assert await running.status(url, host="models.example") == 401
        assert await running.status(url, key="manage", host="models.example") == 200
        assert await running.status(url, key="manage", host="evil.example") == 421
        assert await running.status(f"{running.admin}/metrics", key="read", host="pilotlight:11436") == 200
        assert await running.status(f"{running.admin}/metrics", host="elsewhere:11436") == 421
