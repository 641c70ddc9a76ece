from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from proxy.bench.workloads.server import Server, ServerError, UnknownModelError
from proxy.simulator import SimulatedOllama
from tests.bench.workloads.scenes import GIB, profile

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def answering(aiohttp_server: Any) -> Callable[..., Any]:
    """A server that gives one answer to everything."""

    async def start(body: str, status: int = 200, **headers: str) -> str:
        async def answer(request: web.Request) -> web.Response:
            return web.Response(text=body, status=status, headers=headers)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        return str((await aiohttp_server(app)).make_url("")).rstrip("/")

    return start


async def test_it_sees_what_is_there_and_what_is_loaded() -> None:
    async with SimulatedOllama(profile()) as simulated, Server("--direct", simulated.url, {}) as server:
        assert await server.version() == "0.24.0"
        assert [row["name"] for row in await server.installed()] == ["one:latest", "two:latest", "vectors:latest"]
        assert await server.loaded("one") is None
        await server.load("one")
        loaded = await server.loaded("ONE")
        assert loaded is not None
        assert (loaded.name, loaded.size_bytes, loaded.vram_bytes) == ("one:latest", 2 * GIB, 2 * GIB)
        assert loaded.context_length == 4096
        # The server's own five minutes, on its own clock.
        assert 290 < loaded.left_s < 310
        assert await server.unload("one")
        assert await server.wait_gone("one")
        assert not await server.wait_loaded("one", 0.05)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("nope", "has no model nope; it has: one:latest, two:latest, vectors:latest"),
        ("vectors", "writes no texts"),
    ],
)
async def test_a_model_that_cannot_be_measured_is_told_with_what_there_is(model: str, said: str) -> None:
    async with SimulatedOllama(profile()) as simulated, Server("--direct", simulated.url, {}) as server:
        await server.describe("one")
        with pytest.raises(UnknownModelError, match=said):
            await server.describe(model)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("<html>", 200, "what is no JSON; is it Ollama"),
        ("[]", 200, "what is no object; is it Ollama"),
        ('{"error": "a key\\n is needed"}', 401, r"GET /api/version answered 401: .*a key"),
    ],
)
async def test_what_is_no_ollama_is_told_in_one_line(
    answering: Callable[..., Any], body: str, status: int, said: str
) -> None:
    url = await answering(body, status)
    async with Server("--via", url, {}) as server:
        with pytest.raises(ServerError, match=said) as caught:
            await server.version()
    assert str(caught.value).startswith(f"--via {url}: ")
    assert "\n" not in str(caught.value)


async def test_nobody_there_is_told_with_the_reason(unused_tcp_port: int) -> None:
    async with Server("--direct", f"http://127.0.0.1:{unused_tcp_port}", {}) as server:
        with pytest.raises(ServerError, match=r"cannot connect: Connection refused$"):
            await server.version()


async def test_a_refused_unload_is_no_error(answering: Callable[..., Any]) -> None:
    async with Server("--via", await answering('{"error": "not from here"}', 403), {}) as server:
        assert not await server.unload("one")


@pytest.mark.parametrize(
    ("expires_at", "left_s"),
    [
        ("2026-11-26T08:00:10.123456789+01:00", 10.123456),
        ("2026-11-26T07:00:10Z", 10.0),
        ("2026-11-26T07:00:00.5-00:00", 0.5),
        ("soon", 0.0),
    ],
)
async def test_the_time_that_is_left_is_counted_on_the_servers_clock(
    answering: Callable[..., Any], expires_at: str, left_s: float
) -> None:
    row = {"name": "one:latest", "expires_at": expires_at}
    url = await answering(json.dumps({"models": [row]}), Date="Thu, 26 Nov 2026 07:00:00 GMT")
    async with Server("--direct", url, {}) as server:
        loaded = await server.loaded("one")
    assert loaded is not None
    assert loaded.left_s == pytest.approx(left_s)


async def test_headers_go_along_with_every_call(aiohttp_server: Any) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"version": request.headers.get("X-API-Key")})

    app = web.Application()
    app.router.add_get("/api/version", answer)
    url = str((await aiohttp_server(app)).make_url("")).rstrip("/")
    async with Server("--via", url, {"X-API-Key": "secret"}) as server:
        assert await server.version() == "secret"
        assert "secret" not in repr(server)
