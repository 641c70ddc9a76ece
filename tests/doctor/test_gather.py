"""What is seen of a simulated Ollama in situations that were prepared, and what it comes to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from proxy.bench.children import free_port
from proxy.doctor.checks import all_findings, examine
from proxy.doctor.gather import Asked, gather
from proxy.settings import Settings
from proxy.simulator import Environment, SimulatedOllama, build_profile
from tests.e2e.pair import paired
from tests.peers import until, upstream
from tests.stage import PS, SHOW, TAGS, VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from proxy.doctor.facts import Observed
    from proxy.doctor.finding import Finding
    from tests.peers import Answering, Seen

MIB = 2**20
TEMPLATE = "{{- range .Messages }}<|{{ .Role }}|>{{ .Content }}<|end|>{{ end }}<|assistant|>"
# 100 MiB, and with 4,096 tokens of context another 4 MiB.
WEIGHTS = {
    "size_bytes": 100 * MIB,
    "resident_bytes": 100 * MIB,
    "bytes_per_context_token": 1024,
    "context_length": 32_768,
    "tokens_per_s": 200,
    "load_s": 0.3,
}


@contextlib.asynccontextmanager
async def simulated(
    *, speed: float = math.inf, checks_host: bool = True, **machine: Any
) -> AsyncIterator[SimulatedOllama]:
    """``a``, ``a-long`` of the same weights, ``b``, and ``e`` which only embeds."""
    weights = {key: dict(WEIGHTS) for key in ("w1", "w2", "w3")}
    weights["w3"]["embedding_only"] = True
    models: list[dict[str, Any]] = [
        {"name": "a", "weights": "w1", "template": TEMPLATE},
        {"name": "b", "weights": "w2", "template": TEMPLATE},
        {"name": "e", "weights": "w3"},
    ]
    profile = build_profile({"machine": machine, "weights": weights, "models": models})
    environment = Environment(checks_host=checks_host)
    async with SimulatedOllama(profile, speed=speed, environment=environment) as server:
        yield server


async def load(server: SimulatedOllama, model: str, **more: Any) -> None:
    path = "/api/embed" if model == "e" else "/api/generate"
    async with (
        aiohttp.ClientSession() as session,
        session.post(server.url + path, json={"model": model, "stream": False, **more}) as reply,
    ):
        assert reply.status == 200, await reply.text()


async def examined(
    url: str,
    *,
    tell: Callable[[str], None] = lambda what: None,
    environ: dict[str, str] | None = None,
    admin: str = "",
    settings: dict[str, Any] | None = None,
    **asked: Any,
) -> tuple[Observed, dict[str, Finding]]:
    """What was seen, and the findings by code."""
    given = {"upstream": {"url": url}, "admin": admin or f"127.0.0.1:{free_port()}", **(settings or {})}
    observed = await gather(Settings.model_validate(given), environ or {}, Asked(**asked), tell)
    return observed, {finding.code: finding for finding in all_findings(examine(observed))}


async def test_a_well_kept_ollama_has_no_finding_and_is_not_touched() -> None:
    said: list[str] = []
    async with simulated(vram_bytes=1024 * MIB, speed=1) as server:
        await load(server, "a", keep_alive=-1, options={"num_ctx": 8192})
        loads = server.loads
        observed, found = await examined(server.url, tell=said.append)
        assert found == {}
        assert (server.loads, server.reloads) == (loads, 0)
    (chat,) = server.requests_for("/api/chat")
    assert b'"num_ctx": 8192' in chat.body
    assert {request.path for request in server.requests[1:]} == {
        "/api/version",
        "/api/ps",
        "/api/tags",
        "/api/show",
        "/api/chat",
    }
    assert observed.direct is not None
    assert observed.direct.measured is not None
    assert any("streaming 32 tokens from a:latest directly (it is loaded" in line for line in said)


async def test_without_a_loaded_model_nothing_is_streamed() -> None:
    async with simulated() as server:
        observed, found = await examined(server.url)
        assert set(found) == {"nothing_resident"}
        assert server.load_records == []
    assert server.requests_for("/api/chat") == []
    assert "--model" in observed.why_no_stream


async def test_a_model_that_only_embeds_is_not_asked_to_write() -> None:
    async with simulated() as server:
        await load(server, "e", input="x", keep_alive=-1)
        _, found = await examined(server.url)
    assert set(found) == {"on_processor"}
    assert server.requests_for("/api/chat") == []


async def test_a_model_that_is_named_is_loaded_and_that_is_said_before() -> None:
    said: list[str] = []
    async with simulated(vram_bytes=1024 * MIB) as server:
        observed, found = await examined(server.url, model="b", tell=said.append)
        assert server.loads == 1
        assert [row.name for row in observed.running or ()] == ["b:latest"]
    assert set(found) == {"unpinned"}
    assert any("this LOADS it" in line for line in said)


async def test_a_stream_is_not_asked_for_where_the_operator_does_not_want_it() -> None:
    async with simulated(vram_bytes=1024 * MIB) as server:
        await load(server, "a", keep_alive=-1)
        observed, found = await examined(server.url, streams=False)
    assert (found, observed.why_no_stream) == ({}, "switched off (--no-stream)")


async def test_a_spill_is_found_with_its_share() -> None:
    async with simulated(vram_bytes=52 * MIB) as server:
        await load(server, "a", keep_alive=-1)
        _, found = await examined(server.url)
    assert found["spilled"].figures == {"size_bytes": 104 * MIB, "vram_bytes": 52 * MIB, "vram_share": 0.5}


async def test_the_keep_alive_is_measured_by_what_the_stream_began_anew() -> None:
    async with simulated(vram_bytes=1024 * MIB, keep_alive_ns=600 * 10**9) as server:
        await load(server, "a")
        _, found = await examined(server.url)
    assert set(found) == {"unpinned"}
    # Both clocks are the same one; a minute is more than this test can take.
    assert 540 < found["unpinned"].figures["keep_alive_s"] <= 601


async def test_drift_is_found_and_our_own_stream_does_not_put_it_right() -> None:
    settings = {"models": [{"name": "a", "options": {"num_ctx": 8192}}]}
    async with simulated(vram_bytes=1024 * MIB) as server:
        await load(server, "a", keep_alive=-1)
        _, found = await examined(server.url, settings=settings)
        assert server.loads == 1
    assert found["context_drift"].figures == {"context_length": 4096, "num_ctx": 8192}


async def test_kept_models_that_do_not_fit_are_found_without_loading_them() -> None:
    settings = {"models": [{"name": "a"}, {"name": "b"}]}
    async with simulated(vram_bytes=150 * MIB) as server:
        await load(server, "a", keep_alive=-1)
        _, found = await examined(server.url, settings=settings, vram_bytes=150 * MIB)
        assert server.loads == 1
    assert set(found) == {"not_resident", "does_not_fit"}
    assert found["does_not_fit"].title == "b does not fit beside a"


async def test_names_that_reload_each_other_are_found() -> None:
    async with simulated(vram_bytes=1024 * MIB) as server:
        await load(server, "a", keep_alive=-1)
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{server.url}/api/create",
                json={"model": "long", "from": "a", "parameters": {"num_ctx": 16_384}, "stream": False},
            ) as reply,
        ):
            assert reply.status == 200
        _, found = await examined(server.url)
    assert set(found) == {"shared_weights"}
    assert "num_ctx 16384" in found["shared_weights"].evidence


async def test_a_server_that_takes_any_host_is_found() -> None:
    async with simulated(checks_host=False) as server:
        _, found = await examined(server.url)
    # The simulated one is a 0.24.0, which one bad request ends.
    assert set(found) == {"open_to_all", "crashing_version", "nothing_resident"}


@pytest.mark.parametrize(
    ("places", "ours", "code"), [(1, 1, ""), (1, 3, "parallel_exceeded"), (3, 1, "parallel_unused"), (4, 4, "")]
)
async def test_how_many_run_at_once_is_measured(places: int, ours: int, code: str) -> None:
    settings = {"scheduler": {"parallel": ours}}
    async with simulated(vram_bytes=1024 * MIB, speed=1, parallel=places) as server:
        await load(server, "a", keep_alive=-1)
        _, found = await examined(server.url, settings=settings, measures=True, tokens=16)
    assert set(found) == ({code} if code else set())
    if code:
        assert found[code].figures["seen"] == places


async def test_what_pushes_a_model_out_is_seen_while_watching() -> None:
    tasks: list[asyncio.Task[None]] = []

    async with simulated(vram_bytes=1024 * MIB, max_loaded=1) as server:

        async def intrude() -> None:
            looks = len(server.requests_for("/api/ps"))
            # The first look of the watch has been answered once there is a second.
            await until(lambda: len(server.requests_for("/api/ps")) > looks + 1)
            await load(server, "e", input="x", keep_alive=-1)

        def tell(what: str) -> None:
            if what.startswith("watching"):
                tasks.append(asyncio.get_running_loop().create_task(intrude()))

        await load(server, "a", keep_alive=-1)
        _, found = await examined(server.url, watch_s=2, tell=tell)
        await tasks[0]
    assert set(found) == {"evicted"}
    assert found["evicted"].title == "a:latest was pushed out by e:latest (embedding model)"


async def test_a_running_pilotlight_is_asked_for_what_it_knows() -> None:
    models = [{"name": "tiny"}, {"name": "ghost"}]
    async with paired(models=models, residency={"check_every_s": 3600}) as pair:
        await until(lambda: pair.proxy.is_ready)
        observed, found = await examined(
            pair.simulated.url, admin=pair.proxy.admin_address, via=f"http://{pair.proxied}", names_admin=True
        )
        assert pair.simulated.reloads == 0
    assert observed.admin is not None
    assert observed.admin.is_there
    assert found["model_failed"].subject == "ghost:latest"
    assert "unpinned" not in found
    assert "hop_buffers" not in found
    assert observed.through is not None
    assert observed.through.measured is not None
    # Asked before the streams, so that what it shows of calls is not our own doing.
    assert [row for row in observed.admin.requests if "endpoint" in row] == []


async def test_reloads_that_pilotlight_counted_are_told() -> None:
    async with paired(models=[{"name": "tiny"}], residency={"check_every_s": 3600}) as pair:
        await until(lambda: pair.proxy.is_ready)
        pair.proxy.metrics.reload("tiny:latest", "options")
        observed, found = await examined(pair.simulated.url, admin=pair.proxy.admin_address)
    assert observed.admin is not None
    assert found["reloads"].figures == {"reloads": 1}


# --- what is no Ollama, or not there


def ollama_with(*fields: str, bodies: dict[str, Any] | None = None) -> Callable[[Seen, Answering], Any]:
    """Answers as an Ollama with one pinned model, with these fields in each head and these bodies for their paths."""
    bodies = {"/api/version": VERSION, "/api/ps": PS, "/api/tags": TAGS, "/api/show": SHOW, **(bodies or {})}

    async def script(seen: Seen, reply: Answering) -> None:
        body = json.dumps(bodies.get(seen.path, {"error": "not here"})).encode()
        status = 403 if seen.header("host") == "doctor.invalid" else 200 if seen.path in bodies else 404
        reply.head(status, "application/json", *fields, f"Content-Length: {len(body)}", chunked=False)
        reply.raw(body)

    return script


@pytest.mark.parametrize(("ahead_s", "found"), [(0, set()), (3600, {"clock_skew"}), (-3600, {"clock_skew"})])
async def test_a_clock_that_is_wrong_is_found(ahead_s: int, found: set[str]) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        await ollama_with(f"Date: {formatdate(time.time() + ahead_s, usegmt=True)}")(seen, reply)

    async with upstream(script) as server:
        _, findings = await examined(server.url, streams=False)
    assert set(findings) == found
    if found:
        assert abs(findings["clock_skew"].figures["least_s"] - ahead_s) < 60


async def test_a_key_is_shown_to_all_but_the_question_who_is_let_in() -> None:
    async with upstream(ollama_with()) as server, upstream(ollama_with()) as front:
        await examined(
            server.url,
            via=front.url,
            admin=front.address,
            headers={"X-API-Key": "secret"},
            streams=False,
        )
    keys = {(seen.header("host") == "doctor.invalid", seen.header("x-api-key")) for seen in server.seen + front.seen}
    assert keys == {(False, "secret"), (True, None)}


async def test_another_web_server_is_no_ollama() -> None:
    async def page(seen: Seen, reply: Answering) -> None:
        reply.whole(b"<html>hello</html>", kind="text/html")

    async with upstream(page) as server:
        _, found = await examined(server.url)
    assert set(found) == {"not_ollama"}


async def test_an_answer_that_makes_no_sense_is_a_finding_and_no_crash() -> None:
    async def broken(seen: Seen, reply: Answering) -> None:
        if seen.path == "/api/version":
            reply.json(VERSION)
        else:
            reply.whole(b"[]", 500)

    async with upstream(broken) as server:
        _, found = await examined(server.url)
    assert set(found) >= {"broken_api"}


async def test_text_of_a_server_cannot_move_the_cursor() -> None:
    row = {"name": "\x1b[2J", "size": 8, "size_vram": 4, "expires_at": "2026-01-01T00:00:00Z"}

    async def hostile(seen: Seen, reply: Answering) -> None:
        await ollama_with(bodies={"/api/version": {"version": "\x1b[2J"}, "/api/ps": {"models": [row]}})(seen, reply)

    async with upstream(hostile) as server:
        observed, found = await examined(server.url, streams=False)
    assert {"spilled", "unpinned"} <= set(found)
    texts = [observed.version, observed.upstream.text, observed.called("\x1b[2J")]
    for finding in found.values():
        texts += [finding.subject, finding.title, finding.evidence, finding.cost, finding.remedy]
    assert [text for text in texts if not text.isprintable()] == []
