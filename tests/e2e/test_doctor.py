"""A real nginx in between: one that buffers is found, one that does not is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.bench.children import free_port
from proxy.doctor.checks import all_findings, examine
from proxy.doctor.gather import Asked, gather
from proxy.settings import Settings
from proxy.simulator import SimulatedOllama, build_profile
from tests.e2e.pair import paired
from tests.nginx import needs_nginx, nginx_with
from tests.peers import until

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from proxy.doctor.finding import Finding

pytestmark = needs_nginx

UNBUFFERED = 'proxy_buffering off; proxy_http_version 1.1; proxy_set_header Connection "";'
# 16 tokens take 0.32 s: slow enough to be told apart on a busy machine.
PROFILE: dict[str, Any] = {
    "machine": {"vram_bytes": 2**30},
    "weights": {"w": {"size_bytes": 2**20, "resident_bytes": 2**20, "load_s": 0.01, "tokens_per_s": 50}},
    "models": [
        {
            "name": "m",
            "weights": "w",
            "template": "{{ range .Messages }}<|{{ .Role }}|>{{ .Content }}{{ end }}<|assistant|>",
        }
    ],
}


def front(folder: Path, to: str, more: str = "") -> AbstractAsyncContextManager[str]:
    """The URL of an nginx that passes everything on."""
    return nginx_with(folder, f"location / {{ proxy_pass {to}; {more} }}")


async def examined(upstream: str, via: str | None = None) -> dict[str, Finding]:
    settings = Settings.model_validate({"upstream": {"url": upstream}, "admin": f"127.0.0.1:{free_port()}"})
    observed = await gather(settings, {}, Asked(via=via, model="m", tokens=16), lambda what: None)
    return {finding.code: finding for finding in all_findings(examine(observed, {"unpinned"}))}


async def test_an_nginx_that_buffers_is_found_with_what_it_costs(tmp_path: Path) -> None:
    async with SimulatedOllama(build_profile(PROFILE)) as ollama, front(tmp_path, ollama.url) as via:
        found = await examined(ollama.url, via)
    assert set(found) == {"hop_buffers"}
    finding = found["hop_buffers"]
    assert "proxy_buffering off" in finding.remedy
    # The first token waited for most of the others to be made.
    assert finding.figures["made_s"] / 2 < finding.figures["held_s"] <= finding.figures["made_s"]


async def test_an_nginx_that_does_not_buffer_is_no_finding(tmp_path: Path) -> None:
    async with SimulatedOllama(build_profile(PROFILE)) as ollama, front(tmp_path, ollama.url, UNBUFFERED) as via:
        assert await examined(ollama.url, via) == {}


async def test_an_nginx_that_is_taken_for_ollama_itself_is_found_too(tmp_path: Path) -> None:
    async with SimulatedOllama(build_profile(PROFILE)) as ollama, front(tmp_path, ollama.url) as url:
        found = await examined(url)
    # It lets any Host in, too: it sends Ollama one of its own.
    assert "upstream_buffers" in found
    assert "nginx" in found["open_to_all"].evidence


async def test_the_remedy_holds_pilotlight_behind_an_nginx_that_buffers_ends_it(tmp_path: Path) -> None:
    async with paired(build_profile(PROFILE), simulator={"speed": 1}, models=[{"name": "m"}]) as pair:
        await until(lambda: pair.proxy.is_ready)
        async with front(tmp_path, f"http://{pair.proxied}") as via:
            assert await examined(pair.simulated.url, via) == {}
