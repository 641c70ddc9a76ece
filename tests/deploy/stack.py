"""Simulated Ollama, proxy, nginx and Prometheus, each a process of its own, as the compose file would start them.

The configuration is the committed one, keys and certificate are what ``deploy/prepare`` makes. What is changed in it
stands in the tables below.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import yaml

from proxy.bench.children import PILOTLIGHT, Child, free_port
from proxy.edge.keys import hash_key, new_key
from tests.deploy.prepared import prepare
from tests.nginx import nginx, render_committed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ROOT: Final = Path(__file__).parent.parent.parent
DEPLOY: Final = ROOT / "deploy"
PROMETHEUS: Final = shutil.which("prometheus")
START_S: Final = 30.0
# A noisy machine; nothing is decided by it.
WITHIN_S: Final = 40.0

# Windows and waits of the rules, so that minutes become seconds. Thresholds stay.
WINDOWS: Final = {"5m": "5s", "15m": "15s", "1h": "30s", "1d": "120s"}
FOR: Final = "1s"

KEYS: Final = {name: new_key(bytes([place] * 32)) for place, name in enumerate(("app", "slow"), 1)}
MODELS: Final = {
    # Two of these fit side by side; the visitor pushes one out.
    "machine": {"vram_bytes": 4_000_000_000, "max_loaded": 3, "unload_s": 0.05},
    "weights": {
        name: {
            "size_bytes": size,
            "resident_bytes": size,
            "bytes_per_context_token": 1000,
            "load_s": 0.3,
            "prompt_tokens_per_s": 3000,
            "tokens_per_s": 150,
            "context_length": 8192,
            "vocab_size": 32000,
            **more,
        }
        for name, size, more in (
            ("keeper", 1_200_000_000, {}),
            ("second", 1_000_000_000, {}),
            ("visitor", 2_500_000_000, {}),
            ("embedder", 200_000_000, {"embedding_only": True}),
        )
    },
    "models": [
        {
            "name": name,
            "weights": name,
            "template": "{{ range .Messages }}<|{{ .Role }}|>{{ .Content }}{{ end }}<|assistant|>",
        }
        for name in ("keeper", "second", "visitor", "embedder")
    ],
}


def render(text: str, replaced: dict[str, str]) -> str:
    """A committed file with each of these replaced, all of which have to be in it."""
    for committed, here in replaced.items():
        assert committed in text, committed
        text = text.replace(committed, here)
    return text


def render_rules(text: str) -> str:
    text = re.sub(r"\[(\w+)\]", lambda found: f"[{WINDOWS[found[1]]}]", text)
    return re.sub(r"\bfor: \w+", f"for: {FOR}", text)


@dataclass
class Stack:
    """Everything that was started."""

    folder: Path
    ollama: str
    control: str
    proxy: str
    admin: str
    front: str
    prometheus: str
    fallback: str
    session: aiohttp.ClientSession
    secrets: Path
    running: dict[str, Child] = field(default_factory=dict)

    async def get(self, base: str, path: str, **asked: str) -> Any:
        async with self.session.get(f"http://{base}{path}", params=asked) as reply:
            return await reply.json()

    async def simulate(self, call: str, **body: Any) -> None:
        """Something of the simulator's control port."""
        async with self.session.post(f"http://{self.control}/_sim/{call}", json=body) as reply:
            assert reply.status == 200, await reply.text()

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """An instant query; what came back."""
        answer = await self.get(self.prometheus, "/api/v1/query", query=expr)
        assert answer["status"] == "success", (expr, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    async def query_range(self, expr: str, start: float, end: float, step_s: float) -> list[dict[str, Any]]:
        answer = await self.get(
            self.prometheus, "/api/v1/query_range", query=expr, start=str(start), end=str(end), step=str(step_s)
        )
        assert answer["status"] == "success", (expr, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    async def alerts(self) -> dict[str, list[dict[str, Any]]]:
        """The alerts that fire, by name."""
        answer = await self.get(self.prometheus, "/api/v1/alerts")
        firing: dict[str, list[dict[str, Any]]] = {}
        for alert in answer["data"]["alerts"]:
            if alert["state"] == "firing":
                firing.setdefault(alert["labels"]["alertname"], []).append(alert)
        return firing

    async def until(self, true: Callable[[], Any], what: str) -> Any:
        """Ask again and again, and return the first answer that is not empty."""
        try:
            async with asyncio.timeout(WITHIN_S):
                # Another process has no event to wait for.
                while not (found := await true()):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        except TimeoutError:
            tails = "\n".join(child.describe("wrote") for child in self.running.values())
            raise AssertionError(f"not within {WITHIN_S:g} s: {what}\n{tails}") from None
        return found

    async def stop(self, name: str) -> None:
        """End one of the processes, as a crash would."""
        await self.running.pop(name).__aexit__(None, None, None)

    async def start(
        self, name: str, address: str, arguments: list[str], *, program: tuple[str, ...] = PILOTLIGHT, **environ: str
    ) -> None:
        child = Child(arguments, self.folder / f"{name}.log", {"PATH": os.environ["PATH"], **environ}, program=program)
        self.running[name] = child
        await child.__aenter__()
        await child.wait_listening(port_of(address), START_S)

    async def start_simulator(self) -> None:
        models = str(self.folder / "models.json")
        await self.start(
            "simulator",
            self.ollama,
            ["simulate", "--listen", self.ollama, "--control", self.control, "--models", models],
        )

    @property
    def front_url(self) -> str:
        """Of nginx; its certificate is for this name."""
        return f"https://localhost:{port_of(self.front)}"

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.secrets / "tls.pem")


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def write_settings(prepared: Path) -> Path:
    """The settings that ``deploy/prepare`` made, with two more keys and an option of the kept model."""
    file = prepared / "settings" / "pilotlight.yaml"
    kept = {'- name: "keeper"': '- {name: "keeper", options: {num_ctx: 2048}, long_prompts: tell}'}
    keys = [
        {"name": "app", "hash": hash_key(KEYS["app"])},
        {"name": "slow", "hash": hash_key(KEYS["slow"]), "rate_per_s": 0.5, "burst": 1},
    ]
    added = "".join(f"  - {json.dumps(key)}\n" for key in keys)
    file.write_text(render(file.read_text(encoding="utf-8"), kept) + added, encoding="utf-8")
    return file


def environment(stack: Stack) -> dict[str, str]:
    """What docker-compose.yml gives the proxy, with addresses of this test, and everything on that has a metric."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    given = {
        name: re.sub(r"\$\{\w+:-([^${}]*)\}", r"\1", value)
        for name, value in compose["services"]["pilotlight"]["environment"].items()
        if name.startswith("PILOTLIGHT_") and name != "PILOTLIGHT_EDGE__ALLOW_ANONYMOUS"
    }
    here = {
        "PILOTLIGHT_LISTEN": stack.proxy,
        "PILOTLIGHT_ADMIN": stack.admin,
        "PILOTLIGHT_UPSTREAM__URL": f"http://{stack.ollama}",
        "PILOTLIGHT_EDGE__TRUSTED_PROXIES": '["127.0.0.1"]',
    }
    assert set(here) < set(given)
    return {
        **given,
        **here,
        "PILOTLIGHT_RESIDENCY__CHECK_EVERY_S": "0.5",
        "PILOTLIGHT_RESIDENCY__RETURN_AFTER_S": "0.5",
        "PILOTLIGHT_SCHEDULER__PARALLEL": "1",
        "PILOTLIGHT_SCHEDULER__MAX_QUEUE": "16",
        "PILOTLIGHT_SCHEDULER__MAX_WAIT_S": "5",
        "PILOTLIGHT_CACHE__MODE": "deterministic",
        "PILOTLIGHT_CACHE__MAX_ENTRIES": "2",
        "PILOTLIGHT_SHARE_IDENTICAL": "true",
        "PILOTLIGHT_EMBED_BATCH": '{"embedder": {"max": 10}}',
        "PILOTLIGHT_FALLBACK": json.dumps([{"url": f"http://{stack.fallback}"}]),
        "PILOTLIGHT_SHUTDOWN__LAME_DUCK_S": "0",
        "PILOTLIGHT_SHUTDOWN__GRACE_S": "1",
    }


def write_prometheus(stack: Stack) -> Path:
    """The committed folder, with addresses, paths, intervals and windows of this test."""
    folder = stack.folder / "prometheus"
    (folder / "rules").mkdir(parents=True)
    replaced = {
        "scrape_interval: 15s": "scrape_interval: 500ms",
        "scrape_timeout: 10s": "scrape_timeout: 500ms",
        "evaluation_interval: 15s": "evaluation_interval: 500ms",
        "/run/secrets/pilotlight_read_key": str(stack.secrets / "read.key"),
        "pilotlight:11436": stack.admin,
        "localhost:9090": stack.prometheus,
        "/etc/prometheus-gpu": str(stack.folder),
    }
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    (folder / "prometheus.yml").write_text(render(text, replaced), encoding="utf-8")
    for rules in (DEPLOY / "prometheus" / "rules").glob("*.yml"):
        rendered = render_rules(rules.read_text(encoding="utf-8"))
        (folder / "rules" / rules.name).write_text(rendered, encoding="utf-8")
    return folder / "prometheus.yml"


def start_prometheus(stack: Stack) -> Awaitable[None]:
    arguments = [
        f"--config.file={write_prometheus(stack)}",
        f"--storage.tsdb.path={stack.folder / 'data'}",
        f"--web.listen-address={stack.prometheus}",
        "--log.level=warn",
    ]
    assert PROMETHEUS is not None
    return stack.start("prometheus", stack.prometheus, arguments, program=(PROMETHEUS,))


@contextlib.asynccontextmanager
async def fronted(stack: Stack) -> AsyncIterator[None]:
    """nginx, with the committed configuration."""
    folder = stack.folder / "edge"
    folder.mkdir()
    port = port_of(stack.front)
    async with nginx(folder, render_committed(folder, port=port, upstream=stack.proxy, secrets=stack.secrets), port):
        yield


@contextlib.asynccontextmanager
async def started(folder: Path) -> AsyncIterator[Stack]:
    """All of it, until the context is left; then none of it."""
    prepared = prepare(folder, "keeper", "second")
    config = write_settings(prepared)
    names = ("ollama", "control", "proxy", "admin", "front", "prometheus", "fallback")
    at = [f"127.0.0.1:{free_port()}" for _ in names]
    models = folder / "models.json"
    models.write_text(json.dumps(MODELS), encoding="utf-8")
    async with aiohttp.ClientSession() as session:
        stack = Stack(folder, *at, session=session, secrets=prepared / "secrets")
        other = ["simulate", "--listen", stack.fallback, "--models", str(models)]
        try:
            await asyncio.gather(
                stack.start_simulator(),
                stack.start("fallback", stack.fallback, other),
                start_prometheus(stack),
                stack.start("proxy", stack.admin, ["serve", "--config", str(config)], **environment(stack)),
            )
            async with fronted(stack):
                yield stack
        finally:
            for name in list(stack.running):
                await stack.stop(name)
